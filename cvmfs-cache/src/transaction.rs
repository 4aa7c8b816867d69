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

use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use cvmfs_core::cache::CacheError;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::checksum;
use crate::layout::{Layout, TRANSACTIONS, failed};
use crate::seal::{seal, sealed};
use crate::sharing::{Sharing, UnfitDirectory, our_user, unfit};

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
pub(crate) struct TempFile {
    layout: Arc<Layout>,
    file: File,
    name: Option<String>,
    hasher: blake3::Hasher,
    len: u64,
}

impl TempFile {
    /// Creates an empty file.
    pub(crate) fn create(layout: &Arc<Layout>, naming: Naming) -> Result<Self, CacheError> {
        match Self::try_create(layout, naming) {
            Err(Errno::NOENT) => {
                layout.restore()?;
                Self::try_create(layout, naming)
            }
            other => other,
        }
        .map_err(failed("create a file in", &layout.path(TRANSACTIONS)))
    }

    fn try_create(layout: &Arc<Layout>, naming: Naming) -> Result<Self, Errno> {
        let mode = layout.sharing().control_mode();
        let (file, name) = match naming {
            Naming::Unnamed => {
                let flags = OFlags::RDWR | OFlags::TMPFILE;
                (File::from(layout.open(TRANSACTIONS, flags, mode)?), None)
            }
            Naming::Named => Self::create_named(layout, mode)?,
        };
        if name.is_some() {
            // The umask may have taken bits away. Without a name nobody else sees it before the end.
            rustix::fs::fchmod(&file, mode)?;
        }
        if let Sharing::Group(gid) = *layout.sharing()
            && rustix::fs::fstat(&file)?.st_gid != gid
        {
            // Where the directory does not hand its group down.
            rustix::fs::fchown(&file, None, Some(rustix::fs::Gid::from_raw(gid)))?;
        }
        let layout = Arc::clone(layout);
        Ok(Self { layout, file, name, hasher: blake3::Hasher::new(), len: 0 })
    }

    fn create_named(layout: &Layout, mode: Mode) -> Result<(File, Option<String>), Errno> {
        for _ in 0..CREATE_ATTEMPTS {
            let name = Layout::new_transaction();
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
            let file = match layout.open(&name, flags, mode) {
                Err(Errno::EXIST) => continue,
                other => File::from(other?),
            };
            match file.try_lock() {
                Ok(()) if rustix::fs::fstat(&file)?.st_nlink == 1 => return Ok((file, Some(name))),
                // A sweep was faster.
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                // No locks here; the sweep cannot lock it either, and leaves it alone.
                Err(TryLockError::Error(_)) => return Ok((file, Some(name))),
            }
        }
        Err(Errno::EXIST)
    }

    /// Appends bytes, all or none of them.
    pub(crate) fn write_all(&mut self, piece: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(piece) {
            // So that the next attempt, and whoever reads back, find what was counted.
            self.file.set_len(self.len)?;
            io::Seek::seek(&mut self.file, io::SeekFrom::Start(self.len))?;
            return Err(error);
        }
        self.hasher.update(piece);
        self.len += piece.len() as u64;
        Ok(())
    }

    /// Reads back what was written.
    pub(crate) fn read_back(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.len).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Ends writing: checksum, mode and seal, and a descriptor for reading, before anybody could
    /// remove it.
    pub(crate) fn finish(&mut self) -> io::Result<File> {
        checksum::write(&self.file, &self.hasher.finalize())?;
        rustix::fs::fchmod(&self.file, self.layout.sharing().object_mode())?;
        seal(&self.file, self.len)?;
        Ok(match &self.name {
            Some(name) => File::from(self.layout.open(name, OFlags::RDONLY, Mode::empty())?),
            None => File::open(self.proc_path())?,
        })
    }

    /// Gives the file a name in a directory; [`Errno::EXIST`] if that is taken.
    pub(crate) fn place(
        &mut self,
        directory: std::os::fd::BorrowedFd<'_>,
        target: &str,
    ) -> Result<(), Errno> {
        let Some(name) = &self.name else {
            // With AT_EMPTY_PATH instead of /proc this would take a capability.
            let follow = AtFlags::SYMLINK_FOLLOW;
            return rustix::fs::linkat(CWD, self.proc_path(), directory, target, follow);
        };
        // The look only saves a copy: if the name is taken just now, the rename puts the same
        // bytes in place of it. link(2) would not, but shows a second name until the first is
        // removed, and readers refuse files with two.
        match rustix::fs::statat(directory, target, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => return Err(Errno::EXIST),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        rustix::fs::renameat(self.layout.root().as_fd(), name, directory, target)?;
        self.name = None;
        Ok(())
    }

    fn proc_path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

impl std::fmt::Debug for TempFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TempFile({:?}, {} bytes)", self.name, self.len)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if let Some(name) = &self.name
            && let Err(error) = self.layout.unlink(name)
        {
            // The next start removes it.
            tracing::debug!(name, %error, "temporary file stays");
        }
    }
}

/// Finds out by a trial what this file system can do, and refuses one that cannot hold a cache.
pub(crate) fn probe(layout: &Arc<Layout>) -> Result<Naming, CacheError> {
    if try_out(layout, Naming::Unnamed).is_ok() {
        return Ok(Naming::Unnamed);
    }
    try_out(layout, Naming::Named)?;
    Ok(Naming::Named)
}

