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

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cvmfs_cache::safe_path::{self, LogPlace, PRIVATE, Refused};
use parking_lot::Mutex;
use rustix::fs::Mode;

pub(crate) use record::printable;
pub(crate) use remembered::last;
pub(crate) use scribe::{direct, fail, settle, start};
use secrets::masked;

/// A log file of this size becomes `FILE.1`, in place of the one before: weeks of warnings, or an
/// hour of debugging.
const MAX_SIZE: u64 = 4 << 20;

/// Mode of the log of a background mount.
const MODE: u32 = 0o600;
/// Directory of logs, below that of the cache.
const LOGS: &str = "log";
/// Write permission for others.
const SHARED: u32 = 0o022;

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
        match place_in(directory, owner, fqrn).and_then(|place| place.open(MODE)) {
            Ok(file) => return Ok((directory.join(LOGS).join(file_name(fqrn)), file)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn file_name(fqrn: &str) -> String {
    format!("{fqrn}.log")
}

/// Finds the place of a log below a directory that only `owner` can write to; what is missing of it
/// is made for this user alone.
fn place_in(directory: &Path, owner: u32, fqrn: &str) -> io::Result<LogPlace> {
    let (opened, _) = safe_path::make_directories(directory, PRIVATE, PRIVATE)?;
    // Whoever can write to it can put another file in the place of the log.
    let found = rustix::fs::fstat(&opened)?;
    if found.st_uid != owner || found.st_mode & SHARED != 0 {
        return Err(Refused::ForeignDirectory { owner: found.st_uid }.into());
    }
    let (logs, _) = safe_path::make_directory_at(opened.as_fd(), LOGS, PRIVATE)?;
    let found = rustix::fs::fstat(&logs)?;
    if found.st_uid != owner {
        return Err(Refused::ForeignDirectory { owner: found.st_uid }.into());
    }
    if found.st_mode & SHARED != 0 {
        // Of an earlier version, which left it to the umask.
        rustix::fs::fchmod(&logs, Mode::from_bits_truncate(PRIVATE))?;
    }
    Ok(LogPlace::at(logs, OsStr::new(&file_name(fqrn)), None))
}

/// Returns the file that is stderr now; a device or a pipe is none.
pub fn path_of_stderr() -> Option<PathBuf> {
    let path = std::fs::read_link("/proc/self/fd/2").ok()?;
    // Under its own name only: what is put aside later must be ours.
    path.symlink_metadata().is_ok_and(|found| found.is_file()).then_some(path)
}

/// Says that stderr is this file, whose size is to be bounded from now on. It may belong to
/// `partner`, as whom a server of root works.
pub fn bound_stderr(path: &Path, partner: Option<u32>) {
    let stderr = io::stderr();
    match BoundedFile::of(path, stderr.as_fd(), partner) {
        // Only the first call counts: a process has one stderr.
        Ok(file) => drop(BACKGROUND_FILE.set(Mutex::new(file))),
        // Somebody else may exchange it: then it grows, and nothing there is renamed.
        Err(error) => tracing::debug!(?path, %error, "the size of the log is not bounded"),
    }
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
    place: LogPlace,
    size: u64,
}

impl BoundedFile {
    /// Finds the place of an open file, which must still have its name.
    fn of(path: &Path, file: BorrowedFd<'_>, partner: Option<u32>) -> io::Result<Self> {
        let place = LogPlace::find(path, partner)?;
        let file = File::from(file.try_clone_to_owned()?);
        let size = file.metadata()?.len();
        match place.is(&file) {
            true => Ok(Self { place, size }),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Counts bytes; returns the file to go on with when the current one is full.
    fn wrote(&mut self, bytes: usize) -> Option<File> {
        self.size = self.size.saturating_add(bytes as u64);
        if self.size < MAX_SIZE {
            return None;
        }
        self.size = 0;
        // Without room or permission the current file just goes on.
        self.place.put_aside().and_then(|()| self.place.open(MODE)).ok()
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
        let mut file = BoundedFile::of(&path, file.as_fd(), None).unwrap();
        file.size = MAX_SIZE - 10;
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

    /// As one with the name of root's directory in /tmp, which anybody can make.
    #[test]
    fn h3_a_link_of_others_leads_no_log_elsewhere() {
        if !nix::unistd::geteuid().is_root() {
            return; // Only root can make links of others.
        }
        let scratch = tempfile::tempdir().unwrap();
        let (link, outside) = (scratch.path().join("link"), scratch.path().join("outside"));
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(4711), None).unwrap();
        assert!(open_background(&[link], 0, "a.b.c").is_err());
        assert_eq!(std::fs::read_dir(outside).unwrap().count(), 0);
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
