//! The fetcher over a scripted transport: merging, failover, healing, a failing cache.

use std::collections::VecDeque;
use std::io::Write as _;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::Notify;

use super::*;
use crate::cache::{CacheUsage, Transaction};
use crate::hash::{ContentHash, HashAlgorithm};
use crate::net::transport::Body;
use crate::net::{
    AttemptError, ProxySpec, Request, Selection, SelectionOptions, Timeouts, Transport,
};
use crate::object::ObjectKind;

#[derive(Clone)]
enum Answer {
    Body(Vec<u8>),
    Status(u16),
    /// Headers, then the first bytes, then silence.
    Stall(Vec<u8>),
    /// As `Body`, once the test says so.
    Gated(Vec<u8>, Arc<Notify>),
    /// A body that ends early though its length was announced.
    Cut(Vec<u8>),
    Endless,
    /// From where it was asked for, twenty bytes each five milliseconds.
    Drip(Vec<u8>),
}

/// Answers requests in the order of the script, the last answer for ever, and remembers them.
#[derive(Default)]
struct Script {
    answers: Mutex<HashMap<String, VecDeque<Answer>>>,
    requests: Mutex<Vec<(String, bool)>>,
}

impl Script {
    fn on(self: &Arc<Self>, host: &str, answers: impl Into<VecDeque<Answer>>) {
        self.answers.lock().insert(host.to_owned(), answers.into());
    }

    fn hosts_asked(&self) -> Vec<(String, bool)> {
        self.requests.lock().clone()
    }
}

impl Transport for Script {
    fn get(&self, request: Request) -> BoxFuture<'_, Result<Body, AttemptError>> {
        let host = request.url.split('/').nth(2).unwrap().to_owned();
        self.requests.lock().push((host.clone(), request.no_cache));
        let mut answers = self.answers.lock();
        let queue = answers.get_mut(&host).unwrap();
        let answer = if queue.len() > 1 { queue.pop_front().unwrap() } else { queue[0].clone() };
        Box::pin(async move {
            let whole = |bytes: Vec<u8>| Body {
                start: 0,
                date: None,
                announced_len: Some(bytes.len() as u64),
                pieces: futures_util::stream::iter(
                    bytes.chunks(7).map(|c| Ok(Bytes::copy_from_slice(c))).collect::<Vec<_>>(),
                )
                .boxed(),
            };
            Ok(match answer {
                Answer::Body(bytes) => whole(bytes),
                Answer::Status(code) => {
                    return Err(AttemptError::Status { code, by_proxy: false, retry_after: None });
                }
                Answer::Gated(bytes, gate) => {
                    gate.notified().await;
                    whole(bytes)
                }
                Answer::Stall(bytes) => Body {
                    start: 0,
                    date: None,
                    announced_len: None,
                    pieces: futures_util::stream::iter([Ok(Bytes::from(bytes))])
                        .chain(futures_util::stream::pending())
                        .boxed(),
                },
                Answer::Cut(bytes) => {
                    Body { announced_len: Some(bytes.len() as u64 + 10), ..whole(bytes) }
                }
                Answer::Drip(bytes) => Body {
                    start: request.from,
                    date: None,
                    announced_len: Some(bytes.len() as u64 - request.from),
                    pieces: futures_util::stream::iter(
                        bytes[usize::try_from(request.from).unwrap()..]
                            .chunks(20)
                            .map(Bytes::copy_from_slice)
                            .collect::<Vec<_>>(),
                    )
                    .then(|piece| async move {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        Ok(piece)
                    })
                    .boxed(),
                },
                Answer::Endless => Body {
                    start: 0,
                    date: None,
                    announced_len: None,
                    pieces: futures_util::stream::repeat_with(|| {
                        Ok(Bytes::from_static(&[0; 4096]))
                    })
                    .boxed(),
                },
            })
        })
    }
}

fn object(plain: &[u8]) -> (ObjectId, Vec<u8>) {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(plain).unwrap();
    let stored = encoder.finish().unwrap();
    (ObjectId::zlib(ContentHash::of(HashAlgorithm::Sha1, &stored), ObjectKind::Data), stored)
}

fn fetcher(script: &Arc<Script>, cache: Arc<dyn ObjectCache>) -> Fetcher {
    fetcher_with(script, cache, 100)
}

