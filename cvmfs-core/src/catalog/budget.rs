//! Limits of one question to a database: steps, time, and an end from outside.
//!
//! A question is asked with a brief budget first, on the thread that has it at hand, which may be one that answers
//! the kernel. A question that needs more is asked again with a long budget, on a thread of its own that others do
//! not wait for ([`super::evaluator`]).
//!
//! | budget | steps of SQLite's machine | clock |
//! |---|---|---|
//! | brief | 20,000: less than a millisecond of reads from memory | loops over rows end after 1 ms |
//! | long | any number | 10 s, then the statement is interrupted |
//!
//! Steps bound the time because each step is cheap: no function is ever called (none may be named in a schema or a
//! statement), no value is longer than [`super::sql::MAX_VALUE_LEN`], no allocation is larger than 4 MiB. The one
//! step that depends on the file is the walk along the overflow pages of a row, which reads no page twice; who makes
//! such files is served apart from then on, see [`super::evaluator`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::InterruptHandle;

use super::CatalogError;

/// Longest time of a question with a long budget. The longest honest one reads a million chunk rows, which takes a
/// second; the rest is room for slow disks.
pub const LONGEST: Duration = Duration::from_secs(10);
/// Steps of SQLite's virtual machine between two looks at the budget.
pub(super) const STEPS_PER_LOOK: i32 = 500;
/// Looks of a brief budget: 20,000 steps.
const BRIEF_LOOKS: u32 = 40;
/// Longest run of a loop over rows with a brief budget.
const BRIEF_LOOP: Duration = Duration::from_millis(1);
/// Longest run of a loop over rows that can be continued by another question.
const SLICE: Duration = Duration::from_millis(50);
/// Looks while a database is opened: 5,000 steps, which load a schema of some 400 tables and indexes. Servers write
/// fewer than 20.
const OPENING_LOOKS: u32 = 10;

/// What one question may cost.
#[derive(Debug, Clone)]
pub struct Budget {
    looks: u32,
    end: Instant,
    loop_end: Instant,
    slice_end: Instant,
    is_brief: bool,
    watch: Option<Arc<Watch>>,
}

impl Budget {
    /// Returns the budget of a question on a thread that others wait for.
    pub fn brief() -> Self {
        let now = Instant::now();
        let loop_end = now + BRIEF_LOOP;
        Self {
            looks: BRIEF_LOOKS,
            // Steps decide: a cold disk is slow for every question.
            end: now + LONGEST,
            loop_end,
            slice_end: loop_end,
            is_brief: true,
            watch: None,
        }
    }

    /// Returns the budget of a question on a thread that nobody else waits for.
    pub fn long() -> Self {
        Self::until(Instant::now() + LONGEST, None)
    }

    /// Returns a long budget that ends at `end`, or when `watch` says so.
    pub(super) fn until(end: Instant, watch: Option<Arc<Watch>>) -> Self {
        let slice_end = end.min(Instant::now() + SLICE);
        Self { looks: u32::MAX, end, loop_end: end, slice_end, is_brief: false, watch }
    }

    /// Returns the same budget with no more steps than opening a database takes.
    pub(super) fn opening(&self) -> Self {
        Self { looks: OPENING_LOOKS, ..self.clone() }
    }

    /// Fails when a loop over rows has used up its time; to be asked for each row.
    pub(crate) fn check(&self) -> Result<(), CatalogError> {
        if Instant::now() <= self.loop_end && !self.is_ended() { Ok(()) } else { Err(self.spent()) }
    }

    /// Tells whether others wait for the thread.
    pub(super) fn is_brief(&self) -> bool {
        self.is_brief
    }

    /// Tells whether a loop that another question can continue should stop here.
    pub(super) fn is_slice_over(&self) -> bool {
        Instant::now() > self.slice_end
    }

    /// Returns the error of a question that needs more than this budget.
    pub(super) fn spent(&self) -> CatalogError {
        if self.is_brief { CatalogError::Unfinished } else { CatalogError::TimeLimit }
    }

    fn is_ended(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.is_ended())
    }
}

/// The running statement of a question, so that it can be ended from another thread.
#[derive(Default)]
pub(super) struct Watch {
    ended: AtomicBool,
    running: Mutex<Option<InterruptHandle>>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watch({})", self.is_ended())
    }
}

impl Watch {
    /// Ends the question: its statement is interrupted, and no further one begins.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        // Under the lock, so that a connection that went back to its pool is not interrupted in the hands of others.
        if let Some(running) = &*self.running.lock() {
            running.interrupt();
        }
    }

    fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// What the progress handler of a connection looks at.
#[derive(Debug)]
pub(super) struct Meter(Mutex<Allowance>);

#[derive(Debug)]
struct Allowance {
    looks: u32,
    end: Instant,
    watch: Option<Arc<Watch>>,
}

impl Meter {
    /// Makes a meter that lets no statement run for long.
    pub(super) fn new() -> Self {
        Self(Mutex::new(Allowance { looks: 0, end: Instant::now(), watch: None }))
    }

    /// Begins a question; `handle` ends its statements.
    pub(super) fn begin(&self, budget: &Budget, handle: impl FnOnce() -> InterruptHandle) {
        if let Some(watch) = &budget.watch {
            *watch.running.lock() = Some(handle());
        }
        *self.0.lock() =
            Allowance { looks: budget.looks, end: budget.end, watch: budget.watch.clone() };
    }

    /// Ends a question: what is done with the connection from here on is not its concern.
    pub(super) fn finish(&self) {
        let watch = self.0.lock().watch.take();
        if let Some(watch) = watch {
            *watch.running.lock() = None;
        }
    }

    /// Counts [`STEPS_PER_LOOK`] steps; true if the statement must end.
    pub(super) fn look(&self) -> bool {
        let mut allowance = self.0.lock();
        let Some(left) = allowance.looks.checked_sub(1) else { return true };
        allowance.looks = left;
        allowance.watch.as_ref().is_some_and(|watch| watch.is_ended())
            || Instant::now() > allowance.end
    }
}
