//! Inode numbers: computed, not allocated. One number stands for one version of one content.
//!
//! A number is the start of a BLAKE3 hash over the repository and
//!
//! - for a directory: its path (a directory stays itself over revisions, its names change);
//! - for a member of a hard-link group: the whole row, which names group and catalog, but not the
//!   path, so that all links share one number, and nothing else does;
//! - for everything else: the path and the whole row, content included.
//!
//! So nothing about a non-directory inode ever changes, and what the kernel keeps of it (pages,
//! attributes) is never stale; an unchanged file keeps its number over revisions, remounts,
//! crashes and machines; and a process that takes over a live mount finds an inode by scanning the
//! rows of the catalogs that were loaded, with nothing else recorded. The price: numbers use more than
//! 32 bits, so a 32-bit program without large-file support gets EOVERFLOW from `stat`, as on XFS.
//! The 12 bits above [`NUMBER_BITS`] stay free for the repository, where a mount has several
//! ([`super::root`]).
//!
//! Two live entries with one number are told apart by 128 bits of the hash; the later one takes
//! the next number of a fixed sequence.
//!
//! The kernel decides how many inodes it knows, and is asked to let go of some above a limit
//! ([`limit`]). Rows are kept for those used last ([`MAX_RECENT`]) and for directories; of the others
//! the path stays, by which the row is found again when it is asked for ([`InodeTable::resting`]).

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use cvmfs_core::catalog::{DirectoryEntry, EntryKind};
use cvmfs_core::path::RepoPath;
use cvmfs_core::revision::Revision;
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::limit::Limit;
use self::rows::RecentRows;
use self::slot::{Known, Slot};
use super::journal::{Heir, Journal};
use super::{FsError, Ino, ROOT_INO};

mod heirs;
pub mod limit;
mod revisions;
mod rows;
mod slot;

/// Bits of a number within its repository.
pub const NUMBER_BITS: u32 = 52;
/// Numbers up to here are special to kernels, tools and upstream.
const LAST_RESERVED: Ino = 255;
/// Inodes whose rows are kept, some 7 MiB; more files than a large job has in use.
const MAX_RECENT: NonZeroUsize = NonZeroUsize::new(16 * 1024).expect("not zero");

type Identity = [u8; 16];
type Numbering = fn(&Identity, u32) -> Ino;

/// An entry that the kernel knows.
#[derive(Debug)]
pub struct Inode {
    /// Its number.
    pub ino: Ino,
    /// A path that leads to it; for hard links the first one that was looked up.
    pub path: RepoPath,
    /// The row.
    pub entry: Arc<DirectoryEntry>,
    /// The revision that it belongs to, if the current one does not have it any more.
    pub earlier: Option<Arc<Revision>>,
}

impl Inode {
    /// Returns the one of some revisions that has this very entry, not only its path: what a path
    /// leads to elsewhere must never be taken for the content of this inode.
    pub async fn home<'a>(
        &self,
        revisions: &'a [Arc<Revision>],
    ) -> Result<&'a Arc<Revision>, FsError> {
        for revision in revisions {
            let found = revision
                .lookup(&self.path)
                .await
                .map_err(|source| FsError::Revision { path: self.path.clone(), source })?;
            if found.is_some_and(|found| found.identity == self.entry.identity) {
                return Ok(revision);
            }
        }
        Err(FsError::Broken { path: self.path.clone(), reason: "its revision is gone" })
    }
}

/// An inode whose row is not kept.
#[derive(Debug)]
pub struct Resting {
    /// A path that leads to it.
    pub path: RepoPath,
    /// The revision that it belongs to, if the current one does not have it any more.
    pub earlier: Option<Arc<Revision>>,
}

#[derive(Debug)]
struct Table {
    slots: HashMap<Ino, Slot>,
    /// Those of files that were used last.
    recent: RecentRows,
    limit: Limit,
}

impl Table {
    /// Returns an inode whose row is kept, and counts that as a use.
    fn kept(&mut self, ino: Ino) -> Option<Arc<Inode>> {
        let slot = self.slots.get_mut(&ino)?;
        slot.round = self.limit.round();
        match &slot.known {
            Known::Directory(inode) => Some(Arc::clone(inode)),
            Known::Other { .. } => self.recent.get(ino).cloned(),
        }
    }

