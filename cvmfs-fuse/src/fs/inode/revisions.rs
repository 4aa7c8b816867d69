//! What a switch to another revision does to the table.

use std::sync::Arc;

use cvmfs_core::catalog::DirectoryEntry;
use cvmfs_core::path::RepoPath;
use cvmfs_core::revision::Revision;

use super::rows::RecentRows;
use super::slot::{Known, Slot};
use super::{Ino, Inode, InodeTable, Table};

impl InodeTable {
    /// Returns the paths of the directories of the current revision that the kernel knows,
    /// without the root.
    pub fn directories(&self) -> Vec<RepoPath> {
        let table = self.table.lock();
        table
            .slots
            .values()
            .filter(|slot| matches!(slot.known, Known::Directory(_)) && slot.earlier().is_none())
            .map(|slot| slot.path().clone())
            .collect()
    }

    /// Returns the names that the kernel knows in a directory.
    pub fn names_in(&self, directory: &RepoPath) -> Vec<Box<[u8]>> {
        let table = self.table.lock();
        let paths = table.slots.values().map(Slot::path);
        paths.filter(|path| is_in(directory, path)).map(|path| path.name().into()).collect()
    }

    /// Binds an entry that changed or went to the revision that has it, if the kernel knows it.
    pub fn bind(&self, path: &RepoPath, entry: &DirectoryEntry, revision: &Arc<Revision>) {
        let identity = self.identify(path, entry);
        let mut table = self.table.lock();
        let ino = self.place(&table, &identity);
        let Table { slots, recent, .. } = &mut *table;
        if let Some(slot) = slots.get_mut(&ino) {
            self.bind_slot(ino, slot, recent, revision);
        }
    }

    /// Binds everything below a directory to the revision that has it.
    pub fn bind_below(&self, directory: &RepoPath, revision: &Arc<Revision>) {
        let prefix = directory.as_bytes();
        let is_below = |slot: &Slot| {
            let below = slot.path().as_bytes().strip_prefix(prefix);
            below.is_some_and(|rest| rest.starts_with(b"/"))
        };
        self.bind_where(is_below, revision);
    }

    /// Binds the files in a directory to a revision that has them, where it is not known which of
    /// them later ones have.
    pub fn bind_files_in(&self, directory: &RepoPath, revision: &Arc<Revision>) {
        let is_file = |slot: &Slot| {
            matches!(slot.known, Known::Other { .. }) && is_in(directory, slot.path())
        };
        self.bind_where(is_file, revision);
    }

    fn bind_where(&self, is_chosen: impl Fn(&Slot) -> bool, revision: &Arc<Revision>) {
        let mut table = self.table.lock();
        let Table { slots, recent, .. } = &mut *table;
        for (&ino, slot) in slots.iter_mut().filter(|(_, slot)| is_chosen(slot)) {
            self.bind_slot(ino, slot, recent, revision);
        }
    }

    fn bind_slot(
        &self,
        ino: Ino,
        slot: &mut Slot,
        recent: &mut RecentRows,
        revision: &Arc<Revision>,
    ) {
        if slot.earlier().is_some() {
            return;
        }
        if let Some(journal) = &self.journal {
            journal.bound(ino, revision.root_hash());
        }
        slot.bind(revision);
        // It says that it is of the current revision.
        recent.pop(ino);
    }

    /// Gives a directory the attributes of a new revision; returns its number if the kernel knows
    /// it.
    pub fn renew(&self, path: &RepoPath, entry: &Arc<DirectoryEntry>) -> Option<Ino> {
        let identity = self.identify(path, entry);
        let mut table = self.table.lock();
        let ino = self.place(&table, &identity);
        let slot = table.slots.get_mut(&ino)?;
        let (path, entry) = (path.clone(), Arc::clone(entry));
        slot.known = Known::of(&Arc::new(Inode { ino, path, entry, earlier: None }));
        Some(ino)
    }
}

/// Tells whether a path is that of an entry of the directory itself.
fn is_in(directory: &RepoPath, path: &RepoPath) -> bool {
    let name = path.as_bytes().strip_prefix(directory.as_bytes());
    name.and_then(|name| name.strip_prefix(b"/")).is_some_and(|name| !name.contains(&b'/'))
}
