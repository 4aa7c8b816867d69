//! What a file must hold, in each of its versions.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};

/// Longest first line of a file that changes.
pub(super) const MAX_HEAD: usize = 64;

/// Known content of one version of a file.
#[derive(Clone, Debug)]
pub enum Truth {
    /// All bytes.
    Bytes(Arc<[u8]>),
    /// A block over and over, cut at `len`.
    Repeated {
        /// The block, not empty.
        block: Arc<[u8]>,
        /// Length of the file.
        len: u64,
    },
}

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} wrong bytes, the first one at {at}: {found:#04x} instead of {want:#04x}")]
pub struct Wrong {
    /// How many.
    pub count: usize,
    /// Offset of the first one in the file.
    pub at: u64,
    /// What is there.
    pub found: u8,
    /// What should be there.
    pub want: u8,
}

impl Truth {
    /// Returns the length of the file.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Repeated { len, .. } => *len,
        }
    }

    /// Tells whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Compares bytes that were found at `offset`; behind the end there are none.
    ///
    /// # Errors
    /// [`Wrong`] with the first difference.
    pub fn check(&self, offset: u64, found: &[u8]) -> Result<(), Wrong> {
        let (mut at, mut rest) = (offset, found);
        while !rest.is_empty() {
            let want = self.run_at(at, rest.len());
            let (now, later) = rest.split_at(want.len().max(1).min(rest.len()));
            if now != want {
                return Err(difference(at, now, want));
            }
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Returns up to `len` bytes in a row from `offset` on.
    fn run_at(&self, offset: u64, len: usize) -> &[u8] {
        let left = usize::try_from(self.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let (bytes, start) = match self {
            Self::Bytes(bytes) => (bytes, offset.min(bytes.len() as u64)),
            Self::Repeated { block, .. } => (block, offset % block.len() as u64),
        };
        let start = usize::try_from(start).expect("less than a slice length");
        let end = bytes.len().min(start.saturating_add(len.min(left)));
        &bytes[start..end]
    }
}

fn difference(at: u64, found: &[u8], want: &[u8]) -> Wrong {
    // A byte behind the end is one too much, whatever it is.
    let want_at = |index: usize| want.get(index).copied();
    let differs = |(index, byte): &(usize, &u8)| want_at(*index) != Some(**byte);
    let count = found.iter().enumerate().filter(differs).count();
    let first = found.iter().enumerate().find(differs);
    let (index, found) = first.map_or((0, 0), |(index, byte)| (index, *byte));
    Wrong { count, at: at + index as u64, found, want: want_at(index).unwrap_or(0) }
}

/// Returns noise that begins with a line of name and version.
///
/// # Panics
/// If `len` is too short for that line.
pub fn versioned(name: &str, version: u64, len: usize) -> Vec<u8> {
    let head = format!("{name} {version}\n");
    assert!(head.len() <= MAX_HEAD.min(len), "{name} is too long for its file");
    let mut bytes = noise(head.bytes().fold(version, |a, b| a.rotate_left(7) ^ u64::from(b)), len);
    bytes[..head.len()].copy_from_slice(head.as_bytes());
    bytes
}

/// Returns `len` bytes that follow from the seed. Half of each page can be compressed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut bytes = vec![0; len];
    for page in bytes.chunks_mut(4096) {
        let fresh = page.len().div_ceil(2);
        random.fill_bytes(&mut page[..fresh]);
        let byte = page[0];
        page[fresh..].fill(byte);
    }
    bytes
}

/// One file and what it held and holds.
#[derive(Debug)]
pub(super) struct Volume {
    pub(super) name: String,
    /// Whether its content begins with its version.
    pub(super) changes: bool,
    /// Version 1 first.
    versions: RwLock<Vec<Truth>>,
    /// Who opens it from now on must see this version or a later one.
    floor: AtomicU64,
}

impl Volume {
    pub(super) fn version(&self, version: u64) -> Option<Truth> {
        let index = usize::try_from(version.checked_sub(1)?).ok()?;
        self.versions.read().unwrap_or_else(PoisonError::into_inner).get(index).cloned()
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor.load(Ordering::SeqCst)
    }
}

/// All files that readers may open.
#[derive(Debug)]
pub struct Library {
    root: PathBuf,
    pub(super) volumes: Vec<Volume>,
}

impl Library {
    /// Starts without files; names are paths below `root`.
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned(), volumes: Vec::new() }
    }

    /// Adds a file that stays as it is.
    pub fn add(&mut self, name: &str, truth: Truth) {
        self.put(name, false, truth);
    }

    /// Adds a file that changes; its content is of [`versioned`] with this name and version 1.
    pub fn add_changing(&mut self, name: &str, bytes: &[u8]) {
        self.put(name, true, Truth::Bytes(bytes.into()));
    }

    fn put(&mut self, name: &str, changes: bool, truth: Truth) {
        let (name, floor) = (name.to_owned(), AtomicU64::new(1));
        self.volumes.push(Volume { name, changes, versions: RwLock::new(vec![truth]), floor });
    }

    /// Adds the next version of a file, before anybody can see it.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn next_version(&self, name: &str, bytes: &[u8]) {
        let volume = self.volumes.iter().find(|volume| volume.name == name).expect("a known file");
        let mut versions = volume.versions.write().unwrap_or_else(PoisonError::into_inner);
        versions.push(Truth::Bytes(bytes.into()));
    }

    /// From now on, whoever opens a file that changes must see this version or a later one.
    pub fn demand(&self, version: u64) {
        for volume in self.volumes.iter().filter(|volume| volume.changes) {
            volume.floor.store(version, Ordering::SeqCst);
        }
    }

    pub(super) fn path(&self, volume: &Volume) -> PathBuf {
        self.root.join(&volume.name)
    }
}
