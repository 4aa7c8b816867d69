//! What a successor must know: which inodes the kernel holds, and of which revision.
//!
//! Numbers are computed, so a path and a revision are enough to find an inode again. They are
//! appended to a memory file that the supervisor holds, before the reply that makes the kernel
//! know them. A record that a crash cut short is left out: its reply was never sent.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use cvmfs_core::hash::ContentHash;
use cvmfs_core::path::RepoPath;
use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, OFlags};
use tokio::sync::Notify;

use super::Ino;
use super::root::Slot;

/// Longest record: a path of 4 KiB, and then some.
const MAX_RECORD_LEN: usize = 64 * 1024;
/// A journal is written anew when it is longer than this, and then when it has doubled: so most of
/// what is removed is about inodes that are gone, and the work is in proportion to what was noted.
const COMPACT_ABOVE: u64 = 4 << 20;
/// No more inodes are noted in a journal of this length, some 1.5 million; it is memory.
const FULL_ABOVE: u64 = 128 << 20;
/// Longest journal that is read: what else is noted about inodes goes on in a full one.
const MAX_LEN: u64 = 2 * FULL_ABOVE;

/// Something that a successor must know.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Record {
    /// The kernel knows this inode.
    Known(Ino, RepoPath),
    /// It does not any more.
    Forgotten(Ino),
    /// It belongs to this revision, which is not the current one.
    Bound(Ino, ContentHash),
    /// This revision is shown.
    Current(ContentHash),
    /// A server took over.
    Generation,
    /// The repository has this slot, where a mount has several, and is open.
    Slot(Slot),
    /// It was closed, since nobody used it.
    Closed,
}

/// An inode of a predecessor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heir {
    /// Its path.
    pub path: RepoPath,
    /// Its revision, if that is not the one shown.
    pub revision: Option<ContentHash>,
}

/// What a predecessor left.
#[derive(Debug, Clone, Default)]
pub struct Inheritance {
    /// The revision that was shown.
    pub current: Option<ContentHash>,
    /// Inodes that the kernel holds.
    pub inodes: HashMap<Ino, Heir>,
    /// How many servers there were before.
    pub generation: u32,
    /// The slot of the repository, where a mount has several.
    pub slot: Option<Slot>,
    /// It was closed.
    pub is_closed: bool,
}

/// Returns the revision that is shown according to a journal, whose server may be alive.
pub fn shown(journal: BorrowedFd<'_>) -> io::Result<Option<ContentHash>> {
    Ok(read(journal, MAX_LEN)?.0.current)
}

/// Reads all whole records, and returns the length of these.
///
/// The place in the file belongs to whoever writes to it, so it is not used.
fn read(journal: BorrowedFd<'_>, limit: u64) -> io::Result<(Inheritance, u64)> {
    let file = File::from(journal.try_clone_to_owned()?);
    let len = file.metadata()?.len().min(limit);
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(parse(&bytes))
}

/// Parses all whole records of a journal, and returns the length of these. The server that wrote it may
/// have been compromised.
fn parse(bytes: &[u8]) -> (Inheritance, u64) {
    let mut inheritance = Inheritance::default();
    let mut rest = bytes;
    while let Some((record, len)) = Record::parse(rest) {
        inheritance.take(record);
        rest = rest.get(len..).unwrap_or_default();
    }
    (inheritance, (bytes.len() - rest.len()) as u64)
}

/// Input of the fuzz target `journal`: bytes of a journal.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    let (inheritance, good) = parse(data);
    assert!(good <= data.len() as u64);
    let written = inheritance.write_anew().expect("memory");
    let (again, _) = read(written.as_fd(), MAX_LEN).expect("memory");
    assert_eq!(again.current, inheritance.current);
    assert_eq!(again.inodes, inheritance.inodes);
    assert_eq!((again.slot, again.is_closed), (inheritance.slot, inheritance.is_closed));
    assert_eq!(again.generation, inheritance.generation);
}

/// The journal of a mount.
#[derive(Debug)]
pub struct Journal {
    state: Mutex<State>,
    /// Rung when it should be written anew.
    due: Notify,
}

#[derive(Debug)]
struct State {
    file: File,
    len: u64,
    /// Length at which it should be written anew.
    limit: u64,
    /// What is noted while that is done.
    meanwhile: Option<Vec<u8>>,
    /// Inodes were left out.
    full: bool,
}

