//! What is left of a repository that was closed while the kernel knows inodes of it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::super::journal::{Inheritance, Journal};
use super::super::{Ino, ROOT_INO};
use super::slot::Slot;

/// What the next opening of a repository needs to go on where the last one ended.
pub struct Former {
    inheritance: Mutex<Inheritance>,
    /// What a supervisor has; the next opening goes on with it.
    journal: Option<Arc<Journal>>,
    /// Since when nobody has looked for newer revisions.
    since: Instant,
    root_is_known: bool,
    is_of_predecessor: bool,
}

impl Former {
    pub(super) fn new(inheritance: Inheritance, journal: Option<Arc<Journal>>) -> Self {
        let inheritance = Mutex::new(inheritance);
        Self {
            inheritance,
            journal,
            since: Instant::now(),
            root_is_known: false,
            is_of_predecessor: false,
        }
    }

    /// Reads what a dead server left; `None` as slot if it had told nobody of the repository.
    pub fn read(journal: OwnedFd) -> std::io::Result<(Option<Slot>, Self)> {
        let (journal, mut inheritance) = Journal::inherit(journal)?;
        let root_is_known = inheritance.inodes.remove(&ROOT_INO).is_some();
        let slot = inheritance.slot;
        let former = Self::new(inheritance, Some(Arc::new(journal)));
        Ok((slot, Self { root_is_known, is_of_predecessor: true, ..former }))
    }

    /// Returns the inodes, and the revision that they are of.
    pub fn inheritance(&self) -> Inheritance {
        self.inheritance.lock().clone()
    }

    /// Returns the journal, if there is one.
    pub fn journal(&self) -> Option<Arc<Journal>> {
        self.journal.clone()
    }

    /// Returns since when nobody has looked for newer revisions.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Tells whether it was a dead server that had the repository open, and not we.
    pub fn is_of_predecessor(&self) -> bool {
        self.is_of_predecessor
    }

    pub(super) fn root_is_known(&self) -> bool {
        self.root_is_known
    }

    pub(super) fn forget(&self, ino: Ino) {
        let known = self.inheritance.lock().inodes.remove(&ino).is_some();
        if let (true, Some(journal)) = (known, &self.journal) {
            journal.forgotten(ino);
        }
    }

    /// Tells whether it counts as open, since a predecessor had it open and nobody has closed it.
    pub(super) fn counts_as_open(&self) -> bool {
        !self.inheritance.lock().is_closed
    }

    /// Counts as closed from now on.
    pub(super) fn close(&self) {
        let was_closed = std::mem::replace(&mut self.inheritance.lock().is_closed, true);
        if let (false, Some(journal)) = (was_closed, &self.journal) {
            journal.closed();
        }
    }

    /// Tells whether the kernel holds no inode of it but perhaps the root.
    pub(super) fn is_empty(&self) -> bool {
        self.inheritance.lock().inodes.is_empty()
    }
}
