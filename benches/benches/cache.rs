//! The disk cache by itself: hits in small and large directories, commits, evictions, and what
//! its index costs. Figures, not ratios, where there is nothing to compare with; they are of this
//! machine. `CVMFS_FUSE_BENCH_OBJECTS` makes the large directory smaller.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints and may die")]

use std::hint::black_box;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use benches::compare;
use cvmfs_cache::{DiskCache, DiskCacheOptions, Quota};
use cvmfs_core::cache::{ObjectCache, ObjectMeta};
use cvmfs_core::decode::{CheckedBody, SizeBound, decode_all};
use cvmfs_core::hash::{ContentHash, HashAlgorithm};
use cvmfs_core::object::{Compression, ObjectId, ObjectKind};
use rusqlite::{Connection, params};

/// Objects of the large directory.
const MANY: usize = 1_000_000;
/// Opens that are timed one by one.
const OPENS: usize = 200_000;
/// Objects of which all but a few are evicted.
const EVICTED: usize = 100_000;
/// Uses that the index takes at a time.
const TOUCHES: usize = 1000;
/// An eviction that is not done by then is reported as far as it came.
const PATIENCE: Duration = Duration::from_secs(40);
/// Nothing here takes longer.
const LIMIT: Duration = Duration::from_secs(200);

fn main() {
    let many = std::env::var_os("CVMFS_FUSE_BENCH_OBJECTS")
        .map_or(MANY, |text| text.to_str().unwrap().parse().unwrap());
    // `cargo bench -p benches --bench cache -- hits`; cargo itself says `--bench`.
    let named: Vec<_> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    let wanted = |name: &str| named.is_empty() || named.iter().any(|one| one == name);
    if wanted("index") {
        index();
    }
    if wanted("commits") {
        commits();
    }
    if wanted("evictions") {
        evictions();
    }
    if wanted("hits") {
        hits(1000);
        hits(many);
    }
}

fn id_of(bytes: &[u8]) -> ObjectId {
    let hash = ContentHash::of(HashAlgorithm::Sha1, bytes);
    ObjectId { hash, kind: ObjectKind::Data, compression: Compression::None }
}

fn name_of(id: &ObjectId) -> String {
    let text = id.hash.to_string();
    format!("{}/{}.none", &text[..2], &text[2..])
}

fn open(directory: &Path, quota: Quota) -> DiskCache {
    let options = DiskCacheOptions { quota, ..DiskCacheOptions::default() };
    DiskCache::open_with(directory, options).unwrap()
}

/// Numbers without an order that a disk or a cache of names could use.
fn shuffled(count: usize, limit: usize) -> impl Iterator<Item = usize> {
    let mut state = 1_u64;
    (0..count).map(move |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % limit
    })
}

/// Fills a directory with objects of one byte under names of their own, as if they were committed
/// without a checksum, and waits until they are counted.
fn fill(directory: &Path, count: usize) -> Vec<ObjectId> {
    drop(open(directory, Quota::Unlimited));
    let objects = directory.join("v2/objects");
    for fan in 0..256 {
        let fan = objects.join(format!("{fan:02x}"));
        let _ = std::fs::DirBuilder::new().create(fan);
    }
    let start = Instant::now();
    let seal = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let ids: Vec<_> = (0..count).map(|number| id_of(&number.to_le_bytes())).collect();
    for id in &ids {
        let path = objects.join(name_of(id));
        let mut options = std::fs::File::options();
        let mut file = options.write(true).create_new(true).mode(0o400).open(path).unwrap();
        file.write_all(b"x").unwrap();
        file.set_modified(seal).unwrap();
    }
    let built = start.elapsed();
    let index = directory.join("v2/index.sqlite");
    let _ = std::fs::remove_file(&index);
    let start = Instant::now();
    let cache = open(directory, Quota::Unlimited);
    until(|| cache.usage().used == count as u64 && count_is_done(&index));
    println!(
        "{count} objects: built in {built:.1?}, counted and entered in the index in {:.1?}",
        start.elapsed()
    );
    ids
}