impl Journal {
    /// Makes an empty one.
    pub fn new() -> io::Result<Self> {
        Self::append_to(memory_file()?)
    }

    /// Reads the one that a predecessor left, and goes on with it.
    pub fn inherit(file: OwnedFd) -> io::Result<(Self, Inheritance)> {
        let (mut inheritance, good) = read(file.as_fd(), MAX_LEN)?;
        let file = File::from(file);
        file.set_len(good)?;
        let journal = Self::append_to(file)?;
        journal.write(&Record::Generation);
        inheritance.generation += 1;
        Ok((journal, inheritance))
    }

    fn append_to(file: File) -> io::Result<Self> {
        rustix::fs::fcntl_setfl(&file, OFlags::APPEND)?;
        let len = file.metadata()?.len();
        let state = State { file, len, limit: COMPACT_ABOVE, meanwhile: None, full: false };
        Ok(Self { state: Mutex::new(state), due: Notify::new() })
    }

    /// Returns a descriptor for the supervisor.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.state.lock().file.as_fd().try_clone_to_owned()
    }

    /// Notes an inode before the kernel hears of it.
    pub fn known(&self, ino: Ino, path: &RepoPath) {
        self.write(&Record::Known(ino, path.clone()));
    }

    /// Notes that the kernel forgot an inode.
    pub fn forgotten(&self, ino: Ino) {
        self.write(&Record::Forgotten(ino));
    }

    /// Notes that an inode belongs to an earlier revision.
    pub fn bound(&self, ino: Ino, revision: ContentHash) {
        self.write(&Record::Bound(ino, revision));
    }

    /// Notes which revision is shown.
    pub fn current(&self, revision: ContentHash) {
        self.write(&Record::Current(revision));
    }

    /// Notes the slot of the repository, and that it is open.
    pub fn slot(&self, slot: Slot) {
        self.write(&Record::Slot(slot));
    }

    /// Notes that the repository was closed.
    pub fn closed(&self) {
        self.write(&Record::Closed);
    }

    /// Waits until it should be written anew.
    pub async fn due(&self) {
        self.due.notified().await;
    }

    /// Writes it anew, without what is gone. `keep` gives the new one to the supervisor, and tells
    /// whether that has it.
    ///
    /// What is noted meanwhile is in both, so that none is lost whichever of them a successor gets;
    /// whoever notes waits only while that last part is copied.
    pub fn compact(&self, keep: impl FnOnce(BorrowedFd<'_>) -> bool) -> io::Result<()> {
        let (old, len) = {
            let mut state = self.state.lock();
            if state.meanwhile.is_some() {
                return Ok(());
            }
            let old = state.file.try_clone()?;
            state.meanwhile = Some(Vec::new());
            (old, state.len)
        };
        let fresh = read(old.as_fd(), len).and_then(|(inheritance, _)| inheritance.write_anew());
        let mut state = self.state.lock();
        let meanwhile = state.meanwhile.take().unwrap_or_default();
        let outcome = fresh.and_then(|mut fresh| {
            fresh.write_all(&meanwhile)?;
            let len = fresh.metadata()?.len();
            if !keep(fresh.as_fd()) {
                return Err(io::Error::other("the supervisor did not take it"));
            }
            (state.file, state.len) = (fresh, len);
            state.full = false;
            Ok(())
        });
        state.limit = state.len.saturating_mul(2).max(COMPACT_ABOVE);
        outcome
    }

    fn write(&self, record: &Record) {
        let bytes = record.to_bytes();
        let mut state = self.state.lock();
        if state.len >= state.limit {
            self.due.notify_one();
        }
        if state.len >= FULL_ABOVE && matches!(record, Record::Known(..)) {
            if !std::mem::replace(&mut state.full, true) {
                tracing::warn!(
                    "the kernel holds so many inodes that a successor will not know all"
                );
            }
            return;
        }
        // Memory only; without room a successor would not know this inode, nothing worse.
        if let Err(error) = state.file.write_all(&bytes) {
            tracing::warn!(%error, "a successor will not know all inodes");
            // What comes later must not stand behind half a record.
            if let Err(error) = state.file.set_len(state.len) {
                tracing::warn!(%error, "the journal ends here");
            }
            return;
        }
        state.len += bytes.len() as u64;
        if let Some(meanwhile) = &mut state.meanwhile {
            meanwhile.extend_from_slice(&bytes);
        }
    }
}