    /// Keeps the row of a file that is in the table; returns what must be freed.
    #[must_use = "freed outside of the lock"]
    fn keep(&mut self, inode: &Arc<Inode>) -> Vec<Arc<Inode>> {
        match inode.entry.kind {
            EntryKind::Directory => Vec::new(),
            _ => self.recent.push(inode),
        }
    }
}

/// All inodes that the kernel holds references to.
pub struct InodeTable {
    fqrn: String,
    numbering: Numbering,
    table: Mutex<Table>,
    /// Written before the kernel hears of an inode; `None` where nobody would succeed us.
    journal: Option<Arc<Journal>>,
    /// Inodes of a predecessor that nobody asked for yet.
    heirs: Mutex<HashMap<Ino, Heir>>,
    /// Rung when the kernel shall let go of some.
    crowded: Arc<Notify>,
}

impl InodeTable {
    /// Makes an empty table for a repository.
    pub fn new(fqrn: &str) -> Self {
        Self::with(fqrn, number, MAX_RECENT)
    }

    fn with(fqrn: &str, numbering: Numbering, recent: NonZeroUsize) -> Self {
        let recent = RecentRows::new(recent);
        let table = Mutex::new(Table { slots: HashMap::new(), recent, limit: Limit::new(None) });
        let (heirs, crowded) = (Mutex::default(), Arc::default());
        Self { fqrn: fqrn.to_owned(), numbering, table, journal: None, heirs, crowded }
    }

    /// Lets the kernel know so many; `None` for any number.
    pub fn bounded(mut self, most: Option<usize>) -> Self {
        self.table.get_mut().limit = Limit::new(most);
        self
    }

    /// Keeps a journal, and knows what a predecessor left.
    pub fn with_journal(
        mut self,
        journal: Option<Arc<Journal>>,
        heirs: HashMap<Ino, Heir>,
    ) -> Self {
        self.journal = journal;
        self.heirs = Mutex::new(heirs);
        self
    }

    /// Returns the journal.
    pub fn journal(&self) -> Option<&Arc<Journal>> {
        self.journal.as_ref()
    }

    /// Returns the number of an entry without counting a reference.
    pub fn number_of(&self, path: &RepoPath, entry: &DirectoryEntry) -> Ino {
        if path.is_root() {
            return ROOT_INO;
        }
        let identity = self.identify(path, entry);
        self.place(&self.table.lock(), &identity)
    }

    /// Returns the number of the directory at a path; nothing else about it matters.
    pub fn number_of_directory(&self, path: &RepoPath) -> Ino {
        if path.is_root() {
            return ROOT_INO;
        }
        let identity = self.identify_directory(path);
        self.place(&self.table.lock(), &identity)
    }

    /// Counts a kernel reference to an entry and returns its inode. `earlier` is the revision of
    /// an entry that was found below a directory of an earlier revision.
    pub fn remember(
        &self,
        path: &RepoPath,
        entry: &Arc<DirectoryEntry>,
        earlier: Option<&Arc<Revision>>,
    ) -> Arc<Inode> {
        let new = |ino| {
            let (path, entry, earlier) = (path.clone(), Arc::clone(entry), earlier.cloned());
            Arc::new(Inode { ino, path, entry, earlier })
        };
        if path.is_root() {
            return new(ROOT_INO);
        }
        let identity = self.identify(path, entry);
        let mut table = self.table.lock();
        let ino = self.place(&table, &identity);
        let round = table.limit.round();
        let slot = table.slots.entry(ino).or_insert_with(|| {
            if let Some(journal) = &self.journal {
                journal.known(ino, path);
                if let Some(earlier) = earlier {
                    journal.bound(ino, earlier.root_hash());
                }
            }
            Slot::new(identity, &new(ino))
        });
        let first = slot.lookups == 0;
        slot.lookups = slot.lookups.saturating_add(1);
        slot.round = round;
        if earlier.is_none() && (slot.has_other_attributes(entry) || slot.earlier().is_some()) {
            // Only directories have attributes that a later revision may change; and what was
            // gone may come back.
            slot.known = Known::of(&new(ino));
        }
        let inode = slot.inode(ino, entry);
        let freed = table.keep(&inode);
        if first {
            self.came(&mut table);
        }
        drop(table);
        drop(freed);
        if first && ino != (self.numbering)(&identity, 0) {
            tracing::warn!(%path, ino, "inode number is taken or reserved, using the next one");
        }
        inode
    }

