//! What a mount is asked by the kernel: counts and times of requests, always; each single one, with
//! who asked, while somebody looks.
//!
//! Files and directories are opened without a message to us, and what the kernel has in memory is
//! read without one: what can be seen are lookups, and reads of what the kernel does not have.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::fs::RecentFailures;

/// Requests that are counted, by the names of [`super::dispatch::Operation`].
const OPERATIONS: [&str; 13] = [
    "lookup",
    "getattr",
    "readlink",
    "open",
    "read",
    "release",
    "opendir",
    "readdir",
    "readdirplus",
    "releasedir",
    "statfs",
    "getxattr",
    "listxattr",
];
/// Classes of duration: the first one below a microsecond, each twice as long, the last one above
/// two minutes.
const CLASSES: usize = 28;
/// Events that are kept for who looks; with paths some 4 MiB.
const MAX_EVENTS: usize = 16 * 1024;

/// Counts of one kind of request.
#[derive(Debug, Default)]
struct Counter {
    nanoseconds: AtomicU64,
    failures: AtomicU64,
    classes: [AtomicU64; CLASSES],
}

/// How often something was asked for, and how long that took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// The kind of request.
    pub operation: String,
    /// How many were answered.
    pub count: u64,
    /// How many of them with an error of ours; absence is none.
    pub failures: u64,
    /// All of their time, nanoseconds.
    pub total: u64,
    /// How many took less than a microsecond, then less than 2, 4, 8 and so on.
    pub classes: Vec<u64>,
}

/// One request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// Ascending, without gaps.
    pub number: u64,
    /// When it was answered: microseconds since 1970.
    pub at: u64,
    /// What was asked for.
    pub operation: String,
    /// Of what; `None` if the path is not known any more.
    pub path: Option<String>,
    /// The thread that asked; 0 if it cannot be seen from here.
    pub thread: u32,
    /// Its program.
    pub program: Option<String>,
    /// How long that took, microseconds.
    pub took: u64,
}

#[derive(Debug, Default)]
struct Trace {
    events: VecDeque<Event>,
    /// The number of the next one.
    next: u64,
    /// Until when somebody looks.
    until: Option<std::time::Instant>,
}

/// What a mount is asked.
#[derive(Debug, Default)]
pub struct Activity {
    /// The last failures.
    pub recent: Arc<RecentFailures>,
    counters: [Counter; OPERATIONS.len()],
    is_watched: AtomicBool,
    trace: Mutex<Trace>,
}

impl Activity {
    /// Counts an answer.
    pub fn answered(&self, operation: &str, took: Duration) {
        let Some(counter) = self.counter(operation) else { return };
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        counter.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        counter.classes[class_of(took)].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an error.
    pub fn failed(&self, operation: &str) {
        if let Some(counter) = self.counter(operation) {
            counter.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counter(&self, operation: &str) -> Option<&Counter> {
        OPERATIONS.iter().position(|name| *name == operation).map(|at| &self.counters[at])
    }

    /// Returns the counts of all that was asked for.
    pub fn latencies(&self) -> Vec<Latency> {
        let of = |(operation, counter): (&&str, &Counter)| {
            let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
            let classes: Vec<_> = counter.classes.iter().map(read).collect();
            Latency {
                operation: (*operation).to_owned(),
                count: classes.iter().sum(),
                failures: read(&counter.failures),
                total: read(&counter.nanoseconds),
                classes,
            }
        };
        let all = OPERATIONS.iter().zip(&self.counters).map(of);
        all.filter(|latency| latency.count > 0).collect()
    }

    /// Tells whether somebody looks at single requests.
    pub fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// Notes a request for who looks.
    pub fn note(&self, operation: &str, path: Option<String>, thread: u32, took: Duration) {
        let event = Event {
            number: 0,
            at: now(),
            operation: operation.to_owned(),
            path,
            thread,
            program: program_of(thread),
            took: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        };
        let mut trace = self.trace.lock();
        if trace.until.is_none_or(|until| until < std::time::Instant::now()) {
            // Nobody looks any more.
            self.is_watched.store(false, Ordering::Relaxed);
            (trace.until, trace.events) = (None, VecDeque::new());
            return;
        }
        let number = trace.next;
        trace.next += 1;
        trace.events.push_back(Event { number, ..event });
        if trace.events.len() > MAX_EVENTS {
            trace.events.pop_front();
        }
    }

    /// Looks for so long; returns the requests from this number on, and the number to go on with.
    /// What was too much to be kept is missing.
    pub fn watch(&self, from: Option<u64>, limit: Duration) -> (Vec<Event>, u64) {
        let mut trace = self.trace.lock();
        trace.until = Some(std::time::Instant::now() + limit);
        let from = from.unwrap_or(trace.next);
        let events = trace.events.iter().filter(|event| event.number >= from).cloned().collect();
        let next = trace.next;
        self.is_watched.store(true, Ordering::Relaxed);
        (events, next)
    }

    /// Forgets what was kept for one who has not come back.
    pub fn tidy(&self) {
        let mut trace = self.trace.lock();
        if trace.until.is_none_or(|until| until < std::time::Instant::now()) {
            self.is_watched.store(false, Ordering::Relaxed);
            (trace.until, trace.events) = (None, VecDeque::new());
        }
    }
}

impl Latency {
    /// Returns a time that this share of the requests did not exceed, in microseconds.
    pub fn quantile(&self, share: f64) -> u64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "classes are wider than what is lost"
        )]
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0_u64;
        for (class, count) in self.classes.iter().enumerate() {
            seen = seen.saturating_add(*count);
            if seen >= wanted {
                return 1 << class;
            }
        }
        1 << self.classes.len()
    }

