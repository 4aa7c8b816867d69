//! May we mount there, and what is there already?

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use cvmfs_core::fqrn::Fqrn;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::abort;
use crate::cli::exit::{ExitStatus, Failure};
use crate::fuse::mountinfo::{self, MountEntry, is_dead, show};
use crate::fuse::premounted;

/// How long an existing mount may take to answer before it counts as hanging.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Dead mounts removed from one directory; more than a stack of crashed servers ever had.
const MAX_DEAD_MOUNTS: usize = 32;
/// Longest value of the attributes we ask for: a repository name or a number.
const MAX_ATTRIBUTE: usize = 256;

/// What a directory is good for.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// Mount here (resolved path).
    Free(PathBuf),
    /// The repository is mounted here and answers.
    Served,
}

/// What is to be mounted.
#[derive(Debug, Clone, Copy)]
pub enum Expected<'a> {
    /// A repository.
    Repository(&'a Fqrn),
    /// All of them.
    Automount,
}

impl Expected<'_> {
    /// Tells whether that is what is mounted already.
    fn is_at(self, mountpoint: &Path) -> bool {
        match self {
            Self::Repository(fqrn) => {
                attribute(mountpoint, "user.fqrn").as_deref() == Some(fqrn.as_str())
            }
            Self::Automount => attribute(mountpoint, "user.automount").is_some(),
        }
    }
}

/// Checks a mountpoint, and removes mounts of dead servers from it.
pub fn prepare(mountpoint: &Path, expected: Expected<'_>) -> Result<Place, Failure> {
    let name = show(mountpoint);
    if let Some(number) = premounted::number_of(mountpoint) {
        let refused = |error| {
            let what = format!("{name} is no connection to the kernel that somebody has mounted");
            Failure::caused(ExitStatus::Permission, &what, &error)
        };
        return premounted::connection(number)
            .map(|_| Place::Free(mountpoint.to_owned()))
            .map_err(refused);
    }
    let resolved = mountinfo::resolve(mountpoint).map_err(|error| refused(&name, &error))?;
    for _ in 0..MAX_DEAD_MOUNTS {
        let table_error = |error: io::Error| {
            Failure::caused(ExitStatus::Mount, "cannot read /proc/self/mountinfo", &error)
        };
        let Some(entry) = mountinfo::topmost_at(&resolved).map_err(table_error)? else {
            if is_automounted(&resolved, expected) {
                return Ok(Place::Served);
            }
            break;
        };
        if !entry.is_fuse() {
            break;
        }
        match answer(&resolved) {
            Answer::Alive => {
                return if expected.is_at(&resolved) {
                    Ok(Place::Served)
                } else {
                    Err(double_mount(&name, "something else is mounted there"))
                };
            }
            Answer::Dead if is_volume(&entry) => {
                let message = "mounting over the mount of a dead server, which is a volume";
                tracing::warn!(mountpoint = name, message);
                return Ok(Place::Free(resolved));
            }
            Answer::Dead => {
                tracing::warn!(mountpoint = name, "removing the mount of a dead server");
                // That one and no other, whatever is at the path meanwhile.
                abort::detach(&resolved, Some(entry.device)).map_err(|error| {
                    let what = format!("{name}: the server of the mount there is dead, but");
                    Failure::caused(ExitStatus::DoubleMount, &what, &error)
                })?;
            }
            Answer::Failed(error) => {
                let why = format!("something is mounted there that does not let us in: {error}");
                return Err(double_mount(&name, &why));
            }
            Answer::Hangs => {
                return Err(double_mount(&name, "the mount there does not answer"));
            }
        }
    }
    let metadata = std::fs::metadata(&resolved).map_err(|error| refused(&name, &error))?;
    if !metadata.is_dir() {
        return Err(Failure::new(ExitStatus::Permission, format!("{name} is not a directory")));
    }
    Ok(Place::Free(resolved))
}

/// Without the volume, what is mounted would be seen by nobody else. A table that cannot be read
/// has been complained about before.
fn is_volume(entry: &MountEntry) -> bool {
    mountinfo::all().is_ok_and(|mounts| mountinfo::is_shared_from_outside(&mounts, entry))
}

/// Tells whether an automount shows the repository here.
fn is_automounted(place: &Path, expected: Expected<'_>) -> bool {
    let (Expected::Repository(fqrn), Some(parent)) = (expected, place.parent()) else {
        return false;
    };
    let is_fuse = || {
        let top = mountinfo::topmost_at(parent);
        top.is_ok_and(|entry| entry.is_some_and(|entry| entry.is_fuse()))
    };
    place.file_name().is_some_and(|name| name == fqrn.as_str())
        && is_fuse()
        && Expected::Automount.is_at(parent)
        && expected.is_at(place)
}