fn fetcher_with(script: &Arc<Script>, cache: Arc<dyn ObjectCache>, transfers: usize) -> Fetcher {
    let hosts = vec!["http://a".to_owned(), "http://b".to_owned()];
    let options = SelectionOptions { max_retries: 0, ..SelectionOptions::default() };
    let mirrors = Selection::new(hosts, &ProxySpec::direct(), options);
    let transport: Arc<dyn Transport> = Arc::clone(script) as _;
    let downloader = Downloader::new(transport, mirrors, TIMEOUTS).hurrying(HURRY, 1 << 40);
    Fetcher::with_external(cache, downloader, None, false, transfers)
}

fn asked(script: &Script) -> Vec<String> {
    script
        .hosts_asked()
        .into_iter()
        .map(|(host, no_cache)| if no_cache { format!("{host} no-cache") } else { host })
        .collect()
}

/// Short, because blocking tasks keep tokio's clock from being moved by hand.
const TIMEOUTS: Timeouts = Timeouts {
    proxy: Duration::from_millis(50),
    direct: Duration::from_millis(50),
    low_speed_limit: 1024,
};

/// How long a slow transfer is waited for where another route is left.
const HURRY: Duration = Duration::from_millis(200);

const PLAIN: &[u8] = b"the quick brown fox jumps over the lazy dog, again and again";

#[tokio::test]
async fn each_fault_of_the_first_server_is_healed_and_asks_in_the_right_order() {
    let (id, stored) = object(PLAIN);
    let good = Answer::Body(stored.clone());
    let mut flipped = stored.clone();
    flipped[20] ^= 1;
    let flipped = Answer::Body(flipped);
    let other = Answer::Body(object(b"another valid object").1);
    let cases: Vec<(&str, Vec<Answer>, Vec<&str>)> = vec![
        ("good", vec![good.clone()], vec!["a"]),
        ("flipped once", vec![flipped.clone(), good.clone()], vec!["a", "a no-cache"]),
        ("flipped always", vec![flipped], vec!["a", "a no-cache", "b"]),
        ("another object", vec![other], vec!["a", "a no-cache", "b"]),
        ("empty", vec![Answer::Body(vec![])], vec!["a", "a no-cache", "b"]),
        ("cut", vec![Answer::Cut(stored[..30].to_vec())], vec!["a", "b"]),
        ("404", vec![Answer::Status(404)], vec!["a", "b"]),
        ("500", vec![Answer::Status(500)], vec!["a", "b"]),
        ("redirect", vec![Answer::Status(302)], vec!["a", "b"]),
        ("stall", vec![Answer::Stall(stored[..30].to_vec())], vec!["a", "b"]),
        ("endless", vec![Answer::Endless], vec!["a", "b"]),
        (
            "bytes after the end",
            vec![Answer::Body([&stored[..], b"x"].concat())],
            vec!["a", "a no-cache", "b"],
        ),
    ];
    for (name, answers, expected) in cases {
        let script = Arc::new(Script::default());
        script.on("a", answers);
        script.on("b", [good.clone()]);
        let fetcher = fetcher(&script, Arc::new(MemoryCache::default()));
        let bound = SizeBound::Exactly(PLAIN.len() as u64);
        let object = fetcher.open(&id, bound, "x").await.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(&object.read_all(1000).unwrap()[..], PLAIN, "{name}");
        assert_eq!(asked(&script), expected, "{name}");
        // The server that delivered is asked first from now on; cached objects ask nobody.
        fetcher.open(&id, bound, "x").await.unwrap();
        assert_eq!(asked(&script).len(), expected.len(), "{name}");
    }
}

#[tokio::test]
async fn when_all_servers_fail_every_attempt_is_told_and_nothing_is_stored() {
    let (id, stored) = object(PLAIN);
    let script = Arc::new(Script::default());
    script.on("a", [Answer::Status(503)]);
    script.on("b", [Answer::Stall(stored)]);
    let cache = Arc::new(MemoryCache::default());
    let fetcher = fetcher(&script, Arc::clone(&cache) as _);
    let bound = SizeBound::Exactly(PLAIN.len() as u64);
    let error = fetcher.open(&id, bound, "/sw/x").await.unwrap_err();
    let text = crate::chain::chain(&*error);
    for part in ["/sw/x", "http://a/data/", "HTTP 503", "http://b/data/", "no answer within 50ms"] {
        assert!(text.contains(part), "{part:?} missing in {text}");
    }
    assert_eq!(cache.usage().used, 0);
    // The failure is not remembered.
    script.on("b", [Answer::Body(object(PLAIN).1)]);
    assert!(fetcher.open(&id, bound, "/sw/x").await.is_ok());
}

