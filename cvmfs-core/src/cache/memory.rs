//! [`MemoryCache`]: objects in memory, up to a bound.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;

use super::{
    CacheError, CacheUsage, CachedObject, Condition, ObjectCache, ObjectMeta, Transaction,
};
use crate::decode::CheckedBody;
use crate::object::ObjectId;

/// Bytes kept where nobody says otherwise: enough for the catalogs of a walk, small beside what a
/// container usually may use.
const DEFAULT_LIMIT: u64 = 256 << 20;
/// What an object costs beside its bytes: key, links of the list, a place in the table.
const OVERHEAD: u64 = 160;

/// A store in memory: for commands without a cache directory, and as the fallback of a failing
/// one. The least recently used objects go first; what a reader holds stays readable.
#[derive(Debug)]
pub struct MemoryCache {
    objects: Arc<Mutex<Objects>>,
}

#[derive(Debug)]
struct Objects {
    by_id: LruCache<ObjectId, Bytes>,
    used: u64,
    limit: u64,
}

impl Default for MemoryCache {
    fn default() -> Self {
        Self::with_limit(DEFAULT_LIMIT)
    }
}

impl MemoryCache {
    /// Makes an empty store for up to `limit` bytes.
    pub fn with_limit(limit: u64) -> Self {
        let objects = Objects { by_id: LruCache::unbounded(), used: 0, limit };
        Self { objects: Arc::new(Mutex::new(objects)) }
    }
}

impl Objects {
    /// Takes an object in; returns what had to go, to be dropped without the lock.
    fn insert(&mut self, id: ObjectId, bytes: Bytes) -> Vec<Bytes> {
        let size = cost(&bytes);
        if size > self.limit {
            return Vec::new();
        }
        let mut gone = Vec::from_iter(self.remove(&id));
        while self.used + size > self.limit {
            let Some((_, oldest)) = self.by_id.pop_lru() else { break };
            self.used -= cost(&oldest);
            gone.push(oldest);
        }
        self.used += size;
        self.by_id.put(id, bytes);
        gone
    }

    fn remove(&mut self, id: &ObjectId) -> Option<Bytes> {
        let bytes = self.by_id.pop(id)?;
        self.used -= cost(&bytes);
        Some(bytes)
    }
}

fn cost(bytes: &Bytes) -> u64 {
    bytes.len() as u64 + OVERHEAD
}

impl ObjectCache for MemoryCache {
    fn open(&self, id: &ObjectId) -> Result<Option<CachedObject>, CacheError> {
        Ok(self.objects.lock().by_id.get(id).cloned().map(CachedObject::from_memory))
    }

    fn begin(&self, id: &ObjectId, _meta: &ObjectMeta) -> Result<Box<dyn Transaction>, CacheError> {
        let objects = Arc::clone(&self.objects);
        Ok(Box::new(MemoryTransaction { id: *id, bytes: Vec::new(), objects }))
    }

    fn discard(&self, id: &ObjectId) -> Result<(), CacheError> {
        let gone = self.objects.lock().remove(id);
        drop(gone);
        Ok(())
    }

    fn examine(&self, id: &ObjectId, _end: Instant) -> Result<Condition, CacheError> {
        // Nobody else writes to our memory.
        let is_here = self.objects.lock().by_id.contains(id);
        Ok(if is_here { Condition::Sound } else { Condition::Absent })
    }

    fn usage(&self) -> CacheUsage {
        let objects = self.objects.lock();
        let overhead = OVERHEAD * objects.by_id.len() as u64;
        CacheUsage { used: objects.used - overhead, limit: objects.limit }
    }
}

struct MemoryTransaction {
    id: ObjectId,
    bytes: Vec<u8>,
    objects: Arc<Mutex<Objects>>,
}

impl Transaction for MemoryTransaction {
    fn write(&mut self, piece: &[u8]) -> Result<(), CacheError> {
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    fn commit(self: Box<Self>, proof: CheckedBody) -> Result<CachedObject, CacheError> {
        proof.must_match(&self.id, self.bytes.len() as u64)?;
        let bytes = Bytes::from(self.bytes);
        let gone = self.objects.lock().insert(self.id, bytes.clone());
        drop(gone);
        Ok(CachedObject::from_memory(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{SizeBound, decode_all};
    use crate::hash::{ContentHash, HashAlgorithm};
    use crate::object::{Compression, ObjectKind};

    fn put(cache: &MemoryCache, byte: u8, len: usize) -> ObjectId {
        let bytes = vec![byte; len];
        let hash = ContentHash::of(HashAlgorithm::Sha1, &bytes);
        let id = ObjectId { hash, kind: ObjectKind::Data, compression: Compression::None };
        let (plain, proof) = decode_all(id, &bytes, SizeBound::AtMost(1 << 20)).unwrap();
        let mut transaction = cache.begin(&id, &ObjectMeta::default()).unwrap();
        transaction.write(&plain).unwrap();
        assert_eq!(transaction.commit(proof).unwrap().len(), len as u64);
        id
    }

    #[test]
    fn the_least_recently_used_go_and_the_bound_holds() {
        let cache = MemoryCache::with_limit(3 * (1000 + OVERHEAD));
        let ids: Vec<_> = (0..3).map(|byte| put(&cache, byte, 1000)).collect();
        let held = cache.open(&ids[1]).unwrap().unwrap();
        assert!(cache.open(&ids[0]).unwrap().is_some());
        put(&cache, 9, 1000);
        let there: Vec<_> = ids.iter().map(|id| cache.objects.lock().by_id.contains(id)).collect();
        assert_eq!(there, [true, true, false]);
        put(&cache, 10, 2500);
        assert_eq!(held.read_all(1000).unwrap().len(), 1000, "an open object stays");
        assert!(cache.usage().used <= cache.usage().limit);
        // Larger than the whole: served, not kept.
        let huge = put(&cache, 11, 5000);
        assert!(cache.open(&huge).unwrap().is_none());
    }
}
