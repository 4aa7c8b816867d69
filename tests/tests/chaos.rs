//! Everything fails at random while 32 readers work and revisions are published.
//!
//! Three minutes. The long run, and the figures (nextest would end it):
//! `CVMFS_FUSE_TEST_CHAOS_SECONDS=1200 cargo test -p tests --test chaos -- --nocapture`
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fixtures::peers::{Nginx, Squid, Trouble};
use fixtures::publish::TestRepo;
use fixtures::server::{Network, Rule, TestServer};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tests::versioned::{content, version_of};
use tests::{MountSpec, StopAtEnd, client, deadline, wait_until};

const FQRN: &str = "chaos.test.repo";
const READERS: usize = 32;
const DIRECTORIES: usize = 12;
const FILES: usize = 40;
/// Files rewritten by each revision.
const REWRITTEN: usize = 60;
const PUBLISH_EVERY: Duration = Duration::from_secs(10);
/// Objects that vanish from the cache each second, so that the network goes on being needed.
const EVICTED: usize = 40;
/// Files that nobody has read before, so that the network is needed all the time: what was read once
/// stays open in the client and in the kernel, whatever happens to the cache.
const COLD_PER_SECOND: u64 = 25;
/// Cold files in each nested catalog.
const COLD_IN_DIRECTORY: u64 = 100;
/// The configured timeout.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A call may need a catalog and an object. Each tries 2 proxies x 2 servers, and each of those
/// may take the timeout and a second. And each may first have joined a download that failed.
const BOUND: Duration = Duration::from_secs(2 * 2 * 4 * 3);

fn run_time() -> Duration {
    #[allow(clippy::disallowed_methods, reason = "chosen by whoever runs the test by hand")]
    let given = std::env::var("CVMFS_FUSE_TEST_CHAOS_SECONDS");
    Duration::from_secs(given.map_or(180, |seconds| seconds.parse().unwrap()))
}

/// When a peer was not good: closed intervals, and the start of an open one.
#[derive(Default)]
struct Downtime {
    closed: Vec<(Instant, Instant)>,
    open: Option<Instant>,
}

impl Downtime {
    fn begin(&mut self) {
        self.open.get_or_insert_with(Instant::now);
    }

    fn end(&mut self) {
        if let Some(start) = self.open.take() {
            self.closed.push((start, Instant::now()));
        }
    }

    fn touches(&self, from: Instant, to: Instant) -> bool {
        self.open.is_some_and(|start| start <= to)
            || self.closed.iter().any(|&(start, end)| start <= to && end >= from)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Good,
    Killed,
    Frozen,
    /// Mirrors: wrong bytes. Proxies: killed.
    Corrupt,
    /// Mirrors: 503. Proxies: frozen.
    Unavailable,
}

struct Peers {
    nginx: Nginx,
    server: TestServer,
    squids: [Squid; 2],
    faults: [Fault; 4],
}

/// Readers of a page share a failure that has just ended (`fs/repeats.rs`): for 20 ms, or a 40th of the time that
/// it took, which is some seconds here.
const SHARED: Duration = Duration::from_millis(200);

const MIRRORS: [usize; 2] = [0, 1];
const PROXIES: [usize; 2] = [2, 3];

impl Peers {
    fn heal(&mut self, peer: usize) {
        match peer {
            0 => {
                self.nginx.thaw();
                self.nginx.set(Trouble::Garbage, false);
                self.nginx.set(Trouble::Unavailable, false);
                self.nginx.start().unwrap();
            }
            1 => {
                self.server.clear();
                self.server.set_network(Network::Up);
            }
            _ => {
                self.squids[peer - 2].thaw();
                self.squids[peer - 2].start().unwrap();
            }
        }
    }

    fn spoil(&mut self, peer: usize, fault: Fault) {
        match (peer, fault) {
            (_, Fault::Good) => {}
            (0, Fault::Killed) => self.nginx.kill(),
            (0, Fault::Frozen) => self.nginx.freeze(),
            (0, Fault::Corrupt) => self.nginx.set(Trouble::Garbage, true),
            (0, Fault::Unavailable) => self.nginx.set(Trouble::Unavailable, true),
            (1, Fault::Killed) => self.server.set_network(Network::Refusing),
            (1, Fault::Frozen) => self.server.set_network(Network::Silent),
            (1, Fault::Corrupt) => drop(self.server.rule(Rule::on("*").flip_bit(77))),
            (1, Fault::Unavailable) => drop(self.server.rule(Rule::on("*").status(503))),
            (peer, Fault::Killed | Fault::Corrupt) => self.squids[peer - 2].kill(),
            (peer, _) => self.squids[peer - 2].freeze(),
        }
    }