fn try_out(layout: &Arc<Layout>, naming: Naming) -> Result<(), CacheError> {
    const TEXT: &[u8] = b"any odd number of bytes";
    let directory = layout.path(TRANSACTIONS);
    let mut temp = TempFile::create(layout, naming)?;
    // A full disk may be emptied later; it does not make the directory unfit.
    let text = if temp.write_all(TEXT).is_ok() { TEXT } else { &[] };
    temp.finish().map_err(failed("complete a file in", &directory))?;
    let name = Layout::new_transaction();
    let root = layout.root();
    temp.place(root.as_fd(), &name).map_err(failed("name a file in", &directory))?;
    let found = layout.path(&name).symlink_metadata();
    // Another process that starts now may have swept it away.
    let _ = layout.unlink(&name);
    let Ok(found) = found else { return Ok(()) };
    let us = our_user();
    if found.uid() != us {
        let owner = found.uid();
        return Err(unfit(layout.directory(), UnfitDirectory::FilesChangeOwner { owner, us }));
    }
    if found.len() == text.len() as u64 && !sealed(&found) {
        return Err(unfit(layout.directory(), UnfitDirectory::TimesNotKept));
    }
    Ok(())
}

/// Removes files that a dead process was writing; returns how many. A failure leaves the rest.
pub(crate) fn sweep(layout: &Layout) -> Result<usize, CacheError> {
    let mut removed = 0;
    for name in layout.list(TRANSACTIONS)? {
        let name = format!("{TRANSACTIONS}/{name}");
        // For writing, because NFS turns flock into a lock that asks for it.
        let opened = [OFlags::RDWR, OFlags::RDONLY].map(|access| {
            layout.open(&name, access | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())
        });
        let abandoned = match opened {
            // Held until the name is gone, so that its writer, if it is only just beginning,
            // cannot take it for its own.
            [Ok(file), _] | [_, Ok(file)] => {
                let file = File::from(file);
                let dead = file.try_lock().is_ok();
                if dead && layout.remove_foreign(&name).is_ok() {
                    removed += 1;
                }
                continue;
            }
            // Complete, and not yet named by another user; or gone.
            [_, Err(Errno::ACCESS | Errno::NOENT)] => false,
            // A link, a socket: nothing of ours.
            _ => true,
        };
        if abandoned && layout.remove_foreign(&name).is_ok() {
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
        layout.list(TRANSACTIONS).unwrap().len()
    }

    #[test]
    fn the_probe_leaves_nothing_behind() {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Arc::new(Layout::create(scratch.path(), false).unwrap());
        probe(&layout).unwrap();
        try_out(&layout, Naming::Named).unwrap();
        assert_eq!(names(&layout), 0);
    }

    #[test]
    fn a_dropped_file_leaves_nothing_behind() {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Arc::new(Layout::create(scratch.path(), false).unwrap());
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
        let layout = Arc::new(Layout::create(scratch.path(), false).unwrap());
        for (naming, name) in [(probe(&layout).unwrap(), "a"), (Naming::Named, "b")] {
            let target = layout.path(name);
            let root = layout.root();
            let mut temp = TempFile::create(&layout, naming).unwrap();
            temp.write_all(b"12345").unwrap();
            let reader = temp.finish().unwrap();
            temp.place(root.as_fd(), name).unwrap();
            drop(temp);
            let found = target.metadata().unwrap();
            assert_eq!(found.permissions().mode() & 0o7777, 0o400);
            assert_eq!(found.nlink(), 1);
            assert_eq!(reader.metadata().unwrap().ino(), found.ino());
            assert!((&reader).write(b"x").is_err(), "the descriptor for readers can write");

            let mut second = TempFile::create(&layout, naming).unwrap();
            assert_eq!(second.place(root.as_fd(), name), Err(Errno::EXIST));
            drop(second);
            assert_eq!(std::fs::read(&target).unwrap(), b"12345");
            assert_eq!(names(&layout), 0);
        }
    }

    #[test]
    fn the_sweep_spares_what_is_locked() {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Arc::new(Layout::create(scratch.path(), false).unwrap());
        let held = TempFile::create(&layout, Naming::Named).unwrap();
        let stale = layout.path(Layout::new_transaction());
        std::fs::write(&stale, b"left by a dead process").unwrap();
        let outside = scratch.path().join("outside");
        std::fs::write(&outside, b"precious").unwrap();
        std::os::unix::fs::symlink(&outside, layout.path(Layout::new_transaction())).unwrap();

        assert_eq!(sweep(&layout).unwrap(), 2);
        assert!(layout.path(held.name.as_ref().unwrap()).exists());
        assert_eq!(std::fs::read(&outside).unwrap(), b"precious");
        drop(held);
        assert_eq!(names(&layout), 0);
    }

    #[test]
    fn a_wiped_cache_is_laid_out_again() {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Arc::new(Layout::create(scratch.path(), false).unwrap());
        for naming in [probe(&layout).unwrap(), Naming::Named] {
            std::fs::remove_dir_all(layout.path("")).unwrap();
            TempFile::create(&layout, naming).unwrap();
        }
    }
}
