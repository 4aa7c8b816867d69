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

use std::collections::HashMap;
use std::sync::Arc;

use cvmfs_core::catalog::{DirectoryEntry, EntryKind};
use cvmfs_core::path::RepoPath;
use cvmfs_core::revision::Revision;
use parking_lot::Mutex;

use super::journal::{Heir, Journal};
use super::{FsError, Ino, ROOT_INO};

/// Bits of a number within its repository.
pub const NUMBER_BITS: u32 = 52;
/// Numbers up to here are special to kernels, tools and upstream.
const LAST_RESERVED: Ino = 255;
/// Numbers of the sequence that a predecessor may have been pushed to by others.
const MAX_ATTEMPTS: u32 = 8;

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

struct Slot {
    identity: Identity,
    inode: Arc<Inode>,
    lookups: u64,
    /// The kernel also holds references that a predecessor counted.
    inherited: bool,
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

impl Slot {
    fn bind(&mut self, revision: &Arc<Revision>) {
        if self.inode.earlier.is_none() {
            let Inode { ino, path, entry, .. } = &*self.inode;
            let (path, entry) = (path.clone(), Arc::clone(entry));
            let earlier = Some(Arc::clone(revision));
            self.inode = Arc::new(Inode { ino: *ino, path, entry, earlier });
        }
    }
}

/// All inodes that the kernel holds references to.
pub struct InodeTable {
    fqrn: String,
    numbering: Numbering,
    slots: Mutex<HashMap<Ino, Slot>>,
    /// Written before the kernel hears of an inode; `None` where nobody would succeed us.
    journal: Option<Arc<Journal>>,
    /// Inodes of a predecessor that nobody asked for yet.
    heirs: Mutex<HashMap<Ino, Heir>>,
}

impl InodeTable {
    /// Makes an empty table for a repository.
    pub fn new(fqrn: &str) -> Self {
        Self::with_numbering(fqrn, number)
    }

