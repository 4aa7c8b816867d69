//! Rounds over servers of `fixtures`.

use std::path::Path;
use std::sync::Mutex as StdMutex;

use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Network, TestServer};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::clock::SystemClock;
use crate::descriptors::DescriptorBudget;
use crate::format::blocklist::Blocklist;
use crate::net::{HttpTransport, Names, ProxySpec, SelectionOptions, Timeouts, TransportOptions};
use crate::repository::{ExternalServers, Pin};
use crate::trust::MasterKeys;

const FQRN: &str = "survey.test.repo";

fn published() -> Published {
    let mut repo = TestRepo::new(FQRN);
    repo.whitelist_expires("20991231000000");
    for number in 0..20_u32 {
        let size = 1_usize << (number % 5 * 4 + 4);
        let mut content = vec![0; size];
        rand::RngCore::fill_bytes(&mut StdRng::seed_from_u64(u64::from(number)), &mut content);
        repo.file(format!("/d{}/{number}", number % 3), content);
    }
    repo.publish()
}

fn config(servers: Vec<String>, key: &Path) -> RepositoryConfig {
    let pem = std::fs::read(key).unwrap();
    RepositoryConfig {
        fqrn: FQRN.parse().unwrap(),
        servers,
        proxy: ProxySpec::direct(),
        keys: MasterKeys::parse([("test.pub".to_owned(), pem)]).unwrap(),
        blocklist: Blocklist::default(),
        pin: Pin::Latest,
        symlink_variables: crate::catalog::symlink::SymlinkVariables::new(),
        timeouts: Timeouts::default(),
        selection: SelectionOptions::default(),
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
    }
}

fn examiner(config: RepositoryConfig, plan: Plan) -> Examiner {
    let transport = Arc::new(HttpTransport::new(TransportOptions::default()));
    Examiner::new(config, transport, &[], plan)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_and_what_changed_since() {
    let published = published();
    let [a, b] = [(); 2].map(|()| TestServer::serving(published.root()));
    let servers = vec![a.base(FQRN), b.base(FQRN)];
    let plan = Plan { seed: Some(1), ..Plan::default() };
    let examiner = examiner(config(servers, &published.public_key()), plan);
    let steps = StdMutex::new(Vec::new());
    let note = |progress: Progress<'_>| {
        steps.lock().unwrap().push((progress.step.to_owned(), progress.requests));
    };
    let first = examiner.survey(&SystemClock, &note).await;
    let steps = steps.into_inner().unwrap();
    assert!(steps.iter().any(|(step, _)| step.contains("at a time")), "{steps:?}");
    assert!(steps.is_sorted_by_key(|(_, requests)| *requests), "{steps:?}");
    assert_eq!(first.newest.as_ref().map(|newest| newest.revision), Some(1));
    assert_eq!(first.sampling_failed, None);
    for (mirror, server) in first.mirrors.iter().zip([&a, &b]) {
        assert_eq!(mirror.faults, [], "{mirror:#?}");
        let way = &mirror.ways[0];
        assert_eq!(way.proxy, "DIRECT");
        let connection = way.connection.as_ref().unwrap();
        assert_eq!((connection.made, connection.tried, connection.keep_alive), (3, 3, true));
        assert_eq!(connection.address, server.address().to_string());
        assert_eq!(way.objects.root_catalog, report::ObjectOutcome::Verified);
        assert!(way.objects.verified > 10 && way.objects.missing == 0, "{:?}", way.objects);
        assert!(way.throughput.iter().any(|figure| figure.parallel > 1), "{way:?}");
        assert_eq!(mirror.requests, server.requests().len() as u64);
    }
    b.set_network(Network::Refusing);
    let second = examiner.survey(&SystemClock, &|_| {}).await;
    let changes = second.changes_since(&first);
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!((changes[0].fault.kind, changes[0].began), (FaultKind::Unreachable, true));
    assert_eq!(second.ranked()[1].server, b.base(FQRN));
    b.set_network(Network::Up);
    let third = examiner.survey(&SystemClock, &|_| {}).await;
    let changes = third.changes_since(&second);
    assert_eq!((changes.len(), changes[0].began), (1, false), "{changes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_for_objects_leaves_enough_to_fetch_them() {
    let mut repo = TestRepo::new(FQRN);
    repo.whitelist_expires("20991231000000");
    let mut random = StdRng::seed_from_u64(3);
    for catalog in 0..6 {
        let directory = format!("/n{catalog}");
        repo.many_files(&directory, 400, |_| {
            (format!("{:0100x}", rand::RngCore::next_u64(&mut random)), b"same".to_vec())
        });
        repo.nested(&directory);
    }
    repo.file("/a", b"one".to_vec());
    repo.file("/b", b"two".to_vec());
    let published = repo.publish();
    let nested = published.catalog_object("/n0").unwrap();
    let nested = published.read(&nested).unwrap().len() as u64;
    let server = TestServer::serving(published.root());
    // Two catalogs would be more than a quarter of it, and four are looked at if they may.
    let limits = Limits { requests: 60, bytes: nested * 5, seconds: 30 };
    let plan = Plan { limits, ..Plan::default() };
    let examiner = examiner(config(vec![server.base(FQRN)], &published.public_key()), plan);
    let survey = examiner.survey(&SystemClock, &|_| {}).await;
    let mirror = &survey.mirrors[0];
    assert_eq!(mirror.faults, []);
    assert!(survey.sampled >= 2 && mirror.ways[0].objects.verified >= 3, "{survey:#?}");
    assert!(mirror.bytes < nested * 3, "{} of {}", mirror.bytes, nested * 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_however_small() {
    let published = published();
    for (requests, bytes) in [(0, 1 << 20), (1, 1 << 20), (5, 1 << 20), (13, 1 << 20), (120, 9_000)]
    {
        let server = TestServer::serving(published.root());
        let limits = Limits { requests, bytes, seconds: 30 };
        let plan = Plan { limits, ..Plan::default() };
        let examiner = examiner(config(vec![server.base(FQRN)], &published.public_key()), plan);
        let survey = examiner.survey(&SystemClock, &|_| {}).await;
        let asked = server.requests().len() as u64;
        assert!(asked <= requests, "{asked} of {requests}");
        assert_eq!(survey.mirrors[0].requests, asked);
        // Heads are not counted.
        let sent = server.bytes_sent().saturating_sub(asked * 300);
        assert!(sent <= bytes, "{sent} of {bytes}");
    }
}
