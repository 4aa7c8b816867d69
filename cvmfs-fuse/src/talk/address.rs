//! Where a mount is talked to.
//!
//! | socket | who finds it |
//! |---|---|
//! | `talk` in the control directory of the mount | commands of this program that see the mount |
//! | `WORKSPACE/cvmfs_io.FQRN` | scripts made for upstream; whoever knows the cache directory |

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::config::{Configuration, Environment, RepositoryFlags};
use crate::fuse::mountinfo::{self, MountEntry, show};

/// First column of `df` for mounts of this program and of upstream's.
pub const FS_NAME: &str = "cvmfs2";

/// A FUSE mount in this process's table of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenMount {
    /// `MAJOR:MINOR`.
    pub device: String,
    /// Where it is seen from here.
    pub mountpoint: PathBuf,
    /// User of its server, as the kernel was told.
    pub user: Option<u32>,
    /// It is named as those of this program and of upstream's client.
    pub looks_ours: bool,
}

impl SeenMount {
    /// Takes what a table of mounts says.
    pub fn of(entry: MountEntry) -> Self {
        let MountEntry { device, mountpoint, user, source, .. } = entry;
        Self { device: device.to_string(), mountpoint, user, looks_ours: source == FS_NAME }
    }

    /// Returns all FUSE mounts that this process sees, each once, as it is seen first.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn all() -> io::Result<Vec<Self>> {
        Ok(Self::each(&mountinfo::all()?))
    }

    /// Returns the FUSE mounts of a table, each once.
    pub(super) fn each(table: &[MountEntry]) -> Vec<Self> {
        let mut devices = std::collections::HashSet::new();
        let mounts = table.iter().filter(|mount| mount.is_fuse());
        let first = mounts.filter(|mount| devices.insert(mount.device));
        first.cloned().map(Self::of).collect()
    }

    /// Returns how the mount is talked to.
    pub fn address(&self) -> Address {
        Address::Mount(self.clone())
    }

    /// Tells whether a user may speak for this mount: root, the user of its server, or ourselves.
    pub(crate) fn is_spoken_for_by(&self, uid: u32) -> bool {
        uid == 0 || Some(uid) == self.user || uid == nix::unistd::geteuid().as_raw()
    }

    /// Tells whether what the mount says of paths may be acted upon: nobody else's server says it. The kernel's
    /// table decides, not the peer's user: root listens for servers that gave root up.
    pub(crate) fn is_ours_or_roots(&self) -> bool {
        self.user.is_some_and(|user| user == 0 || user == nix::unistd::geteuid().as_raw())
    }

    /// Opens the mountpoint as the proof that this process sees the mount. Neither the server of the mount
    /// is asked nor anything below it is touched. `None` if something else is in its place.
    pub(crate) fn proof(&self) -> Option<OwnedFd> {
        use std::os::fd::AsFd as _;
        let number = super::directory::device_number(&self.device)?;
        let opened = open_mountpoint(&self.mountpoint)?;
        super::proof::is_of(opened.as_fd(), number).then_some(opened)
    }
}

/// Opens a mountpoint without asking any file server on the way: one that is hostile or dead would keep us for ever.
fn open_mountpoint(path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    // Mountpoints, and the directories above them, are in the kernel's memory for as long as they are mounted on.
    let cached = ResolveFlags::CACHED;
    if let Ok(opened) = rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), cached) {
        return Some(opened);
    }
    // Before Linux 5.12, or on a file system of the network that wants to be asked.
    let is_above = |mount: &MountEntry| {
        mount.is_fuse() && mount.mountpoint != path && path.starts_with(&mount.mountpoint)
    };
    let mounts = mountinfo::all().ok()?;
    if mounts.iter().any(is_above) {
        return None;
    }
    rustix::fs::open(path, flags, Mode::empty()).ok()
}

/// One of the two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A file.
    Path(PathBuf),
    /// The control directory of a mount.
    Mount(SeenMount),
}

impl Address {
    /// Where upstream has it.
    pub fn in_workspace(directory: &Path, fqrn: &str) -> Self {
        Self::Path(directory.join(format!("cvmfs_io.{fqrn}")))
    }
}

/// Opens the directory of a socket, and names the socket through that: always short enough.
pub(super) fn reach(path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let unnamed = || io::Error::from(io::ErrorKind::InvalidInput);
    let (parent, name) =
        (path.parent().ok_or_else(unnamed)?, path.file_name().ok_or_else(unnamed)?);
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    Ok((directory, short))
}

/// Returns the cache directories that mounts seen from here may use, the likely ones first.
pub(crate) fn workspaces(environment: &Environment) -> Vec<PathBuf> {
    let configuration = Configuration::of(&RepositoryFlags::default(), environment, None).ok();
    let mut all = environment.cache_dirs();
    all.extend(configuration.and_then(|configuration| configuration.cache_directory()));
    all.push(environment.scratch_dir());
    all.dedup();
    all
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => f.write_str(&show(path)),
            Self::Mount(mount) => write!(f, "the mount on {}", show(&mount.mountpoint)),
        }
    }
}
