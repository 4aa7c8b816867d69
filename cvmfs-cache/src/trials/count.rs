//! Counting while others work.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn a_count_never_finds_too_little_while_others_store_and_remove() {
    let scratch = tempfile::tempdir().unwrap();
    let cache = open(scratch.path(), 100 << 20, None);
    let done = AtomicBool::new(false);
    // All in few directories, where the count and they must meet; some of them stay.
    let crowded = |number: &u32| crate::layout::fan_of(&id_of(*number)) < 4;
    let numbers: Vec<_> = (0..10_000).filter(crowded).collect();
    let (staying, numbers) = numbers.split_at(numbers.len() / 2);
    for &number in staying {
        drop(commit(&cache, number, false));
    }
    std::thread::scope(|scope| {
        for part in numbers.chunks(numbers.len() / 2) {
            let (cache, done) = (&cache, &done);
            scope.spawn(move || {
                let mut numbers = part.iter().cycle();
                while !done.load(Ordering::Relaxed) {
                    let number = *numbers.next().unwrap();
                    drop(commit(cache, number, false));
                    cache.discard(&id_of(number)).unwrap();
                }
            });
        }
        let store = &cache.store;
        let mut tender = Tender::new(Arc::clone(store));
        let start = Instant::now();
        let mut counts = 0;
        while counts < 3 || start.elapsed() < Duration::from_secs(2) {
            // The keeper may be counting, because everything is new.
            counts += u32::from(tender.count(false));
        }
        done.store(true, Ordering::Relaxed);
    });
    let files: u64 = objects(&cache.store).iter().map(|one| one.1).sum();
    let counted = cache.usage().used;
    assert!(counted >= files, "counted {counted}, stored {files}");
    // What the dead leave is no reason to count ever more either.
    assert!(counted < files + 100_000, "counted {counted}, stored {files}");
    drop(cache);
    assert_consistent_after_a_count(scratch.path(), 100 << 20);
}

#[test]
fn a_count_gives_back_the_room_of_the_dead() {
    let scratch = tempfile::tempdir().unwrap();
    let cache = open(scratch.path(), 100 << 20, None);
    drop(commit(&cache, 1, false));
    let size = cache.usage().used;
    // Somebody died before its object got a name, somebody else after it took one away.
    cache.store.gauge.reserve(7, 5000, None).unwrap();
    cache.store.gauge.reserve(crate::layout::fan_of(&id_of(1)), 300, None).unwrap();
    assert_eq!(cache.usage().used, size + 5300);
    let mut tender = Tender::new(Arc::clone(&cache.store));
    until("nobody else counts", || tender.count(false));
    assert_eq!(cache.usage().used, size, "at once, also where something is quite new");
    drop((tender, cache));
    assert_consistent_after_a_count(scratch.path(), 100 << 20);
}
