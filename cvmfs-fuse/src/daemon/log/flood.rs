//! A flood of equal messages becomes one, and one with their number. Of messages from one line of the program
//! that are all different, because somebody else decides what is in them, some are written, and then a few.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;
use tracing::Level;
use tracing::callsite::Identifier;

use super::super::pace::Lines;
use super::record::Record;

/// Equal messages in this time after the first are counted instead of written.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// Different messages that are remembered.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// Messages of one line of the program that are written at once.
const MAX_OF_ONE_LINE: u32 = 1000;
/// Time for each one beyond that.
const PACE: Duration = Duration::from_secs(10);

/// What was written lately.
pub(super) struct Flood {
    recent: LruCache<String, Seen>,
    /// By the place in the program that they come from.
    lines: HashMap<Identifier, Lines>,
}

struct Seen {
    since: Instant,
    /// The last of those that were not written.
    last: Option<Record>,
}

impl Seen {
    fn count(&mut self, record: Record) {
        let before = self.last.take().map_or(0, |last| last.repeated);
        self.last = Some(Record { repeated: before.saturating_add(1), ..record });
    }
}

impl Default for Flood {
    fn default() -> Self {
        Self { recent: LruCache::new(MAX_REMEMBERED), lines: HashMap::new() }
    }
}

impl Flood {
    /// Takes a message; returns what is to be written now, in this order.
    pub(super) fn take(&mut self, mut record: Record, now: Instant) -> Vec<Record> {
        // Who debugs wants all of them.
        if record.level > Level::INFO {
            return vec![record];
        }
        let mut due = self.settle(now);
        let key = format!("{}{}{}{}", record.level, record.context, record.target, record.text());
        if let Some(seen) = self.recent.get_mut(&key) {
            seen.count(record);
            return due;
        }
        if let Some(origin) = &record.origin {
            let fresh = || Lines::new(MAX_OF_ONE_LINE, PACE);
            match self.lines.entry(origin.clone()).or_insert_with(fresh).take(now) {
                None => return due,
                Some(0) => {}
                Some(left_out) => record.note("left_out", left_out),
            }
        }
        let seen = Seen { since: now, last: None };
        if let Some((_, Seen { last: Some(forgotten), .. })) = self.recent.push(key, seen) {
            due.push(forgotten);
        }
        due.push(record);
        due
    }

    /// Returns what was counted for long enough.
    pub(super) fn settle(&mut self, now: Instant) -> Vec<Record> {
        self.settle_until(|since| now.duration_since(since) >= WINDOW)
    }

    /// Returns all that was counted.
    pub(super) fn end(&mut self) -> Vec<Record> {
        self.settle_until(|_| true)
    }

    fn settle_until(&mut self, is_over: impl Fn(Instant) -> bool) -> Vec<Record> {
        let over = self.recent.iter().filter(|(_, seen)| is_over(seen.since));
        let over: Vec<_> = over.map(|(key, _)| key.clone()).collect();
        let mut due = Vec::new();
        for key in over {
            if let Some(Seen { last: Some(mut last), since }) = self.recent.pop(&key) {
                due.push(last.clone());
                // It goes on as it did.
                last.repeated = 0;
                let since = since + WINDOW;
                self.recent.push(key, Seen { since, last: None });
            }
        }
        due.sort_by_key(|record| record.time);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(level: Level, message: &str) -> Record {
        let mut record = Record::new(level, "t");
        record.message = message.to_owned();
        record
    }

    fn shown(records: &[Record]) -> Vec<(&str, u64)> {
        records.iter().map(|record| (record.message.as_str(), record.repeated)).collect()
    }

    #[test]
    fn a_flood_becomes_two_lines() {
        let mut flood = Flood::default();
        let begin = Instant::now();
        let warn = |flood: &mut Flood, message: &str, after: Duration| {
            flood.take(record(Level::WARN, message), begin + after)
        };
        assert_eq!(shown(&warn(&mut flood, "a", Duration::ZERO)), [("a", 0)]);
        for _ in 0..999 {
            assert!(warn(&mut flood, "a", Duration::from_secs(1)).is_empty());
        }
        assert_eq!(shown(&warn(&mut flood, "b", Duration::from_secs(2))), [("b", 0)]);
        assert!(flood.settle(begin + Duration::from_secs(3)).is_empty());
        assert_eq!(shown(&flood.settle(begin + WINDOW)), [("a", 999)]);
        // It goes on, and is one line for each window.
        assert!(warn(&mut flood, "a", WINDOW).is_empty());
        assert_eq!(shown(&flood.settle(begin + WINDOW * 2)), [("a", 1)]);
        // Over: forgotten, so that the next one is written at once.
        assert!(flood.settle(begin + WINDOW * 3).is_empty());
        assert_eq!(shown(&warn(&mut flood, "a", WINDOW * 3)), [("a", 0)]);
        assert!(warn(&mut flood, "a", WINDOW * 3).is_empty());
        assert_eq!(shown(&flood.end()), [("a", 1)]);
    }

    #[test]
    fn m6_a_peer_that_causes_ever_different_lines_fills_no_log() {
        use tracing::callsite::DefaultCallsite;
        use tracing::metadata::Kind;
        static CALLSITE: DefaultCallsite = DefaultCallsite::new(&META);
        static META: tracing::Metadata<'static> = tracing::metadata! {
            name: "x", target: "t", level: Level::WARN, fields: &[],
            callsite: &CALLSITE, kind: Kind::EVENT
        };
        let (mut flood, now) = (Flood::default(), Instant::now());
        let refused = |flood: &mut Flood, uid: u32, now| {
            let mut record = record(Level::WARN, &format!("user {uid} may not use the cache"));
            record.origin = Some(META.callsite());
            flood.take(record, now)
        };
        let written: usize = (0..50_000).map(|uid| refused(&mut flood, uid, now).len()).sum();
        assert_eq!(written, MAX_OF_ONE_LINE as usize);
        // Others are written meanwhile, and the number of those that were not.
        assert_eq!(flood.take(record(Level::WARN, "other"), now).len(), 1);
        let later = refused(&mut flood, 99_999, now + PACE);
        assert!(later[0].text().ends_with("left_out=49000"), "{}", later[0].text());
    }

    #[test]
    fn others_are_not_held_back() {
        let mut flood = Flood::default();
        let now = Instant::now();
        for number in 0..1000 {
            assert_eq!(flood.take(record(Level::WARN, &number.to_string()), now).len(), 1);
            assert_eq!(flood.take(record(Level::DEBUG, "same"), now).len(), 1);
        }
        assert_eq!(flood.recent.len(), MAX_REMEMBERED.get());
    }
}
