//! Lookups of a published repository that is read from the disk.

use fixtures::publish::{Published, TestRepo};

use super::*;
use crate::cache::MemoryCache;
use crate::net::{
    Downloader, HttpTransport, ProxySpec, Selection, SelectionOptions, Timeouts, TransportOptions,
};

async fn open(published: &Published) -> Revision {
    let server = format!("file://{}/{}", published.root().display(), published.fqrn());
    let options = SelectionOptions { max_retries: 0, ..SelectionOptions::default() };
    let selection = Selection::new(vec![server], &ProxySpec::direct(), options);
    let transport = Arc::new(HttpTransport::new(TransportOptions::default()));
    let downloader = Downloader::new(transport, selection, Timeouts::default());
    let fetcher = Fetcher::new(Arc::new(MemoryCache::default()), downloader, false);
    let hash = published.root_hash().to_string().parse().unwrap();
    let root = RootCatalog { hash, size: None, alternative_path: false };
    let fqrn = published.fqrn().parse().unwrap();
    Revision::open(fqrn, Arc::new(fetcher), &root, SymlinkVariables::default()).await.unwrap()
}

fn path(text: &str) -> RepoPath {
    RepoPath::parse(text.as_bytes()).unwrap()
}

#[tokio::test]
async fn what_was_asked_once_is_answered_from_memory() {
    let mut repo = TestRepo::new("revision.test.repo");
    repo.many_files("/d", 100, |number| (format!("f{number}"), "x"));
    repo.symlink("/d/l", "f1");
    let published = repo.publish();
    let revision = open(&published).await;

    // A listing may be long, and what it names need not be asked for.
    assert_eq!(revision.list(&path("/d")).await.unwrap().len(), 101);
    assert_eq!(revision.hot.load().0, 0);

    for name in ["/d/f1", "/d/l", "/d", "/"] {
        let first = revision.lookup(&path(name)).await.unwrap().unwrap();
        let again = revision.lookup(&path(name)).await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&first, &again), "{name}");
    }
    for name in ["/none", "/d/none"] {
        assert_eq!(revision.lookup(&path(name)).await.unwrap(), None);
        assert_eq!(revision.hot.get(&path(name)), Some(None), "an absence is an answer, too");
    }
    assert_eq!(revision.hot.load().0, 6);
}

#[tokio::test]
async fn errors_are_not_remembered() {
    let mut repo = TestRepo::new("revision.test.repo");
    repo.nested("/n");
    repo.file("/n/f", b"x");
    let published = repo.publish();
    let revision = open(&published).await;
    let (parent, _) = revision.catalog_at(&path("/n")).await.unwrap();
    assert!(parent.is_root());
    let reference = revision.root.nested_at(&path("/n")).unwrap().unwrap();
    let object = ObjectId::zlib(reference.hash, ObjectKind::Catalog).server_path();
    let file = published.root().join(published.fqrn()).join(object);
    let away = file.with_extension("away");

    std::fs::rename(&file, &away).unwrap();
    for name in ["/n/f", "/n/none"] {
        let error = revision.lookup(&path(name)).await.unwrap_err();
        assert!(matches!(error, RevisionError::Fetch { .. }), "{error}");
        assert_eq!(revision.hot.get(&path(name)), None);
    }
    std::fs::rename(&away, &file).unwrap();
    assert!(revision.lookup(&path("/n/f")).await.unwrap().is_some());
    assert_eq!(revision.lookup(&path("/n/none")).await.unwrap(), None);
}
