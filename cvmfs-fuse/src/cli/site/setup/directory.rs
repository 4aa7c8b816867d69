//! Directories, and whose they are.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::Said;
use super::account::Account;
use super::error::SetupError;
use crate::fuse::mountinfo::{self, show};

/// All may look; what is in a cache has narrower modes of its own.
const MODE: u32 = 0o755;

/// Makes the directory that repositories are mounted below.
pub(super) fn for_mounts(path: &Path, said: &mut Said) -> Result<(), SetupError> {
    // A mount that hangs would not answer the question what it is.
    if mountinfo::all().is_ok_and(|all| all.iter().any(|mount| mount.mountpoint == path)) {
        return Ok(());
    }
    make(path, "CVMFS_MOUNT_DIR", said)
}

/// Makes the directory of caches, and gives one that nobody uses yet to the account.
pub(super) fn for_caches(
    path: &Path,
    owner: Option<Account>,
    said: &mut Said,
) -> Result<(), SetupError> {
    make(path, "CVMFS_CACHE_BASE", said)?;
    let Some(owner) = owner else { return Ok(()) };
    let unowned = |source| SetupError::Owner { path: path.into(), uid: owner.uid, source };
    if give(path, owner).map_err(unowned)? {
        said.done(&format!("gave {} to user {}", show(path), owner.uid))?;
    }
    Ok(())
}

fn make(path: &Path, parameter: &'static str, said: &mut Said) -> Result<(), SetupError> {
    let in_the_way = || SetupError::InTheWay { path: path.to_owned(), parameter };
    match path.metadata() {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(in_the_way()),
        // A link that leads nowhere.
        Err(_) if path.symlink_metadata().is_ok() => Err(in_the_way()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(path).map_err(|source| SetupError::Directory { path: path.into(), source })?;
            said.done(&format!("made directory {}", show(path)))
        }
        Err(source) => Err(SetupError::Read { path: path.into(), source }),
    }
}

/// The mode does not depend on the umask of who calls: users are to get there.
fn create(path: &Path) -> io::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|path| !path.exists()).collect();
    for path in missing.into_iter().rev() {
        std::fs::create_dir(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    }
    Ok(())
}

/// Gives an empty directory away. One with something in it is somebody's already.
fn give(path: &Path, owner: Account) -> io::Result<bool> {
    // The one that is looked into is the one that is given, whatever happens to its name.
    let directory = File::open(path)?;
    let found = directory.metadata()?;
    if (found.uid(), found.gid()) == (owner.uid, owner.gid) {
        return Ok(false);
    }
    for entry in rustix::fs::Dir::read_from(&directory)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
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
        assert_eq!(of(&path), (4711, 4712, MODE));
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
