//! One repository as a filesystem.

use std::sync::Arc;
use std::time::Duration;

use cvmfs_core::catalog::{DirectoryEntry, EntryKind};
use cvmfs_core::path::{MAX_NAME_LEN, RepoPath, is_valid_name};
use cvmfs_core::repository::Repository;
use cvmfs_core::revision::{Revision, RevisionError};

use super::content::ContentTable;
use super::directory::{DOTS, DirectoryTable, Listing, Position, position};
use super::inode::{Inode, InodeTable};
use super::{
    Attributes, DirectoryReplier, Entry, FsError, FsStatistics, Ino, ListedEntry, Opened, ROOT_INO,
    Vfs,
};

/// Blocks of `df`, as upstream (spec/filesystem.md section 8).
const STATFS_BLOCK_SIZE: u32 = 512;
/// Longest link target that Linux follows: PATH_MAX with its NUL.
const MAX_TARGET_LEN: usize = 4095;

/// How a repository is shown.
#[derive(Debug, Clone)]
pub struct RepoFsOptions {
    /// How long the kernel may keep names and attributes. The revision of a mount does not change
    /// yet, so this only bounds what a lost invalidation could do later.
    pub ttl: Duration,
    /// How long the kernel may remember absences.
    pub negative_ttl: Duration,
    /// Descriptor limit of the process.
    pub descriptors: u64,
}

impl Default for RepoFsOptions {
    fn default() -> Self {
        let descriptors =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
                .map_or(1024, |(soft, _)| soft);
        let hour = Duration::from_secs(3600);
        Self { ttl: hour, negative_ttl: hour, descriptors }
    }
}

/// A [`Vfs`] over one repository.
pub struct RepoFs {
    repository: Arc<Repository>,
    options: RepoFsOptions,
    inodes: InodeTable,
    contents: ContentTable,
    directories: DirectoryTable,
}

impl RepoFs {
    /// Shows a repository.
    pub fn new(repository: Arc<Repository>, options: RepoFsOptions) -> Self {
        Self {
            inodes: InodeTable::new(repository.fqrn().as_str()),
            contents: ContentTable::new(options.descriptors),
            directories: DirectoryTable::default(),
            repository,
            options,
        }
    }

    /// Finds an inode that the kernel names. The root is known without a lookup.
    async fn inode(&self, ino: Ino, revision: &Revision) -> Result<Arc<Inode>, FsError> {
        if ino != ROOT_INO {
            return self.inodes.get(ino).ok_or(FsError::StaleInode(ino));
        }
        let path = RepoPath::root();
        let entry = find(revision, &path).await?;
        Ok(self.inodes.remember(&path, &entry))
    }

    fn entry(&self, inode: &Inode) -> Entry {
        Entry { attributes: Attributes::of(inode.ino, &inode.entry), ttl: self.options.ttl }
    }

    async fn listing(&self, ino: Ino, revision: &Revision) -> Result<Listing, FsError> {
        let inode = self.inode(ino, revision).await?;
        if inode.entry.kind != EntryKind::Directory {
            return Err(FsError::NotADirectory(inode.path.clone()));
        }
        let path = inode.path.clone();
        let entries = revision
            .list(&path)
            .await
            .map_err(|source| FsError::Revision { path: path.clone(), source })?;
        Ok(Listing { path, entries })
    }

    /// Offers one entry to the replier; true when it is full.
    fn offer<R: DirectoryReplier>(
        &self,
        listing: &Listing,
        index: usize,
        offset: u64,
        replier: &mut R,
    ) -> bool {
        let entry = &listing.entries[index];
        let path = listing.path.join(&entry.name);
        let (name, kind) = (&*entry.name, entry.kind);
        if !replier.wants_attributes() {
            let ino = self.inodes.number_of(&path, entry);
            return replier.add(ListedEntry { name, offset, ino, kind, entry: None });
        }
        let inode = self.inodes.remember(&path, entry);
        let full = replier.add(ListedEntry {
            name,
            offset,
            ino: inode.ino,
            kind,
            entry: Some(&self.entry(&inode)),
        });
        if full {
            // Not taken, so the kernel will not give this reference back.
            self.forget(inode.ino, 1);
        }
        full
    }
}

async fn find(revision: &Revision, path: &RepoPath) -> Result<Arc<DirectoryEntry>, FsError> {
    let failed = |source| FsError::Revision { path: path.clone(), source };
    revision.lookup(path).await.map_err(failed)?.ok_or(FsError::NotFound)
}

impl Vfs for RepoFs {
    async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Entry, FsError> {
        let revision = self.repository.current();
        let parent = self.inode(parent, &revision).await?;
        if parent.entry.kind != EntryKind::Directory {
            return Err(FsError::NotADirectory(parent.path.clone()));
        }
        if name.len() > MAX_NAME_LEN {
            return Err(FsError::NameTooLong(name.len()));
        }
        let path = match name {
            b"." => parent.path.clone(),
            b".." => parent.path.parent().unwrap_or_else(RepoPath::root),
            _ if !is_valid_name(name) => return Err(FsError::NotFound),
            _ => parent.path.join(name),
        };
        let entry = find(&revision, &path).await?;
        let inode = self.inodes.remember(&path, &entry);
        Ok(self.entry(&inode))
    }

