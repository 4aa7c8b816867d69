//! Large repositories, many catalogs, many repositories: what a server holds and asks for stays in
//! bounds. Times are measured by `scale` and `readers` of `benches`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fixtures::publish::{Content, Published, TestRepo};
use fixtures::server::TestServer;
use nix::sys::signal::{Signal, kill};
use tests::{MountSpec, TestMount, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(200);
/// From a publication or a death to the next service, on a busy machine.
const SOON: Duration = Duration::from_secs(60);
const READERS: usize = 64;

#[allow(clippy::disallowed_methods, reason = "chosen by whoever runs the test by hand")]
fn given(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// Resident bytes of the process that serves the mount.
fn memory(mount: &TestMount) -> usize {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", mount.server())).unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Rss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

fn descriptors(mount: &TestMount) -> usize {
    fs::read_dir(format!("/proc/{}/fd", mount.server())).unwrap().count()
}

fn requests(mount: &TestMount) -> usize {
    mount.attribute("user.requests").unwrap().parse().unwrap()
}

/// Lists everything with attributes; returns the number of entries.
fn walk(root: &Path) -> usize {
    let (mut directories, mut entries) = (vec![root.to_owned()], 0);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            entries += 1;
            if entry.metadata().unwrap().is_dir() {
                directories.push(entry.path());
            }
        }
    }
    entries
}

/// 64 threads do something with each number.
fn in_parallel(numbers: usize, work: impl Fn(usize) + Sync) {
    side_by_side(READERS, numbers, work);
}

fn side_by_side(readers: usize, numbers: usize, work: impl Fn(usize) + Sync) {
    let (next, work) = (AtomicUsize::new(0), &work);
    std::thread::scope(|scope| {
        for _ in 0..readers {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers {
                        break;
                    }
                    work(number);
                }
            });
        }
    });
}

const FILES_IN_DIRECTORY: usize = 500;
/// Bytes that a server may hold for a file that the kernel knows: its path, which has 15 here, its
/// place in the table, and what the allocator does not give back.
const BYTES_OF_FILE: usize = 250;
/// Bytes of what does not grow: rows in use, open catalogs, listings.
const BYTES_IN_USE: usize = 40 << 20;

fn file(number: usize) -> String {
    format!("d{:04}/f{:03}", number / FILES_IN_DIRECTORY, number % FILES_IN_DIRECTORY)
}

fn content(number: usize, version: usize) -> Content {
    // Some differ, so that something can be mistaken for something else.
    Content::from(format!("content {} of version {version}\n", number % 100))
}

