//! Eight processes in mount and pid namespaces of their own, of three users, on one cache volume
//! with room for a third of what they read. Nothing is wrong, nothing is too much, and little is
//! fetched more often than one cache with perfect knowledge would.
//!
//! A minute in CI; `CVMFS_FUSE_TEST_SHARED_SECONDS=600` is the full run.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests may die, too; workers talk to the test"
)]

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use cvmfs_cache::{DiskCache, DiskCacheOptions, Quota};
use cvmfs_core::cache::{CachedObject, ObjectCache as _, ObjectMeta};
use cvmfs_core::decode::{SizeBound, decode_all};
use cvmfs_core::hash::{ContentHash, HashAlgorithm};
use cvmfs_core::object::{Compression, ObjectId, ObjectKind};
use nix::sys::stat::{Mode, umask};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use tests::apart::{Worker, become_user, share_directory, told, worker};
use tests::deadline;

const WORKERS: usize = 8;
const USERS: [u32; 3] = [1001, 1002, 1003];
const GROUP: u32 = 5001;
const OBJECTS: usize = 3000;
const SMALLEST: f64 = 200.0;
/// How much larger the largest object is.
const SPREAD: f64 = 1000.0;
/// Of the popularity of objects: 1 is Zipf's law itself.
const SKEW: f64 = 0.9;
const CAP: u64 = 1 << 20;
/// Pause between two looks at the disk.
const LOOK: Duration = Duration::from_millis(20);
/// More downloads than this, of what a perfect cache needs, are a defect.
const SANE: f64 = 1.5;

