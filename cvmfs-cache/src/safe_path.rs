//! Files, directories and sockets that are made by path where other users may write.
//!
//! A path is a question that another user may answer anew between two calls: a link in place of a
//! directory, a second name of a file in place of a log. The functions here ask once, and act on
//! the descriptor that they got:
//!
//! | what is made | how |
//! |---|---|
//! | directory | `mkdirat`, then its mode by `fchmod`, whatever the umask of the process |
//! | log | opened without following links, used only if it is a regular file with one name, of a trusted owner |
//! | output | written under a new name in its directory, then renamed over the old one |
//! | socket | bound in a new directory of mode 0700, then renamed to its place |
//!
//! Links *on the way* to a directory are followed only if root or this user made them (see
//! [`open_directory`]), so nobody leads a process of root to another place.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use nix::unistd::Uid;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::layout::random;

/// Mode of a directory for one user alone.
pub const PRIVATE: u32 = 0o700;
/// Mode of a directory in which all may look.
pub const PUBLIC: u32 = 0o755;
/// Links that are followed in one path: as many as Linux follows.
const MAX_LINKS: usize = 40;
/// Tries to find a name that is not taken; each is one of 2^64.
const NAME_ATTEMPTS: usize = 8;
/// Write permission for the group and for everybody.
const SHARED: u32 = 0o022;
/// User that stands for all who are not mapped in a user namespace.
const UNMAPPED: u32 = 65_534;
/// Deepest tree that is removed: ours have three levels.
const MAX_DEPTH: usize = 64;

/// Why a path is not used although the system would allow it; the source of an [`io::Error`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Somebody else decides where the path leads.
    #[error(
        "{path} is a symbolic link of user {owner}, who could lead it elsewhere; give the path behind it"
    )]
    ForeignLink {
        /// The link.
        path: String,
        /// The user who made it.
        owner: u32,
    },
    /// Somebody else could put another file in the place of ours.
    #[error("its directory belongs to user {owner}; choose a directory of this user")]
    ForeignDirectory {
        /// The owner.
        owner: u32,
    },
    /// A directory, device, pipe, socket or link has the name.
    #[error("it is not a regular file; remove it, or choose another name")]
    NotRegular,
    /// It may be an important file somewhere else.
    #[error("it is a file with {links} names (hard links); remove it, or choose another name")]
    SeveralNames {
        /// Names of the file.
        links: u64,
    },
    /// Somebody else reads and changes it.
    #[error("it belongs to user {owner}; remove it, or choose another name")]
    ForeignFile {
        /// The owner.
        owner: u32,
    },
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        // Not "permission denied": that would be taken for a directory that can only be read.
        Self::other(refused)
    }
}

/// Returns the user as whom this thread touches files.
fn us() -> u32 {
    // The call that changes nothing is the one that tells.
    match nix::unistd::setfsuid(Uid::from_raw(u32::MAX)).as_raw() {
        // The call is not allowed here; then it has not been used to change anything either.
        u32::MAX => nix::unistd::geteuid().as_raw(),
        uid => uid,
    }
}

fn in_user_namespace() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let mut words = map.split_whitespace();
        let whole = [Some("0"), Some("0"), Some("4294967295")];
        !map.is_empty() && whole != [words.next(), words.next(), words.next()]
    })
}

/// Opens a directory, for use with the `*at` calls only (`O_PATH`).
///
/// A symbolic link in the path is followed if root or this user made it. A user also follows the
/// links that the owner of a directory made there, if nobody else can write to it; root does not.
///
/// # Errors
/// Those of `openat`; [`Refused::ForeignLink`].
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    walk(path, None).map(|(directory, _)| directory)
}

/// Opens a directory as [`open_directory`] does, and makes what is missing: `path` itself with
/// exactly this mode, directories above it with the mode `above`. Tells whether `path` was made.
///
/// # Errors
/// Those of `mkdirat` and `openat`; [`Refused::ForeignLink`].
pub fn make_directories(path: &Path, mode: u32, above: u32) -> io::Result<(OwnedFd, bool)> {
    walk(path, Some((mode, above)))
}

