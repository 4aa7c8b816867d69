//! Control directories: where the sockets of a mount are, and the record that says whose they are.
//!
//! | file | what it is |
//! |---|---|
//! | `control` | SEQPACKET socket of the supervisor: upgrades |
//! | `talk` | STREAM socket: everything else; the supervisor listens, the server accepts |
//! | `mount.json` | the [`Record`] of the mount |
//!
//! The directory is `BASE/MINOR-BOOT`: the minor number of the mount's device, which the kernel gives to one
//! mount at a time, and the boot of that kernel, so that a directory on a shared disk or of an earlier
//! boot is never taken for one of this mount. Everything is made through descriptors of directories that
//! belong to this user and that nobody else may enter, whatever the umask and whoever owns the directory
//! above. docs/control-plane.md is the design.

use std::ffi::OsStr;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use super::address::workspaces;
use crate::config::environment::Environment;

/// Name of the supervisor's socket.
pub(crate) const CONTROL: &str = "control";
/// Name of the socket that the server answers at.
pub(crate) const TALK: &str = "talk";
/// Name of the record.
const RECORD: &str = "mount.json";
/// Directory of all mounts of a user in a runtime directory. Not `cvmfs-fuse`: other users have to reach
/// the broker's socket in there.
const NAME: &str = "cvmfs-fuse-control";
/// Runtime directory of the machine.
const RUN: &str = "/run";
/// Directory of everybody, where the sticky bit keeps names to their owners.
const TMP: &str = "/tmp";
/// Hexadecimal digits of the boot id that are part of names: 64 bits.
const BOOT_DIGITS: usize = 16;
/// Longest record that is read.
const MAX_RECORD: u64 = 64 << 10;
/// Mode of directories.
const PRIVATE: Mode = Mode::RWXU;
/// Directories of earlier boots that are removed at a time, so that a start is bounded.
const MAX_REMOVED: usize = 256;
/// Age at which a directory of another boot is removed. It may belong to a live mount of another machine with the
/// same disk.
const ABANDONED: Duration = Duration::from_secs(365 * 24 * 3600);
/// Clients that the kernel lets wait for a server, for example while it is replaced. Others wait within connect(2),
/// without a limit of time, so there are as many as the kernel takes by itself.
const BACKLOG: i32 = 4096;

/// What a mount says of itself beside its sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Version of the program that wrote it.
    pub(crate) version: String,
    /// `MAJOR:MINOR` of the mount.
    pub(crate) device: String,
    /// Where it is mounted, as the supervisor sees it.
    pub(crate) mountpoint: PathBuf,
    /// Inode of the supervisor's mount namespace.
    pub(crate) mount_namespace: u64,
    /// Process id of the supervisor, in its own pid namespace.
    pub(crate) supervisor: u32,
    /// User of the supervisor, in its own user namespace.
    pub(crate) uid: u32,
}

impl Record {
    /// Describes a mount whose supervisor has this process id.
    pub(crate) fn of(device: &str, mountpoint: &Path, supervisor: u32) -> Self {
        let namespace = rustix::fs::stat("/proc/self/ns/mnt");
        Self {
            version: crate::VERSION.to_owned(),
            device: device.to_owned(),
            mountpoint: mountpoint.to_owned(),
            mount_namespace: namespace.map_or(0, |found| found.st_ino),
            supervisor,
            uid: nix::unistd::geteuid().as_raw(),
        }
    }
}

/// Why there is no control directory in a place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    /// The device number of the mount is unknown or malformed.
    #[error("the device number of the mount is not known")]
    NoDevice,
    /// The kernel does not tell its boot id.
    #[error("the boot id of the kernel cannot be read")]
    NoBoot,
    /// A directory exists that others own or may enter.
    #[error("{}: owned by user {uid} with mode {mode:04o}, expected user {expected} and mode 0700", .path.display())]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
        /// The owner that it should have.
        expected: u32,
    },
    /// Something cannot be made.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The directory or socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// No place works; each with its reason.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Nowhere(Vec<DirectoryError>),
}

/// A directory that may hold the control directories of all mounts of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    /// The directory above; never made by us.
    pub(super) above: PathBuf,
    /// Its name.
    pub(super) name: String,
}

impl Base {
    fn in_runtime(above: impl Into<PathBuf>) -> Self {
        Self { above: above.into(), name: NAME.to_owned() }
    }

    /// Returns the private part of a cache directory for a user.
    pub(super) fn in_cache(cache: &Path, uid: u32) -> Self {
        Self { above: cache.to_owned(), name: format!("control.{uid}") }
    }

