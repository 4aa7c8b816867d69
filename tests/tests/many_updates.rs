//! Revision after revision under load: nothing breaks, nothing is mixed, and the kernel asks again
//! only for what changed.
//!
//! 60 updates; a client looks once a second. The long run, and the figures (nextest would end it):
//! `CVMFS_FUSE_TEST_UPDATES=500 cargo test -p tests --test many_updates -- --nocapture`
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fixtures::publish::TestRepo;
use fixtures::server::TestServer;
use tests::versioned::{content, version_of};
use tests::{MountSpec, StopAtEnd, TestMount, client, deadline, wait_until};

const FQRN: &str = "many.test.repo";
const DIRECTORIES: usize = 20;
const FILES: usize = 100;
const WALKERS: usize = 8;
const MAPPERS: usize = 4;
/// From a publication to its sight.
const SEEN: Duration = Duration::from_secs(20);

/// How often the kernel has asked for a name.
fn lookups(mount: &TestMount) -> u64 {
    mount.attribute("user.nlookup").unwrap().parse().unwrap()
}

fn names() -> Vec<String> {
    (0..DIRECTORIES * FILES)
        .map(|n| format!("/d{}/f{}", n % DIRECTORIES, n / DIRECTORIES))
        .collect()
}

/// 2,000 small files that stay, in nested catalogs.
fn repo() -> TestRepo {
    let mut repo = TestRepo::new(FQRN);
    repo.ttl(1);
    for name in names() {
        repo.file(&name, name.clone().into_bytes());
    }
    for number in 0..DIRECTORIES {
        repo.nested(format!("/d{number}"));
    }
    repo
}

fn start(repo: &mut TestRepo) -> (TestServer, TestMount) {
    let published = repo.publish();
    let server = TestServer::serving(published.root());
    let key = published.public_key();
    let mount = MountSpec::new(&client!(), FQRN, &server.base(FQRN), &key).start();
    (server, mount)
}

fn wait_for_revision(mount: &TestMount, revision: u64) {
    wait_until(SEEN, "new revision", || mount.revision() == revision).unwrap();
}

#[test]
fn the_kernel_asks_again_only_for_what_changed() {
    deadline(Duration::from_secs(100), || {
        let mut repo = repo();
        let (_server, mount) = start(&mut repo);
        let look = || {
            let before = lookups(&mount);
            for name in names() {
                std::fs::symlink_metadata(mount.path(&name[1..])).unwrap();
            }
            lookups(&mount) - before
        };
        let (first, hot) = (look(), look());
        assert!(first >= 2000, "{first}");
        assert_eq!(hot, 0);
        let mut figures = Vec::new();
        for (revision, changed) in [(2, 0), (3, 1), (4, 10), (5, 100)] {
            for name in names().iter().step_by(2000 / changed.max(1)).take(changed) {
                repo.file(name, format!("{name} {revision}").into_bytes());
            }
            let before = lookups(&mount);
            repo.publish();
            wait_for_revision(&mount, revision);
            // The notices follow the switch; a name that was changed shows that they were taken.
            wait_until(SEEN, "all changes", || {
                names().iter().step_by(2000 / changed.max(1)).take(changed).all(|name| {
                    let want = format!("{name} {revision}").len() as u64;
                    std::fs::metadata(mount.path(&name[1..])).unwrap().len() == want
                })
            })
            .unwrap();
            look();
            figures.push((changed, lookups(&mount) - before));
        }
        #[allow(clippy::print_stderr, reason = "figures of the test")]
        {
            eprintln!("(changed files, lookups of a walk over 2,000 after that): {figures:?}");
        }
        for (changed, lookups) in figures {
            assert!(lookups <= 2 * changed as u64, "{changed} changed, {lookups} lookups");
        }
    });
}

/// A mapping of a whole file.
struct Mapping {
    address: *mut libc::c_void,
    len: usize,
}

impl Mapping {
    fn of(file: &File) -> io::Result<Self> {
        let len = usize::try_from(file.metadata()?.len()).unwrap();
        // SAFETY: a new mapping at an address of the kernel's choice; checked below.
        let address = unsafe {
            let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED);
            libc::mmap(std::ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { address, len })
    }

    fn copy(&self) -> Vec<u8> {
        // SAFETY: mapped with this length until dropped; files of a mount do not shrink.
        unsafe { std::slice::from_raw_parts(self.address.cast::<u8>(), self.len) }.to_vec()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: address and length are those of mmap.
        unsafe { libc::munmap(self.address, self.len) };
    }
}

