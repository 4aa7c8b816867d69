//! Where messages go. Here: the log file of a background mount, which is its stderr, and is kept small.
//!
//! | module | what it holds |
//! |---|---|
//! | `record` | one message as data, text and JSON |
//! | `secrets` | what is not written |
//! | `flood` | equal messages become one, with their number |
//! | `scribe` | from the events of the program to stderr, syslog and debug log |
//! | `remembered` | the last messages |
//! | `rotating` | files that several processes write to |
//! | `wire` | what journald and syslog understand |
//!
//! Everything written to stderr ends in the log file, panics included; only what goes through
//! [`stderr`] is counted.

mod flood;
mod record;
mod remembered;
mod rotating;
mod scribe;
mod secrets;
mod wire;

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use parking_lot::Mutex;

pub(crate) use record::printable;
pub(crate) use remembered::last;
pub(crate) use scribe::{direct, fail, settle, start};
use secrets::masked;

/// A log file of this size becomes `FILE.1`, in place of the one before: weeks of warnings, or an
/// hour of debugging.
const MAX_SIZE: u64 = 4 << 20;

static BACKGROUND_FILE: OnceLock<Mutex<BoundedFile>> = OnceLock::new();

/// Opens the log of a background mount: `log/FQRN.log` in the first of these directories that only
/// this owner can write to. A cache may be shared, read-only, or full.
pub fn open_background(
    directories: &[PathBuf],
    owner: u32,
    fqrn: &str,
) -> io::Result<(PathBuf, File)> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for directory in directories {
        if std::fs::metadata(directory).is_ok_and(|found| !is_private(&found, owner)) {
            continue;
        }
        let path = directory.join("log").join(format!("{fqrn}.log"));
        match open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Whoever can write to a directory can put a link in the place of the log.
fn is_private(directory: &std::fs::Metadata, owner: u32) -> bool {
    directory.is_dir() && directory.uid() == owner && directory.mode() & 0o022 == 0
}

/// Opens a log file for appending, with the directories above it.
fn open(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let follow = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(follow).open(path)
}

/// Returns the file that is stderr now; a device or a pipe is none.
pub fn path_of_stderr() -> Option<PathBuf> {
    let path = std::fs::read_link("/proc/self/fd/2").ok()?;
    // Under its own name only: what is put aside later must be ours.
    path.symlink_metadata().is_ok_and(|found| found.is_file()).then_some(path)
}

/// Says that stderr is this file, whose size is to be bounded from now on.
pub fn bound_stderr(path: PathBuf) {
    let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    // Only the first call counts: a process has one stderr.
    let _ = BACKGROUND_FILE.set(Mutex::new(BoundedFile { path, size }));
}

/// Returns the writer for messages.
pub fn stderr() -> impl io::Write {
    CountedStderr
}

struct CountedStderr;

impl io::Write for CountedStderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = io::stderr().write(bytes)?;
        if let Some(file) = BACKGROUND_FILE.get()
            && let Some(fresh) = file.lock().wrote(written)
        {
            nix::unistd::dup2_stderr(fresh)?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

struct BoundedFile {
    path: PathBuf,
    size: u64,
}

impl BoundedFile {
    /// Counts bytes; returns the file to go on with when the current one is full.
    fn wrote(&mut self, bytes: usize) -> Option<File> {
        self.size = self.size.saturating_add(bytes as u64);
        if self.size < MAX_SIZE {
            return None;
        }
        self.size = 0;
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        // Without room or permission the current file just goes on.
        std::fs::rename(&self.path, old).and_then(|()| open(&self.path)).ok()
    }
}

/// Reads the end of a file, from an offset on, and tells whether that left something out. The directory may be another
/// user's: no link is followed, and nothing but a file is read.
fn end_of(path: &Path, offset: u64, limit: u64) -> io::Result<(Vec<u8>, bool)> {
    let follow = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let mut file = OpenOptions::new().read(true).custom_flags(follow).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let from = found.len().saturating_sub(limit);
    let is_cut = from > offset;
    file.seek(io::SeekFrom::Start(from.max(offset)))?;
    let mut end = Vec::new();
    file.take(limit).read_to_end(&mut end)?;
    Ok((end, is_cut))
}

/// Returns the end of a log file from `offset` on, for messages: at most `limit` bytes, whole
/// lines joined by " | ".
pub fn tail(path: &Path, offset: u64, limit: usize) -> String {
    let Ok((new, is_cut)) = end_of(path, offset, limit as u64) else { return String::new() };
    let text = String::from_utf8_lossy(&new).into_owned();
    let lines: Vec<&str> = text.lines().skip(usize::from(is_cut)).map(str::trim).collect();
    // Who writes the log may be another user.
    printable(&lines.join(" | "), limit.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn full_files_are_put_aside_once() {
        let dir = tempfile::tempdir().unwrap();
        let us = nix::unistd::geteuid().as_raw();
        let (path, mut file) = open_background(&[dir.path().to_owned()], us, "a.b.c").unwrap();
        assert_eq!(path, dir.path().join("log/a.b.c.log"));
        file.write_all(b"first").unwrap();
        let mut file = BoundedFile { path: path.clone(), size: MAX_SIZE - 10 };
        assert!(file.wrote(9).is_none());
        let mut fresh = file.wrote(1).unwrap();
        fresh.write_all(b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read(dir.path().join("log/a.b.c.log.1")).unwrap(), b"first");
        assert!(file.wrote(1).is_none());
    }

    #[test]
    fn directories_of_others_hold_no_log() {
        use std::os::unix::fs::PermissionsExt as _;
        let (shared, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mode = std::fs::Permissions::from_mode(0o2770);
        std::fs::set_permissions(shared.path(), mode).unwrap();
        let places = [shared.path().to_owned(), own.path().to_owned()];
        let us = nix::unistd::geteuid().as_raw();
        let (path, _) = open_background(&places, us, "a.b.c").unwrap();
        assert!(open_background(&places, us + 1, "a.b.c").is_err());
        assert_eq!(path, own.path().join("log/a.b.c.log"));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(own.path().join("elsewhere"), &path).unwrap();
        assert!(open_background(&places, us, "a.b.c").is_err());
    }

    #[test]
    fn tails_are_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "old line\nfirst\nsecond\n").unwrap();
        assert_eq!(tail(&path, 9, 100), "first | second");
        assert_eq!(tail(&path, 0, 10), "second");
        assert_eq!(tail(&path, 99, 10), "");
        assert_eq!(tail(&dir.path().join("missing"), 0, 10), "");
    }
}
