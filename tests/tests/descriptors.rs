//! A server with few descriptors: everything is right, and where there is none left it is EIO.

#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs::{self, File};
use std::io::Read as _;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fixtures::publish::{Published, TestRepo};
use fixtures::server::TestServer;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use tests::mount::limit_open_files;
use tests::{MountSpec, StopAtEnd, TestMount, client, deadline};

const LIMIT: Duration = Duration::from_secs(200);
const FQRN: &str = "descriptors.test.repo";
/// The smallest limit that is promised to be enough.
const OPEN_FILES: u64 = 256;
/// Nested catalogs: so many, each with so many below it.
const OUTER: usize = 20;
const INNER: usize = 100;
const READERS: usize = 1000;
/// Threads of readers only wait.
const STACK: usize = 128 * 1024;

fn directory(number: usize) -> String {
    format!("n{}/m{}", number / INNER, number % INNER)
}

fn content(number: usize) -> Vec<u8> {
    format!("content {number}\n").into_bytes()
}

/// The first `count` directories, each a catalog.
fn published(count: usize) -> Published {
    let mut repo = TestRepo::new(FQRN);
    for number in 0..count {
        if number % INNER == 0 {
            repo.nested(format!("/n{}", number / INNER));
        }
        let directory = directory(number);
        repo.nested(format!("/{directory}"));
        repo.file(format!("/{directory}/f"), content(number));
    }
    repo.publish()
}

/// This process holds servers and readers.
fn raise_own_limit() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = 4096.min(hard);
    assert!(wanted > 2 * READERS as u64, "the hard limit of {hard} is too low for this test");
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard).unwrap();
}

fn open_now(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Opens a file in each of many catalogs at once, and reads them while all are open.
fn read_at_once(mount: &TestMount, numbers: impl Iterator<Item = usize>) {
    let numbers: Vec<_> = numbers.collect();
    let all_open = Barrier::new(numbers.len());
    thread::scope(|scope| {
        for number in numbers {
            let (path, all_open) = (mount.path(format!("{}/f", directory(number))), &all_open);
            let reader = move || {
                let file = File::open(&path);
                all_open.wait();
                let mut bytes = Vec::new();
                file.unwrap_or_else(|error| panic!("open {}: {error}", path.display()))
                    .read_to_end(&mut bytes)
                    .unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
                assert_eq!(bytes, content(number), "{}", path.display());
            };
            thread::Builder::new().stack_size(STACK).spawn_scoped(scope, reader).unwrap();
        }
    });
}

#[test]
fn two_thousand_catalogs_and_a_thousand_readers_need_no_more_than_256() {
    deadline(LIMIT, || {
        raise_own_limit();
        let published = published(OUTER * INNER);
        let server = TestServer::serving(published.root());
        let spec = MountSpec::published(&client!(), &published, &[&server]);
        let mount = spec.open_files(OPEN_FILES).start();
        let process = mount.server();
        let (stop, most) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            let _stop = StopAtEnd(&stop);
            let sampler = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    most.fetch_max(open_now(process), Ordering::Relaxed);
                    thread::yield_now();
                }
            });
            assert!(!sampler.is_finished());
            // A third was never seen before it is read by all at once.
            for number in (0..OUTER * INNER).filter(|number| number % 3 != 0) {
                let listed: Vec<_> = fs::read_dir(mount.path(directory(number)))
                    .unwrap_or_else(|error| panic!("{}: {error}", directory(number)))
                    .map(|entry| entry.unwrap().file_name())
                    .collect();
                assert_eq!(listed, ["f"], "{}", directory(number));
                assert!(fs::metadata(mount.path(format!("{}/none", directory(number)))).is_err());
            }
            read_at_once(&mount, (0..OUTER * INNER).step_by(2));
            read_at_once(&mount, (0..OUTER * INNER).skip(1).step_by(2));
        });
        let most = most.into_inner();
        println!("at most {most} descriptors");
        assert!(most <= usize::try_from(OPEN_FILES).unwrap(), "{most}");
        assert!(most > 60, "nobody was watched: {most}");
        let log = mount.log();
        for complaint in ["Too many open files", "out of file descriptors", "unable to open"] {
            assert!(!log.contains(complaint), "{log}");
        }
    });
}

fn set_limit(pid: Pid, soft: u64) {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: OPEN_FILES };
    // SAFETY: the first pointer is to a value that lives, the second may be null.
    let changed = unsafe {
        libc::prlimit(pid.as_raw(), libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut())
    };
    assert_eq!(changed, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn without_descriptors_it_is_eio_and_afterwards_all_is_well() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        repo.file("/seen", content(1));
        repo.file("/new", content(2));
        for name in ["a", "b"] {
            repo.nested(format!("/{name}"));
            repo.file(format!("/{name}/f"), content(3));
        }
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let cache = tempfile::tempdir().unwrap();
        fs::set_permissions(cache.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .unwrap();
        let spec = MountSpec::published(&client!(), &published, &[&server])
            .impatient()
            .cache_dir(cache.path())
            .open_files(OPEN_FILES);
        let before = spec.start();
        for name in ["seen", "a/f"] {
            fs::read(before.path(name)).unwrap();
        }
        drop(before);

        let mount = spec.start();
        assert_eq!(fs::read(mount.path("seen")).unwrap(), content(1));
        for name in ["new", "a", "b"] {
            mount.lstat(name);
        }
        server.reset_log();
        let process = mount.server();
        set_limit(process, 3);
        for name in ["new", "a/f", "a/none", "b/f", "b/none"] {
            let error = fs::read(mount.path(name)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}: {error}");
        }
        let error = fs::read_dir(mount.path("a")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
        // What needs no new descriptor works.
        assert_eq!(fs::read(mount.path("seen")).unwrap(), content(1));
        let missing = fs::metadata(mount.path("missing")).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
        assert_eq!(server.count("*/data/*"), 0, "{:?}", server.requests());

        set_limit(process, OPEN_FILES);
        let start = Instant::now();
        assert_eq!(fs::read(mount.path("a/f")).unwrap(), content(3));
        // It was in the cache, and our shortage was no reason to throw it away.
        assert_eq!(server.count("*/data/*"), 0, "{:?}", server.requests());
        assert_eq!(fs::read(mount.path("new")).unwrap(), content(2));
        assert_eq!(fs::read(mount.path("b/f")).unwrap(), content(3));
        for name in ["a/none", "b/none"] {
            let missing = fs::metadata(mount.path(name)).unwrap_err();
            assert_eq!(missing.raw_os_error(), Some(libc::ENOENT), "{name}");
        }
        assert!(start.elapsed() < Duration::from_secs(5), "no server was blamed");
    });
}

#[test]
fn commands_need_no_more_either() {
    deadline(LIMIT, || {
        const COUNT: usize = 400;
        let published = published(COUNT);
        let server = TestServer::serving(published.root());
        let cache = tempfile::tempdir().unwrap();
        let targets = (0..COUNT).map(|number| format!("{FQRN}:/{}/f", directory(number)));
        let mut command = client!().command();
        command
            .args(["cat", "--server", &server.base(FQRN), "--public-key"])
            .arg(published.public_key())
            .arg("--cache-dir")
            .arg(cache.path())
            .args(targets);
        limit_open_files(&mut command, OPEN_FILES);
        let output = command.output().unwrap();
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && wrong.is_empty(), "{wrong}");
        let expected: Vec<u8> = (0..COUNT).flat_map(content).collect();
        assert!(output.stdout == expected);
    });
}