/// More entries than any table keeps rows for. All that the kernel knows stays usable: it is read,
/// over a new revision and the death of the server, while memory is bounded.
///
/// The long run: `CVMFS_FUSE_TEST_SCALE=1000000 cargo test -p tests --test scale -- --nocapture`
#[test]
fn what_the_kernel_knows_is_cheap_and_stays_usable() {
    let files = given("CVMFS_FUSE_TEST_SCALE", 120_000);
    deadline(LIMIT + Duration::from_millis(files as u64), || {
        let mut repo = TestRepo::new("scale.test.repo");
        repo.ttl(1);
        for number in 0..files {
            repo.file(format!("/{}", file(number)), content(number, 1));
        }
        for directory in (0..files / FILES_IN_DIRECTORY).step_by(4) {
            repo.nested(format!("/d{directory:04}"));
        }
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = MountSpec::published(&client!(), &published, &[&server]).start();
        let before = memory(&mount);
        let first_requests = requests(&mount);
        assert_eq!(walk(mount.root()), files + files / FILES_IN_DIRECTORY);
        let asked = requests(&mount) - first_requests;
        let each = memory(&mount).saturating_sub(before) / files;
        #[allow(clippy::print_stderr, reason = "figures of the test")]
        {
            eprintln!("{files} files known: {each} bytes each, {asked} requests of the kernel");
        }
        let grown = each * files;
        assert!(grown <= BYTES_IN_USE + BYTES_OF_FILE * files, "{grown} bytes for {files} files");
        assert!(asked < files / 10, "{asked} requests to list {files} files");

        // Its inode is the one that was used least recently.
        let check = |number: usize, version| {
            let path = mount.path(file(number));
            let (want, found) = (content(number, version).bytes(), fs::read(&path).unwrap());
            assert_eq!(String::from_utf8_lossy(&found), String::from_utf8_lossy(&want), "{path:?}");
            assert_eq!(fs::metadata(&path).unwrap().len(), want.len() as u64);
        };
        let step = files / 1000;
        in_parallel(1000, |number| check(number * step, 1));

        // Opens without a word: what is open was not read, and its row is not kept.
        let held: Vec<_> = (1..=200)
            .map(|number| number * step + 1)
            .map(|number| (number, File::open(mount.path(file(number))).unwrap()))
            .collect();
        let inos: Vec<_> = held.iter().map(|(_, file)| file.metadata().unwrap().ino()).collect();
        let gone = held[100..].iter().map(|&(number, _)| number);
        for &(number, _) in &held[..100] {
            repo.file(format!("/{}", file(number)), content(number, 2));
        }
        for number in gone.clone() {
            repo.remove(format!("/{}", file(number)));
        }
        repo.publish();
        let arrived = || {
            fs::read(mount.path(file(held[0].0))).unwrap() == content(held[0].0, 2).bytes()
                && fs::metadata(mount.path(file(held[199].0))).is_err()
        };
        wait_until(SOON, "the new revision", arrived).unwrap();
        for &(number, _) in &held[..100] {
            check(number, 2);
        }
        let old = |half: &[(usize, File)]| {
            for (number, open) in half {
                let want = content(*number, 1).bytes();
                let mut found = vec![0; want.len() + 10];
                let len = open.read_at(&mut found, 0).unwrap();
                assert_eq!(found[..len], want, "{number} changed under a descriptor");
            }
        };
        // One half before, one half after the death of the server.
        let (first, second) = held.split_at(50);
        old(first);
        let dead = mount.server();
        kill(dead, Signal::SIGKILL).unwrap();
        wait_until(SOON, "a successor", || mount.server() != dead).unwrap();
        old(second);
        for ((_, file), ino) in held.iter().zip(inos) {
            assert_eq!(file.metadata().unwrap().ino(), ino);
        }
        in_parallel(500, |number| check(number * step + 2, 1));
    });
}

/// Nested catalogs: each is downloaded once, few are open at a time.
#[test]
fn two_thousand_catalogs() {
    const CATALOGS: usize = 2000;
    const FILES: usize = 5;
    deadline(LIMIT, || {
        let mut repo = TestRepo::new("catalogs.test.repo");
        repo.ttl(3600);
        let name = |catalog: usize, number: usize| {
            format!("g{:02}/c{catalog:04}/f{number}", catalog / 100)
        };
        for catalog in 0..CATALOGS {
            for number in 0..FILES {
                repo.file(format!("/{}", name(catalog, number)), b"x");
            }
            repo.nested(format!("/g{:02}/c{catalog:04}", catalog / 100));
        }
        let published = repo.publish();
        assert_eq!(published.catalog_count(), CATALOGS + 1);
        let server = TestServer::serving(published.root());
        let mount = MountSpec::published(&client!(), &published, &[&server])
            .without_prefetch()
            .open_files(1024)
            .start();
        let before = memory(&mount);
        let entries = CATALOGS * (FILES + 1) + CATALOGS / 100;
        assert_eq!(walk(mount.root()), entries);
        assert_eq!(server.count("*/data/*C"), CATALOGS + 1);
        in_parallel(CATALOGS, |catalog| {
            let path = mount.path(name(catalog, 3));
            assert_eq!(fs::read(&path).unwrap(), b"x");
            assert!(fs::metadata(path.with_extension("none")).is_err());
        });
        assert_eq!(server.count("*/data/*C"), CATALOGS + 1, "a catalog was downloaded again");
        let (grown, open) = (memory(&mount).saturating_sub(before), descriptors(&mount));
        #[allow(clippy::print_stderr, reason = "figures of the test")]
        {
            eprintln!("{CATALOGS} catalogs: {} KiB, {open} descriptors", grown >> 10);
        }
        assert!(open < 1024, "{open} descriptors");
        assert!(grown < 96 << 20, "{grown} bytes");
    });
}

