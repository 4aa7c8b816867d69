//! Where a mount is talked to.
//!
//! | socket | who finds it |
//! |---|---|
//! | `WORKSPACE/cvmfs_io.FQRN` | scripts made for upstream; whoever knows the cache directory |
//! | abstract, named after the device | whoever sees the mount, in the same network namespace |

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// One of the two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A file.
    Path(PathBuf),
    /// `MAJOR:MINOR` of the mount.
    Device(String),
}

impl Address {
    /// Where upstream has it.
    pub fn in_workspace(directory: &Path, fqrn: &str) -> Self {
        Self::Path(directory.join(format!("cvmfs_io.{fqrn}")))
    }

    /// Hands over the address as the kernel wants it. Paths may be longer than it takes.
    pub(super) fn with<T>(
        &self,
        use_it: impl FnOnce(&SocketAddr) -> io::Result<T>,
    ) -> io::Result<T> {
        match self {
            Self::Device(device) => {
                let name = format!("cvmfs-fuse/talk/{device}");
                use_it(&SocketAddr::from_abstract_name(name)?)
            }
            Self::Path(path) => {
                let (directory, short) = reach(path)?;
                let outcome = use_it(&SocketAddr::from_pathname(short)?);
                drop(directory);
                outcome
            }
        }
    }
}

/// Opens the directory of a socket, and names the socket through that: always short enough.
fn reach(path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let unnamed = || io::Error::from(io::ErrorKind::InvalidInput);
    let (parent, name) =
        (path.parent().ok_or_else(unnamed)?, path.file_name().ok_or_else(unnamed)?);
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    Ok((directory, short))
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Device(device) => write!(f, "device {device}"),
        }
    }
}
