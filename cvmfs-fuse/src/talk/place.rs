//! The sockets of a mount, for as long as it lives.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::address::Address;
use super::desk::Desk;
use super::listener::serve;

/// First pause before another try: the server before us may still be ending.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause: another mount of the repository has the name, and may end.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Mode of the file, as upstream's. Who may ask is decided by credentials.
const MODE: u32 = 0o660;

/// Listens at an address, and answers about `repository`, or about what is asked for.
///
/// To be dropped with the mount. A place that is taken is waited for; one that cannot be had at
/// all, as in a directory that can only be read, costs a line in the log.
pub(crate) async fn listen(address: Address, desk: Arc<Desk>, repository: Option<String>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let (place, owner) = (address.clone(), desk.socket_owner());
        let bound = tokio::task::spawn_blocking(move || Bound::at(&place, owner)).await;
        match bound.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok((bound, listener)) => {
                let listener = match tokio::net::UnixListener::from_std(listener) {
                    Ok(listener) => listener,
                    Err(error) => {
                        tracing::warn!(%address, %error, "no control socket");
                        return;
                    }
                };
                serve(listener, desk, repository).await;
                drop(bound);
                return;
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tracing::debug!(%address, "the control socket is somebody else's");
            }
            Err(error) => {
                tracing::info!(%address, %error, "no control socket");
                return;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// A file that goes with its owner, if it is still the same.
struct Bound(Option<(PathBuf, u64, u64)>);

impl Bound {
    fn at(address: &Address, owner: Option<u32>) -> io::Result<(Self, UnixListener)> {
        let (bound, listener) = match address {
            Address::Device(_) => (Self(None), address.with(UnixListener::bind_addr)?),
            Address::Path(path) => Self::file(path, owner)?,
        };
        listener.set_nonblocking(true)?;
        Ok((bound, listener))
    }

    /// Makes the file under another name first: there is always one that answers, or none.
    fn file(path: &Path, owner: Option<u32>) -> io::Result<(Self, UnixListener)> {
        let there = Address::Path(path.to_owned());
        match there.with(UnixStream::connect_addr) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            // Left by one that was killed.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let new = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let _ = std::fs::remove_file(&new);
        let listener = Address::Path(new.clone()).with(UnixListener::bind_addr)?;
        let placed = (|| {
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(MODE))?;
            if let Some(owner) = owner {
                std::os::unix::fs::chown(&new, Some(owner), None)?;
            }
            let made = std::fs::symlink_metadata(&new)?;
            std::fs::rename(&new, path)?;
            Ok(Self(Some((path.to_owned(), made.dev(), made.ino()))))
        })();
        match placed {
            Ok(bound) => Ok((bound, listener)),
            Err(error) => {
                let _ = std::fs::remove_file(&new);
                Err(error)
            }
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let Some((path, dev, ino)) = &self.0 else { return };
        if std::fs::symlink_metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (*dev, *ino)) {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_taken_over_from_the_dead_only_and_go_with_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        // Longer than the kernel takes.
        let deep = dir.path().join("d".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        let address = Address::in_workspace(&deep, "a.b.c");
        let path = deep.join("cvmfs_io.a.b.c");
        let (first, listener) = Bound::at(&address, None).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        let refused = Bound::at(&address, None).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        // Killed: the file stays, and another one takes its place.
        drop(listener);
        let (second, _listening) = Bound::at(&address, None).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 0);
        let nowhere = Address::in_workspace(&dir.path().join("missing"), "a.b.c");
        assert!(Bound::at(&nowhere, None).is_err());
    }
}
