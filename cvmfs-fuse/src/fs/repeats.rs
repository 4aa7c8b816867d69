//! The kernel's second question: where read-ahead failed, it asks for the page itself at once, for each
//! reader that waited for it, one after the other.
//!
//! Each would be a round over all servers. So whoever asks right after a failure shares it, once: who
//! asks again after that is a reader who tries again.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cvmfs_core::fetch::FetchError;
use lru::LruCache;
use parking_lot::Mutex;

use super::Ino;
use super::objects::Piece;

/// How soon after an answer the next question comes from the kernel and not from a program.
const AT_ONCE: Duration = Duration::from_millis(20);
/// How long all readers of a page may take to be answered.
const ALL: Duration = Duration::from_millis(500);
/// Part of the time that a failure took by which both may be longer: on a busy machine the kernel's question comes
/// later, and to fail once more would take as long again.
const PART: u32 = 40;
/// What took less is tried again: who asks next should see at once that it is mended.
const LONG: Duration = Duration::from_secs(5);
/// Files that are failing at the same time.
const MAX_FILES: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// Readers of one of them; more of them ask anew.
const MAX_READERS: usize = 256;

#[derive(Debug)]
struct Failure {
    error: Arc<FetchError>,
    first: Instant,
    last: Instant,
    /// What both times are longer by.
    longer: Duration,
    /// Who has shared it.
    told: Vec<u32>,
}

/// Failures of the last moments.
#[derive(Debug)]
pub(super) struct Repeats(Mutex<LruCache<(Ino, Piece), Failure>>);

impl Default for Repeats {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_FILES)))
    }
}

impl Repeats {
    /// Returns the failure that a question of `reader` repeats, if it does.
    pub(super) fn of(&self, what: (Ino, Piece), reader: u32) -> Option<Arc<FetchError>> {
        let mut failures = self.0.lock();
        let failure = failures.get_mut(&what)?;
        let is_repeat = failure.last.elapsed() < AT_ONCE + failure.longer
            && failure.first.elapsed() < ALL + failure.longer
            && failure.told.len() < MAX_READERS
            && !failure.told.contains(&reader);
        if !is_repeat {
            failures.pop(&what);
            return None;
        }
        failure.told.push(reader);
        failure.last = Instant::now();
        Some(Arc::clone(&failure.error))
    }

    /// Notes a failure that was answered just now, and took that long.
    pub(super) fn note(&self, what: (Ino, Piece), error: &Arc<FetchError>, took: Duration) {
        let longer = if took < LONG { Duration::ZERO } else { took / PART };
        let (now, told) = (Instant::now(), Vec::new());
        let failure = Failure { error: Arc::clone(error), first: now, last: now, longer, told };
        self.0.lock().put(what, failure);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_shares_a_failure_once() {
        let repeats = Repeats::default();
        let error = Arc::new(FetchError::NoExternalServer { label: "x".to_owned() });
        assert!(repeats.of((7, 0), 1).is_none());
        repeats.note((7, 0), &error, Duration::ZERO);
        assert!(repeats.of((7, 0), 1).is_some(), "the page of a read-ahead");
        assert!(repeats.of((7, 0), 2).is_some(), "another reader of it");
        assert!(repeats.of((7, 1), 3).is_none(), "another piece");
        assert!(repeats.of((7, 0), 1).is_none(), "tries again");
        assert!(repeats.of((7, 0), 4).is_none(), "which begins anew for all");
    }

    #[test]
    fn one_that_took_long_is_shared_for_longer() {
        let repeats = Repeats::default();
        let error = Arc::new(FetchError::NoExternalServer { label: "x".to_owned() });
        for (took, is_shared) in [(Duration::from_secs(4), false), (Duration::from_secs(40), true)]
        {
            repeats.note((7, 0), &error, took);
            let noted = Instant::now();
            while noted.elapsed() < 2 * AT_ONCE {
                std::thread::yield_now();
            }
            assert_eq!(repeats.of((7, 0), 1).is_some(), is_shared, "{took:?}");
        }
    }
}
