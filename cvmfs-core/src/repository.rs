//! A repository: the way from its servers and master keys to a verified [`Revision`], and from one
//! revision to the next.
//!
//! Start: the first two servers are asked at once (all, if nothing is remembered of the
//! repository), and the newest manifest that passes every check wins. Before that nothing is
//! stored, and no field of a manifest is used but to fetch the certificate and the root catalog
//! that it claims, into memory. If no server has one, or only an older one, the
//! revision that was accepted last is shown, as far as the cache has it.
//!
//! Update: [`Repository::check`] finds and prepares a newer revision, [`Repository::commit`]
//! makes it the current one.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

use crate::cache::ObjectCache;
use crate::catalog::symlink::SymlinkVariables;
use crate::chain::chain;
use crate::clock::Clock;
use crate::descriptors::DescriptorBudget;
use crate::fetch::Fetcher;
use crate::format::blocklist::Blocklist;
use crate::fqrn::Fqrn;
use crate::hash::ContentHash;
use crate::letters::{Judge, Letters, RootAhead, SeenWhitelists, fetch_manifest};
use crate::memory::RevisionMemory;
use crate::net::{
    Downloader, GeoOptions, Names, ProxySpec, Selection, SelectionOptions, Timeouts, Transport,
};
use crate::object::{ObjectId, ObjectKind};
use crate::revision::{OpenCatalogs, Revision, RootCatalog};
use crate::trust::MasterKeys;

mod elsewhere;
mod error;
mod inspect;
mod newest;
mod offline;
mod root;
mod servers;
mod stale;
mod state;

pub use crate::letters::ServerError;
pub use error::RepositoryError;
pub use inspect::{Inspection, VerifiedLetters, inspect};
pub use offline::Withheld;
pub use servers::ExternalServers;
pub use stale::Stale;

use elsewhere::Elsewhere;
use newest::newest_letters;
use root::root_catalog;
use servers::{apply_order, find_order};
use stale::StaleState;

/// Longest look for a new revision, with all catalogs in use. Only a net below the time limits of downloads and of
/// questions to catalogs: whatever a revision makes of them together, the next one is looked for.
const LONGEST_LOOK: Duration = Duration::from_secs(15 * 60);
/// The whitelist is asked for at least this often, whatever else changes: it may revoke.
const WHITELIST_RECHECK: i64 = 24 * 3600;
/// A difference of clocks that is worth a word.
const CLOCK_SKEW: i64 = 3600;

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
    /// Who knows the addresses of proxies.
    pub names: Names,
    /// Order the servers by distance.
    pub geo: Option<GeoOptions>,
    /// Servers used, the nearest or first ones; 0: all.
    pub max_servers: usize,
    /// Who has the files that are not kept with the repository.
    pub external: ExternalServers,
    /// How many files and connections it may have open.
    pub descriptors: DescriptorBudget,
    /// Objects may be fetched before they are asked for.
    pub fetch_ahead: bool,
    /// Plain bytes of them in a second; `None` is no bound.
    pub ahead_bandwidth: Option<NonZeroU64>,
    /// How long servers may take at the start before the revision accepted last is shown, if it is
    /// cached and still trusted; `None` waits for them. Whoever sets it has to look for a newer
    /// one when [`Repository::take_unconfirmed`] says so.
    pub grace: Option<Duration>,
    /// How long after its whitelist has expired a repository is still shown while no server gives a
    /// newer one; `None` is no bound.
    pub offline_limit: Option<Duration>,
}

/// A newer revision, complete and checked, that is not shown yet.
#[derive(Debug)]
pub struct Update {
    revision: Arc<Revision>,
    /// `None`: somebody named its root catalog.
    letters: Option<Letters>,
}

impl Update {
    /// Returns the new revision.
    pub fn revision(&self) -> &Arc<Revision> {
        &self.revision
    }
}

/// What is known of the letters of the current revision.
#[derive(Debug, Clone, Default)]
struct Accepted {
    letters: Option<Letters>,
    memory: RevisionMemory,
    /// When a server last gave a good whitelist.
    whitelist_checked: i64,
}

/// An open repository and its current revision.
pub struct Repository {
    config: RepositoryConfig,
    fetcher: Arc<Fetcher>,
    catalogs: Arc<OpenCatalogs>,
    clock: Arc<dyn Clock>,
    current: ArcSwap<Revision>,
    accepted: Mutex<Accepted>,
    stale: StaleState,
    withheld: ArcSwapOption<Withheld>,
    seen: SeenWhitelists,
    others: Elsewhere,
    /// No server has been heard since the start.
    unconfirmed: AtomicBool,
}