/// Makes a directory with exactly this mode, whatever the umask is.
///
/// # Errors
/// `EEXIST` if anything has the name; those of `mkdirat`.
pub fn make_new_directory(path: &Path, mode: u32) -> io::Result<()> {
    let (parent, name) = parent_of(path)?;
    make_at(parent.as_fd(), Path::new(&name), mode).map(drop)
}

/// Opens a directory by one name, or makes it with exactly this mode. Links are not followed.
/// Tells whether it was made.
///
/// # Errors
/// Those of `mkdirat` and `openat`.
pub fn make_directory_at(
    parent: BorrowedFd<'_>,
    name: impl AsRef<Path>,
    mode: u32,
) -> io::Result<(OwnedFd, bool)> {
    let name = name.as_ref();
    match make_at(parent, name, mode) {
        Ok(made) => return Ok((made, true)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok((rustix::fs::openat(parent, name, flags, Mode::empty())?, false))
}

/// Makes a directory that is not there yet, with exactly this mode.
pub(crate) fn make_at(parent: BorrowedFd<'_>, name: &Path, mode: u32) -> io::Result<OwnedFd> {
    let mode = Mode::from_bits_truncate(mode);
    // The umask can only take bits away. They are given back when nobody can exchange it.
    rustix::fs::mkdirat(parent, name, mode)?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let reading = flags | OFlags::RDONLY;
    let made = match rustix::fs::openat(parent, name, reading, Mode::empty()) {
        // A umask such as 0777 leaves a directory that its owner cannot read.
        Err(Errno::ACCESS) => {
            let handle = rustix::fs::openat(parent, name, flags | OFlags::PATH, Mode::empty())?;
            check_made(&rustix::fs::fstat(&handle)?)?;
            let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
            rustix::fs::chmod(path, Mode::RWXU & mode)?;
            rustix::fs::openat(&handle, ".", reading, Mode::empty())?
        }
        other => other?,
    };
    let found = rustix::fs::fstat(&made)?;
    check_made(&found)?;
    if found.st_mode & 0o7777 != mode.bits() {
        // Never opens to others what has something in it: that would not be the new one.
        if mode.bits() & 0o077 == 0 || is_empty(&made)? {
            rustix::fs::fchmod(&made, mode)?;
        }
    }
    Ok(made)
}

/// Somebody who can write to the directory above may have put another one there.
fn check_made(found: &Stat) -> io::Result<()> {
    match found.st_uid {
        owner if owner == us() => Ok(()),
        // As on NFS with squashed users; whoever uses the directory decides what to think of it.
        owner if owner == UNMAPPED => Ok(()),
        owner => Err(Refused::ForeignDirectory { owner }.into()),
    }
}

/// Tells whether a directory has nothing in it.
///
/// # Errors
/// Those of `openat` and `getdents`.
pub fn is_empty(directory: impl AsFd) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let own = rustix::fs::openat(directory.as_fd(), ".", flags, Mode::empty())?;
    for entry in Dir::new(own)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn walk(path: &Path, make: Option<(u32, u32)>) -> io::Result<(OwnedFd, bool)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(CWD, ".", flags, Mode::empty())?;
    let mut shown = PathBuf::new();
    let mut left: VecDeque<OsString> = words(path).collect();
    let (mut links, mut is_made) = (0, false);
    // Words that a link brought: what it names must be there.
    let mut behind_link = 0_usize;
    while let Some(word) = left.pop_front() {
        let name = Path::new(&word);
        let is_named = behind_link == 0;
        behind_link = behind_link.saturating_sub(1);
        if matches!(name.components().next(), Some(Component::RootDir | Component::ParentDir)) {
            at = rustix::fs::openat(&at, name, flags, Mode::empty())?;
            shown.push(name);
            continue;
        }
        let mode = match left.is_empty() {
            true => make.map(|(mode, _)| mode),
            false => make.map(|(_, above)| above),
        };
        // O_DIRECTORY, so that a directory of autofs is mounted.
        match rustix::fs::openat(&at, name, flags | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(directory) => at = directory,
            Err(Errno::NOENT) if mode.is_some() && is_named => {
                let (made, is_new) = make_directory_at(at.as_fd(), name, mode.unwrap_or(PRIVATE))?;
                is_made = is_new && left.is_empty();
                at = made;
            }
            Err(error @ (Errno::NOTDIR | Errno::LOOP)) => {
                let Some(target) = link(&at, name, &shown)? else { return Err(error.into()) };
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                for word in words(&target).rev() {
                    left.push_front(word);
                    behind_link += 1;
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        shown.push(name);
    }
    Ok((at, is_made))
}

fn words(path: &Path) -> impl DoubleEndedIterator<Item = OsString> + '_ {
    path.components()
        .filter(|component| !matches!(component, Component::CurDir))
        .map(|component| component.as_os_str().to_owned())
}

/// Returns where a link leads, if it is one that may be followed.
fn link(directory: &OwnedFd, name: &Path, above: &Path) -> io::Result<Option<PathBuf>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let link = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let found = rustix::fs::fstat(&link)?;
    if !FileType::from_raw_mode(found.st_mode).is_symlink() {
        return Ok(None);
    }
    let (owner, us) = (found.st_uid, us());
    if owner != 0 && owner != us {
        let around = rustix::fs::fstat(directory)?;
        let is_theirs = around.st_uid == owner && around.st_mode & SHARED == 0;
        let is_hidden_root = owner == UNMAPPED && in_user_namespace();
        if !is_theirs || (us == 0 && !is_hidden_root) {
            let path = above.join(name).display().to_string();
            return Err(Refused::ForeignLink { path, owner }.into());
        }
    }
    let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
    Ok(Some(OsString::from_vec(target.into_bytes()).into()))
}

fn parent_of(path: &Path) -> io::Result<(OwnedFd, OsString)> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok((open_directory(parent)?, name.to_owned()))
}

/// A log file: the directory that it is in, and its name there.
#[derive(Debug)]
pub struct LogPlace {
    directory: OwnedFd,
    name: OsString,
    owners: Vec<u32>,
}

impl LogPlace {
    /// Finds the place of a log. The directory and a file that is there must belong to root, to this
    /// user, or to `partner`, as whom a server of root works.
    ///
    /// # Errors
    /// Those of [`open_directory`]; [`Refused::ForeignDirectory`] for root, whose log nobody else
    /// may exchange.
    pub fn find(path: &Path, partner: Option<u32>) -> io::Result<Self> {
        let (directory, name) = parent_of(path)?;
        let found = rustix::fs::fstat(&directory)?;
        let place = Self::at(directory, &name, partner);
        if us() == 0 && !place.is_trusted(found.st_uid) {
            return Err(Refused::ForeignDirectory { owner: found.st_uid }.into());
        }
        Ok(place)
    }

    /// Uses a directory that is open already.
    pub fn at(directory: OwnedFd, name: &OsStr, partner: Option<u32>) -> Self {
        let owners = [0, us()].into_iter().chain(partner).collect();
        Self { directory, name: name.to_owned(), owners }
    }

    fn is_trusted(&self, owner: u32) -> bool {
        self.owners.contains(&owner) || (owner == UNMAPPED && in_user_namespace())
    }

    /// Opens the log for appending, or makes it.
    ///
    /// # Errors
    /// Those of `openat`; [`Refused`] for what is no log of ours.
    pub fn open(&self, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let mode = Mode::from_bits_truncate(mode);
        let opened = rustix::fs::openat(&self.directory, &self.name, flags, mode);
        let file = File::from(opened.map_err(|error| match error {
            // A link, or a pipe that nobody reads.
            Errno::LOOP | Errno::NXIO | Errno::ISDIR => Refused::NotRegular.into(),
            error => io::Error::from(error),
        })?);
        let found = rustix::fs::fstat(&file)?;
        check_file(&found, |owner| self.is_trusted(owner))?;
        Ok(file)
    }

    /// Tells whether the name still stands for this file.
    pub fn is(&self, file: &File) -> bool {
        let unfollowed = AtFlags::SYMLINK_NOFOLLOW;
        match (rustix::fs::statat(&self.directory, &self.name, unfollowed), rustix::fs::fstat(file))
        {
            (Ok(named), Ok(own)) => (named.st_dev, named.st_ino) == (own.st_dev, own.st_ino),
            _ => false,
        }
    }

    /// Gives the file the name that ends in `.1`, in place of the one before.
    ///
    /// # Errors
    /// Those of `renameat`.
    pub fn put_aside(&self) -> io::Result<()> {
        let mut old = self.name.clone();
        old.push(".1");
        Ok(rustix::fs::renameat(&self.directory, &self.name, &self.directory, &old)?)
    }
}

fn check_file(found: &Stat, is_trusted: impl Fn(u32) -> bool) -> io::Result<()> {
    if !FileType::from_raw_mode(found.st_mode).is_file() {
        return Err(Refused::NotRegular.into());
    }
    #[allow(clippy::useless_conversion, reason = "its type differs between architectures")]
    let links = u64::from(found.st_nlink);
    if links > 1 {
        return Err(Refused::SeveralNames { links }.into());
    }
    match is_trusted(found.st_uid) {
        true => Ok(()),
        false => Err(Refused::ForeignFile { owner: found.st_uid }.into()),
    }
}

/// Mode of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputMode {
    /// Exactly this one.
    Exactly(u32),
    /// As the umask of the user leaves it.
    ByUmask,
}

