//! [`DiskCache`]: objects as plain files in one directory.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cvmfs_core::cache::{
    CacheError, CacheHealth, CacheUsage, CachedObject, Claim, Condition, ObjectCache, ObjectMeta,
    Pin, Transaction,
};
use cvmfs_core::decode::CheckedBody;
use cvmfs_core::object::ObjectId;
use rustix::io::Errno;

use crate::checksum::{self, Verdict};
use crate::keeper::Keeper;
use crate::layout::{Layout, OBJECTS, failed, fan_name, fan_of, object_name};
use crate::quota::{Partition, Quota};
use crate::record;
use crate::seal::{self, Found};
use crate::sharing::Sharing;
use crate::store::{CacheStatistics, Store, Verify, is_full};
use crate::transaction::{Naming, TempFile, probe, sweep};

/// Tries to give an object its name while others create, evict or damage things there.
const PLACE_ATTEMPTS: usize = 8;
/// Largest object kept in memory when the disk cannot take it.
const MAX_MEMORY_OBJECT: u64 = 256 << 20;
/// Space asked for when the disk is full: more than one object needs, so that it is asked rarely.
const SHORTAGE: u64 = 16 << 20;

/// How long a writer waits for the keeper when the disk is full.
const SPACE_PAUSE: Duration = Duration::from_millis(20);

/// How a cache is opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskCacheOptions {
    /// How much it may hold.
    pub quota: Quota,
    /// Accept a directory that every user of the machine can write.
    pub trust_anyone: bool,
    /// When content is compared with its checksum.
    pub verify: Verify,
    /// How new files are kept apart; found out by a trial if not given.
    pub naming: Option<Naming>,
}

/// A persistent store in a directory that processes, containers and users may share.
///
/// Objects of all repositories lie side by side under their hashes. Descriptors handed out keep
/// working when the object is evicted or the whole directory is wiped; both only cost a new
/// download. A disk that fails costs the same: what cannot be stored is served from memory.
#[derive(Debug)]
pub struct DiskCache {
    pub(crate) store: Arc<Store>,
    /// Ends, and writes its last news, before the store goes.
    _keeper: Option<Keeper>,
}

impl DiskCache {
    /// Opens the cache in `directory`, which is created if it is missing, with default options.
    ///
    /// # Errors
    ///
    /// [`CacheError::Io`], also for a directory that cannot be written or trusted; the source is
    /// then an [`UnfitDirectory`](crate::UnfitDirectory).
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, CacheError> {
        Self::open_with(directory, DiskCacheOptions::default())
    }

