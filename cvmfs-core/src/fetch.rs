//! Objects by id: from the cache, or downloaded, checked and stored.
//!
//! The only way from a content hash to bytes. Equal requests are merged: whoever asks while an
//! object is on its way waits for that download. A download belongs to nobody: it goes on when all
//! who asked have gone away, so one reader's end never cancels the others. One that fails may have met
//! troubles that were over when a late one asked: who joined it gets one more download.
//!
//! Network pieces are handed to a blocking task, which inflates, hashes and writes; asynchronous
//! code only waits.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use crate::cache::{
    CacheError, CachedObject, Claim, Condition, MemoryCache, ObjectCache, ObjectMeta,
};
use crate::decode::{CheckedBody, SizeBound};
use crate::descriptors::DescriptorBudget;
use crate::net::{Downloader, Walk};
use crate::object::ObjectId;
use crate::share::{self, Caller, Owner, Shares, Turn};

mod ahead;
mod error;
mod options;
mod sink;
mod under_way;

use ahead::Ahead;
pub use ahead::{AheadOutcome, AheadStatistics};
pub use error::FetchError;
pub use options::{FetchOptions, Place};
use sink::{CheckingSink, ObjectSink, Target};
pub use under_way::UnderWay;

/// How long a sibling's download is waited for: its server may have failed, and be the only one
/// that is at fault.
const CLAIM_LIMIT: Duration = Duration::from_secs(20);
/// How long nobody is waited for after that.
const CLAIM_REST: Duration = Duration::from_secs(60);
/// First pause between two looks for a sibling's object; it doubles.
const CLAIM_PAUSE: Duration = Duration::from_millis(1);
/// Longest pause.
const MAX_CLAIM_PAUSE: Duration = Duration::from_millis(25);
/// Downloads of others that may fail before a caller's own: one from before, and guesses that come
/// between.
const MAX_JOINED: usize = 4;
/// How long a look at all bytes of a doubted object may take: a catalog of 500 MB needs as long.
const EXAMINE_LIMIT: Duration = Duration::from_secs(2);
/// How long a download may take that nobody has asked for.
const AHEAD_LIMIT: Duration = Duration::from_secs(60);
/// Largest object kept in memory when the cache cannot take it.
const MAX_MEMORY_OBJECT: u64 = 256 << 20;

/// How long a download waits for its turn. Under a tight limit of descriptors few are under way at
/// once, so this is long; each of them is bounded by its own limits.
const TURN_LIMIT: Duration = Duration::from_secs(5 * 60);

type Outcome = Result<Arrived, Arc<FetchError>>;

/// An object with its turn: its descriptor counts as that of a transfer until somebody who waits
/// for it has taken it, since thousands may arrive before the first is taken.
#[derive(Clone)]
struct Arrived {
    object: CachedObject,
    _turn: Arc<Turn>,
}

/// A download under way, and how many wait for it.
#[derive(Clone)]
struct Download {
    outcome: Shared<BoxFuture<'static, Outcome>>,
    waiting: Arc<AtomicUsize>,
    begun: Instant,
    /// It asks one server only.
    only_host: bool,
    /// For people.
    label: Arc<str>,
    /// Whose shares of turns it may use: of all who wait for it.
    caller: Arc<Caller>,
}

/// One who waits; gone with the future that waits.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn begin(waiting: &Arc<AtomicUsize>) -> Self {
        waiting.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(waiting))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Bounds and place are part of the key: a row that lies about them fails alone.
type DownloadKey = (ObjectId, SizeBound, Place);

/// Serves objects of one repository.
pub struct Fetcher {
    shared: Arc<FetcherState>,
}

struct FetcherState {
    cache: Arc<dyn ObjectCache>,
    downloader: Downloader,
    /// For files that are not kept with the repository.
    external: Option<Downloader>,
    downloads: Mutex<HashMap<DownloadKey, Download>>,
    statistics: FetchStatistics,
    cache_warned: AtomicBool,
    /// When a sibling's download took too long.
    waited_in_vain: Mutex<Option<Instant>>,
    volatile: AtomicBool,
    patient: bool,
    /// Turns of all downloads, from whichever servers.
    turns: Arc<Shares>,
    transfers: usize,
    ahead: Ahead,
}

