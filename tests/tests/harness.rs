//! The harness itself: whatever the client does, a test ends, says why, and leaves no mount.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs::File;
use std::process::Command;
use std::time::{Duration, Instant};

use fixtures::genuine::Genuine;
use fixtures::server::TestServer;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::mountinfo::MountInfo;
use tests::walk::get_xattr;
use tests::{MountSpec, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_failed_mount_tells_code_and_message() {
    deadline(LIMIT, || {
        let (gc, none) = (Genuine::gc(), Genuine::none());
        let server = TestServer::serving(gc.dir());
        let url = format!("{}/@fqrn@", server.url());
        let spec = MountSpec::new(&client!(), gc.fqrn(), &url, &none.public_key());
        let failure = spec.try_start().expect_err("the key is another repository's");
        assert!(failure.code.is_some_and(|code| code != 0), "{failure}");
        assert_ne!(failure.stderr.trim(), "", "{failure:?}");
        assert!(server.count("/gc.test.repo/.cvmfswhitelist") > 0);
    });
}

#[test]
fn a_killed_client_leaves_no_mount() {
    deadline(LIMIT, || {
        let gc = Genuine::gc();
        let server = TestServer::serving(gc.dir());
        let mount = MountSpec::genuine(&client!(), &gc, &server).start();
        let root = mount.root().to_owned();
        kill(mount.pid(), Signal::SIGKILL).unwrap();
        drop(mount);
        assert_eq!(MountInfo::of(&root), None);
        assert!(!root.exists(), "the directories go with the mount");
    });
}

#[test]
fn a_client_can_be_killed_at_any_moment_of_its_start() {
    deadline(LIMIT, || {
        let gc = Genuine::gc();
        let server = TestServer::serving(gc.dir());
        let spec = MountSpec::genuine(&client!(), &gc, &server);
        // It looks at its own mount before it says that it is usable. A process that waits for
        // itself could not even be killed.
        for round in 0..60_u64 {
            let directory = tempfile::tempdir().unwrap();
            let (root, cache) = (directory.path().join("mnt"), directory.path().join("cache"));
            std::fs::create_dir(&root).unwrap();
            std::fs::create_dir(&cache).unwrap();
            let mut child = spec.command(&root, &cache).arg("--foreground").spawn().unwrap();
            wait_until(LIMIT / 4, "mount", || MountInfo::of(&root).is_some()).unwrap();
            // At another moment each time.
            let moment = Instant::now() + Duration::from_micros(round * 50);
            while Instant::now() < moment {
                std::hint::spin_loop();
            }
            child.kill().unwrap();
            let ended = wait_until(LIMIT / 6, "end of the killed client", || {
                matches!(child.try_wait(), Ok(Some(_)))
            });
            let _ = umount2(&root, MntFlags::MNT_DETACH);
            ended.unwrap();
        }
    });
}

/// Run by the test below in a process of its own, which the watchdog ends.
#[test]
#[ignore = "hangs on purpose"]
fn hang() {
    deadline(Duration::from_secs(1), || {
        let gc = Genuine::gc();
        let server = TestServer::serving(gc.dir());
        let mount = MountSpec::genuine(&client!(), &gc, &server).start();
        kill(mount.server(), Signal::SIGSTOP).unwrap();
        let _ = File::open(mount.path("hello.txt"));
        // The watchdog's kill ends the open above, so the process must be waited for.
        let _ = wait_until(LIMIT, "end of this process", || false);
    });
}

/// The same with a mount in the background, which no value of the test stands for.
#[test]
#[ignore = "hangs on purpose"]
fn hang_in_the_background() {
    deadline(Duration::from_secs(8), || {
        let gc = Genuine::gc();
        let server = TestServer::serving(gc.dir());
        let directory = tempfile::tempdir().unwrap();
        let (root, cache) = (directory.path().join("mnt"), directory.path().join("cache"));
        std::fs::create_dir(&root).unwrap();
        let spec = MountSpec::genuine(&client!(), &gc, &server);
        assert!(spec.command(&root, &cache).status().unwrap().success());
        let server = String::from_utf8(get_xattr(&root, b"user.pid").unwrap()).unwrap();
        kill(Pid::from_raw(server.parse().unwrap()), Signal::SIGSTOP).unwrap();
        let _ = File::open(root.join("hello.txt"));
        let _ = wait_until(LIMIT, "end of this process", || false);
    });
}

#[test]
fn the_watchdog_ends_a_hanging_test() {
    assert_ended("hang", 1, |mounts| assert!(mounts.is_empty(), "{mounts:?}"));
}

#[test]
fn the_watchdog_ends_a_test_that_waits_for_a_background_process() {
    // Nobody else can tell whose mount it was.
    assert_ended("hang_in_the_background", 8, |mounts| {
        assert_eq!(mounts.len(), 1);
        umount2(&*mounts[0], MntFlags::MNT_DETACH).unwrap();
    });
}

fn assert_ended(name: &str, seconds: u64, check: fn(Vec<String>)) {
    deadline(LIMIT, || {
        let start = Instant::now();
        // Where the other process mounts, so that the mount can be looked for.
        let directory = tempfile::tempdir().unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--ignored", "--nocapture"])
            .env("TMPDIR", directory.path())
            // Not as ours: it would end this process, too.
            .env("NEXTEST_ATTEMPT_ID", directory.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains(&format!("test hangs: not done after {seconds}s")), "{said}");
        assert!(start.elapsed() < LIMIT / 2, "took {:?}", start.elapsed());
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let directory = directory.path().to_string_lossy().into_owned();
        let mountpoints = table.lines().filter_map(|line| line.split(' ').nth(4));
        check(mountpoints.filter(|at| at.starts_with(&directory)).map(str::to_owned).collect());
    });
}
