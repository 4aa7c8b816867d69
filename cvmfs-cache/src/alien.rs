//! [`AlienCache`]: a directory in the layout of upstream's client (spec/cache.md sections 2, 8.1).
//!
//! For directories that clients of both kinds fill and read, often on a cluster file system, and
//! for those that `cvmfs_preload` or our `preload` filled. Nothing is evicted; whoever owns the
//! directory cleans it. Any number of clients on any number of machines may use it: correctness
//! rests on `link` and `rename` alone, and removing files is harmless at any time.
//!
//! What upstream stored carries no checksum and is trusted, as upstream does: the size is compared
//! with the catalog's, and objects that are stored uncompressed are hashed on first open. What we
//! stored carries a checksum beside the bytes, which upstream does not see.

use std::fs::File;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use cvmfs_core::cache::{
    CacheError, CacheHealth, CacheUsage, CachedObject, Condition, MemoryCache, ObjectCache,
    ObjectMeta, Transaction,
};
use cvmfs_core::decode::CheckedBody;
use cvmfs_core::hash::{ContentHash, Hasher};
use cvmfs_core::object::{Compression, ObjectId};
use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::checksum::{self, Verdict};
use crate::condition;
use crate::layout::{failed, open_beneath, random};
use crate::quota::Partition;
use crate::safe_path::{self, PRIVATE};

/// Of the skeleton and of files.
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o770);
const FILE_MODE: Mode = Mode::from_bits_truncate(0o660);
/// Upstream's spelling.
const QUARANTINE: &str = "quarantaine";
const TRANSACTIONS: &str = "txn";
/// By which upstream knows a cache directory.
const SENTINEL: &str = ".cvmfscache";
/// In front of the names of records, which upstream does not have.
const RECORD_PREFIX: &str = "cvmfs-fuse.";
/// Longest record that is read.
const MAX_RECORD_LEN: u64 = 4 << 20;
/// Longest breadcrumb, as upstream reads it.
const MAX_BREADCRUMB_LEN: u64 = 164;
/// Files of which it is remembered that they were verified.
const MAX_VERIFIED: NonZeroUsize = NonZeroUsize::new(1 << 16).expect("not zero");
/// Bytes hashed at a time.
const PIECE_LEN: usize = 128 * 1024;

/// What upstream remembers of the revision it showed last (spec/cache.md section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breadcrumb {
    /// Root catalog.
    pub root: ContentHash,
    /// When it was published, Unix seconds.
    pub published: u64,
    /// Its number.
    pub revision: u64,
}

/// A store in upstream's layout.
pub struct AlienCache {
    state: Arc<State>,
    records: Option<Arc<dyn ObjectCache>>,
}

struct State {
    directory: PathBuf,
    root: OwnedFd,
    read_only: bool,
    unnamed: AtomicBool,
    /// Serves what cannot be stored.
    passing: MemoryCache,
    failing: AtomicBool,
    /// For one reading each: the same file is right for one of the two only.
    verified: Mutex<LruCache<(u64, Compression), (i64, i64)>>,
}

impl AlienCache {
    /// Opens a directory; makes what is missing of the skeleton, if it can be written.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, CacheError> {
        let directory = directory.as_ref().to_owned();
        // Whom it is shared with is for its owner to say, by its mode.
        let unusable = || failed("use alien cache", &directory);
        let (root, _) =
            safe_path::make_directories(&directory, PRIVATE, PRIVATE).map_err(unusable())?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(root, ".", flags, Mode::empty())
            .map_err(std::io::Error::from)
            .map_err(unusable())?;
        let read_only = match skeleton(&root) {
            Ok(()) => false,
            Err(Errno::ROFS | Errno::ACCESS | Errno::PERM) => {
                tracing::info!(directory = %directory.display(), "the alien cache can only be read");
                true
            }
            Err(error) => return Err(failed("make directories in", &directory)(error)),
        };
        let state = State {
            directory,
            root,
            read_only,
            unnamed: AtomicBool::new(true),
            passing: MemoryCache::with_limit(0),
            failing: AtomicBool::new(false),
            verified: Mutex::new(LruCache::new(MAX_VERIFIED)),
        };
        Ok(Self { state: Arc::new(state), records: None })
    }

    /// Also keeps records in another store, which only this machine has.
    pub fn with_records(mut self, records: Arc<dyn ObjectCache>) -> Self {
        self.records = Some(records);
        self
    }

    /// Tells whether nothing can be stored.
    pub fn is_read_only(&self) -> bool {
        self.state.read_only
    }

    /// Returns what upstream's client or preloader said about a repository.
    pub fn breadcrumb(&self, fqrn: &str) -> Option<Breadcrumb> {
        let text = self.state.read(&breadcrumb_name(fqrn), MAX_BREADCRUMB_LEN).ok()??;
        parse_breadcrumb(std::str::from_utf8(&text).ok()?)
    }

    /// Says it to upstream's client, as the last step of filling the cache.
    pub fn set_breadcrumb(&self, fqrn: &str, breadcrumb: Breadcrumb) -> Result<(), CacheError> {
        let Breadcrumb { root, published, revision } = breadcrumb;
        let text = format!("{root}T{published}R{revision}");
        self.state.replace(&breadcrumb_name(fqrn), text.as_bytes())
    }
}

