//! Small records beside the objects: replaced atomically, one process at a time.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cvmfs_core::cache::CacheError;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;

use crate::layout::{FILE_MODE, failed};

/// Longest record that is read.
const MAX_RECORD_LEN: u64 = 4 << 20;
/// How long a sibling may keep the lock; it holds it for one small write.
const LOCK_LIMIT: Duration = Duration::from_secs(2);
/// Pause between two looks at the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Reads a record; `None` if it was never written.
pub(crate) fn load(directory: &Path, name: &str) -> Result<Option<Vec<u8>>, CacheError> {
    let path = directory.join(name);
    let opened =
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", &path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_RECORD_LEN).read_to_end(&mut bytes).map_err(failed("read", &path))?;
    Ok(Some(bytes))
}

/// Replaces a record by what `change` makes of it. A crash leaves the old one or the new one.
pub(crate) fn update(
    directory: &Path,
    name: &str,
    change: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Vec<u8>>,
) -> Result<(), CacheError> {
    let path = directory.join(name);
    let _lock = lock(&directory.join(format!("{name}.lock")))?;
    let Some(new) = change(load(directory, name)?) else { return Ok(()) };
    // Under the lock, so one name is enough; what a crash left there is overwritten.
    let temporary = directory.join(format!("{name}.new"));
    let written = open_private(&temporary, true).and_then(|mut file| {
        file.write_all(&new)?;
        file.sync_all()
    });
    written.map_err(failed("write", &temporary))?;
    std::fs::rename(&temporary, &path).map_err(failed("name", &path))
}

fn open_private(path: &PathBuf, truncate: bool) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(truncate)
        .mode(FILE_MODE)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

fn lock(path: &PathBuf) -> Result<Flock<File>, CacheError> {
    let mut file = open_private(path, false).map_err(failed("open", path))?;
    let start = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, error)) if start.elapsed() > LOCK_LIMIT => {
                return Err(failed("lock", path)(error.into()));
            }
            Err((same, _)) => file = same,
        }
        #[expect(clippy::disallowed_methods, reason = "flock has no time limit of its own")]
        std::thread::sleep(LOCK_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_replaced_whole_and_by_one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        assert_eq!(load(at, "a.b").unwrap(), None);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        update(at, "a.b", &mut |old| {
                            let mut new = old.unwrap_or_default();
                            new.push(b'x');
                            Some(new)
                        })
                        .unwrap();
                    }
                });
            }
        });
        assert_eq!(load(at, "a.b").unwrap().unwrap().len(), 80);
        update(at, "a.b", &mut |_| None).unwrap();
        assert_eq!(load(at, "a.b").unwrap().unwrap().len(), 80);
        std::os::unix::fs::symlink("/etc/passwd", at.join("c.d")).unwrap();
        assert!(load(at, "c.d").is_err());
    }
}
