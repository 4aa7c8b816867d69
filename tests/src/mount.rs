//! One mount of the program under test, ended with its value.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::publish::Published;
use fixtures::server::TestServer;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::mountinfo::MountInfo;
use crate::wait::wait_until;
use crate::walk::get_xattr;
use crate::watchdog::{self, bounded};

/// Longest time from the start of the program to a usable mount.
pub const START_LIMIT: Duration = Duration::from_secs(20);

/// Longest time from unmounting to the end of the program.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Where the program under test is.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// Returns the program at `path`; see [`client!`](crate::client).
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Returns a command of the program that dies with the thread that starts it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        // A test that is killed must not leave a mount: on SIGTERM the client unmounts.
        // SAFETY: prctl(2) is async-signal-safe and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGTERM)?));
        }
        command.stdin(Stdio::null());
        command
    }
}

/// A mount that did not become usable.
#[derive(Debug, thiserror::Error)]
#[error("mount failed: {reason}, exit code {code:?}\n{stderr}")]
pub struct MountFailure {
    /// What the harness saw.
    pub reason: String,
    /// Exit code of the program, if it ended by itself.
    pub code: Option<i32>,
    /// All that the program wrote.
    pub stderr: String,
}

/// What to mount, and how.
#[derive(Clone, Debug)]
pub struct MountSpec {
    client: Client,
    /// None: all repositories.
    fqrn: Option<String>,
    server: String,
    /// As for `--public-key`.
    public_keys: OsString,
    cache_dir: Option<PathBuf>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    open_files: Option<u64>,
}

impl MountSpec {
    /// Mounts `fqrn` from `server` (as for `--server`), trusting the master key in `public_key`.
    pub fn new(client: &Client, fqrn: &str, server: &str, public_key: &Path) -> Self {
        Self {
            client: client.clone(),
            fqrn: Some(fqrn.to_owned()),
            server: server.to_owned(),
            public_keys: public_key.into(),
            cache_dir: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            open_files: None,
        }
    }

    /// Mounts all repositories of `servers` (as for `--server`) on one directory, trusting these
    /// master keys.
    pub fn automount(client: &Client, servers: &str, public_keys: &[&Path]) -> Self {
        let keys: Vec<_> = public_keys.iter().map(|key| key.as_os_str()).collect();
        let spec = Self::new(client, "", servers, Path::new(&keys.join(OsStr::new(":"))));
        Self { fqrn: None, ..spec }
    }

    /// Mounts a genuine repository from `server`, which serves [`Genuine::dir`].
    pub fn genuine(client: &Client, genuine: &Genuine, server: &TestServer) -> Self {
        let template = format!("{}/@fqrn@", server.url());
        Self::new(client, genuine.fqrn(), &template, &genuine.public_key())
    }

    /// Mounts what was published, from these servers in their order.
    pub fn published(client: &Client, published: &Published, servers: &[&TestServer]) -> Self {
        let fqrn = published.fqrn();
        let bases: Vec<_> = servers.iter().map(|server| server.base(fqrn)).collect();
        Self::new(client, fqrn, &bases.join(";"), &published.public_key())
    }

    /// For tests that count what is fetched: nothing is, before it is asked for.
    pub fn without_prefetch(self) -> Self {
        self.arg("--set=CVMFS_FUSE_PREFETCH=no")
    }

    /// Gives up each way after two seconds and without repetition, so that tests of failures are
    /// short.
    pub fn impatient(self) -> Self {
        self.arg("--set=CVMFS_TIMEOUT=2")
            .arg("--set=CVMFS_TIMEOUT_DIRECT=2")
            .arg("--set=CVMFS_MAX_RETRIES=0")
    }

    /// Uses this cache, which outlives the mount; without it each mount has an empty one.
    pub fn cache_dir(mut self, directory: &Path) -> Self {
        self.cache_dir = Some(directory.to_owned());
        self
    }

    /// Adds an argument of the command line.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Sets a variable of the program's environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Lets the program have so many descriptors, and not raise that.
    pub fn open_files(mut self, limit: u64) -> Self {
        self.open_files = Some(limit);
        self
    }

