//! From settings to an open repository, and from each failure to its exit code and advice.

use std::sync::Arc;
use std::time::Duration;

use cvmfs_core::cache::{MemoryCache, ObjectCache};
use cvmfs_core::clock::SystemClock;
use cvmfs_core::descriptors::{DescriptorBudget, MIN_LIMIT};
use cvmfs_core::hash::ContentHash;
use cvmfs_core::net::AttemptError;
use cvmfs_core::net::proxy::ProxySpecError;
use cvmfs_core::net::{Discovery, HttpTransport, Names, Proxy, ProxySpec, TransportOptions};
use cvmfs_core::repository::{
    ExternalServers, Repository, RepositoryConfig, RepositoryError, ServerError,
};
use cvmfs_core::trust::TrustError;
use nix::sys::resource::{Resource, getrlimit};

use super::settings::RepositorySettings;
use cvmfs_core::chain::chain;

use crate::cli::exit::{ExitStatus, Failure};

/// How long a mount waits for its servers when the revision accepted last is cached: long enough
/// that a network that works gives the newest one, and short for whoever waits.
const GRACE: Duration = Duration::from_millis(500);

/// What the repositories of one process have in common.
#[derive(Clone)]
pub struct Resources {
    /// Where objects are kept.
    pub cache: Arc<dyn ObjectCache>,
    names: Names,
    transport: Arc<HttpTransport>,
    /// The share of each.
    descriptors: DescriptorBudget,
    /// How long servers are waited for when the revision accepted last is cached.
    grace: Option<Duration>,
}

/// Why a repository was not opened.
#[derive(Debug)]
pub struct OpenFailure {
    /// Every server answered that there is no such repository.
    pub is_unknown: bool,
    /// For people.
    pub failure: Failure,
}

impl From<Failure> for OpenFailure {
    fn from(failure: Failure) -> Self {
        Self { is_unknown: false, failure }
    }
}

/// The ways to servers.
pub(super) struct Proxies {
    pub(super) spec: ProxySpec,
    /// As it was found just now.
    list: Option<String>,
}

impl RepositorySettings {
    /// Opens the repository with the cache directory of the settings. If the caller `follows`
    /// updates, it is the revision accepted last where servers are slow.
    ///
    /// Must run inside a tokio runtime. Bounded in time by the timeouts and the number of servers.
    pub async fn open(&self, follows: bool) -> Result<Arc<Repository>, Failure> {
        let mut resources = self.resources(self.cache.open()?, descriptor_budget(1));
        resources.grace = follows.then_some(GRACE);
        self.open_among(&resources, None).await.map_err(|OpenFailure { failure, .. }| failure)
    }

    /// Opens the revision that a dead server showed, without waiting for the network.
    pub async fn resume(&self, root: ContentHash) -> Result<Arc<Repository>, Failure> {
        let cache = self.cache.open()?;
        self.open_revision(cache, 1, Some(root)).await
    }

    /// Like [`RepositorySettings::open`], but a cache directory that cannot be used only costs a
    /// warning: what is fetched is then kept in memory until the process ends.
    ///
    /// The process opens no more than `repositories` of them.
    pub async fn open_for_reading(&self, repositories: usize) -> Result<Arc<Repository>, Failure> {
        let cache = self.cache.open().unwrap_or_else(|failure| {
            tracing::warn!("{}; keeping objects in memory", failure.message);
            Arc::new(MemoryCache::default())
        });
        self.open_with(cache, repositories).await
    }

    /// Opens the repository with any cache, as one of `repositories`.
    pub async fn open_with(
        &self,
        cache: Arc<dyn ObjectCache>,
        repositories: usize,
    ) -> Result<Arc<Repository>, Failure> {
        self.open_revision(cache, repositories, None).await
    }

    /// The same; `resumed` is the root catalog that a dead server showed.
    async fn open_revision(
        &self,
        cache: Arc<dyn ObjectCache>,
        repositories: usize,
        resumed: Option<ContentHash>,
    ) -> Result<Arc<Repository>, Failure> {
        let resources = self.resources(cache, descriptor_budget(repositories));
        self.open_among(&resources, resumed).await.map_err(|OpenFailure { failure, .. }| failure)
    }

    /// Makes what repositories with the same flags can have in common.
    pub fn resources(
        &self,
        cache: Arc<dyn ObjectCache>,
        descriptors: DescriptorBudget,
    ) -> Resources {
        let names = Names::new(self.parameters.names.clone());
        let transport = Arc::new(HttpTransport::new(TransportOptions {
            timeouts: self.parameters.longest_timeouts(),
            follow_redirects: self.parameters.follow_redirects,
            authorities: self.authorities.clone(),
            names: names.clone(),
            descriptors,
        }));
        Resources { cache, names, transport, descriptors, grace: None }
    }

