//! How a client finds the control directory of a mount that it sees, and whom it believes.
//!
//! The device of the mount, as /proc/self/mountinfo has it, names the directory. It is looked for in the
//! places of root, of the caller and of the user of the mount's server, and in the cache directories that
//! the settings name. A directory counts only if it belongs to one of these users, nobody else may write to
//! it, and its record names the device.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SocketType;

use super::address::{SeenMount, workspaces};
use super::dial;
use super::directory::{Base, name_of, record_in};
use crate::config::Environment;
use crate::fuse::mountinfo::{self, MountEntry};

/// Bits of others in the mode of a directory that would let them change it.
const WRITABLE: u32 = 0o022;

/// What is said where a mount has no control directory that is seen.
const HIDDEN: &str = "it has no control directory that is seen from here: ask where it is served";

/// A control directory that belongs to a mount.
#[derive(Debug)]
pub(crate) struct ControlPlace {
    directory: OwnedFd,
    /// Whose it is; nobody else is believed in it.
    pub(crate) owner: u32,
}

impl ControlPlace {
    /// Connects to a socket in it. The caller compares the peer's user with the owner.
    ///
    /// A link would lead to a socket of somebody else, who would then be taken for the mount: the name itself must
    /// be a socket of the owner of the directory.
    ///
    /// # Errors
    /// If it is none, or as [`dial::connect`].
    pub(crate) fn connect(
        &self,
        name: &str,
        kind: SocketType,
        limit: Duration,
    ) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, name, flags, Mode::empty())?;
        let found = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
            return Err(io::Error::other("what is in the place of the socket is none"));
        }
        if found.st_uid != self.owner {
            let message =
                format!("the socket is user {}'s, not user {}'s", found.st_uid, self.owner);
            return Err(io::Error::other(message));
        }
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        dial::connect(Path::new(&path), kind, limit)
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
    let foreign = foreign(mountinfo::all()?);
    let mut denied = false;
    let mut look = |bases: Vec<Base>| -> Vec<ControlPlace> {
        let found = bases.iter().filter_map(|base| match open(base, &name, mount, &foreign) {
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

/// Returns the FUSE mounts of others than root and ourselves: their servers may let whoever touches them wait for
/// ever. What is at the root was put there by who made this namespace.
fn foreign(mut table: Vec<MountEntry>) -> Vec<MountEntry> {
    let own = nix::unistd::geteuid().as_raw();
    let is_trusted = |entry: &MountEntry| entry.user.is_some_and(|user| user == 0 || user == own);
    table.retain(|entry| {
        entry.is_fuse() && !is_trusted(entry) && entry.mountpoint != Path::new("/")
    });
    table
}

/// Opens a control directory, if it is one of this mount.
fn open(
    base: &Base,
    name: &str,
    mount: &SeenMount,
    foreign: &[MountEntry],
) -> io::Result<ControlPlace> {
    let path = base.above.join(&base.name);
    let is_in_the_way = |entry: &MountEntry| {
        path.starts_with(&entry.mountpoint) || entry.mountpoint.starts_with(&path)
    };
    if foreign.iter().any(is_in_the_way) {
        return Err(io::ErrorKind::NotFound.into());
    }
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
    let owner = accept(&directory, mount)?;
    if record_in(&directory)?.device != mount.device {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(ControlPlace { directory, owner })
}

/// Returns whose a directory is, if it may be one of this mount.
fn accept(directory: &OwnedFd, mount: &SeenMount) -> io::Result<u32> {
    let found = rustix::fs::fstat(directory)?;
    let accepted = mount.is_spoken_for_by(found.st_uid) && found.st_mode & WRITABLE == 0;
    if accepted { Ok(found.st_uid) } else { Err(io::ErrorKind::NotFound.into()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn place(path: &Path, owner: u32) -> ControlPlace {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).unwrap();
        ControlPlace { directory, owner }
    }

    #[test]
    fn a4_links_and_sockets_of_others_are_refused() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let own = nix::unistd::geteuid().as_raw();
        let _victim = UnixListener::bind(other.path().join("talk")).unwrap();
        let _real = UnixListener::bind(dir.path().join("real")).unwrap();
        symlink(other.path().join("talk"), dir.path().join("link")).unwrap();
        symlink("real", dir.path().join("near")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let connect = |name: &str, owner| {
            let limit = Duration::from_secs(5);
            place(dir.path(), owner).connect(name, SocketType::STREAM, limit)
        };
        assert!(connect("real", own).is_ok());
        for name in ["link", "near", "file", "missing"] {
            assert!(connect(name, own).is_err(), "{name}");
        }
        // Not the owner's of the directory.
        assert!(connect("real", own + 1).is_err());
    }
}