    /// Mounts in the foreground and waits until the mount is usable.
    ///
    /// # Panics
    /// With the exit code and all that the program wrote, if it is not.
    pub fn start(&self) -> TestMount {
        self.try_start().unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// As [`Self::start`], for mounts that are expected to fail.
    ///
    /// # Errors
    /// [`MountFailure`] if the program ends, or is not usable within [`START_LIMIT`].
    ///
    /// # Panics
    /// If this machine has no FUSE: such tests must not pass.
    pub fn try_start(&self) -> Result<TestMount, MountFailure> {
        if let Err(error) = File::options().read(true).write(true).open("/dev/fuse") {
            panic!(
                "these tests need /dev/fuse: {error} (docker run --device /dev/fuse --cap-add SYS_ADMIN)"
            );
        }
        let mut mount = TestMount::spawn(self);
        let reason = match mount.wait_usable() {
            Ok(()) => return Ok(mount),
            Err(reason) => reason,
        };
        let code = mount.child.try_wait().ok().flatten().and_then(|status| status.code());
        // Before the text is read, so that it is complete.
        mount.end();
        Err(MountFailure { reason, code, stderr: mount.log() })
    }

    /// Returns the whole command line, for tests that start the program themselves.
    pub fn command(&self, mountpoint: &Path, cache_dir: &Path) -> Command {
        let mut command = self.client.command();
        match &self.fqrn {
            Some(fqrn) => command.arg("mount").arg(fqrn),
            None => command.arg("automount"),
        };
        command
            .arg(mountpoint)
            .args(["--server", &self.server])
            .arg("--public-key")
            .arg(&self.public_keys)
            .arg("--cache-dir")
            .arg(self.cache_dir.as_deref().unwrap_or(cache_dir))
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(limit) = self.open_files {
            limit_open_files(&mut command, limit);
        }
        command
    }
}

/// Lets a command have so many descriptors, and not raise that.
pub fn limit_open_files(command: &mut Command, limit: u64) {
    // SAFETY: setrlimit(2) is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(move || {
            setrlimit(Resource::RLIMIT_NOFILE, limit, limit)?;
            Ok(())
        });
    }
}

/// A usable mount. Dropping it unmounts and ends the program, in bounded time.
#[derive(Debug)]
pub struct TestMount {
    /// Holds the mount point, the log and, unless one was given, the cache.
    directory: Option<TempDir>,
    mountpoint: PathBuf,
    log: PathBuf,
    cache_dir: PathBuf,
    child: Child,
    info: Option<MountInfo>,
    ended: bool,
}

impl TestMount {
    fn spawn(spec: &MountSpec) -> Self {
        let directory =
            tempfile::Builder::new().prefix("mount.").tempdir().expect("tmp is writable");
        // Resolved, as the kernel's table of mounts has it.
        #[allow(clippy::disallowed_methods, reason = "the harness's own directory")]
        let base = fs::canonicalize(directory.path()).expect("it was made just now");
        let (mountpoint, log, own_cache) = (base.join("mnt"), base.join("log"), base.join("cache"));
        fs::create_dir(&mountpoint).expect("the directory is ours");
        fs::create_dir(&own_cache).expect("the directory is ours");
        let output = File::create(&log).expect("the directory is ours");
        let mut command = spec.command(&mountpoint, &own_cache);
        command
            .arg("--foreground")
            .stdout(output.try_clone().expect("a descriptor is left"))
            .stderr(output);
        let child = command.spawn().expect("the program under test was built");
        let cache_dir = spec.cache_dir.clone().unwrap_or(own_cache);
        let mount = Self {
            directory: Some(directory),
            mountpoint,
            log,
            cache_dir,
            child,
            info: None,
            ended: false,
        };
        watchdog::register(mount.pid(), &mount.mountpoint);
        mount
    }

    fn wait_usable(&mut self) -> Result<(), String> {
        let mut exited = None;
        wait_until(START_LIMIT, "entry in the table of mounts", || {
            exited = self.child.try_wait().ok().flatten();
            self.info = MountInfo::of(&self.mountpoint);
            exited.is_some() || self.info.is_some()
        })
        .map_err(|timeout| timeout.to_string())?;
        if let Some(status) = exited {
            return Err(format!("the program ended with {status}"));
        }
        let root = self.mountpoint.clone();
        match bounded(START_LIMIT, move || fs::metadata(root)) {
            Some(Ok(root)) if root.is_dir() => Ok(()),
            Some(Ok(_)) => Err("the root is no directory".to_owned()),
            Some(Err(error)) => Err(format!("the root cannot be asked: {error}")),
            None => Err("the root does not answer".to_owned()),
        }
    }