/// More readers than cores share what a server can do, and lose nothing of it by being many.
#[test]
fn sixty_four_readers_get_what_two_get() {
    const FILES: usize = 2000;
    deadline(LIMIT, || {
        let mut repo = TestRepo::new("readers.test.repo");
        repo.ttl(3600);
        let text = |number: usize| format!("file {number}\n").repeat(300);
        for number in 0..FILES {
            repo.file(format!("/d{}/f{number}", number % 7), text(number).into_bytes());
        }
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let cache = tempfile::tempdir().unwrap();
        let spec = MountSpec::published(&client!(), &published, &[&server]);
        let spec = spec.cache_dir(cache.path());
        // The kernel has nothing of a new mount, the cache has all from the second one on.
        let read_all = |readers: usize| {
            let mount = spec.start();
            let start = Instant::now();
            side_by_side(readers, FILES, |number| {
                let path = mount.path(format!("d{}/f{number}", number % 7));
                assert_eq!(fs::read_to_string(path).unwrap(), text(number));
            });
            start.elapsed()
        };
        read_all(READERS);
        let of = |readers| (0..3).map(|_| read_all(readers)).min().unwrap();
        let (two, many) = (of(2), of(READERS));
        // The best of three, and half: a collapse is what is looked for, and others use the machine.
        assert!(many < two * 2, "{two:?} with 2 readers, {many:?} with {READERS}");
    });
}

/// One process, 64 readers in 20 repositories: nobody gets another one's content.
#[test]
fn twenty_repositories() {
    const REPOSITORIES: usize = 20;
    const FILES: usize = 100;
    deadline(LIMIT, || {
        let fqrn = |number: usize| format!("r{number}.test.repo");
        let text = |repository: usize, number: usize| format!("{number} of {repository}");
        let published: Vec<Published> = (0..REPOSITORIES)
            .map(|repository| {
                let mut repo = TestRepo::new(&fqrn(repository));
                for number in 0..FILES {
                    repo.file(format!("/d/f{number}"), text(repository, number).into_bytes());
                }
                repo.publish()
            })
            .collect();
        let server = TestServer::empty();
        for one in &published {
            server.add_root(one.root());
        }
        let keys: Vec<PathBuf> = published.iter().map(Published::public_key).collect();
        let keys: Vec<&Path> = keys.iter().map(PathBuf::as_path).collect();
        let servers = format!("{}/@fqrn@", server.url());
        let mount = MountSpec::automount(&client!(), &servers, &keys).start();
        let before = memory(&mount);
        in_parallel(REPOSITORIES * FILES, |number| {
            // Neighbours in time are in different repositories.
            let (repository, number) = (number % REPOSITORIES, number / REPOSITORIES);
            let path = mount.root().join(fqrn(repository)).join(format!("d/f{number}"));
            assert_eq!(fs::read_to_string(path).unwrap(), text(repository, number));
        });
        let open = mount.attribute("user.automount").unwrap();
        assert_eq!(open.parse(), Ok(REPOSITORIES));
        let (grown, open) = (memory(&mount).saturating_sub(before), descriptors(&mount));
        #[allow(clippy::print_stderr, reason = "figures of the test")]
        {
            eprintln!("{REPOSITORIES} repositories: {} KiB, {open} descriptors", grown >> 10);
        }
        assert!(grown < REPOSITORIES * (4 << 20), "{grown} bytes");
    });
}