/// Writes a file that a user named, in place of what has the name: readers see the old one or the
/// new one. A link is replaced and not followed. A pipe or device, such as `/dev/stdout`, is
/// written to, if it is root's or this user's.
///
/// # Errors
/// Those of the system; [`Refused`].
pub fn write_output(path: &Path, bytes: &[u8], mode: OutputMode) -> io::Result<()> {
    // Looked at without an effect; what matters is checked again on the descriptor.
    let is_special =
        |found: &std::fs::Metadata| is_descriptor(path) || !(found.is_file() || found.is_dir());
    if std::fs::metadata(path).as_ref().is_ok_and(is_special) {
        return write_to_device(path, bytes);
    }
    let (directory, name) = parent_of(path)?;
    let (bits, exact) = match mode {
        OutputMode::Exactly(bits) => (bits, true),
        OutputMode::ByUmask => (0o666, false),
    };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_bits_truncate(bits);
    let (temporary, file) =
        with_new_name(&name, |temporary| rustix::fs::openat(&directory, temporary, flags, mode))?;
    let mut file = File::from(file);
    let written = (|| {
        if exact {
            rustix::fs::fchmod(&file, mode)?;
        }
        file.write_all(bytes)?;
        Ok::<_, io::Error>(rustix::fs::renameat(&directory, &temporary, &directory, &name)?)
    })();
    if written.is_err() {
        let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
    }
    written
}

