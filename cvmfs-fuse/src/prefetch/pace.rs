//! A bound of bandwidth: when the next one may begin.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lets bytes through so fast and no faster. Each one that begins pushes back those behind it by
/// its own length, so nothing is saved up while nobody asks.
#[derive(Debug)]
pub(super) struct Pace {
    /// In a second.
    bytes: NonZeroU64,
    next: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(bytes: NonZeroU64) -> Self {
        Self { bytes, next: Mutex::new(Instant::now()) }
    }

    /// Takes the turn of some bytes, and returns how long to wait for it; `None`, and no turn, if
    /// that is longer than `limit`.
    pub(super) fn take(&self, bytes: u64, limit: Duration) -> Option<Duration> {
        // 2^64 bytes at one a second are less than a Duration holds.
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes.get());
        let takes = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let now = Instant::now();
        let mut next = self.next.lock();
        let begin = (*next).max(now);
        let pause = begin - now;
        if pause > limit {
            return None;
        }
        *next = begin.checked_add(takes)?;
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_follow_each_other_as_fast_as_they_may() {
        let pace = Pace::new(NonZeroU64::new(1000).unwrap());
        let limit = Duration::from_secs(3600);
        // The clock goes on meanwhile, and only ever makes a pause shorter.
        let near = |pause: Option<Duration>, expected: u64| {
            let (pause, expected) = (pause.unwrap(), Duration::from_secs(expected));
            assert!(pause <= expected && pause + Duration::from_secs(60) > expected, "{pause:?}");
        };
        near(pace.take(100_000, limit), 0);
        near(pace.take(200_000, limit), 100);
        near(pace.take(0, limit), 300);
        assert_eq!(pace.take(1, Duration::from_secs(200)), None, "and it has taken nothing");
        near(pace.take(1000, limit), 300);
        near(pace.take(u64::MAX, limit), 301);
        assert_eq!(pace.take(1, limit), None);
    }
}