    fn forget(&self, ino: Ino, count: u64) {
        if let Some(inode) = self.inodes.forget(ino, count) {
            self.contents.close(inode.ino);
        }
    }

    async fn getattr(&self, ino: Ino) -> Result<Entry, FsError> {
        let inode = self.inode(ino, &self.repository.current()).await?;
        Ok(self.entry(&inode))
    }

    async fn readlink(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let inode = self.inode(ino, &self.repository.current()).await?;
        if inode.entry.kind != EntryKind::Symlink {
            return Err(FsError::NotALink(inode.path.clone()));
        }
        let target = inode.entry.symlink.to_vec();
        if target.len() > MAX_TARGET_LEN {
            return Err(FsError::TargetTooLong { path: inode.path.clone(), len: target.len() });
        }
        Ok(target)
    }

    async fn open(&self, ino: Ino) -> Result<Opened, FsError> {
        let revision = self.repository.current();
        let inode = self.inode(ino, &revision).await?;
        if inode.entry.kind == EntryKind::Directory {
            return Err(FsError::IsADirectory(inode.path.clone()));
        }
        self.contents.open(&inode, self.repository.fetcher(), &revision).await?;
        // The number stands for this very content, so pages of earlier opens are always right.
        Ok(Opened { handle: 0, keep_cache: true, direct_io: inode.entry.direct_io })
    }

    async fn read(
        &self,
        ino: Ino,
        _handle: u64,
        offset: u64,
        size: u32,
    ) -> Result<Vec<u8>, FsError> {
        let revision = self.repository.current();
        let inode = self.inode(ino, &revision).await?;
        self.contents.read(&inode, offset, size, self.repository.fetcher(), &revision).await
    }

    fn release(&self, _ino: Ino, _handle: u64) {
        // Content stays open until the kernel forgets the inode, or others push it out.
    }

    async fn opendir(&self, ino: Ino) -> Result<u64, FsError> {
        let listing = self.listing(ino, &self.repository.current()).await?;
        Ok(self.directories.insert(listing))
    }

    async fn readdir<R: DirectoryReplier>(
        &self,
        ino: Ino,
        handle: u64,
        offset: u64,
        replier: &mut R,
    ) -> Result<(), FsError> {
        let listing = match self.directories.get(handle) {
            Some(listing) => listing,
            // A predecessor opened it: list again, the order is that of the same catalog.
            None => Arc::new(self.listing(ino, &self.repository.current()).await?),
        };
        let kind = EntryKind::Directory;
        // The offset comes from the kernel and may be any number.
        let end = listing.entries.len() as u64 + DOTS;
        for at in offset..end {
            let next = at + 1;
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
                Position::Entry(index) => self.offer(&listing, index, next, replier),
            };
            if full {
                return Ok(());
            }
        }
        Ok(())
    }

    fn releasedir(&self, _ino: Ino, handle: u64) {
        self.directories.remove(handle);
    }

    async fn statfs(&self) -> Result<FsStatistics, FsError> {
        let usage = self.repository.cache().usage();
        let entries = self.repository.current().statistics();
        let blocks = |bytes: u64| bytes / u64::from(STATFS_BLOCK_SIZE);
        Ok(FsStatistics {
            block_size: STATFS_BLOCK_SIZE,
            blocks: blocks(usage.limit),
            free_blocks: blocks(usage.limit.saturating_sub(usage.used)),
            files: entries.total_entries,
            free_files: entries.total_entries.saturating_sub(entries.loaded_entries),
            name_len: u32::try_from(MAX_NAME_LEN).unwrap_or(u32::MAX),
        })
    }

    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        let revision = self.repository.current();
        let inode = self.inode(ino, &revision).await?;
        if !inode.entry.has_xattrs {
            return Err(FsError::NoSuchAttribute);
        }
        let xattrs = attributes_of(&revision, &inode.path).await?;
        xattrs.get(name).map(<[u8]>::to_vec).ok_or(FsError::NoSuchAttribute)
    }

    async fn listxattr(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let revision = self.repository.current();
        let inode = self.inode(ino, &revision).await?;
        let mut names = Vec::new();
        if inode.entry.has_xattrs {
            for (name, _) in attributes_of(&revision, &inode.path).await?.iter() {
                names.extend_from_slice(name);
                names.push(0);
            }
        }
        Ok(names)
    }

    fn negative_ttl(&self) -> Duration {
        self.options.negative_ttl
    }
}

async fn attributes_of(
    revision: &Revision,
    path: &RepoPath,
) -> Result<cvmfs_core::catalog::xattr::Xattrs, FsError> {
    let failed = |source: RevisionError| FsError::Revision { path: path.clone(), source };
    revision.xattrs(path).await.map_err(failed)
}
