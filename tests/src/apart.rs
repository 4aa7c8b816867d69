//! Mounts, processes and users apart from those of the machine.
//!
//! A test calls [`private_mounts`] before it starts anything: what it and its children mount from
//! then on is seen by nobody else, and ends with them. A [`worker`] is the test program itself,
//! started again as one `#[ignore]`d test in namespaces of its own, as a container would be.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, setfsgid, setfsuid, setgid, setgroups, setuid};

/// A script of sh that runs its arguments without the copies of mounts of other tests, which could not end while they
/// are there. To be started in a mount namespace of its own. Looks at no mount, since its server may be stopped.
pub const WITHOUT_COPIES: &str = r#"while read -r _ place kind _; do
    case $kind in fuse | fuse.*) umount -lci "$place" 2>/dev/null ;; esac
done </proc/self/mounts
exec "$@""#;

/// Gives this thread, and those it starts, mounts of their own.
///
/// # Panics
/// If this process may not do that.
pub fn private_mounts() {
    // SAFETY: changes only what this thread sees of the file system.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    let error = std::io::Error::last_os_error();
    assert!(result == 0, "these tests need CAP_SYS_ADMIN: {error}");
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&Path>, "/", None::<&Path>, flags, None::<&Path>).expect("mounts can be private");
    // Copies of the mounts of other tests, which could not end while they are here.
    let mounts = std::fs::read_to_string("/proc/thread-self/mounts").expect("there is a /proc");
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(path), Some("fuse")) = (words.next(), words.next()) else { continue };
        // Gone already, or named in a way that no test names its mounts.
        let _ = nix::mount::umount2(path, MntFlags::MNT_DETACH);
    }
}

/// Does something as another user and group; a filesystem is told the numbers of the thread.
///
/// # Panics
/// If this process may not do that.
pub fn as_user<T: Send>(uid: u32, gid: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setfsgid(Gid::from_raw(gid));
            setfsuid(Uid::from_raw(uid));
            assert_eq!(setfsgid(Gid::from_raw(u32::MAX)).as_raw(), gid, "needs root");
            work()
        });
        thread.join().expect("it says why")
    })
}

/// A mount that ends with its value; for use after [`private_mounts`].
#[derive(Debug)]
pub struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    /// Mounts an empty file system in memory, e.g. with `size=2m,mode=700`.
    ///
    /// # Panics
    /// If that fails.
    pub fn tmpfs(path: &'a Path, options: &str) -> Self {
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options))
            .expect("tmpfs can be mounted");
        Self(path)
    }

    /// Shows a directory for reading only on `path`.
    ///
    /// # Panics
    /// If that fails.
    pub fn read_only(directory: &Path, path: &'a Path) -> Self {
        let none = None::<&Path>;
        mount(Some(directory), path, none, MsFlags::MS_BIND, none).expect("can be bound");
        let mounted = Self(path);
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, path, none, flags, none).expect("can be read-only");
        mounted
    }

    /// Turns the whole file system read-only, or writable again.
    ///
    /// # Panics
    /// If that fails.
    pub fn set_read_only(&self, read_only: bool) {
        let none = None::<&Path>;
        let flag = if read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
        mount(none, self.0, none, MsFlags::MS_REMOUNT | flag, none).expect("can be remounted");
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // A client that still uses it keeps it a little longer.
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

/// Makes a directory of the kind that users share: writable for a group, which it hands down.
///
/// # Panics
/// If that fails.
pub fn share_directory(path: &Path, gid: u32) {
    std::fs::create_dir_all(path).expect("can be made");
    chown(path, None, Some(gid)).expect("can be given to a group");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o2770)).expect("it is ours");
}

/// Turns this whole process into one of an ordinary user with one group.
///
/// # Panics
/// If it is not root's.
pub fn become_user(uid: u32, gid: u32) {
    let gid = Gid::from_raw(gid);
    setgroups(&[gid]).expect("root may do that");
    setgid(gid).expect("root may do that");
    setuid(Uid::from_raw(uid)).expect("root may do that");
    // As after the start of a program; otherwise /proc/self stays root's.
    prctl::set_dumpable(true).expect("always works");
}

/// A process that runs one ignored test of this program; killed with its value.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// Starts the ignored test `name` of this test program in mount and pid namespaces of its own.
///
/// # Panics
/// If it cannot be started.
pub fn worker(name: &str, arguments: &[&str]) -> Worker {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]);
    command.args(["sh", "-c", WITHOUT_COPIES, "sh"]);
    command.arg(std::env::current_exe().expect("the kernel tells"));
    start(command, name, arguments)
}

/// Starts the ignored test `name` of this test program as a plain child.
///
/// # Panics
/// If it cannot be started.
pub fn child(name: &str, arguments: &[&str]) -> Worker {
    start(Command::new(std::env::current_exe().expect("the kernel tells")), name, arguments)
}

fn start(mut command: Command, name: &str, arguments: &[&str]) -> Worker {
    // SAFETY: prctl(2) is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
    let mut child = command
        .args(["--ignored", "--exact", name, "--nocapture", "--test-threads=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare(1) and this program are there");
    let lines = BufReader::new(child.stdout.take().expect("it is a pipe")).lines();
    let mut worker = Worker { child, lines };
    for argument in arguments {
        worker.say(argument);
    }
    worker
}

impl Worker {
    /// Writes a line to it.
    ///
    /// # Panics
    /// If it does not read.
    pub fn say(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("it is a pipe");
        writeln!(input, "{line}").expect("the worker reads");
    }

    /// Reads on to a line that has `mark` in it, and returns what follows the mark.
    ///
    /// # Panics
    /// If the worker ends before.
    pub fn hear(&mut self, mark: &str) -> String {
        for line in self.lines.by_ref() {
            let line = line.expect("workers write text");
            if let Some((_, rest)) = line.split_once(mark) {
                return rest.trim().to_owned();
            }
        }
        panic!("the worker ended before it said {mark:?}");
    }

    /// Sends a signal to a [`child`].
    ///
    /// # Panics
    /// If it was waited for.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it was not waited for");
    }

    /// Returns its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids fit pid_t"))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it cannot be waited for.
    pub fn finish(mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        self.lines.by_ref().for_each(drop);
        self.child.wait().expect("it is our child")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Fails where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the lines that a worker is told; `None` if somebody runs all ignored tests.
pub fn told<const N: usize>() -> Option<[String; N]> {
    let lines: Vec<_> = std::io::stdin().lines().take(N).map_while(Result::ok).collect();
    lines.try_into().ok()
}
