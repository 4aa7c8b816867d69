//! Processes that die at any moment, and what the next one finds.

use super::*;

const QUOTA: u64 = 120_000;
/// Three times as much as the quota takes.
const NUMBERS: u32 = 200;
const WORKERS: u32 = 4;

/// A small generator: the same for the same seed, whatever else happens.
struct Dice(u32);

impl Dice {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) % limit
    }
}

/// Works on a directory until it is killed: stores, uses, pins and removes.
pub(super) fn churn(cache: &DiskCache, seed: u32) {
    let mut dice = Dice(seed);
    let mut pins = std::collections::VecDeque::new();
    for round in 0_u32.. {
        drop(commit(cache, dice.below(NUMBERS), dice.below(5) == 0));
        check(cache, dice.below(NUMBERS));
        match dice.below(12) {
            0 => cache.discard(&id_of(dice.below(NUMBERS))).unwrap(),
            1 => pins.push_back(cache.pin(&id_of(dice.below(NUMBERS)))),
            // By itself the thread that tends it does so when there is no room left.
            2 => {
                let mut tender = Tender::new(Arc::clone(&cache.store));
                tender.flush();
                tender.evict(QUOTA / 2, &mut |_| true);
            }
            _ => {}
        }
        if pins.len() > 10 {
            pins.pop_front();
        }
        if round.is_multiple_of(4) {
            println!("did {round} rounds");
        }
    }
}

fn start(directory: &Path, seed: u32) -> Worker {
    let naming = seed.is_multiple_of(2).then_some(Naming::Named);
    let mut worker = Worker::start(directory, QUOTA, naming);
    worker.say("churn", seed);
    worker
}

#[test]
fn many_kills_leave_nothing_half_done() {
    let kills = number_from_environment("CVMFS_FUSE_TEST_KILLS", 60);
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path();
    let mut dice = Dice(0x5eed);
    let mut workers: Vec<_> = (0..WORKERS).map(|seed| start(directory, seed)).collect();
    let (mut seen, mut unfinished, mut evictions) = (0, 0, 0);
    for kill in 1..=kills {
        let victim = dice.below(WORKERS) as usize;
        for _ in 0..dice.below(30) + 1 {
            workers[victim].wait_for("rounds");
        }
        // Not always at the same step.
        let moment = Duration::from_micros(dice.below(2000).into());
        let now = Instant::now();
        while now.elapsed() < moment {
            std::hint::spin_loop();
        }
        drop(workers.swap_remove(victim));
        unfinished += std::fs::read_dir(directory.join("v2/txn")).unwrap().count();
        if kill % 10 == 0 {
            let found = assert_no_partial_object(directory);
            evictions += usize::from(found < NUMBERS as usize);
            seen += found;
            let next = open(directory, QUOTA, None);
            for number in 0..NUMBERS {
                check(&next, number);
            }
            assert!(next.usage().used <= QUOTA);
        }
        workers.push(start(directory, 1000 + kill));
    }
    drop(workers);
    println!("{kills} kills; {seen} objects looked at, {unfinished} unfinished ones seen");
    assert!(seen > 0 && evictions > 0, "nothing was tried");

    // The next one removes what was half-written at once, and the dead from the list soon.
    assert_no_partial_object(directory);
    let sessions = || std::fs::read_dir(directory.join("v2/sessions")).unwrap().count();
    assert!(sessions() > 0, "the dead cannot tidy up");
    let next = open(directory, QUOTA, None);
    assert_eq!(std::fs::read_dir(directory.join("v2/txn")).unwrap().count(), 0);
    for number in 0..NUMBERS {
        check(&next, number);
    }
    until("only the living are listed", || sessions() == 1);
    drop(next);
    assert_eq!(sessions(), 0);
    assert_consistent_after_a_count(directory, QUOTA);

    // Their pins went with them.
    let store = store_alone(directory, QUOTA);
    let before = store.gauge.read();
    let evicted = Tender::new(Arc::clone(&store)).evict(0, &mut |_| true);
    assert_eq!((evicted.objects, evicted.bytes), (before.objects, before.bytes));
    assert_eq!(objects(&store), []);
}

#[test]
fn a_large_directory_opens_at_once_though_its_index_is_lost() {
    const OBJECTS_THERE: u32 = 20_000;
    let scratch = tempfile::tempdir().unwrap();
    drop(DiskCache::open(scratch.path()).unwrap());
    let store = store_alone(scratch.path(), u64::MAX);
    let mut sum = 0;
    for number in 0..OBJECTS_THERE {
        let id = id_of(number);
        store.layout.fan(crate::layout::fan_of(&id)).unwrap();
        let path = store.layout.path(format!("{OBJECTS}/{}", object_name(&id)));
        let mut file = std::fs::File::create_new(path).unwrap();
        // Hashing and writing much is not what is tried here.
        file.write_all(&number.to_le_bytes()).unwrap();
        crate::seal::seal(&file, 4).unwrap();
        sum += 4;
    }
    drop(store);
    for name in ["index.sqlite", "gauge"] {
        let _ = std::fs::remove_file(scratch.path().join("v2").join(name));
    }

    let start = Instant::now();
    let cache = DiskCache::open(scratch.path()).unwrap();
    let object = cache.open(&id_of(4711)).unwrap().unwrap();
    let took = start.elapsed();
    assert_eq!(object.read_all(4).unwrap()[..], 4711_u32.to_le_bytes());
    // A count would know of them: it comes later, and nobody waits for it.
    assert_eq!(cache.usage().used, 0, "counted before it was open");
    println!("opened and served in {took:?}");
    let mut slowest = Duration::ZERO;
    until("counted", || {
        let start = Instant::now();
        assert!(cache.open(&id_of(4712)).unwrap().is_some());
        slowest = slowest.max(start.elapsed());
        cache.usage().used == sum
    });
    println!("slowest open while it was counted: {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}
