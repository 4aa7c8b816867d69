//! Listings that a walk has seen, because it looks at each directory several times from further
//! back.

use std::sync::Arc;

use cvmfs_core::catalog::DirectoryEntry;
use cvmfs_core::hash::ContentHash;
use cvmfs_core::path::RepoPath;
use lru::LruCache;

/// The entries of a directory, in the order of the listing.
pub(super) type Entries = Arc<[Arc<DirectoryEntry>]>;

/// Entries that are kept in all: some 250 bytes each.
const MAX_ENTRIES: usize = 4096;
/// Entries of one listing that is kept: larger ones would push out too many others.
const MAX_LISTING_LEN: usize = 1024;
/// What a listing counts at least, since it takes room even if nothing is in it.
const MIN_WEIGHT: usize = 4;

/// Listings with the revision that they are of, by use.
#[derive(Debug)]
pub(super) struct Listings {
    kept: LruCache<RepoPath, (ContentHash, Entries)>,
    weight: usize,
}

impl Default for Listings {
    fn default() -> Self {
        // Bounded by weight.
        Self { kept: LruCache::unbounded(), weight: 0 }
    }
}

impl Listings {
    /// Returns a directory's entries in the revision with that root catalog, if they are at hand.
    pub(super) fn get(&mut self, root: ContentHash, directory: &RepoPath) -> Option<Entries> {
        let (of, entries) = self.kept.get(directory)?;
        (*of == root).then(|| Arc::clone(entries))
    }

    /// Keeps a listing, for those that were not used for longest.
    pub(super) fn put(&mut self, root: ContentHash, directory: &RepoPath, entries: &Entries) {
        if entries.len() > MAX_LISTING_LEN {
            return;
        }
        self.weight += weight_of(entries);
        if let Some((_, before)) = self.kept.put(directory.clone(), (root, Arc::clone(entries))) {
            self.weight -= weight_of(&before);
        }
        while self.weight > MAX_ENTRIES
            && let Some((_, (_, oldest))) = self.kept.pop_lru()
        {
            self.weight -= weight_of(&oldest);
        }
    }
}

fn weight_of(entries: &Entries) -> usize {
    entries.len().max(MIN_WEIGHT)
}

#[cfg(test)]
mod tests {
    use cvmfs_core::catalog::EntryKind;
    use cvmfs_core::hash::HashAlgorithm;

    use super::*;
    use crate::fs::inode::tests::entry;

    fn path(number: usize) -> RepoPath {
        RepoPath::root().join(number.to_string().as_bytes())
    }

    #[test]
    fn as_many_are_kept_as_there_is_room_for() {
        let root = ContentHash::of(HashAlgorithm::Sha1, b"one");
        let other = ContentHash::of(HashAlgorithm::Sha1, b"other");
        let mut listings = Listings::default();
        let file = entry("file", EntryKind::Regular, 1, 0);
        let full: Entries = std::iter::repeat_n(file, 1024).collect();
        let empty: Entries = Arc::new([]);
        for number in 0..5 {
            listings.put(root, &path(number), &full);
        }
        // The first one had to go for the fifth.
        assert!(listings.get(root, &path(0)).is_none());
        assert_eq!(listings.get(root, &path(1)).unwrap().len(), 1024);
        assert!(listings.get(other, &path(1)).is_none(), "of another revision");
        for number in 0..10_000 {
            listings.put(root, &path(100 + number), &empty);
        }
        assert!(listings.kept.len() <= MAX_ENTRIES / MIN_WEIGHT);
        assert_eq!(listings.weight, listings.kept.len() * MIN_WEIGHT);
        let larger: Entries = full.iter().chain(&*full).cloned().collect();
        listings.put(root, &path(1), &larger);
        assert!(listings.get(root, &path(1)).is_none());
    }
}
