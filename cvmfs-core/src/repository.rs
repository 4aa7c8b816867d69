//! A repository: the way from its servers and master keys to a verified [`Revision`].
//!
//! Bootstrap, for one server after the other until one passes: manifest and whitelist (fetched at
//! once), whitelist against the master keys, certificate, manifest against certificate and
//! whitelist. No field of the manifest is used, and nothing is stored, before all of that was
//! right. Then the root catalog, by its hash, from any server.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::cache::ObjectCache;
use crate::catalog::MAX_CATALOG_SIZE;
use crate::catalog::symlink::SymlinkVariables;
use crate::chain::chain;
use crate::clock::Clock;
use crate::decode::SizeBound;
use crate::fetch::{FetchError, FetchOptions, Fetcher};
use crate::format::blocklist::Blocklist;
use crate::format::certificate::{Certificate, MAX_CERTIFICATE_LEN};
use crate::format::manifest::{MAX_MANIFEST_LEN, Manifest};
use crate::format::whitelist::{MAX_WHITELIST_LEN, Whitelist};
use crate::fqrn::Fqrn;
use crate::hash::ContentHash;
use crate::history::{History, HistoryError};
use crate::net::{
    DownloadError, Downloader, ProxySpec, Selection, SelectionOptions, Timeouts, Transport,
};
use crate::object::{ObjectId, ObjectKind};
use crate::revision::{Revision, RevisionError, RootCatalog};
use crate::trust::{
    MasterKeys, TrustError, Verified, unverified_alternative_paths, unverified_certificate_hash,
    verify_manifest, verify_whitelist,
};

/// Largest history database: a row of 200 bytes for each of a million tags.
const MAX_HISTORY_SIZE: u64 = 256 << 20;

/// Which revision is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// The newest.
    Latest,
    /// The one with this root catalog; the hash is trusted because the user gave it.
    RootHash(ContentHash),
    /// A named tag.
    Tag(String),
    /// The newest published at or before this time (Unix seconds).
    Date(i64),
}

/// Everything about a repository that its user decides.
#[derive(Debug, Clone)]
pub struct RepositoryConfig {
    /// Its name.
    pub fqrn: Fqrn,
    /// Base URLs of its servers, templates expanded.
    pub servers: Vec<String>,
    /// How to get there.
    pub proxy: ProxySpec,
    /// Who may sign its whitelist.
    pub keys: MasterKeys,
    /// What is not accepted whoever signed it.
    pub blocklist: Blocklist,
    /// Which revision.
    pub pin: Pin,
    /// Variables for link targets.
    pub symlink_variables: SymlinkVariables,
    /// Bounds of every network wait.
    pub timeouts: Timeouts,
    /// Failover, retries, load balancing.
    pub selection: SelectionOptions,
    /// A read waits for the network for as long as its caller does, instead of failing.
    pub wait_for_network: bool,
    /// Oldest revision that is accepted as the newest.
    pub min_revision: u64,
}

