//! What is to be fetched ahead, in the order in which it was proposed. What is cached already is
//! read from disk ahead, as long as readers have to wait for the disk.

use std::collections::VecDeque;
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cvmfs_core::fetch::{AheadOutcome, FetchOptions, Fetcher};
use cvmfs_core::object::ObjectId;
use cvmfs_core::share::{self, Owner};
use lru::LruCache;
use parking_lot::Mutex;

use super::group::Group;
use super::pace::Pace;

/// Objects that wait. What does not fit is not fetched ahead: the reader is nearer than the queue
/// is long.
const MAX_WAITING: usize = 2048;
/// Plain bytes of them.
const MAX_WAITING_BYTES: u64 = 128 << 20;
/// Downloads at a time: small files are bound by the round trip, so this many come in each one. Of the
/// connections to a server (64) a quarter is left, so that what is asked for always finds one.
const MAX_WORKERS: usize = 48;
/// What cannot begin within this time under a bound of bandwidth is let go: its reader will have
/// been there before.
const MAX_PAUSE: Duration = Duration::from_secs(20);
/// Objects that are not proposed again for a while.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// How long after somebody had to wait for the disk others may have to.
const DISK: Duration = Duration::from_secs(5);
/// What was proposed longer ago than this may have left the kernel's memory since.
const DISK_REST: Duration = Duration::from_secs(10);
/// Bytes of an object that are read from disk ahead: whole modules and small libraries; of large
/// ones parts are used, and their readers get more at a time than this.
const MAX_FROM_DISK: u64 = 1 << 20;

/// One object that may be used soon.
#[derive(Debug)]
pub struct Wish {
    /// Its name.
    pub id: ObjectId,
    /// Its plain size, bytes.
    pub size: u64,
    /// Where it is.
    pub options: FetchOptions,
    /// Those with which it stands and falls.
    pub group: Option<Arc<Group>>,
}

/// What is to be done once an object is here; must return at once.
pub type Then = Box<dyn FnOnce() + Send>;

/// The queue of one repository.
pub struct Queue {
    fetcher: Arc<Fetcher>,
    max_workers: usize,
    pace: Option<Pace>,
    state: Mutex<State>,
}

struct State {
    waiting: VecDeque<(Wish, Option<Then>)>,
    bytes: u64,
    workers: usize,
    /// When each was proposed, or asked for.
    remembered: LruCache<ObjectId, Instant>,
    /// When somebody had to wait for the disk.
    waited_for_disk: Option<Instant>,
}

impl State {
    fn is_on_disk(&self) -> bool {
        self.waited_for_disk.is_some_and(|at| at.elapsed() < DISK)
    }

    /// Notes that an object is proposed; tells whether it is worth it.
    fn remember(&mut self, id: ObjectId) -> bool {
        let is_worth_it = self.is_worth_it(&id);
        self.remembered.put(id, Instant::now());
        is_worth_it
    }

    /// Tells whether an object was not proposed lately.
    fn is_worth_it(&self, id: &ObjectId) -> bool {
        let before = self.remembered.peek(id);
        before.is_none_or(|at| self.is_on_disk() && at.elapsed() > DISK_REST)
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Queue")
            .field("waiting", &state.waiting.len())
            .field("workers", &state.workers)
            .finish_non_exhaustive()
    }
}