impl Repository {
    /// Contacts the servers, checks everything, and opens the revision that is asked for.
    ///
    /// Must run inside a tokio runtime. Bounded in time by the timeouts and the number of servers.
    pub async fn open(
        config: RepositoryConfig,
        transport: Arc<dyn Transport>,
        cache: Arc<dyn ObjectCache>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RepositoryError> {
        let fqrn = config.fqrn.clone();
        let (fetcher, catalogs) = prepare(&config, transport, cache)?;
        if let Pin::RootHash(hash) = config.pin {
            let root = RootCatalog { hash, size: None, alternative_path: false };
            let order = find_order(&config, &fetcher).await;
            apply_order(&config, &fetcher, order);
            let revision = open_revision(&config, &fetcher, &catalogs, &root).await?;
            return Ok(Self {
                config,
                fetcher,
                catalogs,
                clock,
                current: ArcSwap::from_pointee(revision),
                accepted: Mutex::default(),
                stale: StaleState::default(),
                withheld: ArcSwapOption::empty(),
                seen: SeenWhitelists::default(),
                others: Elsewhere::default(),
                unconfirmed: AtomicBool::new(false),
            });
        }
        let now = clock.unix_seconds();
        let memory = RevisionMemory::load(&**fetcher.cache(), fqrn.as_str());
        let seen = SeenWhitelists::recorded(fetcher.cache(), fqrn.as_str(), &memory);
        let judge = judge(&config, &config.blocklist, now, &seen);
        let known = memory.letters(judge);
        let ahead = RootAhead::default();
        let asked = async {
            let root = (config.pin == Pin::Latest).then_some(&ahead);
            // Beside each other: neither needs the other.
            let (newest, order) = tokio::join!(
                newest_letters(&config, &fetcher, judge, known.as_ref(), &memory, root),
                find_order(&config, &fetcher),
            );
            apply_order(&config, &fetcher, order);
            let letters = newest?;
            ahead.store(&fetcher, &letters.manifest);
            let revision = revision_of(&config, &fetcher, &catalogs, &letters).await?;
            Ok((letters, revision))
        };
        let grace = config.grace.filter(|_| {
            known.as_ref().is_some_and(|known| may_be_shown(&config, &fetcher, known, now))
        });
        let (fresh, remembered) = {
            let mut asked = std::pin::pin!(asked);
            let (mut answer, mut remembered) = (None, None);
            if let (Some(grace), Some(known)) = (grace, &known) {
                answer = tokio::time::timeout(grace, &mut asked).await.ok();
                if answer.is_none() {
                    remembered = revision_of(&config, &fetcher, &catalogs, known).await.ok();
                }
            }
            match (answer, remembered) {
                (Some(answer), _) => (answer, None),
                (None, None) => (asked.await, None),
                (None, shown) => (Err(RepositoryError::Slow { fqrn: fqrn.clone() }), shown),
            }
        };
        let mut accepted = Accepted { letters: None, memory, whitelist_checked: now };
        let mut stale = None;
        let unconfirmed = remembered.is_some();
        let (letters, revision) = match (fresh, known) {
            (Ok(fresh), _) => fresh,
            (Err(error @ RepositoryError::Blocked { .. }), _) => return Err(error),
            (Err(error), None) => return Err(error),
            (Err(error), Some(known)) => {
                if let Some(withheld) = offline::withheld(&config, &known, now) {
                    let (limit, expired) = (withheld.limit, withheld.expired);
                    let reason = error.summary();
                    return Err(RepositoryError::Offline { fqrn, expired, limit, reason });
                }
                // The servers may have told just now that its certificate is revoked.
                if accepted.memory.letters(judge).is_none() {
                    return Err(error);
                }
                // A cached root catalog is all it takes; the first error tells more if it fails.
                let revision = match remembered {
                    Some(revision) => revision,
                    None => match revision_of(&config, &fetcher, &catalogs, &known).await {
                        Ok(revision) => revision,
                        Err(_) => return Err(error),
                    },
                };
                let (revision_number, reason) = (known.manifest.revision, error.summary());
                if unconfirmed {
                    tracing::info!(%fqrn, revision = revision_number, "servers are slow; showing the revision accepted last until they answer");
                } else {
                    tracing::warn!(%fqrn, revision = revision_number, reason, "showing the revision accepted last");
                }
                let since = accepted.memory.confirmed.min(now);
                stale = Some(Arc::new(Stale { since, reason }));
                accepted.whitelist_checked = 0;
                (known, revision)
            }
        };
        if stale.is_none() {
            accepted.remember(&letters, judge, &fetcher);
        }
        accepted.letters = Some(letters);
        warn_about_clock(&fetcher);
        Ok(Self {
            config,
            fetcher,
            catalogs,
            clock,
            current: ArcSwap::from_pointee(revision),
            accepted: Mutex::new(accepted),
            stale: StaleState::beginning(stale),
            withheld: ArcSwapOption::empty(),
            seen,
            others: Elsewhere::since(now),
            unconfirmed: AtomicBool::new(unconfirmed),
        })
    }

    /// Opens the revision that a predecessor showed, from what it left in the cache: asks no
    /// server for letters. Whatever is newer is found by the next [`Repository::check`].
    ///
    /// `root` is trusted: it comes from a process that verified it.
    pub async fn resume(
        config: RepositoryConfig,
        transport: Arc<dyn Transport>,
        cache: Arc<dyn ObjectCache>,
        clock: Arc<dyn Clock>,
        root: ContentHash,
    ) -> Result<Self, RepositoryError> {
        let (fetcher, catalogs) = prepare(&config, transport, cache)?;
        let now = clock.unix_seconds();
        let memory = RevisionMemory::load(&**fetcher.cache(), config.fqrn.as_str());
        let seen = SeenWhitelists::recorded(fetcher.cache(), config.fqrn.as_str(), &memory);
        let letters = memory
            .letters(judge(&config, &config.blocklist, now, &seen))
            .filter(|letters| letters.manifest.root_catalog == root);
        let at = RootCatalog { hash: root, size: None, alternative_path: false };
        let revision = match &letters {
            Some(letters) => revision_of(&config, &fetcher, &catalogs, letters).await?,
            None => open_revision(&config, &fetcher, &catalogs, &at).await?,
        };
        let accepted = Accepted { letters, memory, whitelist_checked: 0 };
        Ok(Self {
            config,
            fetcher,
            catalogs,
            clock,
            current: ArcSwap::from_pointee(revision),
            accepted: Mutex::new(accepted),
            stale: StaleState::default(),
            withheld: ArcSwapOption::empty(),
            seen,
            others: Elsewhere::since(now),
            unconfirmed: AtomicBool::new(false),
        })
    }

    /// Opens another revision than the current one, for what the kernel still holds of it.
    pub async fn earlier(&self, root: ContentHash) -> Result<Arc<Revision>, RepositoryError> {
        let at = RootCatalog { hash: root, size: None, alternative_path: false };
        open_revision(&self.config, &self.fetcher, &self.catalogs, &at).await.map(Arc::new)
    }

    /// Looks for a newer revision and prepares it: root catalog and all catalogs in use are here
    /// and open, or it is an error and nothing changes. `None` if the current one is the newest.
    ///
    /// `blocklist` is the present one; its file may have changed.
    pub async fn check(&self, blocklist: &Blocklist) -> Result<Option<Update>, RepositoryError> {
        let found = tokio::time::timeout(LONGEST_LOOK, self.find_update(blocklist)).await;
        let outcome =
            found.unwrap_or_else(|_| Err(RepositoryError::Late { fqrn: self.config.fqrn.clone() }));
        match &outcome {
            Ok(None) => self.set_fresh(),
            Ok(Some(_)) => {}
            Err(error) => self.set_stale(error.summary()),
        }
        outcome
    }

    async fn find_update(&self, blocklist: &Blocklist) -> Result<Option<Update>, RepositoryError> {
        if self.config.pin != Pin::Latest {
            return Ok(None);
        }
        let now = self.clock.unix_seconds();
        let judge = judge(&self.config, blocklist, now, &self.seen);
        let Accepted { letters, memory, whitelist_checked } = self.accepted.lock().clone();
        let hosts = self.fetcher.downloader().hosts();
        let first = self.fetcher.downloader().current_host();
        let whitelist_due = now.saturating_sub(whitelist_checked) >= WHITELIST_RECHECK
            || letters.as_ref().is_none_or(|letters| letters.whitelist.is_expired(now));
        let mut servers = Vec::new();
        for step in 0..hosts.len() {
            let host = (first + step) % hosts.len();
            let outcome = async {
                let mut manifest = None;
                if let (Some(letters), false) = (&letters, whitelist_due) {
                    let bytes = fetch_manifest(&self.fetcher, host).await?;
                    if bytes == letters.manifest_bytes {
                        return Ok(None);
                    }
                    manifest = Some(bytes);
                }
                let known = letters.as_ref();
                let new = Letters::fetch(judge, &self.fetcher, host, known, manifest, None).await?;
                memory.check(&new, letters.as_ref(), judge)?;
                Ok::<_, ServerError>(Some(new))
            };
            match outcome.await {
                Ok(None) => {
                    if step > 0 {
                        self.fetcher.downloader().prefer_host(host);
                    }
                    let Some(letters) = &letters else { return Ok(None) };
                    return match self.newer_elsewhere(host, judge, letters, &memory).await {
                        Some(newer) => self.prepared(newer, judge).await,
                        None => Ok(None),
                    };
                }
                Ok(Some(new)) => {
                    if step > 0 {
                        self.fetcher.downloader().prefer_host(host);
                    }
                    return self.prepared(new, judge).await;
                }
                Err(error) => {
                    tracing::debug!(server = %hosts[host], error = %chain(&error), "server refused");
                    servers.push((hosts[host].clone(), error));
                }
            }
        }
        Err(RepositoryError::NoManifest { fqrn: self.config.fqrn.clone(), servers })
    }

    /// Prepares the revision of accepted letters; `None` if it is the current one.
    async fn prepared(
        &self,
        new: Letters,
        judge: Judge<'_>,
    ) -> Result<Option<Update>, RepositoryError> {
        if self.current.load().root_hash() == new.manifest.root_catalog {
            self.confirm(new, judge);
            return Ok(None);
        }
        let revision = revision_of(&self.config, &self.fetcher, &self.catalogs, &new).await?;
        let fqrn = self.config.fqrn.clone();
        revision
            .adopt(&self.current.load_full())
            .await
            .map_err(|source| RepositoryError::RootCatalog { fqrn, source })?;
        Ok(Some(Update { revision: Arc::new(revision), letters: Some(new) }))
    }

    /// Prepares the revision with this root catalog, if the repository has published it: it is that of the
    /// manifest, the one before, one with a tag, or the present one. A hash that a person names is no proof of
    /// that: whoever can add objects to a server or a cache could name one of them.
    /// The next revision that is published takes its place.
    ///
    /// # Errors
    /// [`RepositoryError::NotPublished`] for any other root catalog.
    pub async fn prepare(&self, root: ContentHash) -> Result<Update, RepositoryError> {
        if !self.has_published(root).await? {
            return Err(RepositoryError::NotPublished { fqrn: self.config.fqrn.clone(), root });
        }
        let revision = self.earlier(root).await?;
        let fqrn = || self.config.fqrn.clone();
        revision
            .adopt(&self.current.load_full())
            .await
            .map_err(|source| RepositoryError::RootCatalog { fqrn: fqrn(), source })?;
        Ok(Update { revision, letters: None })
    }

    /// Tells whether a root catalog is of a revision that is verified: signed, or named by what is signed.
    async fn has_published(&self, root: ContentHash) -> Result<bool, RepositoryError> {
        let is_of = |revision: &Revision| {
            revision.root_hash() == root || revision.properties().previous == Some(root)
        };
        if is_of(&self.current.load()) {
            return Ok(true);
        }
        let Some(manifest) = self.manifest() else { return Ok(false) };
        if manifest.root_catalog == root || is_of(&*self.earlier(manifest.root_catalog).await?) {
            return Ok(true);
        }
        root::has_tag(&self.config, &self.fetcher, &manifest, root).await
    }

    /// Makes a prepared revision the current one and remembers its letters.
    pub fn commit(&self, update: Update, blocklist: &Blocklist) {
        let now = self.clock.unix_seconds();
        let named = update.revision.number();
        let number = update.letters.as_ref().map_or(named, |letters| letters.manifest.revision);
        tracing::info!(fqrn = %self.config.fqrn, "switched to catalog revision {number}");
        self.current.store(update.revision);
        if let Some(letters) = update.letters {
            self.set_fresh();
            self.confirm(letters, judge(&self.config, blocklist, now, &self.seen));
        }
    }

    fn confirm(&self, letters: Letters, judge: Judge<'_>) {
        let mut accepted = self.accepted.lock().clone();
        accepted.whitelist_checked = judge.now;
        // The record is a file: written without the lock. Only one update runs at a time.
        accepted.remember(&letters, judge, &self.fetcher);
        accepted.letters = Some(letters);
        *self.accepted.lock() = accepted;
    }
}

impl Accepted {
    fn remember(&mut self, letters: &Letters, judge: Judge<'_>, fetcher: &Fetcher) {
        let cache = &**fetcher.cache();
        if let Err(error) = self.memory.accept(letters, judge, cache) {
            tracing::warn!(fqrn = %judge.fqrn, error = %chain(&error), "cannot record the accepted revision");
        }
    }
}

fn judge<'a>(
    config: &'a RepositoryConfig,
    blocklist: &'a Blocklist,
    now: i64,
    seen: &'a SeenWhitelists,
) -> Judge<'a> {
    Judge { fqrn: &config.fqrn, keys: &config.keys, blocklist, now, seen }
}

