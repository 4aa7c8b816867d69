//! New revisions under a live mount: what is open keeps its content, new opens see the new one,
//! and nothing but what changed is asked for again.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Network, Rule, TestServer};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use tests::apart::{Mounted, private_mounts};
use tests::{MountSpec, TestMount, client, deadline};

const LIMIT: Duration = Duration::from_secs(100);
/// From a publication to its sight, at a TTL of one second.
const SEEN: Duration = Duration::from_secs(20);

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    tests::wait_until(SEEN, what, condition).unwrap();
}

fn wait_for_revision(mount: &TestMount, number: u64) {
    wait_until(&format!("revision {number}"), || mount.revision() == number);
}

fn spec(published: &Published, servers: &[&TestServer]) -> MountSpec {
    MountSpec::published(&client!(), published, servers).impatient()
}

const FQRN: &str = "updates.test.repo";

#[test]
fn what_is_mounted_on_a_directory_inside_stays_over_an_update() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        repo.ttl(1);
        repo.file("/d/top/old", b"old".to_vec());
        repo.file("/d/other", b"other".to_vec());
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        private_mounts();
        let mount = spec(&published, &[&server]).start();
        let (top, root) = (mount.path("d/top"), mount.root().to_owned());
        let over = Mounted::tmpfs(&top, "size=1m,mode=755");
        std::fs::write(top.join("mine"), b"mine").unwrap();
        // Both the directory that is mounted on and the one above it change.
        repo.file("/d/top/new", b"new".to_vec());
        repo.file("/d/new", b"new".to_vec());
        repo.publish();
        wait_for_revision(&mount, 2);
        wait_until("new file", || mount.path("d/new").exists());
        assert_eq!(std::fs::read(top.join("mine")).unwrap(), b"mine");
        assert!(!top.join("old").exists());
        // Neither is pulled away from below the other.
        assert_eq!(umount2(&root, MntFlags::empty()), Err(Errno::EBUSY));
        let output = client!().command().arg("umount").arg(&root).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("in use"), "{said}");
        assert_eq!(std::fs::read(top.join("mine")).unwrap(), b"mine");
        drop(over);
        assert_eq!(std::fs::read(top.join("new")).unwrap(), b"new");
        assert!(mount.unmount().success());
    });
}

#[test]
fn open_files_keep_the_old_content_and_new_opens_see_the_new() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        repo.ttl(1);
        let old: Vec<u8> = b"old ".repeat(5000);
        let new: Vec<u8> = b"brand new ".repeat(7000);
        repo.file("/d/changes", old.clone());
        repo.chunked("/d/chunks", old.clone(), 4096);
        repo.file("/d/goes", b"goes".to_vec()).xattr("user.a", "of the old");
        repo.file("/d/stays", b"stays".to_vec());
        repo.symlink("/d/link", "stays");
        repo.file("/gone/inside", b"inside".to_vec());
        repo.nested("/nested");
        repo.file("/nested/same", b"same".to_vec());
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &[&server]).start();
        let stays = mount.lstat("d/stays").ino();
        let same = mount.lstat("nested/same").ino();
        let changed = mount.lstat("d/changes").ino();
        let (a, b) = (
            File::open(mount.path("d/changes")).unwrap(),
            File::open(mount.path("d/chunks")).unwrap(),
        );
        let goes = File::open(mount.path("d/goes")).unwrap();
        let inside = File::open(mount.path("gone")).unwrap();
        assert_eq!(errno(std::fs::read(mount.path("d/comes"))), Some(libc::ENOENT));
        assert_eq!(std::fs::read_dir(mount.path("d")).unwrap().count(), 5);

        repo.file("/d/changes", new.clone());
        repo.chunked("/d/chunks", new.clone(), 4096);
        repo.remove("/d/goes");
        repo.remove("/gone");
        repo.file("/d/comes", b"comes".to_vec());
        repo.symlink("/d/link", "comes");
        repo.publish();
        wait_for_revision(&mount, 2);
        wait_until("the new name", || mount.path("d/comes").exists());

        let whole = |file: &File, len: usize| {
            let mut buffer = vec![0; len + 1];
            let n = file.read_at(&mut buffer, 0).unwrap();
            buffer.truncate(n);
            buffer
        };
        assert!(whole(&a, old.len()) == old, "an open file changed");
        assert_eq!(a.metadata().unwrap().len(), old.len() as u64);
        let mut tail = [0; 4];
        for at in (0..old.len() - 4).step_by(4096) {
            b.read_exact_at(&mut tail, at as u64).unwrap();
            assert_eq!(tail, old[at..at + 4], "an open chunked file changed");
        }
        assert_eq!(whole(&goes, 4), b"goes");
        // A directory that is gone goes on for those who are in it.
        let fd = std::os::fd::AsRawFd::as_raw_fd(&inside);
        assert_eq!(std::fs::read(format!("/proc/self/fd/{fd}/inside")).unwrap(), b"inside");
        assert_eq!(errno(std::fs::read(mount.path("gone/inside"))), Some(libc::ENOENT));

        assert!(std::fs::read(mount.path("d/changes")).unwrap() == new);
        assert!(std::fs::read(mount.path("d/chunks")).unwrap() == new);
        assert_eq!(errno(std::fs::read(mount.path("d/goes"))), Some(libc::ENOENT));
        assert_eq!(std::fs::read(mount.path("d/link")).unwrap(), b"comes");
        assert_eq!(std::fs::read_dir(mount.path("d")).unwrap().count(), 5);
        assert_eq!(mount.lstat("d/stays").ino(), stays);
        assert_eq!(mount.lstat("nested/same").ino(), same);
        assert_ne!(mount.lstat("d/changes").ino(), changed);
    });
}

