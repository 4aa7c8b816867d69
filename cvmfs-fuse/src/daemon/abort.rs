//! The end of a mount that nobody serves: its users get errors instead of waiting.
//!
//! What is detached and aborted here is the supervisor's own mount and nothing else: a device number that the
//! supervisor itself has seen, on top at the place that its own command line names.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use crate::fuse::device::Device;
use crate::fuse::handover::Mount;
use crate::fuse::mount::{self, UnmountError};
use crate::fuse::mountinfo;
use crate::fuse::premounted;

/// Where the kernel lists FUSE connections by number.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Whether a connection has ended: unmounted, or aborted; also one that was never mounted.
pub(super) fn is_over(connection: &OwnedFd) -> bool {
    // No event is asked for: what remains is the error that the kernel has no more requests.
    let mut polled = [PollFd::new(connection, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut polled, Some(&now)), Ok(1..)) && polled[0].revents().contains(PollFlags::ERR)
}

/// Detaches a mount and ends its connection: with the last descriptor, and for `force` even if
/// somebody still has one who does not end.
pub(super) fn end(mount: Mount, force: bool) {
    // Before it is detached: afterwards the kernel may give the number to another mount.
    if let Some(device) = mount.device.filter(|_| force && !is_over(&mount.connection))
        && let Err(error) = abort(device)
    {
        // Gone already, or not mounted in a container.
        tracing::debug!(%device, %error, "cannot abort the connection");
    }
    if let Err(error) = detach(&mount.mountpoint, mount.device) {
        // Somebody else did, or it is in another mount namespace.
        tracing::debug!(%error, "cannot detach the mount");
    }
}

/// Aborts the connection of a mounted device, whose number is that of the connection.
fn abort(device: Device) -> io::Result<()> {
    if device.major != 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let path = format!("{CONNECTIONS}/{}/abort", device.minor);
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    File::from(rustix::fs::open(path, flags, Mode::empty())?).write_all(b"1")
}

/// Detaches a mount, for example when its server goes on for those who are in it. What somebody mounted over it
/// is not ours to remove, nor is anything if the device is not known.
pub(crate) fn detach(mountpoint: &Path, device: Option<Device>) -> Result<(), UnmountError> {
    let Some(device) = device.filter(|_| premounted::number_of(mountpoint).is_none()) else {
        return Ok(());
    };
    // The mount that is looked at is the one that is detached, whatever becomes of the path meanwhile. Such a
    // descriptor asks nothing of the mounted filesystem.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let refused = |error: io::Error| UnmountError::Refused(error);
    let top = match rustix::fs::open(mountpoint, flags, Mode::empty()) {
        Ok(top) => top,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        // The way to it is closed to this user; its supervisor may be root.
        Err(error @ rustix::io::Errno::ACCESS) => {
            return Err(UnmountError::NotAllowed(error.into()));
        }
        Err(error) => return Err(refused(error.into())),
    };
    let id = mount_of(&top).map_err(refused)?;
    let mounts = mountinfo::all().map_err(refused)?;
    if !mounts.iter().any(|entry| entry.id == id && entry.device == device && entry.is_fuse()) {
        return Ok(());
    }
    let link = format!("/proc/self/fd/{}", top.as_raw_fd());
    match umount2(link.as_str(), MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        // A user's helper may, which finds the mount by its path.
        Err(Errno::EPERM) => mount::unmount(mountpoint, true),
        Err(errno) => Err(refused(errno.into())),
    }
}

/// Returns the number of the mount that a descriptor is in, as in the mount table.
fn mount_of(descriptor: &OwnedFd) -> io::Result<u64> {
    let facts = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd()))?;
    let number = facts.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    number
        .and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| io::Error::other("the kernel does not tell the mount of a descriptor"))
}
