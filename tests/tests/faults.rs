//! Servers that fail while a repository is mounted: right data or EIO, never wrong bytes, never a
//! false "no such file" (facts/behaviours.md section 3.1).
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Network, Rule, TestServer};
use tests::{MountSpec, client, deadline};

const LIMIT: Duration = Duration::from_secs(100);

fn content(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(5000).collect()
}

fn published(names: &[&str]) -> Published {
    let mut repo = TestRepo::new("faults.test.repo");
    for name in names {
        repo.file(format!("/{name}"), content(name));
    }
    repo.file("/cached", b"cached");
    repo.nested("/nested");
    repo.file("/nested/f", b"nested");
    repo.publish()
}

/// Pattern of the object of a file.
fn object(published: &Published, path: &str) -> String {
    let object = published.object_path(&published.file_object(path).unwrap());
    format!("*/{}", object.file_name().unwrap().to_str().unwrap())
}

fn spec(published: &Published, servers: &[&TestServer]) -> MountSpec {
    let bases: Vec<_> = servers.iter().map(|server| server.base(published.fqrn())).collect();
    MountSpec::new(&client!(), published.fqrn(), &bases.join(";"), &published.public_key())
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

type Fault = (&'static str, fn(Rule) -> Rule, bool);

/// Name, fault, and whether asking the same server again heals it.
const FAULTS: [Fault; 13] = [
    ("flipped-once", |rule| rule.first(1).flip_bit(99), true),
    ("flipped", |rule| rule.flip_bit(99), false),
    ("cut", |rule| rule.cut_after(20), false),
    ("empty", |rule| rule.body(b""), false),
    ("not-found", |rule| rule.status(404), false),
    ("server-error", |rule| rule.status(500), false),
    ("forbidden", |rule| rule.status(403), false),
    ("closed", Rule::close, false),
    ("reset", Rule::reset, false),
    ("longer", |rule| rule.body(vec![0; 1 << 20]), false),
    ("endless", Rule::endless, false),
    ("redirect", |rule| rule.redirect("http://127.0.0.1:1/elsewhere"), false),
    ("gzip", |rule| rule.with_header("Content-Encoding", "gzip"), true),
];

#[test]
fn with_one_server_faults_are_eio_and_do_not_stick() {
    deadline(LIMIT, || {
        let published = published(&FAULTS.map(|(name, ..)| name));
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &[&server]).start();
        for (name, fault, heals) in FAULTS {
            server.rule(fault(Rule::on(object(&published, &format!("/{name}")))));
            let read = std::fs::read(mount.path(name));
            if heals {
                assert!(read.unwrap() == content(name), "{name}");
            } else {
                assert_eq!(errno(read), Some(libc::EIO), "{name}");
            }
        }
        server.clear();
        for (name, ..) in FAULTS {
            assert!(std::fs::read(mount.path(name)).unwrap() == content(name), "{name} sticks");
        }
    });
}

#[test]
fn with_a_second_server_faults_are_not_noticed() {
    deadline(LIMIT, || {
        let published = published(&FAULTS.map(|(name, ..)| name));
        for (name, fault, _) in FAULTS {
            let (bad, good) =
                (TestServer::serving(published.root()), TestServer::serving(published.root()));
            let mount = spec(&published, &[&bad, &good]).start();
            bad.rule(fault(Rule::on(object(&published, &format!("/{name}")))));
            assert!(std::fs::read(mount.path(name)).unwrap() == content(name), "{name}");
        }
    });
}

#[test]
fn silence_and_stalls_end_within_their_time() {
    deadline(LIMIT, || {
        let published = published(&["silent", "stalled"]);
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &[&server]).start();
        server.rule(Rule::on(object(&published, "/silent")).stall_after(0));
        server.rule(Rule::on(object(&published, "/stalled")).stall_after(30));
        std::thread::scope(|scope| {
            for name in ["silent", "stalled"] {
                let path = mount.path(name);
                scope.spawn(move || {
                    // Twice the timeout of 10 s; well before the watchdog.
                    let start = std::time::Instant::now();
                    assert_eq!(errno(std::fs::read(path)), Some(libc::EIO), "{name}");
                    assert!(start.elapsed() < Duration::from_secs(25), "{name}");
                });
            }
        });
    });
}

#[test]
fn without_network_the_cached_part_goes_on_and_the_rest_is_eio() {
    deadline(LIMIT, || {
        let published = published(&["cold"]);
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &[&server]).start();
        assert_eq!(std::fs::read(mount.path("cached")).unwrap(), b"cached");
        server.set_network(Network::Refusing);
        assert_eq!(std::fs::read(mount.path("cached")).unwrap(), b"cached");
        assert_eq!(errno(std::fs::read(mount.path("cold"))), Some(libc::EIO));
        assert_eq!(errno(std::fs::read(mount.path("missing"))), Some(libc::ENOENT));
        assert!(std::fs::symlink_metadata(mount.path("nested")).unwrap().is_dir());
        assert_eq!(errno(std::fs::read_dir(mount.path("nested"))), Some(libc::EIO));
        assert_eq!(errno(std::fs::read(mount.path("nested/f"))), Some(libc::EIO));
        assert_eq!(errno(std::fs::read(mount.path("nested/missing"))), Some(libc::EIO));
        server.set_network(Network::Up);
        assert!(std::fs::read(mount.path("cold")).unwrap() == content("cold"));
        assert_eq!(std::fs::read(mount.path("nested/f")).unwrap(), b"nested");
        assert_eq!(errno(std::fs::read(mount.path("nested/missing"))), Some(libc::ENOENT));
    });
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// What a crash, a clean-up or a curious person leaves of the cache is fetched again.
#[test]
fn a_damaged_cache_is_mended() {
    deadline(LIMIT, || {
        let published = published(&["x"]);
        let server = TestServer::serving(published.root());
        let cache = tempfile::tempdir().unwrap();
        std::fs::set_permissions(cache.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let damages: [fn(&Path); 4] = [
            |path| std::fs::write(path, b"").unwrap(),
            |path| std::fs::write(path, b"something else entirely").unwrap(),
            |path| std::fs::remove_file(path).unwrap(),
            |path| {
                std::fs::remove_file(path).unwrap();
                std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
            },
        ];
        let spec = spec(&published, &[&server]).cache_dir(cache.path());
        let read = || {
            let mount = spec.start();
            assert!(std::fs::read(mount.path("x")).unwrap() == content("x"));
            assert_eq!(std::fs::read(mount.path("nested/f")).unwrap(), b"nested");
        };
        read();
        for damage in damages {
            let objects = files_below(&cache.path().join("v1/objects"));
            assert!(objects.len() >= 4, "{objects:?}");
            objects.iter().for_each(|path| damage(path));
            read();
        }
    });
}
