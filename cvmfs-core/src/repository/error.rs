//! Why a repository cannot be opened or updated.

use std::sync::Arc;
use std::time::Duration;

use crate::chain::chain;
use crate::fetch::FetchError;
use crate::fqrn::Fqrn;
use crate::hash::ContentHash;
use crate::history::HistoryError;
use crate::letters::ServerError;
use crate::revision::RevisionError;
use crate::trust::show_time;

/// Why a repository cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// No server is configured.
    #[error("no server is configured for {0}")]
    NoServer(Fqrn),
    /// Every server failed; each with its own reason.
    #[error("no server gave an acceptable manifest of {fqrn}")]
    NoManifest {
        /// The repository.
        fqrn: Fqrn,
        /// Base URL and reason, in the order of asking.
        servers: Vec<(String, ServerError)>,
    },
    /// No server has answered in the time given to them.
    #[error("no server of {fqrn} has answered yet")]
    Slow {
        /// The repository.
        fqrn: Fqrn,
    },
    /// A look for a new revision that did not end.
    #[error("looking for a new revision of {fqrn} took too long")]
    Late {
        /// The repository.
        fqrn: Fqrn,
    },
    /// No server has given a good whitelist for so long that what is cached is not shown.
    #[error(
        "{fqrn} cannot be trusted any more: its whitelist expired at {}, and no server gave a newer \
         one within {} days (CVMFS_FUSE_OFFLINE_LIMIT): {reason}",
        show_time(*.expired),
        .limit.as_secs() / 86_400
    )]
    Offline {
        /// The repository.
        fqrn: Fqrn,
        /// When the whitelist expired, Unix seconds.
        expired: i64,
        /// How long after that it may be shown.
        limit: Duration,
        /// What the servers said.
        reason: String,
    },
    /// The revision is on the blocklist.
    #[error(
        "revision {revision} of {fqrn} is blocked: the blocklist allows {first_good} and newer"
    )]
    Blocked {
        /// The repository.
        fqrn: Fqrn,
        /// What the root catalog or manifest says.
        revision: u64,
        /// From the blocklist.
        first_good: u64,
    },
    /// The root catalog cannot be had or used.
    #[error("root catalog of {fqrn} cannot be used")]
    RootCatalog {
        /// The repository.
        fqrn: Fqrn,
        /// The cause.
        source: RevisionError,
    },
    /// A tag or date was asked for and the repository keeps no history.
    #[error("{0} has no history of tags")]
    NoHistory(Fqrn),
    /// The history database cannot be fetched.
    #[error("the history of {fqrn} cannot be fetched")]
    HistoryFetch {
        /// The repository.
        fqrn: Fqrn,
        /// The cause.
        source: Arc<FetchError>,
    },
    /// The history database cannot be read.
    #[error("the history of {fqrn} cannot be read")]
    History {
        /// The repository.
        fqrn: Fqrn,
        /// The cause.
        source: HistoryError,
    },
    /// A root catalog was named that is not known to be of this repository.
    #[error(
        "{root} is no root catalog that {fqrn} has published: neither that of the manifest, nor the one before, \
         nor one with a tag"
    )]
    NotPublished {
        /// The repository.
        fqrn: Fqrn,
        /// The root catalog.
        root: ContentHash,
    },
    /// No such tag.
    #[error("{fqrn} has no tag {tag:?}")]
    NoSuchTag {
        /// The repository.
        fqrn: Fqrn,
        /// The tag.
        tag: String,
    },
    /// The repository is younger.
    #[error("{fqrn} has no tagged revision at or before the date asked for")]
    NoSuchDate {
        /// The repository.
        fqrn: Fqrn,
    },
    /// Reading needs a membership that we cannot prove yet.
    #[error("{fqrn} is restricted to members ({membership}), which is not supported yet")]
    Membership {
        /// The repository.
        fqrn: Fqrn,
        /// What the root catalog asks for.
        membership: String,
    },
}

impl RepositoryError {
    /// Tells whether every server answered, and none has such a repository. Anything else, such as
    /// one server that is silent, may hide that there is one.
    pub fn is_unknown_repository(&self) -> bool {
        let Self::NoManifest { servers, .. } = self else { return false };
        let has_none = |error: &ServerError| matches!(error, ServerError::Manifest(error) if error.is_absence());
        !servers.is_empty() && servers.iter().all(|(_, error)| has_none(error))
    }

    /// Returns the error with its causes on one line, each server with its own reason.
    pub fn summary(&self) -> String {
        match self {
            Self::NoManifest { servers, .. } => {
                let reason =
                    |(server, error): &(String, ServerError)| format!("{server}: {}", chain(error));
                servers.iter().map(reason).collect::<Vec<_>>().join("; ")
            }
            other => chain(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Attempt, AttemptError, DownloadError};

    fn status(code: u16, by_proxy: bool) -> AttemptError {
        AttemptError::Status { code, by_proxy, retry_after: None }
    }

    #[test]
    fn only_what_all_servers_say_is_absence() {
        let manifest = |errors: Vec<AttemptError>| {
            let attempt = |error| Attempt { url: "u".to_owned(), proxy: None, error };
            ServerError::Manifest(DownloadError {
                attempts: errors.into_iter().map(attempt).collect(),
            })
        };
        let silent = || AttemptError::Connect("refused".to_owned());
        let absent = || manifest(vec![status(404, false)]);
        for (servers, expected) in [
            (vec![], false),
            (vec![absent()], true),
            (vec![absent(), absent()], true),
            // One proxy was down, the next one led to the server.
            (vec![manifest(vec![silent(), status(404, false)])], true),
            (vec![absent(), manifest(vec![silent()])], false),
            (vec![manifest(vec![status(404, false), silent()])], false),
            (vec![manifest(vec![status(404, true)])], false),
            (vec![manifest(vec![status(403, false)])], false),
            (vec![manifest(vec![])], false),
        ] {
            let described = format!("{servers:?}");
            let servers = servers.into_iter().map(|error| ("http://a".to_owned(), error));
            let fqrn = "x.test.repo".parse().unwrap();
            let error = RepositoryError::NoManifest { fqrn, servers: servers.collect() };
            assert_eq!(error.is_unknown_repository(), expected, "{described}");
        }
    }
}