fn count_is_done(index: &Path) -> bool {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let Ok(connection) = Connection::open_with_flags(index, flags) else { return false };
    let query = "SELECT value FROM state WHERE key = 'count_due'";
    connection.query_row(query, [], |row| row.get::<_, i64>(0)) == Ok(0)
}

fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT);
        // Locks of the index are taken by each look.
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Prints the middle, the slow ones and the slowest.
fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let mean = times.iter().sum::<Duration>() / u32::try_from(times.len()).unwrap();
    println!(
        "{what:<52} mean {mean:>9.2?}  median {:>9.2?}  99% {:>9.2?}  max {:>9.2?}",
        at(50),
        at(99),
        at(100)
    );
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn hits(count: usize) {
    let shm = Path::new("/dev/shm");
    let parent = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    let scratch = tempfile::tempdir_in(&parent).unwrap();
    let ids = fill(scratch.path(), count);
    let start = Instant::now();
    let cache = open(scratch.path(), Quota::Unlimited);
    println!("{count} objects: opened in {:.2?} ({})", start.elapsed(), parent.display());
    // Once without timing: names and inodes that the kernel has forgotten are not our cost.
    for number in shuffled(OPENS, count) {
        drop(black_box(cache.open(&ids[number]).unwrap().unwrap()));
    }
    let times = shuffled(OPENS, count)
        .map(|number| timed(|| drop(black_box(cache.open(&ids[number]).unwrap().unwrap()))));
    report(&format!("hit, each noted for the index, {count} objects"), times.collect());
    let times = shuffled(OPENS, count).map(|number| {
        let path = scratch.path().join("v2/objects").join(name_of(&ids[number]));
        timed(|| {
            let file = std::fs::File::open(&path).unwrap();
            black_box(file.metadata().unwrap());
        })
    });
    report(&format!("  open and fstat of the same files, {count}"), times.collect());
    drop(cache);
    let start = Instant::now();
    drop(scratch);
    println!("{count} objects: removed in {:.1?}", start.elapsed());
}

fn commits() {
    for (size, count, name) in [(4 << 10, 20_000_usize, "4 KiB"), (1 << 20, 400, "1 MiB")] {
        for threads in [1, 4] {
            let scratch = tempfile::tempdir().unwrap();
            drop(open(scratch.path(), Quota::Unlimited));
            // Hashing is not what is measured.
            let bodies: Vec<Vec<(ObjectId, Vec<u8>, CheckedBody)>> = (0..threads)
                .map(|thread| {
                    let numbers = thread * count / threads..(thread + 1) * count / threads;
                    numbers
                        .map(|number| {
                            let mut body = vec![0x5a; size];
                            body[..8].copy_from_slice(&number.to_le_bytes());
                            let id = id_of(&body);
                            let bound = SizeBound::Exactly(size as u64);
                            let (plain, proof) = decode_all(id, &body, bound).unwrap();
                            (id, plain, proof)
                        })
                        .collect()
                })
                .collect();
            // Each has opened the directory by itself, as processes do.
            let caches: Vec<_> =
                (0..threads).map(|_| open(scratch.path(), Quota::Unlimited)).collect();
            let took = timed(|| {
                std::thread::scope(|scope| {
                    for (cache, bodies) in caches.iter().zip(bodies) {
                        scope.spawn(move || {
                            for (id, plain, proof) in bodies {
                                let meta = ObjectMeta::default();
                                let mut transaction = cache.begin(&id, &meta).unwrap();
                                transaction.write(&plain).unwrap();
                                assert!(transaction.commit(proof).unwrap().path().is_some());
                            }
                        });
                    }
                });
            });
            let seconds = took.as_secs_f64();
            let megabytes = (size * count) as f64 / 1e6;
            println!(
                "commit of {name}, {threads} writers: {:>8.0} objects/s {:>8.1} MB/s ({count} in {took:.2?}, {})",
                count as f64 / seconds,
                megabytes / seconds,
                std::env::temp_dir().display()
            );
        }
    }
}

