//! Random reads by every way that there is find no wrong byte: while the cache evicts, revisions are
//! switched and servers die.
//!
//! Some seconds for each test. The long run (nextest would end it), and a run again:
//! `CVMFS_FUSE_TEST_FSX_SECONDS=600 CVMFS_FUSE_TEST_FSX_SEED=7 cargo test -p tests --test fsx -- --nocapture`
//!
//! A failure prints the seed of its reader and the last steps that it took.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs::File;
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fixtures::publish::TestRepo;
use fixtures::server::TestServer;
use nix::sys::signal::{Signal, kill};
use tests::fsx::truth::{noise, versioned};
use tests::fsx::{Library, OPERATIONS, Reader, Report, Truth};
use tests::{MountSpec, StopAtEnd, TestMount, client, deadline, wait_until};

const FQRN: &str = "fsx.test.repo";
const READERS: u64 = 6;
/// Less than the files have together, and more than the largest object.
const QUOTA: &str = "12M";
/// So few that objects do not stay open.
const OPEN_FILES: u64 = 256;
/// Longer than a life that counts as short, and than a fetch: what is under way in two deaths in a
/// row is refused.
const DEATH_EVERY: Duration = Duration::from_secs(3);
const PUBLISH_EVERY: Duration = Duration::from_millis(1500);
/// From a publication or a death to the next service, on a busy machine.
const SOON: Duration = Duration::from_secs(40);

const MIB: usize = 1 << 20;
/// One object each.
const WHOLE: [usize; 18] = [
    0,
    1,
    2,
    4095,
    4096,
    4097,
    8192,
    12_289,
    65_535,
    65_536,
    65_537,
    131_071,
    131_072,
    131_073,
    1_048_575,
    1_048_577,
    3_000_001,
    9 * MIB + 7,
];
/// Length, and length of a chunk.
const CHUNKED: [(usize, u64); 8] = [
    (5 * 65_536 - 1, 65_536),
    (5 * 65_536, 65_536),
    (5 * 65_536 + 1, 65_536),
    (100_000, 4096),
    (100_000, 10_007),
    (4097, 4096),
    (6 * MIB + 123, MIB as u64),
    (9 * MIB, 4 << 20),
];
/// Chunks that no page begins with.
const CROOKED: [u64; 7] = [1, 4095, 4096, 4097, 10_000, 131_072, 3];
/// Files that each revision rewrites: length and chunks.
const CHANGING: [(usize, Option<u64>); 7] = [
    (100, None),
    (4096, None),
    (65_536, None),
    (700_000, None),
    (400_000, Some(65_536)),
    (300_000, Some(9973)),
    (2 * MIB, Some(MIB as u64)),
];

