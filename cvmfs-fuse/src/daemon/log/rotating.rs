//! A log file that several processes append to, and that one of them puts aside when it is full.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use cvmfs_cache::safe_path::LogPlace;

/// Mode of these files: syslog's readers are a group of the system.
const MODE: u32 = 0o640;

/// A file that becomes `FILE.1`, in place of the one before, when it has reached a size.
#[derive(Debug)]
pub(super) struct RotatingFile {
    place: LogPlace,
    limit: u64,
    current: ArcSwap<File>,
}

impl RotatingFile {
    /// Opens it for appending, or makes it. It may belong to `partner`, as whom a server of root works.
    pub(super) fn open(path: &Path, limit: u64, partner: Option<u32>) -> io::Result<Self> {
        let place = LogPlace::find(path, partner)?;
        let current = ArcSwap::from_pointee(place.open(MODE)?);
        Ok(Self { place, limit, current })
    }

    /// Writes a line, which is not mixed with those of others.
    pub(super) fn write(&self, line: &str) -> io::Result<()> {
        let mut current = self.current.load_full();
        let is_there = self.place.is(&current);
        if (!is_there || current.metadata()?.len() >= self.limit)
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
            match self.place.put_aside() {
                Ok(()) => {}
                // Another process has just put it aside.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => {
                    current.set_len(0)?;
                    return Ok(None);
                }
            }
        }
        Ok(self.place.open(MODE).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processes_share_a_file_and_put_it_aside_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (one, two) = (
            RotatingFile::open(&path, 10, None).unwrap(),
            RotatingFile::open(&path, 10, None).unwrap(),
        );
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
        let log = RotatingFile::open(&path, 10, None).unwrap();
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
        let log = RotatingFile::open(&path, 10, None).unwrap();
        log.write("first line\n").unwrap();
        // Nothing can be put there.
        std::fs::create_dir(dir.path().join("log.1")).unwrap();
        std::fs::write(dir.path().join("log.1/x"), "").unwrap();
        log.write("second\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second\n");
    }
}