/// Walks again and again: every name once, every inode number as before, every content whole.
fn walker(root: &Path, stop: &AtomicBool, published: &AtomicU64, walks: &AtomicU64) {
    let mut inodes: HashMap<String, u64> = HashMap::new();
    let mut last = 1;
    while !stop.load(Ordering::Relaxed) {
        for directory in 0..DIRECTORIES {
            let path = root.join(format!("d{directory}"));
            let mut listed = HashSet::new();
            for entry in std::fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                assert!(listed.insert(name.clone()), "d{directory}/{name} is listed twice");
                let metadata = entry.metadata().unwrap();
                if name != "changing" {
                    let key = format!("/d{directory}/{name}");
                    let before = *inodes.entry(key.clone()).or_insert(metadata.ino());
                    assert_eq!(metadata.ino(), before, "{key}");
                }
            }
            assert_eq!(listed.len(), FILES + usize::from(directory == 0), "d{directory}");
        }
        let bytes = std::fs::read(root.join("d0/changing")).unwrap();
        let version = version_of("/d0/changing", &bytes).expect("a whole revision");
        assert!((last..=published.load(Ordering::SeqCst)).contains(&version), "{version}");
        last = version;
        let name = &names()[usize::try_from(version).unwrap() % 2000];
        assert_eq!(std::fs::read(root.join(&name[1..])).unwrap(), name.as_bytes());
        walks.fetch_add(1, Ordering::Relaxed);
    }
}

/// Keeps a mapping and a descriptor over at least one update, and finds both as they were.
fn mapper(root: &Path, stop: &AtomicBool, published: &AtomicU64, held: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        let file = File::open(root.join("d0/changing")).unwrap();
        let mapping = Mapping::of(&file).unwrap();
        let first = mapping.copy();
        let version = version_of("/d0/changing", &first).expect("a whole revision");
        let until = published.load(Ordering::SeqCst) + 2;
        let _ = wait_until(SEEN, "two updates", || {
            stop.load(Ordering::Relaxed) || published.load(Ordering::SeqCst) >= until
        });
        assert!(mapping.copy() == first, "the mapping of version {version} changed");
        assert_eq!(file.metadata().unwrap().len(), first.len() as u64);
        let fresh = Mapping::of(&file).unwrap();
        assert!(fresh.copy() == first, "version {version} mapped again is another");
        held.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn updates_under_walkers_and_mappings() {
    #[allow(clippy::disallowed_methods, reason = "chosen by whoever runs the test by hand")]
    let updates = std::env::var("CVMFS_FUSE_TEST_UPDATES");
    let updates: u64 = updates.map_or(60, |updates| updates.parse().unwrap());
    deadline(Duration::from_secs(40 + 3 * updates), || {
        let mut repo = repo();
        repo.file("/d0/changing", content("/d0/changing", 1));
        let (_server, mount) = start(&mut repo);
        let (stop, published) = (AtomicBool::new(false), AtomicU64::new(1));
        let (walks, held) = (AtomicU64::new(0), AtomicU64::new(0));
        let root = mount.root();
        std::thread::scope(|scope| {
            let (stop, published, walks, held) = (&stop, &published, &walks, &held);
            let _stop = StopAtEnd(stop);
            let walkers: Vec<_> = (0..WALKERS)
                .map(|_| scope.spawn(move || walker(root, stop, published, walks)))
                .collect();
            let mappers: Vec<_> = (0..MAPPERS)
                .map(|_| scope.spawn(move || mapper(root, stop, published, held)))
                .collect();
            for revision in 2..=updates + 1 {
                repo.file("/d0/changing", content("/d0/changing", revision));
                published.store(revision, Ordering::SeqCst);
                repo.publish();
                wait_for_revision(&mount, revision);
                let failed = walkers.iter().chain(&mappers).any(|thread| thread.is_finished());
                assert!(!failed, "a reader found something wrong, see above");
            }
        });
        let (walks, held) = (walks.into_inner(), held.into_inner());
        #[allow(clippy::print_stderr, reason = "figures of the test")]
        {
            eprintln!(
                "{updates} updates under {WALKERS} walkers ({walks} walks over 2,001 files) and \
                 {MAPPERS} mappers ({held} mappings held over updates): no error, no mixture; \
                 {} lookups in all",
                lookups(&mount)
            );
        }
        assert!(walks > 0 && held > 0);
    });
}