    /// Heals first, spoils then: where one path takes over from another, both work for a moment.
    fn change(&mut self, wanted: [Fault; 4], downtimes: &Mutex<[Downtime; 4]>) {
        for (peer, &fault) in wanted.iter().enumerate() {
            if self.faults[peer] != Fault::Good && self.faults[peer] != fault {
                self.heal(peer);
                if fault == Fault::Good {
                    downtimes.lock().unwrap()[peer].end();
                }
                self.faults[peer] = Fault::Good;
            }
        }
        for (peer, &fault) in wanted.iter().enumerate() {
            if fault != self.faults[peer] {
                downtimes.lock().unwrap()[peer].begin();
                self.spoil(peer, fault);
                self.faults[peer] = fault;
            }
        }
    }
}

fn next_faults(random: &mut StdRng) -> [Fault; 4] {
    let kinds = [Fault::Killed, Fault::Frozen, Fault::Corrupt, Fault::Unavailable];
    let mut faults = [Fault::Good; 4]
        .map(|good| if random.random_bool(0.35) { good } else { *kinds.choose(random).unwrap() });
    if random.random_bool(0.85) {
        faults[*MIRRORS.choose(random).unwrap()] = Fault::Good;
        faults[*PROXIES.choose(random).unwrap()] = Fault::Good;
    }
    faults
}

/// A call that ended with an error.
#[derive(Debug)]
struct Failed {
    path: String,
    errno: Option<i32>,
    from: Instant,
    to: Instant,
}

#[derive(Default)]
struct Figures {
    calls: AtomicU64,
    good: AtomicU64,
    bytes: AtomicU64,
    slowest_us: AtomicU64,
    failed: Mutex<Vec<Failed>>,
    wrong: Mutex<Vec<String>>,
}

impl Figures {
    fn call<T>(&self, path: &str, call: impl FnOnce() -> io::Result<T>) -> Option<T> {
        let from = Instant::now();
        let result = call();
        let to = Instant::now();
        let time = u64::try_from((to - from).as_micros()).unwrap();
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.slowest_us.fetch_max(time, Ordering::Relaxed);
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                let (path, errno) = (path.to_owned(), error.raw_os_error());
                self.failed.lock().unwrap().push(Failed { path, errno, from, to });
                None
            }
        }
    }
}

fn names() -> Vec<String> {
    (0..DIRECTORIES * FILES)
        .map(|n| format!("/d{}/f{}", n % DIRECTORIES, n / DIRECTORIES))
        .collect()
}

fn cold_name(number: u64) -> String {
    format!("/cold/d{}/f{number}", number / COLD_IN_DIRECTORY)
}

/// Which cold file is next, at a steady pace over the run.
struct Cold {
    start: Instant,
    next: AtomicU64,
    good: AtomicU64,
}