    /// Opens the repository beside others. `resumed` is the root catalog that was shown before, and
    /// is shown again.
    pub async fn open_among(
        &self,
        resources: &Resources,
        resumed: Option<ContentHash>,
    ) -> Result<Arc<Repository>, OpenFailure> {
        let Resources { cache, names, transport, descriptors, grace } = resources;
        let mut config = self.to_config(names.clone(), *descriptors);
        config.grace = *grace;
        let mut found = Vec::new();
        let record = format!("{}.proxies", self.fqrn);
        let in_haste = resumed.is_some() && self.discovery.is_some();
        config.proxy = match known_proxies(&record, in_haste, &**cache) {
            Some(known) => known.with_fallback(self.parameters.fallback_proxy.as_ref()),
            None => {
                let proxies = self.find_proxies(&config, transport, &**cache).await?;
                found.extend(proxies.list.map(|list| (record, list)));
                proxies.spec
            }
        };
        if let Some(discovery) = &self.external_discovery {
            let record = format!("{}.proxies-external", self.fqrn);
            let servers = &self.external_servers;
            let spec = match known_proxies(&record, resumed.is_some(), &**cache) {
                Some(known) => known,
                None => {
                    let proxies =
                        discovered(discovery, &record, transport, &config, servers, &**cache)
                            .await?;
                    found.extend(proxies.list.map(|list| (record, list)));
                    proxies.spec
                }
            };
            let fallback = self.parameters.external_fallback_proxy.as_ref();
            config.external.proxy = spec.with_fallback(fallback);
        }
        let clock = Arc::new(SystemClock);
        let (to, kept) = (Arc::clone(transport), Arc::clone(cache));
        let repository = match resumed {
            Some(root) => Repository::resume(config, to, kept, clock, root).await,
            None => Repository::open(config, to, kept, clock).await,
        };
        let repository = repository.map_err(|error| OpenFailure {
            is_unknown: error.is_unknown_repository(),
            failure: failure_of(&error),
        })?;
        // Only now: a name that is no repository leaves nothing behind.
        for (record, list) in found {
            remember_proxies(&record, &list, &**cache);
        }
        Ok(Arc::new(repository))
    }

    /// Makes what talks to the servers; proxies that are to be found are still missing.
    pub(super) fn connect(&self, repositories: usize) -> (RepositoryConfig, Arc<HttpTransport>) {
        let nowhere = Arc::new(MemoryCache::default());
        let resources = self.resources(nowhere, descriptor_budget(repositories));
        (self.to_config(resources.names, resources.descriptors), resources.transport)
    }

    /// Finds the proxies to the servers if they are to be found; else returns the ones given.
    pub(super) async fn find_proxies(
        &self,
        config: &RepositoryConfig,
        transport: &HttpTransport,
        cache: &dyn ObjectCache,
    ) -> Result<Proxies, Failure> {
        let Some(discovery) = &self.discovery else {
            return Ok(Proxies { spec: config.proxy.clone(), list: None });
        };
        let record = format!("{}.proxies", self.fqrn);
        let found = discovered(discovery, &record, transport, config, &self.servers, cache).await?;
        let spec = found.spec.with_fallback(self.parameters.fallback_proxy.as_ref());
        Ok(Proxies { spec, ..found })
    }

    fn to_config(&self, names: Names, descriptors: DescriptorBudget) -> RepositoryConfig {
        RepositoryConfig {
            fqrn: self.fqrn.clone(),
            servers: self.servers.clone(),
            proxy: self.proxy.clone(),
            keys: self.keys.clone(),
            blocklist: self.blocklist.clone(),
            pin: self.pin.clone(),
            symlink_variables: self.symlink_variables.clone(),
            timeouts: self.parameters.timeouts,
            selection: self.parameters.selection,
            wait_for_network: self.parameters.wait_for_network,
            min_revision: self.min_revision,
            names,
            geo: self.parameters.geo(),
            max_servers: self.parameters.max_servers,
            external: ExternalServers {
                servers: self.external_servers.clone(),
                proxy: self.external_proxy.clone(),
                timeouts: self.parameters.external_timeouts(),
                max_servers: self.parameters.external_max_servers,
            },
            descriptors,
            fetch_ahead: self.parameters.fetch_ahead.unwrap_or(true),
            ahead_bandwidth: self.parameters.ahead_bandwidth,
            grace: None,
            offline_limit: self.parameters.offline_limit.0,
        }
    }
}

fn limit_of_descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(DescriptorBudget::USUAL_LIMIT, |(soft, _)| soft)
}

