//! Rows of the files that were used last, bounded by number and by bytes: a publisher decides how long paths and
//! link targets are.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use super::{Ino, Inode};

/// Bytes of the rows that are kept, about: twice what the largest number of usual ones takes.
const MAX_BYTES: usize = 16 << 20;

/// The rows used last.
#[derive(Debug)]
pub(super) struct RecentRows {
    rows: LruCache<Ino, Arc<Inode>>,
    bytes: usize,
}

impl RecentRows {
    /// Keeps up to so many rows.
    pub(super) fn new(most: NonZeroUsize) -> Self {
        Self { rows: LruCache::new(most), bytes: 0 }
    }

    /// Returns a row, and counts that as a use.
    pub(super) fn get(&mut self, ino: Ino) -> Option<&Arc<Inode>> {
        self.rows.get(&ino)
    }

    /// Keeps a row; returns what must be freed.
    #[must_use = "freed outside of the lock"]
    pub(super) fn push(&mut self, inode: &Arc<Inode>) -> Vec<Arc<Inode>> {
        let mut freed = Vec::new();
        self.bytes += weight(inode);
        if let Some((_, old)) = self.rows.push(inode.ino, Arc::clone(inode)) {
            self.bytes = self.bytes.saturating_sub(weight(&old));
            freed.push(old);
        }
        while self.bytes > MAX_BYTES && self.rows.len() > 1 {
            let Some((_, old)) = self.rows.pop_lru() else { break };
            self.bytes = self.bytes.saturating_sub(weight(&old));
            freed.push(old);
        }
        freed
    }

    /// Forgets a row.
    pub(super) fn pop(&mut self, ino: Ino) -> Option<Arc<Inode>> {
        let old = self.rows.pop(&ino)?;
        self.bytes = self.bytes.saturating_sub(weight(&old));
        Some(old)
    }
}

fn weight(inode: &Inode) -> usize {
    size_of::<Inode>() + inode.path.as_bytes().len() + inode.entry.weight()
}
