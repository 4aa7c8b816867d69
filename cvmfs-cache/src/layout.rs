//! Names of directories and files, their modes, and what is refused.
//!
//! ```text
//! DIR/v1/                 a layout that cannot be read by this code gets another number
//!   CACHEDIR.TAG          tells backup tools to pass by
//!   objects/ab/cdef...    plain bytes of the object with that hash (see `object_name`)
//!   txn/                  files that are being written, where they need a name at all
//!   records/              what is remembered of repositories, one file each
//!   quarantine/           directories found where an object should be; made when needed
//! ```
//!
//! Everything is private to one user: directories 0700, files 0600, whatever the umask. The data
//! are not secret as such, but whoever can write here decides what readers get. So a directory
//! of ours that another user owns or can write is refused and not repaired: it may hold anything
//! by now. Inside, only our own user can put links or directories in place of others.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use cvmfs_core::cache::CacheError;
use cvmfs_core::object::{Compression, ObjectId};
use nix::libc;

const VERSION: &str = "v1";
const OBJECTS: &str = "objects";
const TRANSACTIONS: &str = "txn";
const QUARANTINE: &str = "quarantine";
const RECORDS: &str = "records";
const DIRECTORY_MODE: u32 = 0o700;
pub(crate) const FILE_MODE: u32 = 0o600;
/// Write permission for group or others.
const FOREIGN_WRITE: u32 = 0o022;

/// The first line is the signature of the Cache Directory Tagging Specification (bford.info).
const CACHEDIR_TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55
# Objects of CernVM-FS repositories, stored by cvmfs-fuse. All of it can be fetched again:
# it may be removed at any time, also while repositories are mounted.
";

/// Why a directory cannot hold a cache; the source of the [`CacheError::Io`] of an open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnfitDirectory {
    /// Something else has that name.
    #[error("it is not a directory")]
    NotADirectory,
    /// Another user could change what readers get.
    #[error("it belongs to user {owner}, and this process runs as user {us}")]
    ForeignOwner {
        /// The owner found.
        owner: u32,
        /// The effective user of this process.
        us: u32,
    },
    /// Other users could change what readers get.
    #[error("its mode {mode:o} lets other users write; use another directory or remove it")]
    WritableByOthers {
        /// The permission bits found.
        mode: u32,
    },
    /// Files made there belong to somebody else, as on NFS with squashed users.
    #[error("files made there belong to user {owner}, not to user {us}")]
    FilesChangeOwner {
        /// The owner of a new file.
        owner: u32,
        /// The effective user of this process.
        us: u32,
    },
    /// The seal of an object file is its modification time.
    #[error("its file system does not keep modification times to the second")]
    TimesNotKept,
}

/// Returns a function that puts action and path to an error of the operating system.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CacheError {
    move |source| CacheError::Io { action, path: path.to_owned(), source }
}

/// The effective user of this process, whose files are trusted.
pub(crate) fn our_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Refuses `path` for a stated reason.
pub(crate) fn unfit(path: &Path, reason: UnfitDirectory) -> CacheError {
    failed("use cache directory", path)(io::Error::other(reason))
}

/// The paths below one cache directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    directory: PathBuf,
    root: PathBuf,
}

impl Layout {
    /// Creates what is missing below `directory`, and checks what is there.
    pub(crate) fn create(directory: &Path) -> Result<Self, CacheError> {
        let layout = Self { directory: directory.to_owned(), root: directory.join(VERSION) };
        layout.restore()?;
        Ok(layout)
    }

    /// Creates what is missing; somebody may have wiped the cache under a live mount.
    pub(crate) fn restore(&self) -> Result<(), CacheError> {
        match std::fs::metadata(&self.directory) {
            // The directory itself is the user's choice: it may be a link or hold other things.
            Ok(found) if !found.is_dir() => {
                return Err(unfit(&self.directory, UnfitDirectory::NotADirectory));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new()
                    .recursive(true)
                    .mode(DIRECTORY_MODE)
                    .create(&self.directory)
                    .map_err(failed("create directory", &self.directory))?;
                set_directory_mode(&self.directory)?;
            }
            Err(error) => return Err(failed("use cache directory", &self.directory)(error)),
        }
        for path in [self.root.clone(), self.objects(), self.transactions(), self.records()] {
            make_directory(&path)?;
            check_directory(&path)?;
        }
        self.write_tag()
    }

