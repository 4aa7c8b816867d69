//! What was under way when a server died: content that kills its server must not do so for ever.
//!
//! Whatever is fetched, decoded or opened has its inode noted in a page of memory that outlives the
//! server. What was noted when one died is suspect: its successor lets suspects try one at a time,
//! so that the next death tells which it was. Who is under way again in that death, within
//! [`WINDOW`], is refused with EIO, until another program or another mount takes over. A suspect
//! that succeeds is none any more.
//!
//! A server may be killed from outside just twice while the same download hangs. That one is then
//! refused without reason; nothing else is.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rustix::fs::MemfdFlags;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::inode::Inode;
use super::{FsError, Ino};

/// Things under way that are noted; a crash among more is not told apart.
const SLOTS: usize = 64;
/// Suspects and refused ones that are remembered.
const MAX_PAST: usize = 64;
/// Deaths further apart have nothing to do with each other.
const WINDOW: Duration = Duration::from_secs(600);
/// Bytes of a number in the page.
const WORD: usize = 8;
/// Bytes of a slot, and of an entry of the past: inode, deaths, time.
const ENTRY: usize = 3 * WORD;
/// Length of the page.
const LEN: usize = SLOTS * WORD + MAX_PAST * ENTRY;

/// What is under way, and what is suspect.
#[derive(Debug)]
pub struct Suspects {
    page: File,
    state: Mutex<State>,
    turn: Semaphore,
    /// A predecessor died lately.
    quiet_until: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    used: HashSet<usize>,
    /// Deaths, and the time of the last one in seconds since 1970.
    past: HashMap<Ino, (u64, u64)>,
    /// Those that were told of in the log.
    told: HashSet<Ino>,
}

/// Input of the fuzz target `supervisor_protocol`: a page that a dead server left.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    use std::io::Write as _;
    let mut page =
        File::from(rustix::fs::memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memory"));
    page.write_all(data).expect("memory");
    let suspects = Suspects::inherit(page.into(), true).expect("memory");
    let state = suspects.state.lock();
    assert!(state.past.len() <= SLOTS + MAX_PAST);
}

/// Something under way; noted until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay<'a> {
    suspects: &'a Suspects,
    ino: Ino,
    slot: Option<usize>,
    _turn: Option<SemaphorePermit<'a>>,
}

impl Suspects {
    /// Makes an empty page.
    pub fn new() -> io::Result<Self> {
        let page = File::from(rustix::fs::memfd_create("cvmfs-under-way", MemfdFlags::CLOEXEC)?);
        page.set_len(LEN as u64)?;
        Ok(Self { page, state: Mutex::default(), turn: Semaphore::new(1), quiet_until: None })
    }

    /// Goes on with the page of a predecessor. `died`: it was not replaced on purpose.
    pub fn inherit(page: OwnedFd, died: bool) -> io::Result<Self> {
        Self::inherit_at(page, died, now())
    }

    fn inherit_at(page: OwnedFd, died: bool, now: u64) -> io::Result<Self> {
        let page = File::from(page);
        let mut bytes = [0; LEN];
        if let Err(error) = page.read_exact_at(&mut bytes, 0) {
            // Its server was compromised, or it is not a page of ours: that must not end the mount.
            tracing::warn!(%error, "the page of what was under way is damaged; a new one begins");
            return Self::new();
        }
        let (numbers, _) = bytes.as_chunks::<WORD>();
        let numbers: Vec<u64> = numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let (slots, past) = numbers.split_at(SLOTS);
        let mut state = State::default();
        if died {
            for entry in past.chunks_exact(ENTRY / WORD) {
                let (ino, deaths, time) = (entry[0], entry[1], entry[2]);
                let is_old = now.saturating_sub(time) > WINDOW.as_secs();
                if ino != 0 && (is_refused(deaths) || !is_old) {
                    state.past.insert(ino, (deaths, time));
                }
            }
            for &ino in slots.iter().filter(|&&ino| ino != 0).collect::<HashSet<_>>() {
                let (deaths, time) = state.past.entry(ino).or_default();
                (*deaths, *time) = (deaths.saturating_add(1), now);
            }
        }
        let quiet_until = died.then(|| Instant::now() + WINDOW);
        let (state, turn) = (Mutex::new(state), Semaphore::new(1));
        let suspects = Self { page, state, turn, quiet_until };
        suspects.page.write_all_at(&[0; SLOTS * WORD], 0)?;
        suspects.write_past(&suspects.state.lock())?;
        Ok(suspects)
    }

