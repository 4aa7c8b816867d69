//! How many bytes are stored, counted in small portions.
//!
//! There is no index to ask, and a cache may hold a million files, so the count is made on demand
//! and never for longer than [`BUDGET`] at a time: it starts low and becomes right after some
//! calls. What this process adds and removes is followed from then on; what others do is not.
//! Nothing is decided by the number, it is for `df` only.

use std::fs::ReadDir;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::layout::Layout;

/// The longest time that one call may count: `df` on a mount waits for it.
const BUDGET: Duration = Duration::from_millis(20);
/// One more than the last directory of objects.
const FANS: u64 = 256;

/// The bytes in use, as far as counted.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    used: AtomicU64,
    /// Directories below this number are counted.
    counted: AtomicU64,
    listing: Mutex<Option<ReadDir>>,
}

impl Tally {
    /// Notes a new object; `fan` is the number of its directory.
    pub(crate) fn add(&self, fan: u8, size: u64) {
        if u64::from(fan) < self.counted.load(Ordering::Relaxed) {
            self.used.fetch_add(size, Ordering::Relaxed);
        }
    }

    /// Notes that an object is gone.
    pub(crate) fn remove(&self, fan: u8, size: u64) {
        if u64::from(fan) < self.counted.load(Ordering::Relaxed) {
            let less = |used: u64| Some(used.saturating_sub(size));
            // The closure never refuses.
            let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    /// Counts on for a while and returns the bytes known to be in use.
    pub(crate) fn used(&self, layout: &Layout) -> u64 {
        self.count(layout, Instant::now() + BUDGET);
        self.used.load(Ordering::Relaxed)
    }

    fn count(&self, layout: &Layout, deadline: Instant) {
        // Somebody else is counting: do not wait for them.
        let Some(mut listing) = self.listing.try_lock() else { return };
        loop {
            let number = self.counted.load(Ordering::Relaxed);
            let Ok(fan) = u8::try_from(number) else { return };
            debug_assert!(number < FANS);
            if listing.is_none() {
                *listing = std::fs::read_dir(layout.fan(fan)).ok();
            }
            if let Some(entries) = listing.as_mut() {
                for entry in entries.by_ref() {
                    // Names may vanish while they are listed.
                    let Ok(found) = entry.and_then(|entry| entry.metadata()) else { continue };
                    if found.is_file() {
                        self.used.fetch_add(found.len(), Ordering::Relaxed);
                    }
                    if Instant::now() >= deadline {
                        return;
                    }
                }
            }
            *listing = None;
            self.counted.store(number + 1, Ordering::Relaxed);
            if Instant::now() >= deadline {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_in_portions_and_follows_changes() {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(scratch.path()).unwrap();
        for (fan, size) in [(0, 10), (0, 20), (7, 300), (0xff, 4000)] {
            layout.make_fan(fan).unwrap();
            let path = layout.fan(fan).join(format!("{size}"));
            std::fs::write(path, vec![0; size]).unwrap();
        }
        let tally = Tally::default();
        let portions = (0..).take_while(|_| {
            // A deadline that has passed lets one entry or one directory through.
            tally.count(&layout, Instant::now());
            tally.counted.load(Ordering::Relaxed) < FANS
        });
        let portions = portions.count();
        assert!((256..=260).contains(&portions), "{portions}");
        assert_eq!(tally.used(&layout), 4330);

        tally.add(3, 5);
        tally.remove(0, 10);
        assert_eq!(tally.used(&layout), 4325);
        tally.remove(0, 1 << 40);
        assert_eq!(tally.used(&layout), 0);
    }

    #[test]
    fn what_is_not_counted_yet_is_not_added_twice() {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(scratch.path()).unwrap();
        let tally = Tally::default();
        layout.make_fan(9).unwrap();
        std::fs::write(layout.fan(9).join("object"), b"1234").unwrap();
        tally.add(9, 4);
        assert_eq!(tally.used(&layout), 4);
    }
}
