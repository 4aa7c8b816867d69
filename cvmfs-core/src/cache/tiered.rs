//! [`TieredCache`]: one store over another (spec/cache.md section 8.3).

use std::sync::Arc;
use std::time::Instant;

use super::{
    CacheError, CacheHealth, CacheUsage, CachedObject, Claim, Condition, ObjectCache, ObjectMeta,
    Pin, Transaction,
};
use crate::decode::CheckedBody;
use crate::object::ObjectId;

/// Bytes copied up at a time.
const PIECE_LEN: usize = 256 * 1024;

/// Whether new objects are also written to the lower store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LowerUse {
    /// They are.
    ReadWrite,
    /// It is only read.
    ReadOnly,
}

/// A fast or private store over a slow or shared one: what only the lower one has is copied up
/// when it is opened. Only the lower store's failure to give an object is a miss.
pub struct TieredCache {
    upper: Arc<dyn ObjectCache>,
    lower: Arc<dyn ObjectCache>,
    lower_use: LowerUse,
}

impl TieredCache {
    /// Puts `upper` over `lower`.
    pub fn new(
        upper: Arc<dyn ObjectCache>,
        lower: Arc<dyn ObjectCache>,
        lower_use: LowerUse,
    ) -> Self {
        Self { upper, lower, lower_use }
    }

    fn copy_up(&self, id: &ObjectId, object: &CachedObject) -> Result<CachedObject, CacheError> {
        let meta = ObjectMeta { size: Some(object.len()), ..ObjectMeta::default() };
        let mut transaction = self.upper.begin(id, &meta)?;
        let mut buffer = vec![0; PIECE_LEN];
        let mut offset = 0;
        loop {
            let n = object.read_at(&mut buffer, offset).map_err(|source| {
                let path = object.path().unwrap_or("the lower cache".as_ref()).to_owned();
                CacheError::Io { action: "copy from", path, source }
            })?;
            if n == 0 {
                break;
            }
            transaction.write(&buffer[..n])?;
            offset += n as u64;
        }
        // A file that was cut meanwhile has another size than the proof says, and is refused.
        transaction.commit(CheckedBody::of_cached(*id, object.len()))
    }
}

impl ObjectCache for TieredCache {
    fn open(&self, id: &ObjectId) -> Result<Option<CachedObject>, CacheError> {
        let above = self.upper.open(id);
        if let Ok(Some(object)) = above {
            return Ok(Some(object));
        }
        let Some(object) = self.lower.open(id)? else { return above };
        Ok(Some(self.copy_up(id, &object).unwrap_or_else(|error| {
            tracing::debug!(object = %id, %error, "served from the lower cache");
            object
        })))
    }

    fn begin(&self, id: &ObjectId, meta: &ObjectMeta) -> Result<Box<dyn Transaction>, CacheError> {
        let upper = self.upper.begin(id, meta);
        if self.lower_use == LowerUse::ReadOnly {
            return upper;
        }
        Ok(match (upper, self.lower.begin(id, meta)) {
            (Ok(upper), Ok(lower)) => {
                Box::new(BothTransaction { id: *id, upper, lower: Some(lower) })
            }
            (Ok(one), Err(error)) | (Err(error), Ok(one)) => {
                tracing::debug!(object = %id, %error, "stored in one of two caches");
                one
            }
            (Err(error), Err(_)) => return Err(error),
        })
    }

    fn discard(&self, id: &ObjectId) -> Result<(), CacheError> {
        let above = self.upper.discard(id);
        match self.lower_use {
            LowerUse::ReadWrite => above.and(self.lower.discard(id)),
            LowerUse::ReadOnly => above,
        }
    }

    fn examine(&self, id: &ObjectId, end: Instant) -> Result<Condition, CacheError> {
        match self.upper.examine(id, end) {
            Ok(Condition::Absent) => self.lower.examine(id, end),
            above => above,
        }
    }

    fn pin(&self, id: &ObjectId) -> Pin {
        self.upper.pin(id)
    }

    fn claim(&self, id: &ObjectId) -> Claim {
        self.upper.claim(id)
    }

    fn usage(&self) -> CacheUsage {
        self.upper.usage()
    }

    fn health(&self) -> CacheHealth {
        self.upper.health()
    }

    fn load_record(&self, name: &str) -> Result<Option<Vec<u8>>, CacheError> {
        match self.upper.load_record(name) {
            Ok(None) | Err(_) => self.lower.load_record(name),
            found => found,
        }
    }

    fn update_record(
        &self,
        name: &str,
        change: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Vec<u8>>,
    ) -> Result<(), CacheError> {
        if self.lower_use == LowerUse::ReadWrite
            && let Err(error) = self.lower.update_record(name, change)
        {
            tracing::debug!(name, %error, "record not kept in the lower cache");
        }
        self.upper.update_record(name, change)
    }
}

/// Writes to both stores; the lower one may drop out.
struct BothTransaction {
    id: ObjectId,
    upper: Box<dyn Transaction>,
    lower: Option<Box<dyn Transaction>>,
}

impl Transaction for BothTransaction {
    fn stored(&mut self, piece: &[u8]) {
        self.upper.stored(piece);
        if let Some(lower) = &mut self.lower {
            lower.stored(piece);
        }
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), CacheError> {
        if let Some(Err(error)) = self.lower.as_mut().map(|lower| lower.write(piece)) {
            tracing::debug!(object = %self.id, %error, "not stored in the lower cache");
            self.lower = None;
        }
        self.upper.write(piece)
    }

    fn commit(self: Box<Self>, proof: CheckedBody) -> Result<CachedObject, CacheError> {
        let copy = CheckedBody::of_cached(*proof.id(), proof.size());
        let object = self.upper.commit(proof)?;
        if let Some(Err(error)) = self.lower.map(|lower| lower.commit(copy)) {
            tracing::debug!(object = %self.id, %error, "not stored in the lower cache");
        }
        Ok(object)
    }
}
