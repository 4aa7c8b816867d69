//! What `status` shows of a repository.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::desk::{Desk, Served};
use crate::fs::RepoFs;

/// The state of one repository of a live mount.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RepositoryStatus {
    /// Its name.
    pub repository: String,
    /// Where it is seen, as the server has it.
    pub mountpoint: PathBuf,
    /// `MAJOR:MINOR` of the mount.
    pub device: Option<String>,
    /// Where cache, log and control socket are.
    pub workspace: PathBuf,
    /// The process that serves.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// For how long it has served, in seconds.
    pub uptime: u64,
    /// The revision that is shown.
    pub revision: u64,
    /// Its root catalog.
    pub root_hash: String,
    /// When it was published: seconds since 1970.
    pub published: Option<u64>,
    /// Seconds after which the repository is to be looked at again.
    pub ttl: u64,
    /// Since when it may not be the newest: seconds since 1970.
    pub stale_since: Option<i64>,
    /// Why.
    pub stale_reason: Option<String>,
    /// Server in use.
    pub server: String,
    /// Proxy in use, without password.
    pub proxy: Option<String>,
    /// No server could be reached last.
    pub offline: bool,
    /// Requests for objects that the cache answered.
    pub hits: u64,
    /// Those that were downloaded.
    pub downloads: u64,
    /// Percent of them that the cache answered; `None` before the first.
    pub hit_rate: Option<f64>,
    /// Bytes received.
    pub received: u64,
    /// Requests to servers.
    pub requests: u64,
    /// Those that failed.
    pub failed_requests: u64,
    /// Bytes in the cache.
    pub cache_used: u64,
    /// How much may be there.
    pub cache_limit: u64,
    /// Times the cache failed.
    pub cache_failures: u64,
    /// Objects found damaged.
    pub cache_damaged: u64,
    /// Catalogs that are open.
    pub catalogs: usize,
    /// Inodes that the kernel knows.
    pub inodes: usize,
    /// Calls that failed lately, and are remembered.
    pub errors: u64,
    /// When the last of them failed.
    pub last_error: Option<i64>,
    /// What is being fetched.
    pub fetching: Vec<Fetching>,
}

/// One download that is under way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fetching {
    /// What it is.
    pub label: String,
    /// For how long, in milliseconds.
    pub since: u64,
    /// How many wait for it.
    pub waiting: usize,
}

/// Downloads that a report names.
const MAX_FETCHING: usize = 64;

impl RepositoryStatus {
    /// Looks at a repository; waits for nobody.
    pub(super) fn of(desk: &Desk, served: &Served, fs: &Arc<RepoFs>) -> Self {
        let repository = fs.repository();
        let current = repository.current();
        let fetcher = repository.fetcher();
        let downloader = fetcher.downloader();
        let (objects, network) = (fetcher.statistics(), downloader.statistics());
        let health = repository.cache().health();
        let usage = repository.cache().usage();
        let stale = repository.stale();
        let hits = objects.hits.load(Ordering::Relaxed);
        let downloads = objects.downloads.load(Ordering::Relaxed);
        let fqrn = repository.fqrn().to_string();
        let mountpoint = match desk.has_several {
            true => desk.mountpoint.join(&fqrn),
            false => desk.mountpoint.clone(),
        };
        let failures: Vec<_> = desk
            .activity
            .recent
            .all()
            .into_iter()
            .filter(|failure| match &failure.repository {
                Some(name) => *name == fqrn,
                // Of the mount: below an automount that is no repository's.
                None => !desk.has_several,
            })
            .collect();
        Self {
            mountpoint,
            device: desk.device.clone(),
            workspace: served.settings.cache.directory.clone(),
            pid: std::process::id(),
            version: crate::VERSION.to_owned(),
            uptime: desk.begun.elapsed().as_secs(),
            revision: current.number(),
            root_hash: current.root_hash().to_string(),
            published: repository.manifest().map(|manifest| manifest.published),
            ttl: current.properties().ttl,
            stale_since: stale.as_ref().map(|stale| stale.since),
            stale_reason: stale.as_ref().map(|stale| stale.reason.clone()),
            server: repository.server(),
            proxy: downloader.selection(|s| s.current_proxy()).map(|proxy| proxy.display()),
            offline: downloader.is_failing(),
            hits,
            downloads,
            hit_rate: hit_rate(hits, downloads),
            received: network.bytes.load(Ordering::Relaxed),
            requests: network.requests.load(Ordering::Relaxed),
            failed_requests: network.failures.load(Ordering::Relaxed),
            cache_used: usage.used,
            cache_limit: usage.limit,
            cache_failures: objects
                .cache_failures
                .load(Ordering::Relaxed)
                .saturating_add(health.failures),
            cache_damaged: health.damaged,
            catalogs: current.statistics().loaded_catalogs,
            inodes: fs.known_inodes(),
            errors: failures.iter().map(|failure| failure.count).sum(),
            last_error: failures.iter().map(|failure| failure.last).max(),
            fetching: fetcher
                .under_way()
                .into_iter()
                .take(MAX_FETCHING)
                .map(|one| Fetching {
                    label: one.label.to_string(),
                    since: u64::try_from(one.since.as_millis()).unwrap_or(u64::MAX),
                    waiting: one.waiting,
                })
                .collect(),
            repository: fqrn,
        }
    }
}

fn hit_rate(hits: u64, downloads: u64) -> Option<f64> {
    let all = hits.saturating_add(downloads);
    #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
    let percent = |all: u64| 100.0 * hits as f64 / all as f64;
    (all > 0).then(|| percent(all))
}