impl Cold {
    fn take(&self) -> Option<String> {
        let due = self.start.elapsed().as_millis() * u128::from(COLD_PER_SECOND) / 1000;
        let due = u64::try_from(due).unwrap().min(run_time().as_secs() * COLD_PER_SECOND);
        let next = self.next.load(Ordering::Relaxed);
        let won = next < due
            && self
                .next
                .compare_exchange(next, next + 1, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        won.then(|| cold_name(next))
    }
}

/// Reads, lists and asks for attributes until told to stop, and checks everything.
fn reader(
    seed: u64,
    root: &Path,
    stop: &AtomicBool,
    published: &AtomicU64,
    figures: &Figures,
    cold: &Cold,
) {
    let mut random = StdRng::seed_from_u64(seed);
    let names = names();
    let mut seen: HashMap<String, u64> = HashMap::new();
    while !stop.load(Ordering::Relaxed) {
        if let Some(name) = cold.take() {
            if let Some(bytes) = figures.call(&name, || std::fs::read(root.join(&name[1..]))) {
                if bytes == name.as_bytes() {
                    cold.good.fetch_add(1, Ordering::Relaxed);
                } else {
                    figures.wrong.lock().unwrap().push(name);
                }
            }
            continue;
        }
        let name = names.choose(&mut random).unwrap();
        let path = root.join(&name[1..]);
        match random.random_range(0..10) {
            0 => {
                let listed = figures.call(name, || {
                    std::fs::read_dir(path.parent().unwrap())?.collect::<Result<Vec<_>, _>>()
                });
                if let Some(listed) = listed.filter(|listed| listed.len() != FILES) {
                    let text = format!("{} names in the directory of {name}", listed.len());
                    figures.wrong.lock().unwrap().push(text);
                }
            }
            1 | 2 => drop(figures.call(name, || std::fs::symlink_metadata(&path))),
            _ => {
                let Some(bytes) = figures.call(name, || std::fs::read(&path)) else { continue };
                let last = seen.get(name).copied().unwrap_or(1);
                let latest = published.load(Ordering::SeqCst);
                match version_of(name, &bytes) {
                    Some(version) if (last..=latest).contains(&version) => {
                        figures.good.fetch_add(1, Ordering::Relaxed);
                        figures.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                        seen.insert(name.clone(), version);
                    }
                    other => figures.wrong.lock().unwrap().push(format!(
                        "{name}: version {other:?}, after {last}, {latest} is published"
                    )),
                }
            }
        }
    }
}

/// Removes some objects from the cache, as an administrator or a crash might.
fn evict(cache: &Path, random: &mut StdRng) {
    let mut objects = Vec::new();
    let mut directories = vec![cache.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                Ok(_) => objects.push(entry.path()),
                Err(_) => {}
            }
        }
    }
    let is_object = |path: &&std::path::PathBuf| {
        let name = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        name.is_some_and(|name| name.len() == 2 && name.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let objects: Vec<_> = objects.iter().filter(is_object).collect();
    for object in objects.choose_multiple(random, EVICTED) {
        let _ = std::fs::remove_file(object);
    }
}

#[test]
fn no_wrong_byte_no_false_absence_no_hang() {
    deadline(run_time() + Duration::from_secs(55), || {
        let mut random = StdRng::seed_from_u64(20_261_124);
        let mut repo = TestRepo::new(FQRN);
        repo.ttl(2);
        for name in names() {
            repo.file(&name, content(&name, 1));
        }
        for number in 0..DIRECTORIES {
            repo.nested(format!("/d{number}"));
        }
        for number in 0..run_time().as_secs() * COLD_PER_SECOND {
            let name = cold_name(number);
            if number % COLD_IN_DIRECTORY == 0 {
                repo.nested(format!("/cold/d{}", number / COLD_IN_DIRECTORY));
            }
            repo.file(&name, name.clone().into_bytes());
        }
        let first = repo.publish();
        let nginx = Nginx::serving(first.root()).unwrap();
        let server = TestServer::serving(first.root());
        let squids = [(); 2].map(|()| Squid::new().unwrap());
        let servers = format!("{};{}", nginx.base(FQRN), server.base(FQRN));
        let mount = MountSpec::new(&client!(), FQRN, &servers, &first.public_key())
            .arg(format!("--proxy={}|{}", squids[0].url(), squids[1].url()))
            .arg(format!("--set=CVMFS_TIMEOUT={}", TIMEOUT.as_secs()))
            .arg("--set=CVMFS_MAX_RETRIES=0")
            .arg("--set=CVMFS_HOST_RESET_AFTER=5")
            .arg("--set=CVMFS_PROXY_RESET_AFTER=5")
            .start();
        let faults = [Fault::Good; 4];
        let mut peers = Peers { nginx, server, squids, faults };
        let downtimes: Mutex<[Downtime; 4]> = Mutex::default();
        let (stop, published, figures) =
            (AtomicBool::new(false), AtomicU64::new(1), Figures::default());
        let start = Instant::now();
        let cold = Cold { start, next: AtomicU64::new(0), good: AtomicU64::new(0) };
        let mut changes = 0;
        // Mirrors, then proxies.
        let mut script = Vec::new();
        let root = mount.root().to_owned();
        std::thread::scope(|scope| {
            for seed in 0..READERS {
                let (root, stop, published, figures) = (&root, &stop, &published, &figures);
                let cold = &cold;
                scope.spawn(move || reader(seed as u64, root, stop, published, figures, cold));
            }
            // Also where this thread panics, the readers must end.
            let _stop = StopAtEnd(&stop);
            let (mut next_change, mut next_publication) = (start, start + PUBLISH_EVERY);
            while start.elapsed() < run_time() {
                let now = Instant::now();
                if now >= next_change {
                    let wanted = next_faults(&mut random);
                    script.push((start.elapsed(), wanted));
                    peers.change(wanted, &downtimes);
                    changes += 1;
                    next_change = now + Duration::from_millis(random.random_range(3000..8000));
                }
                if now >= next_publication {
                    let revision = published.load(Ordering::SeqCst) + 1;
                    for name in names().choose_multiple(&mut random, REWRITTEN) {
                        repo.file(name, content(name, revision));
                    }
                    published.store(revision, Ordering::SeqCst);
                    repo.publish();
                    next_publication += PUBLISH_EVERY;
                }
                evict(mount.cache_dir(), &mut random);
                #[allow(clippy::disallowed_methods, reason = "the pace of the script")]
                std::thread::sleep(Duration::from_millis(500));
            }
            peers.change([Fault::Good; 4], &downtimes);
        });
        let revision = published.load(Ordering::SeqCst);
        let newest = || mount.revision() == revision;
        let reached = wait_until(Duration::from_secs(30), "the newest revision", newest);
        let slowest = Duration::from_micros(figures.slowest_us.load(Ordering::Relaxed));
        let failed = figures.failed.lock().unwrap();
        let wrong = figures.wrong.lock().unwrap();
        let downtimes = downtimes.lock().unwrap();
        // All paths were down during a call if no path was good for the whole of it.
        let explained = |failed: &&Failed| {
            let from = failed.from.checked_sub(SHARED).unwrap_or(failed.from);
            let down = |peer: usize| downtimes[peer].touches(from, failed.to);
            MIRRORS.iter().all(|&m| PROXIES.iter().all(|&p| down(m) || down(p)))
        };
        let unexplained: Vec<_> = failed.iter().filter(|failed| !explained(failed)).collect();
        let others = failed.iter().filter(|failed| failed.errno != Some(libc::EIO)).count();
        #[allow(clippy::print_stderr, reason = "figures of the test")]
        {
            eprintln!(
                "{:?}: {READERS} readers, {} calls, {} files read ({} MB), {} of {} cold ones, \
                 {revision} revisions, {changes} changes of faults; {} wrong, {} EIO ({} unexplained), {others} other \
                 errors, slowest call {slowest:?} of at most {BOUND:?}",
                start.elapsed(),
                figures.calls.load(Ordering::Relaxed),
                figures.good.load(Ordering::Relaxed),
                figures.bytes.load(Ordering::Relaxed) / 1_000_000,
                cold.good.load(Ordering::Relaxed),
                cold.next.load(Ordering::Relaxed),
                wrong.len(),
                failed.len() - others,
                unexplained.len(),
            );
        }
        let log = mount.log();
        let is_of_unexplained = |line: &&str| {
            let names = |failed: &&&Failed| line.contains(&format!("{}:", failed.path));
            line.contains("cannot ") && unexplained.iter().any(|failed| names(&failed))
        };
        let failures: Vec<_> = log.lines().filter(is_of_unexplained).take(6).collect();
        let failures = failures.join("\n");
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(others, 0, "{failed:#?}");
        let shown: Vec<_> = unexplained
            .iter()
            .take(10)
            .map(|failed| (&failed.path, failed.from - start, failed.to - start))
            .collect();
        assert!(unexplained.is_empty(), "{shown:#?}\n{script:#?}\n{failures}");
        assert!(slowest < BOUND, "{slowest:?}");
        reached.unwrap();
        for name in names() {
            let bytes = std::fs::read(mount.path(&name[1..])).unwrap();
            assert!(version_of(&name, &bytes).is_some(), "{name}");
        }
    });
}