/// Divides the limit of this process among as many repositories as make sense, but at most `most`,
/// which have their connections in common; returns how many, and the share of each.
pub fn descriptor_budgets(most: usize) -> (usize, DescriptorBudget) {
    let limit = limit_of_descriptors();
    let fitting = usize::try_from(limit / MIN_LIMIT).unwrap_or(usize::MAX);
    let repositories = fitting.clamp(1, most);
    let count = u64::try_from(repositories).unwrap_or(u64::MAX);
    (repositories, DescriptorBudget::of_each(limit, count))
}

/// Divides the limit of this process; the daemon has raised it before.
fn descriptor_budget(repositories: usize) -> DescriptorBudget {
    let limit = limit_of_descriptors();
    let repositories = u64::try_from(repositories.max(1)).unwrap_or(u64::MAX);
    DescriptorBudget::of_limit(limit / repositories)
}

/// Returns the proxies found last, for a successor: it must not wait for a script.
fn known_proxies(record: &str, wanted: bool, cache: &dyn ObjectCache) -> Option<ProxySpec> {
    let bytes = wanted.then(|| cache.load_record(record).ok().flatten()).flatten()?;
    std::str::from_utf8(&bytes).ok()?.parse().ok()
}

/// Finds the proxies to `servers`; the ones found last time are used if that fails.
async fn discovered(
    discovery: &Discovery,
    record: &str,
    transport: &HttpTransport,
    config: &RepositoryConfig,
    servers: &[String],
    cache: &dyn ObjectCache,
) -> Result<Proxies, Failure> {
    let (list, is_new) = match discovery.find(transport, &config.names, servers).await {
        Ok(list) => (list, true),
        Err(error) => {
            let known = cache.load_record(record).ok().flatten();
            let known = known.and_then(|bytes| String::from_utf8(bytes).ok());
            let usable = known.filter(|list| list.parse::<ProxySpec>().is_ok());
            let reason = chain(&error);
            let Some(list) = usable else {
                let message = format!("no proxy found: {reason}");
                return Err(Failure::new(ExitStatus::Proxy, message).advise(
                    "give --set CVMFS_PAC_URLS=URL, the variable http_proxy, or --proxy \
                     HOST:PORT instead of auto",
                ));
            };
            tracing::warn!(reason, "proxy discovery failed; using the proxies found before");
            (list, false)
        }
    };
    let unusable = |error| Failure::caused(ExitStatus::Proxy, "proxies found", &error);
    let spec: ProxySpec = list.parse().map_err(|error: ProxySpecError| unusable(error))?;
    // Without passwords.
    let shown: Vec<_> = spec.groups().iter().flatten().map(Proxy::display).collect();
    tracing::info!(proxies = ?shown, "proxies found");
    Ok(Proxies { spec, list: is_new.then_some(list) })
}

/// Keeps the proxies found, for a time when none can be found.
fn remember_proxies(record: &str, list: &str, cache: &dyn ObjectCache) {
    let bytes = list.as_bytes();
    let keep = &mut |old: Option<Vec<u8>>| (old.as_deref() != Some(bytes)).then(|| bytes.to_vec());
    if let Err(error) = cache.update_record(record, keep) {
        tracing::warn!(error = %chain(&error), "cannot record the proxies found");
    }
}

/// Explains why a repository cannot be opened: which check failed, at which server, what to do.
fn failure_of(error: &RepositoryError) -> Failure {
    let (status, advice) = match error {
        RepositoryError::NoServer(_) => (ExitStatus::Options, "give --server URL"),
        RepositoryError::NoManifest { fqrn, servers } => {
            let reasons: Vec<_> = servers
                .iter()
                .map(|(server, error)| format!("{server}: {}", chain(error)))
                .collect();
            let message = format!("cannot open {fqrn}: {}", reasons.join("; "));
            return Failure::new(ExitStatus::Catalog, message)
                .advise(advice_about(servers.iter().map(|(_, error)| error)));
        }
        RepositoryError::Slow { .. } | RepositoryError::Late { .. } => {
            (ExitStatus::Catalog, "try again, or another --server")
        }
        RepositoryError::Offline { .. } => (
            ExitStatus::Catalog,
            "connect the machine to a server, or raise --set CVMFS_FUSE_OFFLINE_LIMIT=DAYS",
        ),
        RepositoryError::Blocked { .. } => (
            ExitStatus::RevisionBlocked,
            "wait for a newer revision, or ask who keeps /etc/cvmfs/blacklist",
        ),
        RepositoryError::RootCatalog { .. } => {
            (ExitStatus::Catalog, "check --root-hash if given, or try another --server")
        }
        RepositoryError::NoHistory(_) => {
            (ExitStatus::History, "only --root-hash can choose a snapshot here")
        }
        RepositoryError::HistoryFetch { .. } | RepositoryError::History { .. } => {
            (ExitStatus::History, "try another --server, or --root-hash instead of a tag or date")
        }
        RepositoryError::NoSuchTag { .. } => (ExitStatus::History, "check the name given to --tag"),
        RepositoryError::NotPublished { .. } => {
            (ExitStatus::Catalog, "name a root catalog of its history of tags")
        }
        RepositoryError::NoSuchDate { .. } => (ExitStatus::History, "give a later --date"),
        RepositoryError::Membership { .. } => {
            (ExitStatus::Catalog, "only public repositories can be read")
        }
    };
    Failure::new(status, chain(error)).advise(advice)
}

