//! The socket of a process that is alone at its place.
//!
//! The directory of the socket may be one that others can write to, such as /tmp or a volume of several containers. So
//! nothing is done there by a path that somebody could have put a link at, a lock is only one that others can
//! neither hold nor take away, and what is found there of another user is refused.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use cvmfs_core::cache::CacheError;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;

use super::peer::peer_of;
use super::wire::socket;
use crate::layout::failed;
use crate::safe_path::make_directories;
use crate::sharing::our_user;

/// Behind the name of a socket: its lock.
const LOCK: &str = ".lock";
/// Mode of a lock: whoever could open it could hold it.
const LOCK_MODE: u32 = 0o600;
/// Mode of a directory that is made for the socket: everybody may connect.
const DIRECTORY_MODE: u32 = 0o755;
/// Attempts to make a lock file where others are made and removed at the same time.
const ATTEMPTS: usize = 8;
/// Connections that wait until they are accepted.
const BACKLOG: i32 = 128;

/// Begins to listen on a socket for packets that everybody may connect to: who it is has to be
/// asked of each one. A socket that a dead process left is taken over; the file is locked as long
/// as the process lives, because two would take each other's socket away.
///
/// # Errors
/// If another process listens there, or a file there is that of another user.
pub fn listen_alone(path: &Path) -> Result<(OwnedFd, File), CacheError> {
    let broken = |action: &'static str, error: io::Error| failed(action, path)(error);
    let unnamed = || io::Error::new(io::ErrorKind::InvalidInput, "a path without a name");
    let name = path.file_name().ok_or_else(|| broken("listen on", unnamed()))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    // For all to come in, and for nobody else to write to, whatever the umask.
    let (directory, _) =
        make_directories(parent, DIRECTORY_MODE, DIRECTORY_MODE).map_err(failed("open", parent))?;
    // The address by the descriptor of the directory, which nobody can lead elsewhere.
    let by_descriptor = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
    let address = SocketAddrUnix::new(by_descriptor.join(name))
        .map_err(|error| broken("listen on", error.into()))?;

    let mut lock_name = name.to_owned();
    lock_name.push(LOCK);
    let lock = lock_in(&directory, &lock_name, &address).map_err(|error| broken("lock", error))?;
    let listener = socket().map_err(|error| broken("listen on", error))?;
    // We hold the lock, so whoever made it is dead.
    match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
        Err(error) if error != Errno::NOENT => return Err(broken("remove", error.into())),
        _ => {}
    }
    rustix::net::bind(&listener, &address).map_err(|error| broken("listen on", error.into()))?;
    // Whoever connects is asked who it is.
    let made = open_to_all(&directory, name).map_err(|error| broken("set the mode of", error));
    made.and_then(|()| {
        rustix::net::listen(&listener, BACKLOG).map_err(|error| broken("listen on", error.into()))
    })?;
    Ok((listener, lock))
}

/// Lets everybody connect to a socket that was made just now; not to what somebody has put in its place.
fn open_to_all(directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?);
    let found = rustix::fs::fstat(&made)?;
    let is_socket =
        rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::Socket;
    if !is_socket || found.st_uid != our_user() {
        return Err(io::Error::other("somebody has replaced it"));
    }
    // The descriptor names the file itself, which was looked at.
    let mode = Mode::from_raw_mode(0o666);
    Ok(rustix::fs::chmod(format!("/proc/self/fd/{}", made.as_raw_fd()), mode)?)
}

/// Locks a file that only we can open, and that is there under its name.
fn lock_in(directory: &OwnedFd, name: &OsStr, address: &SocketAddrUnix) -> io::Result<File> {
    for _ in 0..ATTEMPTS {
        let flags = OFlags::RDWR
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(LOCK_MODE);
        let opened = match rustix::fs::openat(directory, name, flags, mode) {
            Ok(opened) => Some(File::from(opened)),
            // A link, a device without a driver, or (fs.protected_regular) a file of another user in a directory
            // like /tmp.
            Err(Errno::LOOP | Errno::NXIO | Errno::ACCESS | Errno::ISDIR) => None,
            Err(error) => return Err(error.into()),
        };
        let is_ours = |file: &File| -> io::Result<bool> {
            let found = file.metadata()?;
            Ok(found.is_file()
                && found.uid() == our_user()
                && found.nlink() == 1
                && found.mode() & 0o7777 == LOCK_MODE)
        };
        let Some(file) = opened.filter(|file| is_ours(file).unwrap_or(false)) else {
            // Of another user, or of a version before that made locks which everybody could hold: such a lock tells
            // nothing. Whether somebody listens does.
            match listener_at(address) {
                Some(uid) if uid == our_user() => return Err(in_use()),
                Some(uid) => {
                    let reason = format!("user {uid} listens there");
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, reason));
                }
                None => {}
            }
            rustix::fs::unlinkat(directory, name, AtFlags::empty()).map_err(|error| {
                let error = io::Error::from(error);
                let reason = format!(
                    "the file {} is not ours and cannot be removed ({error}); use a directory that \
                     others cannot write to",
                    name.to_string_lossy()
                );
                io::Error::new(io::ErrorKind::PermissionDenied, reason)
            })?;
            continue;
        };
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| in_use())?;
        // It may have been removed between the two, and another one made and locked.
        let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
        let own = rustix::fs::fstat(&file)?;
        if found.is_ok_and(|found| (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)) {
            return Ok(file);
        }
    }
    Err(io::Error::other("the lock file is replaced again and again"))
}

