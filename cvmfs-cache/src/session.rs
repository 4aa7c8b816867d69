//! What a live process pins, and how others see that it is alive.
//!
//! Each process that keeps a cache open has a file `sessions/RANDOM` and holds its lock; the file
//! lists what it pins. The lock ends with the process, however that ends: a file whose lock can be
//! taken is of a dead one. Process ids are never looked at; across containers they mean nothing.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;

use cvmfs_core::cache::CacheError;
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::layout::{Layout, SESSIONS, failed, random};

/// Longest list read: some 60 bytes each for far more catalogs than a process has open.
const MAX_LIST_LEN: u64 = 4 << 20;
/// Longest name of an object, with some room for other hashes.
const MAX_NAME: usize = 160;
/// Objects of others that are kept from eviction: each is some 100 bytes here.
const MAX_PINNED: usize = 1 << 18;
/// Files of others that are looked at; more of them are the work of a sibling gone mad.
const MAX_SESSIONS: usize = 4096;

/// The file of this process.
#[derive(Debug)]
pub(crate) struct Session {
    layout: Arc<Layout>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The file and its name.
    file: Option<(File, String)>,
    /// How often each object is pinned.
    pins: HashMap<String, usize>,
}

/// What others say.
#[derive(Debug, Default)]
pub(crate) struct Others {
    /// Names of objects that live processes pin.
    pub(crate) pinned: HashSet<String>,
    /// Processes that ended without saying so.
    pub(crate) dead: usize,
    /// Processes that are alive.
    pub(crate) live: usize,
}

impl Session {
    /// Opens a session; without a file it pins nothing, and nothing else changes.
    pub(crate) fn open(layout: Arc<Layout>) -> Self {
        let session = Self { layout, state: Mutex::default() };
        if let Err(error) = session.create(&mut session.state.lock()) {
            tracing::warn!(%error, "catalogs in use are not protected from eviction");
        }
        session
    }

    /// Pins an object until [`Session::unpin`].
    pub(crate) fn pin(&self, name: &str) {
        let mut state = self.state.lock();
        let count = state.pins.entry(name.to_owned()).or_default();
        *count += 1;
        if *count == 1 {
            self.write(&mut state);
        }
    }

    /// Takes one pin back.
    pub(crate) fn unpin(&self, name: &str) {
        let mut state = self.state.lock();
        let Some(count) = state.pins.get_mut(name) else { return };
        *count -= 1;
        if *count == 0 {
            state.pins.remove(name);
            self.write(&mut state);
        }
    }

    /// Makes the file anew if somebody removed it.
    pub(crate) fn refresh(&self) {
        let mut state = self.state.lock();
        let gone = |file: &File| !file.metadata().is_ok_and(|found| found.nlink() > 0);
        if state.file.as_ref().is_none_or(|(file, _)| gone(file)) {
            state.file = None;
            match self.create(&mut state) {
                Ok(()) => self.write(&mut state),
                Err(error) => tracing::debug!(%error, "no file for this process in the cache"),
            }
        }
    }

    fn create(&self, state: &mut State) -> Result<(), CacheError> {
        let name = format!("{SESSIONS}/{:016x}", random());
        let path = self.layout.path(&name);
        let file = self.layout.open_control(&name)?;
        // Before anything is written: a sibling may look at any time.
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(failed("lock", &path))?;
        state.file = Some((file, name));
        Ok(())
    }

    /// Writes the whole list; it is short. A reader may see a torn one: a pin more or less.
    fn write(&self, state: &mut State) {
        let Some((file, _)) = &state.file else { return };
        let mut list = String::new();
        for name in state.pins.keys() {
            list.push_str(name);
            list.push('\n');
        }
        let written = file
            .write_all_at(list.as_bytes(), 0)
            .and_then(|()| file.set_len(list.len() as u64))
            .and_then(|()| {
                let mut file: &File = file;
                file.flush()
            });
        if let Err(error) = written {
            tracing::debug!(%error, "pins of catalogs in use not written");
        }
    }

    /// Looks at all sessions, and removes those of the dead.
    pub(crate) fn others(&self) -> Others {
        let mut others = Others::default();
        let own = self.state.lock().file.as_ref().map(|(_, name)| name.clone());
        others.pinned.extend(self.state.lock().pins.keys().cloned());
        let Ok(names) = self.layout.list(SESSIONS) else { return others };
        for name in names.into_iter().take(MAX_SESSIONS) {
            let name = format!("{SESSIONS}/{name}");
            if own.as_deref() == Some(name.as_str()) {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
            let file = match self.layout.open(&name, flags, Mode::empty()) {
                Ok(file) => File::from(file),
                // Gone, or not ours to judge.
                Err(_) => continue,
            };
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    if matches!(self.layout.unlink(&name), Ok(true)) {
                        others.dead += 1;
                    }
                }
                Err(Errno::WOULDBLOCK) => {
                    others.live += 1;
                    let mut list = String::new();
                    let room = MAX_PINNED.saturating_sub(others.pinned.len());
                    let is_file = file.metadata().is_ok_and(|found| found.is_file());
                    if room > 0
                        && is_file
                        && file.take(MAX_LIST_LEN).read_to_string(&mut list).is_ok()
                    {
                        // What is longer than any name pins nothing.
                        let names = list.lines().filter(|name| name.len() <= MAX_NAME).take(room);
                        others.pinned.extend(names.map(str::to_owned));
                    }
                }
                Err(_) => {}
            }
        }
        others
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some((_, name)) = self.state.lock().file.take() {
            // Left behind, it only costs a count.
            let _ = self.layout.unlink(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_end_with_their_owner() {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Arc::new(Layout::create(scratch.path(), false).unwrap());
        let ours = Session::open(Arc::clone(&layout));
        let theirs = Session::open(Arc::clone(&layout));
        theirs.pin("ab/cdefC");
        theirs.pin("ab/cdefC");
        theirs.pin("12/34C");
        theirs.unpin("12/34C");
        ours.pin("ff/00C");
        let seen = ours.others();
        assert_eq!(seen.pinned, ["ab/cdefC", "ff/00C"].map(str::to_owned).into());
        assert_eq!((seen.live, seen.dead), (1, 0));
        theirs.unpin("ab/cdefC");
        assert!(ours.others().pinned.contains("ab/cdefC"), "pinned twice");

        // As kill -9 leaves it: the file stays, the lock is gone.
        let (file, name) = theirs.state.lock().file.take().unwrap();
        drop(file);
        let seen = ours.others();
        assert_eq!((seen.live, seen.dead, seen.pinned.len()), (0, 1, 1));
        assert!(!layout.path(&name).exists());
        assert_eq!(ours.others().dead, 0);

        // Wiped under a live process.
        std::fs::remove_dir_all(layout.path("")).unwrap();
        ours.refresh();
        drop(theirs);
        let next = Session::open(Arc::clone(&layout));
        assert!(next.others().pinned.contains("ff/00C"));
    }
}
