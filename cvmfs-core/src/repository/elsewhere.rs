//! Whether another server than the one in use has a newer revision.
//!
//! A mirror that is frozen answers quickly, and its manifest is signed; only others can tell that it
//! is behind. So now and then one of them is asked, each in its turn.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use super::Repository;
use crate::chain::chain;
use crate::letters::{Judge, Letters, ServerError, fetch_manifest};
use crate::memory::RevisionMemory;

/// Seconds between two questions to servers that are not in use: four small requests per hour and
/// repository at most, through the same proxies as all others, which keep the answer for the
/// clients of a site.
const INTERVAL: i64 = 15 * 60;

/// When another server was asked last, and how many were.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    asked: AtomicI64,
    turn: AtomicUsize,
}

impl Elsewhere {
    /// Begins when the servers have been compared, at `now` (Unix seconds).
    pub(super) fn since(now: i64) -> Self {
        Self { asked: AtomicI64::new(now), turn: AtomicUsize::new(0) }
    }

    /// Returns the server to ask now, another one than `current` of `count`, if it is time for that.
    fn next(&self, current: usize, count: usize, now: i64) -> Option<usize> {
        let since = now.saturating_sub(self.asked.load(Ordering::Relaxed));
        // A clock that was set back must not put it off.
        if count < 2 || (0..INTERVAL).contains(&since) {
            return None;
        }
        self.asked.store(now, Ordering::Relaxed);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % (count - 1);
        Some((current + 1 + turn) % count)
    }
}

impl Repository {
    /// Returns the letters of another server than `current` if it has a newer revision than the
    /// present letters, and asks it first from now on. Its failures mean nothing.
    pub(super) async fn newer_elsewhere(
        &self,
        current: usize,
        judge: Judge<'_>,
        letters: &Letters,
        memory: &RevisionMemory,
    ) -> Option<Letters> {
        let hosts = self.fetcher.downloader().hosts();
        let other = self.others.next(current, hosts.len(), judge.now)?;
        let asked = async {
            let bytes = fetch_manifest(&self.fetcher, other).await?;
            if bytes == letters.manifest_bytes {
                return Ok(None);
            }
            let (fetcher, known) = (&self.fetcher, Some(letters));
            let found = Letters::fetch(judge, fetcher, other, known, Some(bytes), None).await?;
            memory.check(&found, known, judge)?;
            let is_newer = found.manifest.revision > letters.manifest.revision;
            Ok::<_, ServerError>(is_newer.then_some(found))
        };
        match asked.await {
            Ok(Some(found)) => {
                tracing::warn!(
                    fqrn = %judge.fqrn,
                    behind = hosts.get(current),
                    server = hosts.get(other),
                    revision = found.manifest.revision,
                    "the server in use is behind, using another one"
                );
                self.fetcher.downloader().prefer_host(other);
                Some(found)
            }
            Ok(None) => None,
            Err(error) => {
                tracing::debug!(server = hosts.get(other), error = %chain(&error), "another server has nothing newer");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m3_each_other_server_has_its_turn_four_times_an_hour_at_most() {
        let others = Elsewhere::since(1000);
        assert_eq!(others.next(0, 3, 1000 + INTERVAL - 1), None);
        let asked: Vec<_> = (0..4 * 3600)
            .filter_map(|second| others.next(1, 3, 1000 + INTERVAL + second))
            .collect();
        assert_eq!(asked.len(), 16);
        assert_eq!(asked[..4], [2, 0, 2, 0]);
        assert_eq!(others.next(0, 1, i64::MAX), None);
        // The clock was set back.
        assert!(others.next(0, 2, 0).is_some());
    }
}
