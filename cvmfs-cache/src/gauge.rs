//! How many bytes are stored, known exactly and at once to all processes that share a cache.
//!
//! One page in a file, changed under its lock: sixteen bytes for each of the 256 directories of
//! objects. Room for an object is taken before the object gets its name, and given back by whoever
//! removes the name. Four system calls, some microseconds; a transaction of the index would cost a
//! hundred times as much. What it does not know, such as a process that died between the two steps
//! or a person with `rm`, is put right by a count, one directory at a time ([`crate::keeper`]).

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cvmfs_core::cache::CacheError;
use parking_lot::Mutex;
use rustix::fs::FlockOperation;

use crate::layout::Layout;

/// Name of the file.
const NAME: &str = "gauge";
/// How long a sibling may hold the lock: it needs microseconds, but may be stopped.
const LOCK_LIMIT: Duration = Duration::from_millis(20);
/// Pause between two looks at the lock.
const LOCK_PAUSE: Duration = Duration::from_micros(50);
/// Bytes and objects of one directory.
const ENTRY_LEN: usize = 16;
/// More than any partition has: whoever wrote this did not count.
const ABSURD: u64 = 1 << 60;

/// What is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Bytes of all objects.
    pub(crate) bytes: u64,
    /// Objects.
    pub(crate) objects: u64,
}

/// A change of the reading.
#[derive(Debug, Clone, Copy, Default)]
struct Change {
    bytes: i64,
    objects: i64,
}

/// The counter of one cache directory.
#[derive(Debug)]
pub(crate) struct Gauge {
    layout: Arc<Layout>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    file: Option<File>,
    /// What could not be written yet.
    pending: HashMap<u8, Change>,
    last: Reading,
    /// The file was empty when it was opened.
    is_new: bool,
}

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full {
    /// What is stored now.
    pub(crate) used: u64,
}

impl Gauge {
    /// Uses the counter of a cache; opened when it is needed.
    pub(crate) fn new(layout: Arc<Layout>) -> Self {
        Self { layout, state: Mutex::default() }
    }

    /// Takes room for an object in a directory, if `limit` allows it; returns the bytes stored
    /// with it.
    pub(crate) fn reserve(&self, fan: u8, size: u64, limit: Option<u64>) -> Result<u64, Full> {
        let change = Change { bytes: signed(size), objects: 1 };
        let fits =
            |used: Reading| limit.is_none_or(|limit| used.bytes.saturating_add(size) <= limit);
        self.change(fan, change, fits)
            .map(|reading| reading.bytes)
            .map_err(|reading| Full { used: reading.bytes })
    }

    /// Gives room back.
    pub(crate) fn release(&self, fan: u8, freed: Reading) {
        let change = Change { bytes: -signed(freed.bytes), objects: -signed(freed.objects) };
        let _ = self.change(fan, change, |_| true);
    }

    /// Puts one directory right by a count that began at `before` and found `counted`.
    pub(crate) fn correct(&self, fan: u8, before: Reading, counted: Reading) {
        let change = Change {
            bytes: signed(counted.bytes) - signed(before.bytes),
            objects: signed(counted.objects) - signed(before.objects),
        };
        if change.bytes != 0 || change.objects != 0 {
            tracing::trace!(fan, ?change, "cache counted");
            let _ = self.change(fan, change, |_| true);
        }
    }

    /// Returns what is stored now; the last known value if the file cannot be read.
    pub(crate) fn read(&self) -> Reading {
        self.change(0, Change::default(), |_| true).unwrap_or_else(|reading| reading)
    }

    /// Tells whether the counter had to begin anew, and does not know what was there before.
    pub(crate) fn is_new(&self) -> bool {
        self.state.lock().is_new
    }

    /// Returns what is stored in one directory; `None` if nobody can tell just now.
    pub(crate) fn read_fan(&self, fan: u8) -> Option<Reading> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.pending.contains_key(&fan) || !self.lock(state) {
            return None;
        }
        let file = state.file.as_ref()?;
        let found = load(file)[usize::from(fan)];
        let _ = rustix::fs::flock(file, FlockOperation::Unlock);
        Some(found)
    }

    /// Applies a change if `fits` agrees with what is there before; returns the sum over all.
    fn change(
        &self,
        fan: u8,
        change: Change,
        fits: impl FnOnce(Reading) -> bool,
    ) -> Result<Reading, Reading> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let locked = self.lock(state);
        let (Some(file), true) = (&state.file, locked) else {
            // Somebody holds the lock, or the disk fails: go on with what we know.
            if !fits(state.last) {
                return Err(state.last);
            }
            let pending = state.pending.entry(fan).or_default();
            *pending = pending.and(change);
            state.last = change.applied(state.last);
            return Ok(state.last);
        };
        let mut fans = load(file);
        let mut failed = false;
        let mut write = |fans: &mut Fans, fan: u8, change: Change| {
            let place = &mut fans[usize::from(fan)];
            *place = change.applied(*place);
            failed |= store(file, fan, *place).is_err();
        };
        for (fan, change) in state.pending.drain() {
            write(&mut fans, fan, change);
        }
        let before = sum(&fans);
        let fits = fits(before);
        if fits && !change.is_nothing() {
            write(&mut fans, fan, change);
        }
        if failed {
            tracing::debug!("the counter of the cache cannot be written");
        }
        let _ = rustix::fs::flock(file, FlockOperation::Unlock);
        state.last = sum(&fans);
        if fits { Ok(state.last) } else { Err(before) }
    }

    /// Locks the file, opening it again if somebody wiped the cache.
    fn lock(&self, state: &mut State) -> bool {
        let gone = |file: &File| file.metadata().is_ok_and(|found| found.nlink() == 0);
        if state.file.as_ref().is_none_or(gone) {
            if state.file.is_some() {
                state.pending.clear();
            }
            state.file = match self.layout.open_control(NAME) {
                Ok(file) => {
                    state.is_new |= file.metadata().is_ok_and(|found| found.len() == 0);
                    Some(file)
                }
                Err(error) => {
                    log(&error);
                    None
                }
            };
        }
        let Some(file) = &state.file else { return false };
        let start = Instant::now();
        loop {
            match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return true,
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR)
                    if start.elapsed() < LOCK_LIMIT => {}
                Err(_) => return false,
            }
            #[expect(clippy::disallowed_methods, reason = "flock has no time limit of its own")]
            std::thread::sleep(LOCK_PAUSE);
        }
    }
}

