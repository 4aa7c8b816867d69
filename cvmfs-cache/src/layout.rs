//! Names of directories and files, their modes, and what is refused.
//!
//! ```text
//! DIR/v2/                 a layout that cannot be read by this code gets another number
//!   CACHEDIR.TAG          tells backup tools to pass by
//!   objects/ab/cdef...    plain bytes of the object with that hash (see `object_name`)
//!   txn/                  files that are being written, where they need a name at all
//!   records/              what is remembered of repositories, one file each
//!   sessions/             one locked file for each process: what it pins
//!   quarantine/           what was found where an object should be; bounded
//!   index.sqlite          who was used when: a hint, rebuilt from objects/
//!   gauge                 how many bytes are stored
//!   quota                 how many may be, for those who are not told
//!   claims                who downloads what: locks only
//!   evict.lock scan.lock  one process at a time evicts, one counts
//! ```
//!
//! Everything below `v2` is reached from one open descriptor by names that may not contain links
//! (`openat2`), so that nobody who can write here makes us touch a file elsewhere.

use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use cvmfs_core::cache::{CacheError, CachedObject};
use cvmfs_core::object::{Compression, ObjectId, ObjectKind};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::safe_path::{self, PRIVATE};
use crate::sharing::{Sharing, UnfitDirectory, our_user, unfit};

/// Name of the layout.
pub(crate) const VERSION: &str = "v2";
/// Parent of the 256 directories of objects.
pub(crate) const OBJECTS: &str = "objects";
/// Where files that are being written have their names.
pub(crate) const TRANSACTIONS: &str = "txn";
/// What was found in the place of objects.
pub(crate) const QUARANTINE: &str = "quarantine";
/// What is remembered of repositories.
pub(crate) const RECORDS: &str = "records";
/// Files of live processes.
pub(crate) const SESSIONS: &str = "sessions";
/// Things kept in quarantine for a person to look at; the oldest go.
const MAX_QUARANTINED: usize = 16;
/// Names that are read of one directory: ten times what a cache of 10 million objects has in it, and
/// some 60 MiB if somebody who may write there makes them as long as they can be.
const MAX_LISTED: usize = 1 << 18;

/// The first line is the signature of the Cache Directory Tagging Specification (bford.info).
const CACHEDIR_TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55
# Objects of CernVM-FS repositories, stored by cvmfs-fuse. All of it can be fetched again:
# it may be removed at any time, also while repositories are mounted.
";