#[tokio::test]
async fn a_size_that_the_catalog_did_not_state_is_refused() {
    let (id, stored) = object(PLAIN);
    for size in [PLAIN.len() as u64 - 1, PLAIN.len() as u64 + 1, 0, 1 << 50] {
        let script = Arc::new(Script::default());
        script.on("a", [Answer::Body(stored.clone())]);
        script.on("b", [Answer::Body(stored.clone())]);
        let cache = Arc::new(MemoryCache::default());
        let fetcher = fetcher(&script, Arc::clone(&cache) as _);
        assert!(fetcher.open(&id, SizeBound::Exactly(size), "x").await.is_err(), "{size}");
        assert_eq!(cache.usage().used, 0, "{size}");
        assert!(asked(&script).contains(&"b".to_owned()), "{size}: the next server is asked");
    }
}

#[tokio::test]
async fn equal_requests_are_merged_and_outlive_those_who_asked() {
    let (id, stored) = object(PLAIN);
    let gate = Arc::new(Notify::new());
    let script = Arc::new(Script::default());
    script.on("a", [Answer::Gated(stored, Arc::clone(&gate))]);
    let fetcher = Arc::new(fetcher(&script, Arc::new(MemoryCache::default())));
    let bound = SizeBound::Exactly(PLAIN.len() as u64);
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let fetcher = Arc::clone(&fetcher);
            tokio::spawn(async move { fetcher.open(&id, bound, "x").await.map(|o| o.len()) })
        })
        .collect();
    while script.hosts_asked().is_empty() {
        tokio::task::yield_now().await;
    }
    // The one who asked first goes away.
    readers[0].abort();
    gate.notify_one();
    for reader in readers.into_iter().skip(1) {
        assert_eq!(reader.await.unwrap().unwrap(), PLAIN.len() as u64);
    }
    assert_eq!(asked(&script), ["a"]);
    assert!(fetcher.shared.downloads.lock().is_empty());
}

/// Servers may fail a download that began before somebody asked, and be well when he does.
#[tokio::test]
async fn who_joins_a_download_that_fails_gets_one_of_his_own() {
    let (id, stored) = object(PLAIN);
    let gate = Arc::new(Notify::new());
    let script = Arc::new(Script::default());
    let damaged = Answer::Gated(b"damaged".to_vec(), Arc::clone(&gate));
    script.on("a", [damaged, Answer::Status(503), Answer::Body(stored)]);
    script.on("b", [Answer::Status(503)]);
    let fetcher = Arc::new(fetcher(&script, Arc::new(MemoryCache::default())));
    let bound = SizeBound::Exactly(PLAIN.len() as u64);
    let read = || {
        let fetcher = Arc::clone(&fetcher);
        tokio::spawn(async move { fetcher.open(&id, bound, "x").await.map(|o| o.len()) })
    };
    let first = read();
    while script.hosts_asked().is_empty() {
        tokio::task::yield_now().await;
    }
    let late: Vec<_> = (0..5).map(|_| read()).collect();
    let is_joined = || fetcher.shared.downloads.lock().values().next().is_some_and(waits_for_six);
    while !is_joined() {
        tokio::task::yield_now().await;
    }
    gate.notify_one();
    assert!(first.await.unwrap().is_err(), "it had its download, which failed everywhere");
    for reader in late {
        assert_eq!(reader.await.unwrap().unwrap(), PLAIN.len() as u64);
    }
    let successes = fetcher.statistics().downloads.load(Ordering::SeqCst);
    assert_eq!(successes, 2, "the late ones share theirs");
}

fn waits_for_six(download: &Download) -> bool {
    download.waiting.load(Ordering::SeqCst) == 6
}

