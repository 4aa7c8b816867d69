//! A connection that somebody else has mounted: `/dev/fd/N` in the place of a mountpoint, as libfuse
//! and container runtimes have it (`apptainer --fusemount`). We serve it, and neither mount nor
//! unmount anything: where it is seen is not known, and may be in another namespace.

use std::io;
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use super::device::Device;
use super::mountinfo;
use super::received::{Kind, kind_of};

/// Before the number of the descriptor.
const PREFIX: &str = "/dev/fd/";
/// Returns the number of the descriptor that stands for a mountpoint.
pub fn number_of(mountpoint: &Path) -> Option<RawFd> {
    let digits = mountpoint.to_str()?.strip_prefix(PREFIX)?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // The first three are not for that.
    digits.parse().ok().filter(|number| is_number && *number > 2)
}

/// Returns the connection with a number that whoever started us has opened.
///
/// # Errors
/// If there is none, or it is something else.
pub fn connection(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl takes any number and touches no memory; a copy is made only if it is open.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was made just now and belongs to nobody else.
    let copy = unsafe { OwnedFd::from_raw_fd(copy) };
    assert_kernel(&copy)?;
    Ok(copy)
}

/// Makes sure that the kernel is at the other end of a connection which somebody else opened: requests are only
/// parsed by what trusts their lengths. Only root can make a device node, and only the kernel serves it.
///
/// # Errors
/// If it is something else.
pub(super) fn assert_kernel(connection: &OwnedFd) -> io::Result<()> {
    match kind_of(connection.as_fd()) {
        Kind::Fuse => Ok(()),
        _ => Err(io::Error::other("it is not /dev/fuse")),
    }
}

/// Returns the device of the mount behind a connection, where the kernel tells (from Linux 6.15 on).
pub fn device_of(connection: &OwnedFd) -> Option<Device> {
    // The number of a connection is the minor number of its device.
    super::received::connection_of(connection.as_fd()).map(Device::of_connection)
}

/// Returns where a mountpoint is seen: its own path, or for `/dev/fd/N` that of the device if it is
/// mounted here.
pub fn seen_at(mountpoint: &Path, device: Option<Device>) -> PathBuf {
    let seen = || {
        let device = device.filter(|_| number_of(mountpoint).is_some())?;
        let mounts = mountinfo::all().ok()?;
        Some(mounts.into_iter().find(|entry| entry.device == device)?.mountpoint)
    };
    seen().unwrap_or_else(|| mountpoint.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn only_descriptors_of_fuse_are_taken() {
        for (path, number) in [
            ("/dev/fd/3", Some(3)),
            ("/dev/fd/17", Some(17)),
            ("/dev/fd/2", None),
            ("/dev/fd/+3", None),
            ("/dev/fd/", None),
            ("/dev/fd/3/x", None),
            ("/dev/fd/99999999999", None),
            ("/cvmfs/a.b.c", None),
        ] {
            assert_eq!(number_of(Path::new(path)), number, "{path}");
        }
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = connection(file.as_raw_fd()).unwrap_err();
        assert_eq!(error.to_string(), "it is not /dev/fuse");
        assert_eq!(connection(999_999).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(seen_at(Path::new("/m"), Some(Device::of_connection(1))), Path::new("/m"));
    }
}
