//! [`RootFs`] over published repositories, without a kernel.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use cvmfs_core::cache::MemoryCache;
use fixtures::publish::{Published, TestRepo};
use tokio::sync::Semaphore;

use super::super::RepoFsOptions;
use super::super::journal::Journal;
use super::super::tests::{list, open};
use super::*;

/// Longest wait for something that is about to happen.
const SOON: Duration = Duration::from_secs(20);

/// Opens what was published, and counts.
struct Shelf {
    published: HashMap<String, Published>,
    opened: Mutex<Vec<String>>,
    /// Openings of `slow.` wait for it.
    held: Semaphore,
    /// What a supervisor would have.
    journals: Mutex<HashMap<Fqrn, OwnedFd>>,
}

impl Opener for Arc<Shelf> {
    fn is_plausible(&self, fqrn: &Fqrn) -> bool {
        fqrn.domain() == "test.repo"
    }

    fn open(&self, wanted: Wanted) -> BoxFuture<'static, Result<Opened, OpenError>> {
        let shelf = Arc::clone(self);
        Box::pin(async move {
            let Wanted { fqrn, gate, former, .. } = wanted;
            shelf.opened.lock().push(fqrn.to_string());
            if fqrn.organisation().starts_with("slow") {
                shelf.held.acquire().await.unwrap().forget();
            }
            if fqrn.organisation() == "dark" {
                return Err(OpenError::Failed("nobody answers".to_owned()));
            }
            let published = shelf.published.get(fqrn.as_str()).ok_or(OpenError::Unknown)?;
            let repository = open(published, Arc::new(MemoryCache::default())).await;
            let journal = match &former {
                Some(former) => former.journal(),
                None => Some(Arc::new(Journal::new().unwrap())),
            };
            let left = former.map(|former| former.inheritance()).unwrap_or_default();
            let fs = RepoFs::inheriting(repository, RepoFsOptions::default(), journal, left, None);
            let fs = fs.behind(gate);
            let journal = fs.journal().unwrap().descriptor().unwrap();
            shelf.journals.lock().insert(fqrn, journal);
            Ok(Opened { fs: Arc::new(fs), attendant: Box::new(()) })
        })
    }

    fn dismissed(&self, fqrn: &Fqrn) {
        self.journals.lock().remove(fqrn);
    }

    fn usage(&self) -> CacheUsage {
        CacheUsage { used: 512, limit: 5120 }
    }
}

impl Shelf {
    fn with(names: &[&str]) -> Arc<Self> {
        let publish = |name: &&str| {
            let mut repo = TestRepo::new(name);
            repo.dir("/d");
            repo.file("/d/f", name.as_bytes());
            (name.to_string(), repo.publish())
        };
        let published = names.iter().map(publish).collect();
        Arc::new(Self {
            published,
            opened: Mutex::default(),
            held: Semaphore::new(0),
            journals: Mutex::default(),
        })
    }

    fn count(&self, name: &str) -> usize {
        self.opened.lock().iter().filter(|opened| *opened == name).count()
    }
}

fn fqrn(name: &str) -> Fqrn {
    name.parse().unwrap()
}

fn show(shelf: &Arc<Shelf>, options: RootFsOptions) -> Arc<RootFs> {
    Arc::new(RootFs::new(
        Arc::new(Arc::clone(shelf)),
        RootFsOptions { most: 16, ..options },
        Vec::new(),
    ))
}

async fn find(fs: &RootFs, path: &str) -> Ino {
    let mut ino = ROOT_INO;
    for name in path.split('/') {
        ino = fs.lookup(ino, name.as_bytes()).await.unwrap().attributes.ino;
    }
    ino
}

async fn errno(fs: &RootFs, name: &[u8]) -> i32 {
    fs.lookup(ROOT_INO, name).await.unwrap_err().errno()
}