fn refused(mountpoint: &str, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::NotFound {
        let message = format!("mountpoint {mountpoint} does not exist");
        return Failure::new(ExitStatus::Permission, message)
            .advise(&format!("create it with mkdir -p {mountpoint}"));
    }
    Failure::caused(ExitStatus::Permission, &format!("mountpoint {mountpoint}"), error)
}

fn double_mount(mountpoint: &str, why: &str) -> Failure {
    Failure::new(ExitStatus::DoubleMount, format!("cannot mount on {mountpoint}: {why}"))
        .advise(&format!("remove it with: cvmfs-fuse umount --lazy {mountpoint}"))
}

/// How a mount reacts when it is looked at.
#[derive(Debug)]
pub enum Answer {
    /// Its server answers.
    Alive,
    /// "Transport endpoint is not connected".
    Dead,
    /// Another error, e.g. it belongs to another user.
    Failed(io::Error),
    /// No answer in time.
    Hangs,
}

/// Looks at the root directory of a mount.
pub fn answer(mountpoint: &Path) -> Answer {
    let path = mountpoint.to_owned();
    // A plain stat may be answered from the kernel's memory long after the server died.
    let ask = move || {
        statx(CWD, &path, AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS)
            .map_err(io::Error::from)
    };
    match within(ANSWER_DEADLINE, ask) {
        Some(Ok(_)) => Answer::Alive,
        Some(Err(error)) if is_dead(&error) => Answer::Dead,
        Some(Err(error)) => Answer::Failed(error),
        None => Answer::Hangs,
    }
}

/// Asks a mount about itself; `None` if it does not know, or does not answer.
pub fn attribute(mountpoint: &Path, name: &'static str) -> Option<String> {
    let path = mountpoint.to_owned();
    let value = within(ANSWER_DEADLINE, move || {
        let mut value = vec![0; MAX_ATTRIBUTE];
        let length = rustix::fs::getxattr(&path, name, &mut value[..]).ok()?;
        value.truncate(length);
        String::from_utf8(value).ok()
    });
    value.flatten()
}

/// Does what may block for ever on a thread of its own, which is left behind if it does. The work
/// has no open descriptors: see [`drop_descriptors`].
fn within<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::Builder::new().name("mount-probe".to_owned()).spawn(move || {
        drop_descriptors();
        // The receiver may have given up.
        let _ = sender.send(work());
    });
    thread.ok()?;
    receiver.recv_timeout(deadline).ok()
}

/// Gives this thread a table of descriptors of its own and closes all in it but the standard ones.
///
/// A server that looks at its own mount waits for itself. If it is killed meanwhile, the kernel ends
/// the wait when the last descriptor of `/dev/fuse` is closed, and that would be when the last
/// thread with the shared table ends: this one, which waits. Not even SIGKILL would end it.
fn drop_descriptors() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: with UNSHARE only this thread's new table changes; whatever owns descriptors keeps
    // them in the table of all other threads, and the work done here owns none.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE)
    };
    if result != 0 {
        // Kernels before 5.9, or a filter: the look is taken all the same.
        tracing::debug!(error = %io::Error::last_os_error(), "close_range");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fqrn() -> Fqrn {
        "small.test.repo".parse().unwrap()
    }

    #[test]
    fn a_directory_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let resolved = dir.path().canonicalize().unwrap();
        assert_eq!(
            prepare(dir.path(), Expected::Repository(&fqrn())).unwrap(),
            Place::Free(resolved)
        );
    }

    #[test]
    fn what_is_no_mountpoint() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
        for (name, text) in [
            ("missing", "does not exist; create it with mkdir -p "),
            ("missing/deeper", "does not exist"),
            ("dangling", "does not exist"),
            ("file", "is not a directory"),
            ("file/x", "Not a directory"),
        ] {
            let failure = prepare(&dir.path().join(name), Expected::Automount).unwrap_err();
            assert_eq!(failure.status, ExitStatus::Permission);
            assert!(failure.message.contains(text), "{failure}");
        }
    }

    #[test]
    fn probes_do_not_wait_for_ever() {
        assert_eq!(within(Duration::from_secs(20), || 1), Some(1));
        let (sender, receiver) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(1), move || receiver.recv().is_ok()), None);
        drop(sender);
        assert!(matches!(answer(Path::new("/proc")), Answer::Alive));
        assert!(matches!(answer(Path::new("/nonexistent")), Answer::Failed(_)));
        assert_eq!(attribute(Path::new("/proc"), "user.fqrn"), None);
    }
}
