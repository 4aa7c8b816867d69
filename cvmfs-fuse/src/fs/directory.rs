//! Directories that are being read: who reads which revision, and what an offset means.
//!
//! A listing is never held as a whole. It is read page by page ([`super::pages`]), and an offset says where to go on
//! without anything being remembered: its lower half is the number of the last row, its upper half names the
//! revision. So a reader goes on in the listing that it began with, in this server and in a successor, and a
//! directory of a million entries takes no more memory than one of five hundred.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cvmfs_core::path::RepoPath;
use cvmfs_core::revision::Revision;
use parking_lot::Mutex;

use super::pages::Pages;

/// Bits of an offset that say how far the reader is.
const POSITION_BITS: u32 = 32;

/// What a reader of a directory reads.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) path: RepoPath,
    /// The gate's count when the reader began.
    pub(super) epoch: u64,
    /// The revision of the listing.
    pub(super) revision: Arc<Revision>,
    /// Set if that was no longer the current one when the reader began.
    pub(super) is_earlier: bool,
}

impl Reading {
    /// Names the revision in offsets.
    pub(super) fn tag(&self) -> u32 {
        tag_of(&self.revision)
    }
}

/// Names a revision in offsets, which the kernel keeps below 2^63.
pub(super) fn tag_of(revision: &Revision) -> u32 {
    let root = revision.root_hash();
    let start = root.digest().iter().take(4);
    start.fold(0, |tag, byte| (tag << 8) | u32::from(*byte)) >> 1
}

/// Makes an offset from a tag and a position.
pub(super) fn offset_of(tag: u32, position: u64) -> u64 {
    (u64::from(tag) << POSITION_BITS) | position
}

/// Takes an offset apart. It comes from the kernel and may be any number.
pub(super) fn split_offset(offset: u64) -> (u64, u64) {
    (offset >> POSITION_BITS, offset & ((1 << POSITION_BITS) - 1))
}

/// Positions before the first row: `.` and `..`.
pub(super) const DOTS: u64 = 2;

/// Returns the number of the last row before a position.
pub(super) fn row_before(position: u64) -> u32 {
    u32::try_from(position.saturating_sub(DOTS)).unwrap_or(u32::MAX)
}

/// All open directories of a mount, and the pages that were read last.
#[derive(Debug, Default)]
pub(super) struct DirectoryTable {
    last: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Reading>>>,
    pub(super) pages: Pages,
}

impl DirectoryTable {
    /// Makes a table whose handles are not those of a predecessor, which the kernel may still use.
    pub(super) fn of_generation(generation: u32) -> Self {
        Self { last: AtomicU64::new(u64::from(generation) << 32), ..Self::default() }
    }

    /// Keeps what a reader reads and returns its handle, never 0.
    pub(super) fn insert(&self, reading: Reading) -> u64 {
        let handle = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.lock().insert(handle, Arc::new(reading));
        handle
    }

    pub(super) fn get(&self, handle: u64) -> Option<Arc<Reading>> {
        self.open.lock().get(&handle).cloned()
    }

    /// Lets a reader begin anew, under the same handle.
    pub(super) fn replace(&self, handle: u64, reading: Arc<Reading>) {
        let old = self.open.lock().get_mut(&handle).map(|place| std::mem::replace(place, reading));
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
