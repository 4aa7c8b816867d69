//! Files that the kernel reads without the server: the same bytes, whatever happens to the cache, the
//! repository and the server.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fixtures::publish::{Published, TestRepo};
use fixtures::server::TestServer;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use tests::{MountSpec, TestMount, apart, client, deadline, wait_until};

const FQRN: &str = "passthrough.test.repo";
const LIMIT: Duration = Duration::from_secs(120);
const LEN: usize = 600_000;

fn content(seed: usize) -> Vec<u8> {
    (0..LEN / 8).flat_map(|n| (n * 0x9E37_79B9 + seed).to_le_bytes()).collect()
}

fn repository() -> (TestRepo, Published) {
    let mut repo = TestRepo::new(FQRN);
    repo.ttl(1);
    for seed in 0..6 {
        repo.file(format!("/d/f{seed}"), content(seed));
    }
    repo.hardlinks(&["/d/one", "/d/other"], content(50));
    repo.file("/d/same", content(0));
    repo.chunked("/d/chunked", content(60), 100_000);
    repo.file("/d/empty", Vec::new());
    repo.file("/d/past", content(70)).direct_io();
    repo.file("/d/run", b"#!/bin/sh\necho run\n".to_vec()).mode(0o755);
    let published = repo.publish();
    (repo, published)
}

fn spec(published: &Published, server: &TestServer) -> MountSpec {
    MountSpec::published(&client!(), published, &[server]).arg("--set=CVMFS_FUSE_PASSTHROUGH=yes")
}

fn requests(mount: &TestMount) -> u64 {
    mount.attribute("user.requests").unwrap().parse().unwrap()
}

/// Reads all of an open file, and returns how many requests that made.
#[track_caller]
fn requests_to_read(mount: &TestMount, file: &File, expected: &[u8]) -> u64 {
    // What the question itself costs, when the server has stopped looking at its own mount.
    let cost = || requests(mount).wrapping_sub(requests(mount)).wrapping_neg();
    let mut costs = vec![cost()];
    wait_until(Duration::from_secs(20), "silence", || {
        costs.push(cost());
        costs.len() > 4
            && costs[costs.len() - 4..].iter().all(|cost| *cost == costs[costs.len() - 1])
    })
    .unwrap();
    let before = requests(mount);
    let mut bytes = vec![0; LEN];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let made = requests(mount) - before - cost();
    assert!(bytes == expected, "wrong bytes");
    made
}

#[track_caller]
fn assert_read_by_the_kernel(mount: &TestMount, file: &File, expected: &[u8]) {
    assert_eq!(requests_to_read(mount, file, expected), 0);
}

fn assert_all_right(root: &Path) {
    for seed in 0..6 {
        assert!(fs::read(root.join(format!("d/f{seed}"))).unwrap() == content(seed), "f{seed}");
    }
    for (name, expected) in [
        ("one", content(50)),
        ("other", content(50)),
        ("same", content(0)),
        ("chunked", content(60)),
        ("empty", Vec::new()),
        ("past", content(70)),
    ] {
        assert!(fs::read(root.join("d").join(name)).unwrap() == expected, "{name}");
    }
    let said = Command::new(root.join("d/run")).output().unwrap();
    assert_eq!(said.stdout, b"run\n");
}

#[test]
fn the_kernel_reads_whole_files_by_itself_and_others_through_us() {
    deadline(LIMIT, || {
        let (_repo, published) = repository();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &server).start();
        let open = |name: &str| File::open(mount.path(format!("d/{name}"))).unwrap();
        let file = open("f1");
        assert_read_by_the_kernel(&mount, &file, &content(1));
        // In other words, and for several at once.
        let again = open("f1");
        assert_read_by_the_kernel(&mount, &again, &content(1));
        drop(file);
        assert_read_by_the_kernel(&mount, &again, &content(1));
        // Two names of one inode, and two inodes of one content.
        let (one, other) = (open("one"), open("other"));
        assert_eq!(one.metadata().unwrap().ino(), other.metadata().unwrap().ino());
        assert_read_by_the_kernel(&mount, &one, &content(50));
        assert_read_by_the_kernel(&mount, &other, &content(50));
        let (first, same) = (open("f0"), open("same"));
        assert_ne!(first.metadata().unwrap().ino(), same.metadata().unwrap().ino());
        assert_read_by_the_kernel(&mount, &first, &content(0));
        assert_read_by_the_kernel(&mount, &same, &content(0));
        // Chunks are several files, which the kernel cannot read as one.
        assert!(requests_to_read(&mount, &open("chunked"), &content(60)) > 0);
        assert_all_right(mount.root());
        drop((one, other, first, same, again));
        assert_all_right(mount.root());
        assert!(!mount.log().contains("not passed through"), "{}", mount.log());
        assert!(mount.unmount().success());
    });
}

#[test]
fn a_file_stays_readable_when_its_object_leaves_the_cache() {
    deadline(LIMIT, || {
        let (_repo, published) = repository();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &server).start();
        assert_all_right(mount.root());
        let held = File::open(mount.path("d/f2")).unwrap();
        remove_objects(mount.cache_dir());
        assert_read_by_the_kernel(&mount, &held, &content(2));
        // Fetched again, it is another file; who opens it while it is held reads the old one.
        let again = File::open(mount.path("d/f2")).unwrap();
        assert_read_by_the_kernel(&mount, &again, &content(2));
        drop((held, again));
        assert_all_right(mount.root());
        assert!(mount.unmount().success());
    });
}

