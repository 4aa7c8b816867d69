//! Open directories: each handle keeps the listing of the moment when it was opened.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cvmfs_core::catalog::DirectoryEntry;
use cvmfs_core::path::RepoPath;
use cvmfs_core::revision::Revision;
use parking_lot::Mutex;

/// A listing without `.` and `..`; offsets given to the kernel are indices into it, shifted by two.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) path: RepoPath,
    pub(super) entries: Arc<[Arc<DirectoryEntry>]>,
    /// The gate's count when it was made.
    pub(super) epoch: u64,
    /// The revision that it is of.
    pub(super) revision: Arc<Revision>,
    /// That was no longer the current one when it was made.
    pub(super) is_earlier: bool,
}

/// All open directories of a mount.
#[derive(Debug, Default)]
pub(super) struct DirectoryTable {
    last: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Listing>>>,
}

impl DirectoryTable {
    /// Makes a table whose handles are not those of a predecessor, which the kernel may still use.
    pub(super) fn of_generation(generation: u32) -> Self {
        Self { last: AtomicU64::new(u64::from(generation) << 32), open: Mutex::default() }
    }

    /// Keeps a listing and returns its handle, never 0.
    pub(super) fn insert(&self, listing: Listing) -> u64 {
        let handle = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.lock().insert(handle, Arc::new(listing));
        handle
    }

    pub(super) fn get(&self, handle: u64) -> Option<Arc<Listing>> {
        self.open.lock().get(&handle).cloned()
    }

    /// Puts a newer listing in place of the one under a handle.
    pub(super) fn replace(&self, handle: u64, listing: Arc<Listing>) {
        let old = self.open.lock().get_mut(&handle).map(|place| std::mem::replace(place, listing));
        drop(old);
    }

    /// Returns how many servers there were before.
    pub(super) fn generation(&self) -> u32 {
        u32::try_from(self.last.load(Ordering::Relaxed) >> 32).unwrap_or(u32::MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.lock().is_empty()
    }

    pub(super) fn remove(&self, handle: u64) {
        let closed = self.open.lock().remove(&handle);
        drop(closed);
    }
}

/// What stands at an offset of a listing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Position {
    This,
    Parent,
    Entry(usize),
}

/// Entries before the first of the listing: `.` and `..`.
pub(super) const DOTS: u64 = 2;

/// Tells what stands at an offset below `DOTS` plus the length of the listing.
pub(super) fn position(offset: u64) -> Position {
    match offset {
        0 => Position::This,
        1 => Position::Parent,
        // A listing is in memory, so its indices fit.
        _ => Position::Entry(usize::try_from(offset - DOTS).unwrap_or(usize::MAX)),
    }
}