    /// Tells whether content may be fetched that nobody has asked for. It is not noted, so not while
    /// it might be what killed a server.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet_until.is_none_or(|until| Instant::now() > until)
            && self.state.lock().past.is_empty()
    }

    /// Returns a descriptor for the supervisor.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        Ok(self.page.try_clone()?.into())
    }

    /// Notes that content is going to be fetched, decoded and opened. Suspects wait for each other.
    pub(super) async fn begin(&self, inode: &Inode) -> Result<UnderWay<'_>, FsError> {
        let ino = inode.ino;
        let deaths = self.state.lock().past.get(&ino).map_or(0, |&(deaths, _)| deaths);
        if is_refused(deaths) {
            if self.state.lock().told.insert(ino) {
                tracing::warn!(
                    path = %inode.path,
                    "this file was being opened each time when {deaths} servers died: it is refused until \
                     the next upgrade or mount"
                );
            }
            return Err(FsError::Refused { path: inode.path.clone(), deaths });
        }
        // The semaphore is never closed.
        let turn = if deaths > 0 { self.turn.acquire().await.ok() } else { None };
        let slot = {
            let mut state = self.state.lock();
            let free = (0..SLOTS).find(|slot| !state.used.contains(slot));
            if let Some(slot) = free {
                state.used.insert(slot);
            }
            free
        };
        self.write_slot(slot, ino);
        Ok(UnderWay { suspects: self, ino, slot, _turn: turn })
    }

    fn write_slot(&self, slot: Option<usize>, ino: Ino) {
        if let Some(slot) = slot
            && let Err(error) = self.page.write_all_at(&ino.to_le_bytes(), (slot * WORD) as u64)
        {
            tracing::debug!(%error, "what is under way is not noted");
        }
    }

    fn write_past(&self, state: &State) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(MAX_PAST * ENTRY);
        // The refused ones first, if there is no room for all.
        let mut past: Vec<_> = state.past.iter().collect();
        past.sort_unstable_by_key(|&(_, &(deaths, time))| std::cmp::Reverse((deaths, time)));
        for (ino, (deaths, time)) in past.into_iter().take(MAX_PAST) {
            for number in [ino, deaths, time] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        bytes.resize(MAX_PAST * ENTRY, 0);
        self.page.write_all_at(&bytes, (SLOTS * WORD) as u64)
    }
}

impl UnderWay<'_> {
    /// It went well, or failed without harm.
    pub(super) fn survived(&self) {
        let mut state = self.suspects.state.lock();
        if state.past.remove(&self.ino).is_some()
            && let Err(error) = self.suspects.write_past(&state)
        {
            tracing::debug!(%error, "a suspect stays one");
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.suspects.write_slot(self.slot, 0);
        if let Some(slot) = self.slot {
            self.suspects.state.lock().used.remove(&slot);
        }
    }
}

fn is_refused(deaths: u64) -> bool {
    deaths >= 2
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::inode::tests::inode;

    /// Dies while `under_way` are being opened, as far as they get; returns its successor.
    async fn die(server: Suspects, under_way: &[Ino], died: bool, now: u64) -> Suspects {
        let page = server.descriptor().unwrap();
        let inodes: Vec<_> = under_way.iter().map(|&ino| inode(ino)).collect();
        let mut alive = Vec::new();
        for inode in &inodes {
            let begun = server.begin(inode);
            let limit = Duration::from_millis(20);
            if let Ok(Ok(begun)) = tokio::time::timeout(limit, begun).await {
                alive.push(begun);
            }
        }
        Suspects::inherit_at(page, died, now).unwrap()
    }

    async fn is_refused(server: &Suspects, ino: Ino) -> bool {
        match server.begin(&inode(ino)).await {
            Ok(_) => false,
            Err(FsError::Refused { deaths: 2, .. }) => true,
            Err(error) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn what_two_deaths_have_in_common_is_refused_and_nothing_else() {
        let first = Suspects::new().unwrap();
        let second = die(first, &[7, 8, 9], true, 1000).await;
        assert!(!is_refused(&second, 7).await);
        // One of the suspects succeeds; the others wait for each other.
        second.begin(&inode(8)).await.unwrap().survived();
        let third = die(second, &[7, 9, 5], true, 1010).await;
        for (ino, expected) in [(7, true), (8, false), (9, false), (5, false)] {
            assert_eq!(is_refused(&third, ino).await, expected, "{ino}");
        }
        // For as long as the same program serves.
        let fourth = die(third, &[], true, 100_000).await;
        assert!(is_refused(&fourth, 7).await);
        let upgraded = die(fourth, &[7], false, 100_000).await;
        assert!(!is_refused(&upgraded, 7).await);
    }

    #[tokio::test]
    async fn deaths_far_apart_have_nothing_to_do_with_each_other() {
        let second = die(Suspects::new().unwrap(), &[7], true, 1000).await;
        let third = die(second, &[], true, 1001 + WINDOW.as_secs()).await;
        let fourth = die(third, &[7], true, 1002 + WINDOW.as_secs()).await;
        assert!(!is_refused(&fourth, 7).await);
    }

    #[tokio::test]
    async fn more_than_there_are_slots_for() {
        let server = Suspects::new().unwrap();
        let many: Vec<Ino> = (1..=2 * SLOTS as Ino).collect();
        let next = die(server, &many, true, 1).await;
        assert_eq!(next.state.lock().past.len(), SLOTS);
    }
}