/// Network trouble and failed checks call for different things.
pub fn advice_about<'a>(errors: impl IntoIterator<Item = &'a ServerError>) -> &'static str {
    let errors: Vec<_> = errors.into_iter().collect();
    if errors.iter().any(|error| lacks_authorities(error)) {
        return "install the package ca-certificates, or give --set X509_CERT_BUNDLE=FILE, or use \
                http:// servers: what they send is verified as well";
    }
    let checks = errors.into_iter().find_map(|error| match error {
        ServerError::Trust(error) => Some(error),
        _ => None,
    });
    match checks {
        None => "check the name, the network, --server and --proxy",
        Some(TrustError::WhitelistSignature { .. }) => {
            "check that --public-key is the key of this repository"
        }
        Some(TrustError::WhitelistName { .. } | TrustError::ManifestName { .. }) => {
            "check the name of the repository and --server"
        }
        Some(TrustError::WhitelistExpired { .. }) => {
            "check the clock of this machine, then tell the owner of the repository"
        }
        Some(_) => "try another --server, and tell the owner of the repository",
    }
}

fn lacks_authorities(error: &ServerError) -> bool {
    let (ServerError::Manifest(error) | ServerError::Whitelist(error)) = error else {
        return false;
    };
    error.attempts.iter().any(|attempt| matches!(attempt.error, AttemptError::NoAuthorities))
}

#[cfg(test)]
mod tests {
    use cvmfs_core::net::{Attempt, DownloadError};

    use super::*;

    fn refused() -> ServerError {
        ServerError::Manifest(DownloadError {
            attempts: vec![Attempt {
                url: "http://a/.cvmfspublished".to_owned(),
                proxy: None,
                error: AttemptError::Connect("connection refused".to_owned()),
            }],
        })
    }

    fn no_manifest(servers: Vec<(&str, ServerError)>) -> RepositoryError {
        RepositoryError::NoManifest {
            fqrn: "x.example.org".parse().unwrap(),
            servers: servers.into_iter().map(|(url, error)| (url.to_owned(), error)).collect(),
        }
    }

    fn trust(error: TrustError) -> ServerError {
        ServerError::Trust(error)
    }

    #[test]
    fn each_failure_has_its_code_and_names_check_server_and_advice() {
        let fqrn = || "x.example.org".parse().unwrap();
        let signature = || trust(TrustError::WhitelistSignature { keys: "a.pub".to_owned() });
        let expired =
            trust(TrustError::WhitelistExpired { ended: "then".into(), now: "now".into() });
        for (error, code, parts) in [
            (
                no_manifest(vec![("http://a", refused())]),
                16,
                &["http://a: failed to download the manifest", "connection refused", "--proxy"][..],
            ),
            (
                no_manifest(vec![("http://a", refused()), ("http://b", signature())]),
                16,
                &["http://b: invalid whitelist signature", "a.pub", "check that --public-key"],
            ),
            (no_manifest(vec![("http://a", expired)]), 16, &["expired whitelist", "clock"]),
            (
                no_manifest(vec![("http://a", trust(TrustError::ManifestText))]),
                16,
                &["bad signature", "try another --server"],
            ),
            (
                RepositoryError::Blocked { fqrn: fqrn(), revision: 3, first_good: 9 },
                25,
                &["revision 3 of x.example.org"],
            ),
            (
                RepositoryError::NoSuchTag { fqrn: fqrn(), tag: "v0".to_owned() },
                22,
                &["no tag \"v0\"", "--tag"],
            ),
            (RepositoryError::NoSuchDate { fqrn: fqrn() }, 22, &["--date"]),
            (RepositoryError::NoHistory(fqrn()), 22, &["no history"]),
            (RepositoryError::NoServer(fqrn()), 2, &["--server"]),
        ] {
            let failure = failure_of(&error);
            assert_eq!(failure.status.code(), code, "{failure}");
            for part in parts {
                assert!(failure.message.contains(part), "{part:?} missing in {failure}");
            }
        }
    }
}