/// Counters since start.
#[derive(Debug, Default)]
pub struct FetchStatistics {
    /// Requests answered from the cache.
    pub hits: AtomicU64,
    /// Downloads started.
    pub downloads: AtomicU64,
    /// Times the cache failed and an object was served without it.
    pub cache_failures: AtomicU64,
}

/// A small object that was fetched and checked, and is not stored yet.
#[derive(Debug)]
pub struct Unstored {
    /// Its bytes.
    pub plain: Bytes,
    /// Its bytes as the server keeps them.
    stored: Vec<u8>,
    proof: CheckedBody,
}

impl Unstored {
    /// Returns its name.
    pub fn id(&self) -> &ObjectId {
        self.proof.id()
    }
}

/// What came of asking for the right to download.
enum Claimed {
    /// A sibling stored it.
    Here(CachedObject),
    /// It is for us to do.
    Ours(#[allow(dead_code, reason = "held")] Option<Box<dyn Send + Sync>>),
}

impl Fetcher {
    /// Joins a cache and a downloader.
    ///
    /// A `patient` fetcher goes on trying for as long as somebody waits for the object.
    pub fn new(cache: Arc<dyn ObjectCache>, downloader: Downloader, patient: bool) -> Self {
        let transfers = DescriptorBudget::default().transfers;
        Self::with_external(cache, downloader, None, patient, transfers)
    }

    /// The same with the servers of external data, if there are any, and a bound on all downloads
    /// that are under way.
    pub fn with_external(
        cache: Arc<dyn ObjectCache>,
        downloader: Downloader,
        external: Option<Downloader>,
        patient: bool,
        transfers: usize,
    ) -> Self {
        Self {
            shared: Arc::new(FetcherState {
                cache,
                downloader,
                external,
                downloads: Mutex::default(),
                statistics: FetchStatistics::default(),
                cache_warned: AtomicBool::new(false),
                waited_in_vain: Mutex::default(),
                volatile: AtomicBool::new(false),
                patient,
                turns: Shares::new(transfers),
                transfers,
                ahead: Ahead::default(),
            }),
        }
    }

    /// Returns the cache.
    pub fn cache(&self) -> &Arc<dyn ObjectCache> {
        &self.shared.cache
    }

    /// Returns the downloader, for letters that no hash names.
    pub fn downloader(&self) -> &Downloader {
        &self.shared.downloader
    }

    /// Returns the downloader of external data, if there are servers for it.
    pub fn external(&self) -> Option<&Downloader> {
        self.shared.external.as_ref()
    }

    /// Returns the counters.
    pub fn statistics(&self) -> &FetchStatistics {
        &self.shared.statistics
    }

    /// Says that the repository asks for early eviction of its files (spec/format.md section 20).
    pub fn set_volatile(&self, volatile: bool) {
        self.shared.volatile.store(volatile, Ordering::Relaxed);
    }

    /// Opens an object. Ready at once when it is cached; must run inside a tokio runtime.
    pub async fn open(
        &self,
        id: &ObjectId,
        bound: SizeBound,
        label: &str,
    ) -> Result<CachedObject, Arc<FetchError>> {
        self.open_with(id, &FetchOptions::new(bound, label)).await
    }

    /// Opens an object with all options.
    pub async fn open_with(
        &self,
        id: &ObjectId,
        options: &FetchOptions,
    ) -> Result<CachedObject, Arc<FetchError>> {
        match self.open_here(id, options)? {
            Some((object, _)) => Ok(object),
            None => self.open_missing(id, options).await,
        }
    }

    /// Opens an object if it is cached, and tells whether it was fetched ahead of this first use.
    pub fn open_here(
        &self,
        id: &ObjectId,
        options: &FetchOptions,
    ) -> Result<Option<(CachedObject, bool)>, FetchError> {
        let Some(object) = self.shared.open_cached(id, options)? else { return Ok(None) };
        self.shared.statistics.hits.fetch_add(1, Ordering::Relaxed);
        Ok(Some((object, self.shared.ahead.used(id))))
    }

    /// Fetches an object that is not cached; what is fetched ahead waits meanwhile if this takes
    /// long.
    pub async fn open_missing(
        &self,
        id: &ObjectId,
        options: &FetchOptions,
    ) -> Result<CachedObject, Arc<FetchError>> {
        let _demanded = self.shared.ahead.demand();
        self.shared.ahead.used(id);
        self.join_until_done(id, options).await
    }

