//! What is being downloaded just now, for people who ask.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Fetcher;
use crate::object::ObjectId;

/// A download that is under way, for people.
#[derive(Debug, Clone)]
pub struct UnderWay {
    /// The object.
    pub id: ObjectId,
    /// What it is.
    pub label: Arc<str>,
    /// For how long.
    pub since: Duration,
    /// How many wait for it; none for one that was fetched ahead.
    pub waiting: usize,
}

impl Fetcher {
    /// Returns the downloads that are under way, the oldest first.
    pub fn under_way(&self) -> Vec<UnderWay> {
        let downloads = self.shared.downloads.lock();
        let mut all: Vec<_> = downloads
            .iter()
            .map(|((id, _, _), download)| UnderWay {
                id: *id,
                label: Arc::clone(&download.label),
                since: download.begun.elapsed(),
                waiting: download.waiting.load(Ordering::SeqCst),
            })
            .collect();
        drop(downloads);
        all.sort_by_key(|one| std::cmp::Reverse(one.since));
        all
    }
}
