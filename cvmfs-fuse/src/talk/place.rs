//! The socket of a mount in its workspace, for as long as it lives.
//!
//! A workspace may be shared with a group whose members put links and files of their own there. So no
//! path in it is ever given a mode or an owner. The socket is made in a directory that nobody else may enter,
//! gets its mode and owner there, through descriptors, and is then moved to its place.

use std::ffi::OsStr;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Uid};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::address::Address;
use super::desk::Desk;
use super::dial;
use super::directory::private;
use super::listener::serve;

/// First pause before another try: the server before us may still be ending.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause: another mount of the repository has the name, and may end.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Mode of the file, as upstream's. Who may ask is decided by credentials.
const MODE: Mode = Mode::from_raw_mode(0o660);
/// Clients that the kernel lets wait. Others wait within connect(2), without a limit of time.
const BACKLOG: i32 = 4096;
/// How long the queue of who has the name already may be full.
const PROBE_LIMIT: Duration = Duration::from_millis(100);
/// Name of the socket in the private directory.
const SOCKET: &str = "socket";

/// Listens at an address, and answers about `repository`, or about what is asked for.
///
/// To be dropped with the mount. A place that is taken is waited for; one that cannot be had at
/// all, as in a directory that can only be read, costs a line in the log.
pub(crate) async fn listen(path: PathBuf, desk: Arc<Desk>, repository: Option<String>) {
    let address = Address::Path(path.clone());
    let mut pause = FIRST_PAUSE;
    loop {
        let (place, owner) = (path.clone(), desk.socket_owner());
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
struct Bound {
    directory: OwnedFd,
    name: std::ffi::OsString,
    file: (u64, u64),
}

impl Bound {
    /// Makes the file elsewhere first: there is always one that answers, or none.
    fn at(path: &Path, owner: Option<u32>) -> io::Result<(Self, UnixListener)> {
        let unnamed = || io::Error::from(io::ErrorKind::InvalidInput);
        let name = path.file_name().ok_or_else(unnamed)?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent.unwrap_or(Path::new(".")), flags, Mode::empty())?;
        if is_in_use(&directory, &name)? {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let own = format!(".{}.{}", name.to_string_lossy(), std::process::id());
        // Somebody may have put something in the place of the first one; nobody knows the second.
        let other = format!("{own}.{:016x}", RandomState::new().hash_one(&own));
        let (mut hidden, mut made) =
            (own.clone(), private(&directory, &own, &path.with_file_name(&own)));
        if made.is_err() {
            made = private(&directory, &other, &path.with_file_name(&other));
            hidden = other;
        }
        let made = made.map_err(io::Error::other)?;
        let outcome = (|| {
            let listener = bind(&made, owner)?;
            rustix::fs::renameat(&made, SOCKET, &directory, &name)?;
            Ok::<_, io::Error>(listener)
        })();
        let _ = rustix::fs::unlinkat(&made, SOCKET, AtFlags::empty());
        let _ = rustix::fs::unlinkat(&directory, &*hidden, AtFlags::REMOVEDIR);
        let (listener, file) = outcome?;
        Ok((Self { directory, name, file }, listener))
    }
}

/// Makes a socket that listens, in a directory that nobody else may enter; returns it and its file.
fn bind(directory: &OwnedFd, owner: Option<u32>) -> io::Result<(UnixListener, (u64, u64))> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file gets the mode of the socket, less the umask.
    rustix::fs::fchmod(&socket, MODE)?;
    let _ = rustix::fs::unlinkat(directory, SOCKET, AtFlags::empty());
    let address = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
    rustix::net::bind(&socket, &SocketAddrUnix::new(address)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    let file = open_socket(directory, OsStr::new(SOCKET))?;
    let found = rustix::fs::fstat(&file)?;
    let uid = nix::unistd::geteuid().as_raw();
    if (found.st_uid, found.st_nlink) != (uid, 1) {
        return Err(io::Error::other("the socket that was made is not ours"));
    }
    if found.st_mode & 0o777 != MODE.as_raw_mode() {
        // The descriptor names the file itself, which was looked at.
        rustix::fs::chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), MODE)?;
    }
    if let Some(owner) = owner {
        let owner = Some(Uid::from_raw(owner));
        rustix::fs::chownat(&file, "", owner, None, AtFlags::EMPTY_PATH)?;
    }
    Ok((UnixListener::from(socket), (found.st_dev, found.st_ino)))
}

