//! Directories, and whose they are.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use cvmfs_cache::safe_path::{self, PUBLIC};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use super::Said;
use super::account::Account;
use super::error::SetupError;
use crate::fuse::mountinfo::{self, show};

/// Makes the directory that repositories are mounted below.
pub(super) fn for_mounts(path: &Path, said: &mut Said) -> Result<(), SetupError> {
    // A mount that hangs would not answer the question what it is.
    if mountinfo::all().is_ok_and(|all| all.iter().any(|mount| mount.mountpoint == path)) {
        return Ok(());
    }
    make(path, "CVMFS_MOUNT_DIR", said).map(drop)
}

/// Makes the directory of caches, and gives one that nobody uses yet to the account.
pub(super) fn for_caches(
    path: &Path,
    owner: Option<Account>,
    said: &mut Said,
) -> Result<(), SetupError> {
    let directory = make(path, "CVMFS_CACHE_BASE", said)?;
    let Some(owner) = owner else { return Ok(()) };
    let unowned = |source| SetupError::Owner { path: path.into(), uid: owner.uid, source };
    if give(&directory, owner).map_err(unowned)? {
        said.done(&format!("gave {} to user {}", show(path), owner.uid))?;
    }
    Ok(())
}

/// Opens a directory, or makes it. Its mode does not depend on the umask of who calls: users are to get there.
fn make(path: &Path, parameter: &'static str, said: &mut Said) -> Result<OwnedFd, SetupError> {
    match safe_path::make_directories(path, PUBLIC, PUBLIC) {
        Ok((directory, is_new)) => {
            if is_new {
                said.done(&format!("made directory {}", show(path)))?;
            }
            Ok(directory)
        }
        // The latter is a link that leads nowhere.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::NotFound) =>
        {
            Err(SetupError::InTheWay { path: path.to_owned(), parameter })
        }
        Err(source) => Err(SetupError::Directory { path: path.into(), source }),
    }
}

/// Opens a directory of the system that only root can write to, or makes it: programs of root take commands
/// from what is in it.
pub(super) fn of_root(path: &Path) -> Result<OwnedFd, SetupError> {
    let failed = |source| SetupError::Directory { path: path.to_owned(), source };
    let (directory, _) = safe_path::make_directories(path, PUBLIC, PUBLIC).map_err(failed)?;
    let found = rustix::fs::fstat(&directory).map_err(|error| failed(error.into()))?;
    check(path, &found)?;
    Ok(directory)
}

/// Writes a file of the system, if there is none of that name; tells whether. One that is there must be root's.
pub(super) fn write_new(path: &Path, text: &str) -> Result<bool, SetupError> {
    let failed = |source| SetupError::Write { path: path.to_owned(), source };
    let (parent, name) = path.parent().zip(path.file_name().and_then(OsStr::to_str)).unzip();
    let (parent, name) = (parent.unwrap_or(Path::new("/")), name.unwrap_or_default());
    let directory = of_root(parent)?;
    if safe_path::write_new(directory.as_fd(), name, text).map_err(failed)? {
        return Ok(true);
    }
    let unfollowed = AtFlags::SYMLINK_NOFOLLOW;
    let found = rustix::fs::statat(&directory, name, unfollowed).map_err(|e| failed(e.into()))?;
    check(path, &found)?;
    Ok(false)
}

/// Refuses what somebody else than root may change.
pub(super) fn check(path: &Path, found: &Stat) -> Result<(), SetupError> {
    let is_ours = found.st_uid == 0 || found.st_uid == nix::unistd::geteuid().as_raw();
    // The members of root's group are root; the mode of a link means nothing.
    let others = if found.st_gid == 0 { 0o002 } else { 0o022 };
    let is_link = FileType::from_raw_mode(found.st_mode).is_symlink();
    if is_ours && (is_link || found.st_mode & others == 0) {
        return Ok(());
    }
    let (owner, group, mode) = (found.st_uid, found.st_gid, found.st_mode & 0o7777);
    Err(SetupError::Changeable { path: path.to_owned(), owner, group, mode })
}

/// Gives an empty directory away. One with something in it is somebody's already.
fn give(directory: &OwnedFd, owner: Account) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = File::from(rustix::fs::openat(directory, ".", flags, Mode::empty())?);
    let found = directory.metadata()?;
    if (found.uid(), found.gid()) == (owner.uid, owner.gid) || !safe_path::is_empty(&directory)? {
        return Ok(false);
    }
    std::os::unix::fs::fchown(&directory, Some(owner.uid), Some(owner.gid))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_empty_is_given_away() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let (path, owner) = (scratch.path().join("a/b"), Account { uid: 4711, gid: 4712 });
        let of = |path: &Path| {
            let found = path.metadata().unwrap();
            (found.uid(), found.gid(), found.mode() & 0o7777)
        };
        let mut said = Said::default();
        for_caches(&path, Some(owner), &mut said).unwrap();
        assert_eq!(of(&path), (4711, 4712, PUBLIC));
        assert_eq!(of(path.parent().unwrap()).0, 0);
        assert!(said.any);
        // Nothing is left to do, and what is in use stays whose it is.
        let mut said = Said::default();
        for_caches(&path, Some(owner), &mut said).unwrap();
        std::fs::write(path.join("file"), "").unwrap();
        for_caches(&path, Some(Account { uid: 1, gid: 1 }), &mut said).unwrap();
        assert_eq!(of(&path).0, 4711);
        assert!(!said.any);
        let error = for_caches(&path.join("file"), Some(owner), &mut said).unwrap_err();
        assert!(error.to_string().contains("CVMFS_CACHE_BASE"), "{error}");
        std::os::unix::fs::symlink("/nowhere", path.join("link")).unwrap();
        let error = for_mounts(&path.join("link"), &mut said).unwrap_err();
        assert!(error.to_string().contains("CVMFS_MOUNT_DIR"), "{error}");
    }
}
