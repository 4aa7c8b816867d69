//! From a temporary file to the final name, in one step.
//!
//! Nothing is ever written under a final name. A file is filled where no reader looks, sealed
//! ([`crate::seal`]), and then gets its name by one system call that fails or happens as a whole.
//!
//! | [`Naming`] | while it is written | gets its name by | after `kill -9` |
//! |---|---|---|---|
//! | `Unnamed` | `O_TMPFILE`, no name | `linkat` | the kernel frees it |
//! | `Named` | `txn/fetch-RANDOM`, locked by `flock` | `rename` | [`sweep`] at the next start |
//!
//! Two processes may commit the same object at once. Both have the same checked bytes, so the
//! name of the first stays and the second takes that file for its own.
//!
//! Liveness is told by the lock alone. Process ids mean nothing in another container and are used
//! again, and a slow download can be older than any age limit. The lock is taken after the
//! file is created; a [`sweep`] may come in between and remove it, which the creator notices
//! by the link count, and begins again.
//!
//! There is no fsync: see [`crate::seal`] for what that costs after a power cut.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use cvmfs_core::cache::CacheError;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;

use crate::layout::{FILE_MODE, Layout, UnfitDirectory, failed, our_user, set_file_mode, unfit};
use crate::seal::{seal, sealed};

/// Tries to make a temporary file whose name nobody else has and no sweep removes.
const CREATE_ATTEMPTS: usize = 8;

/// How files that are being written are kept apart from objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// They have no name. Needs `O_TMPFILE` in the file system and `/proc`.
    Unnamed,
    /// They have a name in a directory of their own. Works everywhere.
    Named,
}

/// A file that is being written; dropping it leaves no trace.
#[derive(Debug)]
pub(crate) struct TempFile {
    file: File,
    name: Option<PathBuf>,
}

impl TempFile {
    /// Creates an empty file.
    pub(crate) fn create(layout: &Layout, naming: Naming) -> Result<Self, CacheError> {
        match Self::try_create(layout, naming) {
            Err(CacheError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                layout.restore()?;
                Self::try_create(layout, naming)
            }
            other => other,
        }
    }

    fn try_create(layout: &Layout, naming: Naming) -> Result<Self, CacheError> {
        let directory = layout.transactions();
        let created = match naming {
            Naming::Unnamed => Self::create_unnamed(&directory),
            Naming::Named => Self::create_named(layout),
        };
        let temp = created.map_err(failed("create a file in", &directory))?;
        set_file_mode(&temp.file).map_err(failed("set the mode of a file in", &directory))?;
        Ok(temp)
    }

    fn create_unnamed(directory: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .mode(FILE_MODE)
            .custom_flags(libc::O_TMPFILE | libc::O_CLOEXEC)
            .open(directory)?;
        Ok(Self { file, name: None })
    }

    fn create_named(layout: &Layout) -> io::Result<Self> {
        for _ in 0..CREATE_ATTEMPTS {
            let name = layout.new_transaction();
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(FILE_MODE)
                .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
                .open(&name);
            let file = match file {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other?,
            };
            let temp = Self { file, name: Some(name) };
            match temp.file.try_lock() {
                Ok(()) if temp.file.metadata()?.nlink() == 1 => return Ok(temp),
                // A sweep was faster.
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                // No locks here; the sweep cannot lock it either, and leaves it alone.
                Err(TryLockError::Error(_)) => return Ok(temp),
            }
        }
        Err(io::Error::from(io::ErrorKind::AlreadyExists))
    }

    /// Appends bytes.
    pub(crate) fn write_all(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_all(piece)
    }

    /// Ends writing: seals the file and opens it for reading, before anybody could remove it.
    pub(crate) fn finish(&mut self, size: u64) -> io::Result<File> {
        seal(&self.file, size)?;
        match &self.name {
            Some(name) => OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(name),
            None => File::open(self.proc_path()),
        }
    }

