//! [`DiskCache`]: objects as plain files in one directory.

use std::io::{
    self,
    ErrorKind::{AlreadyExists, NotADirectory, NotFound},
};
use std::path::Path;
use std::sync::Arc;

use cvmfs_core::cache::{
    CacheError, CacheUsage, CachedObject, ObjectCache, ObjectMeta, Transaction,
};
use cvmfs_core::decode::CheckedBody;
use cvmfs_core::object::ObjectId;
use nix::sys::statvfs::statvfs;

use crate::layout::{Layout, failed};
use crate::record;
use crate::seal::{self, Found};
use crate::tally::Tally;
use crate::transaction::{Naming, TempFile, probe, sweep};

/// Tries to give an object its name while others create, evict or damage things there.
const PLACE_ATTEMPTS: usize = 8;

/// A persistent store in a directory that processes of one user may share.
///
/// Objects of all repositories lie side by side under their hashes. Descriptors handed out keep
/// working when the object is discarded or the whole directory is wiped; both only cost a new
/// download.
#[derive(Debug)]
pub struct DiskCache {
    store: Arc<Store>,
    quota: Option<u64>,
}

#[derive(Debug)]
struct Store {
    layout: Layout,
    naming: Naming,
    tally: Tally,
}

impl DiskCache {
    /// Opens the cache in `directory`, which is created if it is missing.
    ///
    /// Removes what dead processes left half-written.
    ///
    /// # Errors
    ///
    /// [`CacheError::Io`], also for a directory that cannot be written or trusted; the source is
    /// then an [`UnfitDirectory`](crate::UnfitDirectory).
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, CacheError> {
        let layout = Layout::create(directory.as_ref())?;
        let naming = probe(&layout)?;
        Self::start(layout, naming)
    }

    /// Like [`DiskCache::open`], for a file system on which the trial must not decide.
    pub fn open_with(directory: impl AsRef<Path>, naming: Naming) -> Result<Self, CacheError> {
        Self::start(Layout::create(directory.as_ref())?, naming)
    }

    fn start(layout: Layout, naming: Naming) -> Result<Self, CacheError> {
        match sweep(&layout) {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "removed unfinished objects from the cache"),
            // They take space and do no harm.
            Err(error) => tracing::warn!(%error, "unfinished objects stay in the cache"),
        }
        tracing::debug!(directory = %layout.directory().display(), ?naming, "cache opened");
        let store = Store { layout, naming, tally: Tally::default() };
        Ok(Self { store: Arc::new(store), quota: None })
    }

    /// Sets the limit in bytes that [`ObjectCache::usage`] reports; nothing is evicted yet.
    pub fn with_quota(mut self, quota: Option<u64>) -> Self {
        self.quota = quota;
        self
    }

    /// Returns the directory that was opened.
    pub fn directory(&self) -> &Path {
        self.store.layout.directory()
    }

    /// Returns how files that are being written are kept here.
    pub fn naming(&self) -> Naming {
        self.store.naming
    }
}

impl ObjectCache for DiskCache {
    fn open(&self, id: &ObjectId) -> Result<Option<CachedObject>, CacheError> {
        let path = self.store.layout.object(id);
        match seal::open(&path).map_err(failed("open", &path))? {
            Found::Absent => Ok(None),
            Found::Object(file, size) => Ok(Some(CachedObject::from_file(file, size, Some(path)))),
            Found::Foreign(reason) => {
                tracing::warn!(object = %id, reason, "no object under its name in the cache");
                if let Err(error) = self.store.remove(id) {
                    tracing::warn!(object = %id, %error, "it stays, and is not used");
                }
                Ok(None)
            }
        }
    }

    fn begin(&self, id: &ObjectId, _meta: &ObjectMeta) -> Result<Box<dyn Transaction>, CacheError> {
        let temp = TempFile::create(&self.store.layout, self.store.naming)?;
        let store = Arc::clone(&self.store);
        Ok(Box::new(DiskTransaction { id: *id, temp, written: 0, store }))
    }

    fn discard(&self, id: &ObjectId) -> Result<(), CacheError> {
        self.store.remove(id)
    }

    fn usage(&self) -> CacheUsage {
        let layout = &self.store.layout;
        let used = self.store.tally.used(layout);
        let limit = self.quota.unwrap_or_else(|| {
            let free = statvfs(layout.directory())
                .map(|found| found.blocks_available().saturating_mul(found.fragment_size()));
            used.saturating_add(free.unwrap_or(0))
        });
        CacheUsage { used, limit }
    }

    fn load_record(&self, name: &str) -> Result<Option<Vec<u8>>, CacheError> {
        record::load(&self.store.layout.records(), name)
    }

    fn update_record(
        &self,
        name: &str,
        change: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Vec<u8>>,
    ) -> Result<(), CacheError> {
        // Somebody may have wiped the cache under a live mount.
        self.store.layout.restore()?;
        record::update(&self.store.layout.records(), name, change)
    }
}

impl Store {
    fn remove(&self, id: &ObjectId) -> Result<(), CacheError> {
        let path = self.layout.object(id);
        let found = match path.symlink_metadata() {
            Ok(found) => found,
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(()),
            Err(error) => return Err(failed("look at", &path)(error)),
        };
        self.layout.remove_foreign(&path)?;
        if found.is_file() {
            self.tally.remove(fan(id), found.len());
        }
        Ok(())
    }
}

/// Returns the number of the directory of an object.
fn fan(id: &ObjectId) -> u8 {
    id.hash.digest()[0]
}

struct DiskTransaction {
    id: ObjectId,
    temp: TempFile,
    written: u64,
    store: Arc<Store>,
}

impl DiskTransaction {
    /// Gives the file the name `path`, or returns the same object that has it already.
    fn place(&mut self, path: &Path) -> Result<Option<CachedObject>, CacheError> {
        let layout = &self.store.layout;
        let mut last = io::Error::from(AlreadyExists);
        for _ in 0..PLACE_ATTEMPTS {
            let Err(error) = self.temp.place(path) else {
                self.store.tally.add(fan(&self.id), self.written);
                return Ok(None);
            };
            match error.kind() {
                NotFound => layout.make_fan(fan(&self.id))?,
                NotADirectory => layout.remove_foreign(&layout.fan(fan(&self.id)))?,
                AlreadyExists => match seal::open(path) {
                    Ok(Found::Object(file, size)) if size == self.written => {
                        let path = Some(path.to_owned());
                        return Ok(Some(CachedObject::from_file(file, size, path)));
                    }
                    Ok(Found::Absent) => {}
                    _ => self.store.remove(&self.id)?,
                },
                _ => return Err(failed("name", path)(error)),
            }
            last = error;
        }
        Err(failed("name", path)(last))
    }
}

impl Transaction for DiskTransaction {
    fn write(&mut self, piece: &[u8]) -> Result<(), CacheError> {
        let path = || self.store.layout.object(&self.id);
        self.temp.write_all(piece).map_err(|source| failed("write", &path())(source))?;
        self.written += piece.len() as u64;
        Ok(())
    }

    fn commit(mut self: Box<Self>, proof: CheckedBody) -> Result<CachedObject, CacheError> {
        proof.must_match(&self.id, self.written)?;
        let path = self.store.layout.object(&self.id);
        let reader = self.temp.finish(self.written).map_err(failed("complete", &path))?;
        Ok(match self.place(&path)? {
            Some(theirs) => theirs,
            None => CachedObject::from_file(reader, self.written, Some(path)),
        })
    }
}

#[cfg(test)]
mod tests;