/// Tells whether a path stands for a descriptor of this process: `/dev/stdout` may be a file.
fn is_descriptor(path: &Path) -> bool {
    ["/dev/stdout", "/dev/stderr"].iter().any(|known| path == Path::new(known))
        || path.starts_with("/dev/fd")
        || path.starts_with("/proc")
}

fn write_to_device(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let found = rustix::fs::fstat(&file)?;
    let kind = FileType::from_raw_mode(found.st_mode);
    let is_file = kind.is_file() && !is_descriptor(path);
    if is_file || (!kind.is_char_device() && found.st_uid != 0 && found.st_uid != us()) {
        return Err(Refused::ForeignFile { owner: found.st_uid }.into());
    }
    file.write_all(bytes)
}

/// Calls `make` with names beside `name` until one is free.
fn with_new_name<T>(
    name: &OsStr,
    mut make: impl FnMut(&OsStr) -> Result<T, Errno>,
) -> io::Result<(OsString, T)> {
    for _ in 0..NAME_ATTEMPTS {
        let mut new = OsString::from(".");
        new.push(name);
        new.push(format!(".{:016x}", random()));
        match make(&new) {
            Err(Errno::EXIST) => {}
            other => return Ok((new, other?)),
        }
    }
    Err(Errno::EXIST.into())
}