    /// Returns the place of a user in the directory of everybody.
    ///
    /// Named by the number outside of a user namespace: user 0 inside would take the place of root.
    pub(super) fn in_tmp(uid: u32) -> Self {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let uid = outside(&map, uid);
        Self { above: TMP.into(), name: format!("{NAME}.{uid}") }
    }

    fn path(&self) -> PathBuf {
        self.above.join(&self.name)
    }

    /// Returns the places below runtime directories where a process of this user looks, the best first.
    pub(super) fn of_runtime(uid: u32) -> Vec<Self> {
        let mut all = Vec::new();
        if uid == 0 {
            all.push(Self::in_runtime(RUN));
        }
        if uid == nix::unistd::geteuid().as_raw() {
            all.extend(Environment::runtime_dir().map(Self::in_runtime));
        }
        all.push(Self::in_runtime(format!("{RUN}/user/{uid}")));
        all.dedup();
        all
    }
}

/// Returns the number of a user outside of this user namespace, by its map; the same if that has none.
fn outside(map: &str, uid: u32) -> u32 {
    let mapped = map.lines().find_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        let (inside, outside, count) = (next()?, next()?, next()?);
        let offset = uid.checked_sub(inside).filter(|offset| *offset < count)?;
        outside.checked_add(offset)
    });
    mapped.unwrap_or(uid)
}

/// Splits `MAJOR:MINOR`.
pub(crate) fn device_number(device: &str) -> Option<(u32, u32)> {
    let (major, minor) = device.split_once(':')?;
    let number = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    Some((number(major)?, number(minor)?))
}

/// Returns the name of the control directory of a mount: `MINOR-BOOT`.
pub(super) fn name_of(device: &str) -> Result<String, DirectoryError> {
    let (major, minor) = device_number(device).ok_or(DirectoryError::NoDevice)?;
    let boot = boot().ok_or(DirectoryError::NoBoot)?;
    // FUSE mounts have numbers of the kind that has no device: major 0.
    Ok(match major {
        0 => format!("{minor}-{boot}"),
        major => format!("{major}.{minor}-{boot}"),
    })
}

fn boot() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(BOOT_DIGITS).collect();
    (digits.len() == BOOT_DIGITS).then_some(digits)
}

/// A control directory that this process made; removed with its value.
#[derive(Debug)]
pub(crate) struct ControlDirectory {
    path: PathBuf,
    base: OwnedFd,
    name: String,
    directory: OwnedFd,
    /// Names in it that are ours, with their inodes.
    made: Vec<(&'static str, u64)>,
}

impl ControlDirectory {
    /// Makes the directory of a mount in the first place that works: runtime directories, those of these cache
    /// directories that settings name, /tmp, and the other cache directories, which commands do not find.
    ///
    /// # Errors
    /// With the reason of each place that does not work.
    pub(crate) fn make(device: &str, caches: &[PathBuf]) -> Result<Self, DirectoryError> {
        let name = name_of(device)?;
        let uid = nix::unistd::geteuid().as_raw();
        // Only looked at if there is no runtime directory.
        let others = std::iter::once_with(|| {
            let stated = workspaces(&Environment::of_process());
            let (known, unknown): (Vec<_>, Vec<_>) =
                caches.iter().partition(|cache| stated.contains(cache));
            let in_cache = move |cache: &PathBuf| Base::in_cache(cache, uid);
            let known: Vec<_> = known.into_iter().map(in_cache).collect();
            let unknown: Vec<_> = unknown.into_iter().map(in_cache).collect();
            known.into_iter().chain([Base::in_tmp(uid)]).chain(unknown)
        });
        let mut refused = Vec::new();
        for base in Base::of_runtime(uid).into_iter().chain(others.flatten()) {
            match Self::make_in(&base, &name) {
                Ok(made) => return Ok(made),
                Err(error) => refused.push(error),
            }
        }
        Err(DirectoryError::Nowhere(refused))
    }

    /// Makes one in a base.
    fn make_in(base: &Base, name: &str) -> Result<Self, DirectoryError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = rustix::fs::open(&base.above, flags, Mode::empty()).map_err(|error| {
            DirectoryError::Io { path: base.above.clone(), source: error.into() }
        })?;
        let opened = private(&above, &base.name, &base.path())?;
        forget_earlier_boots(&opened, name);
        let path = base.path().join(name);
        let directory = private(&opened, name, &path)?;
        // Whoever cleans up /tmp leaves a directory alone that is locked.
        let _ = rustix::fs::flock(&directory, FlockOperation::NonBlockingLockShared);
        Ok(Self { path, base: opened, name: name.to_owned(), directory, made: Vec::new() })
    }