    fn write_tag(&self) -> Result<(), CacheError> {
        let path = self.root.join("CACHEDIR.TAG");
        let tag = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path);
        match tag {
            Ok(mut tag) => set_file_mode(&tag)
                .and_then(|()| tag.write_all(CACHEDIR_TAG))
                .map_err(failed("write", &path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(failed("create", &path)(error)),
        }
    }

    /// Returns the directory that was given to [`Layout::create`].
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the parent of the 256 directories of objects.
    pub(crate) fn objects(&self) -> PathBuf {
        self.root.join(OBJECTS)
    }

    /// Returns one of the 256 directories.
    pub(crate) fn fan(&self, number: u8) -> PathBuf {
        self.root.join(OBJECTS).join(format!("{number:02x}"))
    }

    /// Returns where records are.
    pub(crate) fn records(&self) -> PathBuf {
        self.root.join(RECORDS)
    }

    /// Returns where files that are being written have their names.
    pub(crate) fn transactions(&self) -> PathBuf {
        self.root.join(TRANSACTIONS)
    }

    /// Returns a new name among the files that are being written.
    pub(crate) fn new_transaction(&self) -> PathBuf {
        self.root.join(TRANSACTIONS).join(format!("fetch-{:016x}", random()))
    }

    /// Returns the path of an object.
    pub(crate) fn object(&self, id: &ObjectId) -> PathBuf {
        let (directory, name) = object_name(id);
        self.root.join(OBJECTS).join(directory).join(name)
    }

    /// Creates the directory of an object.
    pub(crate) fn make_fan(&self, number: u8) -> Result<(), CacheError> {
        let path = self.fan(number);
        match make_directory(&path) {
            Err(CacheError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.restore()?;
                make_directory(&path)
            }
            other => other,
        }
    }

    /// Takes away what stands in the place of an object, without following or opening it.
    ///
    /// Between the look and the removal another process may have put the right object there; it
    /// is lost then and fetched again, which costs time but no reader its bytes.
    pub(crate) fn remove_foreign(&self, path: &Path) -> Result<(), CacheError> {
        match std::fs::remove_file(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {}
            Err(error) => return Err(failed("remove", path)(error)),
        }
        if std::fs::remove_dir(path).is_ok() {
            return Ok(());
        }
        // Not empty. What is in it is not ours to delete, so it is set aside for a person.
        let quarantine = self.root.join(QUARANTINE);
        make_directory(&quarantine)?;
        let aside = quarantine.join(format!("{:016x}", random()));
        std::fs::rename(path, aside).map_err(failed("set aside", path))
    }
}

/// Returns directory and file name of an object.
///
/// The whole [`ObjectId`] is in the name: hash with algorithm, kind, and whether the hash is that
/// of the plain bytes. So one id never finds the bytes that were checked for another.
fn object_name(id: &ObjectId) -> (String, String) {
    let text = id.hash.to_string();
    let (directory, rest) = text.split_at(2);
    let mut name = rest.to_owned();
    name.extend(id.kind.suffix());
    if id.compression == Compression::None {
        name.push_str(".none");
    }
    (directory.to_owned(), name)
}

fn make_directory(path: &Path) -> Result<(), CacheError> {
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Ok(()) => set_directory_mode(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed("create directory", path)(error)),
    }
}

/// The umask may have taken bits away from the owner.
fn set_directory_mode(path: &Path) -> Result<(), CacheError> {
    std::fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE))
        .map_err(failed("set the mode of", path))
}

fn check_directory(path: &Path) -> Result<(), CacheError> {
    let found = std::fs::symlink_metadata(path).map_err(failed("use cache directory", path))?;
    let (us, owner, mode) = (our_user(), found.uid(), found.mode() & 0o7777);
    if !found.is_dir() {
        return Err(unfit(path, UnfitDirectory::NotADirectory));
    }
    if owner != us {
        return Err(unfit(path, UnfitDirectory::ForeignOwner { owner, us }));
    }
    if mode & FOREIGN_WRITE != 0 {
        return Err(unfit(path, UnfitDirectory::WritableByOthers { mode }));
    }
    Ok(())
}

/// Sets the mode of a new file to what the layout wants, whatever the umask made of it.
pub(crate) fn set_file_mode(file: &File) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(FILE_MODE))
}