fn breadcrumb_name(fqrn: &str) -> String {
    format!("cvmfschecksum.{fqrn}")
}

fn parse_breadcrumb(text: &str) -> Option<Breadcrumb> {
    let (root, rest) = text.split_once('T')?;
    let (published, revision) = rest.split_once('R').unwrap_or((rest, "0"));
    let published = published.parse().ok().filter(|&time: &u64| time > 0)?;
    let revision = revision.parse().ok().filter(|&number: &u64| number != u64::MAX)?;
    Some(Breadcrumb { root: root.parse().ok()?, published, revision })
}

/// Returns the name of an object: no suffix, and no difference between the two readings of a hash.
fn object_name(id: &ObjectId) -> String {
    let text = id.hash.to_string();
    let (directory, rest) = text.split_at(2);
    format!("{directory}/{rest}")
}

fn skeleton(root: &OwnedFd) -> Result<(), Errno> {
    make_directory(root, TRANSACTIONS)?;
    make_directory(root, QUARANTINE)?;
    for fan in 0..=u8::MAX {
        make_directory(root, &format!("{fan:02x}"))?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat(root, SENTINEL, flags, FILE_MODE) {
        Ok(sentinel) => rustix::fs::fchmod(sentinel, FILE_MODE),
        // It keeps its mode, whatever it is; opened only to see whether this can be written at all.
        Err(Errno::EXIST) => {
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            match rustix::fs::openat(root, SENTINEL, flags, Mode::empty()) {
                Err(error @ (Errno::ROFS | Errno::ACCESS | Errno::PERM)) => Err(error),
                _ => Ok(()),
            }
        }
        Err(error) => Err(error),
    }
}

fn make_directory(root: &OwnedFd, name: &str) -> Result<(), Errno> {
    match safe_path::make_at(root.as_fd(), Path::new(name), DIRECTORY_MODE.bits()) {
        Ok(_) => Ok(()),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::EXIST) => Ok(()),
            errno => Err(errno.unwrap_or(Errno::IO)),
        },
    }
}

impl State {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn open(&self, name: &str, flags: OFlags) -> Result<File, Errno> {
        open_beneath(self.root.as_fd(), name, flags, FILE_MODE).map(File::from)
    }

    fn must_verify(&self, id: &ObjectId, file: &File) -> bool {
        let Ok(found) = file.metadata() else { return true };
        let changed = (found.ctime(), found.ctime_nsec());
        self.verified.lock().get(&(found.ino(), id.compression)) != Some(&changed)
    }

    fn remember(&self, id: &ObjectId, file: &File) {
        if let Ok(found) = file.metadata() {
            let changed = (found.ctime(), found.ctime_nsec());
            self.verified.lock().put((found.ino(), id.compression), changed);
        }
    }

    /// Looks whether the bytes are those of the object, as far as anybody can tell.
    fn is_right(&self, id: &ObjectId, file: &File, size: u64) -> std::io::Result<bool> {
        Ok(match (checksum::verify(file, size)?, id.compression) {
            (Verdict::Wrong, _) => false,
            // Compressed it was checked when it was stored, by whomever; but these may be the
            // compressed bytes themselves, which somebody stored as they are.
            (Verdict::Right | Verdict::Unknown, Compression::Zlib) => {
                !begins_like_zlib(file)? || hash_of(id, file)? != id.hash
            }
            // The name says nothing about the reading: the hash must be that of these bytes.
            (_, Compression::None) => hash_of(id, file)? == id.hash,
        })
    }