    /// Returns what came since an earlier look.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let classes = self.classes.iter().enumerate().map(|(class, count)| {
            count.saturating_sub(before.classes.get(class).copied().unwrap_or(0))
        });
        Self {
            operation: self.operation.clone(),
            count: self.count.saturating_sub(before.count),
            failures: self.failures.saturating_sub(before.failures),
            total: self.total.saturating_sub(before.total),
            classes: classes.collect(),
        }
    }

    /// Adds the same of another mount.
    pub fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.failures += other.failures;
        self.total = self.total.saturating_add(other.total);
        self.classes.resize(self.classes.len().max(other.classes.len()), 0);
        for (class, count) in other.classes.iter().enumerate() {
            self.classes[class] += count;
        }
    }
}

fn class_of(took: Duration) -> usize {
    let microseconds = took.as_micros();
    // 0 is below a microsecond, then 1, 2 to 3, 4 to 7.
    let bits = u128::BITS - microseconds.leading_zeros();
    usize::try_from(bits).unwrap_or(CLASSES).min(CLASSES - 1)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.ok().and_then(|since| u64::try_from(since.as_micros()).ok()).unwrap_or(0)
}

fn program_of(thread: u32) -> Option<String> {
    if thread == 0 {
        return None;
    }
    let name = std::fs::read(format!("/proc/{thread}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_their_classes() {
        let activity = Activity::default();
        let took = Duration::from_micros;
        for (microseconds, times) in [(0, 50), (1, 30), (3, 10), (100, 9), (u64::MAX, 1)] {
            (0..times).for_each(|_| activity.answered("read", took(microseconds)));
        }
        activity.failed("read");
        activity.answered("no such thing", took(1));
        let all = activity.latencies();
        assert_eq!(all.len(), 1);
        let read = &all[0];
        assert_eq!((read.operation.as_str(), read.count, read.failures), ("read", 100, 1));
        let quantiles = [0.5, 0.8, 0.9, 0.99].map(|share| read.quantile(share));
        assert_eq!(quantiles, [1, 2, 4, 128]);
        activity.answered("read", took(100));
        let later = activity.latencies()[0].since(read);
        assert_eq!((later.count, later.failures, later.quantile(0.5)), (1, 0, 128));
        let mut both = later.clone();
        both.add(read);
        assert_eq!((both.count, both.quantile(0.5)), (101, 2));
    }

    #[test]
    fn single_requests_are_kept_while_somebody_looks() {
        let activity = Activity::default();
        let note = |path: &str| {
            activity.note("read", Some(path.to_owned()), std::process::id(), Duration::ZERO);
        };
        note("/nobody");
        let (events, next) = activity.watch(None, Duration::from_secs(60));
        assert_eq!((events.len(), next, activity.is_watched()), (0, 0, true));
        (0..MAX_EVENTS + 5).for_each(|number| note(&number.to_string()));
        let (events, next) = activity.watch(Some(0), Duration::from_secs(60));
        assert_eq!((events.len(), events[0].path.as_deref()), (MAX_EVENTS, Some("5")));
        assert!(events[0].program.is_some());
        let (events, _) = activity.watch(Some(next), Duration::ZERO);
        assert!(events.is_empty());
        activity.tidy();
        assert!(!activity.is_watched());
        note("/late");
        assert!(activity.watch(Some(0), Duration::ZERO).0.is_empty());
    }
}
