use std::sync::atomic::AtomicUsize;

use cvmfs_core::cache::MemoryCache;
use cvmfs_core::path::RepoPath;
use fixtures::publish::TestRepo;
use tokio::sync::Semaphore;

use super::*;
use crate::fs::tests::open;

async fn revision() -> Arc<Revision> {
    let mut repo = TestRepo::new("pages.test.repo");
    repo.many_files("/d", 1200, |number| (format!("f{number}"), "x"));
    let published = repo.publish();
    open(&published, Arc::new(MemoryCache::default())).await.current()
}

#[tokio::test]
async fn h6_a_page_is_made_once_however_many_ask() {
    let revision = revision().await;
    let (made, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let pages = Pages::default();
    let make = || {
        let (made, gate, revision) = (Arc::clone(&made), Arc::clone(&gate), Arc::clone(&revision));
        async move {
            made.fetch_add(1, Ordering::SeqCst);
            let _turn = gate.acquire().await.unwrap();
            let page = revision.page(&RepoPath::parse(b"/d").unwrap(), 0).await?;
            Ok(Arc::new(Page::new(0, page, revision)))
        }
        .boxed()
    };
    let mut waiting: Vec<_> = (0..50).map(|_| Box::pin(pages.get((7, 1), 0, make))).collect();
    for one in &mut waiting {
        assert!(one.as_mut().now_or_never().is_none());
    }
    assert_eq!((made.load(Ordering::SeqCst), pages.in_the_making()), (1, 1));
    // Those who go leave it to the others; the last one takes it along.
    waiting.truncate(20);
    assert_eq!(pages.in_the_making(), 1);
    waiting.clear();
    assert_eq!(pages.in_the_making(), 0);
    gate.add_permits(1);
    let page = pages.get((7, 1), 0, make).await.unwrap();
    assert_eq!((made.load(Ordering::SeqCst), pages.in_the_making()), (2, 0));
    // And it is at hand for all that is in it.
    let last = page.entries.last().unwrap().0;
    for row in [0, last - 1] {
        let again = pages.get((7, 1), row, || panic!("it is kept")).await.unwrap();
        assert!(Arc::ptr_eq(&page, &again));
    }
    assert!(pages.kept((7, 1), page.next.unwrap()).is_none());
    assert!(pages.kept((7, 2), 0).is_none());
}

#[tokio::test]
async fn h6_what_is_kept_is_bounded() {
    let revision = revision().await;
    let pages = Pages::default();
    let directory = RepoPath::parse(b"/d").unwrap();
    for ino in 0..200 {
        let mut next = Some(0);
        while let Some(row) = next {
            let page = revision.page(&directory, row).await.unwrap();
            let page = Arc::new(Page::new(row, page, Arc::clone(&revision)));
            pages.keep((ino, 1), &page);
            next = page.next;
        }
        assert!(pages.bytes() <= MAX_KEPT + (1 << 20), "{}", pages.bytes());
    }
    assert!(pages.bytes() > MAX_KEPT / 2);
    let before = KEPT_OF_ALL.load(Ordering::SeqCst);
    let held = pages.bytes();
    drop(pages);
    assert!(KEPT_OF_ALL.load(Ordering::SeqCst) <= before - held + (2 << 20));
}