/// Removes all files of content in a cache, as eviction does.
fn remove_objects(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            remove_objects(&path);
        } else if entry.metadata().unwrap().len() == LEN as u64 {
            fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn an_old_inode_keeps_its_content_when_the_revision_changes() {
    deadline(LIMIT, || {
        let (mut repo, published) = repository();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &server).start();
        let held = File::open(mount.path("d/f3")).unwrap();
        repo.file("/d/f3", content(33));
        repo.publish();
        let is_new = || fs::read(mount.path("d/f3")).unwrap() == content(33);
        wait_until(Duration::from_secs(30), "the new revision", is_new).unwrap();
        assert_read_by_the_kernel(&mount, &held, &content(3));
        let new = File::open(mount.path("d/f3")).unwrap();
        assert_read_by_the_kernel(&mount, &new, &content(33));
        assert_read_by_the_kernel(&mount, &held, &content(3));
        drop((held, new));
        assert!(mount.unmount().success());
    });
}

#[test]
fn successors_go_on_with_what_is_open() {
    deadline(LIMIT, || {
        let (_repo, published) = repository();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &server).start();
        let open = |name: &str| File::open(mount.path(format!("d/{name}"))).unwrap();
        let (held, chunked) = (open("f4"), open("chunked"));
        let mut later = Vec::new();
        for round in 0..4 {
            let old = mount.server();
            if round == 2 {
                let upgraded = client!().command().arg("upgrade").arg(mount.root()).output();
                let upgraded = upgraded.unwrap();
                assert!(upgraded.status.success(), "{upgraded:?}");
            } else {
                kill(old, Signal::SIGKILL).unwrap();
            }
            assert_ne!(mount.server(), old);
            // Read without a server, under the number that the dead one got from the kernel; and opened
            // again, which must be the same file for the kernel.
            assert_read_by_the_kernel(&mount, &held, &content(4));
            let again = open("f4");
            assert_read_by_the_kernel(&mount, &again, &content(4));
            requests_to_read(&mount, &chunked, &content(60));
            assert_all_right(mount.root());
            let new = open(&format!("f{round}"));
            assert_read_by_the_kernel(&mount, &new, &content(round));
            later.push((again, new));
        }
        drop((held, later, chunked));
        assert_all_right(mount.root());
        assert!(!mount.log().contains("not passed through"), "{}", mount.log());
        assert!(mount.unmount().success());
    });
}

#[test]
fn without_the_privilege_files_are_read_as_usual_and_the_log_says_so() {
    const SCRIPT: &str = r#"
"$CLIENT" mount "$FQRN" "$STAGE/m" --server "$SERVER" --public-key "$KEY" --cache-dir "$STAGE/cache" \
    --set CVMFS_FUSE_PASSTHROUGH=yes
trap 'umount -l "$STAGE/m" 2>/dev/null || true' EXIT
cat "$STAGE/m/d/f1" | cmp - "$STAGE/expected"
timeout 20 "$CLIENT" umount "$STAGE/m"
cat "$STAGE"/cache/log/*"#;
    deadline(LIMIT, || {
        let (_repo, published) = repository();
        let server = TestServer::serving(published.root());
        let stage = tempfile::tempdir().unwrap();
        for name in ["m", "cache"] {
            fs::create_dir(stage.path().join(name)).unwrap();
        }
        fs::write(stage.path().join("expected"), content(1)).unwrap();
        let output = Command::new("timeout")
            .args(["--kill-after=5", "90", "unshare", "-Urm", "bash", "-euc", SCRIPT])
            .env("STAGE", stage.path())
            .env("CLIENT", client!().command().get_program())
            .env("FQRN", FQRN)
            .env("KEY", published.public_key())
            .env("SERVER", server.base(FQRN))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let said = [String::from_utf8_lossy(&output.stdout).into_owned(), errors].concat();
        assert!(output.status.success(), "{said}");
        let reason =
            "files are not passed through to the kernel: this process is in a user namespace";
        assert!(said.contains(reason), "{said}");
    });
}

#[test]
fn files_that_the_kernel_refuses_are_read_as_usual_and_the_log_says_so() {
    deadline(LIMIT, || {
        apart::private_mounts();
        let (_repo, published) = repository();
        let server = TestServer::serving(published.root());
        let stage = tempfile::tempdir().unwrap();
        for name in ["lower", "upper", "work", "cache"] {
            fs::create_dir(stage.path().join(name)).unwrap();
        }
        let at = |name: &str| stage.path().join(name);
        let data =
            ["lower", "upper", "work"].map(|name| format!("{name}dir={}", at(name).display()));
        let data = data.join(",");
        let (overlay, cache) = (Some("overlay"), at("cache"));
        mount(overlay, &cache, overlay, MsFlags::empty(), Some(data.as_str())).unwrap();
        let mount = spec(&published, &server).cache_dir(&cache).start();
        assert_all_right(mount.root());
        let held = File::open(mount.path("d/f1")).unwrap();
        assert_all_right(mount.root());
        let old = mount.server();
        kill(old, Signal::SIGKILL).unwrap();
        assert_ne!(mount.server(), old);
        assert_all_right(mount.root());
        requests_to_read(&mount, &held, &content(1));
        assert!(mount.log().contains("stacked file system"), "{}", mount.log());
        drop(held);
        assert!(mount.unmount().success());
        nix::mount::umount2(&cache, nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
}
