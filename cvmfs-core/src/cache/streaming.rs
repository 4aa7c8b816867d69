//! [`StreamingCache`]: the content of files is not stored (spec/cache.md section 8.5).

use std::sync::Arc;
use std::time::Instant;

use super::{
    CacheError, CacheHealth, CacheUsage, CachedObject, Claim, Condition, MemoryCache, ObjectCache,
    ObjectMeta, Pin, Transaction,
};
use crate::object::{ObjectId, ObjectKind};

/// Stores what a repository is made of (catalogs, certificates, history) below, and downloads the
/// content of files each time it is opened. What the store below has already is served from there.
pub struct StreamingCache {
    below: Arc<dyn ObjectCache>,
    /// Never keeps anything: its objects live as long as their readers.
    passing: MemoryCache,
}

impl StreamingCache {
    /// Wraps the store for everything but content.
    pub fn new(below: Arc<dyn ObjectCache>) -> Self {
        Self { below, passing: MemoryCache::with_limit(0) }
    }
}

impl ObjectCache for StreamingCache {
    fn open(&self, id: &ObjectId) -> Result<Option<CachedObject>, CacheError> {
        self.below.open(id)
    }

    fn begin(&self, id: &ObjectId, meta: &ObjectMeta) -> Result<Box<dyn Transaction>, CacheError> {
        match id.kind {
            ObjectKind::Data | ObjectKind::Chunk => self.passing.begin(id, meta),
            _ => self.below.begin(id, meta),
        }
    }

    fn discard(&self, id: &ObjectId) -> Result<(), CacheError> {
        self.below.discard(id)
    }

    fn examine(&self, id: &ObjectId, end: Instant) -> Result<Condition, CacheError> {
        self.below.examine(id, end)
    }

    fn pin(&self, id: &ObjectId) -> Pin {
        self.below.pin(id)
    }

    fn claim(&self, id: &ObjectId) -> Claim {
        // What is not stored cannot be waited for.
        if matches!(id.kind, ObjectKind::Data | ObjectKind::Chunk) {
            return Claim::Unknown;
        }
        self.below.claim(id)
    }

    fn usage(&self) -> CacheUsage {
        self.below.usage()
    }

    fn health(&self) -> CacheHealth {
        self.below.health()
    }

    fn load_record(&self, name: &str) -> Result<Option<Vec<u8>>, CacheError> {
        self.below.load_record(name)
    }

    fn update_record(
        &self,
        name: &str,
        change: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Vec<u8>>,
    ) -> Result<(), CacheError> {
        self.below.update_record(name, change)
    }
}
