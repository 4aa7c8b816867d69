//! The end of a mount that nobody serves: its users get errors instead of waiting.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::fuse::handover::Mount;
use crate::fuse::mount::{self, UnmountError};
use crate::fuse::mountinfo;

/// Whether a connection has ended: unmounted, or aborted.
pub(super) fn is_over(connection: &OwnedFd) -> bool {
    // No event is asked for: what remains is the error that the kernel has no more requests.
    let mut polled = [PollFd::new(connection, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut polled, Some(&now)), Ok(1..)) && polled[0].revents().contains(PollFlags::ERR)
}

/// Detaches a mount and ends its connection: with the last descriptor, and for `force` even if
/// somebody still has one who does not end.
pub(super) fn end(mount: Mount, force: bool) {
    if let Err(error) = mount::unmount(&mount.mountpoint, true) {
        // Somebody else did, or it is in another mount namespace.
        tracing::debug!(%error, "cannot detach the mount");
    }
    // The kernel's number of the connection is that of the device.
    let number = mount.device.as_deref().and_then(|device| device.strip_prefix("0:"));
    if let Some(number) = number.filter(|_| force) {
        let path = format!("/sys/fs/fuse/connections/{number}/abort");
        if let Err(error) = std::fs::write(&path, "1") {
            // Gone already, or not mounted in a container.
            tracing::debug!(path, %error, "cannot abort the connection");
        }
    }
}

/// Detaches a mount whose server goes on for those who are in it. What somebody mounted over it is not ours
/// to remove.
pub(super) fn detach(mountpoint: &Path, device: Option<&str>) -> Result<(), UnmountError> {
    match (mountinfo::topmost_at(mountpoint), device) {
        (Ok(top), Some(ours)) if top.as_ref().is_none_or(|top| top.device != ours) => Ok(()),
        _ => mount::unmount(mountpoint, true),
    }
}