    fn set_aside(&self, id: &ObjectId) -> Result<(), Errno> {
        let name = object_name(id);
        let aside = format!("{QUARANTINE}/{}", id.hash);
        match rustix::fs::renameat(&self.root, &name, &self.root, &aside) {
            Err(Errno::NOENT) | Ok(()) => Ok(()),
            // A directory and a file cannot take each other's place.
            Err(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                let aside = format!("{aside}.{:016x}", random());
                rustix::fs::renameat(&self.root, &name, &self.root, &aside)
            }
            Err(error) => Err(error),
        }
    }

    /// Tells whether the object is there already, so that it need not be replaced.
    fn is_stored(&self, id: &ObjectId, size: u64) -> bool {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let Ok(file) = self.open(&object_name(id), flags) else { return false };
        let fits = file.metadata().is_ok_and(|found| found.is_file() && found.len() == size);
        fits && (!self.must_verify(id, &file) || self.is_right(id, &file, size).unwrap_or(false))
    }

    fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, CacheError> {
        use std::io::Read as _;
        let path = self.path(name);
        let file = match self.open(name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).map_err(failed("read", &path))?;
        Ok(Some(bytes))
    }

    /// Replaces a small file.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), CacheError> {
        let path = self.path(name);
        let temporary = format!("{TRANSACTIONS}/{name}.{:016x}", random());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mut file = self.open(&temporary, flags).map_err(failed("create", &path))?;
        let written = rustix::fs::fchmod(&file, FILE_MODE)
            .map_err(std::io::Error::from)
            .and_then(|()| file.write_all(bytes))
            .and_then(|()| Ok(rustix::fs::renameat(&self.root, &temporary, &self.root, name)?));
        if written.is_err() {
            let _ = rustix::fs::unlinkat(&self.root, &temporary, AtFlags::empty());
        }
        written.map_err(failed("write", &path))
    }

    fn failed(&self, action: &'static str, error: &dyn std::fmt::Display) {
        if !self.failing.swap(true, Ordering::Relaxed) {
            let directory = self.directory.display();
            tracing::warn!(%directory, action, %error, "the alien cache fails; objects are served from memory");
        }
    }

    /// Makes a file that is being written.
    fn begin(&self) -> Result<(File, Option<String>), Errno> {
        if self.unnamed.load(Ordering::Relaxed) {
            match self.open(TRANSACTIONS, OFlags::RDWR | OFlags::TMPFILE) {
                Ok(file) => return Ok((file, None)),
                // Cluster file systems do not know it.
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                    self.unnamed.store(false, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        let name = format!("{TRANSACTIONS}/fetch{:016x}", random());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        Ok((self.open(&name, flags)?, Some(name)))
    }
}

/// Tells whether a file could be a zlib stream (RFC 1950), so that it is worth a hash.
fn begins_like_zlib(file: &File) -> std::io::Result<bool> {
    use std::os::unix::fs::FileExt as _;
    let mut header = [0; 2];
    let n = file.read_at(&mut header, 0)?;
    Ok(n == 2 && header[0] & 0x0f == 8 && u16::from_be_bytes(header) % 31 == 0)
}

fn hash_of(id: &ObjectId, file: &File) -> std::io::Result<ContentHash> {
    use std::os::unix::fs::FileExt as _;
    let mut hasher = Hasher::new(id.hash.algorithm());
    let mut buffer = vec![0; PIECE_LEN];
    let mut offset = 0;
    loop {
        let n = file.read_at(&mut buffer, offset)?;
        if n == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..n]);
        offset += n as u64;
    }
}