/// The file of a socket; removed with this value, if it is still the same one.
#[derive(Debug)]
pub struct SocketFile {
    directory: OwnedFd,
    name: OsString,
    device: u64,
    inode: u64,
}

/// Listens at a path. The file has exactly this mode from the moment on when it has its name, and
/// takes the place of a socket that is there; anything else stays, and is `EADDRINUSE`.
///
/// # Errors
/// Those of the system; [`Refused::ForeignLink`].
pub fn bind_socket(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    /// Name within the directory that nobody else can write.
    const INNER: &str = "s";
    let (directory, name) = parent_of(path)?;
    let unfollowed = AtFlags::SYMLINK_NOFOLLOW;
    match rustix::fs::statat(&directory, &name, unfollowed) {
        Ok(found) if !FileType::from_raw_mode(found.st_mode).is_socket() => {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        Ok(_) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let (private, inner) = with_new_name(&name, |new| {
        make_at(directory.as_fd(), Path::new(new), PRIVATE)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    })?;
    let bound = (|| {
        // Short, whatever the path is: the kernel takes 107 bytes.
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{INNER}", inner.as_raw_fd()))?;
        // By name, where nobody else has a name.
        rustix::fs::chmodat(&inner, INNER, Mode::from_bits_truncate(mode), AtFlags::empty())?;
        let made = rustix::fs::statat(&inner, INNER, unfollowed)?;
        rustix::fs::renameat(&inner, INNER, &directory, &name)?;
        Ok::<_, io::Error>((listener, made))
    })();
    if bound.is_err() {
        let _ = rustix::fs::unlinkat(&inner, INNER, AtFlags::empty());
    }
    let _ = rustix::fs::unlinkat(&directory, &private, AtFlags::REMOVEDIR);
    let (listener, made) = bound?;
    #[allow(clippy::useless_conversion, reason = "its type differs between architectures")]
    let (device, inode) = (u64::from(made.st_dev), u64::from(made.st_ino));
    Ok((listener, SocketFile { directory, name, device, inode }))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Ok(found) = rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW)
        else {
            return;
        };
        #[allow(clippy::useless_conversion, reason = "its type differs between architectures")]
        let found = (u64::from(found.st_dev), u64::from(found.st_ino));
        if found == (self.device, self.inode) {
            let _ = rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

/// Writes a file that all may read, if nothing has its name; tells whether.
///
/// # Errors
/// Those of the system.
pub fn write_new(directory: BorrowedFd<'_>, name: &str, text: &str) -> io::Result<bool> {
    // So that nothing is changed where nothing is to do; what counts is the last step.
    if rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Ok(false);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let temporary = with_new_name(OsStr::new(name), |new| {
        rustix::fs::openat(directory, new, flags, Mode::RUSR | Mode::WUSR)
    })?;
    let (temporary, file) = (temporary.0, File::from(temporary.1));
    let named = (|| {
        (&file).write_all(text.as_bytes())?;
        rustix::fs::fchmod(&file, Mode::from_bits_truncate(0o644))?;
        // Whole from the first moment on: whoever reads it runs what is in it.
        match rustix::fs::linkat(directory, &temporary, directory, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(io::Error::from(error)),
        }
    })();
    let _ = rustix::fs::unlinkat(directory, &temporary, AtFlags::empty());
    named
}

/// Removes what has a name in a directory, with all that is in it. Links are not followed.
///
/// # Errors
/// Those of `unlinkat` and `openat`; `ELOOP` for a tree that is too deep.
pub fn remove_tree(directory: BorrowedFd<'_>, name: impl AsRef<Path>) -> io::Result<()> {
    remove(directory, name.as_ref(), MAX_DEPTH)
}

fn remove(directory: BorrowedFd<'_>, name: &Path, depth: usize) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says EISDIR, others EPERM.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    if depth == 0 {
        return Err(Errno::LOOP.into());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    for entry in Dir::read_from(&inner)? {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if !matches!(bytes, b"." | b"..") {
            remove(inner.as_fd(), Path::new(&OsString::from_vec(bytes.to_vec())), depth - 1)?;
        }
    }
    Ok(rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?)
}

#[cfg(test)]
mod tests;