    /// Opens the cache in `directory`. Removes what dead processes left half-written.
    pub fn open_with(
        directory: impl AsRef<Path>,
        options: DiskCacheOptions,
    ) -> Result<Self, CacheError> {
        let mut layout = Arc::new(Layout::create(directory.as_ref(), options.trust_anyone)?);
        let naming = match options.naming {
            Some(naming) => naming,
            None if layout.is_read_only() => Naming::Named,
            None => match probe(&layout) {
                Err(CacheError::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem =>
                {
                    layout = Arc::new(layout.as_read_only());
                    Naming::Named
                }
                other => other?,
            },
        };
        if !layout.is_read_only() {
            match sweep(&layout) {
                Ok(0) => {}
                Ok(removed) => tracing::info!(removed, "removed unfinished objects from the cache"),
                // They take space and do no harm.
                Err(error) => tracing::warn!(%error, "unfinished objects stay in the cache"),
            }
        }
        tracing::debug!(directory = %layout.directory().display(), ?naming, sharing = ?layout.sharing(), "cache opened");
        let store = Arc::new(Store::new(layout, naming, options.quota, options.verify));
        let keeper = match store.session.is_some().then(|| Keeper::start(&store)) {
            Some(Ok(keeper)) => Some(keeper),
            Some(Err(error)) => {
                return Err(failed("start the thread for", store.layout.directory())(error));
            }
            None => None,
        };
        Ok(Self { store, _keeper: keeper })
    }

    /// Returns the directory that was opened.
    pub fn directory(&self) -> &Path {
        self.store.layout.directory()
    }

    /// Returns how files that are being written are kept here.
    pub fn naming(&self) -> Naming {
        self.store.naming
    }

    /// Tells who else may write here.
    pub fn sharing(&self) -> Sharing {
        *self.store.layout.sharing()
    }

    /// Tells whether nothing can be stored.
    pub fn is_read_only(&self) -> bool {
        self.store.layout.is_read_only()
    }

    /// Returns what happened since the cache was opened.
    pub fn statistics(&self) -> &CacheStatistics {
        &self.store.statistics
    }

    /// Sets something aside that is not the object it should be.
    pub(crate) fn refuse(&self, id: &ObjectId, reason: &str, keep: bool) {
        self.store.statistics.damaged.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(object = %id, reason, "no object under its name in the cache; it is fetched again");
        if let Err(error) = self.store.remove_named(&object_name(id), keep) {
            tracing::debug!(object = %id, %error, "it stays, and is not used");
        }
    }
}

impl ObjectCache for DiskCache {
    fn open(&self, id: &ObjectId) -> Result<Option<CachedObject>, CacheError> {
        let store = &self.store;
        let name = format!("{OBJECTS}/{}", object_name(id));
        let path = store.layout.path(&name);
        let (file, found) = match seal::open(&store.layout, &name) {
            Ok(Found::Absent) => return Ok(None),
            Ok(Found::Object(file, found)) => (file, found),
            Ok(Found::Foreign(reason)) => {
                self.refuse(id, reason, true);
                return Ok(None);
            }
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let size = found.len();
        if store.must_verify(&found) {
            match checksum::verify(&file, size).map_err(failed("read", &path))? {
                Verdict::Right => store.remember_verified(&found),
                Verdict::Wrong => {
                    self.refuse(id, "its bytes are not those that were stored", true);
                    return Ok(None);
                }
                Verdict::Unknown => {
                    self.refuse(id, "it has no checksum", false);
                    return Ok(None);
                }
            }
        }
        store.touch(id, size);
        let object = CachedObject::from_file(file, size, Some(path));
        Ok(Some(store.layout.placed(object, id, name)))
    }

    fn begin(&self, id: &ObjectId, meta: &ObjectMeta) -> Result<Box<dyn Transaction>, CacheError> {
        let store = Arc::clone(&self.store);
        let created = match store.layout.is_read_only() {
            true => None,
            false => match TempFile::create(&store.layout, store.naming) {
                Ok(temp) => Some(temp),
                Err(error) => {
                    store.disk_failed("store", &cvmfs_core::chain::chain(&error));
                    None
                }
            },
        };
        let body = created.map_or(Body::Memory(Vec::new()), |temp| Body::File(Box::new(temp)));
        Ok(Box::new(DiskTransaction { id: *id, meta: meta.clone(), body, written: 0, store }))
    }

    fn discard(&self, id: &ObjectId) -> Result<(), CacheError> {
        self.store.remove(id)
    }

    fn examine(&self, id: &ObjectId, end: Instant) -> Result<Condition, CacheError> {
        self.look_through(id, end)
    }

    fn pin(&self, id: &ObjectId) -> Pin {
        let Some(session) = &self.store.session else { return Pin::none() };
        let name = object_name(id);
        session.pin(&name);
        Pin::new(Pinned { store: Arc::clone(&self.store), name })
    }

    fn claim(&self, id: &ObjectId) -> Claim {
        self.store.claims.as_ref().map_or(Claim::Unknown, |claims| claims.claim(id))
    }

    fn usage(&self) -> CacheUsage {
        let used = self.store.gauge.read().bytes;
        let limit = self.store.limits().map(|limits| limits.quota).unwrap_or_else(|| {
            let partition = Partition::of(&self.store.layout.root());
            used.saturating_add(partition.map_or(0, |partition| partition.free))
        });
        CacheUsage { used, limit }
    }

    fn health(&self) -> CacheHealth {
        let statistics = &self.store.statistics;
        CacheHealth {
            failures: statistics.failures.load(Ordering::Relaxed),
            damaged: statistics.damaged.load(Ordering::Relaxed),
            failing: self.store.is_failing(),
        }
    }

    fn load_record(&self, name: &str) -> Result<Option<Vec<u8>>, CacheError> {
        record::load(&self.store.layout, name)
    }

    fn update_record(
        &self,
        name: &str,
        change: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Vec<u8>>,
    ) -> Result<(), CacheError> {
        // Somebody may have wiped the cache under a live mount.
        self.store.layout.restore()?;
        record::update(&self.store.layout, name, change)
    }
}

/// A pin of this process.
struct Pinned {
    store: Arc<Store>,
    name: String,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(session) = &self.store.session {
            session.unpin(&self.name);
        }
    }
}

/// Where the bytes of a transaction are.
enum Body {
    File(Box<TempFile>),
    /// The disk failed.
    Memory(Vec<u8>),
}

struct DiskTransaction {
    id: ObjectId,
    meta: ObjectMeta,
    body: Body,
    written: u64,
    store: Arc<Store>,
}

impl DiskTransaction {
    /// Gives the file its name, or returns the same object that has it already.
    fn place(&self, temp: &mut TempFile) -> Result<Option<CachedObject>, CacheError> {
        let layout = &self.store.layout;
        let name = format!("{OBJECTS}/{}", object_name(&self.id));
        let file = name.rsplit('/').next().unwrap_or_default();
        let mut last = Errno::EXIST;
        for _ in 0..PLACE_ATTEMPTS {
            let fan = layout.fan(fan_of(&self.id))?;
            let Err(error) = temp.place(fan.as_fd(), file) else { return Ok(None) };
            match error {
                Errno::NOENT => layout.restore()?,
                Errno::NOTDIR => layout.remove_foreign(&fan_name(fan_of(&self.id)))?,
                Errno::EXIST => {
                    if let Some(theirs) = self.theirs(&name)? {
                        return Ok(Some(theirs));
                    }
                }
                error => return Err(failed("name", &layout.path(&name))(error)),
            }
            last = error;
        }
        Err(failed("name", &layout.path(&name))(last))
    }

