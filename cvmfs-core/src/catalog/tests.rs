//! Catalogs whose rows are many, large or out of order.

use fixtures::publish::{Published, TestRepo};

use super::*;
use crate::decode::{SizeBound, decode_all};
use crate::object::{ObjectId, ObjectKind};
use crate::revision::MAX_LISTING;

fn path(text: &str) -> RepoPath {
    RepoPath::parse(text.as_bytes()).unwrap()
}

/// Returns the root catalog as the cache would have it.
pub(super) fn root_catalog(published: &Published) -> CachedObject {
    let stored = published.read(&published.catalog_object("").unwrap()).unwrap();
    let hash = published.root_hash().to_string().parse().unwrap();
    let id = ObjectId::zlib(hash, ObjectKind::Catalog);
    let (plain, _) = decode_all(id, &stored, SizeBound::AtMost(MAX_CATALOG_SIZE)).unwrap();
    CachedObject::from_memory(plain.into())
}

/// Opens the root catalog of what a test made.
fn open(repo: &mut TestRepo) -> Catalog {
    let published = repo.publish();
    let object = root_catalog(&published);
    let hash = published.root_hash().to_string().parse().unwrap();
    let variables = SymlinkVariables::new();
    Catalog::open(object, hash, Attachment::root(), variables, &Budget::long()).unwrap()
}

/// Reads a directory page by page, and each page again.
fn pages(catalog: &Catalog, directory: &RepoPath, budget: impl Fn() -> Budget) -> Vec<Page> {
    let (mut pages, mut next) = (Vec::new(), Some(0));
    while let Some(after) = next {
        let page = catalog.page(directory, after, &budget()).unwrap();
        next = page.next;
        assert!(page.entries.iter().all(|(row, _)| *row > after));
        assert!(next.is_none_or(|next| next > after), "it goes on");
        pages.push(page);
    }
    pages
}

#[test]
fn h6_a_long_directory_is_read_in_small_pages() {
    let mut repo = TestRepo::new("pages.test.repo");
    repo.many_files("/d", 3000, |number| (format!("f{number}"), "x"));
    repo.file("/d/hidden", b"x").hidden();
    let catalog = open(&mut repo);
    let whole = catalog.list(&path("/d"), MAX_LISTING, &Budget::long()).unwrap();
    assert_eq!(whole.len(), 3000);
    for budget in [Budget::brief, Budget::long] {
        let pages = pages(&catalog, &path("/d"), budget);
        assert!(pages.len() >= 3000 / MAX_PAGE_ROWS);
        assert!(pages.iter().all(|page| page.entries.len() <= MAX_PAGE_ROWS));
        let rows: Vec<_> = pages.into_iter().flat_map(|page| page.entries).collect();
        assert!(rows.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let entries: Vec<_> = rows.into_iter().map(|(_, entry)| entry).collect();
        assert_eq!(entries, whole);
    }
    assert!(matches!(
        catalog.list(&path("/d"), 10_000, &Budget::long()),
        Err(CatalogError::TooManyEntries(_))
    ));
}

#[test]
fn h6_values_are_measured_before_they_are_copied() {
    let mut repo = TestRepo::new("pages.test.repo");
    for name in ["fits", "long", "expands"] {
        repo.symlink(format!("/d/{name}"), "target");
    }
    repo.file("/d/attributes", b"x").xattr("user.a", "b");
    repo.file("/d/number", b"x");
    repo.symlink("/huge/link", "target");
    for (name, column, value) in [
        ("fits", "symlink", "substr(hex(zeroblob(2048)), 1, 4095)"),
        ("long", "symlink", "hex(zeroblob(2048))"),
        ("attributes", "xattr", "zeroblob(100000)"),
        ("link", "symlink", "hex(zeroblob(1500000))"),
    ] {
        repo.sql("", format!("UPDATE catalog SET {column} = {value} WHERE name = '{name}'"));
    }
    repo.sql("", "UPDATE catalog SET rowid = 5000000000 WHERE name = 'number'");
    let catalog = open(&mut repo);
    let budget = Budget::long();
    let names: Vec<_> = catalog
        .list(&path("/d"), MAX_LISTING, &budget)
        .unwrap()
        .into_iter()
        .map(|entry| String::from_utf8(entry.name.into_vec()).unwrap())
        .collect();
    assert_eq!(names, ["attributes", "expands", "fits"]);
    assert!(matches!(
        catalog.lookup(&path("/d/long"), &budget),
        Err(CatalogError::Row { fault: RowFault::Target, .. })
    ));
    assert_eq!(catalog.lookup(&path("/d/fits"), &budget).unwrap().unwrap().symlink.len(), 4095);
    assert!(catalog.xattrs(&path("/d/attributes"), &budget).unwrap().is_empty());
    assert!(catalog.lookup(&path("/d/number"), &budget).unwrap().is_some());
    // SQLite itself refuses what is longer than any value may be, and that is no damage.
    let error = catalog.list(&path("/huge"), MAX_LISTING, &budget).unwrap_err();
    assert!(!error.may_be_damage(), "{error}");
}

#[test]
fn h5_a_brief_budget_ends_and_a_long_one_goes_on() {
    let mut repo = TestRepo::new("pages.test.repo");
    repo.chunked("/d/many", vec![7; 200_000], 2);
    repo.file("/d/z", b"x");
    let catalog = open(&mut repo);
    let many = path("/d/many");
    assert!(matches!(catalog.chunks(&many, &Budget::brief()), Err(CatalogError::Unfinished)));
    assert!(matches!(catalog.lookup(&many, &Budget::brief()), Err(CatalogError::Unfinished)));
    assert_eq!(catalog.chunks(&many, &Budget::long()).unwrap().len(), 100_000);
    assert!(catalog.lookup(&many, &Budget::long()).unwrap().is_some());
    assert_eq!(catalog.list(&path("/d"), MAX_LISTING, &Budget::long()).unwrap().len(), 2);
    // A connection whose statement was ended answers the next question.
    assert!(catalog.lookup(&path("/d/z"), &Budget::brief()).unwrap().is_some());
}
