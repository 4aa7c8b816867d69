//! Directories as the kernel reads them.

use std::sync::Arc;
use std::time::Duration;

use cvmfs_core::catalog::{DirectoryEntry, EntryKind};
use cvmfs_core::revision::RevisionError;
use futures_util::FutureExt as _;

use super::RepoFs;
use crate::fs::directory::{DOTS, Reading, offset_of, row_before, split_offset, tag_of};
use crate::fs::pages::Page;
use crate::fs::{DirectoryReplier, FsError, Ino, ListedEntry, ROOT_INO, Vfs as _};

impl RepoFs {
    /// Lets a reader begin with the revision of that tag, if that is still at hand; else with the present one.
    pub(super) async fn reading_of(&self, ino: Ino, tag: Option<u64>) -> Result<Reading, FsError> {
        let epoch = self.gate.epoch();
        self.must_be_shown()?;
        let inode = self.inode(ino).await?;
        if inode.entry.kind != EntryKind::Directory {
            return Err(FsError::NotADirectory(inode.path.clone()));
        }
        let path = inode.path.clone();
        let mut revision = self.revision_below(&inode);
        let mut is_earlier = inode.earlier.is_some();
        if let Some(tag) = tag.filter(|tag| *tag != u64::from(tag_of(&revision))) {
            let previous = self.previous.load_full();
            let previous = previous.filter(|previous| tag == u64::from(tag_of(previous)));
            if let Some(known) = previous.or_else(|| self.directories.pages.revision((ino, tag))) {
                (revision, is_earlier) = (known, true);
            }
        }
        Ok(Reading { path, epoch, revision, is_earlier })
    }

    /// Returns the first page that has an entry behind a row, or is the last one.
    pub(super) async fn page(
        &self,
        ino: Ino,
        reading: &Reading,
        mut row: u32,
    ) -> Result<Arc<Page>, FsError> {
        let directory = (ino, u64::from(reading.tag()));
        loop {
            let make = || {
                let (revision, path) = (Arc::clone(&reading.revision), reading.path.clone());
                async move {
                    let page = revision.page(&path, row).await?;
                    Ok::<_, RevisionError>(Arc::new(Page::new(row, page, revision)))
                }
                .boxed()
            };
            let page = self
                .directories
                .pages
                .get(directory, row, make)
                .await
                .map_err(|source| FsError::Revision { path: reading.path.clone(), source })?;
            match page.next {
                // Nothing but hidden entries and impossible rows.
                Some(next) if page.behind(row).is_empty() => row = next,
                _ => return Ok(page),
            }
            // Others are answered between two pages.
            tokio::task::yield_now().await;
        }
    }

    /// Offers one entry to the replier; true when it is full.
    fn offer<R: DirectoryReplier>(
        &self,
        reading: &Reading,
        entry: &Arc<DirectoryEntry>,
        offset: u64,
        is_current: bool,
        replier: &mut R,
    ) -> bool {
        let path = reading.path.join(&entry.name);
        let (name, kind) = (&*entry.name, entry.kind);
        if !replier.wants_attributes() {
            let ino = self.inodes.number_of(&path, entry);
            return replier.add(ListedEntry { name, offset, ino, kind, entry: None });
        }
        // What an old listing names is of its revision, and not for the kernel to keep: it will ask.
        let earlier = (reading.is_earlier || !is_current).then_some(&reading.revision);
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

    /// Hands out entries of a page from `offset` on until the replier is full.
    pub(super) fn fill<R: DirectoryReplier>(
        &self,
        ino: Ino,
        reading: &Reading,
        page: &Page,
        offset: u64,
        is_current: bool,
        replier: &mut R,
    ) {
        let kind = EntryKind::Directory;
        let tag = reading.tag();
        let (_, start) = split_offset(offset);
        for at in start..DOTS {
            let next = offset_of(tag, at + 1);
            let (name, number): (&[u8], _) = match (at, reading.path.parent()) {
                (0, _) => (b".", ino),
                (_, None) => (b"..", ROOT_INO),
                (_, Some(parent)) => (b"..", self.inodes.number_of_directory(&parent)),
            };
            let dots = ListedEntry { name, offset: next, ino: number, kind, entry: None };
            if replier.add(dots) {
                return;
            }
        }
        for (row, entry) in page.behind(row_before(start)) {
            let next = offset_of(tag, u64::from(*row) + DOTS);
            if self.offer(reading, entry, next, is_current, replier) {
                return;
            }
        }
    }
}
