//! How often something may happen that others cause: messages that are read, lines that are written.

use std::time::{Duration, Instant};

/// A number of events at once, and a number per second from then on (a token bucket).
#[derive(Debug, Clone)]
pub(super) struct Pace {
    burst: u32,
    /// Time for one event.
    interval: Duration,
    /// When all that was taken would have been earned, had there been no burst.
    earned: Option<Instant>,
}

impl Pace {
    /// Allows `burst` events at once, and one more after each `interval`.
    pub(super) fn new(burst: u32, interval: Duration) -> Self {
        Self { burst, interval, earned: None }
    }

    /// Takes one event; false if it comes too early.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if self.due(now).is_some() {
            return false;
        }
        let earned = self.earned.map_or(now, |earned| earned.max(now));
        self.earned = Some(earned + self.interval);
        true
    }

    /// Returns when the next event is allowed; `None`: now.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let credit = self.interval.saturating_mul(self.burst.saturating_sub(1));
        let due = self.earned?.checked_sub(credit)?;
        (due > now).then_some(due)
    }
}

/// Lines that others cause: some of them, and the number of those that were left out.
#[derive(Debug)]
pub(super) struct Lines {
    pace: Pace,
    left_out: u64,
}

impl Lines {
    /// Allows `burst` lines at once, and one more after each `interval`.
    pub(super) fn new(burst: u32, interval: Duration) -> Self {
        Self { pace: Pace::new(burst, interval), left_out: 0 }
    }

    /// Tells whether a line is to be written, and how many were left out since the one before; `None`: it is
    /// left out, too.
    pub(super) fn take(&mut self, now: Instant) -> Option<u64> {
        if self.pace.take(now) {
            return Some(std::mem::take(&mut self.left_out));
        }
        self.left_out = self.left_out.saturating_add(1);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_at_a_time() {
        let second = Duration::from_secs(1);
        let mut lines = Lines::new(3, second);
        let begin = Instant::now();
        let taken: Vec<_> = (0..5).map(|_| lines.take(begin)).collect();
        assert_eq!(taken, [Some(0), Some(0), Some(0), None, None]);
        assert_eq!(lines.pace.due(begin), Some(begin + second));
        assert_eq!(lines.take(begin + second), Some(2));
        assert_eq!(lines.take(begin + second), None);
        // Quiet times are not saved up beyond the burst.
        let later = begin + 100 * second;
        let taken: Vec<_> = (0..5).map(|_| lines.take(later)).collect();
        assert_eq!(taken, [Some(1), Some(0), Some(0), None, None]);
    }
}