#[allow(clippy::disallowed_methods, reason = "chosen by whoever runs the test by hand")]
fn given(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// What goes on beside the readers.
#[derive(Clone, Copy, Debug, Default)]
struct Trouble {
    evictions: bool,
    revisions: bool,
    deaths: bool,
}

fn changing_name(number: usize) -> String {
    format!("changing/f{number}")
}

/// Each version has a length of its own, around the one that was chosen.
fn changing_bytes(number: usize, version: u64) -> Vec<u8> {
    let near = usize::try_from(version * 7 % 5).unwrap();
    versioned(&changing_name(number), version, CHANGING[number].0 + near - 2)
}

fn put_changing(repo: &mut TestRepo, number: usize, bytes: &[u8]) {
    let entry = repo.file(format!("/{}", changing_name(number)), bytes.to_vec());
    if let Some(size) = CHANGING[number].1 {
        entry.chunked(size);
    }
}

fn repo() -> TestRepo {
    let mut repo = TestRepo::new(FQRN);
    repo.ttl(1);
    for (number, len) in WHOLE.into_iter().enumerate() {
        let entry = repo.file(format!("/whole/{len}"), noise(number as u64, len));
        if number % 2 == 0 {
            entry.uncompressed();
        }
    }
    for (number, (len, chunk)) in CHUNKED.into_iter().enumerate() {
        repo.chunked(format!("/chunked/{len}-{chunk}"), noise(100 + number as u64, len), chunk);
    }
    repo.file("/chunked/crooked", noise(200, 400_000)).chunk_sizes(CROOKED);
    let (block, len) = huge();
    repo.repeated("/huge", block, len);
    repo.nested("/changing");
    for number in 0..CHANGING.len() {
        put_changing(&mut repo, number, &changing_bytes(number, 1));
    }
    repo
}

/// More than 4 GiB in chunks that no page begins with; all but the last one are the same object.
fn huge() -> (Vec<u8>, u64) {
    (noise(300, MIB - 1), (5 << 30) + 12_345)
}

fn library(mount: &TestMount) -> Library {
    let mut library = Library::below(mount.root());
    let mut add = |name: &str, bytes: Vec<u8>| library.add(name, Truth::Bytes(bytes.into()));
    for (number, len) in WHOLE.into_iter().enumerate() {
        add(&format!("whole/{len}"), noise(number as u64, len));
    }
    for (number, (len, chunk)) in CHUNKED.into_iter().enumerate() {
        add(&format!("chunked/{len}-{chunk}"), noise(100 + number as u64, len));
    }
    add("chunked/crooked", noise(200, 400_000));
    let (block, len) = huge();
    library.add("huge", Truth::Repeated { block: block.into(), len });
    for number in 0..CHANGING.len() {
        library.add_changing(&changing_name(number), &changing_bytes(number, 1));
    }
    library
}

/// Publishes a version of all that changes, and waits until it is what is opened.
fn publish(repo: &mut TestRepo, mount: &TestMount, library: &Library, version: u64) {
    for number in 0..CHANGING.len() {
        let bytes = changing_bytes(number, version);
        library.next_version(&changing_name(number), &bytes);
        put_changing(repo, number, &bytes);
    }
    repo.publish();
    wait_until(SOON, "the new revision", || mount.revision() == version).unwrap();
    // The notices follow the switch.
    let heads: Vec<_> = (0..CHANGING.len())
        .map(|number| format!("{} {version}\n", changing_name(number)).into_bytes())
        .collect();
    let is_opened = |(number, head): (usize, &Vec<u8>)| {
        let mut found = vec![0; head.len()];
        let mut file = File::open(mount.path(changing_name(number))).unwrap();
        file.read_exact(&mut found).unwrap();
        found == *head
    };
    wait_until(SOON, "new content", || heads.iter().enumerate().all(is_opened)).unwrap();
    library.demand(version);
}

/// Requests for objects of files.
fn fetches(server: &TestServer) -> usize {
    server.count("*/data/*") - server.count("*/data/*C")
}

/// Reads beside that trouble; `arguments` are for the mount.
fn read_beside(trouble: Trouble, arguments: &[&str]) {
    let run_time = Duration::from_secs(given("CVMFS_FUSE_TEST_FSX_SECONDS", 10));
    let first_seed = given("CVMFS_FUSE_TEST_FSX_SEED", 20_261_125);
    deadline(run_time + Duration::from_secs(150), || {
        let mut repo = repo();
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mut spec =
            MountSpec::published(&client!(), &published, &[&server]).open_files(OPEN_FILES);
        if trouble.evictions {
            spec = spec.arg(format!("--quota={QUOTA}"));
        }
        let mount = arguments.iter().fold(spec, MountSpec::arg).start();
        let library = library(&mount);
        let stop = AtomicBool::new(false);
        let done: Vec<_> = OPERATIONS.iter().map(|_| AtomicU64::new(0)).collect();
        let outdated = AtomicU64::new(0);
        let (mut version, mut deaths) = (1, 0);
        let reports: Vec<Report> = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS)
                .map(|number| {
                    let (library, stop, done, outdated) = (&library, &stop, &done, &outdated);
                    scope.spawn(move || {
                        // The others need not go on when one has found something.
                        let _stop = StopAtEnd(stop);
                        let mut reader = Reader::new(library, first_seed + number);
                        let result = reader.run(stop);
                        for (sum, count) in done.iter().zip(reader.done) {
                            sum.fetch_add(count, Ordering::Relaxed);
                        }
                        outdated.fetch_add(reader.outdated, Ordering::Relaxed);
                        result.err()
                    })
                })
                .collect();
            {
                let _stop = StopAtEnd(&stop);
                let start = Instant::now();
                let (mut publish_at, mut death_at) = (start + PUBLISH_EVERY, start + DEATH_EVERY);
                let is_over = || start.elapsed() >= run_time || stop.load(Ordering::Relaxed);
                while !is_over() {
                    if trouble.revisions && Instant::now() >= publish_at {
                        version += 1;
                        publish(&mut repo, &mount, &library, version);
                        publish_at = Instant::now() + PUBLISH_EVERY;
                    }
                    if trouble.deaths && Instant::now() >= death_at {
                        let old = mount.server();
                        kill(old, Signal::SIGKILL).unwrap();
                        wait_until(SOON, "a successor", || mount.server() != old).unwrap();
                        deaths += 1;
                        death_at = Instant::now() + DEATH_EVERY;
                    }
                    let next = Duration::from_millis(100);
                    let _ = wait_until(next, "the next trouble", is_over);
                }
            }
            readers.into_iter().filter_map(|reader| reader.join().unwrap()).collect()
        });
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let steps: Vec<_> = OPERATIONS.iter().copied().zip(done.iter().map(count)).collect();
        let (outdated, fetches) = (count(&outdated), fetches(&server));
        #[allow(clippy::print_stderr, reason = "figures of the test")]
        {
            eprintln!(
                "{trouble:?}: {READERS} readers, {} steps {steps:?}, {outdated} of them in outdated \
                 files; {version} revisions, {deaths} deaths, {fetches} fetches",
                steps.iter().map(|(_, count)| count).sum::<u64>(),
            );
        }
        let told: Vec<_> = reports.iter().map(ToString::to_string).collect();
        assert!(told.is_empty(), "{}\n{}", told.join("\n"), mount.log());
        for (name, count) in steps {
            assert!(count >= 10, "{name} was done {count} times only: nothing is shown");
        }
        if trouble.revisions {
            assert!(version >= 2 && outdated > 0, "{version} revisions, {outdated} old reads");
        }
        if trouble.deaths {
            assert!(deaths >= 1, "nobody died");
        }
        if trouble.evictions && !trouble.revisions {
            let distinct = published_objects();
            assert!(
                fetches > distinct + 20,
                "{fetches} fetches of {distinct} objects: no eviction"
            );
        }
        mount.unmount();
    });
}

/// No more than so many objects are in the first revision.
fn published_objects() -> usize {
    let of = |len: usize, chunk: u64| len.div_ceil(usize::try_from(chunk).unwrap());
    let chunked: usize = CHUNKED.iter().map(|&(len, chunk)| of(len, chunk)).sum();
    let changing: usize =
        CHANGING.iter().map(|&(len, chunk)| of(len, chunk.unwrap_or(1 << 40))).sum();
    // The huge one has two.
    WHOLE.len() + chunked + changing + CROOKED.len() + 1 + 2
}

#[test]
fn no_wrong_byte_while_the_cache_evicts() {
    read_beside(Trouble { evictions: true, ..Trouble::default() }, &[]);
}

#[test]
fn no_wrong_byte_while_revisions_are_switched() {
    read_beside(Trouble { revisions: true, ..Trouble::default() }, &[]);
}

#[test]
fn no_wrong_byte_while_servers_die() {
    read_beside(Trouble { deaths: true, ..Trouble::default() }, &[]);
}

#[test]
fn no_wrong_byte_whatever_happens() {
    read_beside(Trouble { evictions: true, revisions: true, deaths: true }, &[]);
}
