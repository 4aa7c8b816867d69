//! Trust over time: whitelists that are replayed, servers that are frozen or away, proxies that lie.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Network, Rule, TestServer};

use super::*;
use crate::cache::{CacheError, CacheUsage, CachedObject, MemoryCache, ObjectMeta, Transaction};
use crate::clock::ManualClock;
use crate::net::{HttpTransport, TransportOptions};

const FQRN: &str = "trust.test.repo";
/// 2027-01-15.
const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;
/// 2027-02-01, when [`SHORT`] whitelists expire.
const EXPIRY: i64 = 1_801_440_000;
const SHORT: &str = "20270201000000";
const LONG: &str = "20460101000000";

/// A cache in memory that keeps records.
#[derive(Default)]
struct Recording {
    objects: MemoryCache,
    records: Mutex<HashMap<String, Vec<u8>>>,
    is_read_only: AtomicBool,
}

impl ObjectCache for Recording {
    fn open(&self, id: &ObjectId) -> Result<Option<CachedObject>, CacheError> {
        self.objects.open(id)
    }

    fn begin(&self, id: &ObjectId, meta: &ObjectMeta) -> Result<Box<dyn Transaction>, CacheError> {
        self.objects.begin(id, meta)
    }

    fn discard(&self, id: &ObjectId) -> Result<(), CacheError> {
        self.objects.discard(id)
    }

    fn usage(&self) -> CacheUsage {
        self.objects.usage()
    }

    fn load_record(&self, name: &str) -> Result<Option<Vec<u8>>, CacheError> {
        Ok(self.records.lock().get(name).cloned())
    }

    fn update_record(
        &self,
        name: &str,
        change: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Vec<u8>>,
    ) -> Result<(), CacheError> {
        if self.is_read_only.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut records = self.records.lock();
        if let Some(changed) = change(records.get(name).cloned()) {
            records.insert(name.to_owned(), changed);
        }
        Ok(())
    }
}

/// A machine with its clock and its cache.
struct Machine {
    clock: ManualClock,
    cache: Arc<Recording>,
    config: RepositoryConfig,
}

impl Machine {
    fn new(published: &Published, servers: &[&TestServer]) -> Self {
        let key = std::fs::read(published.public_key()).unwrap();
        let options = SelectionOptions { max_retries: 0, ..SelectionOptions::default() };
        let config = RepositoryConfig {
            fqrn: FQRN.parse().unwrap(),
            servers: servers.iter().map(|server| server.base(FQRN)).collect(),
            proxy: ProxySpec::direct(),
            keys: MasterKeys::parse([("master", key)]).unwrap(),
            blocklist: Blocklist::default(),
            pin: Pin::Latest,
            symlink_variables: SymlinkVariables::new(),
            timeouts: Timeouts::default(),
            selection: options,
            wait_for_network: false,
            min_revision: 0,
            names: Names::default(),
            geo: None,
            max_servers: 0,
            external: ExternalServers::default(),
            descriptors: DescriptorBudget::default(),
            fetch_ahead: false,
            ahead_bandwidth: None,
            grace: None,
            offline_limit: None,
        };
        Self { clock: ManualClock::new(NOW), cache: Arc::default(), config }
    }

    /// Opens the repository as a new process does.
    async fn open(&self) -> Result<Repository, RepositoryError> {
        let transport = Arc::new(HttpTransport::new(TransportOptions::default()));
        let (config, clock) = (self.config.clone(), Arc::new(self.clock.clone()));
        Repository::open(config, transport, Arc::clone(&self.cache) as _, clock).await
    }
}

fn repo() -> TestRepo {
    let mut repo = TestRepo::new(FQRN);
    repo.file("/f", b"1".to_vec());
    repo
}

fn reason(repository: &Repository) -> String {
    repository.stale().map(|stale| stale.reason.clone()).unwrap_or_default()
}

