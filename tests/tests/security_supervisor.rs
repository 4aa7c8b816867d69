//! A supervisor whose server is its enemy: nothing but its own mount is detached or aborted, and nothing is written.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::server::TestServer;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::apart::{Mounted, private_mounts};
use tests::mountinfo::MountInfo;
use tests::walk::get_xattr;
use tests::{Client, MountSpec, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(170);
/// Twelve servers that live shortly, with pauses between them.
const GIVEN_UP: Duration = Duration::from_secs(90);
/// A relative path from the directory of connections to the root.
const UP: &str = "../../../../..";

/// Puts a program in the place of another one, as package managers do it.
fn install(program: &Path, at: &Path) {
    let new = at.with_extension("new");
    std::fs::copy(program, &new).unwrap();
    std::fs::rename(new, at).unwrap();
}

fn supervisor_of(root: &Path) -> Pid {
    let server = String::from_utf8(get_xattr(root, b"user.pid").unwrap()).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{server}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    Pid::from_raw(parent.trim().parse().unwrap())
}

#[test]
fn h2_a_hostile_server_makes_root_write_and_detach_nothing() {
    deadline(LIMIT, || {
        private_mounts();
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        for name in ["victim", "secret", "m", "cache"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        // What root would write to, and what it would detach.
        std::fs::write(path("secret/abort"), "untouched").unwrap();
        let victim = path("victim");
        let _victim = Mounted::tmpfs(&victim, "size=1m");
        install(Path::new(client!().command().get_program()), &path("cvmfs-fuse"));
        let root = path("m");
        let spec = MountSpec::genuine(&Client::at(path("cvmfs-fuse")), &genuine, &server);
        let log = std::fs::File::create(path("log")).unwrap();
        let mut child = spec
            .command(&root, &path("cache"))
            .arg("--foreground")
            .env("VICTIM", &victim)
            .env("VICTIM_PATH", format!("{UP}{}", path("secret").display()))
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .unwrap();
        let is_usable = || std::fs::read(root.join("hello.txt")).is_ok_and(|text| !text.is_empty());
        wait_until(Duration::from_secs(30), "the mount", is_usable).unwrap();
        let supervisor = supervisor_of(&root);
        // The next server is the enemy.
        install(Path::new(env!("CARGO_BIN_EXE_hostile-server")), &path("cvmfs-fuse"));
        kill(supervisor, Signal::SIGHUP).unwrap();
        let mut status = None;
        wait_until(GIVEN_UP, "the mount is given up", || {
            status = child.try_wait().unwrap();
            status.is_some()
        })
        .unwrap();
        let said = std::fs::read_to_string(path("log")).unwrap();
        assert!(said.contains("given up"), "{said}");
        assert!(!status.unwrap().success());
        // Its own mount has ended, and nothing else has.
        assert!(MountInfo::of(&root).is_none(), "{said}");
        assert!(MountInfo::of(&victim).is_some(), "{said}");
        assert_eq!(std::fs::read_to_string(path("secret/abort")).unwrap(), "untouched");
        // What it says is shown as text.
        assert!(!said.contains('\u{1b}') && !said.contains('\u{7}'), "{said:?}");
    });
}

/// `cvmfs-fuse hold` of a user, and root's mount.
#[test]
fn h2_root_uses_the_holder_of_another_user_only_if_it_is_told_so() {
    deadline(LIMIT, || {
        private_mounts();
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        let open = |name: &str, mode| {
            std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        std::fs::create_dir(path("hold")).unwrap();
        open("", 0o755);
        open("hold", 0o777);
        install(Path::new(client!().command().get_program()), &path("cvmfs-fuse"));
        let mut holder = Command::new("setpriv")
            .args(["--reuid", "1001", "--regid", "1001", "--clear-groups"])
            .arg(path("cvmfs-fuse"))
            .args(["hold", "--allow", "0", "--socket"])
            .arg(path("hold/s"))
            .spawn()
            .unwrap();
        let listens = || path("hold/s").exists();
        wait_until(Duration::from_secs(30), "the holder", listens).unwrap();
        let spec = MountSpec::genuine(&client!(), &genuine, &server);
        let spec = spec.arg("--holder").arg(path("hold/s"));
        let refused = spec.try_start().map(drop).unwrap_err();
        assert!(refused.stderr.contains("it runs as user 1001"), "{refused}");
        let mount = spec.arg("--holder-user").arg("1001").start();
        assert!(!std::fs::read(mount.path("hello.txt")).unwrap().is_empty());
        drop(mount);
        kill(Pid::from_raw(holder.id().cast_signed()), Signal::SIGTERM).unwrap();
        holder.wait().unwrap();
    });
}