/// 12 walkers and a reader of links during updates: old or new, never an error, never a mixture.
#[test]
fn updates_under_load_show_one_revision_or_the_next() {
    deadline(LIMIT, || {
        const UPDATES: u64 = 12;
        let mut repo = TestRepo::new(FQRN);
        repo.ttl(1);
        let content = |revision: u64| format!("revision {revision} ").repeat(3000).into_bytes();
        repo.file("/changing/a", content(1));
        repo.symlink("/changing/link", "target-1");
        for i in 0..50 {
            repo.file(format!("/same/d{}/f{i}", i % 5), format!("{i}").into_bytes());
        }
        repo.nested("/same");
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &[&server]).start();
        let inodes = |root: &Path| -> HashMap<_, _> {
            (0..50)
                .map(|i| {
                    let path = root.join(format!("same/d{}/f{i}", i % 5));
                    (i, path.symlink_metadata().unwrap().ino())
                })
                .collect()
        };
        let before = inodes(mount.root());
        let stop = std::sync::atomic::AtomicBool::new(false);
        let going = || !stop.load(std::sync::atomic::Ordering::Relaxed);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while going() {
                        assert_eq!(inodes(mount.root()), before);
                        let names = std::fs::read_dir(mount.path("changing")).unwrap().count();
                        assert_eq!(names, 2);
                    }
                });
                scope.spawn(|| {
                    let mut last = 0;
                    while going() {
                        let read = std::fs::read(mount.path("changing/a")).unwrap();
                        let text = String::from_utf8(read).unwrap();
                        let number: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
                        assert!(text.into_bytes() == content(number), "a mixture of revisions");
                        assert!(number >= last, "went back from {last} to {number}");
                        last = number;
                        let link = std::fs::read_link(mount.path("changing/link")).unwrap();
                        assert!(link.to_str().unwrap().starts_with("target-"));
                    }
                });
            }
            let publish = || {
                for number in 2..=UPDATES {
                    repo.file("/changing/a", content(number));
                    repo.symlink("/changing/link", format!("target-{number}"));
                    repo.publish();
                    wait_for_revision(&mount, number);
                }
            };
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(publish));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            outcome.unwrap();
        });
        wait_until("the last content", || {
            std::fs::read(mount.path("changing/a")).unwrap() == content(UPDATES)
        });
        assert_eq!(
            std::fs::read_link(mount.path("changing/link")).unwrap(),
            Path::new(&format!("target-{UPDATES}"))
        );
    });
}

