//! Entries that are asked for often, and absences, without a question to SQLite.
//!
//! Shells, compilers and loaders look the same names up over and over, most of them in places
//! where they are not. A revision never changes, so nothing here ever becomes wrong.

use std::sync::Arc;

use moka::sync::Cache;

use crate::catalog::DirectoryEntry;
use crate::path::RepoPath;

/// Bytes for one revision: some 15,000 entries, more than a large job has in use, and little
/// beside the page caches of the catalogs they are from.
const MAX_BYTES: u64 = 8 << 20;
/// What moka keeps for an entry beside key and value; measured with an allocator that counts, for
/// 1,000 to 100,000 entries.
const BOOKKEEPING: usize = 320;
/// The counters of an [`Arc`].
const ARC_HEADER: usize = 2 * size_of::<usize>();

/// The hot entries of one revision. Which ones stay is decided by use, so a walk through the whole
/// tree does not push them out.
#[derive(Debug)]
pub(super) struct HotEntries(Cache<RepoPath, Option<Arc<DirectoryEntry>>>);

impl HotEntries {
    /// Makes an empty cache of [`MAX_BYTES`].
    pub(super) fn new() -> Self {
        Self::bounded(MAX_BYTES)
    }

    fn bounded(bytes: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(bytes)
            .weigher(|path, entry: &Option<_>| weight(path, entry.as_deref()))
            .build();
        Self(cache)
    }

    /// Returns what is remembered of a path: an entry, or that there is none.
    pub(super) fn get(&self, path: &RepoPath) -> Option<Option<Arc<DirectoryEntry>>> {
        self.0.get(path)
    }

    /// Remembers the answer of a verified catalog.
    pub(super) fn insert(&self, path: &RepoPath, entry: &Option<Arc<DirectoryEntry>>) {
        self.0.insert(path.clone(), entry.clone());
    }
}

/// Estimates the bytes that an entry takes. Chunks count with it: there is only their style, which
/// is part of the entry.
fn weight(path: &RepoPath, entry: Option<&DirectoryEntry>) -> u32 {
    let value = entry.map_or(0, |entry| {
        let texts = entry.name.len() + entry.symlink.len() + entry.raw_symlink.len();
        ARC_HEADER + size_of::<DirectoryEntry>() + texts
    });
    let bytes = BOOKKEEPING + ARC_HEADER + path.as_bytes().len() + value;
    // Nothing is that long; if it were, it would only count as less than it is.
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
impl HotEntries {
    /// Number and bytes, after all that moka puts off.
    pub(super) fn load(&self) -> (u64, u64) {
        self.0.run_pending_tasks();
        (self.0.entry_count(), self.0.weighted_size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(number: u32) -> RepoPath {
        RepoPath::parse(format!("/some/directory/file{number:06}").as_bytes()).unwrap()
    }

    #[test]
    fn the_bound_holds_and_what_is_in_use_stays() {
        let entries = HotEntries::bounded(100_000);
        let hot: Vec<_> = (0..20).map(path).collect();
        for number in 0..100_000 {
            for path in &hot {
                if number % 50 == 0 && entries.get(path).is_none() {
                    entries.insert(path, &None);
                }
            }
            entries.insert(&path(1_000 + number), &None);
        }
        let (count, bytes) = entries.load();
        assert!(bytes <= 100_000, "{bytes}");
        let each = u64::from(weight(&path(0), None));
        assert_eq!(bytes, count * each);
        assert!(count > 100_000 / each / 2, "the room is used: {count}");
        let kept = hot.iter().filter(|path| entries.get(path) == Some(None)).count();
        assert!(kept > 15, "only {kept} of the entries in use were kept");
    }
}
