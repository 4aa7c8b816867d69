//! Since when, and why, a repository may not be the newest, and how often the log says so.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::Repository;
use crate::reminder::Reminder;

/// Since when, and why, the repository shows what may not be the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    /// Unix seconds.
    pub since: i64,
    /// For people.
    pub reason: String,
}

/// Whether a repository is stale, and what the log was told of it.
#[derive(Debug, Default)]
pub(super) struct StaleState {
    now: ArcSwapOption<Stale>,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    reminder: Reminder,
    /// A warning was written that no line has ended yet.
    is_open: bool,
}

impl StaleState {
    /// Begins with what the start found out, and has logged.
    pub(super) fn beginning(stale: Option<Arc<Stale>>) -> Self {
        let is_open = stale.is_some();
        let log = Mutex::new(Log { reminder: Reminder::default(), is_open });
        Self { now: ArcSwapOption::from(stale), log }
    }
}

impl Repository {
    /// Tells since when the repository may not be the newest; `None` while it is.
    pub fn stale(&self) -> Option<Arc<Stale>> {
        self.stale.now.load_full()
    }

    pub(super) fn set_fresh(&self) {
        self.withheld.store(None);
        if self.stale.now.swap(None).is_none() {
            return;
        }
        let mut log = self.stale.log.lock();
        if std::mem::take(&mut log.is_open) {
            tracing::info!(fqrn = %self.config.fqrn, "up to date again");
        }
    }

    pub(super) fn set_stale(&self, reason: String) {
        let fqrn = &self.config.fqrn;
        let now = self.clock.unix_seconds();
        self.withhold_if_due(now);
        let before = self.stale.now.load_full();
        let since = before.map_or(now, |stale| stale.since);
        // Reasons change from look to look, servers come and go: neither is a reason to say it again.
        let mut log = self.stale.log.lock();
        if log.reminder.is_due(now) {
            log.is_open = true;
            tracing::warn!(%fqrn, since, reason, "the current revision may be stale");
        }
        drop(log);
        self.stale.now.store(Some(Arc::new(Stale { since, reason })));
    }
}
