//! `/dev/fd/N` as a mountpoint: somebody else has mounted, as container runtimes do.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::server::TestServer;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::apart::private_mounts;
use tests::walk::get_xattr;
use tests::{MountSpec, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(120);
const CONDITION: Duration = Duration::from_secs(30);

/// What a runtime prepares: a mount that nobody serves yet. Detached with its value.
struct Premounted {
    directory: tempfile::TempDir,
    device: Option<OwnedFd>,
}

impl Premounted {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("runtime"), directory.path(), Some("fuse"), flags, Some(data.as_str())).unwrap();
        Self { directory, device: Some(device.into()) }
    }

    fn root(&self) -> &Path {
        self.directory.path()
    }

    /// Hands the descriptor to a command, and keeps none.
    fn hand(&mut self, spec: &MountSpec, cache: &Path, extra: &[&str]) -> Command {
        let device = self.device.take().unwrap();
        let number = device.as_raw_fd();
        let mut command = spec.command(&PathBuf::from(format!("/dev/fd/{number}")), cache);
        command.args(extra);
        // SAFETY: fcntl(2) is async-signal-safe and touches no memory of the parent. The
        // descriptor lives as long as the command, which owns it.
        unsafe {
            command.pre_exec(move || {
                let done = libc::fcntl(device.as_raw_fd(), libc::F_SETFD, 0);
                if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
            });
        }
        command
    }

    fn server(&self) -> Pid {
        let text = get_xattr(self.root(), b"user.pid").unwrap();
        Pid::from_raw(String::from_utf8(text).unwrap().parse().unwrap())
    }

    fn unmount(&self) {
        umount2(self.root(), MntFlags::empty()).unwrap();
    }
}

impl Drop for Premounted {
    fn drop(&mut self) {
        let _ = umount2(self.root(), MntFlags::MNT_DETACH);
    }
}

fn ended(child: &mut Child) -> i32 {
    let mut status = None;
    wait_until(CONDITION, "end of the program", || {
        status = child.try_wait().unwrap();
        status.is_some()
    })
    .unwrap();
    status.unwrap().code().unwrap()
}

#[test]
fn what_others_mounted_is_served_until_they_unmount() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        private_mounts();
        let cache = tempfile::tempdir().unwrap();
        let spec = MountSpec::genuine(&client!(), &genuine, &server);
        let mut mounted = Premounted::new();
        let mut child = mounted.hand(&spec, cache.path(), &["-f"]).spawn().unwrap();
        // The mount waits for its server.
        let text = std::fs::read(mounted.root().join("hello.txt")).unwrap();
        assert!(!text.is_empty());
        let status = client!().command().arg("status").output().unwrap();
        let status = String::from_utf8(status.stdout).unwrap();
        assert!(status.contains("small.test.repo"), "{status}");
        // A successor goes on with it.
        let before = mounted.server();
        kill(before, Signal::SIGKILL).unwrap();
        assert_eq!(std::fs::read(mounted.root().join("hello.txt")).unwrap(), text);
        wait_until(CONDITION, "successor", || mounted.server() != before).unwrap();
        mounted.unmount();
        assert_eq!(ended(&mut child), 0);
    });
}

#[test]
fn in_the_background_and_asked_to_stop() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        private_mounts();
        let cache = tempfile::tempdir().unwrap();
        let spec = MountSpec::genuine(&client!(), &genuine, &server);
        let mut mounted = Premounted::new();
        let output = mounted.hand(&spec, cache.path(), &[]).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{said}");
        assert!(!std::fs::read(mounted.root().join("hello.txt")).unwrap().is_empty());
        let server = mounted.server();
        mounted.unmount();
        let is_gone = || kill(server, None).is_err();
        wait_until(CONDITION, "end of the server", is_gone).unwrap();

        let mut stopped = Premounted::new();
        // The command has the descriptor, and goes.
        let mut child = {
            let mut command = stopped.hand(&spec, cache.path(), &["-f"]);
            command.stdout(Stdio::piped()).spawn().unwrap()
        };
        // Asked to stop before it has said this, it would have failed to mount.
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(line.starts_with("CernVM-FS: mounted"), "{line}");
        assert!(stopped.root().join("hello.txt").exists());
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
        assert_eq!(ended(&mut child), 0);
        // The mount is the runtime's to remove; its users get an error and do not wait.
        let error = std::fs::metadata(stopped.root().join("new")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    });
}

#[test]
fn other_descriptors_are_refused() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let cache = tempfile::tempdir().unwrap();
        let spec = MountSpec::genuine(&client!(), &genuine, &server);
        for (number, part) in [(0, "/dev/fd/0"), (77, "Bad file descriptor")] {
            let place = PathBuf::from(format!("/dev/fd/{number}"));
            let mut command = spec.command(&place, cache.path());
            let output = command.arg("-f").stdin(Stdio::null()).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(3), "{said}");
            assert!(said.contains(part), "{said}");
        }
    });
}