/// Returns a function that puts action and path to an error of the operating system.
pub(crate) fn failed<E: Into<io::Error>>(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> CacheError {
    move |source| CacheError::Io { action, path: path.to_owned(), source: source.into() }
}

/// One cache directory.
#[derive(Debug)]
pub(crate) struct Layout {
    directory: PathBuf,
    root_path: PathBuf,
    root: ArcSwap<OwnedFd>,
    sharing: Sharing,
    read_only: bool,
    has_proc: bool,
}

impl Layout {
    /// Creates what is missing below `directory`, and checks what is there. `anyone` accepts a
    /// directory that every user of the machine can write.
    pub(crate) fn create(directory: &Path, anyone: bool) -> Result<Self, CacheError> {
        // Links above are the choice of whoever made them: this user or root. Below, none is followed.
        let (base, created) = make_base(directory)?;
        let directory =
            directory.canonicalize().map_err(failed("use cache directory", directory))?;
        let sharing = sharing_of(&base, &directory, anyone, created)?;
        let root_path = directory.join(VERSION);
        let prepared = prepare(base.as_fd(), &root_path, &sharing);
        let (root, read_only) = match prepared {
            Ok(root) => (root, false),
            Err(CacheError::Io { source, .. }) if is_read_only(&source) && root_path.is_dir() => {
                let root = open_root(base.as_fd(), &root_path)?;
                check_directory(root.as_fd(), &root_path, &sharing, true)?;
                warn_read_only(&directory);
                (root, true)
            }
            Err(error) => return Err(error),
        };
        if sharing == Sharing::Private && !read_only {
            warn_accident(&base, &directory);
        }
        let root = ArcSwap::from_pointee(root);
        let has_proc = Path::new("/proc/self/fd").is_dir();
        Ok(Self { directory, root_path, root, sharing, read_only, has_proc })
    }

    /// Returns the same directory for reading only: a complete one tells by a trial alone.
    pub(crate) fn as_read_only(&self) -> Self {
        warn_read_only(&self.directory);
        Self {
            directory: self.directory.clone(),
            root_path: self.root_path.clone(),
            root: ArcSwap::new(self.root()),
            sharing: self.sharing,
            read_only: true,
            has_proc: self.has_proc,
        }
    }

    /// Creates what is missing; somebody may have wiped the cache under a live mount.
    pub(crate) fn restore(&self) -> Result<(), CacheError> {
        if self.read_only {
            return Err(failed("write to", &self.root_path)(Errno::ROFS));
        }
        let (base, created) = make_base(&self.directory)?;
        // Another directory under the same name may be shared with others than this one was.
        if !created {
            let anyone = self.sharing == Sharing::Anyone;
            let now = sharing_of(&base, &self.directory, anyone, false)?;
            if now != self.sharing {
                return Err(unfit(&self.directory, UnfitDirectory::Exchanged));
            }
        }
        self.root.store(Arc::new(prepare(base.as_fd(), &self.root_path, &self.sharing)?));
        Ok(())
    }

    /// Returns the directory that was given to [`Layout::create`].
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Tells who else may write here.
    pub(crate) fn sharing(&self) -> &Sharing {
        &self.sharing
    }

    /// Tells whether nothing can be written.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Returns the directory that everything is in.
    pub(crate) fn root(&self) -> Arc<OwnedFd> {
        self.root.load_full()
    }

    /// Returns the path of something below, for messages, SQLite, and for opening it again.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root_path.join(name)
    }

    /// Returns the path of something below that goes through a descriptor of the root, so that nobody who
    /// can rename directories above it exchanges what it leads to; `None` where there is no `/proc`.
    pub(crate) fn exact_path(&self, root: &OwnedFd, name: impl AsRef<Path>) -> Option<PathBuf> {
        let path = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        self.has_proc.then(|| path.join(name))
    }

    /// Says of an object that is opened as a database where exactly it is.
    pub(crate) fn placed(&self, object: CachedObject, id: &ObjectId, name: String) -> CachedObject {
        match id.kind {
            ObjectKind::Catalog | ObjectKind::History if self.has_proc => {
                object.placed(self.root(), name.into())
            }
            _ => object,
        }
    }

    /// Opens something below, without following links.
    pub(crate) fn open(&self, name: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        open_beneath(self.root.load().as_fd(), name, flags, mode)
    }

    /// Opens or creates a file that all who share the cache may write.
    pub(crate) fn open_control(&self, name: &str) -> Result<File, CacheError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
        let mode = self.sharing.control_mode();
        let file = match self.open(name, flags, mode) {
            Err(Errno::NOENT) => {
                self.restore()?;
                self.open(name, flags, mode)
            }
            other => other,
        };
        let file = File::from(file.map_err(failed("open", &self.path(name)))?);
        let found = file.metadata().map_err(failed("look at", &self.path(name)))?;
        if !found.is_file() || found.nlink() > 1 {
            let reason = io::Error::other("it is no plain file with one name");
            return Err(failed("use", &self.path(name))(reason));
        }
        if found.uid() == our_user() && found.mode() & 0o7777 != mode.bits() {
            rustix::fs::fchmod(&file, mode).map_err(failed("set the mode of", &self.path(name)))?;
        }
        Ok(file)
    }

    /// Lists a directory below; a missing one is empty.
    pub(crate) fn list(&self, name: &str) -> Result<Vec<String>, CacheError> {
        let directory = match self.open(name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(error) => return Err(failed("list", &self.path(name))(error)),
        };
        let entries = rustix::fs::Dir::new(directory).map_err(failed("list", &self.path(name)))?;
        let mut names = Vec::new();
        for entry in entries.take(MAX_LISTED) {
            let entry = entry.map_err(failed("list", &self.path(name)))?;
            // A name that is no text is none of ours.
            if let Ok(text) = entry.file_name().to_str()
                && !matches!(text, "." | "..")
            {
                names.push(text.to_owned());
            }
        }
        Ok(names)
    }

    /// Opens the directory of an object, creating it if it is missing.
    pub(crate) fn fan(&self, number: u8) -> Result<OwnedFd, CacheError> {
        let name = fan_name(number);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open(&name, flags, Mode::empty()) {
            Ok(fan) => return Ok(fan),
            Err(Errno::NOENT) => {}
            // A file or a link in place of the directory.
            Err(Errno::NOTDIR | Errno::LOOP) => self.remove_foreign(&name)?,
            Err(error) => return Err(failed("open", &self.path(&name))(error)),
        }
        if self.open(OBJECTS, flags, Mode::empty()).is_err() {
            self.restore()?;
        }
        let parent = self.parent(&name).map_err(failed("open", &self.path(OBJECTS)));
        let (parent, file) = parent?;
        make_directory(parent.as_fd(), file, &self.path(&name), &self.sharing)?;
        self.open(&name, flags, Mode::empty()).map_err(failed("open", &self.path(&name)))
    }

    /// Removes a file; false if it was not there.
    pub(crate) fn unlink(&self, name: &str) -> Result<bool, Errno> {
        let (parent, file) = self.parent(name)?;
        match rustix::fs::unlinkat(&parent, file, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Looks at what has a name, without following it.
    pub(crate) fn look(&self, name: &str) -> Result<rustix::fs::Stat, Errno> {
        let (parent, file) = self.parent(name)?;
        rustix::fs::statat(&parent, file, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Opens the directory in which a name is.
    fn parent<'a>(&self, name: &'a str) -> Result<(OwnedFd, &'a str), Errno> {
        let (directory, file) = name.rsplit_once('/').unwrap_or((".", name));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        Ok((self.open(directory, flags, Mode::empty())?, file))
    }

    /// Returns a new name among the files that are being written.
    pub(crate) fn new_transaction() -> String {
        format!("{TRANSACTIONS}/fetch-{:016x}", random())
    }

    /// Takes away what stands in the place of an object, without following or opening it.
    ///
    /// Between the look and the removal another process may have put the right object there; it
    /// is lost then and fetched again, which costs time but no reader its bytes.
    pub(crate) fn remove_foreign(&self, name: &str) -> Result<(), CacheError> {
        let broken = |error| failed("remove", &self.path(name))(error);
        match self.unlink(name) {
            Ok(_) | Err(Errno::NOENT) => return Ok(()),
            // Linux says EISDIR, others EPERM.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(broken(error)),
        }
        let (parent, file) = self.parent(name).map_err(broken)?;
        if rustix::fs::unlinkat(&parent, file, AtFlags::REMOVEDIR).is_ok() {
            return Ok(());
        }
        // Not empty. What is in it is not ours to delete, so it is set aside for a person.
        self.set_aside(name)
    }

    /// Moves something to the quarantine.
    pub(crate) fn set_aside(&self, name: &str) -> Result<(), CacheError> {
        let broken = |error| failed("set aside", &self.path(name))(error);
        make_directory(self.root().as_fd(), QUARANTINE, &self.path(QUARANTINE), &self.sharing)?;
        let (parent, file) = self.parent(name).map_err(broken)?;
        let quarantine = self
            .open(QUARANTINE, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
            .map_err(broken)?;
        let aside = format!("{file}-{:016x}", random());
        rustix::fs::renameat(&parent, file, &quarantine, &aside).map_err(broken)?;
        self.prune_quarantine();
        Ok(())
    }

    /// Keeps what was set aside last.
    fn prune_quarantine(&self) {
        let Ok(names) = self.list(QUARANTINE) else { return };
        let mut found: Vec<_> = names
            .into_iter()
            .map(|name| format!("{QUARANTINE}/{name}"))
            .filter_map(|name| self.look(&name).ok().map(|stat| (stat.st_ctime, name)))
            .collect();
        found.sort_unstable();
        let surplus = found.len().saturating_sub(MAX_QUARANTINED);
        for (_, name) in found.drain(..surplus) {
            // A directory stays: a person put it there.
            let _ = self.unlink(&name);
        }
    }
}

fn warn_read_only(directory: &Path) {
    let directory = directory.display();
    tracing::warn!(%directory, "the cache can only be read; new objects are kept in memory");
}

/// Returns the path of one of the 256 directories below the root.
pub(crate) fn fan_name(number: u8) -> String {
    format!("{OBJECTS}/{number:02x}")
}

/// Returns the number of the directory of an object.
pub(crate) fn fan_of(id: &ObjectId) -> u8 {
    id.hash.digest()[0]
}

/// Returns the name of an object below `objects`, with its directory.
///
/// The whole [`ObjectId`] is in the name: hash with algorithm, kind, and whether the hash is that
/// of the plain bytes. So one id never finds the bytes that were checked for another.
pub(crate) fn object_name(id: &ObjectId) -> String {
    let text = id.hash.to_string();
    let (directory, rest) = text.split_at(2);
    let mut name = format!("{directory}/{rest}");
    name.extend(id.kind.suffix());
    if id.compression == Compression::None {
        name.push_str(".none");
    }
    name
}

/// Reads a name that [`object_name`] made; anything else is `None`.
pub(crate) fn parse_object_name(name: &str) -> Option<ObjectId> {
    let (directory, rest) = name.split_once('/')?;
    if directory.len() != 2 {
        return None;
    }
    let (rest, compression) = match rest.strip_suffix(".none") {
        Some(rest) => (rest, Compression::None),
        None => (rest, Compression::Zlib),
    };
    let kind = match rest.chars().next_back()? {
        'P' => ObjectKind::Chunk,
        'C' => ObjectKind::Catalog,
        'X' => ObjectKind::Certificate,
        'H' => ObjectKind::History,
        'M' => ObjectKind::Metainfo,
        _ => ObjectKind::Data,
    };
    let rest = &rest[..rest.len() - usize::from(kind.suffix().is_some())];
    let id = ObjectId { hash: format!("{directory}{rest}").parse().ok()?, kind, compression };
    // Only the one way to write it is a name.
    (object_name(&id) == name).then_some(id)
}

/// Tells whether an error says that nothing can be written here.
pub(crate) fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// Opens a name below a directory; no component may be a link.
pub(crate) fn open_beneath(
    directory: BorrowedFd<'_>,
    name: &str,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // openat2 refuses a mode that it has no use for.
    let makes = flags.contains(OFlags::CREATE) || flags.contains(OFlags::TMPFILE);
    let mode = if makes { mode } else { Mode::empty() };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(directory, name, flags, mode, resolve) {
        // Kernels before 5.6, and seccomp filters that do not know it: the last component is
        // still not followed.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(directory, name, flags, mode),
        other => other,
    }
}

/// Opens the directory that the user gave, or makes it for this user alone; tells whether it did.
fn make_base(directory: &Path) -> Result<(OwnedFd, bool), CacheError> {
    safe_path::make_directories(directory, PRIVATE, PRIVATE).map_err(|error| {
        match Errno::from_io_error(&error) {
            Some(Errno::NOTDIR) => unfit(directory, UnfitDirectory::NotADirectory),
            _ => failed("use cache directory", directory)(error),
        }
    })
}

fn sharing_of(
    base: &OwnedFd,
    directory: &Path,
    anyone: bool,
    created: bool,
) -> Result<Sharing, CacheError> {
    if created {
        return Ok(Sharing::Private);
    }
    let found = rustix::fs::fstat(base).map_err(failed("use cache directory", directory))?;
    Sharing::of(directory, &found, anyone)
}

/// Says what to type where a umask, and nobody on purpose, let a group write.
fn warn_accident(base: &OwnedFd, directory: &Path) {
    let Ok(found) = rustix::fs::fstat(base) else { return };
    if found.st_mode & 0o1020 != 0o020 {
        return;
    }
    let (directory, group) = (directory.display(), found.st_gid);
    tracing::warn!(
        "group {group} can write to the cache directory {directory}, perhaps by accident (umask); \
         it is used for this user alone. To keep others out: chmod 700 {directory}; to share it \
         with the group: chmod 2770 {directory}"
    );
}

/// Makes the root and what belongs in it; returns the root.
fn prepare(
    base: BorrowedFd<'_>,
    root_path: &Path,
    sharing: &Sharing,
) -> Result<OwnedFd, CacheError> {
    make_directory(base, VERSION, root_path, sharing)?;
    let root = open_root(base, root_path)?;
    check_directory(root.as_fd(), root_path, sharing, false)?;
    for name in [OBJECTS, TRANSACTIONS, RECORDS, SESSIONS] {
        let path = root_path.join(name);
        make_directory(root.as_fd(), name, &path, sharing)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = open_beneath(root.as_fd(), name, flags, Mode::empty());
        let opened = opened.map_err(|error| refuse(&path, error))?;
        check_directory(opened.as_fd(), &path, sharing, false)?;
    }
    write_tag(root.as_fd(), root_path, sharing)?;
    Ok(root)
}

fn open_root(base: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, CacheError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(base, VERSION, flags, Mode::empty()).map_err(|error| refuse(path, error))
}

fn refuse(path: &Path, error: Errno) -> CacheError {
    match error {
        Errno::LOOP | Errno::NOTDIR => unfit(path, UnfitDirectory::NotADirectory),
        error => failed("use cache directory", path)(error),
    }
}

fn write_tag(root: BorrowedFd<'_>, root_path: &Path, sharing: &Sharing) -> Result<(), CacheError> {
    const NAME: &str = "CACHEDIR.TAG";
    let path = root_path.join(NAME);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    match open_beneath(root, NAME, flags, sharing.object_mode() | Mode::WUSR) {
        Ok(tag) => rustix::fs::fchmod(&tag, sharing.object_mode())
            .and_then(|()| rustix::io::write(&tag, CACHEDIR_TAG).map(drop))
            .map_err(failed("write", &path)),
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(failed("create", &path)(error)),
    }
}

/// Makes a directory if it is missing. It gets its name when it has its mode: the umask may take
/// bits away, and users who share it would be refused in between.
fn make_directory(
    parent: BorrowedFd<'_>,
    name: impl AsRef<Path>,
    path: &Path,
    sharing: &Sharing,
) -> Result<(), CacheError> {
    let name = name.as_ref();
    let broken = || failed("create directory", path);
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => return Ok(()),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(broken()(error)),
    }
    let mut new = name.as_os_str().to_owned();
    new.push(format!(".new-{:016x}", random()));
    make_named(parent, Path::new(&new), path, sharing)?;
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    let named = rustix::fs::renameat_with(parent, &new, parent, name, flags);
    if named.is_err() {
        let _ = rustix::fs::unlinkat(parent, &new, AtFlags::REMOVEDIR);
    }
    match named {
        // Another process may have been faster.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        // Not on this file system.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            make_named(parent, name, path, sharing)
        }
        Err(error) => Err(broken()(error)),
    }
}

fn make_named(
    parent: BorrowedFd<'_>,
    name: &Path,
    path: &Path,
    sharing: &Sharing,
) -> Result<(), CacheError> {
    match safe_path::make_directory_at(parent, name, PRIVATE) {
        Ok((made, true)) => sharing.adopt_directory(made.as_fd(), path),
        Ok((_, false)) => Ok(()),
        // Another process was faster, or a link is in the way: whoever opens it tells.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::LOOP | Errno::NOTDIR)) => {
            Ok(())
        }
        Err(error) => Err(failed("create directory", path)(error)),
    }
}

fn check_directory(
    directory: BorrowedFd<'_>,
    path: &Path,
    sharing: &Sharing,
    read_only: bool,
) -> Result<(), CacheError> {
    let found = rustix::fs::fstat(directory).map_err(failed("use cache directory", path))?;
    sharing.check_directory(directory, &found, path, read_only)
}

/// A number nobody else picks; names made of it are created exclusively all the same.
pub(crate) fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests;