impl ObjectCache for AlienCache {
    fn open(&self, id: &ObjectId) -> Result<Option<CachedObject>, CacheError> {
        let state = &self.state;
        let name = object_name(id);
        let path = state.path(&name);
        let file = match state.open(&name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let found = file.metadata().map_err(failed("look at", &path))?;
        let refuse = |reason: &str| {
            tracing::warn!(object = %id, reason, "no object under its name in the alien cache");
            let _ = state.set_aside(id);
        };
        if !found.is_file() {
            refuse("not a regular file");
            return Ok(None);
        }
        if state.must_verify(id, &file) {
            if !state.is_right(id, &file, found.len()).map_err(failed("read", &path))? {
                refuse("its bytes are not those of the object");
                return Ok(None);
            }
            state.remember(id, &file);
        }
        Ok(Some(CachedObject::from_file(file, found.len(), Some(path))))
    }

    fn begin(&self, id: &ObjectId, meta: &ObjectMeta) -> Result<Box<dyn Transaction>, CacheError> {
        let state = Arc::clone(&self.state);
        if state.read_only {
            return state.passing.begin(id, meta);
        }
        match state.begin() {
            Ok((file, name)) => {
                let hasher = blake3::Hasher::new();
                Ok(Box::new(AlienTransaction { id: *id, file, name, written: 0, hasher, state }))
            }
            Err(error) => {
                state.failed("store", &error);
                state.passing.begin(id, meta)
            }
        }
    }

    fn discard(&self, id: &ObjectId) -> Result<(), CacheError> {
        let path = self.state.path(&object_name(id));
        self.state.set_aside(id).map_err(failed("set aside", &path))
    }

    fn examine(&self, id: &ObjectId, end: Instant) -> Result<Condition, CacheError> {
        let name = object_name(id);
        let path = self.state.path(&name);
        let file = match self.state.open(&name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
        {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(Condition::Absent),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let found = file.metadata().map_err(failed("look at", &path))?;
        let mut judged = Condition::Damaged;
        if found.is_file() {
            let bytes =
                condition::read(id, &file, found.len(), end).map_err(failed("read", &path))?;
            // Somebody may have stored the compressed bytes as they are.
            let is_raw = id.compression == Compression::Zlib
                && bytes.as_ref().is_some_and(|bytes| bytes.hash == id.hash);
            if !is_raw {
                judged = condition::judge(id, &file, bytes.as_ref());
            }
        }
        if judged == Condition::Damaged {
            tracing::warn!(object = %id, "no object under its name in the alien cache");
            self.discard(id)?;
        }
        Ok(judged)
    }

    fn usage(&self) -> CacheUsage {
        Partition::of(&self.state.root).map_or_else(CacheUsage::default, |partition| CacheUsage {
            used: partition.size.saturating_sub(partition.free),
            limit: partition.size,
        })
    }

    fn health(&self) -> CacheHealth {
        let failing = self.state.failing.load(Ordering::Relaxed);
        CacheHealth { failures: u64::from(failing), failing, ..CacheHealth::default() }
    }

    fn load_record(&self, name: &str) -> Result<Option<Vec<u8>>, CacheError> {
        if let Some(records) = &self.records
            && let Ok(Some(record)) = records.load_record(name)
        {
            return Ok(Some(record));
        }
        self.state.read(&format!("{RECORD_PREFIX}{name}"), MAX_RECORD_LEN)
    }

    fn update_record(
        &self,
        name: &str,
        change: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Vec<u8>>,
    ) -> Result<(), CacheError> {
        let here = format!("{RECORD_PREFIX}{name}");
        let outcome = match &self.records {
            Some(records) => records.update_record(name, change),
            None => Ok(()),
        };
        if self.state.read_only {
            return outcome;
        }
        // No lock that all file systems have: of two writers the later one wins.
        match change(self.state.read(&here, MAX_RECORD_LEN).unwrap_or(None)) {
            Some(new) => outcome.and(self.state.replace(&here, &new)),
            None => outcome,
        }
    }
}

struct AlienTransaction {
    id: ObjectId,
    file: File,
    name: Option<String>,
    written: u64,
    hasher: blake3::Hasher,
    state: Arc<State>,
}

impl AlienTransaction {
    fn place(&mut self) -> Result<(), Errno> {
        let target = object_name(&self.id);
        // Its directory may have been removed by tmpwatch.
        let directory = &target[..2];
        make_directory(&self.state.root, directory)?;
        let state = &self.state;
        let from = match &self.name {
            Some(name) => name.clone(),
            None => {
                match self.link(&target) {
                    Err(Errno::EXIST) if state.is_stored(&self.id, self.written) => return Ok(()),
                    Err(Errno::EXIST) => {}
                    other => return other,
                }
                // Damaged, or the other reading of the hash: whoever opens our path again must
                // find our bytes.
                let name = format!("{TRANSACTIONS}/fetch{:016x}", random());
                self.link(&name)?;
                self.name.insert(name).clone()
            }
        };
        let replace = || rustix::fs::renameat(&state.root, &from, &state.root, &target);
        match replace() {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                state.set_aside(&self.id)?;
                replace()?;
            }
            other => other?,
        }
        self.name = None;
        Ok(())
    }

    /// Gives a file without a name its first one.
    fn link(&self, name: &str) -> Result<(), Errno> {
        let proc = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(CWD, proc, &self.state.root, name, AtFlags::SYMLINK_FOLLOW)
    }
}

impl Transaction for AlienTransaction {
    fn write(&mut self, piece: &[u8]) -> Result<(), CacheError> {
        self.file.write_all(piece).map_err(|error| {
            self.state.failed("write", &error);
            failed("write", &self.state.path(&object_name(&self.id)))(error)
        })?;
        self.hasher.update(piece);
        self.written += piece.len() as u64;
        Ok(())
    }

    fn commit(mut self: Box<Self>, proof: CheckedBody) -> Result<CachedObject, CacheError> {
        proof.must_match(&self.id, self.written)?;
        let path = self.state.path(&object_name(&self.id));
        let broken = |error| failed("complete", &path)(error);
        checksum::write(&self.file, &self.hasher.finalize()).map_err(broken)?;
        rustix::fs::fchmod(&self.file, FILE_MODE).map_err(broken)?;
        let reader = match &self.name {
            Some(name) => self.state.open(name, OFlags::RDONLY).map_err(broken)?,
            None => File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
                .map_err(failed("complete", &path))?,
        };
        if let Err(error) = self.place() {
            // Readable all the same, by those who have it.
            self.state.failed("name an object", &error);
            return Ok(CachedObject::from_file(reader, self.written, None));
        }
        self.state.failing.store(false, Ordering::Relaxed);
        self.state.remember(&self.id, &reader);
        Ok(CachedObject::from_file(reader, self.written, Some(path)))
    }
}

impl Drop for AlienTransaction {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = rustix::fs::unlinkat(&self.state.root, name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breadcrumbs() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        let full = parse_breadcrumb(&format!("{hash}-rmd160T1700000000R4711")).unwrap();
        assert_eq!((full.published, full.revision), (1_700_000_000, 4711));
        assert_eq!(full.root.to_string(), format!("{hash}-rmd160"));
        assert_eq!(parse_breadcrumb(&format!("{hash}T5")).unwrap().revision, 0);
        for bad in ["", hash, "T1R1"] {
            assert_eq!(parse_breadcrumb(bad), None);
        }
        for bad in ["T0R1", "TxR1", "T1R18446744073709551615", "T1Rx"] {
            assert_eq!(parse_breadcrumb(&format!("{hash}{bad}")), None, "{bad}");
        }
        let scratch = tempfile::tempdir().unwrap();
        let cache = AlienCache::open(scratch.path()).unwrap();
        assert_eq!(cache.breadcrumb("a.b"), None);
        cache.set_breadcrumb("a.b", full).unwrap();
        assert_eq!(cache.breadcrumb("a.b"), Some(full));
        let text = std::fs::read_to_string(scratch.path().join("cvmfschecksum.a.b")).unwrap();
        assert_eq!(text, format!("{hash}-rmd160T1700000000R4711"));
    }

    #[test]
    fn the_skeleton_is_upstreams() {
        use std::os::unix::fs::PermissionsExt as _;
        let scratch = tempfile::tempdir().unwrap();
        let cache = AlienCache::open(scratch.path().join("new")).unwrap();
        assert!(!cache.is_read_only());
        for name in ["00", "7f", "ff", "txn", "quarantaine"] {
            let found = scratch.path().join("new").join(name).metadata().unwrap();
            assert_eq!(found.permissions().mode() & 0o7777, 0o770, "{name}");
        }
        assert!(scratch.path().join("new/.cvmfscache").exists());
    }
}