    /// Opens the same object that somebody else stored first; what is not that is taken away.
    fn theirs(&self, name: &str) -> Result<Option<CachedObject>, CacheError> {
        let (store, path) = (&self.store, self.store.layout.path(name));
        let (file, found) = match seal::open(&store.layout, name) {
            Ok(Found::Absent) => return Ok(None),
            Ok(Found::Object(file, found)) if found.len() == self.written => (file, found),
            _ => return store.remove(&self.id).map(|()| None),
        };
        if store.must_verify(&found) {
            if !matches!(checksum::verify(&file, self.written), Ok(Verdict::Right)) {
                return store.remove(&self.id).map(|()| None);
            }
            store.remember_verified(&found);
        }
        let object = CachedObject::from_file(file, self.written, Some(path));
        Ok(Some(store.layout.placed(object, &self.id, name.to_owned())))
    }

    fn keep(&self, temp: &mut TempFile, reader: File) -> Result<CachedObject, CacheError> {
        let store = &self.store;
        let _moves = store.moves(fan_of(&self.id));
        if !store.take_room(fan_of(&self.id), self.written) {
            store.statistics.not_kept.fetch_add(1, Ordering::Relaxed);
            return Ok(CachedObject::from_file(reader, self.written, None));
        }
        match self.place(temp) {
            Ok(None) => {
                let name = object_name(&self.id);
                store.note_stored(&name, self.written, &self.meta.label, self.meta.volatile);
                store.disk_works();
                if store.verifies()
                    && let Ok(found) = reader.metadata()
                {
                    store.remember_verified(&found);
                }
                let name = format!("{OBJECTS}/{name}");
                let path = store.layout.path(&name);
                let object = CachedObject::from_file(reader, self.written, Some(path));
                Ok(store.layout.placed(object, &self.id, name))
            }
            Ok(Some(theirs)) => {
                store.give_room(fan_of(&self.id), self.written);
                Ok(theirs)
            }
            Err(error) => {
                store.give_room(fan_of(&self.id), self.written);
                store.disk_failed("name an object", &cvmfs_core::chain::chain(&error));
                // Checked and readable, if only for those who have it.
                Ok(CachedObject::from_file(reader, self.written, None))
            }
        }
    }
}

impl Transaction for DiskTransaction {
    fn write(&mut self, piece: &[u8]) -> Result<(), CacheError> {
        let store = Arc::clone(&self.store);
        let path = || store.layout.path(object_name(&self.id));
        if let Body::File(temp) = &mut self.body {
            let mut outcome = temp.write_all(piece);
            if outcome.as_ref().is_err_and(is_full) {
                store.want(SHORTAGE.max(piece.len() as u64));
                wait_for_space();
                outcome = temp.write_all(piece);
            }
            match outcome {
                Ok(()) => {
                    self.written += piece.len() as u64;
                    return Ok(());
                }
                Err(error) => {
                    store.disk_failed("write", &error);
                    if self.written.saturating_add(piece.len() as u64) > MAX_MEMORY_OBJECT {
                        return Err(failed("write", &path())(error));
                    }
                    let bytes = temp.read_back().map_err(failed("read back", &path()))?;
                    self.body = Body::Memory(bytes);
                }
            }
        }
        if let Body::Memory(bytes) = &mut self.body {
            if self.written.saturating_add(piece.len() as u64) > MAX_MEMORY_OBJECT {
                let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
                return Err(failed("keep in memory", &path())(full));
            }
            bytes.extend_from_slice(piece);
            self.written += piece.len() as u64;
        }
        Ok(())
    }

    fn commit(mut self: Box<Self>, proof: CheckedBody) -> Result<CachedObject, CacheError> {
        proof.must_match(&self.id, self.written)?;
        match std::mem::replace(&mut self.body, Body::Memory(Vec::new())) {
            Body::Memory(bytes) => Ok(CachedObject::from_memory(bytes.into())),
            Body::File(mut temp) => match temp.finish() {
                Ok(reader) => self.keep(&mut temp, reader),
                Err(error) => {
                    self.store.disk_failed("complete an object", &error);
                    let path = self.store.layout.path(object_name(&self.id));
                    let bytes = temp.read_back().map_err(failed("read back", &path))?;
                    Ok(CachedObject::from_memory(bytes.into()))
                }
            },
        }
    }
}

/// Gives the keeper a moment to make space on a full disk.
fn wait_for_space() {
    #[expect(clippy::disallowed_methods, reason = "free space is no event")]
    std::thread::sleep(SPACE_PAUSE);
}

#[cfg(test)]
mod tests;
