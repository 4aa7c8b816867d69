//! Book-keeping of what is fetched ahead of use: what became of it, and when it has to give way.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use crate::object::ObjectId;

/// Objects that are remembered as fetched ahead and not used yet.
const MAX_UNUSED: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");
/// A download that somebody waits for longer than this has the network to itself: before it is the
/// round trip that is waited for, after it the bandwidth.
const PATIENCE: Duration = Duration::from_millis(300);
/// Between two looks whether that is over.
const PAUSE: Duration = Duration::from_millis(25);
/// How long one that is fetched ahead gives way at most.
const MAX_WAY: Duration = Duration::from_secs(5);

/// What came of fetching one object ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AheadOutcome {
    /// It was here.
    Here,
    /// Somebody else has it on its way.
    UnderWay,
    /// It came.
    Fetched,
    /// It could not be had.
    Failed,
}

/// Objects and plain bytes fetched ahead since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AheadStatistics {
    /// Objects fetched.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects of these that were asked for later.
    pub used_objects: u64,
    /// Their bytes.
    pub used_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Ahead {
    unused: Mutex<LruCache<ObjectId, u64>>,
    /// When each download began that is waited for: a handful.
    demanded: Mutex<Vec<(u64, Instant)>>,
    next: AtomicU64,
    objects: AtomicU64,
    bytes: AtomicU64,
    used_objects: AtomicU64,
    used_bytes: AtomicU64,
}

impl Default for Ahead {
    fn default() -> Self {
        Self {
            unused: Mutex::new(LruCache::new(MAX_UNUSED)),
            demanded: Mutex::default(),
            next: AtomicU64::new(0),
            objects: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            used_objects: AtomicU64::new(0),
            used_bytes: AtomicU64::new(0),
        }
    }
}

/// A download that is waited for.
pub(super) struct Demanded<'a> {
    ahead: &'a Ahead,
    number: u64,
}

impl Drop for Demanded<'_> {
    fn drop(&mut self) {
        self.ahead.demanded.lock().retain(|(number, _)| *number != self.number);
    }
}

impl Ahead {
    /// Notes that somebody waits.
    pub(super) fn demand(&self) -> Demanded<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.demanded.lock().push((number, Instant::now()));
        Demanded { ahead: self, number }
    }

    /// Waits while somebody has been waiting for long.
    pub(super) async fn give_way(&self) {
        let start = Instant::now();
        let is_late = || self.demanded.lock().iter().any(|(_, since)| since.elapsed() > PATIENCE);
        while is_late() && start.elapsed() < MAX_WAY {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Notes an object before it is fetched ahead.
    pub(super) fn begin(&self, id: &ObjectId, size: u64) {
        self.unused.lock().put(*id, size);
    }

    /// Notes that it is here.
    pub(super) fn fetched(&self, size: u64) {
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(size, Ordering::Relaxed);
    }

    /// Notes that it could not be had.
    pub(super) fn forget(&self, id: &ObjectId) {
        self.unused.lock().pop(id);
    }

    /// Notes that an object is used; returns whether it was fetched ahead and this is its first
    /// use.
    pub(super) fn used(&self, id: &ObjectId) -> bool {
        let mut unused = self.unused.lock();
        let Some(size) = (!unused.is_empty()).then(|| unused.pop(id)).flatten() else {
            return false;
        };
        drop(unused);
        self.used_objects.fetch_add(1, Ordering::Relaxed);
        self.used_bytes.fetch_add(size, Ordering::Relaxed);
        true
    }

    /// Tells whether an object was fetched ahead and not used yet.
    pub(super) fn is_unused(&self, id: &ObjectId) -> bool {
        self.unused.lock().contains(id)
    }

    pub(super) fn statistics(&self) -> AheadStatistics {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        AheadStatistics {
            objects: load(&self.objects),
            bytes: load(&self.bytes),
            used_objects: load(&self.used_objects),
            used_bytes: load(&self.used_bytes),
        }
    }
}
