//! Asking one server for its letters without opening the repository: for people who look for what
//! is wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{RepositoryConfig, ServerError, judge};
use crate::cache::MemoryCache;
use crate::clock::Clock;
use crate::fetch::Fetcher;
use crate::letters::{Letters, SeenWhitelists};
use crate::net::{Downloader, Selection, Transport};

/// What one server said.
#[derive(Debug)]
pub struct Inspection {
    /// The verified letters, or which step failed.
    pub outcome: Result<VerifiedLetters, ServerError>,
    /// How long manifest, whitelist and certificate took together.
    pub took: Duration,
    /// Difference of the server's clock to ours in seconds, positive when theirs is ahead; 0 if it
    /// told none.
    pub clock_skew: i64,
}

/// What verified letters say, as far as people want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedLetters {
    /// Number of the revision.
    pub revision: u64,
    /// Time of publication in Unix seconds; 0 if the manifest does not say.
    pub published: u64,
    /// When the whitelist expires, in Unix seconds.
    pub whitelist_expires: i64,
}

/// Fetches and checks the letters of one server, by the ways of the configuration.
///
/// Nothing is stored or remembered. Must run inside a tokio runtime.
pub async fn inspect(
    config: &RepositoryConfig,
    transport: Arc<dyn Transport>,
    server: &str,
    clock: &dyn Clock,
) -> Inspection {
    let selection = Selection::new(vec![server.to_owned()], &config.proxy, config.selection);
    let downloader =
        Downloader::new(transport, selection, config.timeouts).resolving(config.names.clone());
    let fetcher = Fetcher::new(Arc::new(MemoryCache::default()), downloader, false);
    let start = Instant::now();
    let seen = SeenWhitelists::default();
    let judge = judge(config, &config.blocklist, clock.unix_seconds(), &seen);
    let outcome = Letters::fetch(judge, &fetcher, 0, None, None, None).await;
    Inspection {
        outcome: outcome.map(|letters| VerifiedLetters {
            revision: letters.manifest.revision,
            published: letters.manifest.published,
            whitelist_expires: letters.whitelist.expires,
        }),
        took: start.elapsed(),
        clock_skew: fetcher.downloader().clock_skew(),
    }
}
