//! The socket of a process that is alone at its place.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use cvmfs_core::cache::CacheError;
use rustix::fs::FlockOperation;
use rustix::net::SocketAddrUnix;

use super::wire::socket;
use crate::layout::failed;

/// Begins to listen on a socket for packets that everybody may connect to: who it is has to be
/// asked of each one. A socket that a dead process left is taken over; the file is locked as long
/// as the process lives, because two would take each other's socket away.
pub fn listen_alone(path: &Path) -> Result<(OwnedFd, File), CacheError> {
    let broken = |action: &'static str, error: io::Error| failed(action, path)(error);
    if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
        std::fs::create_dir_all(directory).map_err(failed("create directory", directory))?;
    }
    let mut lock_path = path.to_owned().into_os_string();
    lock_path.push(".lock");
    let lock_path = PathBuf::from(lock_path);
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(failed("open", &lock_path))?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        let running = io::Error::new(io::ErrorKind::AddrInUse, "another process listens there");
        broken("listen on", running)
    })?;
    let listener = socket().map_err(|error| broken("listen on", error))?;
    let address = SocketAddrUnix::new(path).map_err(|error| broken("listen on", error.into()))?;
    // We hold the lock, so whoever made it is dead.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(broken("remove", error));
        }
        _ => {}
    }
    rustix::net::bind(&listener, &address).map_err(|error| broken("listen on", error.into()))?;
    // Whoever connects is asked who it is.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
        .map_err(|error| broken("set the mode of", error))?;
    rustix::net::listen(&listener, 128).map_err(|error| broken("listen on", error.into()))?;
    Ok((listener, lock))
}