    /// Fetches an object that somebody may want soon, unless it is cached. It gives way to downloads
    /// that are waited for.
    pub async fn fetch_ahead(&self, id: &ObjectId, options: &FetchOptions) -> AheadOutcome {
        // Its descriptor is closed at once: what is not read needs none. Its size is not looked at:
        // a guess that is wrong about it must not remove an object that is right.
        if !matches!(self.shared.cache.open(id), Ok(None)) {
            return AheadOutcome::Here;
        }
        self.shared.ahead.give_way().await;
        let key = (*id, options.bound, options.place.clone());
        if self.shared.downloads.lock().contains_key(&key) {
            return AheadOutcome::UnderWay;
        }
        self.shared.ahead.begin(id, options.bound.plain_cap());
        // A patient download goes on for as long as somebody waits for it: this one does not.
        let fetched = share::scope(Owner::Ahead, self.join_until_done(id, options));
        match tokio::time::timeout(AHEAD_LIMIT, fetched).await {
            Ok(Ok(object)) => {
                self.shared.ahead.fetched(object.len());
                AheadOutcome::Fetched
            }
            Err(_) | Ok(Err(_)) => {
                tracing::debug!(%id, "not fetched ahead");
                self.shared.ahead.forget(id);
                AheadOutcome::Failed
            }
        }
    }

    /// Has the kernel read an object from disk that somebody may want soon, up to `most` bytes;
    /// tells whether it is cached. Waits for the disk to find it, not for its bytes.
    pub fn read_ahead(&self, id: &ObjectId, most: u64) -> bool {
        match self.shared.cache.open(id) {
            Ok(Some(object)) => {
                object.read_ahead(most);
                true
            }
            // One that cannot be opened is not to be fetched ahead either.
            Err(_) => true,
            Ok(None) => false,
        }
    }

    /// Tells whether an object was fetched ahead, and not used since.
    pub fn is_unused(&self, id: &ObjectId) -> bool {
        self.shared.ahead.is_unused(id)
    }

    /// What was fetched ahead, and what of it was used.
    pub fn ahead(&self) -> AheadStatistics {
        self.shared.ahead.statistics()
    }

    /// Returns how many downloads may be under way.
    pub fn transfers(&self) -> usize {
        self.shared.transfers
    }

