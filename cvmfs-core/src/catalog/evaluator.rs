//! Where questions to catalogs are answered: at once on the thread that asks, or apart.
//!
//! A question is first asked where its caller is, with a brief budget: a thread switch for each lookup would cost
//! more than the lookup. What needs more is asked again on a thread of its own, of which a repository has two at a
//! time. So a repository whose catalogs are slow holds up nobody but itself: the threads that answer the kernel are
//! free after a millisecond, and other repositories have threads of their own. A question that is late, or that nobody
//! waits for any more, is interrupted from outside.
//!
//! Steps bound what a brief question costs, and how long a step takes depends on the file in the end. So the clock is
//! looked at as well, afterwards: a repository that used up its caller's time is asked apart only, for a while. That is
//! time of the processor: a thread that had to wait for one on a busy machine was not held up by a catalog.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};

use super::CatalogError;
use super::budget::{Budget, LONGEST, Watch};

/// Long questions of a repository at a time.
const TURNS: usize = 2;
/// A brief question that took this much time of the processor did something other than its steps.
const SLOW: Duration = Duration::from_millis(20);
/// How long after a slow question all are asked apart.
const CAUTIOUS: Duration = Duration::from_secs(1);
/// How long a thread has to come back after its statement was interrupted.
const GRACE: Duration = Duration::from_millis(500);

/// How long a question may wait for its turn. On a busy machine a thousand readers of as many catalogs may ask at once.
const TURN_LIMIT: Duration = Duration::from_secs(60);

/// Answers the questions to all catalogs of a repository.
#[derive(Debug)]
pub struct Evaluator {
    turns: Arc<Semaphore>,
    started: Instant,
    /// Milliseconds after `started` until which nothing is asked on the caller's thread.
    cautious_until: AtomicU64,
}

impl Default for Evaluator {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(TURNS)),
            started: Instant::now(),
            cautious_until: AtomicU64::new(0),
        }
    }
}

impl Evaluator {
    /// Asks on this thread with a brief budget; `None` if the question must be asked apart.
    pub fn briefly<T>(
        &self,
        question: impl FnOnce(&Budget) -> Result<T, CatalogError>,
    ) -> Option<Result<T, CatalogError>> {
        let now = millis(self.started.elapsed());
        if now < self.cautious_until.load(Ordering::Relaxed) {
            return None;
        }
        let begun = used_by_thread();
        let answer = question(&Budget::brief());
        if used_by_thread().saturating_sub(begun) > SLOW {
            self.cautious_until.store(now + millis(CAUTIOUS), Ordering::Relaxed);
        }
        match answer {
            Err(CatalogError::Unfinished) => None,
            answer => Some(answer),
        }
    }

    /// Asks on a thread of its own: for up to [`LONGEST`], after a wait for its turn of up to a minute.
    pub async fn apart<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Budget) -> Result<T, CatalogError> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let turn = tokio::time::timeout(TURN_LIMIT, Arc::clone(&self.turns).acquire_owned());
        let Ok(Ok(turn)) = turn.await else { return Err(CatalogError::Busy) };
        let end = Instant::now() + LONGEST;
        let watch = Arc::new(Watch::default());
        let budget = Budget::until(end, Some(Arc::clone(&watch)));
        let (sender, mut answer) = oneshot::channel();
        // Not joined: it ends when its budget does, and nothing depends on when that is but its turn.
        let spawned = thread::Builder::new().name("catalog".to_owned()).spawn(move || {
            let _turn = turn;
            let answer = catch_unwind(AssertUnwindSafe(|| question(&budget)));
            // The caller may have stopped waiting.
            let _ = sender.send(answer.unwrap_or(Err(CatalogError::Crashed)));
        });
        if let Err(error) = spawned {
            return Err(CatalogError::Thread(error));
        }
        // Interrupts when the caller is dropped, too.
        let interrupt = EndAtDrop(watch);
        let answered = match tokio::time::timeout_at(end.into(), &mut answer).await {
            Ok(answered) => Ok(answered),
            Err(_) => {
                interrupt.0.end();
                tokio::time::timeout_at((end + GRACE).into(), answer).await
            }
        };
        match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(CatalogError::Crashed),
            Err(_) => Err(CatalogError::TimeLimit),
        }
    }
}

/// Returns how much time of a processor this thread has used.
fn used_by_thread() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = Duration::from_secs(u64::try_from(used.tv_sec).unwrap_or(0));
    seconds + Duration::from_nanos(u64::try_from(used.tv_nsec).unwrap_or(0))
}

struct EndAtDrop(Arc<Watch>);

impl Drop for EndAtDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
