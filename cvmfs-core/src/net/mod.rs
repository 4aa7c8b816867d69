//! The network side: choose a way, try it, report the outcome, go on.
//!
//! | module | what it holds |
//! |---|---|
//! | [`transport`] | one GET |
//! | `clients` | whom idle connections are kept with |
//! | [`proxy`] | the grammar of proxy lists |
//! | [`discovery`] | proxies that are found by themselves |
//! | [`pac`] | scripts that name proxies |
//! | [`names`] | names turned into addresses |
//! | [`geo`] | servers ordered by distance |
//! | `redirects` | where a server may send us |
//! | [`probe`] | one connection, and how long each of its steps takes |
//! | [`selection`] | which server and proxy next, and when to give up |
//! | `letter` | small files that no hash names |
//! | `shard` | which proxy of a group for which object |
//! | [`error`] | attempts and what they died of |
//!
//! Every wait is bounded: connecting, headers and each silence by [`Timeouts`], slow trickles by
//! the low-speed limit, the size by the caller's cap, the number of attempts by the ways there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;

mod clients;
pub mod discovery;
pub mod error;
pub mod geo;
mod letter;
pub mod names;
pub mod pac;
pub mod probe;
pub mod proxy;
mod redirects;
pub mod selection;
mod shard;
pub mod transport;

pub use discovery::{Discovery, DiscoveryError};
pub use error::{Attempt, AttemptError, DownloadError, Failure, FailureClass};
pub use geo::GeoOptions;
pub use names::{NameOptions, Names};
pub use proxy::{Proxy, ProxySpec};
pub use selection::{Next, Selection, SelectionOptions, Walk};
pub use transport::{HttpTransport, Request, Timeouts, Transport, TransportOptions, Window};

use selection::Way;
use transport::{Body, escape_url};

/// Bytes that are worth asking for the rest only.
const MIN_RESUMED: u64 = 64 * 1024;
/// Pause before all ways are tried again by a request that may wait for ever; short, because a
/// reader shall go on within a second of the network's return.
const PATIENT_PAUSE: Duration = Duration::from_millis(500);
/// How long a transfer may take whatever its size before another route is preferred: as long as two
/// silences of a server without a proxy.
const ROUTE_PATIENCE: Duration = Duration::from_secs(20);
/// Bytes per second below which another route is preferred. An eighth of a modern modem; with a
/// hundred transfers at a time it is still what the slowest site has.
const USEFUL_RATE: u64 = 16 * 1024;
/// Attempts kept in an error; one that waited for hours has many.
const MAX_ATTEMPTS_KEPT: usize = 64;

/// Fetches paths of one repository from whichever server answers rightly.
pub struct Downloader {
    transport: Arc<dyn Transport>,
    selection: Mutex<Selection>,
    /// Proxies that have names, and who resolves them.
    named: Mutex<Arc<[(Proxy, url::Url)]>>,
    /// `None`: proxies are used by their names.
    names: Option<Names>,
    timeouts: Mutex<Timeouts>,
    statistics: NetStatistics,
    /// The last request that ended found no way.
    failing: AtomicBool,
    recovered: Notify,
    skew: AtomicI64,
    hurry: Hurry,
}

/// When a slow transfer is left for another route, if there is one: after `patience`, and the time
/// that its size takes at `useful_rate` bytes per second.
#[derive(Debug, Clone, Copy)]
struct Hurry {
    patience: Duration,
    useful_rate: u64,
}

impl Hurry {
    /// Returns how long a transfer of `len` bytes may take.
    fn limit(self, len: u64) -> Duration {
        self.patience.saturating_add(Duration::from_secs(len / self.useful_rate.max(1)))
    }
}

/// Counters since start (spec/network.md section 13).
#[derive(Debug, Default)]
pub struct NetStatistics {
    /// Bytes of bodies received.
    pub bytes: AtomicU64,
    /// Attempts started.
    pub requests: AtomicU64,
    /// Attempts that failed.
    pub failures: AtomicU64,
    /// Bodies that were continued after a break.
    pub resumed: AtomicU64,
}

/// Takes the pieces of one body. Each attempt gets a new one.
pub trait Sink<T>: Send {
    /// Takes the next piece; an error ends the attempt.
    fn piece(&mut self, piece: Bytes) -> BoxFuture<'_, Result<(), AttemptError>>;
    /// Ends the body; an error counts against the server like a bad status.
    fn end(self) -> BoxFuture<'static, Result<T, AttemptError>>;
}