/// Why one server's letters were refused.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The manifest did not arrive.
    #[error("failed to download the manifest")]
    Manifest(#[source] DownloadError),
    /// The whitelist did not arrive.
    #[error("failed to download the whitelist")]
    Whitelist(#[source] DownloadError),
    /// The certificate did not arrive.
    #[error("failed to download the certificate")]
    Certificate(#[source] Arc<FetchError>),
    /// A check of the chain of trust failed.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

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

/// An open repository and its current revision.
pub struct Repository {
    fqrn: Fqrn,
    fetcher: Arc<Fetcher>,
    current: ArcSwap<Revision>,
    manifest: Option<Verified<Manifest>>,
}

impl Repository {
    /// Contacts the servers, checks everything, and opens the revision that is asked for.
    ///
    /// Must run inside a tokio runtime. Bounded in time by the timeouts and the number of servers.
    pub async fn open(
        config: RepositoryConfig,
        transport: Arc<dyn Transport>,
        cache: Arc<dyn ObjectCache>,
        clock: &dyn Clock,
    ) -> Result<Self, RepositoryError> {
        let fqrn = config.fqrn.clone();
        if config.servers.is_empty() {
            return Err(RepositoryError::NoServer(fqrn));
        }
        let selection = Selection::new(config.servers.clone(), &config.proxy, config.selection);
        let downloader = Downloader::new(transport, selection, config.timeouts);
        let fetcher = Arc::new(Fetcher::new(cache, downloader, config.wait_for_network));
        let manifest = match config.pin {
            Pin::RootHash(_) => None,
            _ => Some(verified_manifest(&config, &fetcher, clock).await?),
        };
        let root = root_catalog(&config, &fetcher, manifest.as_ref()).await?;
        let revision = Revision::open(
            fqrn.clone(),
            Arc::clone(&fetcher),
            &root,
            config.symlink_variables.clone(),
        )
        .await
        .map_err(|source| RepositoryError::RootCatalog { fqrn: fqrn.clone(), source })?;
        let number = revision.number();
        if let Some(first_good) = config.blocklist.blocks_revision(&fqrn, number) {
            return Err(RepositoryError::Blocked { fqrn, revision: number, first_good });
        }
        if let Some(membership) = revision.properties().membership.clone() {
            return Err(RepositoryError::Membership { fqrn, membership });
        }
        Ok(Self { fqrn, fetcher, current: ArcSwap::from_pointee(revision), manifest })
    }

    /// Returns the name.
    pub fn fqrn(&self) -> &Fqrn {
        &self.fqrn
    }

    /// Returns the current revision. An operation takes it once and uses only that.
    pub fn current(&self) -> Arc<Revision> {
        self.current.load_full()
    }

    /// Returns the fetcher for objects of the repository.
    pub fn fetcher(&self) -> &Arc<Fetcher> {
        &self.fetcher
    }

    /// Returns the cache behind the fetcher.
    pub fn cache(&self) -> &Arc<dyn ObjectCache> {
        self.fetcher.cache()
    }

    /// Returns the manifest, unless the revision was given by its root hash.
    pub fn manifest(&self) -> Option<&Verified<Manifest>> {
        self.manifest.as_ref()
    }

    /// Returns the base URL of the server in use.
    pub fn server(&self) -> String {
        let current = |selection: &mut Selection| {
            selection.hosts().get(selection.current_host()).cloned().unwrap_or_default()
        };
        self.fetcher.downloader().selection(current)
    }
}

/// Goes from server to server until one has letters that pass every check.
async fn verified_manifest(
    config: &RepositoryConfig,
    fetcher: &Fetcher,
    clock: &dyn Clock,
) -> Result<Verified<Manifest>, RepositoryError> {
    let hosts = fetcher.downloader().hosts();
    let mut servers = Vec::new();
    for (index, host) in hosts.into_iter().enumerate() {
        match letters_of(config, fetcher, clock, index).await {
            Ok(manifest) => {
                fetcher.downloader().prefer_host(index);
                return Ok(manifest);
            }
            Err(ServerError::Trust(TrustError::RevisionBlocked { fqrn, revision, first_good })) => {
                return Err(RepositoryError::Blocked { fqrn, revision, first_good });
            }
            Err(error) => {
                tracing::warn!(server = %host, error = %chain(&error), "server refused");
                servers.push((host, error));
            }
        }
    }
    Err(RepositoryError::NoManifest { fqrn: config.fqrn.clone(), servers })
}

async fn letters_of(
    config: &RepositoryConfig,
    fetcher: &Fetcher,
    clock: &dyn Clock,
    host: usize,
) -> Result<Verified<Manifest>, ServerError> {
    let downloader = fetcher.downloader();
    let (manifest, whitelist) = tokio::join!(
        downloader.fetch_letter(".cvmfspublished", MAX_MANIFEST_LEN as u64, host),
        downloader.fetch_letter(".cvmfswhitelist", MAX_WHITELIST_LEN as u64, host),
    );
    let manifest = manifest.map_err(ServerError::Manifest)?;
    let whitelist = whitelist.map_err(ServerError::Whitelist)?;
    let whitelist = verify_whitelist(&whitelist, &config.keys, &config.fqrn, clock.unix_seconds())?;
    let id = ObjectId::zlib(unverified_certificate_hash(&manifest)?, ObjectKind::Certificate);
    let cached = fetcher.cache().open(&id).ok().flatten();
    if let Some(object) = cached {
        let pem = object.read_all(MAX_CERTIFICATE_LEN as u64).unwrap_or_default();
        match check(config, &manifest, &pem, &whitelist) {
            Ok(manifest) => return Ok(manifest),
            // The cached file may be at fault: decide on a fresh one.
            Err(TrustError::Certificate(_) | TrustError::CertificateNotListed { .. }) => {
                fetcher.discard(&id);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let options = FetchOptions {
        bound: SizeBound::AtMost(MAX_CERTIFICATE_LEN as u64),
        label: "certificate".to_owned(),
        server_path: unverified_alternative_paths(&manifest)?.then(|| id.alternative_path()),
        only_host: None,
    };
    let (pem, proof) = fetcher
        .fetch_unstored(&id, &options)
        .await
        .map_err(|error| ServerError::Certificate(Arc::new(error)))?;
    let verified = check(config, &manifest, &pem, &whitelist)?;
    fetcher.store(&pem, proof, &options.label);
    Ok(verified)
}

fn check(
    config: &RepositoryConfig,
    manifest: &[u8],
    pem: &[u8],
    whitelist: &Verified<Whitelist>,
) -> Result<Verified<Manifest>, TrustError> {
    let certificate = Certificate::parse(pem)?;
    verify_manifest(manifest, &certificate, whitelist, &config.blocklist, &config.fqrn)
}

async fn root_catalog(
    config: &RepositoryConfig,
    fetcher: &Fetcher,
    manifest: Option<&Verified<Manifest>>,
) -> Result<RootCatalog, RepositoryError> {
    let fqrn = || config.fqrn.clone();
    let alternative_path = manifest.is_some_and(|manifest| manifest.alternative_paths);
    let tagged = match (&config.pin, manifest) {
        (Pin::RootHash(hash), _) => {
            return Ok(RootCatalog { hash: *hash, size: None, alternative_path: false });
        }
        (_, None) => return Err(RepositoryError::NoHistory(fqrn())),
        (Pin::Latest, Some(manifest)) => {
            let size = manifest.root_catalog_size.filter(|size| *size <= MAX_CATALOG_SIZE);
            return Ok(RootCatalog { hash: manifest.root_catalog, size, alternative_path });
        }
        (Pin::Tag(name), Some(manifest)) => {
            let history = history(config, fetcher, manifest).await?;
            history
                .by_name(name)
                .map_err(|source| RepositoryError::History { fqrn: fqrn(), source })?
                .ok_or_else(|| RepositoryError::NoSuchTag { fqrn: fqrn(), tag: name.clone() })?
        }
        (Pin::Date(date), Some(manifest)) => {
            let history = history(config, fetcher, manifest).await?;
            history
                .by_date(*date)
                .map_err(|source| RepositoryError::History { fqrn: fqrn(), source })?
                .ok_or_else(|| RepositoryError::NoSuchDate { fqrn: fqrn() })?
        }
    };
    Ok(RootCatalog { hash: tagged.root_catalog, size: tagged.size, alternative_path: false })
}

async fn history(
    config: &RepositoryConfig,
    fetcher: &Fetcher,
    manifest: &Verified<Manifest>,
) -> Result<History, RepositoryError> {
    let fqrn = config.fqrn.clone();
    let Some(hash) = manifest.history else { return Err(RepositoryError::NoHistory(fqrn)) };
    let id = ObjectId::zlib(hash, ObjectKind::History);
    let object = fetcher
        .open(&id, SizeBound::AtMost(MAX_HISTORY_SIZE), "history of tags")
        .await
        .map_err(|source| RepositoryError::HistoryFetch { fqrn: fqrn.clone(), source })?;
    History::open(&object, &fqrn).map_err(|source| {
        fetcher.discard(&id);
        RepositoryError::History { fqrn, source }
    })
}