/// The certificate is revoked; the attacker answers with the whitelist from before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m2_a_whitelist_counts_though_its_manifest_was_refused() {
    let mut repo = repo();
    let before = repo.publish();
    let server = TestServer::serving(before.root());
    let machine = Machine::new(&before, &[&server]);
    let live = machine.open().await.unwrap();
    repo.whitelist_created("20250101000000").fingerprints([""; 0]).publish();
    machine.open().await.err().unwrap();
    before.restore_letters().unwrap();
    let error = machine.open().await.err().unwrap().summary();
    assert!(error.contains("certificate not on whitelist"), "{error}");
    // A record that is gone, or cannot be written, is made up for by the process that saw it.
    repo.publish();
    machine.clock.set(NOW + 2 * DAY);
    live.check(&Blocklist::default()).await.unwrap_err();
    machine.cache.records.lock().clear();
    machine.cache.is_read_only.store(true, Ordering::Relaxed);
    before.restore_letters().unwrap();
    let error = live.check(&Blocklist::default()).await.unwrap_err().summary();
    assert!(error.contains("certificate not on whitelist"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m2_an_older_whitelist_is_refused_after_the_newer_expired() {
    let mut repo = repo();
    let before = repo.publish();
    let server = TestServer::serving(before.root());
    repo.whitelist_created("20250101000000").whitelist_expires(SHORT).publish();
    let machine = Machine::new(&before, &[&server]);
    let live = machine.open().await.unwrap();
    machine.clock.set(EXPIRY + 30 * DAY);
    // The same revision, under a whitelist that is older and will be valid for years.
    std::fs::write(before.base().join(".cvmfswhitelist"), before.whitelist_bytes()).unwrap();
    let error = live.check(&Blocklist::default()).await.unwrap_err().summary();
    let outdated = "outdated whitelist: created at 2023-11-14";
    assert!(error.contains(outdated), "{error}");
    // Not even by a new process, whatever its clock says.
    for now in [EXPIRY + 30 * DAY, NOW - 700 * DAY] {
        machine.clock.set(now);
        let again = machine.open().await.unwrap();
        let is_newer_used = again.stale().is_none();
        assert!(
            is_newer_used == (now < EXPIRY) && (is_newer_used || reason(&again).contains(outdated))
        );
    }
    machine.clock.set(EXPIRY + 30 * DAY);
    repo.whitelist_created("20270220000000").whitelist_expires(LONG).publish();
    let update = live.check(&Blocklist::default()).await.unwrap();
    if let Some(update) = update {
        live.commit(update, &Blocklist::default());
    }
    assert!(live.stale().is_none());
}

/// Two processes share a record; neither forgets what the other saw.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m2_processes_share_what_they_saw_and_other_keys_do_not_count() {
    let mut repo = repo();
    let before = repo.publish();
    let server = TestServer::serving(before.root());
    let machine = Machine::new(&before, &[&server]);
    let (first, second) = (machine.open().await.unwrap(), machine.open().await.unwrap());
    repo.whitelist_created("20250101000000").publish();
    let update = second.check(&Blocklist::default()).await.unwrap().unwrap();
    second.commit(update, &Blocklist::default());
    let newest = |machine: &Machine| {
        let memory = RevisionMemory::load(&*machine.cache, FQRN);
        let cache = Arc::clone(&machine.cache) as Arc<dyn ObjectCache>;
        SeenWhitelists::recorded(&cache, FQRN, &memory).newest(&machine.config.keys)
    };
    let recorded = newest(&machine).unwrap();
    assert!(recorded.starts_with(b"20250101000000"));
    // The first one confirms what it has, and writes the record.
    machine.clock.set(NOW + 2 * DAY);
    first.check(&Blocklist::default()).await.unwrap();
    assert_eq!(newest(&machine).unwrap(), recorded);
    // The site replaced its key: what the old one signed says nothing.
    let mut other = machine.config.clone();
    let pem = fixtures::publish::keys::OTHER_MASTER.public;
    other.keys = MasterKeys::parse([("other", pem)]).unwrap();
    let machine = Machine { config: other, ..machine };
    assert_eq!(newest(&machine), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m3_what_nobody_vouches_for_is_shown_for_a_while_only() {
    let mut repo = repo();
    let published = repo.whitelist_expires(SHORT).publish();
    let server = TestServer::serving(published.root());
    let mut machine = Machine::new(&published, &[&server]);
    machine.config.offline_limit = Some(Duration::from_secs(30 * 86_400));
    drop(machine.open().await.unwrap());
    server.set_network(Network::Refusing);
    machine.clock.set(EXPIRY + 29 * DAY);
    let live = machine.open().await.unwrap();
    live.check(&Blocklist::default()).await.unwrap_err();
    assert!(live.stale().is_some() && live.withheld().is_none());
    machine.clock.set(EXPIRY + 31 * DAY);
    let error = machine.open().await.err().unwrap();
    let text = error.to_string();
    assert!(matches!(error, RepositoryError::Offline { .. }), "{text}");
    for part in ["expired at 2027-02-01", "within 30 days", "CVMFS_FUSE_OFFLINE_LIMIT"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    live.check(&Blocklist::default()).await.unwrap_err();
    assert_eq!(live.withheld().unwrap().expired, EXPIRY);
    // A server that answers with the expired one is no better than none.
    server.set_network(Network::Up);
    live.check(&Blocklist::default()).await.unwrap_err();
    assert!(live.withheld().is_some());
    machine.config.offline_limit = None;
    assert!(machine.open().await.unwrap().stale().is_some());
    repo.whitelist_created("20270301000000").whitelist_expires(LONG).publish();
    if let Some(update) = live.check(&Blocklist::default()).await.unwrap() {
        live.commit(update, &Blocklist::default());
    }
    assert!(live.withheld().is_none() && live.stale().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m3_a_frozen_server_does_not_freeze_a_live_mount() {
    let mut repo = repo();
    let published = repo.publish();
    let copy = tempfile::tempdir().unwrap();
    published.copy_to(copy.path()).unwrap();
    let frozen = TestServer::serving(copy.path());
    let good = TestServer::serving(published.root());
    let machine = Machine::new(&published, &[&frozen, &good]);
    let live = machine.open().await.unwrap();
    repo.file("/f", b"2".to_vec());
    repo.publish();
    good.reset_log();
    for seconds in 0..10 {
        machine.clock.set(NOW + seconds * 60);
        assert!(live.check(&Blocklist::default()).await.unwrap().is_none());
    }
    assert_eq!(good.count("*"), 0, "others are asked seldom");
    machine.clock.set(NOW + 15 * 60);
    let update = live.check(&Blocklist::default()).await.unwrap().unwrap();
    live.commit(update, &Blocklist::default());
    assert_eq!((live.current().number(), live.server()), (2, good.base(FQRN)));
}

/// What a proxy says instead of the servers.
type Lie = (&'static str, fn() -> Rule);

fn lies() -> [Lie; 4] {
    [
        ("404", || Rule::on("*").status(404)),
        ("portal", || Rule::on("*").body(b"<html>Please log in</html>".to_vec())),
        ("damage", || Rule::on("*").flip_bit(20)),
        ("endless", || Rule::on("*").endless()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn low_a_lying_proxy_is_left_for_direct() {
    let published = repo().publish();
    let server = TestServer::serving(published.root());
    for (name, lie) in lies() {
        let proxy = TestServer::empty();
        proxy.rule(lie());
        let mut machine = Machine::new(&published, &[&server]);
        machine.config.proxy = format!("{};DIRECT", proxy.url()).parse().unwrap();
        let repository = machine.open().await.unwrap_or_else(|e| panic!("{name}: {}", e.summary()));
        let group = repository.fetcher().downloader().selection(|s| s.current_group());
        assert_eq!(group, 1, "{name}: it is left");
        assert!(proxy.count("*") <= 4, "{name}: {}", proxy.count("*"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn low_a_lying_proxy_is_left_for_an_honest_one() {
    let published = repo().publish();
    let server = TestServer::serving(published.root());
    for (name, lie) in lies() {
        // Which one is asked first is left to chance.
        for _ in 0..4 {
            let (lying, honest) = (TestServer::empty(), TestServer::empty());
            lying.rule(lie());
            let mut machine = Machine::new(&published, &[&server]);
            machine.config.proxy = format!("{}|{}", lying.url(), honest.url()).parse().unwrap();
            let opened = machine.open().await;
            let repository = opened.unwrap_or_else(|e| panic!("{name}: {}", e.summary()));
            let used = repository.fetcher().downloader().selection(|s| s.current_proxy());
            assert_eq!(used.unwrap().display(), honest.url(), "{name}");
        }
    }
}

/// Objects are damaged on their way, letters are not, and the proxy has been right before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn low_a_proxy_that_begins_to_lie_is_left() {
    let mut repo = repo();
    let published = repo.publish();
    let server = TestServer::serving(published.root());
    let proxy = TestServer::empty();
    let mut machine = Machine::new(&published, &[&server]);
    machine.config.proxy = format!("{};DIRECT", proxy.url()).parse().unwrap();
    let live = machine.open().await.unwrap();
    proxy.rule(Rule::on("*/data/*").flip_bit(20));
    for number in 2..5_u8 {
        repo.file("/f", vec![number]);
        repo.publish();
        let update = live.check(&Blocklist::default()).await.unwrap().unwrap();
        live.commit(update, &Blocklist::default());
        let group = live.fetcher().downloader().selection(|s| s.current_group());
        assert_eq!(group, usize::from(number == 4), "the third wrong answer is too many");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn low_an_honest_proxy_is_believed_that_there_is_no_such_repository() {
    let published = repo().publish();
    let server = TestServer::empty();
    let proxy = TestServer::empty();
    let mut machine = Machine::new(&published, &[&server]);
    machine.config.proxy = format!("{};DIRECT", proxy.url()).parse().unwrap();
    let error = machine.open().await.err().unwrap();
    assert!(error.is_unknown_repository(), "{}", error.summary());
    // Nobody answers without a proxy.
    let dead = TestServer::empty();
    dead.set_network(Network::Refusing);
    machine.config.proxy = format!("{};{}", proxy.url(), dead.url()).parse().unwrap();
    let error = machine.open().await.err().unwrap();
    assert!(error.is_unknown_repository(), "{}", error.summary());
}