fn log(error: &CacheError) {
    tracing::debug!(%error, "cannot open the counter of the cache");
}

/// What is stored in each of the 256 directories.
type Fans = [Reading; 256];

fn load(file: &File) -> Fans {
    let mut bytes = [0; 256 * ENTRY_LEN];
    let mut len = 0;
    // A file that ends early has no more to say.
    while len < bytes.len()
        && let Ok(n @ 1..) = file.read_at(&mut bytes[len..], len as u64)
    {
        len += n;
    }
    let mut fans = [Reading::default(); 256];
    for (fan, entry) in fans.iter_mut().zip(bytes.as_chunks::<ENTRY_LEN>().0) {
        let (words, _) = entry.as_chunks::<8>();
        let [bytes, objects] = [0, 1].map(|word: usize| u64::from_le_bytes(words[word]));
        if bytes < ABSURD && objects < ABSURD {
            *fan = Reading { bytes, objects };
        }
    }
    fans
}

fn store(file: &File, fan: u8, reading: Reading) -> io::Result<()> {
    let mut entry = [0; ENTRY_LEN];
    entry[..8].copy_from_slice(&reading.bytes.to_le_bytes());
    entry[8..].copy_from_slice(&reading.objects.to_le_bytes());
    file.write_all_at(&entry, u64::from(fan) * ENTRY_LEN as u64)
}

fn sum(fans: &Fans) -> Reading {
    fans.iter().fold(Reading::default(), |sum, fan| Reading {
        bytes: sum.bytes.saturating_add(fan.bytes),
        objects: sum.objects.saturating_add(fan.objects),
    })
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Change {
    fn is_nothing(self) -> bool {
        self.bytes == 0 && self.objects == 0
    }

    fn and(self, more: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(more.bytes),
            objects: self.objects.saturating_add(more.objects),
        }
    }

    /// Never below zero: what was not counted cannot be given back.
    fn applied(self, reading: Reading) -> Reading {
        Reading {
            bytes: reading.bytes.saturating_add_signed(self.bytes),
            objects: reading.objects.saturating_add_signed(self.objects),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(directory: &std::path::Path) -> Gauge {
        Gauge::new(Arc::new(Layout::create(directory, false).unwrap()))
    }

    #[test]
    fn two_processes_count_together_and_never_beyond_the_limit() {
        let scratch = tempfile::tempdir().unwrap();
        let counters = [gauge(scratch.path()), gauge(scratch.path())];
        std::thread::scope(|scope| {
            for gauge in &counters {
                for _ in 0..2 {
                    scope.spawn(|| {
                        for _ in 0..200 {
                            let _ = gauge.reserve(7, 10, Some(5000));
                            assert!(gauge.read().bytes <= 5000);
                        }
                    });
                }
            }
        });
        assert_eq!(counters[0].read(), Reading { bytes: 5000, objects: 500 });
        assert_eq!(counters[1].reserve(0, 1, Some(5000)), Err(Full { used: 5000 }));
        counters[1].release(7, Reading { bytes: 10, objects: 1 });
        assert_eq!(counters[0].reserve(255, 10, Some(5000)), Ok(5000));
    }

    #[test]
    fn a_wiped_or_absurd_counter_starts_again() {
        let scratch = tempfile::tempdir().unwrap();
        let gauge = gauge(scratch.path());
        gauge.reserve(1, 100, None).unwrap();
        std::fs::remove_dir_all(gauge.layout.path("")).unwrap();
        assert_eq!(gauge.read(), Reading::default());
        gauge.reserve(2, 7, None).unwrap();
        std::fs::write(gauge.layout.path(NAME), [0xff; 4096]).unwrap();
        assert_eq!(gauge.read(), Reading::default());
        gauge.release(3, Reading { bytes: 50, objects: 2 });
        assert_eq!(gauge.read(), Reading::default());
    }

    #[test]
    fn a_sibling_that_keeps_the_lock_stops_nobody() {
        let scratch = tempfile::tempdir().unwrap();
        let gauge = gauge(scratch.path());
        gauge.reserve(0, 1, None).unwrap();
        let held = gauge.layout.open_control(NAME).unwrap();
        rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
        gauge.reserve(1, 2, Some(3)).unwrap();
        assert_eq!(gauge.reserve(0, 1, Some(3)), Err(Full { used: 3 }));
        drop(held);
        assert_eq!(gauge.read(), Reading { bytes: 3, objects: 2 });
    }
}