#[tokio::test]
async fn a_row_that_lies_about_the_size_fails_alone() {
    let (id, stored) = object(PLAIN);
    let script = Arc::new(Script::default());
    script.on("a", [Answer::Body(stored.clone())]);
    script.on("b", [Answer::Body(stored)]);
    let fetcher = fetcher(&script, Arc::new(MemoryCache::default()));
    let (liar, honest) = tokio::join!(
        fetcher.open(&id, SizeBound::Exactly(3), "liar"),
        fetcher.open(&id, SizeBound::Exactly(PLAIN.len() as u64), "honest"),
    );
    assert!(liar.is_err());
    assert_eq!(honest.unwrap().len(), PLAIN.len() as u64);
}

/// All repositories share a cache, and the same content is one object of it.
#[tokio::test]
async fn low_a_lying_size_evicts_nothing_of_others() {
    let (id, stored) = object(PLAIN);
    let script = Arc::new(Script::default());
    script.on("a", [Answer::Body(stored.clone())]);
    let cache: Arc<dyn ObjectCache> = Arc::new(MemoryCache::default());
    let fetcher = fetcher(&script, Arc::clone(&cache));
    let right = SizeBound::Exactly(PLAIN.len() as u64);
    fetcher.open(&id, right, "honest").await.unwrap();
    for lie in [SizeBound::Exactly(0), SizeBound::Exactly(1 << 40), SizeBound::AtMost(3)] {
        for host in ["a", "b"] {
            script.on(host, [Answer::Body(stored.clone())]);
        }
        assert!(fetcher.open(&id, lie, "liar").await.is_err());
        assert!(cache.open(&id).unwrap().is_some(), "{lie:?}: gone");
    }
    // Neither by doubts about its content, which is what was stored.
    fetcher.discard(&id);
    let before = asked(&script).len();
    fetcher.open(&id, right, "honest").await.unwrap();
    assert_eq!(asked(&script).len(), before, "nothing is fetched again");
}

/// Fails as a full or dying disk does: at the start or in the middle of a transaction.
struct FailingCache {
    at_start: bool,
}

impl ObjectCache for FailingCache {
    fn open(&self, _id: &ObjectId) -> Result<Option<CachedObject>, CacheError> {
        Err(full("open"))
    }

    fn begin(&self, _id: &ObjectId, _: &ObjectMeta) -> Result<Box<dyn Transaction>, CacheError> {
        if self.at_start { Err(full("create")) } else { Ok(Box::new(FailingTransaction)) }
    }

    fn discard(&self, _id: &ObjectId) -> Result<(), CacheError> {
        Err(full("remove"))
    }

    fn usage(&self) -> CacheUsage {
        CacheUsage::default()
    }
}

struct FailingTransaction;

impl Transaction for FailingTransaction {
    fn write(&mut self, _piece: &[u8]) -> Result<(), CacheError> {
        Err(full("write"))
    }

    fn commit(self: Box<Self>, _proof: CheckedBody) -> Result<CachedObject, CacheError> {
        Err(full("link"))
    }
}

fn full(action: &'static str) -> CacheError {
    let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
    CacheError::Io { action, path: "/cache".into(), source }
}

#[tokio::test]
async fn a_failing_cache_never_reaches_the_reader() {
    let (id, stored) = object(PLAIN);
    for at_start in [true, false] {
        let script = Arc::new(Script::default());
        script.on("a", [Answer::Body(stored.clone())]);
        let fetcher = fetcher(&script, Arc::new(FailingCache { at_start }));
        let bound = SizeBound::Exactly(PLAIN.len() as u64);
        let object = fetcher.open(&id, bound, "x").await.unwrap();
        assert_eq!(&object.read_all(1000).unwrap()[..], PLAIN);
        assert!(!asked(&script).contains(&"b".to_owned()), "no server is to blame");
    }
}