/// Tells whether letters that were accepted before may be shown before any server has answered. No
/// more than a live mount would go on with: they are the newest that were ever accepted, nobody
/// has revoked them as far as is known, and all it takes is here.
fn may_be_shown(config: &RepositoryConfig, fetcher: &Fetcher, known: &Letters, now: i64) -> bool {
    let root = ObjectId::zlib(known.manifest.root_catalog, ObjectKind::Catalog);
    config.pin == Pin::Latest
        // The order of servers is found at the start only.
        && config.geo.is_none()
        && known.manifest.revision >= config.min_revision
        && !known.whitelist.is_expired(now)
        && matches!(fetcher.cache().open(&root), Ok(Some(_)))
}

fn warn_about_clock(fetcher: &Fetcher) {
    let skew = fetcher.downloader().clock_skew();
    if skew.abs() >= CLOCK_SKEW {
        tracing::warn!(
            seconds = skew,
            "the server's clock differs from ours; expiry dates are judged by ours"
        );
    }
}

/// Makes what fetches and what keeps catalogs.
fn prepare(
    config: &RepositoryConfig,
    transport: Arc<dyn Transport>,
    cache: Arc<dyn ObjectCache>,
) -> Result<(Arc<Fetcher>, Arc<OpenCatalogs>), RepositoryError> {
    if config.servers.is_empty() {
        return Err(RepositoryError::NoServer(config.fqrn.clone()));
    }
    let mut servers = config.servers.clone();
    if config.geo.is_none() && config.max_servers > 0 {
        servers.truncate(config.max_servers);
    }
    let selection = Selection::new(servers, &config.proxy, config.selection);
    let external = config.external.downloader(Arc::clone(&transport), config);
    let downloader =
        Downloader::new(transport, selection, config.timeouts).resolving(config.names.clone());
    let patient = config.wait_for_network;
    let transfers = config.descriptors.transfers;
    let fetcher = Arc::new(Fetcher::with_external(cache, downloader, external, patient, transfers));
    let catalogs = Arc::new(OpenCatalogs::new(&config.descriptors));
    Ok((fetcher, catalogs))
}

