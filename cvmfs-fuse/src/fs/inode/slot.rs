//! What the table has of one inode. There may be millions, so it is little.

use std::sync::Arc;

use cvmfs_core::catalog::{DirectoryEntry, EntryKind};
use cvmfs_core::path::RepoPath;
use cvmfs_core::revision::Revision;

use super::{Identity, Ino, Inode};

/// An inode that the kernel knows.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) identity: Identity,
    pub(super) known: Known,
    /// References of the kernel.
    pub(super) lookups: u32,
    /// The kernel also holds references that a predecessor counted.
    pub(super) inherited: bool,
    /// When it was used last, as [`super::limit`] counts.
    pub(super) round: u16,
}

/// What is known of an inode itself.
#[derive(Debug)]
pub(super) enum Known {
    /// All: each lookup below needs it, and a new revision may change its attributes.
    Directory(Arc<Inode>),
    /// How to find the row again, which never changes.
    Other {
        /// As in [`Inode`].
        path: RepoPath,
        /// As in [`Inode`].
        earlier: Option<Arc<Revision>>,
    },
}

impl Known {
    pub(super) fn of(inode: &Arc<Inode>) -> Self {
        match inode.entry.kind {
            EntryKind::Directory => Self::Directory(Arc::clone(inode)),
            _ => Self::Other { path: inode.path.clone(), earlier: inode.earlier.clone() },
        }
    }
}

impl Slot {
    /// Makes one without references.
    pub(super) fn new(identity: Identity, inode: &Arc<Inode>) -> Self {
        Self { identity, known: Known::of(inode), lookups: 0, inherited: false, round: 0 }
    }

    pub(super) fn path(&self) -> &RepoPath {
        match &self.known {
            Known::Directory(inode) => &inode.path,
            Known::Other { path, .. } => path,
        }
    }

    pub(super) fn earlier(&self) -> Option<&Arc<Revision>> {
        match &self.known {
            Known::Directory(inode) => inode.earlier.as_ref(),
            Known::Other { earlier, .. } => earlier.as_ref(),
        }
    }

    /// Tells whether a row of the same identity has other attributes; only those of directories may.
    pub(super) fn has_other_attributes(&self, entry: &Arc<DirectoryEntry>) -> bool {
        matches!(&self.known, Known::Directory(inode) if inode.entry != *entry)
    }

    /// Returns the inode; `entry` is its row.
    pub(super) fn inode(&self, ino: Ino, entry: &Arc<DirectoryEntry>) -> Arc<Inode> {
        match &self.known {
            Known::Directory(inode) => Arc::clone(inode),
            Known::Other { path, earlier } => {
                let (path, entry, earlier) = (path.clone(), Arc::clone(entry), earlier.clone());
                Arc::new(Inode { ino, path, entry, earlier })
            }
        }
    }

    /// Binds it to the revision that has it.
    pub(super) fn bind(&mut self, revision: &Arc<Revision>) {
        let bound = Some(Arc::clone(revision));
        match &mut self.known {
            Known::Directory(inode) => {
                let Inode { ino, path, entry, .. } = &**inode;
                let (path, entry) = (path.clone(), Arc::clone(entry));
                *inode = Arc::new(Inode { ino: *ino, path, entry, earlier: bound });
            }
            Known::Other { earlier, .. } => *earlier = bound,
        }
    }
}