    fn with_numbering(fqrn: &str, numbering: Numbering) -> Self {
        let (slots, heirs) = (Mutex::default(), Mutex::default());
        Self { fqrn: fqrn.to_owned(), numbering, slots, journal: None, heirs }
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

    /// Returns all inodes that the kernel knows, as a successor needs them; `None` if one is of an
    /// earlier revision, which might not be had again.
    pub fn heritage(&self) -> Option<HashMap<Ino, Heir>> {
        let slots = self.slots.lock();
        if slots.values().any(|slot| slot.inode.earlier.is_some()) {
            return None;
        }
        let known = slots
            .iter()
            .map(|(ino, slot)| (*ino, Heir { path: slot.inode.path.clone(), revision: None }));
        let mut all: HashMap<_, _> = known.collect();
        drop(slots);
        all.extend(self.heirs.lock().iter().map(|(ino, heir)| (*ino, heir.clone())));
        Some(all)
    }

    /// Returns what a predecessor left about an inode.
    pub fn heir(&self, ino: Ino) -> Option<Heir> {
        self.heirs.lock().get(&ino).cloned()
    }

    /// Returns the inodes of a predecessor that nobody asked for yet.
    pub fn heirs(&self) -> Vec<Ino> {
        self.heirs.lock().keys().copied().collect()
    }

    /// Takes over an inode of a predecessor; `None` if the entry is not what had that number.
    pub fn adopt(
        &self,
        ino: Ino,
        path: &RepoPath,
        entry: &Arc<DirectoryEntry>,
        earlier: Option<&Arc<Revision>>,
    ) -> Option<Arc<Inode>> {
        let identity = self.identify(path, entry);
        let is_it = (0..MAX_ATTEMPTS).any(|attempt| (self.numbering)(&identity, attempt) == ino);
        if !is_it {
            return None;
        }
        let mut slots = self.slots.lock();
        let slot = slots.entry(ino).or_insert_with(|| {
            let (path, entry, earlier) = (path.clone(), Arc::clone(entry), earlier.cloned());
            let inode = Arc::new(Inode { ino, path, entry, earlier });
            Slot { identity, inode, lookups: 0, inherited: false }
        });
        slot.inherited = true;
        let inode = Arc::clone(&slot.inode);
        drop(slots);
        self.heirs.lock().remove(&ino);
        Some(inode)
    }

    /// Returns the number of an entry without counting a reference.
    pub fn number_of(&self, path: &RepoPath, entry: &DirectoryEntry) -> Ino {
        if path.is_root() {
            return ROOT_INO;
        }
        let identity = self.identify(path, entry);
        self.place(&self.slots.lock(), &identity)
    }

    /// Returns the number of the directory at a path; nothing else about it matters.
    pub fn number_of_directory(&self, path: &RepoPath) -> Ino {
        if path.is_root() {
            return ROOT_INO;
        }
        let identity = self.identify_directory(path);
        self.place(&self.slots.lock(), &identity)
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
        let mut slots = self.slots.lock();
        let ino = self.place(&slots, &identity);
        let slot = slots.entry(ino).or_insert_with(|| {
            if let Some(journal) = &self.journal {
                journal.known(ino, path);
                if let Some(earlier) = earlier {
                    journal.bound(ino, earlier.root_hash());
                }
            }
            Slot { identity, inode: new(ino), lookups: 0, inherited: false }
        });
        let first = slot.lookups == 0;
        slot.lookups += 1;
        let has_other_attributes = entry.kind == EntryKind::Directory && slot.inode.entry != *entry;
        if earlier.is_none() && (has_other_attributes || slot.inode.earlier.is_some()) {
            // Only directories have attributes that a later revision may change; and what was
            // gone may come back.
            slot.inode = new(ino);
        }
        let inode = Arc::clone(&slot.inode);
        drop(slots);
        if first && ino != (self.numbering)(&identity, 0) {
            tracing::warn!(%path, ino, "inode number is taken or reserved, using the next one");
        }
        inode
    }

    /// Takes references back; returns the inode when the kernel holds none any more.
    pub fn forget(&self, ino: Ino, count: u64) -> Option<Arc<Inode>> {
        let mut slots = self.slots.lock();
        let Some(slot) = slots.get_mut(&ino) else {
            drop(slots);
            if self.heirs.lock().remove(&ino).is_some() {
                self.note_forgotten(ino);
            }
            return None;
        };
        if slot.inherited {
            // The kernel gives all references back at once, those that a predecessor counted
            // included. A reply that is on its way may add one: then it stays, once more.
            slot.inherited = false;
            slot.lookups = slot.lookups.min(1);
        } else {
            // Saturating: the count comes from the kernel and is not to be believed blindly.
            slot.lookups = slot.lookups.saturating_sub(count);
        }
        if slot.lookups > 0 {
            return None;
        }
        self.note_forgotten(ino);
        slots.remove(&ino).map(|slot| slot.inode)
    }

    fn note_forgotten(&self, ino: Ino) {
        if let Some(journal) = &self.journal {
            journal.forgotten(ino);
        }
    }

    /// Finds an inode that the kernel knows.
    pub fn get(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.slots.lock().get(&ino).map(|slot| Arc::clone(&slot.inode))
    }

    /// Returns the paths of the directories of the current revision that the kernel knows,
    /// without the root.
    pub fn directories(&self) -> Vec<RepoPath> {
        let slots = self.slots.lock();
        slots
            .values()
            .filter(|slot| slot.inode.entry.kind == EntryKind::Directory)
            .filter(|slot| slot.inode.earlier.is_none())
            .map(|slot| slot.inode.path.clone())
            .collect()
    }

    /// Returns the paths that the kernel knows, some of them if there are more.
    pub fn paths(&self, most: usize) -> Vec<RepoPath> {
        let slots = self.slots.lock();
        slots.values().take(most).map(|slot| slot.inode.path.clone()).collect()
    }

    /// Returns the names that the kernel knows in a directory.
    pub fn names_in(&self, directory: &RepoPath) -> Vec<Box<[u8]>> {
        let slots = self.slots.lock();
        let paths = slots.values().map(|slot| &slot.inode.path);
        paths
            .filter(|path| path.parent().as_ref() == Some(directory))
            .map(|path| path.name().into())
            .collect()
    }

    /// Binds an entry that changed or went to the revision that has it, if the kernel knows it.
    pub fn bind(&self, path: &RepoPath, entry: &DirectoryEntry, revision: &Arc<Revision>) {
        let identity = self.identify(path, entry);
        let mut slots = self.slots.lock();
        let ino = self.place(&slots, &identity);
        if let Some(slot) = slots.get_mut(&ino) {
            self.note_bound(slot, revision);
            slot.bind(revision);
        }
    }

    /// Binds everything below a directory to the revision that has it.
    pub fn bind_below(&self, directory: &RepoPath, revision: &Arc<Revision>) {
        let prefix = directory.as_bytes();
        for slot in self.slots.lock().values_mut() {
            let below = slot.inode.path.as_bytes().strip_prefix(prefix);
            if below.is_some_and(|rest| rest.starts_with(b"/")) {
                self.note_bound(slot, revision);
                slot.bind(revision);
            }
        }
    }

    fn note_bound(&self, slot: &Slot, revision: &Arc<Revision>) {
        if let (Some(journal), None) = (&self.journal, &slot.inode.earlier) {
            journal.bound(slot.inode.ino, revision.root_hash());
        }
    }

    /// Gives a directory the attributes of a new revision; returns its number if the kernel knows
    /// it.
    pub fn renew(&self, path: &RepoPath, entry: &Arc<DirectoryEntry>) -> Option<Ino> {
        let identity = self.identify(path, entry);
        let mut slots = self.slots.lock();
        let ino = self.place(&slots, &identity);
        let slot = slots.get_mut(&ino)?;
        let (path, entry) = (path.clone(), Arc::clone(entry));
        slot.inode = Arc::new(Inode { ino, path, entry, earlier: None });
        Some(ino)
    }

    /// Returns how many inodes the kernel knows, the root not counted.
    pub fn len(&self) -> usize {
        self.slots.lock().len()
    }

    /// Tells whether the kernel knows the root only.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn place(&self, slots: &HashMap<Ino, Slot>, identity: &Identity) -> Ino {
        let mut attempt = 0;
        loop {
            let ino = (self.numbering)(identity, attempt);
            let taken = slots.get(&ino).is_some_and(|slot| slot.identity != *identity);
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
pub(super) mod tests {
    use super::*;
    use cvmfs_core::catalog::Content;

    fn entry(name: &str, kind: EntryKind, identity: u8, group: u32) -> Arc<DirectoryEntry> {
        Arc::new(DirectoryEntry {
            name: name.as_bytes().into(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            rdev: 0,
            mtime: 0,
            mtime_ns: 0,
            nlink: 1,
            hardlink_group: group,
            content: Content::None,
            symlink: Box::default(),
            raw_symlink: Box::default(),
            has_xattrs: false,
            nested_mountpoint: false,
            hidden: false,
            direct_io: false,
            external: false,
            identity: [identity; 16],
        })
    }

    /// A file with this number.
    pub(in crate::fs) fn inode(ino: Ino) -> Inode {
        let entry = entry("f", EntryKind::Regular, 1, 0);
        Inode { ino, path: path("/f"), entry, earlier: None }
    }

    fn path(text: &str) -> RepoPath {
        RepoPath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn hard_links_share_a_number_and_nothing_else_does() {
        let table = InodeTable::new("x.test");
        let of = |p: &str, kind, identity, group| {
            table.number_of(&path(p), &entry("n", kind, identity, group))
        };
        use EntryKind::{Directory, Regular};
        assert_eq!(of("/a", Regular, 1, 7), of("/b", Regular, 1, 7));
        assert_ne!(of("/a", Regular, 1, 7), of("/a", Regular, 2, 7));
        assert_ne!(of("/a", Regular, 1, 0), of("/b", Regular, 1, 0), "equal content, other path");
        assert_ne!(of("/a", Regular, 1, 0), of("/a", Regular, 2, 0), "other version");
        assert_ne!(of("/a", Regular, 1, 0), of("/a", Directory, 1, 0));
        assert_eq!(of("/a", Directory, 1, 0), of("/a", Directory, 2, 0), "directories keep theirs");
        assert_eq!(of("/", Directory, 1, 0), ROOT_INO);
        // The same after a restart, another for another repository.
        let e = entry("n", Regular, 1, 0);
        assert_eq!(InodeTable::new("x.test").number_of(&path("/a"), &e), of("/a", Regular, 1, 0));
        assert_ne!(InodeTable::new("y.test").number_of(&path("/a"), &e), of("/a", Regular, 1, 0));
    }

    #[test]
    fn references_are_counted() {
        let table = InodeTable::new("x.test");
        let e = entry("a", EntryKind::Regular, 1, 0);
        let ino = table.remember(&path("/a"), &e, None).ino;
        assert_eq!(table.remember(&path("/a"), &e, None).ino, ino);
        assert!(table.forget(ino, 1).is_none());
        assert!(table.get(ino).is_some());
        assert_eq!(table.forget(ino, 1).unwrap().ino, ino);
        assert!(table.get(ino).is_none());
        // Nonsense from the kernel neither panics nor underflows.
        assert!(table.forget(ino, 5).is_none());
        table.remember(&path("/a"), &e, None);
        assert!(table.forget(ino, u64::MAX).is_some());
        assert!(table.is_empty());
    }

    #[test]
    fn colliding_entries_get_different_numbers() {
        // Every first number is the same, the second one is reserved.
        let table = InodeTable::with_numbering("x.test", |identity, attempt| match attempt {
            0 => 1000,
            1 => 255,
            _ => Ino::from(identity[0]) + 1001,
        });
        let (a, b) = (entry("a", EntryKind::Regular, 1, 0), entry("b", EntryKind::Regular, 2, 0));
        let first = table.remember(&path("/a"), &a, None).ino;
        assert_eq!(first, 1000);
        let second = table.number_of(&path("/b"), &b);
        assert!(second > 1000);
        assert_eq!(table.remember(&path("/b"), &b, None).ino, second);
        assert_eq!(table.get(first).unwrap().path, path("/a"));
        assert_eq!(table.get(second).unwrap().path, path("/b"));
    }
}
