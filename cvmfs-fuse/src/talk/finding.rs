//! How a client finds the control directory of a mount that it sees, and whom it believes.
//!
//! The device of the mount, as /proc/self/mountinfo has it, names the directory. It is looked for in the
//! places of root, of the caller and of the user of the mount's server, and in the cache directories that
//! the settings name. A directory counts only if it belongs to one of these users, nobody else may write to
//! it, and its record names the device.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::address::{SeenMount, workspaces};
use super::directory::{Base, name_of, record_in};
use crate::config::Environment;

/// Bits of others in the mode of a directory that would let them change it.
const WRITABLE: u32 = 0o022;

/// What is said where a mount has no control directory that is seen.
const HIDDEN: &str = "it has no control directory that is seen from here: ask where it is served";

/// A control directory that belongs to a mount.
#[derive(Debug)]
pub(crate) struct ControlPlace {
    directory: OwnedFd,
}

impl ControlPlace {
    /// Returns a path for connect(2) to a socket in it; of use while `self` lives.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.directory.as_raw_fd()))
    }
}

/// Finds the control directories of a mount: usually one; a second may be left of a dead supervisor.
///
/// # Errors
/// `PermissionDenied` if there is one that this user may not enter, `NotFound` if there is none.
pub(crate) fn find(mount: &SeenMount) -> io::Result<Vec<ControlPlace>> {
    let name = name_of(&mount.device).map_err(io::Error::other)?;
    let mut users = vec![0, nix::unistd::geteuid().as_raw()];
    users.extend(mount.user);
    users.sort_unstable();
    users.dedup();
    let mut bases: Vec<_> = users.iter().flat_map(|uid| Base::of_runtime(*uid)).collect();
    bases.extend(users.iter().map(|uid| Base::in_tmp(*uid)));
    bases.dedup();
    let mut denied = false;
    let mut look = |bases: Vec<Base>| -> Vec<ControlPlace> {
        let found = bases.iter().filter_map(|base| match open(base, &name, mount) {
            Ok(place) => Some(place),
            Err(error) => {
                denied |= error.kind() == io::ErrorKind::PermissionDenied;
                None
            }
        });
        found.collect()
    };
    let mut found = look(bases);
    if found.is_empty() {
        // Only then: this reads the configuration.
        let caches = workspaces(&Environment::of_process());
        let bases = caches.iter().flat_map(|cache| {
            users.iter().map(|uid| Base::in_cache(cache, *uid)).collect::<Vec<_>>()
        });
        found = look(bases.collect());
    }
    match (found.is_empty(), denied) {
        (false, _) => Ok(found),
        (true, true) => Err(io::ErrorKind::PermissionDenied.into()),
        (true, false) => Err(io::Error::new(io::ErrorKind::NotFound, HIDDEN)),
    }
}

/// Opens a control directory, if it is one of this mount.
fn open(base: &Base, name: &str, mount: &SeenMount) -> io::Result<ControlPlace> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let above = rustix::fs::open(&base.above, flags - OFlags::NOFOLLOW, Mode::empty());
    // What another user hides from us, such as a home directory, is no refusal of the mount.
    let above = above.map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
    let opened = rustix::fs::openat(&above, &*base.name, flags, Mode::empty())
        .map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
    accept(&opened, mount)?;
    let directory =
        rustix::fs::openat(&opened, name, flags, Mode::empty()).map_err(|error| match error {
            Errno::ACCESS | Errno::PERM => io::ErrorKind::PermissionDenied.into(),
            error => io::Error::from(error),
        })?;
    accept(&directory, mount)?;
    if record_in(&directory)?.device != mount.device {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(ControlPlace { directory })
}

fn accept(directory: &OwnedFd, mount: &SeenMount) -> io::Result<()> {
    let found = rustix::fs::fstat(directory)?;
    let accepted = mount.is_spoken_for_by(found.st_uid) && found.st_mode & WRITABLE == 0;
    if accepted { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}