    /// Returns the mount point.
    pub fn root(&self) -> &Path {
        &self.mountpoint
    }

    /// Returns the path of an entry; any bytes are allowed.
    pub fn path(&self, relative: impl AsRef<[u8]>) -> PathBuf {
        self.mountpoint.join(OsStr::from_bytes(relative.as_ref()))
    }

    /// Returns the attributes of an entry itself, links not followed.
    ///
    /// # Panics
    /// If there is no such entry.
    pub fn lstat(&self, relative: impl AsRef<[u8]>) -> Metadata {
        let path = self.path(relative);
        fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Returns an attribute of the mount's root, such as `user.revision`; `None` without a value.
    ///
    /// # Panics
    /// If it is no text.
    pub fn attribute(&self, name: &str) -> Option<String> {
        let value = get_xattr(self.root(), name.as_bytes()).ok()?;
        Some(String::from_utf8(value).expect("attributes of the server are text"))
    }

    /// Returns the revision that is shown.
    ///
    /// # Panics
    /// If the mount does not tell.
    pub fn revision(&self) -> u64 {
        let number = self.attribute("user.revision").and_then(|text| text.parse().ok());
        number.expect("a mount tells its revision")
    }

    /// Returns what the kernel said of the mount when it became usable.
    ///
    /// # Panics
    /// Never for a mount that [`MountSpec::start`] returned.
    pub fn info(&self) -> &MountInfo {
        self.info.as_ref().expect("a usable mount is in the table")
    }

    /// Returns the process that was started: it ends with the mount.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids fit pid_t"))
    }

    /// Returns the process that serves the mount now.
    ///
    /// # Panics
    /// If the mount does not tell.
    pub fn server(&self) -> Pid {
        let number = self.attribute("user.pid").and_then(|text| text.parse().ok());
        Pid::from_raw(number.expect("a mount tells who serves it"))
    }

    /// Returns all that the program wrote so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Returns the directory with the cache.
    pub fn cache_dir(&self) -> &Path {
        &self.cache_dir
    }

    /// Unmounts and returns how the program ended.
    ///
    /// # Panics
    /// If the mount is busy, or the program does not end within [`STOP_LIMIT`].
    pub fn unmount(mut self) -> ExitStatus {
        umount2(&self.mountpoint, MntFlags::empty())
            .unwrap_or_else(|errno| panic!("umount {}: {errno}", self.mountpoint.display()));
        self.wait_exit()
    }

    /// Waits until the program ended by itself, because somebody unmounted or stopped it.
    ///
    /// # Panics
    /// If it does not end within [`STOP_LIMIT`].
    pub fn wait_exit(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until(STOP_LIMIT, "end of the program", || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        })
        .unwrap_or_else(|timeout| panic!("{timeout}; it wrote:\n{}", self.log()));
        status.expect("that was the condition")
    }

    /// Ends mount and program with all force that is needed; false if it was needed.
    fn end(&mut self) -> bool {
        if std::mem::replace(&mut self.ended, true) {
            return true;
        }
        let unmounted = match umount2(&self.mountpoint, MntFlags::empty()) {
            // Not mounted: it failed before, or the test has unmounted.
            Ok(()) | Err(Errno::EINVAL) => true,
            Err(_) => umount2(&self.mountpoint, MntFlags::MNT_DETACH).is_ok(),
        };
        let ended = |child: &mut Child| {
            wait_until(STOP_LIMIT, "end of the program", || matches!(child.try_wait(), Ok(Some(_))))
                .is_ok()
        };
        let politely = unmounted && ended(&mut self.child);
        if !politely {
            let aborted = self.info.as_ref().is_some_and(|info| info.abort().is_ok());
            if !aborted || !ended(&mut self.child) {
                // Fails because it has just ended.
                let _: io::Result<()> = self.child.kill();
                let _ = self.child.wait();
            }
        }
        watchdog::forget(&self.mountpoint);
        politely
    }
}

impl Drop for TestMount {
    fn drop(&mut self) {
        let politely = self.end();
        let log = if politely { String::new() } else { self.log() };
        if MountInfo::of(&self.mountpoint).is_some()
            && let Some(directory) = self.directory.take()
        {
            // Removing it would walk through the mount.
            let _ = directory.keep();
        }
        if !politely && !std::thread::panicking() {
            panic!("the client did not end after unmounting; it wrote:\n{log}");
        }
    }
}
