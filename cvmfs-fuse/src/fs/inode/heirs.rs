//! What passes from one server to the next.

use std::collections::HashMap;
use std::sync::Arc;

use cvmfs_core::catalog::DirectoryEntry;
use cvmfs_core::path::RepoPath;
use cvmfs_core::revision::Revision;

use super::slot::Slot;
use super::{Ino, Inode, InodeTable};
use crate::fs::journal::Heir;

/// Numbers of the sequence that a predecessor may have been pushed to by others.
const MAX_ATTEMPTS: u32 = 8;

impl InodeTable {
    /// Returns all inodes that the kernel knows, as a successor needs them; `None` if one is of an
    /// earlier revision, which might not be had again.
    pub fn heritage(&self) -> Option<HashMap<Ino, Heir>> {
        let table = self.table.lock();
        if table.slots.values().any(|slot| slot.earlier().is_some()) {
            return None;
        }
        let known = table
            .slots
            .iter()
            .map(|(ino, slot)| (*ino, Heir { path: slot.path().clone(), revision: None }));
        let mut all: HashMap<_, _> = known.collect();
        drop(table);
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
        let mut table = self.table.lock();
        let round = table.limit.round();
        let slot = table.slots.entry(ino).or_insert_with(|| {
            let (path, entry, earlier) = (path.clone(), Arc::clone(entry), earlier.cloned());
            Slot::new(identity, &Arc::new(Inode { ino, path, entry, earlier }))
        });
        slot.inherited = true;
        slot.round = round;
        let inode = slot.inode(ino, entry);
        let freed = table.keep(&inode);
        self.came(&mut table);
        drop(table);
        drop(freed);
        self.heirs.lock().remove(&ino);
        Some(inode)
    }
}