fn evictions() {
    let scratch = tempfile::tempdir().unwrap();
    let ids = fill(scratch.path(), EVICTED);
    let reader = open(scratch.path(), Quota::Unlimited);
    let done = AtomicBool::new(false);
    let (evicted, took, times) = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut times = Vec::new();
            for number in shuffled(usize::MAX, ids.len()) {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                times.push(timed(|| drop(black_box(reader.open(&ids[number]).unwrap()))));
                // A reader has something to do with what it opened.
                std::thread::park_timeout(Duration::from_micros(100));
            }
            times
        });
        // Its first look is after a second; then it finds a hundred times too much.
        let quota = EVICTED as u64 / 100;
        let cleaner = open(scratch.path(), Quota::Bytes(quota));
        let begin = Instant::now();
        until(|| reader.usage().used < EVICTED as u64 || begin.elapsed() > PATIENCE);
        let (from, start) = (reader.usage().used, Instant::now());
        until(|| reader.usage().used <= quota || begin.elapsed() > PATIENCE);
        let (evicted, took) = (from - reader.usage().used, start.elapsed());
        done.store(true, Ordering::Relaxed);
        drop(cleaner);
        (evicted, took, reading.join().unwrap())
    });
    println!(
        "eviction beside a reader: {:.0} objects/s ({evicted} in {took:.2?}, {})",
        evicted as f64 / took.as_secs_f64(),
        std::env::temp_dir().display()
    );
    report(&format!("  the reader's {} opens meanwhile", times.len()), times);
}

/// The index as the keeper has it, with another journal.
fn database(path: PathBuf, journal: &str, names: &[String]) -> Connection {
    let mut connection = Connection::open(path).unwrap();
    connection.pragma_update(None, "synchronous", "OFF").unwrap();
    connection.pragma_update(None, "journal_mode", journal).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE objects (name TEXT PRIMARY KEY NOT NULL, size INTEGER NOT NULL,
                 used INTEGER NOT NULL, volatile INTEGER NOT NULL, label TEXT NOT NULL)
                 STRICT, WITHOUT ROWID;
             CREATE INDEX objects_by_use ON objects (volatile DESC, used ASC);",
        )
        .unwrap();
    touch(&mut connection, names.iter(), 0);
    connection
}

fn touch<'a>(connection: &mut Connection, names: impl Iterator<Item = &'a String>, now: i64) {
    let transaction = connection.transaction().unwrap();
    {
        let mut statement = transaction
            .prepare_cached(
                "INSERT INTO objects (name, size, used, volatile, label) VALUES (?1, ?2, ?3, 0, '')
                 ON CONFLICT (name) DO UPDATE SET used = max(used, ?3)",
            )
            .unwrap();
        for name in names {
            statement.execute(params![name, 1, now]).unwrap();
        }
    }
    transaction.commit().unwrap();
}

fn index() {
    for rows in [10_000_usize, 100_000] {
        let names: Vec<_> = (0..rows).map(|n| name_of(&id_of(&n.to_le_bytes()))).collect();
        let scratch = tempfile::tempdir().unwrap();
        let open = |journal: &str| database(scratch.path().join(journal), journal, &names);
        let (mut rollback, mut wal) = (open("TRUNCATE"), open("WAL"));
        let picked = |now: i64| {
            let skip = usize::try_from(now).unwrap() * TOUCHES;
            shuffled(skip + TOUCHES, rows).skip(skip).map(|number| &names[number])
        };
        let (mut first, mut second) = (0, 0);
        let ratio = compare(
            "1,000 touches in one transaction: rollback journal / WAL",
            1,
            || {
                first += 1;
                touch(&mut rollback, picked(first), first);
            },
            || {
                second += 1;
                touch(&mut wal, picked(second), second);
            },
        );
        println!(
            "{} ({rows} rows): {:.2?} / {:.2?} = {:.2}",
            ratio.name,
            ratio.ours,
            ratio.baseline,
            ratio.value()
        );
    }
}