    /// Gives the file its final name; [`io::ErrorKind::AlreadyExists`] if that is taken.
    pub(crate) fn place(&mut self, target: &Path) -> io::Result<()> {
        let Some(name) = &self.name else {
            // With AT_EMPTY_PATH instead of /proc this would take a capability.
            let (proc, follow) = (self.proc_path(), AtFlags::AT_SYMLINK_FOLLOW);
            nix::unistd::linkat(AT_FDCWD, proc.as_path(), AT_FDCWD, target, follow)?;
            return Ok(());
        };
        // The look only saves a copy: if the name is taken just now, the rename puts the same
        // bytes in place of it. link(2) would not, but shows a second name until the first is
        // removed, and readers refuse files with two.
        match target.symlink_metadata() {
            Ok(_) => return Err(io::Error::from(io::ErrorKind::AlreadyExists)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        std::fs::rename(name, target)?;
        self.name = None;
        Ok(())
    }

    fn proc_path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if let Some(name) = &self.name
            && let Err(error) = std::fs::remove_file(name)
        {
            // The next start removes it.
            tracing::debug!(path = %name.display(), %error, "temporary file stays");
        }
    }
}

/// Finds out by a trial what this file system can do, and refuses one that cannot hold a cache.
pub(crate) fn probe(layout: &Layout) -> Result<Naming, CacheError> {
    if try_out(layout, Naming::Unnamed).is_ok() {
        return Ok(Naming::Unnamed);
    }
    try_out(layout, Naming::Named)?;
    Ok(Naming::Named)
}

fn try_out(layout: &Layout, naming: Naming) -> Result<(), CacheError> {
    const TEXT: &[u8] = b"any odd number of bytes";
    let directory = layout.transactions();
    let mut temp = TempFile::create(layout, naming)?;
    temp.write_all(TEXT).map_err(failed("write to a file in", &directory))?;
    temp.finish(TEXT.len() as u64).map_err(failed("complete a file in", &directory))?;
    let name = layout.new_transaction();
    temp.place(&name).map_err(failed("name a file in", &directory))?;
    let found = name.symlink_metadata();
    // Another process that starts now may have swept it away.
    let _ = std::fs::remove_file(&name);
    let Ok(found) = found else { return Ok(()) };
    let us = our_user();
    if found.uid() != us {
        let owner = found.uid();
        return Err(unfit(layout.directory(), UnfitDirectory::FilesChangeOwner { owner, us }));
    }
    if !sealed(&found) {
        return Err(unfit(layout.directory(), UnfitDirectory::TimesNotKept));
    }
    Ok(())
}

/// Removes files that a dead process was writing; returns how many. A failure leaves the rest.
pub(crate) fn sweep(layout: &Layout) -> Result<usize, CacheError> {
    let directory = layout.transactions();
    let list = failed("list", &directory);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) => return Err(list(error)),
    };
    let mut removed = 0;
    for entry in entries {
        let path = entry.map_err(failed("list", &directory))?.path();
        // For writing, because NFS turns flock into a lock that asks for it.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(&path);
        let abandoned = match &file {
            // Held until the name is gone, so that its writer, if it is only just beginning,
            // cannot take it for its own.
            Ok(file) => file.try_lock().is_ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            // A link, a socket: nothing of ours.
            Err(_) => true,
        };
        if abandoned && layout.remove_foreign(&path).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn names(layout: &Layout) -> usize {
        std::fs::read_dir(layout.transactions()).unwrap().count()
    }

    #[test]
    fn the_probe_leaves_nothing_behind() {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(scratch.path()).unwrap();
        probe(&layout).unwrap();
        try_out(&layout, Naming::Named).unwrap();
        assert_eq!(names(&layout), 0);
    }

    #[test]
    fn a_dropped_file_leaves_nothing_behind() {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(scratch.path()).unwrap();
        for naming in [probe(&layout).unwrap(), Naming::Named] {
            let mut temp = TempFile::create(&layout, naming).unwrap();
            temp.write_all(b"half an obj").unwrap();
            assert_eq!(names(&layout), usize::from(naming == Naming::Named));
            drop(temp);
            assert_eq!(names(&layout), 0);
        }
    }

    #[test]
    fn placed_files_are_private_and_have_one_name() {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(scratch.path()).unwrap();
        for (naming, name) in [(probe(&layout).unwrap(), "a"), (Naming::Named, "b")] {
            let target = scratch.path().join(name);
            let mut temp = TempFile::create(&layout, naming).unwrap();
            temp.write_all(b"12345").unwrap();
            let reader = temp.finish(5).unwrap();
            temp.place(&target).unwrap();
            drop(temp);
            let found = target.metadata().unwrap();
            assert_eq!(found.permissions().mode() & 0o7777, 0o600);
            assert_eq!(found.nlink(), 1);
            assert_eq!(reader.metadata().unwrap().ino(), found.ino());
            assert!((&reader).write(b"x").is_err(), "the descriptor for readers can write");

            let mut second = TempFile::create(&layout, naming).unwrap();
            let taken = second.place(&target).unwrap_err();
            assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
            drop(second);
            assert_eq!(std::fs::read(&target).unwrap(), b"12345");
            assert_eq!(names(&layout), 0);
        }
    }

    #[test]
    fn the_sweep_spares_what_is_locked() {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(scratch.path()).unwrap();
        let held = TempFile::create(&layout, Naming::Named).unwrap();
        let stale = layout.new_transaction();
        std::fs::write(&stale, b"left by a dead process").unwrap();
        let outside = scratch.path().join("outside");
        std::fs::write(&outside, b"precious").unwrap();
        std::os::unix::fs::symlink(&outside, layout.new_transaction()).unwrap();

        assert_eq!(sweep(&layout).unwrap(), 2);
        assert!(held.name.as_ref().unwrap().exists());
        assert_eq!(std::fs::read(&outside).unwrap(), b"precious");
        drop(held);
        assert_eq!(names(&layout), 0);
    }

    #[test]
    fn a_wiped_cache_is_laid_out_again() {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(scratch.path()).unwrap();
        for naming in [probe(&layout).unwrap(), Naming::Named] {
            std::fs::remove_dir_all(scratch.path().join("v1")).unwrap();
            TempFile::create(&layout, naming).unwrap();
        }
    }
}
