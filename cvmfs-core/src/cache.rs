//! The contract of a store for objects; `cvmfs-cache` implements it on disk.
//!
//! | store | module | holds objects |
//! |---|---|---|
//! | [`MemoryCache`] | `memory` | in memory, up to a bound |
//! | [`TieredCache`] | `tiered` | in one store over another, copied up when they are used |
//! | [`StreamingCache`] | `streaming` | in the store below, all but the content of files |
//! | `DiskCache`, `AlienCache`, `BrokeredCache` | crate `cvmfs-cache` | in directories, shared |
//!
//! Objects are stored as plain (inflated) bytes under their [`ObjectId`] and never change. A
//! transaction can only be committed with a [`CheckedBody`], which only the decoder makes, and
//! only after hash and size were right: unchecked bytes cannot get a name.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::decode::CheckedBody;
use crate::descriptors::is_out_of_descriptors;
use crate::object::ObjectId;

mod kernel;
mod memory;
mod streaming;
mod tiered;

pub use memory::MemoryCache;
pub use streaming::StreamingCache;
pub use tiered::{LowerUse, TieredCache};

/// What went wrong in a store. A reader never sees these: the fetcher serves from memory instead.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The proof of a check does not belong to this transaction.
    #[error("body of {body} offered for object {expected}")]
    WrongBody {
        /// The object of the transaction.
        expected: ObjectId,
        /// The object whose body was checked.
        body: ObjectId,
    },
    /// Another size was written than was checked.
    #[error("{written} bytes written of object {id}, {checked} checked")]
    WrongSize {
        /// The object.
        id: ObjectId,
        /// Bytes written.
        written: u64,
        /// Bytes checked.
        checked: u64,
    },
}

impl CacheError {
    /// Tells whether the call failed only because the process or the machine has no descriptor
    /// left.
    pub fn is_out_of_descriptors(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_out_of_descriptors(source))
    }
}

/// What a store may want to know about an object at commit.
#[derive(Debug, Clone, Default)]
pub struct ObjectMeta {
    /// Size of the plain bytes if a verified catalog or manifest states it.
    pub size: Option<u64>,
    /// For people: path or role of the object.
    pub label: String,
    /// The repository asks for early eviction.
    pub volatile: bool,
}

/// How full a store is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheUsage {
    /// Bytes in use.
    pub used: u64,
    /// The limit, or what the partition can still take.
    pub limit: u64,
}

/// The right to download an object, among all who share a store.
pub enum Claim {
    /// Nobody else should, until this is dropped.
    Ours(Box<dyn Send + Sync>),
    /// Somebody else does: it may be here soon.
    Taken,
    /// The store does not know of others.
    Unknown,
}

/// Whether a store does its work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheHealth {
    /// Times it failed to store or to give an object, which was then served without it.
    pub failures: u64,
    /// Objects found damaged, and fetched again.
    pub damaged: u64,
    /// It fails now.
    pub failing: bool,
}

/// What a look at every byte of a stored object says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It is not stored.
    Absent,
    /// It is what was stored.
    Sound,
    /// It is not.
    Damaged,
    /// Nobody can tell: it carries no checksum, and its hash is that of compressed bytes.
    Unknown,
}

/// A store for immutable objects. All calls may block on the disk, none on the network.
pub trait ObjectCache: Send + Sync + 'static {
    /// Opens a stored object; `None` if it is not there or was found damaged and removed.
    fn open(&self, id: &ObjectId) -> Result<Option<CachedObject>, CacheError>;

    /// Starts to store an object. Dropping the transaction leaves no trace.
    fn begin(&self, id: &ObjectId, meta: &ObjectMeta) -> Result<Box<dyn Transaction>, CacheError>;

    /// Removes an object found to be damaged; open descriptors stay valid. Absence is no error.
    fn discard(&self, id: &ObjectId) -> Result<(), CacheError>;

    /// Reads all of a stored object, not counted as a use, and compares it with what was stored; a
    /// damaged one is removed. At `end` it gives up with [`io::ErrorKind::TimedOut`].
    ///
    /// A store that keeps nothing to compare with cannot tell.
    fn examine(&self, id: &ObjectId, _end: Instant) -> Result<Condition, CacheError> {
        Ok(self.open(id)?.map_or(Condition::Absent, |_| Condition::Unknown))
    }

    /// Keeps an object from being evicted for as long as the pin lives, in all processes that
    /// share the store. Not a promise: a store may have no room for it, or know no eviction.
    fn pin(&self, _id: &ObjectId) -> Pin {
        Pin::none()
    }

    /// Claims the download of an object that is not here.
    fn claim(&self, _id: &ObjectId) -> Claim {
        Claim::Unknown
    }

    /// Tells how full the store is.
    fn usage(&self) -> CacheUsage;

    /// Tells whether the store does its work.
    fn health(&self) -> CacheHealth {
        CacheHealth::default()
    }

    /// Returns the small record that is kept under a name beside the objects. A store that keeps
    /// none says `None`.
    fn load_record(&self, _name: &str) -> Result<Option<Vec<u8>>, CacheError> {
        Ok(None)
    }

    /// Replaces a record atomically by what `change` makes of the present one; `None` leaves it.
    /// Processes that share the store do this one after the other.
    fn update_record(
        &self,
        _name: &str,
        _change: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Vec<u8>>,
    ) -> Result<(), CacheError> {
        Ok(())
    }
}

