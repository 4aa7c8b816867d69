//! Which of the servers has the newest letters.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::{RepositoryConfig, RepositoryError, ServerError};
use crate::chain::chain;
use crate::fetch::Fetcher;
use crate::letters::{Judge, Letters, RootAhead};
use crate::memory::RevisionMemory;
use crate::trust::TrustError;

/// Servers asked for their letters at a start that remembers the repository.
const COMPARED_SERVERS: usize = 2;
/// How long further servers may take once one has answered rightly.
const COMPARE_LIMIT: Duration = Duration::from_secs(1);

/// Asks servers for their letters, some at once, and returns the newest that pass every check.
pub(super) async fn newest_letters(
    config: &RepositoryConfig,
    fetcher: &Fetcher,
    judge: Judge<'_>,
    known: Option<&Letters>,
    memory: &RevisionMemory,
    root_ahead: Option<&RootAhead>,
) -> Result<Letters, RepositoryError> {
    let hosts = fetcher.downloader().hosts();
    let wanted = if known.is_some() { COMPARED_SERVERS.min(hosts.len()) } else { hosts.len() };
    let ask = |host: usize| async move {
        let outcome = Letters::fetch(judge, fetcher, host, known, None, root_ahead).await.and_then(
            |letters| {
                let (found, least) = (letters.manifest.revision, config.min_revision);
                if found < least {
                    return Err(TrustError::Rollback { found, known: least }.into());
                }
                memory.check(&letters, known, judge)?;
                Ok(letters)
            },
        );
        (host, outcome)
    };
    let mut waiting: FuturesUnordered<_> = (0..wanted).map(ask).collect();
    let mut next = wanted;
    let mut good: Vec<(usize, Letters)> = Vec::new();
    let mut refused = Vec::new();
    while !waiting.is_empty() {
        let answer = if good.is_empty() {
            waiting.next().await
        } else {
            // A good answer is here: the others may be newer, but not much slower.
            tokio::time::timeout(COMPARE_LIMIT, waiting.next()).await.unwrap_or(None)
        };
        match answer {
            None => break,
            Some((host, Ok(letters))) => good.push((host, letters)),
            Some((
                _,
                Err(ServerError::Trust(TrustError::RevisionBlocked { fqrn, revision, first_good })),
            )) => {
                return Err(RepositoryError::Blocked { fqrn, revision, first_good });
            }
            Some((host, Err(error))) => {
                tracing::info!(server = %hosts[host], error = %chain(&error), "server refused");
                refused.push((host, error));
                if good.is_empty() && next < hosts.len() {
                    waiting.push(ask(next));
                    next += 1;
                }
            }
        }
    }
    // The newest; of equal ones that of the first server.
    good.sort_by_key(|(host, letters)| (std::cmp::Reverse(letters.manifest.revision), *host));
    match good.into_iter().next() {
        Some((host, letters)) => {
            for (refused, error) in refused {
                tracing::warn!(server = %hosts[refused], error = %chain(&error), "server refused, using another one");
            }
            fetcher.downloader().prefer_host(host);
            Ok(letters)
        }
        None => {
            refused.sort_by_key(|(host, _)| *host);
            let servers =
                refused.into_iter().map(|(host, error)| (hosts[host].clone(), error)).collect();
            Err(RepositoryError::NoManifest { fqrn: config.fqrn.clone(), servers })
        }
    }
}
