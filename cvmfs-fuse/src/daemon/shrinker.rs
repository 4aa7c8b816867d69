//! Makes the kernel drop what it knows of a mount and nobody uses, for servers on kernels before 6.18, which
//! cannot be told what to drop: that takes CAP_SYS_ADMIN, which only the supervisor has.
//!
//! The supervisor does not do it itself: the kernel may wait for answers of the server meanwhile.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use rustix::thread::CapabilitySet;

use crate::cli::exit::{ExitStatus, Failure};
use crate::fuse::device::{Device, NotADevice};
use crate::fuse::notify;
use crate::sandbox::capabilities;

/// The subcommand of the process that does it.
pub const COMMAND: &str = "cvmfs_shrink";
/// Shortest time between two of them: a server cannot make its supervisor start processes without end.
const PACE: Duration = Duration::from_secs(2);

/// Who does it for a supervisor: one process at a time.
#[derive(Debug, Default)]
pub(super) struct Shrinker {
    process: Option<Pid>,
    last: Option<Instant>,
}

impl Shrinker {
    /// Starts it, if the supervisor may and it was not done just now.
    pub(super) fn shrink(&mut self, mountpoint: &Path, device: Option<Device>) {
        let is_early = self.last.is_some_and(|last| last.elapsed() < PACE);
        let Some(device) = device.filter(|_| !is_early && self.process.is_none()) else { return };
        if !capabilities::held().contains(CapabilitySet::SYS_ADMIN) {
            return;
        }
        self.last = Some(Instant::now());
        let started = Command::new("/proc/self/exe")
            .arg0("cvmfs-fuse")
            .args([COMMAND, &device.to_string()])
            .arg(mountpoint)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        match started {
            // Reaped by whoever drives us.
            Ok(child) => self.process = Some(Pid::from_raw(child.id().cast_signed())),
            Err(error) => tracing::warn!(%error, "the kernel is not asked to let go of entries"),
        }
    }

    /// Tells that a child was reaped; false if it is not this one.
    pub(super) fn ended(&mut self, pid: Pid) -> bool {
        self.process.take_if(|process| *process == pid).is_some()
    }
}

/// The process: the subcommand.
pub fn serve(device: &str, mountpoint: &Path) -> Result<ExitStatus, Failure> {
    let device = device
        .parse()
        .map_err(|error: NotADevice| Failure::caused(ExitStatus::Options, COMMAND, &error))?;
    notify::shrink(mountpoint, Some(device)).map_err(|error| {
        let what = "the kernel does not let go of entries";
        Failure::caused(ExitStatus::Permission, what, &error)
    })?;
    Ok(ExitStatus::Ok)
}
