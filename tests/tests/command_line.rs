//! The command line as scripts use it: exit codes, one message, background mounts, reading
//! without FUSE, the demo.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::server::TestServer;
use sha2::Digest as _;
use tests::mountinfo::MountInfo;
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(100);

struct Site {
    genuine: Genuine,
    server: TestServer,
    scratch: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        Self { genuine, server, scratch: tempfile::tempdir().unwrap() }
    }

    /// A command of ours with the flags that every one of them needs.
    fn command(&self, subcommand: &str, arguments: &[&str]) -> Command {
        let mut command = client!().command();
        command
            .arg(subcommand)
            .args(arguments)
            .args(["--server", &self.server.base(self.genuine.fqrn())])
            .arg("--public-key")
            .arg(self.genuine.public_key())
            .arg("--cache-dir")
            .arg(self.scratch.path().join("cache"));
        command
    }

    fn run(&self, subcommand: &str, arguments: &[&str]) -> Output {
        self.command(subcommand, arguments).output().unwrap()
    }

    fn mountpoint(&self, name: &str) -> String {
        let path = self.scratch.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// A failed test leaves nothing mounted.
impl Drop for Site {
    fn drop(&mut self) {
        let mountpoint = self.scratch.path().join("m");
        if MountInfo::of(&mountpoint).is_some() {
            let _ = client!().command().args(["umount", "--lazy"]).arg(mountpoint).output();
        }
    }
}

fn umount(mountpoint: &str) -> Output {
    client!().command().args(["umount", mountpoint]).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn is_mounted(path: &str) -> bool {
    MountInfo::of(Path::new(path)).is_some()
}

#[test]
fn a_background_mount_is_usable_when_the_command_returns_and_ends_with_umount() {
    deadline(LIMIT, || {
        let site = Site::new();
        let mountpoint = site.mountpoint("m");
        let mounted = site.run("mount", &["small.test.repo", &mountpoint]);
        assert!(mounted.status.success(), "{}", text(&mounted.stderr));
        assert_eq!(std::fs::read(format!("{mountpoint}/hello.txt")).unwrap(), b"hello cvmfs\n");
        // The same again is no error, and does nothing.
        let again = site.run("mount", &["small.test.repo", &mountpoint]);
        assert!(again.status.success(), "{}", text(&again.stderr));
        let busy = std::fs::File::open(format!("{mountpoint}/hello.txt")).unwrap();
        let refused = umount(&mountpoint);
        assert!(!refused.status.success() && is_mounted(&mountpoint));
        assert!(text(&refused.stderr).contains("--lazy"), "{}", text(&refused.stderr));
        drop(busy);
        let ended = umount(&mountpoint);
        assert!(ended.status.success(), "{}", text(&ended.stderr));
        assert!(!is_mounted(&mountpoint));
        assert!(!umount(&mountpoint).status.success(), "nothing is left to unmount");
    });
}

/// The client is killed, its mount is dead; one `mount` brings it back.
#[test]
fn a_dead_mount_is_replaced_in_one_command() {
    deadline(LIMIT, || {
        let site = Site::new();
        let mountpoint = site.mountpoint("m");
        assert!(site.run("mount", &["small.test.repo", &mountpoint]).status.success());
        let pid = tests::walk::get_xattr(Path::new(&mountpoint), b"user.pid").unwrap();
        let pid = nix::unistd::Pid::from_raw(text(&pid).parse().unwrap());
        // Its supervisor first, which would start another one.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
        let supervisor = nix::unistd::Pid::from_raw(parent.trim().parse().unwrap());
        for process in [supervisor, pid] {
            nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
        tests::wait_until(Duration::from_secs(10), "the mount to be dead", || {
            std::fs::read_dir(&mountpoint).is_err()
        })
        .unwrap();
        let again = site.run("mount", &["small.test.repo", &mountpoint]);
        assert!(again.status.success(), "{}", text(&again.stderr));
        assert_eq!(std::fs::read(format!("{mountpoint}/one-byte")).unwrap().len(), 1);
        assert!(umount(&mountpoint).status.success());
        assert!(!is_mounted(&mountpoint), "the dead mount is gone, too");
    });
}

#[test]
fn failures_are_one_message_with_code_and_text() {
    deadline(LIMIT, || {
        let site = Site::new();
        let mountpoint = site.mountpoint("m");
        let cases: [(&[&str], i32, &str); 9] = [
            (&["small.test.repo", "/nonexistent/m"], 3, "mkdir"),
            (&["small.test.repo", &mountpoint, "-o", "rw"], 2, "nosuid"),
            (&["small.test.repo", &mountpoint, "-o", "nonsense"], 2, "known are"),
            (&["small.test.repo", &mountpoint, "--tag", "none"], 22, "\"none\""),
            (&["small.test.repo", &mountpoint, "--date", "1990-01-01T00:00:00Z"], 22, "--date"),
            (&["small.test.repo", &mountpoint, "--root-hash", "xyz"], 2, "hex"),
            (&["small.test.repo", &mountpoint, "--proxy", "auto"], 23, "CVMFS_PAC_URLS"),
            (&["a b.example.org", &mountpoint], 2, "repository name"),
            (&["other.test.repo", &mountpoint], 16, "name mismatch"),
        ];
        for (arguments, code, part) in cases {
            let failed = site.run("mount", arguments);
            let message = text(&failed.stderr);
            assert_eq!(failed.status.code(), Some(code), "{arguments:?}: {message}");
            assert!(message.contains(part), "{arguments:?}: no {part:?} in {message}");
            let last = message.trim_end();
            if code != 2 {
                assert!(last.contains(&format!("({code} - ")) && last.ends_with(')'), "{message}");
                assert_eq!(last.lines().count(), 1, "{message}");
            }
            assert!(failed.stdout.is_empty());
            assert!(!is_mounted(&mountpoint));
        }
    });
}

#[test]
fn ls_cat_and_stat_read_without_fuse() {
    deadline(LIMIT, || {
        let site = Site::new();
        let listed = site.run("ls", &["small.test.repo:/nested/one"]);
        assert_eq!(text(&listed.stdout), ".cvmfscatalog\nfile\nsub\n", "{}", text(&listed.stderr));
        let long = site.run("ls", &["-l", "small.test.repo:/modes/f4755"]);
        assert!(text(&long.stdout).contains("rwsr-xr-x"), "{}", text(&long.stdout));
        let truth = site.genuine.truth();
        for name in ["big-chunked.bin", "zeros.bin", "empty", "hello.txt"] {
            let read = site.run("cat", &[&format!("small.test.repo:/{name}")]);
            let expected = truth.iter().find(|entry| entry.path == name.as_bytes()).unwrap();
            let digest = hex::encode(sha2::Sha256::digest(&read.stdout));
            assert_eq!(Some(digest), expected.sha256, "{name}");
        }
        let two = site.run("cat", &["small.test.repo:/hello.txt", "small.test.repo:/hello.txt"]);
        assert_eq!(two.stdout, b"hello cvmfs\nhello cvmfs\n");
        let missing = site.run("cat", &["small.test.repo:/none"]);
        assert_eq!(missing.status.code(), Some(1));
        assert!(text(&missing.stderr).contains("/none"), "{}", text(&missing.stderr));
        let stat = site.run("stat", &["--json", "small.test.repo:/times/pre"]);
        let json: serde_json::Value = serde_json::from_slice(&stat.stdout).unwrap();
        assert!(text(&stat.stdout).contains("-157766400"), "{json}");
        // Tags are other trees.
        let first = site.run("ls", &["--tag", "first", "small.test.repo:/evolve"]);
        assert!(text(&first.stdout).contains("deleted\n"), "{}", text(&first.stdout));
    });
}

#[test]
fn help_teaches() {
    for (subcommand, part) in [
        (None, "mount"),
        (Some("mount"), "cms.cern.ch"),
        (Some("umount"), "--lazy"),
        (Some("run"), "--device /dev/fuse"),
        (Some("enter"), "docker exec"),
        (Some("ls"), "cms.cern.ch:/"),
        (Some("cat"), "cms.cern.ch:/"),
        (Some("stat"), "--json"),
        (Some("demo"), "--once"),
    ] {
        let shown = client!().command().args(subcommand).arg("--help").output().unwrap();
        let help = text(&shown.stdout);
        assert!(shown.status.success(), "{subcommand:?}");
        assert!(help.contains(part), "{subcommand:?} does not mention {part}: {help}");
    }
}

#[test]
fn the_demo_mounts_shows_and_cleans_up() {
    deadline(LIMIT, || {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path().join("demo");
        let shown = client!().command().args(["demo", "--once"]).arg(&place).output().unwrap();
        let output = text(&shown.stdout);
        assert!(shown.status.success(), "{}", text(&shown.stderr));
        assert!(
            output.contains("hello.txt") && output.contains(place.to_str().unwrap()),
            "{output}"
        );
        assert!(!is_mounted(place.to_str().unwrap()));
    });
}