async fn names(fs: &RootFs) -> Vec<String> {
    let listed = list(fs, ROOT_INO, 0, 3, false).await;
    let mut names: Vec<_> =
        listed.into_iter().map(|(name, _)| String::from_utf8(name).unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn repositories_with_the_same_paths_do_not_mix() {
    let shelf = Shelf::with(&["a.test.repo", "b.test.repo"]);
    let fs = show(&shelf, RootFsOptions::default());
    let mut seen = std::collections::HashSet::new();
    for name in ["a.test.repo", "b.test.repo"] {
        let (root, d) = (find(&fs, name).await, find(&fs, &format!("{name}/d")).await);
        let f = find(&fs, &format!("{name}/d/f")).await;
        assert!(seen.insert(root) && seen.insert(d) && seen.insert(f));
        assert_eq!(fs.read(f, 0, 0, 99).await.unwrap(), name.as_bytes());
        assert_eq!(fs.getattr(f).await.unwrap().attributes.ino, f);
        assert_eq!(fs.getattr(root).await.unwrap().attributes.ino, root);
        // The parent of a repository is the root of the mount, that of a directory is inside.
        assert_eq!(fs.lookup(root, b"..").await.unwrap().attributes.ino, ROOT_INO);
        assert_eq!(fs.lookup(d, b"..").await.unwrap().attributes.ino, root);
        for plus in [false, true] {
            let expected = [(b".".to_vec(), root), (b"..".to_vec(), ROOT_INO), (b"d".to_vec(), d)];
            let handle = fs.opendir(root).await.unwrap();
            assert_eq!(list(&*fs, root, handle, 2, plus).await, expected);
            fs.releasedir(root, handle);
            let expected = [(b".".to_vec(), d), (b"..".to_vec(), root), (b"f".to_vec(), f)];
            let handle = fs.opendir(d).await.unwrap();
            assert_eq!(list(&*fs, d, handle, 9, plus).await, expected);
            fs.releasedir(d, handle);
        }
        assert_eq!(fs.server_attribute(f, b"user.fqrn").unwrap(), name.as_bytes());
        assert!(fs.statfs(f).await.unwrap().files > 0);
        assert_eq!(fs.lookup(d, b"none").await.unwrap_err().errno(), libc::ENOENT);
        assert_eq!(fs.opendir(f).await.unwrap_err().errno(), libc::ENOTDIR);
    }
    assert_eq!(fs.statfs(ROOT_INO).await.unwrap().blocks, 10);
    assert_eq!(fs.server_attribute(ROOT_INO, b"user.automount").unwrap(), b"2");
    assert_eq!(fs.server_attribute(ROOT_INO, b"user.fqrn"), None);
    for ino in [2, 99, Slot::new(4000).unwrap().outward(1), u64::MAX] {
        assert_eq!(fs.getattr(ino).await.unwrap_err().errno(), libc::ESTALE, "{ino}");
        fs.forget(ino, 3);
        fs.releasedir(ino, 1);
    }
}

#[tokio::test]
async fn names_that_cannot_be_repositories_cost_nothing() {
    let shelf = Shelf::with(&["a.test.repo"]);
    let fs = show(&shelf, RootFsOptions::default());
    let long = [b'x'; 200];
    for name in [
        b".git".as_slice(),
        b"lib",
        b"a.unknown.org",
        b"a b.test.repo",
        b"\xff.test.repo",
        b".Trash-0",
        b"a.test.repo.",
        b"autorun.inf",
        &long,
    ] {
        assert_eq!(errno(&fs, name).await, libc::ENOENT, "{name:?}");
    }
    assert_eq!(errno(&fs, &[b'x'; 256]).await, libc::ENAMETOOLONG);
    assert!(shelf.opened.lock().is_empty());
    assert_eq!(names(&fs).await, [".", ".."]);
}

#[tokio::test]
async fn failures_are_remembered_and_stay_with_their_repository() {
    let shelf = Shelf::with(&["a.test.repo"]);
    let fs = show(&shelf, RootFsOptions::default());
    for _ in 0..5 {
        assert_eq!(errno(&fs, b"none.test.repo").await, libc::ENOENT);
        assert_eq!(errno(&fs, b"dark.test.repo").await, libc::EIO);
        find(&fs, "a.test.repo/d/f").await;
    }
    for name in ["none.test.repo", "dark.test.repo", "a.test.repo"] {
        assert_eq!(shelf.count(name), 1, "{name}");
    }
    assert_eq!(names(&fs).await, [".", "..", "a.test.repo"]);
}

#[tokio::test]
async fn a_strict_list_admits_nobody_else() {
    let shelf = Shelf::with(&["a.test.repo", "b.test.repo", "c.else.where"]);
    let listed = vec![fqrn("a.test.repo"), fqrn("c.else.where")];
    let fs = show(&shelf, RootFsOptions { listed, only_listed: true, ..RootFsOptions::default() });
    assert_eq!(names(&fs).await, [".", "..", "a.test.repo", "c.else.where"]);
    assert_eq!(errno(&fs, b"b.test.repo").await, libc::ENOENT);
    assert!(shelf.opened.lock().is_empty(), "nothing is opened by a listing");
    find(&fs, "a.test.repo/d/f").await;
    // Listed, so it is believed, whatever its domain.
    find(&fs, "c.else.where/d/f").await;
}

#[tokio::test]
async fn a_listing_with_attributes_leads_to_repositories_that_are_not_open_yet() {
    let shelf = Shelf::with(&["a.test.repo"]);
    let listed = vec![fqrn("a.test.repo")];
    let fs = show(&shelf, RootFsOptions { listed, ..RootFsOptions::default() });
    let listed = list(&*fs, ROOT_INO, 0, 9, true).await;
    assert!(shelf.opened.lock().is_empty());
    let root = listed[2].1;
    // The kernel knows it now, and asks it without a lookup of its name.
    assert_eq!(fs.getattr(root).await.unwrap().attributes.ino, root);
    assert_eq!(find(&fs, "a.test.repo").await, root);
}

#[tokio::test(flavor = "multi_thread")]
async fn lookups_of_one_name_share_an_attempt_which_goes_on_without_them() {
    let shelf = Shelf::with(&["slow.test.repo"]);
    let fs = show(&shelf, RootFsOptions::default());
    let ask = || {
        let fs = Arc::clone(&fs);
        tokio::spawn(async move { fs.lookup(ROOT_INO, b"slow.test.repo").await.unwrap() })
    };
    let (given_up, waiting): (_, Vec<_>) = (ask(), (0..20).map(|_| ask()).collect());
    let start = Instant::now();
    while shelf.count("slow.test.repo") == 0 {
        assert!(start.elapsed() < SOON);
        tokio::task::yield_now().await;
    }
    given_up.abort();
    shelf.held.add_permits(1);
    for waiting in waiting {
        let found = tokio::time::timeout(SOON, waiting).await.unwrap().unwrap();
        assert_eq!(found.attributes.kind, EntryKind::Directory);
    }
    assert_eq!(shelf.count("slow.test.repo"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_get_no_answer_do_not_hold_up_repositories_that_are_listed() {
    let shelf = Shelf::with(&["a.test.repo"]);
    let listed = vec![fqrn("a.test.repo")];
    let fs = RootFsOptions { listed, ..RootFsOptions::default() };
    let fs = show(&shelf, fs);
    let storm: Vec<_> = (0..100)
        .map(|n| {
            let fs = Arc::clone(&fs);
            let name = format!("slow{n}.test.repo");
            tokio::spawn(async move { fs.lookup(ROOT_INO, name.as_bytes()).await.unwrap_err() })
        })
        .collect();
    let start = Instant::now();
    while shelf.opened.lock().len() < MAX_ATTEMPTS {
        assert!(start.elapsed() < SOON);
        tokio::task::yield_now().await;
    }
    tokio::time::timeout(SOON, find(&fs, "a.test.repo/d/f")).await.unwrap();
    assert_eq!(shelf.opened.lock().len(), MAX_ATTEMPTS + 1, "attempts at a time");
    shelf.held.add_permits(100);
    for asked in storm {
        let error = tokio::time::timeout(SOON, asked).await.unwrap().unwrap();
        assert_eq!(error.errno(), libc::ENOENT);
    }
    assert_eq!(fs.fullness(), (1, 16), "places of failed attempts are free again");
}

#[tokio::test]
async fn a_repository_that_was_closed_comes_back_the_same_whatever_the_kernel_holds() {
    let shelf = Shelf::with(&["a.test.repo", "b.test.repo"]);
    let fs = show(&shelf, RootFsOptions::default());
    let name = fqrn("a.test.repo");
    let root = find(&fs, "a.test.repo").await;
    let d = find(&fs, "a.test.repo/d").await;
    let f = find(&fs, "a.test.repo/d/f").await;
    fs.open(f, 0).await.unwrap();
    let handle = fs.opendir(d).await.unwrap();
    assert!(!fs.close(&name), "a directory is open");
    fs.releasedir(d, handle);
    assert!(!fs.close(&name), "a file is open");
    fs.release(f, 0);
    assert_eq!(fs.unused(Duration::ZERO), std::slice::from_ref(&name));
    assert!(fs.unused(SOON).is_empty());
    assert!(fs.close(&name));
    assert!(fs.unused(Duration::ZERO).is_empty());
    assert_eq!(names(&fs).await, [".", ".."]);
    assert_eq!((fs.fullness().0, shelf.count("a.test.repo")), (0, 1));
    // Another one in between.
    find(&fs, "b.test.repo/d/f").await;
    // The kernel goes on with what it has: a file, a working directory.
    assert_eq!(fs.read(f, 0, 0, 99).await.unwrap(), b"a.test.repo");
    assert_eq!(shelf.count("a.test.repo"), 2);
    assert_eq!(fs.lookup(d, b"..").await.unwrap().attributes.ino, root);
    assert_eq!(find(&fs, "a.test.repo/d/f").await, f);
    let again = show(&shelf, RootFsOptions::default());
    assert_eq!(find(&again, "a.test.repo/d/f").await, f, "another server, the same numbers");
}

#[tokio::test]
async fn what_the_kernel_gives_back_of_a_closed_repository_is_forgotten() {
    let shelf = Shelf::with(&["a.test.repo"]);
    let fs = show(&shelf, RootFsOptions::default());
    let name = fqrn("a.test.repo");
    let (root, d) = (find(&fs, "a.test.repo").await, find(&fs, "a.test.repo/d").await);
    assert!(fs.close(&name));
    fs.forget(d, 1);
    assert_eq!(fs.getattr(d).await.unwrap_err().errno(), libc::ESTALE);
    assert_eq!(fs.getattr(root).await.unwrap().attributes.ino, root);
    // Closed again, and given back in the middle of the next opening.
    let d = find(&fs, "a.test.repo/d").await;
    assert!(fs.close(&name));
    let member = fs.shared.members.read().named(&name).unwrap();
    let former = member.begin();
    fs.forget(d, 1);
    member.give_up();
    assert!(former.unwrap().is_empty());
    assert_eq!(fs.getattr(d).await.unwrap_err().errno(), libc::ESTALE);
}

#[tokio::test]
async fn a_successor_finds_every_repository_by_its_journal() {
    let shelf = Shelf::with(&["a.test.repo", "b.test.repo"]);
    let fs = show(&shelf, RootFsOptions::default());
    let mut known = Vec::new();
    for name in ["a.test.repo", "b.test.repo"] {
        for path in ["", "/d", "/d/f"] {
            known.push(find(&fs, &format!("{name}{path}")).await);
        }
    }
    // One was closed in time.
    assert!(fs.close(&fqrn("b.test.repo")));
    drop(fs);
    let journals = std::mem::take(&mut *shelf.journals.lock());
    let inherited = journals.into_iter().map(|(name, journal)| {
        let (slot, former) = Former::read(journal).unwrap();
        (name, slot.unwrap(), former)
    });
    let options = RootFsOptions { most: 16, ..RootFsOptions::default() };
    let fs = RootFs::new(Arc::new(Arc::clone(&shelf)), options, inherited.collect());
    // What was open counts as open, until nobody has used it for long.
    assert_eq!(names(&fs).await, [".", "..", "a.test.repo"]);
    assert_eq!(fs.unused(Duration::ZERO), [fqrn("a.test.repo")]);
    assert!(fs.close(&fqrn("a.test.repo")));
    assert_eq!(names(&fs).await, [".", ".."]);
    assert_eq!(shelf.opened.lock().len(), 2);
    for ino in &known {
        assert_eq!(fs.getattr(*ino).await.unwrap().attributes.ino, *ino);
    }
    assert_eq!(shelf.count("a.test.repo"), 2);
    assert_eq!(find(&fs, "b.test.repo/d/f").await, known[5]);
    // References that the predecessor counted come back all at once.
    let held = |name| !fs.shared.members.read().named(&fqrn(name)).unwrap().is_dispensable();
    assert!(fs.close(&fqrn("a.test.repo")) && held("a.test.repo"));
    for ino in &known[..3] {
        fs.forget(*ino, 17);
    }
    assert!(!held("a.test.repo"));
}

#[tokio::test]
async fn only_so_many_repositories_are_open_and_the_one_unused_longest_makes_room() {
    let shelf = Shelf::with(&["a.test.repo", "b.test.repo"]);
    let options = RootFsOptions { most: 1, ..RootFsOptions::default() };
    let fs = RootFs::new(Arc::new(Arc::clone(&shelf)), options, Vec::new());
    let f = find(&fs, "a.test.repo/d/f").await;
    fs.open(f, 0).await.unwrap();
    let error = fs.lookup(ROOT_INO, b"b.test.repo").await.unwrap_err();
    assert_eq!(error.errno(), libc::EMFILE);
    assert!(error.to_string().contains("1 repositories are in use"), "{error}");
    fs.release(f, 0);
    let start = Instant::now();
    // Just used.
    while fs.lookup(ROOT_INO, b"b.test.repo").await.is_err() {
        assert!(start.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(fs.open_repositories(), [fqrn("b.test.repo")]);
}