fn in_use() -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")
}

/// Returns the user of the process that listens at an address, if there is one.
fn listener_at(address: &SocketAddrUnix) -> Option<u32> {
    let probe = socket().ok()?;
    rustix::io::ioctl_fionbio(&probe, true).ok()?;
    match rustix::net::connect(&probe, address) {
        Ok(()) => peer_of(&probe).ok().map(|(uid, _)| uid),
        // Its queue is full, so it is there; nobody tells whose it is, and only its user or root could have made
        // it under our name.
        Err(Errno::AGAIN) => Some(our_user()),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn m7_a_lock_is_one_that_nobody_else_can_hold() {
        let directory = tempfile::tempdir().unwrap();
        let (path, lock) = (directory.path().join("s"), directory.path().join("s.lock"));
        let (_listener, held) = listen_alone(&path).unwrap();
        assert_eq!((mode(&lock), mode(&path)), (0o600, 0o666));
        // Two of ours are told apart by it.
        let again = listen_alone(&path).unwrap_err();
        assert!(cvmfs_core::chain::chain(&again).contains("another process listens"), "{again:?}");
        drop((_listener, held));
        drop(listen_alone(&path).unwrap());

        // One that everybody could open, and somebody has locked: it is not used.
        std::fs::remove_file(&lock).unwrap();
        std::fs::write(&lock, "").unwrap();
        std::fs::set_permissions(&lock, std::fs::Permissions::from_mode(0o644)).unwrap();
        let held_by_others = File::open(&lock).unwrap();
        rustix::fs::flock(&held_by_others, FlockOperation::NonBlockingLockExclusive).unwrap();
        drop(listen_alone(&path).unwrap());
        assert_eq!(mode(&lock), 0o600);
        // An earlier version that is still there is noticed all the same.
        std::fs::set_permissions(&lock, std::fs::Permissions::from_mode(0o644)).unwrap();
        let _ = std::fs::remove_file(&path);
        let earlier = socket().unwrap();
        rustix::net::bind(&earlier, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&earlier, 1).unwrap();
        assert!(listen_alone(&path).is_err());
    }

    #[test]
    fn m7_links_and_files_of_others_are_not_used_as_locks() {
        let directory = tempfile::tempdir().unwrap();
        let (path, lock) = (directory.path().join("s"), directory.path().join("s.lock"));
        let victim = directory.path().join("victim");
        std::fs::write(&victim, "text").unwrap();
        std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&victim, &lock).unwrap();
        drop(listen_alone(&path).unwrap());
        assert_eq!(mode(&lock), 0o600);
        // A second name of a file.
        std::fs::remove_file(&lock).unwrap();
        std::fs::hard_link(&victim, &lock).unwrap();
        drop(listen_alone(&path).unwrap());
        assert_eq!((mode(&victim), std::fs::read(&victim).unwrap()), (0o640, b"text".to_vec()));
        // Somebody else's, which that one holds; root may remove it.
        if our_user() == 0 {
            std::fs::remove_file(&lock).unwrap();
            std::fs::write(&lock, "").unwrap();
            std::fs::set_permissions(&lock, std::fs::Permissions::from_mode(0o600)).unwrap();
            std::os::unix::fs::chown(&lock, Some(1001), None).unwrap();
            let theirs = File::open(&lock).unwrap();
            rustix::fs::flock(&theirs, FlockOperation::NonBlockingLockExclusive).unwrap();
            drop(listen_alone(&path).unwrap());
            assert_eq!(std::fs::metadata(&lock).unwrap().uid(), 0);
        }
    }

    #[test]
    fn m7_a_new_directory_is_ours_alone_to_write() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/s");
        drop(listen_alone(&path).unwrap());
        assert_eq!(mode(path.parent().unwrap()) & 0o022, 0);
    }
}
