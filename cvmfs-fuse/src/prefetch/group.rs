//! Wishes that stand and fall together: those of one segment of an access profile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cvmfs_core::fetch::AheadOutcome;
use cvmfs_core::object::ObjectId;
use parking_lot::Mutex;

/// So many that are all here, or all cannot be had, speak for the others.
const SAMPLE: usize = 8;
/// Failures that are remembered; a segment has no more objects.
const MAX_FAILED: usize = 64;

/// What became of some wishes.
#[derive(Debug, Default)]
pub struct Group {
    /// Shared with the other segments of a chain.
    cancelled: Arc<AtomicBool>,
    here: AtomicUsize,
    fetched: AtomicUsize,
    failed: Mutex<Vec<ObjectId>>,
}

impl Group {
    /// One that ends when `cancelled` is set.
    pub fn until(cancelled: &Arc<AtomicBool>) -> Self {
        Self { cancelled: Arc::clone(cancelled), ..Self::default() }
    }

    /// Notes what became of one.
    pub fn note(&self, id: &ObjectId, outcome: AheadOutcome) {
        match outcome {
            AheadOutcome::Here => _ = self.here.fetch_add(1, Ordering::Relaxed),
            AheadOutcome::Fetched => _ = self.fetched.fetch_add(1, Ordering::Relaxed),
            AheadOutcome::UnderWay => {}
            AheadOutcome::Failed => {
                let mut failed = self.failed.lock();
                if failed.len() < MAX_FAILED {
                    failed.push(*id);
                }
            }
        }
    }

    /// Tells whether those that still wait are not worth a look.
    pub fn is_useless(&self) -> bool {
        if self.cancelled.load(Ordering::Relaxed) {
            return true;
        }
        let others = self.here.load(Ordering::Relaxed).max(self.failed.lock().len());
        self.fetched.load(Ordering::Relaxed) == 0 && others >= SAMPLE
    }

    /// Returns those that could not be had while others could: the servers do not have them any
    /// more. Where nothing can be had, that says nothing.
    pub fn gone(&self) -> Vec<ObjectId> {
        match self.fetched.load(Ordering::Relaxed) {
            0 => Vec::new(),
            _ => self.failed.lock().clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use cvmfs_core::hash::{ContentHash, HashAlgorithm};
    use cvmfs_core::object::ObjectKind;

    use super::*;

    #[test]
    fn a_sample_speaks_for_the_others() {
        let id = ObjectId::zlib(ContentHash::of(HashAlgorithm::Sha1, b""), ObjectKind::Data);
        let cancelled = Arc::new(AtomicBool::new(false));
        for outcome in [AheadOutcome::Here, AheadOutcome::Failed] {
            let group = Group::until(&cancelled);
            (1..SAMPLE).for_each(|_| group.note(&id, outcome));
            assert!(!group.is_useless());
            group.note(&id, outcome);
            assert!(group.is_useless() && group.gone().is_empty());
            group.note(&id, AheadOutcome::Fetched);
            assert!(!group.is_useless());
            assert_eq!(
                group.gone().len(),
                if outcome == AheadOutcome::Failed { SAMPLE } else { 0 }
            );
            cancelled.store(true, Ordering::Relaxed);
            assert!(group.is_useless());
            cancelled.store(false, Ordering::Relaxed);
        }
    }
}