#[tokio::test]
async fn an_object_keeps_its_turn_until_it_is_taken() {
    let (first, first_stored) = object(PLAIN);
    let (second, second_stored) = object(b"second");
    let script = Arc::new(Script::default());
    script.on("a", [Answer::Body(first_stored), Answer::Body(second_stored)]);
    let fetcher = Arc::new(fetcher_with(&script, Arc::new(MemoryCache::default()), 1));
    let mut waiting = Box::pin(fetcher.open(&first, SizeBound::AtMost(1000), "first"));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    let other = Arc::clone(&fetcher);
    let later =
        tokio::spawn(async move { other.open(&second, SizeBound::AtMost(1000), "second").await });
    // The first has left the table of downloads, so it is complete, and nobody has taken it.
    while fetcher.shared.downloads.lock().keys().any(|(id, ..)| *id == first) {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!((asked(&script).len(), fetcher.shared.turns.taken()), (1, 1));
    assert_eq!(&waiting.await.unwrap().read_all(1000).unwrap()[..], PLAIN);
    assert_eq!(&later.await.unwrap().unwrap().read_all(1000).unwrap()[..], b"second");
    assert_eq!((asked(&script).len(), fetcher.shared.turns.taken()), (2, 0));
}

#[tokio::test]
async fn a_thousand_requests_take_turns() {
    let script = Arc::new(Script::default());
    script.on("a", [Answer::Status(404)]);
    script.on("b", [Answer::Status(404)]);
    let fetcher = fetcher_with(&script, Arc::new(MemoryCache::default()), 3);
    let requests = (0..1000_u32).map(|number| {
        let (id, _) = object(&number.to_le_bytes());
        let fetcher = &fetcher;
        async move { fetcher.open(&id, SizeBound::AtMost(1000), "x").await.unwrap_err() }
    });
    for error in futures_util::future::join_all(requests).await {
        assert!(matches!(*error, FetchError::Download { .. }), "{error}");
    }
    assert_eq!(fetcher.shared.turns.taken(), 0);
}

/// A cache without a descriptor left for what it has.
struct Exhausted;

impl ObjectCache for Exhausted {
    fn open(&self, _id: &ObjectId) -> Result<Option<CachedObject>, CacheError> {
        let source = std::io::Error::from_raw_os_error(24);
        Err(CacheError::Io { action: "open", path: "x".into(), source })
    }

    fn begin(&self, _id: &ObjectId, _: &ObjectMeta) -> Result<Box<dyn Transaction>, CacheError> {
        Err(full("create"))
    }

    fn discard(&self, id: &ObjectId) -> Result<(), CacheError> {
        panic!("{id} is good");
    }

    fn usage(&self) -> CacheUsage {
        CacheUsage::default()
    }
}

#[tokio::test]
async fn what_cannot_be_opened_for_want_of_descriptors_is_not_downloaded() {
    let script = Arc::new(Script::default());
    let fetcher = fetcher(&script, Arc::new(Exhausted));
    let error = fetcher.open(&object(PLAIN).0, SizeBound::AtMost(1000), "x").await.unwrap_err();
    assert!(matches!(*error, FetchError::OutOfDescriptors { .. }), "{error}");
    assert!(asked(&script).is_empty());
}

#[tokio::test]
async fn a_wrong_guess_removes_nothing_and_leaves_no_server() {
    let script = Arc::new(Script::default());
    let (id, stored) = object(PLAIN);
    let (missing, _) = object(b"garbage collected");
    script.on("a", [Answer::Body(stored)]);
    script.on("b", [Answer::Status(500)]);
    let fetcher = fetcher(&script, Arc::new(MemoryCache::default()));
    let exactly = |size| FetchOptions {
        only_host: Some(0),
        ..FetchOptions::new(SizeBound::Exactly(size), "guess")
    };
    let len = PLAIN.len() as u64;
    // Neither with a wrong size, nor where the server has something else.
    assert_eq!(fetcher.fetch_ahead(&id, &exactly(len - 1)).await, AheadOutcome::Failed);
    assert_eq!(fetcher.fetch_ahead(&missing, &exactly(5)).await, AheadOutcome::Failed);
    assert_eq!(fetcher.downloader().current_host(), 0);
    assert_eq!(fetcher.fetch_ahead(&id, &exactly(len)).await, AheadOutcome::Fetched);
    assert!(fetcher.is_unused(&id) && !fetcher.is_unused(&missing));
    assert_eq!(fetcher.fetch_ahead(&id, &exactly(len - 1)).await, AheadOutcome::Here);
    let (_, was_ahead) = fetcher.open_here(&id, &exactly(len)).unwrap().expect("it is still here");
    assert!(was_ahead && !fetcher.is_unused(&id));
    let counted = fetcher.ahead();
    assert_eq!((counted.objects, counted.used_objects), (1, 1));
    assert!(script.hosts_asked().iter().all(|(host, _)| host == "a"));
}

#[tokio::test]
async fn what_is_asked_for_is_not_fetched_ahead_as_well() {
    let script = Arc::new(Script::default());
    let (id, stored) = object(PLAIN);
    let gate = Arc::new(Notify::new());
    script.on("a", [Answer::Gated(stored, Arc::clone(&gate))]);
    let fetcher = fetcher(&script, Arc::new(MemoryCache::default()));
    let options = FetchOptions::new(SizeBound::Exactly(PLAIN.len() as u64), "x");
    let (asked, ahead) = tokio::join!(fetcher.open_with(&id, &options), async {
        let outcome = fetcher.fetch_ahead(&id, &options).await;
        gate.notify_one();
        outcome
    });
    assert!(asked.is_ok());
    assert_eq!((ahead, fetcher.ahead()), (AheadOutcome::UnderWay, AheadStatistics::default()));
}

/// A guess asks one server; who joins it may ask all.
#[tokio::test]
async fn who_joins_a_guess_that_fails_still_asks_all_servers() {
    let script = Arc::new(Script::default());
    let (id, stored) = object(PLAIN);
    let gate = Arc::new(Notify::new());
    script.on("a", [Answer::Gated(b"damaged".to_vec(), Arc::clone(&gate)), Answer::Status(404)]);
    script.on("b", [Answer::Body(stored)]);
    let fetcher = fetcher(&script, Arc::new(MemoryCache::default()));
    let whole = FetchOptions::new(SizeBound::Exactly(PLAIN.len() as u64), "x");
    let guess = FetchOptions { only_host: Some(0), ..whole.clone() };
    let (ahead, asked) = tokio::join!(fetcher.fetch_ahead(&id, &guess), async {
        while script.hosts_asked().is_empty() {
            tokio::task::yield_now().await;
        }
        let asked = fetcher.open_with(&id, &whole);
        gate.notify_one();
        asked.await
    });
    assert_eq!(ahead, AheadOutcome::Failed);
    assert_eq!(asked.unwrap().len(), PLAIN.len() as u64);
}

/// Limits that no machine is too busy for: pace is what these tests are about.
const GENEROUS: Timeouts = Timeouts {
    proxy: Duration::from_secs(30),
    direct: Duration::from_secs(30),
    low_speed_limit: 0,
};

/// The first server is just above the limit of low speed: the other one is asked.
#[tokio::test]
async fn m4_a_slow_server_is_left_while_there_is_another() {
    let (id, stored) = object(&noise(6000));
    let script = Arc::new(Script::default());
    script.on("a", [Answer::Drip(stored.clone())]);
    script.on("b", [Answer::Body(stored.clone())]);
    let fetcher = fetcher(&script, Arc::new(MemoryCache::default()));
    fetcher.downloader().set_timeouts(GENEROUS);
    fetcher.open(&id, SizeBound::AtMost(10_000), "x").await.unwrap();
    assert_eq!(asked(&script), ["a", "b"]);
    // It is not asked for the next one.
    let (next, stored) = object(PLAIN);
    script.on("b", [Answer::Body(stored)]);
    fetcher.open(&next, SizeBound::AtMost(10_000), "y").await.unwrap();
    assert_eq!(asked(&script), ["a", "b", "b"]);
}

/// It is the only one that delivers: it may take its time, and goes on where it was.
#[tokio::test]
async fn m4_a_slow_server_is_used_where_there_is_no_other() {
    let (id, stored) = object(&noise(6000));
    // The last route is not left, so a second slow one finishes what the first began.
    for (other, requests) in [(Answer::Status(404), 3), (Answer::Drip(stored.clone()), 2)] {
        let script = Arc::new(Script::default());
        script.on("a", [Answer::Drip(stored.clone())]);
        script.on("b", [other]);
        let fetcher = fetcher(&script, Arc::new(MemoryCache::default()));
        fetcher.downloader().set_timeouts(GENEROUS);
        let object = fetcher.open(&id, SizeBound::AtMost(10_000), "x").await.unwrap();
        assert_eq!(&object.read_all(10_000).unwrap()[..], &noise(6000)[..]);
        assert_eq!(asked(&script).len(), requests, "{:?}", asked(&script));
        let resumed = fetcher.downloader().statistics().resumed.load(Ordering::Relaxed);
        assert!(resumed > 0, "what came is kept");
    }
}

/// Bytes that do not get smaller.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}