fn seconds() -> u64 {
    #[allow(clippy::disallowed_methods, reason = "the length of a run is no configuration")]
    let given = std::env::var("CVMFS_FUSE_TEST_SHARED_SECONDS");
    given.map_or(60, |text| text.parse().expect("a number of seconds"))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 10^6")]
fn size_of(number: usize) -> usize {
    let place = f64::from(u32::try_from(number * 7919 % OBJECTS).unwrap()) / OBJECTS as f64;
    (SMALLEST * SPREAD.powf(place)) as usize
}

fn body(number: usize) -> Vec<u8> {
    let mut bytes = vec![0; size_of(number)];
    StdRng::seed_from_u64(number as u64).fill_bytes(&mut bytes);
    bytes
}

fn hash_of(bytes: &[u8]) -> ContentHash {
    ContentHash::of(HashAlgorithm::Sha1, bytes)
}

fn id(hash: ContentHash) -> ObjectId {
    ObjectId { hash, kind: ObjectKind::Data, compression: Compression::None }
}

/// Nanoseconds of a clock that all processes of the machine share.
fn clock() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is that of a local value.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

/// Shares of objects, added up: a random number below 1 finds its place.
fn popularity() -> Vec<f64> {
    let mut sum = 0.0;
    let weights = (1..=OBJECTS).map(|rank| {
        sum += (rank as f64).powf(-SKEW);
        sum
    });
    let weights: Vec<_> = weights.collect();
    weights.iter().map(|weight| weight / sum).collect()
}

fn download(cache: &DiskCache, id: ObjectId, number: usize) -> CachedObject {
    let stored = body(number);
    let (plain, proof) = decode_all(id, &stored, SizeBound::AtMost(CAP)).unwrap();
    let meta = ObjectMeta { size: Some(plain.len() as u64), ..ObjectMeta::default() };
    let mut transaction = cache.begin(&id, &meta).unwrap();
    for piece in plain.chunks(64 * 1024) {
        transaction.write(piece).unwrap();
    }
    transaction.commit(proof).unwrap()
}

/// Not a test: one of the eight.
#[test]
#[ignore = "run by the test below"]
fn reader() {
    let Some([directory, place, seed, seconds, quota]) = told() else { return };
    let (directory, place) = (Path::new(&directory), PathBuf::from(place));
    let seed: usize = seed.parse().unwrap();
    let hashes = fs::read_to_string(place.join("hashes")).unwrap();
    let ids: Vec<_> = hashes.lines().map(|text| id(text.parse().unwrap())).collect();
    let mut trace = fs::File::create(place.join(format!("trace-{seed}"))).unwrap();
    let log = fs::File::create(place.join(format!("log-{seed}"))).unwrap();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_ansi(false)
        .with_writer(log)
        .init();
    become_user(USERS[seed % USERS.len()], GROUP);
    umask(Mode::from_bits_truncate(0o077));
    let quota = Quota::Bytes(quota.parse().unwrap());
    let options = DiskCacheOptions { quota, ..DiskCacheOptions::default() };
    let cache = DiskCache::open_with(directory, options).unwrap();
    println!("worker is ready");
    let mut go = String::new();
    std::io::stdin().read_line(&mut go).unwrap();
    let popularity = popularity();
    let mut random = StdRng::seed_from_u64(seed as u64);
    let end = clock() + seconds.parse::<u64>().unwrap() * 1_000_000_000;
    let mut text = String::new();
    loop {
        let start = clock();
        if start > end {
            break;
        }
        let share: f64 = random.random();
        let rank = popularity.partition_point(|&sum| sum < share).min(OBJECTS - 1);
        // Every size is as popular as the others.
        let number = rank * 101 % OBJECTS;
        let id = ids[number];
        let (object, how) = match cache.open(&id).unwrap() {
            Some(object) => (object, "hit"),
            None => (download(&cache, id, number), "miss"),
        };
        assert_eq!(object.len(), size_of(number) as u64);
        let bytes = object.read_all(CAP).unwrap();
        assert_eq!(hash_of(&bytes), id.hash, "wrong bytes of object {number}");
        writeln!(text, "{start} {} {number} {how}", clock()).unwrap();
    }
    std::io::Write::write_all(&mut trace, text.as_bytes()).unwrap();
    let counted = cache.statistics();
    let counters =
        [&counted.failures, &counted.damaged, &counted.not_kept, &counted.stored, &counted.evicted];
    let counters = counters.map(|counter| counter.load(Ordering::Relaxed).to_string());
    println!("worker counted {}", counters.join(" "));
}

/// One look at the disk: when it began and ended, and the bytes found.
type Look = (u64, u64, u64);

/// One access, as a worker tells it.
#[derive(Debug, Clone, Copy)]
struct Access {
    start: u64,
    end: u64,
    number: usize,
    hit: bool,
}

fn accesses(place: &Path) -> Vec<Access> {
    let mut all = Vec::new();
    for seed in 0..WORKERS {
        let text = fs::read_to_string(place.join(format!("trace-{seed}"))).unwrap();
        for line in text.lines() {
            let fields: Vec<_> = line.split(' ').collect();
            all.push(Access {
                start: fields[0].parse().unwrap(),
                end: fields[1].parse().unwrap(),
                number: fields[2].parse().unwrap(),
                hit: fields[3] == "hit",
            });
        }
    }
    all.sort_unstable_by_key(|access| access.start);
    all
}

/// Downloads of one cache that knows every use at once and evicts exactly what was not used for
/// longest.
fn ideal_downloads(accesses: &[Access], quota: u64) -> usize {
    let (mut last, mut order) = (HashMap::new(), BTreeMap::new());
    let (mut used, mut downloads) = (0, 0);
    for (time, access) in accesses.iter().enumerate() {
        match last.insert(access.number, time) {
            Some(before) => {
                order.remove(&before);
            }
            None => {
                downloads += 1;
                used += size_of(access.number) as u64;
            }
        }
        order.insert(time, access.number);
        while used > quota {
            let (_, gone) = order.pop_first().unwrap();
            last.remove(&gone);
            used -= size_of(gone) as u64;
        }
    }
    downloads
}

fn files_below(directory: &Path, found: &mut Vec<(PathBuf, fs::Metadata)>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        // Evicted meanwhile.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            files_below(&entry.path(), found);
        }
        found.push((entry.path(), metadata));
    }
}

fn look(objects: &Path) -> Look {
    let start = clock();
    let mut found = Vec::new();
    files_below(objects, &mut found);
    let sum = found.iter().filter(|(_, entry)| entry.is_file()).map(|(_, entry)| entry.len()).sum();
    (start, clock(), sum)
}

/// What is stored while somebody looks may be seen beside what went for it.
fn assert_quota_kept(looks: &[Look], accesses: &[Access], quota: u64) {
    // In the order of their start, as all accesses are.
    let misses: Vec<_> = accesses.iter().filter(|access| !access.hit).collect();
    let longest = misses.iter().map(|access| access.end - access.start).max().unwrap_or(0);
    for &(from, to, sum) in looks {
        let first = misses.partition_point(|access| access.start + longest < from);
        let end = misses.partition_point(|access| access.start <= to);
        let meanwhile = misses[first..end]
            .iter()
            .filter(|access| access.end >= from)
            .map(|access| size_of(access.number) as u64)
            .sum::<u64>();
        assert!(sum <= quota + meanwhile, "{sum} bytes, quota {quota}, in flight {meanwhile}");
    }
}

