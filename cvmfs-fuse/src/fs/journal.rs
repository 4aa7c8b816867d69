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

use cvmfs_core::hash::ContentHash;
use cvmfs_core::path::RepoPath;
use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, OFlags};

use super::Ino;
use super::root::Slot;

/// Longest record: a path of 4 KiB, and then some.
const MAX_RECORD_LEN: usize = 64 * 1024;
/// A journal is written anew when it is longer than this, and mostly about inodes that are gone.
const COMPACT_ABOVE: u64 = 4 << 20;
/// Longest journal: some three million inodes.
const MAX_LEN: u64 = 256 << 20;
/// Bytes that an inode takes in a journal, more or less.
const USUAL_RECORD_LEN: u64 = 80;

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
    Ok(read(journal)?.0.current)
}

/// Reads all whole records, and returns the length of these.
///
/// The place in the file belongs to whoever writes to it, so it is not used.
fn read(journal: BorrowedFd<'_>) -> io::Result<(Inheritance, u64)> {
    let file = File::from(journal.try_clone_to_owned()?);
    let len = file.metadata()?.len().min(MAX_LEN);
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    let mut inheritance = Inheritance::default();
    let mut good = 0;
    while let Some((record, len)) = Record::parse(&bytes[good..]) {
        inheritance.take(record);
        good += len;
    }
    Ok((inheritance, good as u64))
}

/// The journal of a mount.
#[derive(Debug)]
pub struct Journal {
    file: Mutex<File>,
}

impl Journal {
    /// Makes an empty one.
    pub fn new() -> io::Result<Self> {
        let file = rustix::fs::memfd_create("cvmfs-inodes", MemfdFlags::CLOEXEC)?;
        Self::append_to(file.into())
    }

    /// Reads the one that a predecessor left, and goes on with it.
    pub fn inherit(file: OwnedFd) -> io::Result<(Self, Inheritance)> {
        let (mut inheritance, good) = read(file.as_fd())?;
        let file = File::from(file);
        file.set_len(good)?;
        let journal = Self::append_to(file)?;
        journal.write(&Record::Generation);
        inheritance.generation += 1;
        Ok((journal, inheritance))
    }

    fn append_to(file: File) -> io::Result<Self> {
        rustix::fs::fcntl_setfl(&file, OFlags::APPEND)?;
        Ok(Self { file: Mutex::new(file) })
    }

    /// Returns a descriptor for the supervisor.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.file.lock().as_fd().try_clone_to_owned()
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

    /// Tells whether most of it is about inodes that are gone.
    pub fn is_stale(&self, inodes: usize) -> bool {
        let len = self.file.lock().metadata().map_or(0, |found| found.len());
        len > COMPACT_ABOVE && len / USUAL_RECORD_LEN > 4 * inodes as u64
    }

    fn write(&self, record: &Record) {
        // Memory only; without room a successor would not know this inode, nothing worse.
        if let Err(error) = self.file.lock().write_all(&record.to_bytes()) {
            tracing::warn!(%error, "a successor will not know all inodes");
        }
    }
}

impl Inheritance {
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
            Record::Generation => self.generation += 1,
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
mod tests {
    use super::*;
    use cvmfs_core::hash::HashAlgorithm;

    fn path(text: &str) -> RepoPath {
        RepoPath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_successor_knows_what_the_kernel_holds() {
        let hash = |text: &[u8]| ContentHash::of(HashAlgorithm::Sha1, text);
        let journal = Journal::new().unwrap();
        journal.current(hash(b"one"));
        journal.slot(Slot::new(4095).unwrap());
        journal.closed();
        journal.known(1000, &path("/a"));
        journal.known(1001, &path("/a/b"));
        journal.known(1002, &path("/c"));
        journal.forgotten(1002);
        journal.bound(1001, hash(b"one"));
        journal.bound(1001, hash(b"two"));
        journal.current(hash(b"two"));
        // Killed in the middle of a record.
        let torn = Record::Known(1003, path("/torn")).to_bytes();
        journal.file.lock().write_all(&torn[..torn.len() - 1]).unwrap();

        for generation in 1..3 {
            let (_, inheritance) = Journal::inherit(journal.descriptor().unwrap()).unwrap();
            assert_eq!(inheritance.current, Some(hash(b"two")));
            assert_eq!(inheritance.generation, generation);
            assert_eq!((inheritance.slot, inheritance.is_closed), (Slot::new(4095), true));
            let expected = [
                (1000, Heir { path: path("/a"), revision: None }),
                (1001, Heir { path: path("/a/b"), revision: Some(hash(b"one")) }),
            ];
            assert_eq!(inheritance.inodes, expected.into());
        }
    }
}