    /// Returns the path, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Listens at a socket in the directory. One that is there is replaced: the device belongs to one mount
    /// at a time, so it was left behind.
    pub(crate) fn listen(
        &mut self,
        name: &'static str,
        kind: SocketType,
    ) -> Result<OwnedFd, DirectoryError> {
        let listened = (|| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
            // The socket's file gets the mode of the socket, less the umask.
            rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
            let new = format!(".{name}.new");
            unlink(&self.directory, &new)?;
            let address = format!("/proc/self/fd/{}/{new}", self.directory.as_raw_fd());
            rustix::net::bind(&socket, &SocketAddrUnix::new(address)?)?;
            rustix::net::listen(&socket, BACKLOG)?;
            Ok((socket, self.place(&new, name)?))
        })();
        let (socket, inode) = listened.map_err(|source| self.failed(name, source))?;
        self.made.push((name, inode));
        Ok(socket)
    }

    /// Writes the record.
    pub(crate) fn write(&mut self, record: &Record) -> Result<(), DirectoryError> {
        let written = (|| {
            let new = format!(".{RECORD}.new");
            unlink(&self.directory, &new)?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            let file = rustix::fs::openat(&self.directory, &*new, flags, mode)?;
            std::fs::File::from(file).write_all(&serde_json::to_vec(record)?)?;
            self.place(&new, RECORD)
        })();
        let inode = written.map_err(|source: io::Error| self.failed(RECORD, source))?;
        self.made.push((RECORD, inode));
        Ok(())
    }

    /// Gives a file its final name; returns its inode.
    fn place(&self, new: &str, name: &str) -> io::Result<u64> {
        rustix::fs::renameat(&self.directory, new, &self.directory, name)?;
        let made = rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(made.st_ino)
    }

    fn failed(&self, name: &str, source: io::Error) -> DirectoryError {
        DirectoryError::Io { path: self.path.join(name), source }
    }
}

impl Drop for ControlDirectory {
    fn drop(&mut self) {
        for (name, inode) in &self.made {
            let found = rustix::fs::statat(&self.directory, *name, AtFlags::SYMLINK_NOFOLLOW);
            // Another supervisor may go on with the mount.
            if found.is_ok_and(|found| found.st_ino == *inode) {
                let _ = rustix::fs::unlinkat(&self.directory, *name, AtFlags::empty());
            }
        }
        // Fails where somebody else's are left.
        let _ = rustix::fs::unlinkat(&self.base, &*self.name, AtFlags::REMOVEDIR);
    }
}

