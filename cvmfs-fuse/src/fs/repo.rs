//! One repository as a filesystem.

mod finding;
mod listings;
mod switching;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use cvmfs_core::cache::CacheUsage;
use cvmfs_core::catalog::{Content, EntryKind};
use cvmfs_core::hash::ContentHash;
use cvmfs_core::path::{MAX_NAME_LEN, RepoPath, is_valid_name};
use cvmfs_core::repository::Repository;
use cvmfs_core::revision::Revision;
use parking_lot::Mutex;

use finding::find;

use super::content::ContentTable;
use super::directory::{DirectoryTable, row_before, split_offset};
use super::facts::{attributes_of, entry_attribute};
use super::inode::{Inode, InodeTable};
use super::journal::{Inheritance, Journal};
use super::kept::{KeptCopies, LHASH};
use super::magic::{listed, server_attribute};
use super::ownership::RepoFsOptions;
use super::remote::remote_attribute;
use super::suspects::Suspects;
use super::{
    Attributes, Buffer, DirectoryReplier, Entry, FsError, FsStatistics, Gate, Ino, Opened,
    ROOT_INO, Vfs,
};
use crate::prefetch::Prefetcher;

/// Blocks of `df`, as upstream (spec/filesystem.md section 8).
const STATFS_BLOCK_SIZE: u32 = 512;

/// A [`Vfs`] over one repository.
pub struct RepoFs {
    repository: Arc<Repository>,
    options: RepoFsOptions,
    inodes: InodeTable,
    contents: ContentTable,
    directories: DirectoryTable,
    gate: Arc<Gate>,
    /// The revision before the current one, for requests that overlap with the switch.
    previous: ArcSwapOption<Revision>,
    /// Revisions that a predecessor had bound inodes to.
    ancestors: Mutex<HashMap<ContentHash, Arc<Revision>>>,
    kept: KeptCopies,
    /// Names that the kernel asked for.
    lookups: AtomicU64,
}

impl RepoFs {
    /// Shows a repository.
    pub fn new(repository: Arc<Repository>, options: RepoFsOptions) -> Self {
        Self {
            inodes: InodeTable::new(repository.fqrn().as_str()).bounded(options.most_inodes),
            contents: ContentTable::new(
                repository.descriptors().objects,
                repository.fetches_ahead().then(|| Prefetcher::new(&repository)),
            ),
            directories: DirectoryTable::default(),
            gate: Arc::default(),
            previous: ArcSwapOption::empty(),
            ancestors: Mutex::default(),
            kept: KeptCopies::default(),
            lookups: AtomicU64::new(0),
            repository,
            options,
        }
    }

    /// Shows a repository to a successor; `inheritance` is what a predecessor left, if there was
    /// one. What the next one needs goes to the journal, if there may be one.
    pub fn inheriting(
        repository: Arc<Repository>,
        options: RepoFsOptions,
        journal: Option<Arc<Journal>>,
        inheritance: Inheritance,
        suspects: Option<Suspects>,
    ) -> Self {
        super::magic::begin();
        let mut fs = Self::new(repository, options);
        if let Some(suspects) = suspects {
            fs.contents = fs.contents.with_suspects(suspects);
        }
        if let Some(journal) = &journal {
            journal.current(fs.repository.current().root_hash());
        }
        fs.directories = DirectoryTable::of_generation(inheritance.generation);
        let fqrn = fs.repository.fqrn().as_str();
        let most = fs.options.most_inodes;
        fs.inodes = InodeTable::new(fqrn).bounded(most).with_journal(journal, inheritance.inodes);
        fs
    }

    /// Shares the gate of a mount that has several repositories.
    pub fn behind(mut self, gate: Arc<Gate>) -> Self {
        self.gate = gate;
        self
    }

    /// Returns the repository.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Returns what another one of this repository needs to take its place; `None` while that
    /// could be noticed: a directory is open, or something of an earlier revision is in use.
    pub fn heritage(&self) -> Option<Inheritance> {
        if !self.directories.is_empty() {
            return None;
        }
        let inodes = self.inodes.heritage()?;
        let current = Some(self.repository.current().root_hash());
        let generation = self.directories.generation();
        Some(Inheritance { current, inodes, generation, slot: None, is_closed: true })
    }