#[test]
fn without_auto_update_the_revision_stays() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        repo.ttl(1);
        repo.file("/f", b"1".to_vec());
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let fixed = spec(&published, &[&server]).arg("--no-auto-update").start();
        let pinned = spec(&published, &[&server])
            .arg(format!("--root-hash={}", published.root_hash()))
            .start();
        let follows = spec(&published, &[&server]).start();
        repo.file("/f", b"2".to_vec());
        repo.publish();
        wait_for_revision(&follows, 2);
        for mount in [&fixed, &pinned] {
            assert_eq!(mount.revision(), 1);
            assert_eq!(std::fs::read(mount.path("f")).unwrap(), b"1");
        }
    });
}

#[test]
fn an_update_that_cannot_be_had_whole_leaves_the_old_revision() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        repo.ttl(1);
        repo.file("/f", b"1".to_vec());
        repo.nested("/n");
        repo.file("/n/g", b"1".to_vec());
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &[&server]).start();
        assert_eq!(std::fs::read(mount.path("n/g")).unwrap(), b"1");
        repo.file("/f", b"2".to_vec());
        repo.file("/n/g", b"2".to_vec());
        // The root catalog of the next revision, then only a nested one that is in use.
        let root = Rule::on("*/data/*C").status(404);
        let root = server.rule(root);
        let second = repo.publish();
        wait_until("a look at it", || mount.attribute("user.stale_since").is_some());
        assert_eq!(mount.revision(), 1);
        assert_eq!(std::fs::read(mount.path("f")).unwrap(), b"1");
        let nested = second.object_path(&second.catalog_object("/n").unwrap());
        let nested = nested.file_name().unwrap().to_str().unwrap().to_owned();
        server.rule(Rule::on(format!("*/{nested}")).status(404));
        server.remove(root);
        let seen = server.count(&format!("*/{nested}"));
        assert!(server.wait_for(&format!("*/{nested}"), seen + 1, SEEN));
        assert_eq!(mount.revision(), 1);
        assert_eq!(std::fs::read(mount.path("n/g")).unwrap(), b"1");
        server.clear();
        wait_for_revision(&mount, 2);
        assert_eq!(mount.attribute("user.stale_since"), None);
        wait_until("the new content", || std::fs::read(mount.path("n/g")).unwrap() == b"2");
    });
}

#[test]
fn without_a_server_the_last_revision_is_mounted_and_the_return_is_noticed() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        repo.ttl(1);
        repo.file("/warm", b"warm".to_vec());
        repo.file("/cold", b"cold".to_vec());
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let cache = tempfile::tempdir().unwrap();
        let spec = spec(&published, &[&server]).cache_dir(cache.path());
        {
            let mount = spec.start();
            assert_eq!(std::fs::read(mount.path("warm")).unwrap(), b"warm");
            assert_eq!(mount.attribute("user.stale_since"), None);
        }
        server.set_network(Network::Refusing);
        let mount = spec.start();
        assert!(mount.attribute("user.stale_since").is_some());
        assert!(mount.attribute("user.stale_reason").unwrap().contains("manifest"));
        assert_eq!(std::fs::read(mount.path("warm")).unwrap(), b"warm");
        assert_eq!(errno(std::fs::read(mount.path("cold"))), Some(libc::EIO));
        assert_eq!(errno(std::fs::read(mount.path("none"))), Some(libc::ENOENT));
        repo.file("/warm", b"warmer".to_vec());
        repo.publish();
        server.set_network(Network::Up);
        wait_for_revision(&mount, 2);
        assert_eq!(std::fs::read(mount.path("cold")).unwrap(), b"cold");
        wait_until("the new content", || std::fs::read(mount.path("warm")).unwrap() == b"warmer");
        assert_eq!(mount.attribute("user.stale_since"), None);
    });
}