/// Keeps an object in its store until it is dropped.
pub struct Pin(Option<Box<dyn Send + Sync>>);

impl Pin {
    /// Pins nothing.
    pub fn none() -> Self {
        Self(None)
    }

    /// Wraps whatever must be dropped to release the object.
    pub fn new(guard: impl Send + Sync + 'static) -> Self {
        Self(Some(Box::new(guard)))
    }

    /// Tells whether anything is pinned.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pin({})", self.is_some())
    }
}

/// One object on its way into a store.
pub trait Transaction: Send {
    /// Sees the stored bytes, before they are decoded and written. Only a store that believes
    /// nobody but itself has a use for them.
    fn stored(&mut self, _piece: &[u8]) {}

    /// Appends plain bytes.
    fn write(&mut self, piece: &[u8]) -> Result<(), CacheError>;

    /// Gives the object its final name. The proof must be for the same object and size.
    fn commit(self: Box<Self>, proof: CheckedBody) -> Result<CachedObject, CacheError>;
}

/// An object that was checked and can be read. Clones share one descriptor or buffer.
#[derive(Debug, Clone)]
pub struct CachedObject {
    store: Store,
    len: u64,
    pin: Option<Arc<Pin>>,
    place: Option<Arc<ExactPlace>>,
}

/// An open directory, and the name of a file below it.
#[derive(Debug)]
struct ExactPlace {
    directory: Arc<OwnedFd>,
    name: PathBuf,
}

#[derive(Debug, Clone)]
enum Store {
    File { file: Arc<File>, path: Option<Arc<Path>> },
    Memory(Bytes),
}

impl CachedObject {
    /// Wraps an open file of `len` bytes; `path` is where it can be opened again, if it has a name.
    pub fn from_file(file: File, len: u64, path: Option<PathBuf>) -> Self {
        Self {
            store: Store::File { file: Arc::new(file), path: path.map(Arc::from) },
            len,
            pin: None,
            place: None,
        }
    }

    /// Adds the open directory that the file has a name below. It says which file is meant also when somebody
    /// exchanges directories on its path.
    pub fn placed(mut self, directory: Arc<OwnedFd>, name: PathBuf) -> Self {
        self.place = Some(Arc::new(ExactPlace { directory, name }));
        self
    }

    /// Returns a path that goes through the open directory, for [`crate::exact_names`]; valid in this process for
    /// as long as the object or a clone of it lives. Without a directory it is [`CachedObject::path`].
    pub fn exact_path(&self) -> Option<PathBuf> {
        match &self.place {
            Some(place) => {
                let directory = place.directory.as_raw_fd();
                Some(PathBuf::from(format!("/proc/self/fd/{directory}")).join(&place.name))
            }
            None => self.path().map(Path::to_owned),
        }
    }

    /// Wraps bytes in memory.
    pub fn from_memory(bytes: Bytes) -> Self {
        Self { len: bytes.len() as u64, store: Store::Memory(bytes), pin: None, place: None }
    }

    /// Holds a pin for as long as this object or a clone of it lives.
    pub fn pinned(mut self, pin: Pin) -> Self {
        self.pin = pin.is_some().then(|| Arc::new(pin));
        self
    }

    /// Returns the size in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Tells whether the object has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the name of the file, if the object is one.
    pub fn path(&self) -> Option<&Path> {
        match &self.store {
            Store::File { path, .. } => path.as_deref(),
            Store::Memory(_) => None,
        }
    }

    /// Returns the open file, if the object is one.
    pub fn file(&self) -> Option<&Arc<File>> {
        match &self.store {
            Store::File { file, .. } => Some(file),
            Store::Memory(_) => None,
        }
    }

    /// Tells whether both share one descriptor or buffer. The same object opened twice does not.
    pub fn is_clone_of(&self, other: &Self) -> bool {
        match (&self.store, &other.store) {
            (Store::File { file: ours, .. }, Store::File { file: theirs, .. }) => {
                Arc::ptr_eq(ours, theirs)
            }
            (Store::Memory(ours), Store::Memory(theirs)) => {
                (ours.as_ptr(), ours.len()) == (theirs.as_ptr(), theirs.len())
            }
            _ => false,
        }
    }

    /// Fills `buffer` from `offset` on; returns less than its length only at the end of the object.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.store {
            Store::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let piece = &bytes[start..];
                let n = piece.len().min(buffer.len());
                buffer[..n].copy_from_slice(&piece[..n]);
                Ok(n)
            }
            Store::File { file, .. } => {
                let mut done = 0;
                while done < buffer.len() {
                    match file.read_at(&mut buffer[done..], offset + done as u64) {
                        Ok(0) => break,
                        Ok(n) => done += n,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(done)
            }
        }
    }

    /// Reads the whole object; refuses more than `limit` bytes.
    pub fn read_all(&self, limit: u64) -> io::Result<Bytes> {
        if self.len > limit {
            return Err(io::Error::other(format!("object of {} bytes, limit {limit}", self.len)));
        }
        if let Store::Memory(bytes) = &self.store {
            return Ok(bytes.clone());
        }
        let mut buffer = vec![0; usize::try_from(self.len).map_err(io::Error::other)?];
        let n = self.read_at(&mut buffer, 0)?;
        buffer.truncate(n);
        Ok(buffer.into())
    }
}
