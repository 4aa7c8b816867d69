//! Arbitrary bytes opened as a catalog and as a tag database: what a hostile publisher can sign.
#![no_main]

use bytes::Bytes;
use cvmfs_core::cache::CachedObject;
use cvmfs_core::catalog::budget::Budget;
use cvmfs_core::catalog::symlink::SymlinkVariables;
use cvmfs_core::catalog::{Attachment, Catalog};
use cvmfs_core::hash::{ContentHash, HashAlgorithm};
use cvmfs_core::history::History;
use cvmfs_core::path::{RepoPath, is_valid_name};
use cvmfs_core::revision::MAX_LISTING;
use libfuzzer_sys::fuzz_target;

/// Entries of the root directory that are looked at in detail.
const DETAILED: usize = 8;

fn walk(catalog: &Catalog) {
    let budget = Budget::long();
    let root = RepoPath::root();
    let Ok(entries) = catalog.list(&root, MAX_LISTING, &budget) else { return };
    for entry in entries.iter().take(DETAILED) {
        assert!(is_valid_name(&entry.name) && entry.nlink >= 1 && !entry.hidden);
        let path = root.join(&entry.name);
        if let Ok(Some(found)) = catalog.lookup(&path, &budget) {
            assert_eq!(found.name, entry.name);
        }
        if let Ok(chunks) = catalog.chunks(&path, &budget) {
            let mut end = 0;
            for chunk in &chunks {
                assert_eq!(chunk.offset, end);
                end += chunk.size;
            }
        }
        let _ = catalog.xattrs(&path, &budget);
        let _ = catalog.nested_at(&path, &budget);
        let _ = catalog.list(&path, MAX_LISTING, &budget);
    }
    let _ = catalog.xattrs(&root, &budget);
}

fuzz_target!(|data: &[u8]| {
    let object = CachedObject::from_memory(Bytes::copy_from_slice(data));
    let hash = ContentHash::of(HashAlgorithm::Sha1, b"any");
    let attachment = Attachment::root();
    let budget = Budget::long();
    if let Ok(catalog) =
        Catalog::open(object.clone(), hash, attachment, SymlinkVariables::new(), &budget)
    {
        walk(&catalog);
    }
    let fqrn = "a.b".parse().expect("a good name");
    if let Ok(history) = History::open(&object, &fqrn, &budget) {
        let _ = history.tags(&budget);
        let _ = history.by_date(0, &budget);
        let _ = history.by_name("trunk", &budget);
    }
});