async fn revision_of(
    config: &RepositoryConfig,
    fetcher: &Arc<Fetcher>,
    catalogs: &Arc<OpenCatalogs>,
    letters: &Letters,
) -> Result<Revision, RepositoryError> {
    let root = root_catalog(config, fetcher, Some(&letters.manifest)).await?;
    open_revision(config, fetcher, catalogs, &root).await
}

async fn open_revision(
    config: &RepositoryConfig,
    fetcher: &Arc<Fetcher>,
    catalogs: &Arc<OpenCatalogs>,
    root: &RootCatalog,
) -> Result<Revision, RepositoryError> {
    let fqrn = || config.fqrn.clone();
    let variables = config.symlink_variables.clone();
    let (fetcher, catalogs) = (Arc::clone(fetcher), Arc::clone(catalogs));
    let revision = Revision::open(fqrn(), Arc::clone(&fetcher), catalogs, root, variables)
        .await
        .map_err(|source| RepositoryError::RootCatalog { fqrn: fqrn(), source })?;
    let number = revision.number();
    if let Some(first_good) = config.blocklist.blocks_revision(&config.fqrn, number) {
        return Err(RepositoryError::Blocked { fqrn: fqrn(), revision: number, first_good });
    }
    fetcher.set_volatile(revision.properties().volatile);
    if let Some(membership) = revision.properties().membership.clone() {
        return Err(RepositoryError::Membership { fqrn: fqrn(), membership });
    }
    Ok(revision)
}

#[cfg(test)]
mod tests;
