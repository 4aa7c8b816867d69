//! A configuration repository below a directory of autofs, which is mounted when it is first used.
//!
//! automount(8) lets the processes of its own group pass through such a directory without mounting
//! anything, since its mount helpers must get there. This program is called by it as such a helper, so it
//! would find the directory of another repository empty. A child outside of that group does not.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Type of file system that `statfs` tells for directories of autofs (linux/magic.h).
const AUTOFS_SUPER_MAGIC: u64 = 0x0187;

/// Lets automount(8) mount what is at `place` if `mounts` is a directory of autofs, and waits for that no
/// longer than `limit`.
///
/// Does nothing where that is no such directory. Whether `place` can be read afterwards is for the caller
/// to find out.
pub(super) fn mount(mounts: &Path, place: &Path, limit: Duration) {
    let is_autofs = rustix::fs::statfs(mounts)
        .is_ok_and(|found| u64::try_from(found.f_type) == Ok(AUTOFS_SUPER_MAGIC));
    if !is_autofs {
        return;
    }
    let looked = look_from_outside(place).and_then(|mut child| {
        let ended = wait(&child, limit);
        if !matches!(ended, Ok(true)) {
            child.kill()?;
        }
        // It was killed, or has ended: a wait for automount(8) can be killed.
        child.wait()?;
        ended
    });
    match looked {
        Ok(true) => {}
        Ok(false) => tracing::warn!(
            place = %place.display(),
            "automount did not mount the configuration repository within {} s",
            limit.as_secs()
        ),
        Err(error) => tracing::warn!(%error, place = %place.display(), "cannot ask automount"),
    }
}

/// Starts a child in a session of its own that looks at a path.
fn look_from_outside(place: &Path) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["doctor", "--probe"]).arg(place).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: between fork and exec only setsid is called, which is async-signal-safe; no memory is
    // allocated, no lock taken.
    unsafe {
        command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?));
    }
    command.spawn()
}

/// Waits for the end of a child, up to `limit`. Returns false if the child still runs then.
fn wait(child: &Child, limit: Duration) -> io::Result<bool> {
    let pid = Pid::from_raw(child.id().cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let timeout = Timespec::try_from(limit).map_err(io::Error::other)?;
    let mut polled = [PollFd::new(&process, PollFlags::IN)];
    Ok(poll(&mut polled, Some(&timeout))? > 0)
}