fn assert_modes(root: &Path) {
    let mut found = vec![(root.to_owned(), root.metadata().unwrap())];
    files_below(root, &mut found);
    let mut owners: Vec<_> = found.iter().map(|(_, metadata)| metadata.uid()).collect();
    for (path, metadata) in &found {
        let mode = metadata.permissions().mode() & 0o7777;
        let object = path.starts_with(root.join("objects")) || path.ends_with("CACHEDIR.TAG");
        let expected = match () {
            () if metadata.is_dir() => 0o2770,
            () if object => 0o440,
            () => 0o660,
        };
        assert_eq!((mode, metadata.gid()), (expected, GROUP), "{path:?} {mode:o}");
    }
    owners.sort_unstable();
    owners.dedup();
    assert_eq!(owners, USERS, "all users store");
    assert!(root.join("index.sqlite").is_file() && root.join("gauge").is_file());
}

#[test]
fn eight_processes_of_three_users_share_a_volume() {
    let seconds = seconds();
    deadline(Duration::from_secs(seconds + 120), || {
        let scratch = tempfile::tempdir().unwrap();
        // The users must get to the cache, and nowhere else.
        fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o711)).unwrap();
        let (directory, place) = (scratch.path().join("cache"), scratch.path().join("place"));
        share_directory(&directory, GROUP);
        fs::create_dir(&place).unwrap();
        let hashes: String =
            (0..OBJECTS).map(|number| format!("{}\n", hash_of(&body(number)))).collect();
        fs::write(place.join("hashes"), hashes).unwrap();
        let working_set: u64 = (0..OBJECTS).map(|number| size_of(number) as u64).sum();
        let quota = working_set / 3;

        let mut workers: Vec<Worker> = (0..WORKERS)
            .map(|seed| {
                let texts = [seed.to_string(), seconds.to_string(), quota.to_string()];
                let [seed, seconds, quota] = texts.each_ref().map(String::as_str);
                let paths = [&directory, &place].map(|path| path.to_str().unwrap());
                worker("reader", &[paths[0], paths[1], seed, seconds, quota])
            })
            .collect();
        for worker in &mut workers {
            worker.hear("worker is ready");
        }
        let (stop, stopped) = mpsc::channel::<()>();
        let objects = directory.join("v2/objects");
        let sampler = std::thread::spawn(move || {
            let mut looks = Vec::new();
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                looks.push(look(&objects));
            }
            looks
        });
        for worker in &mut workers {
            worker.say("go");
        }
        let mut counters = [0_u64; 5];
        for mut worker in workers {
            let counted = worker.hear("worker counted");
            for (sum, counter) in counters.iter_mut().zip(counted.split(' ')) {
                *sum += counter.parse::<u64>().unwrap();
            }
            assert!(worker.finish().success());
        }
        drop(stop);
        let looks = sampler.join().unwrap();
        let [failures, damaged, not_kept, stored, evicted] = counters;

        let accesses = accesses(&place);
        let downloads = accesses.iter().filter(|access| !access.hit).count();
        let ideal = ideal_downloads(&accesses, quota);
        let ratio = downloads as f64 / ideal as f64;
        let most = looks.iter().map(|look| look.2).max().unwrap();
        println!(
            "{WORKERS} processes, {seconds} s: {} accesses of {OBJECTS} objects ({working_set} \
             bytes), quota {quota}, at most {most} on disk in {} looks; {downloads} downloads, \
             {ideal} of an ideal LRU, ratio {ratio:.3}; stored {stored}, evicted {evicted}, \
             served without being kept {not_kept}",
            accesses.len(),
            looks.len(),
        );
        assert_eq!((failures, damaged), (0, 0));
        for seed in 0..WORKERS {
            let log = fs::read_to_string(place.join(format!("log-{seed}"))).unwrap();
            assert_eq!(log, "", "worker {seed} warns");
        }
        assert_quota_kept(&looks, &accesses, quota);
        assert!(evicted > 0 && most > quota / 2, "the cache was never full");
        assert!(ratio < SANE, "{downloads} downloads, where {ideal} would do");
        assert_modes(&directory.join("v2"));
    });
}
