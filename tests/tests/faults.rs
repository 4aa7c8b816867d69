//! With the default time limits, and with a cache that was damaged: right data or EIO. The faults
//! one by one are in `object_faults`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Rule, TestServer};
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
    MountSpec::published(&client!(), published, servers)
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
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
            let objects = files_below(&cache.path().join("v2/objects"));
            assert!(objects.len() >= 4, "{objects:?}");
            objects.iter().for_each(|path| damage(path));
            read();
        }
    });
}