    async fn join_until_done(
        &self,
        id: &ObjectId,
        options: &FetchOptions,
    ) -> Result<CachedObject, Arc<FetchError>> {
        let asked = Instant::now();
        let mut joined = 0;
        loop {
            let (Download { outcome, begun, only_host, .. }, waiting) = self.join(id, options);
            let outcome = outcome.await;
            drop(waiting);
            joined += 1;
            // It began when other ways were good, or went fewer ways than this caller may.
            let was_less = begun < asked || (only_host && options.only_host.is_none());
            match outcome {
                // Taken: what happens to it from here on is the caller's to bound.
                Ok(arrived) => return Ok(arrived.object),
                Err(error) if was_less && joined < MAX_JOINED && error.is_of_the_network() => {
                    tracing::debug!(object = %id, "joined a download that failed; once more");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes an object that seems to be damaged, so that the next request fetches it again. One whose bytes are
    /// those that were stored stays: then whoever published it is at fault, and other repositories may use it.
    pub fn discard(&self, id: &ObjectId) {
        let looked = self.shared.cache.examine(id, Instant::now() + EXAMINE_LIMIT);
        if matches!(looked, Ok(Condition::Sound | Condition::Absent | Condition::Damaged)) {
            tracing::debug!(%id, ?looked, "a cached object was doubted");
            return;
        }
        if let Err(error) = self.shared.cache.discard(id) {
            self.shared.warn_about_cache(&error);
        }
    }

    /// Fetches and checks a small object without storing it; [`Fetcher::store`] does that once
    /// the caller trusts it.
    pub async fn fetch_unstored(
        &self,
        id: &ObjectId,
        options: &FetchOptions,
    ) -> Result<Unstored, FetchError> {
        let downloader = self.shared.downloader_for(options)?;
        let path = options.path(id);
        let resource = options.resource(id, &path);
        let new_sink = || CheckingSink { id: *id, bound: options.bound, stored: Vec::new() };
        self.shared.statistics.downloads.fetch_add(1, Ordering::Relaxed);
        let walk = Walk::new(options.only_host, shard_key(id));
        downloader.fetch(resource, walk, || false, new_sink).await.map_err(|source| {
            FetchError::Download { id: *id, label: options.label.clone(), source }
        })
    }

    /// Stores a small object that was fetched by [`Fetcher::fetch_unstored`]. A failing cache is no error.
    pub fn store(&self, fetched: Unstored, label: &str) {
        let Unstored { plain, stored, proof } = fetched;
        let id = *proof.id();
        let meta =
            ObjectMeta { size: Some(proof.size()), label: label.to_owned(), volatile: false };
        let stored = self.shared.cache.begin(&id, &meta).and_then(|mut transaction| {
            transaction.stored(&stored);
            transaction.write(&plain)?;
            transaction.commit(proof)
        });
        if let Err(error) = stored {
            self.shared.warn_about_cache(&error);
        }
    }

    fn join(&self, id: &ObjectId, options: &FetchOptions) -> (Download, Waiting) {
        let key = (*id, options.bound, options.place.clone());
        let mut downloads = self.shared.downloads.lock();
        let download = match downloads.entry(key.clone()) {
            Entry::Occupied(running) => {
                let download = running.get().clone();
                download.caller.join(share::present());
                download
            }
            Entry::Vacant(vacant) => {
                let state = Arc::clone(&self.shared);
                let waiting = Arc::new(AtomicUsize::new(0));
                let (task_id, task_options) = (*id, options.clone());
                let task_waiting = Arc::clone(&waiting);
                let caller = Caller::new(share::present());
                let work = async move {
                    // Leaves the table also when the download panics.
                    let _leave = LeaveTable { state: &state, key };
                    state.download(&task_id, &task_options, &task_waiting).await.map_err(Arc::new)
                };
                let task = tokio::spawn(share::scope_of(Arc::clone(&caller), work));
                let (id, label) = (*id, options.label.clone());
                let outcome = async move {
                    task.await.unwrap_or_else(|_| Err(Arc::new(FetchError::Aborted { id, label })))
                };
                let outcome = outcome.boxed().shared();
                let (begun, only_host) = (Instant::now(), options.only_host.is_some());
                let label = options.label.as_str().into();
                let download = Download { outcome, waiting, begun, only_host, label, caller };
                vacant.insert(download).clone()
            }
        };
        let guard = Waiting::begin(&download.waiting);
        (download, guard)
    }
}

/// What a proxy is chosen by (spec/network.md section 4.2).
fn shard_key(id: &ObjectId) -> u32 {
    let start = id.hash.digest().iter().take(4);
    start.fold(0, |key, byte| (key << 8) | u32::from(*byte))
}

struct LeaveTable<'a> {
    state: &'a FetcherState,
    key: DownloadKey,
}

impl Drop for LeaveTable<'_> {
    fn drop(&mut self) {
        self.state.downloads.lock().remove(&self.key);
    }
}

impl FetcherState {
    /// Opens from the cache only. An object of another size than stated is not used.
    fn open_cached(
        &self,
        id: &ObjectId,
        options: &FetchOptions,
    ) -> Result<Option<CachedObject>, FetchError> {
        let bound = options.bound;
        let object = match self.cache.open(id) {
            Ok(Some(object)) => object,
            Ok(None) => return Ok(None),
            // It may well be there, and a download would need descriptors, too.
            Err(source) if source.is_out_of_descriptors() => {
                let label = options.label.clone();
                return Err(FetchError::OutOfDescriptors { label, source });
            }
            Err(error) => {
                self.warn_about_cache(&error);
                return Ok(None);
            }
        };
        let fits = match bound {
            SizeBound::Exactly(size) => object.len() == size,
            SizeBound::AtMost(cap) => object.len() <= cap,
        };
        if fits {
            return Ok(Some(object));
        }
        // It stays until a download proves the size that is stated: all repositories share the cache, and a row
        // that lies must not take from the others what is right. What arrives replaces what differs from it.
        tracing::warn!(%id, size = object.len(), ?bound, "cached object has another size than stated, fetching it again");
        Ok(None)
    }

    fn downloader_for(&self, options: &FetchOptions) -> Result<&Downloader, FetchError> {
        match &options.place {
            Place::Data | Place::Path(_) => Ok(&self.downloader),
            Place::External { .. } => self
                .external
                .as_ref()
                .ok_or_else(|| FetchError::NoExternalServer { label: options.label.clone() }),
        }
    }

    /// Waits until fewer downloads are under way than there may be.
    async fn turn(&self, label: &str, patient: impl Fn() -> bool) -> Result<Turn, FetchError> {
        loop {
            match self.turns.turn(TURN_LIMIT).await {
                Ok(turn) => return Ok(turn),
                Err(_) if patient() => {}
                Err(exhausted) => {
                    return Err(FetchError::Busy { label: label.to_owned(), exhausted });
                }
            }
        }
    }

    /// Waits while a sibling that shares the cache downloads the object.
    async fn claim(&self, id: &ObjectId, options: &FetchOptions) -> Result<Claimed, FetchError> {
        let start = Instant::now();
        let mut pause = CLAIM_PAUSE;
        loop {
            let claim = self.cache.claim(id);
            // It may have arrived between the caller's look and now, and whoever had the claim may
            // be done.
            if let Some(object) = self.open_cached(id, options)? {
                return Ok(Claimed::Here(object));
            }
            match claim {
                Claim::Unknown => return Ok(Claimed::Ours(None)),
                Claim::Ours(claim) => return Ok(Claimed::Ours(Some(claim))),
                Claim::Taken => {}
            }
            let in_vain = self.waited_in_vain.lock().is_some_and(|at| at.elapsed() < CLAIM_REST);
            if in_vain || start.elapsed() >= CLAIM_LIMIT {
                if !in_vain {
                    tracing::debug!(object = %id, "a sibling is slow; not waiting for siblings");
                    *self.waited_in_vain.lock() = Some(Instant::now());
                }
                return Ok(Claimed::Ours(None));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_CLAIM_PAUSE);
        }
    }

    async fn download(
        self: &Arc<Self>,
        id: &ObjectId,
        options: &FetchOptions,
        waiting: &AtomicUsize,
    ) -> Result<Arrived, FetchError> {
        let patient = || self.patient && waiting.load(Ordering::SeqCst) > 0;
        let turn = Arc::new(self.turn(&options.label, patient).await?);
        let arrived = |object| Arrived { object, _turn: turn };
        let _claim = match self.claim(id, options).await? {
            Claimed::Here(object) => return Ok(arrived(object)),
            Claimed::Ours(claim) => claim,
        };
        let downloader = self.downloader_for(options)?;
        self.statistics.downloads.fetch_add(1, Ordering::Relaxed);
        let path = options.path(id);
        let resource = options.resource(id, &path);
        let cache_failed = Arc::new(AtomicBool::new(false));
        let mut store: Arc<dyn ObjectCache> = Arc::clone(&self.cache);
        loop {
            let new_sink = || {
                ObjectSink::start(Target {
                    state: Arc::clone(self),
                    store: Arc::clone(&store),
                    id: *id,
                    bound: options.bound,
                    label: options.label.clone(),
                    cache_failed: Arc::clone(&cache_failed),
                })
            };
            let walk = Walk::new(options.only_host, shard_key(id));
            match downloader.fetch(resource, walk, patient, new_sink).await {
                Ok(object) => return Ok(arrived(object)),
                Err(_) if cache_failed.swap(false, Ordering::SeqCst) => {
                    let size = options.bound.plain_cap();
                    if size > MAX_MEMORY_OBJECT {
                        let label = options.label.clone();
                        return Err(FetchError::NoRoom { id: *id, label, size });
                    }
                    store = Arc::new(MemoryCache::default());
                }
                Err(source) => {
                    let label = options.label.clone();
                    return Err(FetchError::Download { id: *id, label, source });
                }
            }
        }
    }

    /// One warning until the cache works again; the fetcher goes on without it.
    fn warn_about_cache(&self, error: &CacheError) {
        self.statistics.cache_failures.fetch_add(1, Ordering::Relaxed);
        if !self.cache_warned.swap(true, Ordering::Relaxed) {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::warn!(%error, cause, "cache failed, objects are served from memory");
        }
    }
}

#[cfg(test)]
mod tests;
