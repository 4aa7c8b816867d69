//! Small records beside the objects: replaced atomically, one process at a time.
//!
//! In a shared cache each user has records of its own, and believes no file of another owner:
//! a forged record could not make anybody accept what is not signed, but could keep a mount from
//! accepting what is.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use cvmfs_core::cache::CacheError;
use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::layout::{Layout, RECORDS, failed};
use crate::sharing::our_user;

/// Longest record that is read.
const MAX_RECORD_LEN: u64 = 4 << 20;
/// How long a sibling may keep the lock; it holds it for one small write.
const LOCK_LIMIT: Duration = Duration::from_secs(2);
/// Pause between two looks at the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// Tries to have the file of a lock for this user alone while somebody else makes it again.
const LOCK_ATTEMPTS: usize = 4;
/// Nobody but the owner has a use for it.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Reads a record; `None` if it was never written, or by somebody else.
pub(crate) fn load(layout: &Layout, name: &str) -> Result<Option<Vec<u8>>, CacheError> {
    let name = place(layout, name);
    let path = layout.path(&name);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match layout.open(&name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(failed("open", &path)(error)),
    };
    let found = file.metadata().map_err(failed("look at", &path))?;
    let ours = found.uid() == our_user() || (found.uid() == 0 && !layout.sharing().is_shared());
    if !found.is_file() || !ours || found.nlink() != 1 {
        return Err(failed("use", &path)(io::Error::other("it is not a file of this user")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_RECORD_LEN).read_to_end(&mut bytes).map_err(failed("read", &path))?;
    Ok(Some(bytes))
}

/// Replaces a record by what `change` makes of it. A crash leaves the old one or the new one.
pub(crate) fn update(
    layout: &Layout,
    name: &str,
    change: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Vec<u8>>,
) -> Result<(), CacheError> {
    let place = place(layout, name);
    let _lock = lock(layout, &format!("{place}.lock"))?;
    // One that cannot be read is as good as none: it is replaced.
    let Some(new) = change(load(layout, name).unwrap_or(None)) else { return Ok(()) };
    // Under the lock, so one name is enough; what a crash left there is taken away.
    let temporary = format!("{place}.new");
    let path = layout.path(&temporary);
    layout.remove_foreign(&temporary)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let mut file =
        File::from(layout.open(&temporary, flags, MODE).map_err(failed("create", &path))?);
    rustix::fs::fchmod(&file, MODE).map_err(failed("set the mode of", &path))?;
    file.write_all(&new).and_then(|()| file.sync_all()).map_err(failed("write", &path))?;
    let root = layout.root();
    rustix::fs::renameat(&root, &temporary, &root, &place).map_err(failed("name", &path))
}

fn place(layout: &Layout, name: &str) -> String {
    match layout.sharing().is_shared() {
        true => format!("{RECORDS}/{}:{name}", our_user()),
        false => format!("{RECORDS}/{name}"),
    }
}

fn lock(layout: &Layout, name: &str) -> Result<Flock<File>, CacheError> {
    let path = layout.path(name);
    let mut file = open_lock(layout, name)?;
    let start = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, error)) if start.elapsed() > LOCK_LIMIT => {
                return Err(failed("lock", &path)(io::Error::from(error)));
            }
            Err((same, _)) => file = same,
        }
        #[expect(clippy::disallowed_methods, reason = "flock has no time limit of its own")]
        std::thread::sleep(LOCK_PAUSE);
    }
}

/// Opens the file of a lock: one that another user made, and could hold for ever, is taken away.
fn open_lock(layout: &Layout, name: &str) -> Result<File, CacheError> {
    let path = layout.path(name);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut last = Errno::EXIST;
    for _ in 0..LOCK_ATTEMPTS {
        match layout.open(name, flags, MODE) {
            Ok(file) => {
                let file = File::from(file);
                let found = file.metadata().map_err(failed("look at", &path))?;
                if found.is_file() && found.nlink() == 1 && found.uid() == our_user() {
                    if found.mode() & 0o7777 != MODE.bits() {
                        rustix::fs::fchmod(&file, MODE)
                            .map_err(failed("set the mode of", &path))?;
                    }
                    return Ok(file);
                }
            }
            Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR | Errno::ACCESS) => last = Errno::ACCESS,
            Err(error) => return Err(failed("open", &path)(error)),
        }
        layout.remove_foreign(name)?;
    }
    Err(failed("open", &path)(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_replaced_whole_and_by_one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let layout = &Layout::create(directory.path(), false).unwrap();
        assert_eq!(load(layout, "a.b").unwrap(), None);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        update(layout, "a.b", &mut |old| {
                            let mut new = old.unwrap_or_default();
                            new.push(b'x');
                            Some(new)
                        })
                        .unwrap();
                    }
                });
            }
        });
        assert_eq!(load(layout, "a.b").unwrap().unwrap().len(), 80);
        update(layout, "a.b", &mut |_| None).unwrap();
        assert_eq!(load(layout, "a.b").unwrap().unwrap().len(), 80);
        std::os::unix::fs::symlink("/etc/passwd", layout.path("records/c.d")).unwrap();
        assert!(load(layout, "c.d").is_err());
        update(layout, "c.d", &mut |old| {
            assert_eq!(old, None);
            Some(vec![1])
        })
        .unwrap();
        assert_eq!(load(layout, "c.d").unwrap().unwrap(), [1]);
    }

    #[test]
    fn a_record_of_another_user_is_not_believed() {
        if our_user() != 0 {
            return; // Only root can give a file away.
        }
        let directory = tempfile::tempdir().unwrap();
        let layout = &Layout::create(directory.path(), false).unwrap();
        update(layout, "a.b", &mut |_| Some(vec![1])).unwrap();
        std::os::unix::fs::chown(layout.path("records/a.b"), Some(4711), None).unwrap();
        assert!(load(layout, "a.b").is_err());
    }
}