/// Opens a socket as a file, if it is one.
fn open_socket(directory: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let found = rustix::fs::fstat(file.as_fd())?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Socket => Ok(file),
        _ => Err(io::Error::other("it is no socket")),
    }
}

/// Tells whether somebody listens at a name. What is no socket is nobody, and is replaced, if it can be.
fn is_in_use(directory: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    let Ok(file) = open_socket(directory, name) else { return Ok(false) };
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    match dial::connect(Path::new(&path), SocketType::STREAM, PROBE_LIMIT) {
        // Its queue is full.
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(true),
        Ok(_) => Ok(true),
        // Left by one that was killed.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(error),
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let found = rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|found| (found.st_dev, found.st_ino) == self.file) {
            let _ = rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn files_are_taken_over_from_the_dead_only_and_go_with_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        // Longer than the kernel takes.
        let deep = dir.path().join("d".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("cvmfs_io.a.b.c");
        let (first, listener) = Bound::at(&path, None).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE.as_raw_mode());
        let refused = Bound::at(&path, None).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        // Killed: the file stays, and another one takes its place.
        drop(listener);
        let (second, _listening) = Bound::at(&path, None).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 0);
        assert!(Bound::at(&dir.path().join("missing/cvmfs_io.a.b.c"), None).is_err());
    }

    #[test]
    fn h3_no_link_in_a_shared_directory_leads_to_a_mode_or_an_owner() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "secret").unwrap();
        std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o600)).unwrap();
        let before = std::fs::metadata(&victim).unwrap();
        let path = dir.path().join("cvmfs_io.a.b.c");
        let owner = nix::unistd::geteuid().is_root().then_some(65534);
        let links =
            [path.clone(), dir.path().join(format!(".cvmfs_io.a.b.c.{}", std::process::id()))];
        for link in &links {
            std::os::unix::fs::symlink(&victim, link).unwrap();
            let bound = Bound::at(&path, owner);
            let after = std::fs::metadata(&victim).unwrap();
            assert_eq!(
                (before.uid(), before.mode(), std::fs::read(&victim).unwrap()),
                (after.uid(), after.mode(), b"secret".to_vec()),
                "{link:?}"
            );
            drop(bound);
            let _ = std::fs::remove_file(link);
        }
        // A directory that somebody else has made where ours would be.
        let hidden = &links[1];
        std::fs::create_dir(hidden).unwrap();
        std::fs::write(hidden.join("x"), "").unwrap();
        std::fs::set_permissions(hidden, std::fs::Permissions::from_mode(0o777)).unwrap();
        let (bound, _listener) = Bound::at(&path, owner).unwrap();
        assert_eq!(std::fs::symlink_metadata(&path).unwrap().mode() & 0o777, 0o660);
        drop(bound);
        assert_eq!(std::fs::read_dir(hidden).unwrap().count(), 1);
    }

    /// A member of the cache's group is as fast as can be in putting a link to a file of the victim in the place
    /// of the socket, under each name that it has had.
    #[test]
    fn h3_a_race_for_the_name_of_the_socket_wins_nothing() {
        use std::sync::atomic::{AtomicBool, Ordering};

        const TRIES: usize = 400;
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let shared = dir.path().join("shared");
        std::fs::create_dir(&shared).unwrap();
        for (place, mode) in [(dir.path(), 0o755), (&*shared, 0o777)] {
            std::fs::set_permissions(place, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "secret").unwrap();
        std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o600)).unwrap();
        let facts = || std::fs::metadata(&victim).map(|m| (m.uid(), m.mode())).unwrap();
        let (before, path) = (facts(), shared.join("cvmfs_io.a.b.c"));
        let (is_over, won) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Only this thread is somebody else for the file system.
                nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
                nix::unistd::setfsgid(nix::unistd::Gid::from_raw(65534));
                let own = shared.join(format!(".cvmfs_io.a.b.c.{}", std::process::id()));
                let aside = shared.join("aside");
                while !is_over.load(Ordering::Relaxed) {
                    if std::fs::rename(&own, &aside).is_ok() {
                        let _ = std::os::unix::fs::symlink(&victim, &own);
                    }
                }
            });
            for _ in 0..TRIES {
                drop(Bound::at(&path, Some(65534)));
                won.fetch_or(facts() != before, Ordering::Relaxed);
                for entry in std::fs::read_dir(&shared).unwrap().flatten() {
                    let _ = std::fs::remove_file(entry.path());
                    let _ = std::fs::remove_dir_all(entry.path());
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert!(!won.load(Ordering::Relaxed), "{:?}", facts());
    }
}
