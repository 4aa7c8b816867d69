//! Listings that are being read: by handle where the kernel opens directories, and by inode and
//! revision where it does not ask us to (message-free opens).
//!
//! A reader goes on in the listing that it began with. So an offset says which one that is: its
//! upper half names the revision, and the same revision lists in the same order, in this server and
//! in a successor.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cvmfs_core::catalog::DirectoryEntry;
use cvmfs_core::path::RepoPath;
use cvmfs_core::revision::Revision;
use lru::LruCache;
use parking_lot::Mutex;

use super::Ino;

/// Entries of all listings that are kept by inode; the one used last is kept whatever its length.
const MAX_KEPT: usize = 100_000;
/// A listing that somebody has read to its end stays for others while all together have no more
/// entries than this, some 4 MiB: a walk through a large tree must not fill the table.
const MAX_AT_REST: usize = 8 * 1024;
/// Bits of an offset that say how far the reader is.
const POSITION_BITS: u32 = 32;

/// A listing without `.` and `..`; positions are indices into it, shifted by two.
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

impl Listing {
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

/// Listings by inode and tag.
#[derive(Debug)]
struct Kept {
    listings: LruCache<(Ino, u64), Arc<Listing>>,
    entries: usize,
}

impl Default for Kept {
    fn default() -> Self {
        Self { listings: LruCache::unbounded(), entries: 0 }
    }
}

/// All open directories of a mount.
#[derive(Debug, Default)]
pub(super) struct DirectoryTable {
    last: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Listing>>>,
    kept: Mutex<Kept>,
}

impl DirectoryTable {
    /// Makes a table whose handles are not those of a predecessor, which the kernel may still use.
    pub(super) fn of_generation(generation: u32) -> Self {
        Self { last: AtomicU64::new(u64::from(generation) << 32), ..Self::default() }
    }

    /// Keeps a listing and returns its handle, never 0.
    pub(super) fn insert(&self, listing: Listing) -> u64 {
        let handle = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.lock().insert(handle, Arc::new(listing));
        handle
    }

    /// Returns the listing of an inode that readers of that revision read.
    pub(super) fn kept(&self, ino: Ino, tag: u64) -> Option<Arc<Listing>> {
        self.kept.lock().listings.get(&(ino, tag)).cloned()
    }

    /// Keeps a listing for readers without a handle.
    pub(super) fn keep(&self, ino: Ino, listing: &Arc<Listing>) {
        let mut closed = Vec::new();
        let mut kept = self.kept.lock();
        kept.entries += listing.entries.len();
        let key = (ino, u64::from(listing.tag()));
        closed.extend(kept.listings.put(key, Arc::clone(listing)));
        while kept.entries - closed_entries(&closed) > MAX_KEPT && kept.listings.len() > 1 {
            closed.extend(kept.listings.pop_lru().map(|(_, listing)| listing));
        }
        kept.entries -= closed_entries(&closed);
        // Freed outside the lock.
        drop(kept);
    }

    /// Lets go of a listing that was read to its end, unless there is room. Who still reads it lists
    /// again.
    pub(super) fn finished(&self, ino: Ino, listing: &Listing) {
        let mut kept = self.kept.lock();
        if kept.entries <= MAX_AT_REST {
            return;
        }
        let closed = kept.listings.pop(&(ino, u64::from(listing.tag())));
        kept.entries -= closed.as_ref().map_or(0, |closed| closed.entries.len());
        drop(kept);
        drop(closed);
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

fn closed_entries(closed: &[Arc<Listing>]) -> usize {
    closed.iter().map(|listing| listing.entries.len()).sum()
}

/// What stands at a position of a listing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Position {
    This,
    Parent,
    Entry(usize),
}

/// Entries before the first of the listing: `.` and `..`.
pub(super) const DOTS: u64 = 2;

/// Tells what stands at a position below `DOTS` plus the length of the listing.
pub(super) fn position(at: u64) -> Position {
    match at {
        0 => Position::This,
        1 => Position::Parent,
        // A listing is in memory, so its indices fit.
        _ => Position::Entry(usize::try_from(at - DOTS).unwrap_or(usize::MAX)),
    }
}
