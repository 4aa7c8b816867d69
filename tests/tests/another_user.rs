//! Root mounts, and the user of the site serves: `CVMFS_USER`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::apart::private_mounts;
use tests::mountinfo::MountInfo;
use tests::site::{Site, shown, stdout};
use tests::walk::get_xattr;
use tests::{client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(120);
const CONDITION: Duration = Duration::from_secs(30);
/// Every Debian has it, with these numbers.
const DAEMON: u32 = 1;

/// A site that names a user, whose cache that user can get to.
fn site(user: &str) -> Site {
    private_mounts();
    let site = Site::new(client!());
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(site.path(""), open).unwrap();
    site.write("etc/default.d/50-user.conf", &format!("CVMFS_USER={user}\n"));
    site
}

fn server(root: &Path) -> Pid {
    let pid = String::from_utf8(get_xattr(root, b"user.pid").unwrap()).unwrap();
    Pid::from_raw(pid.parse().unwrap())
}

/// A line of what the kernel knows of a process.
fn fact(process: Pid, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
}

fn assert_serves(user: u32, root: &Path) {
    let server = server(root);
    for name in ["Uid", "Gid"] {
        assert_eq!(fact(server, name), format!("{user} {user} {user} {user}"), "{name}");
    }
    if user != 0 {
        assert_eq!(fact(server, "Groups"), user.to_string());
        assert_eq!(fact(server, "CapPrm").trim_start_matches('0'), "");
        assert_eq!(fact(server, "CapEff").trim_start_matches('0'), "");
        assert_eq!(fact(server, "NoNewPrivs"), "1");
    }
}

fn owner(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().uid()
}

/// All below a directory belongs to one user.
fn assert_all_of(user: u32, directory: &Path) {
    assert_eq!(owner(directory), user, "{directory:?}");
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => assert_all_of(user, &path),
            false => assert_eq!(owner(&path), user, "{path:?}"),
        }
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_server_gives_root_up_and_the_mount_works_as_any() {
    deadline(LIMIT, || {
        let site = site("daemon");
        let (fqrn, m, root) = (site.genuine.fqrn(), site.m(), site.path("m"));
        site.write("etc/default.d/51-claim.conf", "CVMFS_CLAIM_OWNERSHIP=yes\n");
        site.assert_mounted(&site.tool("mount.cvmfs", &[fqrn, &m]));
        assert_serves(DAEMON, &root);
        assert_eq!(owner(&root.join("hello.txt")), DAEMON);
        assert_eq!(std::fs::read(root.join("hello.txt")).unwrap(), b"hello cvmfs\n");
        let cache = site.path("var/cvmfs-fuse");
        assert_all_of(DAEMON, &cache);
        // Root and that user are told how it is, and nobody else.
        for command in [&["status"][..], &["probe", fqrn]] {
            let text = stdout(&site.client(command));
            assert!(text.contains(&m), "{text}");
        }
        let mut command = site.command();
        let status = stdout(&command.uid(DAEMON).gid(DAEMON).arg("status").output().unwrap());
        assert!(status.contains(&m) && status.contains(" ok"), "{status}");
        let mut command = site.command();
        let refused = command.uid(2).gid(2).arg("status").output().unwrap();
        assert_eq!(refused.status.code(), Some(1), "{}", shown(&refused));
        assert!(shown(&refused).contains("only root and the user who mounted may ask"));
        assert_eq!(stdout(&site.tool("cvmfs_talk", &["-i", fqrn, "mountpoint"])), format!("{m}\n"));
        // The one after it is the same user.
        let first = server(&root);
        kill(first, Signal::SIGKILL).unwrap();
        assert!(root.join("bin").is_dir());
        assert_serves(DAEMON, &root);
        assert_ne!(server(&root), first);
        // What root fetches and looks at there stays that user's.
        let fetched = site.client(&["cat", &format!("{fqrn}:/big-chunked.bin")]);
        assert!(fetched.status.success(), "{}", said(&fetched));
        let directory = cache.to_str().unwrap();
        let checked = stdout(&site.client(&["cache", "check", "--cache-dir", directory]));
        assert!(checked.contains(" 0 damaged"), "{checked}");
        assert_all_of(DAEMON, &cache);
        // Asked to stop, it cannot unmount, and its supervisor does.
        let supervisor = Pid::from_raw(fact(server(&root), "PPid").parse().unwrap());
        assert_eq!(fact(supervisor, "Uid"), "0 0 0 0");
        kill(supervisor, Signal::SIGTERM).unwrap();
        wait_until(CONDITION, "the mount ends", || MountInfo::of(&root).is_none()).unwrap();
        // The directory below is that user's, as the mount helper is expected to leave it.
        let below = std::fs::metadata(&root).unwrap();
        assert_eq!((below.uid(), below.mode() & 0o7777), (DAEMON, 0o755));
        wait_until(CONDITION, "it is gone", || kill(supervisor, None).is_err()).unwrap();
        site.assert_mounted(&site.tool("mount.cvmfs", &[fqrn, &m]));
        site.umount();
        assert!(MountInfo::of(&root).is_none());
    });
}

#[test]
fn upstreams_client_is_who_started_it_unless_it_is_told_otherwise() {
    deadline(LIMIT, || {
        let site = site("daemon");
        let (fqrn, m, root) = (site.genuine.fqrn(), site.m(), site.path("m"));
        site.assert_mounted(&site.tool("cvmfs2", &[fqrn, &m]));
        assert_serves(0, &root);
        site.umount();
        // The cache is root's now, which is said before anything is mounted.
        let scratch = site.path("tmp");
        std::fs::create_dir(&scratch).unwrap();
        std::fs::set_permissions(&scratch, std::fs::Permissions::from_mode(0o1777)).unwrap();
        let mut command = Command::new(site.path("bin/mount.cvmfs"));
        command.env("CVMFS_FUSE_CONFIG_DIR", site.path("etc")).env("TMPDIR", &scratch);
        let refused = command.args([fqrn, &m]).output().unwrap();
        // The code is that of mount(8), the text has upstream's.
        assert_eq!(refused.status.code(), Some(32), "{}", shown(&refused));
        for part in ["chown -R 1 ", "(9 - cache directory"] {
            assert!(said(&refused).contains(part), "{}", shown(&refused));
        }
        assert!(MountInfo::of(&root).is_none());
        // Nor is the log of such a mount in the place of root.
        assert_eq!(owner(&scratch.join("cvmfs-fuse-1")), DAEMON);
        assert!(!scratch.join("cvmfs-fuse-0").exists());
        std::fs::remove_dir_all(site.path("var/cvmfs-fuse")).unwrap();
        std::fs::create_dir(site.path("var/cvmfs-fuse")).unwrap();
        std::os::unix::fs::chown(site.path("var/cvmfs-fuse"), Some(2), Some(2)).unwrap();
        site.assert_mounted(&site.tool("cvmfs2", &["-o", "uid=2,gid=2", fqrn, &m]));
        assert_serves(2, &root);
        site.umount();
    });
}

#[test]
fn without_the_account_root_serves_and_says_so() {
    deadline(LIMIT, || {
        let site = site("nosuchuser");
        let output = site.tool("mount.cvmfs", &[site.genuine.fqrn(), &site.m()]);
        site.assert_mounted(&output);
        assert_serves(0, &site.path("m"));
        assert!(said(&output).contains("useradd --system nosuchuser"), "{}", shown(&output));
        site.umount();
    });
}

#[test]
fn an_automount_gives_root_up_too() {
    deadline(LIMIT, || {
        let site = site("daemon");
        let root = site.path("m");
        let output = site.client(&["automount", &site.m()]);
        assert!(output.status.success(), "{}", shown(&output));
        let shown = root.join(site.genuine.fqrn());
        assert_eq!(std::fs::read(shown.join("hello.txt")).unwrap(), b"hello cvmfs\n");
        assert_serves(DAEMON, &shown);
        kill(server(&shown), Signal::SIGKILL).unwrap();
        assert_eq!(std::fs::read(shown.join("hello.txt")).unwrap(), b"hello cvmfs\n");
        assert_serves(DAEMON, &shown);
        assert_all_of(DAEMON, &site.path("var/cvmfs-fuse"));
        site.umount();
        assert!(MountInfo::of(&root).is_none());
    });
}