/// What is fetched.
#[derive(Debug, Clone, Copy)]
pub struct Resource<'a> {
    /// Path below the base URL, without leading slash; any bytes.
    pub path: &'a [u8],
    /// Part of it.
    pub window: Option<Window>,
    /// Most stored bytes worth receiving.
    pub cap: u64,
}

/// What was fetched, by which route, and what failed before.
struct Found<T> {
    value: T,
    walk: Walk,
    way: Way,
    failure: DownloadError,
}

/// What of a body is here already.
struct Partial<S> {
    sink: S,
    received: u64,
}

impl Downloader {
    /// Joins transport and servers.
    pub fn new(transport: Arc<dyn Transport>, selection: Selection, timeouts: Timeouts) -> Self {
        Self {
            transport,
            selection: Mutex::new(selection),
            named: Mutex::new(Arc::from([])),
            names: None,
            timeouts: Mutex::new(timeouts),
            statistics: NetStatistics::default(),
            failing: AtomicBool::new(false),
            recovered: Notify::new(),
            skew: AtomicI64::new(0),
            hurry: Hurry { patience: ROUTE_PATIENCE, useful_rate: USEFUL_RATE },
        }
    }

    /// Leaves slow transfers earlier.
    #[cfg(test)]
    pub(crate) fn hurrying(mut self, patience: Duration, useful_rate: u64) -> Self {
        self.hurry = Hurry { patience, useful_rate };
        self
    }

    /// Uses each address of a proxy's name as a proxy of its own, and follows their changes.
    ///
    /// Proxies over TLS keep their names, which their certificates are checked against.
    pub fn resolving(mut self, names: Names) -> Self {
        self.names = Some(names);
        self.find_named();
        self
    }

    /// Uses these proxies from now on; requests under way go on with those they have.
    pub fn set_proxies(&self, proxies: &ProxySpec) {
        self.selection.lock().set_proxies(proxies);
        self.find_named();
    }

    /// Returns the time limits of one attempt.
    pub fn timeouts(&self) -> Timeouts {
        *self.timeouts.lock()
    }

    /// Changes them for the attempts that come.
    pub fn set_timeouts(&self, timeouts: Timeouts) {
        *self.timeouts.lock() = timeouts;
    }

    fn find_named(&self) {
        if self.names.is_none() {
            return;
        }
        let groups = self.selection.lock().configured_proxies();
        let named = groups.into_iter().flatten().filter_map(|proxy| {
            let Proxy::Url(text) = &proxy else { return None };
            let url = url::Url::parse(text).ok()?;
            let is_name =
                url.scheme() == "http" && matches!(url.host(), Some(url::Host::Domain(_)));
            is_name.then_some((proxy, url))
        });
        *self.named.lock() = named.collect();
    }

    /// Waits for the addresses of names of which none is known; all others are at hand.
    async fn resolve_proxies(&self, names: &Names, named: &[(Proxy, url::Url)]) {
        let found = named.iter().map(|(proxy, url)| async move {
            let addresses = names.lookup(url.host_str()?).await.ok()?;
            let with = |address: &std::net::IpAddr| {
                let mut url = url.clone();
                url.set_ip_host(*address).ok()?;
                Some(Proxy::Url(url.as_str().trim_end_matches('/').to_owned()))
            };
            Some((proxy, addresses.iter().filter_map(with).collect::<Vec<_>>()))
        });
        let found = futures_util::future::join_all(found).await;
        let mut selection = self.selection.lock();
        for (proxy, addresses) in found.into_iter().flatten() {
            selection.set_addresses(proxy, &addresses);
        }
    }

    /// Returns the base URLs in their order.
    pub fn hosts(&self) -> Vec<String> {
        self.selection.lock().hosts().to_vec()
    }

    /// Returns the index of the server that the next request asks.
    pub fn current_host(&self) -> usize {
        self.selection.lock().current_host()
    }

    /// Lets the caller look at servers and proxies, or change them.
    pub fn selection<T>(&self, look: impl FnOnce(&mut Selection) -> T) -> T {
        look(&mut self.selection.lock())
    }

    /// Makes a server the one that later requests ask first: it proved to have good letters.
    pub fn prefer_host(&self, host: usize) {
        self.selection.lock().prefer_host(host, Instant::now());
    }

    /// Returns the counters.
    pub fn statistics(&self) -> &NetStatistics {
        &self.statistics
    }

