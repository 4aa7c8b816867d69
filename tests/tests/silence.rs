//! What is hot never reaches us: the kernel answers by itself, and a counter of its requests stands
//! still.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fixtures::publish::TestRepo;
use fixtures::server::TestServer;
use tests::{MountSpec, TestMount, client, deadline, wait_until};

const FQRN: &str = "silence.test.repo";
const LIMIT: Duration = Duration::from_secs(60);
const FILES: usize = 100;

fn content(number: usize) -> Vec<u8> {
    number.to_le_bytes().repeat(1000)
}

fn requests(mount: &TestMount) -> u64 {
    mount.attribute("user.requests").unwrap().parse().unwrap()
}

/// Lookup, stat, readlink, listing, open, read, mapping, exec, and names that are not there.
fn use_everything(root: &Path) {
    let mut names: Vec<_> =
        fs::read_dir(root.join("d")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort_unstable();
    assert_eq!(names.len(), FILES + 1);
    for number in 0..FILES {
        let path = root.join(format!("d/f{number}"));
        assert_eq!(fs::metadata(&path).unwrap().len(), 8000);
        let file = File::open(&path).unwrap();
        let mut half = vec![0; 4000];
        file.read_exact_at(&mut half, 4000).unwrap();
        assert_eq!(half, content(number)[4000..]);
        assert_eq!(fs::read(&path).unwrap(), content(number));
    }
    assert_eq!(fs::read_link(root.join("d/link")).unwrap(), Path::new("f7"));
    assert_eq!(fs::read(root.join("d/link")).unwrap(), content(7));
    assert!(fs::metadata(root.join("d/none")).is_err());
    let said = Command::new(root.join("script")).output().unwrap();
    assert_eq!(said.stdout, b"run\n");
}

#[test]
fn a_hot_use_makes_no_request() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        repo.ttl(3600);
        for number in 0..FILES {
            repo.file(format!("/d/f{number}"), content(number));
        }
        repo.symlink("/d/link", "f7");
        repo.file("/script", b"#!/bin/sh\necho run\n".to_vec()).mode(0o755);
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = MountSpec::published(&client!(), &published, &[&server]).start();
        use_everything(mount.root());
        // Directories are entered into the kernel's cache when they are read to their end again.
        use_everything(mount.root());
        // What the question itself costs.
        let first = requests(&mount);
        let before = requests(&mount);
        for _ in 0..3 {
            use_everything(mount.root());
        }
        assert_eq!(requests(&mount) - before, before - first);
    });
}

/// New content has a new number: a revision is seen at once although nobody asks us at an open.
#[test]
fn without_asking_at_opens_a_new_revision_is_seen_all_the_same() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        repo.ttl(1);
        repo.file("/d/changes", b"old".to_vec());
        repo.file("/d/stays", b"same".to_vec());
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = MountSpec::published(&client!(), &published, &[&server]).start();
        let path = |name: &str| mount.path(format!("d/{name}"));
        let held = File::open(path("changes")).unwrap();
        for _ in 0..2 {
            assert_eq!(fs::read(path("changes")).unwrap(), b"old");
            assert_eq!(fs::read_dir(mount.path("d")).unwrap().count(), 2);
        }
        repo.file("/d/changes", b"newer".to_vec());
        repo.file("/d/came", b"x".to_vec());
        repo.publish();
        let is_new = || fs::read(path("changes")).unwrap() == b"newer";
        wait_until(Duration::from_secs(30), "the new revision", is_new).unwrap();
        assert_eq!(fs::read(path("stays")).unwrap(), b"same");
        assert_eq!(fs::read_dir(mount.path("d")).unwrap().count(), 3);
        let mut old = vec![0; 3];
        held.read_exact_at(&mut old, 0).unwrap();
        assert_eq!(old, b"old");
    });
}
