//! Openings under way, and what is remembered of those that failed.
//!
//! One attempt for a name, whoever asks; it goes on when they give up. Failures are remembered for
//! a while, so that a program that asks a thousand times makes one attempt.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cvmfs_core::fqrn::Fqrn;
use cvmfs_core::share::Caller;
use futures_util::future::{BoxFuture, Shared};
use lru::LruCache;

use super::super::FsError;
use super::members::{Member, Open};

/// How long servers are believed that there is no such repository. Repositories appear seldom;
/// programs that look for names under /cvmfs, and shells that complete them, ask often.
const UNKNOWN_TTL: Duration = Duration::from_secs(60);
/// How long a repository that cannot be reached is left alone: long enough that a storm of calls
/// makes no storm of requests, short enough that nobody waits for it after an outage.
const FAILED_TTL: Duration = Duration::from_secs(5);
/// Names remembered; each takes some 200 bytes. Whoever asks for more at random makes attempts, of
/// which only so many run at a time.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// Why there is no open repository.
#[derive(Debug, Clone)]
pub(super) enum Missing {
    /// All servers say that there is none.
    Unknown,
    /// Nobody knows; for people.
    Failed(Arc<str>),
    /// The users who asked have used up their shares of attempts; for people.
    Busy(Arc<str>),
    /// So many are open.
    Crowded(usize),
}

impl Missing {
    pub(super) fn error(&self, fqrn: &Fqrn) -> FsError {
        let fqrn = fqrn.clone();
        match self {
            Self::Unknown => FsError::NotFound,
            Self::Failed(reason) | Self::Busy(reason) => {
                FsError::Repository { fqrn, reason: Arc::clone(reason) }
            }
            Self::Crowded(most) => FsError::TooManyRepositories { fqrn, most: *most },
        }
    }

    fn ttl(&self) -> Duration {
        match self {
            Self::Unknown => UNKNOWN_TTL,
            Self::Failed(_) => FAILED_TTL,
            // Costs nothing to find out again, and says nothing about other users.
            Self::Busy(_) | Self::Crowded(_) => Duration::ZERO,
        }
    }
}

pub(super) type Outcome = Result<(Arc<Member>, Arc<Open>), Missing>;
/// An opening that any number of requests wait for.
pub(super) type Attempt = Shared<BoxFuture<'static, Outcome>>;

/// All openings, running and in vain.
pub(super) struct Attempts {
    pub(super) running: HashMap<Fqrn, (Attempt, Arc<Caller>)>,
    failed: LruCache<Fqrn, (Missing, Instant)>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { running: HashMap::new(), failed: LruCache::new(MAX_REMEMBERED) }
    }
}

impl Attempts {
    /// Returns what is remembered of a name.
    pub(super) fn remembered(&mut self, fqrn: &Fqrn, now: Instant) -> Option<Missing> {
        match self.failed.get(fqrn) {
            Some((missing, until)) if now < *until => Some(missing.clone()),
            Some(_) => {
                self.failed.pop(fqrn);
                None
            }
            None => None,
        }
    }

    /// Notes how an attempt ended.
    pub(super) fn ended(&mut self, fqrn: &Fqrn, outcome: &Outcome, now: Instant) {
        self.running.remove(fqrn);
        match outcome {
            Ok(_) => self.failed.pop(fqrn),
            Err(missing) => self.failed.put(fqrn.clone(), (missing.clone(), now + missing.ttl())),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_remembered_for_a_while_and_not_without_bound() {
        let mut attempts = Attempts::default();
        let now = Instant::now();
        let name = |n: usize| format!("r{n}.test.repo").parse::<Fqrn>().unwrap();
        let failed = Missing::Failed("no route".into());
        attempts.ended(&name(0), &Err(Missing::Unknown), now);
        attempts.ended(&name(1), &Err(failed), now);
        attempts.ended(&name(2), &Err(Missing::Crowded(1)), now);
        let errno = |attempts: &mut Attempts, n, after| {
            attempts.remembered(&name(n), now + after).map(|m| m.error(&name(n)).errno())
        };
        assert_eq!(errno(&mut attempts, 0, Duration::from_secs(59)), Some(libc::ENOENT));
        assert_eq!(errno(&mut attempts, 1, Duration::from_secs(4)), Some(libc::EIO));
        assert_eq!(errno(&mut attempts, 0, UNKNOWN_TTL), None);
        assert_eq!(errno(&mut attempts, 1, FAILED_TTL), None);
        assert_eq!(errno(&mut attempts, 2, Duration::ZERO), None);
        for n in 0..2000 {
            attempts.ended(&name(n), &Err(Missing::Unknown), now);
        }
        assert_eq!(attempts.failed.len(), MAX_REMEMBERED.get());
    }
}