    fn came(&self, table: &mut Table) {
        if table.limit.came(table.slots.len()) {
            self.crowded.notify_one();
        }
    }

    /// Takes references back; tells whether the kernel holds none any more.
    pub fn forget(&self, ino: Ino, count: u64) -> bool {
        let mut table = self.table.lock();
        let Some(slot) = table.slots.get_mut(&ino) else {
            drop(table);
            if self.heirs.lock().remove(&ino).is_some() {
                self.note_forgotten(ino);
            }
            return false;
        };
        if slot.inherited {
            // The kernel gives all references back at once, those that a predecessor counted
            // included. A reply that is on its way may add one: then it stays, once more.
            slot.inherited = false;
            slot.lookups = slot.lookups.min(1);
        } else {
            // Saturating: the count comes from the kernel and is not to be believed blindly.
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            slot.lookups = slot.lookups.saturating_sub(count);
        }
        if slot.lookups > 0 {
            return false;
        }
        self.note_forgotten(ino);
        let freed = (table.slots.remove(&ino), table.recent.pop(ino));
        let len = table.slots.len();
        table.limit.went(len);
        drop(table);
        drop(freed);
        true
    }

    fn note_forgotten(&self, ino: Ino) {
        if let Some(journal) = &self.journal {
            journal.forgotten(ino);
        }
    }

    /// Finds an inode that the kernel knows; `None` also for those that are [`Self::resting`].
    pub fn get(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.table.lock().kept(ino)
    }

    /// Tells how to find the row of an inode that the kernel knows.
    pub fn resting(&self, ino: Ino) -> Option<Resting> {
        let table = self.table.lock();
        let slot = table.slots.get(&ino)?;
        Some(Resting { path: slot.path().clone(), earlier: slot.earlier().cloned() })
    }

    /// Returns the paths that the kernel knows, some of them if there are more.
    pub fn paths(&self, most: usize) -> Vec<RepoPath> {
        let table = self.table.lock();
        table.slots.values().take(most).map(|slot| slot.path().clone()).collect()
    }

    /// Keeps the row of an inode again; `None` if this is not the row of that inode.
    pub fn rouse(&self, ino: Ino, entry: &Arc<DirectoryEntry>) -> Option<Arc<Inode>> {
        let mut table = self.table.lock();
        let slot = table.slots.get(&ino)?;
        if slot.identity != self.identify(slot.path(), entry) {
            return None;
        }
        let inode = slot.inode(ino, entry);
        let freed = table.keep(&inode);
        drop(table);
        drop(freed);
        Some(inode)
    }

    /// Returns how many inodes the kernel knows, the root not counted.
    pub fn len(&self) -> usize {
        self.table.lock().slots.len()
    }

    /// Tells whether the kernel knows the root only.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn place(&self, table: &Table, identity: &Identity) -> Ino {
        let mut attempt = 0;
        loop {
            let ino = (self.numbering)(identity, attempt);
            let taken = table.slots.get(&ino).is_some_and(|slot| slot.identity != *identity);
            if ino > LAST_RESERVED && !taken {
                return ino;
            }
            attempt += 1;
        }
    }

    fn identify(&self, path: &RepoPath, entry: &DirectoryEntry) -> Identity {
        if entry.kind == EntryKind::Directory {
            self.identify_directory(path)
        } else if entry.hardlink_group != 0 {
            self.digest(&[b"hard links", &entry.identity])
        } else {
            self.digest(&[b"entry", path.as_bytes(), &entry.identity])
        }
    }

    fn identify_directory(&self, path: &RepoPath) -> Identity {
        self.digest(&[b"directory", path.as_bytes()])
    }

    fn digest(&self, fields: &[&[u8]]) -> Identity {
        let mut hasher = blake3::Hasher::new();
        for field in [self.fqrn.as_bytes()].iter().chain(fields) {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
        let mut identity = Identity::default();
        identity.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        identity
    }
}

/// The sequence of numbers for an identity.
fn number(identity: &Identity, attempt: u32) -> Ino {
    let mut bytes = [0; 8];
    if attempt == 0 {
        bytes.copy_from_slice(&identity[..8]);
    } else {
        let mut hasher = blake3::Hasher::new();
        hasher.update(identity).update(&attempt.to_le_bytes());
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    }
    Ino::from_le_bytes(bytes) >> (Ino::BITS - NUMBER_BITS)
}

#[cfg(test)]
pub(crate) mod tests;
