//! Earlier revisions as directories: `/.cvmfs/snapshots/TAG` (spec/format.md section 14).
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use fixtures::publish::TestRepo;
use fixtures::server::TestServer;
use tests::{MountSpec, client, deadline};

const LIMIT: Duration = Duration::from_secs(60);

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn earlier_revisions_are_directories_that_nobody_walks_into() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new("snapshots.test.repo");
        repo.file("/sw/tool", b"one");
        repo.file("/sw/gone", b"only in the first");
        repo.dir("/sw/deep").nested();
        repo.file("/sw/deep/data", b"deep one");
        repo.symlink("/latest", "sw/tool");
        repo.tag("v1");
        let first = repo.publish();
        repo.file("/sw/tool", b"two");
        repo.remove("/sw/gone");
        repo.file("/sw/deep/data", b"deep two");
        repo.tag("v2");
        let second = repo.publish();
        repo.file("/sw/tool", b"three");
        // As the server tools make the virtual catalog.
        repo.dir("/.cvmfs").nested().hidden().mode(0o555);
        repo.dir("/.cvmfs/snapshots");
        repo.bind("/.cvmfs/snapshots/v1", first.root_hash());
        repo.bind("/.cvmfs/snapshots/v2", second.root_hash());
        let third = repo.publish();
        let server = TestServer::serving(third.root());
        let mount = MountSpec::published(&client!(), &third, &[&server]).start();
        let read = |name: &str| fs::read_to_string(mount.path(name)).unwrap();
        // It is found by who knows it, and by no walk.
        assert_eq!(names(mount.root()), ["latest", "sw"]);
        assert_eq!(names(&mount.path(".cvmfs/snapshots")), ["v1", "v2"]);
        assert_eq!(names(&mount.path(".cvmfs/snapshots/v1")), ["latest", "sw"]);
        for (at, tool, deep) in [
            ("", "three", "deep two"),
            (".cvmfs/snapshots/v1/", "one", "deep one"),
            (".cvmfs/snapshots/v2/", "two", "deep two"),
        ] {
            assert_eq!(read(&format!("{at}sw/tool")), tool, "{at}");
            assert_eq!(read(&format!("{at}latest")), tool, "{at}");
            assert_eq!(read(&format!("{at}sw/deep/data")), deep, "{at}");
        }
        assert_eq!(read(".cvmfs/snapshots/v1/sw/gone"), "only in the first");
        let gone = fs::read(mount.path(".cvmfs/snapshots/v2/sw/gone")).unwrap_err();
        assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
        // One version of a file is one inode of its own at each place, and stays that.
        let inode = |name: &str| fs::metadata(mount.path(name)).unwrap().ino();
        let (now, then) = (inode("sw/tool"), inode(".cvmfs/snapshots/v1/sw/tool"));
        assert_ne!(now, then);
        assert_eq!(then, inode(".cvmfs/snapshots/v1/sw/tool"));
        // What was there has no directory of its own revisions.
        assert!(!mount.path(".cvmfs/snapshots/v1/.cvmfs").exists());
        mount.unmount();
    });
}
