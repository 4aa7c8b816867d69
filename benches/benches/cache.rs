//! Evictions of the disk cache beside a reader, and what its index costs. Figures, not ratios, where
//! there is nothing to compare with; they are of this machine. Single operations: `store.rs`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints and may die")]

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use benches::compare;
use benches::objects::{fill, id_of, name_of, open, shuffled, until};
use cvmfs_cache::Quota;
use cvmfs_core::cache::ObjectCache as _;
use rusqlite::{Connection, params};

/// Objects of which all but a few are evicted.
const EVICTED: usize = 100_000;
/// Uses that the index takes at a time.
const TOUCHES: usize = 1000;
/// An eviction that is not done by then is reported as far as it came.
const PATIENCE: Duration = Duration::from_secs(40);
fn main() {
    // `cargo bench -p benches --bench cache -- index`; cargo itself says `--bench`.
    let named: Vec<_> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    let wanted = |name: &str| named.is_empty() || named.iter().any(|one| one == name);
    if wanted("index") {
        index();
    }
    if wanted("evictions") {
        evictions();
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

fn evictions() {
    let scratch = tempfile::tempdir().unwrap();
    let (ids, ..) = fill(scratch.path(), EVICTED);
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
