//! The seeds of the fuzz targets must get past the first checks, or the targets fuzz nothing else.

use bytes::Bytes;
use cvmfs_core::cache::CachedObject;
use cvmfs_core::catalog::budget::Budget;
use cvmfs_core::catalog::symlink::SymlinkVariables;
use cvmfs_core::catalog::{Attachment, Catalog, Content};
use cvmfs_core::format::certificate::Certificate;
use cvmfs_core::format::manifest::Manifest;
use cvmfs_core::format::whitelist::Whitelist;
use cvmfs_core::hash::{ContentHash, HashAlgorithm};
use cvmfs_core::history::History;
use cvmfs_core::path::RepoPath;
use cvmfs_core::revision::MAX_LISTING;

#[test]
fn catalog() {
    let bytes = include_bytes!("../fuzz/seeds/catalog_file/catalog");
    let object = CachedObject::from_memory(Bytes::from_static(bytes));
    let hash = ContentHash::of(HashAlgorithm::Sha1, bytes);
    let attachment = Attachment::root();
    let catalog =
        Catalog::open(object, hash, attachment, SymlinkVariables::new(), &Budget::long()).unwrap();
    let path = |text: &str| RepoPath::parse(text.as_bytes()).unwrap();

    let mut names: Vec<_> = catalog
        .list(&RepoPath::root(), MAX_LISTING, &Budget::long())
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    names.sort();
    assert_eq!(names, [b"c", b"d", b"f", b"h", b"l", b"n"].map(|name| Box::from(&name[..])));
    assert_eq!(catalog.skipped_rows(), 0);
    assert_eq!(
        catalog.xattrs(&path("/f"), &Budget::long()).unwrap().get(b"user.foo"),
        Some(&b"bar"[..])
    );
    assert_eq!(&*catalog.lookup(&path("/l"), &Budget::long()).unwrap().unwrap().symlink, b"a");
    assert!(matches!(
        catalog.lookup(&path("/c"), &Budget::long()).unwrap().unwrap().content,
        Content::Chunked(_)
    ));
    let chunks = catalog.chunks(&path("/c"), &Budget::long()).unwrap();
    assert_eq!(chunks.iter().map(|chunk| chunk.size).collect::<Vec<_>>(), [10, 20]);
    assert_eq!(catalog.nested_at(&path("/n"), &Budget::long()).unwrap().unwrap().size, Some(6000));
}

#[test]
fn history() {
    let bytes = include_bytes!("../fuzz/seeds/catalog_file/history");
    let object = CachedObject::from_memory(Bytes::from_static(bytes));
    let history = History::open(&object, &"a.b".parse().unwrap(), &Budget::long()).unwrap();
    assert_eq!(history.by_date(0, &Budget::long()).unwrap().unwrap().name, "trunk");
}

#[test]
fn letters_and_certificate() {
    Manifest::parse(include_bytes!("../fuzz/seeds/manifest/shake")).unwrap();
    Whitelist::parse(include_bytes!("../fuzz/seeds/whitelist/shake")).unwrap();
    Certificate::parse(include_bytes!("../fuzz/seeds/certificate/pem")).unwrap();
}
