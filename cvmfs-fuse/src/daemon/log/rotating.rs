//! A log file that several processes append to, and that one of them puts aside when it is full.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

/// A file that becomes `FILE.1`, in place of the one before, when it has reached a size.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    limit: u64,
    current: ArcSwap<File>,
}

impl RotatingFile {
    /// Opens it for appending, or makes it.
    pub(super) fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let current = ArcSwap::from_pointee(open(path)?);
        Ok(Self { path: path.to_owned(), limit, current })
    }

    /// Writes a line, which is not mixed with those of others.
    pub(super) fn write(&self, line: &str) -> io::Result<()> {
        let mut current = self.current.load_full();
        let own = current.metadata()?;
        let is_there = std::fs::metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (own.dev(), own.ino()));
        if (!is_there || own.len() >= self.limit)
            && let Some(next) = self.next(&current, is_there)?
        {
            current = Arc::new(next);
            self.current.store(Arc::clone(&current));
        }
        (&*current).write_all(line.as_bytes())
    }

    /// Returns the file to go on with, if not the same one: the directory may be root's, and this
    /// server another user's since it was opened (`CVMFS_USER`). Then the old lines go, not the new ones.
    fn next(&self, current: &File, is_there: bool) -> io::Result<Option<File>> {
        if is_there {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            match std::fs::rename(&self.path, old) {
                Ok(()) => {}
                // Another process has just put it aside.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => {
                    current.set_len(0)?;
                    return Ok(None);
                }
            }
        }
        Ok(open(&self.path).ok())
    }
}

fn open(path: &Path) -> io::Result<File> {
    // A pipe without reader must not hold us up, and a link is somebody else's file.
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    OpenOptions::new().create(true).append(true).mode(0o640).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processes_share_a_file_and_put_it_aside_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (one, two) =
            (RotatingFile::open(&path, 10).unwrap(), RotatingFile::open(&path, 10).unwrap());
        one.write("first\n").unwrap();
        two.write("second\n").unwrap();
        one.write("third\n").unwrap();
        two.write("fourth\n").unwrap();
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(&dir.path().join("log.1")), "first\nsecond\n");
        assert_eq!(read(&path), "third\nfourth\n");
        one.write("fifth\n").unwrap();
        assert_eq!(read(&dir.path().join("log.1")), "third\nfourth\n");
        assert_eq!(read(&path), "fifth\n");
        // Taken away by somebody else, as logrotate does.
        std::fs::remove_file(&path).unwrap();
        one.write("sixth\n").unwrap();
        assert_eq!(read(&path), "sixth\n");
    }

    #[test]
    fn what_another_process_put_aside_is_not_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let (path, aside) = (dir.path().join("log"), dir.path().join("log.1"));
        let log = RotatingFile::open(&path, 10).unwrap();
        log.write("first line\n").unwrap();
        let current = log.current.load_full();
        // Between our look and our attempt.
        std::fs::rename(&path, &aside).unwrap();
        assert!(log.next(&current, true).unwrap().is_some());
        assert_eq!(std::fs::read_to_string(aside).unwrap(), "first line\n");
    }

    #[test]
    fn in_a_directory_of_somebody_else_new_lines_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = RotatingFile::open(&path, 10).unwrap();
        log.write("first line\n").unwrap();
        // Nothing can be put there.
        std::fs::create_dir(dir.path().join("log.1")).unwrap();
        std::fs::write(dir.path().join("log.1/x"), "").unwrap();
        log.write("second\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second\n");
    }
}