    /// Returns the journal, for the supervisor.
    pub fn journal(&self) -> Option<&Arc<Journal>> {
        self.inodes.journal()
    }

    /// Returns what the kernel is asked to let go of inodes by.
    pub fn inodes(&self) -> &InodeTable {
        &self.inodes
    }

    /// Returns how many inodes the kernel knows, the root not counted.
    pub fn known_inodes(&self) -> usize {
        self.inodes.len()
    }

    /// Returns the paths that the kernel knows, some of them if there are more.
    pub fn known_paths(&self, most: usize) -> Vec<RepoPath> {
        self.inodes.paths(most)
    }

    fn entry(&self, inode: &Inode) -> Entry {
        let attributes = Attributes::of(inode.ino, &inode.entry);
        Entry { attributes: self.options.ownership.shown(attributes), ttl: self.options.ttl }
    }
}

impl Vfs for RepoFs {
    async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Entry, FsError> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        self.must_be_shown()?;
        let parent = self.inode(parent).await?;
        let revision = self.revision_below(&parent);
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
        let inode = self.inodes.remember(&path, &entry, parent.earlier.as_ref());
        Ok(self.entry(&inode))
    }

    fn forget(&self, ino: Ino, count: u64) {
        if self.inodes.forget(ino, count) {
            self.contents.close(ino);
        }
    }

    async fn getattr(&self, ino: Ino) -> Result<Entry, FsError> {
        let inode = self.inode(ino).await?;
        Ok(self.entry(&inode))
    }

    async fn readlink(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let inode = self.inode(ino).await?;
        if inode.entry.kind != EntryKind::Symlink {
            return Err(FsError::NotALink(inode.path.clone()));
        }
        Ok(inode.entry.symlink.to_vec())
    }

    async fn open(&self, ino: Ino, caller: u32) -> Result<Opened, FsError> {
        let inode = self.inode(ino).await?;
        if inode.entry.kind == EntryKind::Directory {
            return Err(FsError::IsADirectory(inode.path.clone()));
        }
        let revisions = self.revisions_of(&inode);
        let whole =
            self.contents.open(&inode, caller, self.repository.fetcher(), &revisions).await?;
        // The number stands for this very content, so pages of earlier opens are always right.
        Ok(Opened { handle: 0, keep_cache: true, direct_io: inode.entry.direct_io, whole })
    }

    async fn read(&self, ino: Ino, caller: u32, offset: u64, size: u32) -> Result<Buffer, FsError> {
        let inode = self.inode(ino).await?;
        let revisions = self.revisions_of(&inode);
        let span = (offset, size);
        self.contents.read(&inode, caller, span, self.repository.fetcher(), &revisions).await
    }

    fn release(&self, _ino: Ino, _handle: u64) {
        // Content stays open until the kernel forgets the inode, or others push it out.
    }

    async fn opendir(&self, ino: Ino) -> Result<u64, FsError> {
        let reading = self.reading_of(ino, None).await?;
        // A catalog that cannot be had is told here.
        self.page(ino, &reading, 0).await?;
        Ok(self.directories.insert(reading))
    }

    async fn readdir<R: DirectoryReplier>(
        &self,
        ino: Ino,
        handle: u64,
        offset: u64,
        replier: &mut R,
    ) -> Result<(), FsError> {
        let begun = self.gate.epoch();
        let (tag, position) = split_offset(offset);
        let is_start = position == 0;
        let reading = match self.directories.get(handle) {
            // Read from the start after a switch: the new listing, which the kernel may keep.
            Some(reading) if reading.epoch == begun || !is_start => reading,
            // Or without a handle, or under one of a predecessor: the order is that of the same catalog.
            _ => {
                let reading = self.reading_of(ino, (!is_start).then_some(tag)).await?;
                let reading = Arc::new(reading);
                self.directories.replace(handle, Arc::clone(&reading));
                reading
            }
        };
        let page = self.page(ino, &reading, row_before(position)).await?;
        self.gate.reply(begun, |same| {
            let is_current = same && (reading.epoch == begun || reading.is_earlier);
            self.fill(ino, &reading, &page, offset, is_current, replier);
            replier.finish();
        });
        Ok(())
    }

    fn releasedir(&self, _ino: Ino, handle: u64) {
        self.directories.remove(handle);
    }

    async fn statfs(&self, _ino: Ino) -> Result<FsStatistics, FsError> {
        let entries = self.repository.current().statistics();
        let loaded = entries.loaded_entries;
        Ok(statistics(self.repository.cache().usage(), entries.total_entries, loaded))
    }

    async fn getxattr(&self, ino: Ino, name: &[u8], group: u32) -> Result<Vec<u8>, FsError> {
        if !self.allows_attribute(ino, name, group) {
            return Err(FsError::NoSuchAttribute);
        }
        // Ours: asking for it stores what was learnt, for 'profile record'.
        if name == b"user.profile_saved" {
            let learner = self.contents.learner().ok_or(FsError::NoSuchAttribute)?;
            // Waits for the disk and for the lock of the record, so not on the kernel's worker.
            let saved = tokio::task::spawn_blocking(move || learner.save_now()).await;
            let (segments, objects) = saved.map_err(|_| FsError::NoSuchAttribute)?;
            return Ok(format!("{segments} {objects}").into_bytes());
        }
        let inode = self.inode(ino).await?;
        if name == LHASH.as_bytes() {
            let Content::Whole(id) = inode.entry.content else {
                return Err(FsError::NoSuchAttribute);
            };
            let (text, is_damaged) = self.kept.lhash(self.repository.cache(), id).await;
            if is_damaged {
                // Whoever has it open would go on with it.
                self.contents.close(ino);
            }
            return Ok(text.into_bytes());
        }
        if let Some(value) = entry_attribute(&inode, &self.revisions_of(&inode), name).await? {
            return Ok(value);
        }
        if let Some(value) = remote_attribute(&self.repository, &inode, name).await {
            return Ok(value);
        }
        if !inode.entry.has_xattrs {
            return Err(FsError::NoSuchAttribute);
        }
        let xattrs = attributes_of(&inode, &self.revisions_of(&inode)).await?;
        xattrs.get(name).map(<[u8]>::to_vec).ok_or(FsError::NoSuchAttribute)
    }

    async fn listxattr(&self, ino: Ino, group: u32) -> Result<Vec<u8>, FsError> {
        let inode = self.inode(ino).await?;
        let mut names = Vec::new();
        if inode.entry.has_xattrs {
            let found = attributes_of(&inode, &self.revisions_of(&inode)).await?;
            names.extend(found.iter().map(|(name, _)| name.to_vec()));
        }
        if self.options.exposure.visibility.lists(ino == ROOT_INO) {
            for name in listed(&self.repository, &inode.entry) {
                if !names.iter().any(|known| known == name.as_bytes()) {
                    names.push(name.as_bytes().to_vec());
                }
            }
        }
        // What cannot be read is not listed, for those who copy all that is.
        names.retain(|name| self.options.exposure.allows(name, group));
        names.iter_mut().for_each(|name| name.push(0));
        Ok(names.concat())
    }

    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn server_attribute(&self, _ino: Ino, name: &[u8]) -> Option<Vec<u8>> {
        match name {
            // Ours: what kernel-cached names are worth is seen by this standing still.
            b"user.nlookup" => Some(self.lookups.load(Ordering::Relaxed).to_string().into_bytes()),
            _ => server_attribute(&self.repository, name),
        }
    }

    fn allows_attribute(&self, _ino: Ino, name: &[u8], group: u32) -> bool {
        self.options.exposure.allows(name, group)
    }

    fn shown_path(&self, ino: Ino) -> Option<String> {
        if ino == ROOT_INO {
            return Some(String::new());
        }
        let inode = self.inodes.get(ino)?;
        Some(String::from_utf8_lossy(inode.path.as_bytes()).into_owned())
    }

    fn negative_ttl(&self, _parent: Ino) -> Duration {
        self.options.negative_ttl
    }
}

/// Returns what `df` shows: how full the cache is, and how many entries are known.
pub(super) fn statistics(usage: CacheUsage, entries: u64, loaded: u64) -> FsStatistics {
    let blocks = |bytes: u64| bytes / u64::from(STATFS_BLOCK_SIZE);
    FsStatistics {
        block_size: STATFS_BLOCK_SIZE,
        blocks: blocks(usage.limit),
        free_blocks: blocks(usage.limit.saturating_sub(usage.used)),
        files: entries,
        free_files: entries.saturating_sub(loaded),
        name_len: u32::try_from(MAX_NAME_LEN).unwrap_or(u32::MAX),
    }
}