/// Makes or opens a directory that only this user may enter.
pub(super) fn private(above: &OwnedFd, name: &str, path: &Path) -> Result<OwnedFd, DirectoryError> {
    let failed = |error: rustix::io::Errno| DirectoryError::Io {
        path: path.to_owned(),
        source: error.into(),
    };
    let is_new = match rustix::fs::mkdirat(above, name, PRIVATE) {
        Ok(()) => true,
        Err(rustix::io::Errno::EXIST) => false,
        Err(error) => return Err(failed(error)),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(above, name, flags, Mode::empty()).map_err(failed)?;
    let found = rustix::fs::fstat(&directory).map_err(failed)?;
    let (uid, expected) = (found.st_uid, nix::unistd::geteuid().as_raw());
    let mode = found.st_mode & 0o7777;
    if uid != expected || mode & 0o077 != 0 {
        return Err(DirectoryError::NotPrivate { path: path.to_owned(), uid, mode, expected });
    }
    if is_new && mode & 0o700 != 0o700 {
        // A umask that takes the owner's own rights.
        rustix::fs::fchmod(&directory, PRIVATE).map_err(failed)?;
    }
    Ok(directory)
}

/// Removes a name if it exists.
fn unlink(directory: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes what earlier boots left in a base on a disk, a year later.
fn forget_earlier_boots(base: &OwnedFd, name: &str) {
    let Some((_, boot)) = name.split_once('-') else { return };
    let Ok(entries) = rustix::fs::Dir::read_from(base) else { return };
    let names = entries.flatten().map(|entry| entry.file_name().to_bytes().to_vec());
    let is_earlier = |name: &Vec<u8>| {
        let text = std::str::from_utf8(name).ok();
        let digits = text.and_then(|text| text.split_once('-')).map(|(_, digits)| digits);
        digits.is_some_and(|digits| digits.len() == BOOT_DIGITS && digits != boot)
    };
    for name in names.filter(is_earlier).take(MAX_REMOVED) {
        let name = OsStr::from_bytes(&name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(directory) = rustix::fs::openat(base, name, flags, Mode::empty()) else { continue };
        let directory = std::fs::File::from(directory);
        let age = directory.metadata().and_then(|found| found.modified());
        let age = age.ok().and_then(|made| made.elapsed().ok());
        if age.is_none_or(|age| age < ABANDONED) {
            continue;
        }
        for file in [CONTROL, TALK, RECORD] {
            let _ = rustix::fs::unlinkat(&directory, file, AtFlags::empty());
        }
        let _ = rustix::fs::unlinkat(base, name, AtFlags::REMOVEDIR);
    }
}

/// Reads the record in a directory.
pub(super) fn record_in(directory: &OwnedFd) -> io::Result<Record> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, RECORD, flags, Mode::empty())?;
    let found = rustix::fs::fstat(file.as_fd())?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("the record is no regular file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(MAX_RECORD).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn base(above: &Path) -> Base {
        Base { above: above.to_owned(), name: "control.7".to_owned() }
    }

    #[test]
    fn names_of_devices() {
        assert_eq!(device_number("0:45"), Some((0, 45)));
        for bad in ["", "0", ":", "0:", "0:+4", "0:../../x", "0:4 ", "-1:4", "0:99999999999"] {
            assert_eq!(device_number(bad), None, "{bad}");
            assert!(name_of(bad).is_err(), "{bad}");
        }
        let name = name_of("0:45").unwrap();
        assert_eq!((&name[..3], name.len()), ("45-", 3 + BOOT_DIGITS));
    }

    #[test]
    fn a11_users_are_named_by_their_number_outside() {
        let whole = "         0          0 4294967295\n";
        assert_eq!((outside(whole, 0), outside(whole, 1000)), (0, 1000));
        let map = "0 1000 1\n1 100000 65536\n";
        assert_eq!(
            (outside(map, 0), outside(map, 2), outside(map, 99_999)),
            (1000, 100_001, 99_999)
        );
        assert_eq!(outside("", 7), 7);
    }

    #[test]
    fn a_directory_is_private_and_goes_with_its_owner() {
        let above = tempfile::tempdir().unwrap();
        let name = name_of("0:45").unwrap();
        let left = above.path().join("control.7").join("7-0123456789abcdef");
        let mut first = ControlDirectory::make_in(&base(above.path()), &name).unwrap();
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join(RECORD), "").unwrap();
        let of_another_machine = left.with_file_name("8-0123456789abcdef");
        std::fs::create_dir(&of_another_machine).unwrap();
        let long_ago = std::time::SystemTime::now() - 2 * ABANDONED;
        std::fs::File::open(&left).unwrap().set_modified(long_ago).unwrap();
        let record = Record::of("0:45", Path::new("/m"), 1);
        first.write(&record).unwrap();
        let _talk = first.listen(TALK, SocketType::STREAM).unwrap();
        let path = first.path().to_owned();
        assert_eq!(record_in(&first.directory).unwrap(), record);
        for (place, mode) in
            [(&*path, 0o700), (path.parent().unwrap(), 0o700), (&path.join(TALK), 0o600)]
        {
            assert_eq!(std::fs::metadata(place).unwrap().mode() & 0o777, mode, "{place:?}");
        }
        assert!(UnixStream::connect(path.join(TALK)).is_ok());
        // Another supervisor goes on with the mount: what it made is left to it.
        let mut second = ControlDirectory::make_in(&base(above.path()), &name).unwrap();
        assert!(!left.exists() && of_another_machine.exists(), "of other boots");
        let _other = second.listen(TALK, SocketType::STREAM).unwrap();
        drop(first);
        assert!(UnixStream::connect(path.join(TALK)).is_ok());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn h1_directories_of_others_and_links_are_refused() {
        let above = tempfile::tempdir().unwrap();
        let place = base(above.path()).path();
        let refused = || ControlDirectory::make_in(&base(above.path()), "45-0").unwrap_err();
        for mode in [0o770, 0o701, 0o755] {
            std::fs::create_dir(&place).unwrap();
            std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(refused(), DirectoryError::NotPrivate { .. }), "{mode:o}");
            std::fs::remove_dir(&place).unwrap();
        }
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), &place).unwrap();
        assert!(matches!(refused(), DirectoryError::Io { .. }));
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        if nix::unistd::geteuid().is_root() {
            std::fs::remove_file(&place).unwrap();
            std::fs::create_dir(&place).unwrap();
            std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o700)).unwrap();
            std::os::unix::fs::chown(&place, Some(65534), None).unwrap();
            assert!(matches!(refused(), DirectoryError::NotPrivate { uid: 65534, .. }));
        }
    }
}
