//! The one place that logs and counts failed requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::Errno;
use parking_lot::Mutex;

use super::dispatch::Operation;
use crate::fs::{FsError, RecentFailures};
use cvmfs_core::chain::chain;

/// Lines of one errno in one window; enough to see what is wrong, too few to fill a disk while a
/// server is away and a thousand programs retry.
const LINES_PER_WINDOW: u32 = 10;
/// Length of a window.
const WINDOW: Duration = Duration::from_secs(10);

/// What we answer when all is well: the entry or attribute does not exist, or is not of the kind
/// that the caller takes it for.
const ANSWERS: [i32; 7] = [
    libc::ENOENT,
    libc::ENODATA,
    libc::ENOTDIR,
    libc::EISDIR,
    libc::EINVAL,
    libc::ENAMETOOLONG,
    libc::EINTR,
];

/// Counts and reports failed requests.
#[derive(Debug, Default)]
pub struct Failures {
    by_errno: Mutex<HashMap<i32, Record>>,
    recent: Arc<RecentFailures>,
}

#[derive(Debug)]
struct Record {
    total: u64,
    window_start: Instant,
    lines: u32,
    suppressed: u64,
}

/// What becomes of one report.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Write it, and say how many were left out before.
    Write { suppressed: u64 },
    /// Leave it out.
    Suppress,
}

impl Failures {
    /// Returns the value of an attribute that tells of them.
    pub fn attribute(&self, name: &[u8]) -> Option<Vec<u8>> {
        self.recent.attribute(name)
    }

    /// Also notes them where people ask.
    pub fn noting(recent: Arc<RecentFailures>) -> Self {
        Self { by_errno: Mutex::default(), recent }
    }

    /// Notes that a request failed and returns what the kernel is told.
    pub fn record(&self, operation: Operation, error: &FsError) -> Errno {
        let errno = error.errno();
        let verdict = self.count(errno, Instant::now());
        let Operation { name: op, ino, pid, .. } = operation;
        if ANSWERS.contains(&errno) {
            tracing::debug!(op, ino, pid, errno, "{}", chain(error));
            return Errno::from_i32(errno);
        }
        self.recent.note(op, pid, error);
        if let Verdict::Write { suppressed } = verdict {
            if suppressed > 0 {
                tracing::warn!(errno, suppressed, "reports of failed requests were left out");
            }
            tracing::warn!(op, ino, pid, errno, "{}", chain(error));
        }
        Errno::from_i32(errno)
    }

    /// Returns how many requests failed with this errno.
    pub fn count_of(&self, errno: i32) -> u64 {
        self.by_errno.lock().get(&errno).map_or(0, |record| record.total)
    }

    fn count(&self, errno: i32, now: Instant) -> Verdict {
        let mut by_errno = self.by_errno.lock();
        let record = by_errno.entry(errno).or_insert(Record {
            total: 0,
            window_start: now,
            lines: 0,
            suppressed: 0,
        });
        record.total += 1;
        if now.saturating_duration_since(record.window_start) >= WINDOW {
            record.window_start = now;
            record.lines = 0;
        }
        if record.lines >= LINES_PER_WINDOW {
            record.suppressed += 1;
            return Verdict::Suppress;
        }
        record.lines += 1;
        Verdict::Write { suppressed: std::mem::take(&mut record.suppressed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floods_are_cut_and_counted() {
        let failures = Failures::default();
        let start = Instant::now();
        for _ in 0..LINES_PER_WINDOW {
            assert_eq!(failures.count(libc::EIO, start), Verdict::Write { suppressed: 0 });
        }
        for _ in 0..7 {
            assert_eq!(failures.count(libc::EIO, start), Verdict::Suppress);
        }
        // Others are not affected.
        assert_eq!(failures.count(libc::ESTALE, start), Verdict::Write { suppressed: 0 });
        let later = start + WINDOW;
        assert_eq!(failures.count(libc::EIO, later), Verdict::Write { suppressed: 7 });
        assert_eq!(failures.count(libc::EIO, later), Verdict::Write { suppressed: 0 });
        assert_eq!(failures.count_of(libc::EIO), u64::from(LINES_PER_WINDOW) + 9);
        assert_eq!(failures.count_of(libc::EPERM), 0);
    }
}