/// Writes a journal anew whenever that is due, until it is dropped; `keep` is that of
/// [`Journal::compact`].
pub async fn tend(
    journal: Arc<Journal>,
    keep: impl Fn(BorrowedFd<'_>) -> bool + Clone + Send + 'static,
) {
    loop {
        journal.due().await;
        let (due, keep) = (Arc::clone(&journal), keep.clone());
        match tokio::task::spawn_blocking(move || due.compact(keep)).await {
            Ok(Err(error)) => tracing::warn!(%error, "the journal stays long"),
            Err(error) => tracing::warn!(%error, "the journal stays long"),
            Ok(Ok(())) => {}
        }
    }
}

fn memory_file() -> io::Result<File> {
    Ok(rustix::fs::memfd_create("cvmfs-inodes", MemfdFlags::CLOEXEC)?.into())
}

impl Inheritance {
    /// Writes a journal that says the same.
    fn write_anew(&self) -> io::Result<File> {
        let mut records = io::BufWriter::new(memory_file()?);
        for _ in 0..self.generation {
            records.write_all(&Record::Generation.to_bytes())?;
        }
        for (&ino, heir) in &self.inodes {
            records.write_all(&Record::Known(ino, heir.path.clone()).to_bytes())?;
            if let Some(revision) = heir.revision {
                records.write_all(&Record::Bound(ino, revision).to_bytes())?;
            }
        }
        if let Some(current) = self.current {
            records.write_all(&Record::Current(current).to_bytes())?;
        }
        if let Some(slot) = self.slot {
            records.write_all(&Record::Slot(slot).to_bytes())?;
        }
        if self.is_closed {
            records.write_all(&Record::Closed.to_bytes())?;
        }
        let file = records.into_inner().map_err(io::IntoInnerError::into_error)?;
        rustix::fs::fcntl_setfl(&file, OFlags::APPEND)?;
        Ok(file)
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Known(ino, path) => {
                self.inodes.insert(ino, Heir { path, revision: None });
            }
            Record::Forgotten(ino) => {
                self.inodes.remove(&ino);
            }
            Record::Bound(ino, revision) => {
                if let Some(heir) = self.inodes.get_mut(&ino) {
                    heir.revision.get_or_insert(revision);
                }
            }
            Record::Current(revision) => self.current = Some(revision),
            Record::Generation => self.generation = self.generation.saturating_add(1),
            Record::Slot(slot) => (self.slot, self.is_closed) = (Some(slot), false),
            Record::Closed => self.is_closed = true,
        }
    }
}

impl Record {
    /// Length, kind, number, text.
    fn to_bytes(&self) -> Vec<u8> {
        let (kind, ino, text) = match self {
            Self::Known(ino, path) => (1, *ino, path.as_bytes().to_vec()),
            Self::Forgotten(ino) => (2, *ino, Vec::new()),
            Self::Bound(ino, hash) => (3, *ino, hash.to_string().into_bytes()),
            Self::Current(hash) => (4, 0, hash.to_string().into_bytes()),
            Self::Generation => (5, 0, Vec::new()),
            Self::Slot(slot) => (6, Ino::from(slot.number()), Vec::new()),
            Self::Closed => (7, 0, Vec::new()),
        };
        let len = u32::try_from(text.len() + 9).unwrap_or(u32::MAX);
        let mut bytes = len.to_le_bytes().to_vec();
        bytes.push(kind);
        bytes.extend_from_slice(&ino.to_le_bytes());
        bytes.extend_from_slice(&text);
        bytes
    }

    /// Reads the first record and its length; `None` at the end, and at what makes no sense.
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let len =
            usize::try_from(u32::from_le_bytes(*len)).ok().filter(|&len| len <= MAX_RECORD_LEN)?;
        let body = rest.get(..len)?;
        let (&kind, body) = body.split_first()?;
        let (ino, text) = body.split_first_chunk::<8>()?;
        let ino = Ino::from_le_bytes(*ino);
        let hash = || ContentHash::parse_bytes(text).ok();
        let record = match kind {
            1 => Self::Known(ino, RepoPath::parse(text)?),
            2 => Self::Forgotten(ino),
            3 => Self::Bound(ino, hash()?),
            4 => Self::Current(hash()?),
            5 => Self::Generation,
            6 => Self::Slot(Slot::new(u16::try_from(ino).ok()?)?),
            7 => Self::Closed,
            _ => return None,
        };
        Some((record, len + 4))
    }
}

#[cfg(test)]
mod tests;