    /// Returns the last known difference of a server's clock to ours in seconds, positive when
    /// theirs is ahead.
    pub fn clock_skew(&self) -> i64 {
        self.skew.load(Ordering::Relaxed)
    }

    /// Tells whether the last request that ended found no way to any server.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Waits until a request succeeds after all ways had failed.
    pub async fn recovered(&self) {
        self.recovered.notified().await;
    }

    /// Fetches a resource into sinks until one accepts it. Sinks accept only what a hash proves
    /// right.
    ///
    /// When all ways have failed the request goes around once more for as long as `patient` says
    /// so.
    pub async fn fetch<T, S: Sink<T>>(
        &self,
        resource: Resource<'_>,
        walk: Walk,
        patient: impl Fn() -> bool,
        new_sink: impl FnMut() -> S,
    ) -> Result<T, DownloadError> {
        let may_doubt = |_: &Proxy| true;
        let found = self.fetch_by(resource, walk, patient, may_doubt, new_sink).await?;
        self.was_right(&found.walk, &found.way);
        Ok(found.value)
    }

    /// Notes that an answer was proven right, and so whose answers were wrong.
    fn was_right(&self, walk: &Walk, way: &Way) {
        if walk.is_doubting() {
            let is_proven = |proxy: &Proxy| self.transport.is_proven(proxy);
            let wrong = self.selection.lock().proven_wrong(walk, is_proven, Instant::now());
            wrong.iter().for_each(|proxy| self.transport.note_proxy(proxy, false));
        } else if way.proxy != Proxy::Direct {
            self.transport.note_proxy(&way.proxy, true);
            self.selection.lock().proven_right(&way.proxy);
        }
    }

