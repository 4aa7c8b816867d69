//! Directories as the kernel reads them.

use std::time::Duration;

use cvmfs_core::catalog::EntryKind;

use super::RepoFs;
use crate::fs::directory::{DOTS, Listing, Position, offset_of, position, split_offset, tag_of};
use crate::fs::{DirectoryReplier, FsError, Ino, ListedEntry, ROOT_INO, Vfs as _};

impl RepoFs {
    pub(super) async fn listing(&self, ino: Ino) -> Result<Listing, FsError> {
        self.listing_of(ino, None).await
    }

    /// Lists a directory in the revision with that tag, if that is still at hand; else as it is
    /// now.
    pub(super) async fn listing_of(&self, ino: Ino, tag: Option<u64>) -> Result<Listing, FsError> {
        let epoch = self.gate.epoch();
        self.must_be_shown()?;
        let inode = self.inode(ino).await?;
        if inode.entry.kind != EntryKind::Directory {
            return Err(FsError::NotADirectory(inode.path.clone()));
        }
        let path = inode.path.clone();
        let mut revision = self.revision_below(&inode);
        let mut is_earlier = inode.earlier.is_some();
        if let (Some(tag), Some(previous)) = (tag, self.previous.load_full())
            && tag == u64::from(tag_of(&previous))
            && tag != u64::from(tag_of(&revision))
        {
            (revision, is_earlier) = (previous, true);
        }
        let entries = revision
            .list(&path)
            .await
            .map_err(|source| FsError::Revision { path: path.clone(), source })?;
        Ok(Listing { path, entries, epoch, revision, is_earlier })
    }

    /// Offers one entry to the replier; true when it is full.
    fn offer<R: DirectoryReplier>(
        &self,
        listing: &Listing,
        index: usize,
        offset: u64,
        is_current: bool,
        replier: &mut R,
    ) -> bool {
        let entry = &listing.entries[index];
        let path = listing.path.join(&entry.name);
        let (name, kind) = (&*entry.name, entry.kind);
        if !replier.wants_attributes() {
            let ino = self.inodes.number_of(&path, entry);
            return replier.add(ListedEntry { name, offset, ino, kind, entry: None });
        }
        // What an old listing names is of its revision, and not for the kernel to keep: it will ask.
        let earlier = (listing.is_earlier || !is_current).then_some(&listing.revision);
        let inode = self.inodes.remember(&path, entry, earlier);
        let mut known = self.entry(&inode);
        if !is_current {
            known.ttl = Duration::ZERO;
        }
        let full =
            replier.add(ListedEntry { name, offset, ino: inode.ino, kind, entry: Some(&known) });
        if full {
            // Not taken, so the kernel will not give this reference back.
            self.forget(inode.ino, 1);
        }
        full
    }

    /// Hands out entries from `offset` until the replier is full.
    pub(super) fn fill<R: DirectoryReplier>(
        &self,
        ino: Ino,
        listing: &Listing,
        offset: u64,
        is_current: bool,
        replier: &mut R,
    ) {
        let kind = EntryKind::Directory;
        let (tag, end) = (listing.tag(), listing.entries.len() as u64 + DOTS);
        let (_, start) = split_offset(offset);
        for at in start..end {
            let next = offset_of(tag, at + 1);
            let full = match position(at) {
                Position::This => {
                    replier.add(ListedEntry { name: b".", offset: next, ino, kind, entry: None })
                }
                Position::Parent => {
                    let ino = match listing.path.parent() {
                        None => ROOT_INO,
                        Some(parent) => self.inodes.number_of_directory(&parent),
                    };
                    replier.add(ListedEntry { name: b"..", offset: next, ino, kind, entry: None })
                }
                Position::Entry(index) => self.offer(listing, index, next, is_current, replier),
            };
            if full {
                return;
            }
        }
    }
}
