//! How long a repository is shown that no server vouches for any more.
//!
//! A whitelist is signed for a month or so. After that nobody says that its certificates are still
//! good: they may have been revoked. A machine without a network shall work all the same, but not
//! for ever.

use std::sync::Arc;
use std::time::Duration;

use super::{Pin, Repository, RepositoryConfig};
use crate::letters::Letters;

/// A repository is not shown any more: no server has given a good whitelist for too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withheld {
    /// When the newest whitelist expired, Unix seconds.
    pub expired: i64,
    /// How long after that it may be shown.
    pub limit: Duration,
}

/// Tells whether letters that were accepted before must not be shown any more at `now`.
pub(super) fn withheld(config: &RepositoryConfig, known: &Letters, now: i64) -> Option<Withheld> {
    let limit = config.offline_limit?;
    let expired = known.whitelist.expires;
    let end = expired.saturating_add(i64::try_from(limit.as_secs()).unwrap_or(i64::MAX));
    (config.pin == Pin::Latest && now >= end).then_some(Withheld { expired, limit })
}

impl Repository {
    /// Tells why nothing of the repository may be shown; `None` while it may.
    pub fn withheld(&self) -> Option<Arc<Withheld>> {
        // Asked for at each request of the kernel: no count of references while there is none.
        let withheld = self.withheld.load();
        withheld.as_ref().map(Arc::clone)
    }

    /// Decides after a look for a newer revision that failed.
    pub(super) fn withhold_if_due(&self, now: i64) {
        let due = {
            let accepted = self.accepted.lock();
            accepted.letters.as_ref().and_then(|known| withheld(&self.config, known, now))
        };
        if due.is_some() && self.withheld.load().is_none() {
            tracing::error!(
                fqrn = %self.config.fqrn,
                "the whitelist expired too long ago, and no server gives a newer one: nothing is \
                 shown until one does (CVMFS_FUSE_OFFLINE_LIMIT)"
            );
        }
        self.withheld.store(due.map(Arc::new));
    }
}