    /// Fetches like [`Downloader::fetch`], and tells by which route. `may_doubt` tells whether the
    /// answers of a proxy are doubted when all servers fail through it.
    async fn fetch_by<T, S: Sink<T>>(
        &self,
        resource: Resource<'_>,
        walk: Walk,
        patient: impl Fn() -> bool,
        may_doubt: impl Fn(&Proxy) -> bool,
        mut new_sink: impl FnMut() -> S,
    ) -> Result<Found<T>, DownloadError> {
        let mut failure = DownloadError::default();
        let start = walk;
        let mut walk = start.clone();
        let mut partial = None;
        loop {
            let named = Arc::clone(&self.named.lock());
            if let (Some(names), false) = (&self.names, named.is_empty()) {
                self.resolve_proxies(names, &named).await;
            }
            let timeouts = self.timeouts();
            let choice = {
                let mut selection = self.selection.lock();
                let way = selection.way(&mut walk, Instant::now());
                way.map(|way| {
                    let hurry = selection.has_other(&walk, &way).then_some(self.hurry);
                    (selection.hosts()[way.host].clone(), way, hurry)
                })
            };
            let Some((host, way, hurry)) = choice else { return Err(failure) };
            let from = partial.as_ref().map_or(0, |partial: &Partial<S>| partial.received);
            let request = Request {
                url: escape_url(&[host.as_bytes(), resource.path].join(&b'/')),
                proxy: way.proxy.clone(),
                no_cache: walk.no_cache(),
                window: resource.window,
                from,
                limit: timeouts.silence(&way.proxy),
            };
            let url = request.url.clone();
            let attempt = self.attempt(request, (resource.cap, hurry), &mut partial, &mut new_sink);
            let error = match attempt.await {
                Ok(value) => {
                    if self.failing.swap(false, Ordering::Relaxed) {
                        self.recovered.notify_waiters();
                    }
                    return Ok(Found { value, walk, way, failure });
                }
                Err(error) => error,
            };
            self.statistics.failures.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%url, %error, "download attempt failed");
            // What came from a slow route may have to be waited for there once more.
            let is_little = partial.as_ref().is_some_and(|p| p.received < MIN_RESUMED);
            let keeps = match &error {
                AttemptError::Outpaced { .. } => true,
                // Nothing of this attempt was added.
                AttemptError::Status { .. }
                | AttemptError::Connect(_)
                | AttemptError::Resolve(_)
                | AttemptError::Busy(_) => true,
                error => error.keeps_what_came() && !is_little,
            };
            if !keeps {
                partial = None;
            }
            // What comes of doubts says nothing about the object.
            let is_answer = !walk.is_doubting();
            let next = self.give_way(&mut walk, &way, &error, &may_doubt);
            let proxy = match &way.proxy {
                Proxy::Direct => None,
                Proxy::Url(url) => Some(url.clone()),
            };
            let is_final = error.failure(false).class == FailureClass::Final;
            if is_answer || is_final {
                if failure.attempts.len() == MAX_ATTEMPTS_KEPT {
                    failure.attempts.remove(0);
                }
                failure.attempts.push(Attempt { url, proxy, error });
            }
            match next {
                Next::Again(wait) if wait.is_zero() => {}
                Next::Again(wait) => tokio::time::sleep(wait).await,
                Next::GiveUp => {
                    if !is_final {
                        self.failing.store(true, Ordering::Relaxed);
                    }
                    if is_final || !patient() {
                        return Err(failure);
                    }
                    tokio::time::sleep(PATIENT_PAUSE).await;
                    walk = start.clone();
                }
            }
        }
    }

    fn give_way(
        &self,
        walk: &mut Walk,
        way: &Way,
        error: &AttemptError,
        may_doubt: impl Fn(&Proxy) -> bool,
    ) -> Next {
        let failure = error.failure(way.proxy != Proxy::Direct);
        let is_of_the_server =
            matches!(failure.class, FailureClass::HostHttp | FailureClass::BadData);
        if is_of_the_server && way.proxy != Proxy::Direct && may_doubt(&way.proxy) {
            walk.doubt(way);
        }
        self.selection.lock().failed(walk, &failure, Instant::now())
    }

    async fn attempt<T, S: Sink<T>>(
        &self,
        request: Request,
        (cap, hurry): (u64, Option<Hurry>),
        partial: &mut Option<Partial<S>>,
        new_sink: &mut impl FnMut() -> S,
    ) -> Result<T, AttemptError> {
        self.statistics.requests.fetch_add(1, Ordering::Relaxed);
        let timeouts = self.timeouts();
        let silence = timeouts.silence(&request.proxy);
        let Body { start, announced_len, date, mut pieces } = self.transport.get(request).await?;
        if let Some(date) = date {
            self.note_time(date);
        }
        // A server that cannot continue sends all of it, and so does one that was not asked to.
        let kept = partial.take().filter(|partial| start > 0 && partial.received == start);
        if kept.is_some() {
            self.statistics.resumed.fetch_add(1, Ordering::Relaxed);
        }
        let Partial { sink, received } =
            partial.insert(kept.unwrap_or_else(|| Partial { sink: new_sink(), received: 0 }));
        let end = announced_len.map(|len| len.saturating_add(*received));
        if end.is_some_and(|end| end > cap) {
            return Err(AttemptError::TooLarge(cap));
        }
        let begun = (Instant::now(), *received);
        let limit = hurry.map(|hurry| hurry.limit(announced_len.unwrap_or(cap)));
        let mut window = begun;
        loop {
            let piece = tokio::time::timeout(silence, pieces.next())
                .await
                .map_err(|_| AttemptError::Silent(silence))?;
            let Some(piece) = piece else { break };
            let piece = piece?;
            let len = piece.len() as u64;
            if *received + len > cap {
                return Err(AttemptError::TooLarge(cap));
            }
            sink.piece(piece).await?;
            *received += len;
            self.statistics.bytes.fetch_add(len, Ordering::Relaxed);
            let (start, before) = window;
            let elapsed = start.elapsed();
            if elapsed >= silence {
                let bytes = *received - before;
                let seconds = elapsed.as_secs().max(1);
                if bytes / seconds < timeouts.low_speed_limit {
                    return Err(AttemptError::TooSlow { bytes, seconds });
                }
                window = (Instant::now(), *received);
            }
            if limit.is_some_and(|limit| begun.0.elapsed() > limit) && end != Some(*received) {
                let (bytes, seconds) = (*received - begun.1, begun.0.elapsed().as_secs());
                return Err(AttemptError::Outpaced { bytes, seconds });
            }
        }
        if let Some(end) = end.filter(|end| end != received) {
            return Err(AttemptError::Cut(format!("{received} of {end} bytes")));
        }
        match partial.take() {
            Some(partial) => partial.sink.end().await,
            None => Err(AttemptError::Cut("lost".to_owned())),
        }
    }

    fn note_time(&self, date: i64) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.ok().and_then(|now| i64::try_from(now.as_secs()).ok()).unwrap_or(0);
        self.skew.store(date.saturating_sub(now), Ordering::Relaxed);
    }
}