impl Queue {
    /// Makes an empty one; `bandwidth` bounds the plain bytes fetched in a second.
    pub fn new(fetcher: Arc<Fetcher>, bandwidth: Option<NonZeroU64>) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            bytes: 0,
            workers: 0,
            remembered: LruCache::new(MAX_REMEMBERED),
            waited_for_disk: None,
        };
        // Under a tight limit of descriptors few downloads may be under way at all.
        let max_workers = MAX_WORKERS.min(fetcher.transfers() / 2);
        Self { fetcher, max_workers, pace: bandwidth.map(Pace::new), state: Mutex::new(state) }
    }

    /// Adds an object, unless it was proposed lately or there is no room; tells whether it was.
    pub fn propose(self: &Arc<Self>, wish: Wish) -> bool {
        self.propose_then(wish, None)
    }

    /// The same, with something to be done once the object is here.
    pub fn propose_then(self: &Arc<Self>, wish: Wish, then: Option<Then>) -> bool {
        let mut state = self.state.lock();
        let full =
            state.waiting.len() >= MAX_WAITING || state.bytes + wish.size > MAX_WAITING_BYTES;
        if full || self.max_workers == 0 || !state.remember(wish.id) {
            return false;
        }
        state.bytes += wish.size;
        state.waiting.push_back((wish, then));
        if state.workers < self.max_workers {
            state.workers += 1;
            let queue = Arc::clone(self);
            // Ends when nothing waits, so nobody has to end it.
            tokio::spawn(share::scope(Owner::Ahead, async move {
                while let Some((wish, then)) = queue.next() {
                    if !queue.may_begin(&wish).await {
                        queue.state.lock().remembered.pop(&wish.id);
                        continue;
                    }
                    let outcome = match queue.read_from_disk(wish.id).await {
                        true => AheadOutcome::Here,
                        false => queue.fetcher.fetch_ahead(&wish.id, &wish.options).await,
                    };
                    if let Some(group) = &wish.group {
                        group.note(&wish.id, outcome);
                    }
                    let is_here = matches!(outcome, AheadOutcome::Fetched | AheadOutcome::Here);
                    if let Some(then) = then.filter(|_| is_here) {
                        then();
                    }
                    if outcome == AheadOutcome::Failed {
                        // It may be proposed again when the network is back.
                        queue.state.lock().remembered.pop(&wish.id);
                    }
                }
            }));
        }
        true
    }

    /// Waits for the time of an object under a bound of bandwidth; tells whether it is worth it.
    async fn may_begin(&self, wish: &Wish) -> bool {
        let Some(pace) = &self.pace else { return true };
        let Some(pause) = pace.take(wish.size, MAX_PAUSE) else { return false };
        tokio::time::sleep(pause).await;
        !wish.group.as_ref().is_some_and(|group| group.is_useless())
    }

    /// Has the kernel read a cached object if readers have to wait for the disk; tells whether it was.
    async fn read_from_disk(&self, id: ObjectId) -> bool {
        if !self.state.lock().is_on_disk() {
            return false;
        }
        let fetcher = Arc::clone(&self.fetcher);
        // To find it takes as long as to read it.
        let read = tokio::task::spawn_blocking(move || fetcher.read_ahead(&id, MAX_FROM_DISK));
        read.await.unwrap_or(false)
    }

    /// Notes that somebody had to wait for the disk.
    pub fn reads_from_disk(&self) {
        self.state.lock().waited_for_disk = Some(Instant::now());
    }

    /// Tells whether an object was not proposed lately, for those who would have to say much of it.
    pub fn is_news(&self, id: &ObjectId) -> bool {
        self.state.lock().is_worth_it(id)
    }

    /// Notes that an object is asked for by others: it need not be fetched ahead.
    pub fn asked_for(&self, id: &ObjectId) {
        self.state.lock().remembered.put(*id, Instant::now());
    }

    /// Tells how many more objects and bytes may be proposed now.
    pub fn room(&self) -> (usize, u64) {
        let state = self.state.lock();
        (MAX_WAITING - state.waiting.len(), MAX_WAITING_BYTES.saturating_sub(state.bytes))
    }

    /// Takes out what is next; without it, one worker fewer. What has become useless goes.
    fn next(&self) -> Option<(Wish, Option<Then>)> {
        let mut state = self.state.lock();
        while let Some((wish, then)) = state.waiting.pop_front() {
            state.bytes -= wish.size;
            if !wish.group.as_ref().is_some_and(|group| group.is_useless()) {
                return Some((wish, then));
            }
            state.remembered.pop(&wish.id);
        }
        state.workers -= 1;
        None
    }
}