/// A number nobody else picks; names made of it are created exclusively all the same.
fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cvmfs_core::hash::{ContentHash, HashAlgorithm};
    use cvmfs_core::object::ObjectKind;

    #[test]
    fn every_part_of_an_id_is_in_the_name() {
        let rest = "23456789abcdef0123456789abcdef01234567";
        let digest = "0123456789abcdef0123456789abcdef01234567";
        let cases = [
            ("", ObjectKind::Data, Compression::Zlib, rest.to_owned()),
            ("", ObjectKind::Data, Compression::None, format!("{rest}.none")),
            ("", ObjectKind::Chunk, Compression::None, format!("{rest}P.none")),
            ("", ObjectKind::Catalog, Compression::Zlib, format!("{rest}C")),
            ("-rmd160", ObjectKind::Data, Compression::Zlib, format!("{rest}-rmd160")),
            ("-shake128", ObjectKind::History, Compression::Zlib, format!("{rest}-shake128H")),
        ];
        for (identifier, kind, compression, name) in cases {
            let hash: ContentHash = format!("{digest}{identifier}").parse().unwrap();
            let id = ObjectId { hash, kind, compression };
            assert_eq!(object_name(&id), ("01".to_owned(), name));
        }
        let hash = ContentHash::new(HashAlgorithm::Sha1, [0xff; 20]);
        let layout = Layout { directory: "/c".into(), root: "/c/v1".into() };
        let path = layout.object(&ObjectId::zlib(hash, ObjectKind::Data));
        assert_eq!(path.parent(), Some(layout.fan(0xff).as_path()));
        assert_eq!(layout.fan(5), Path::new("/c/v1/objects/05"));
    }

    fn reason(error: CacheError) -> UnfitDirectory {
        let CacheError::Io { source, .. } = error else { panic!("{error:?}") };
        source.into_inner().unwrap().downcast::<UnfitDirectory>().unwrap().as_ref().clone()
    }

    #[test]
    fn creates_private_directories_and_the_tag() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("deep/er");
        let layout = Layout::create(&directory).unwrap();
        for path in ["", "objects", "txn"] {
            let found = layout.root.join(path).metadata().unwrap();
            assert_eq!(found.mode(), 0o040_700, "{path}");
        }
        let tag = std::fs::read(directory.join("v1/CACHEDIR.TAG")).unwrap();
        assert!(tag.starts_with(b"Signature: 8a477f597d28d172789f06886806bc55\n"));
        Layout::create(&directory).unwrap();
    }

    #[test]
    fn refuses_what_is_no_directory() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        assert_eq!(reason(Layout::create(&file).unwrap_err()), UnfitDirectory::NotADirectory);

        let other = scratch.path().join("other");
        std::fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(scratch.path(), other.join("v1")).unwrap();
        assert_eq!(reason(Layout::create(&other).unwrap_err()), UnfitDirectory::NotADirectory);
        assert!(!scratch.path().join("objects").exists(), "the link was followed");
    }

    #[test]
    fn refuses_what_others_can_write() {
        let scratch = tempfile::tempdir().unwrap();
        for (path, mode) in [("v1", 0o770), ("v1/objects", 0o777), ("v1/txn", 0o702)] {
            Layout::create(scratch.path()).unwrap();
            let path = scratch.path().join(path);
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let refused = reason(Layout::create(scratch.path()).unwrap_err());
            assert_eq!(refused, UnfitDirectory::WritableByOthers { mode });
            std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        }
        Layout::create(scratch.path()).unwrap();
    }

    #[test]
    fn refuses_a_directory_of_another_user() {
        if our_user() != 0 {
            return; // Only root can give a directory away.
        }
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(scratch.path()).unwrap();
        std::os::unix::fs::chown(&layout.root, Some(4711), None).unwrap();
        let refused = reason(Layout::create(scratch.path()).unwrap_err());
        assert_eq!(refused, UnfitDirectory::ForeignOwner { owner: 4711, us: 0 });
    }

    #[test]
    fn foreign_things_go_away_without_being_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(scratch.path()).unwrap();
        let target = scratch.path().join("target");
        std::fs::write(&target, b"precious").unwrap();
        let place = layout.objects().join("place");

        std::os::unix::fs::symlink(&target, &place).unwrap();
        layout.remove_foreign(&place).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"precious");
        assert!(place.symlink_metadata().is_err());

        std::fs::create_dir(&place).unwrap();
        layout.remove_foreign(&place).unwrap();
        assert!(!place.exists());

        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("inside"), b"kept").unwrap();
        layout.remove_foreign(&place).unwrap();
        assert!(!place.exists());
        let mut aside = std::fs::read_dir(layout.root.join(QUARANTINE)).unwrap();
        let aside = aside.next().unwrap().unwrap().path().join("inside");
        assert_eq!(std::fs::read(aside).unwrap(), b"kept");

        layout.remove_foreign(&place).unwrap();
    }
}
