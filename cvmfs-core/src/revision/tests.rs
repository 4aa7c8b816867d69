//! Lookups of a published repository that is read from the disk.

use fixtures::publish::{Published, TestRepo};

use super::*;
use crate::cache::MemoryCache;
use crate::descriptors::DescriptorBudget;
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
    let catalogs = Arc::new(OpenCatalogs::new(&DescriptorBudget::of_limit(0)));
    let variables = SymlinkVariables::default();
    Revision::open(fqrn, Arc::new(fetcher), catalogs, &root, variables).await.unwrap()
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
    let root = revision.catalog(&revision.root).await.unwrap();
    let reference = root.nested_at(&path("/n"), &Budget::long()).unwrap().unwrap();
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

#[tokio::test]
async fn catalogs_that_were_closed_are_opened_again() {
    let mut repo = TestRepo::new("revision.test.repo");
    let deepest = (0..40).fold(String::new(), |path, number| {
        let path = format!("{path}/n{number}");
        repo.nested(&path);
        repo.file(format!("{path}/f"), b"x");
        path
    });
    let published = repo.publish();
    let revision = open(&published).await;
    let bound = DescriptorBudget::of_limit(0).catalogs;
    assert!(bound < 40);
    assert!(revision.lookup(&path(&format!("{deepest}/f"))).await.unwrap().is_some());
    let statistics = revision.statistics();
    assert_eq!(statistics.loaded_catalogs, bound + 1, "and the root, which counts always");
    assert_eq!(revision.number(), 1);
    for end in deepest.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0) {
        let listed = revision.list(&path(&deepest[..end])).await.unwrap();
        assert_eq!(listed.len(), 2);
    }
    assert!(revision.list(&RepoPath::root()).await.is_ok());
    // The way there is remembered: only the catalogs that are asked are opened, not all above.
    let opened = || revision.fetcher.statistics().hits.load(std::sync::atomic::Ordering::SeqCst);
    let before = opened();
    assert_eq!(revision.list(&path(&deepest)).await.unwrap().len(), 1);
    assert!(opened() - before <= 2, "{}", opened() - before);
    assert!(revision.catalogs.peek(&revision.root).is_some(), "in use all the time");
}
