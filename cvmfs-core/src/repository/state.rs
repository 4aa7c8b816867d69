//! What an open repository tells of itself.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Pin, Repository};
use crate::cache::ObjectCache;
use crate::descriptors::DescriptorBudget;
use crate::fetch::Fetcher;
use crate::format::manifest::Manifest;
use crate::fqrn::Fqrn;
use crate::net::Selection;
use crate::revision::Revision;
use crate::trust::{MasterKeys, Verified};

impl Repository {
    /// Returns the name.
    pub fn fqrn(&self) -> &Fqrn {
        &self.config.fqrn
    }

    /// Returns the current revision. An operation takes it once and uses only that.
    pub fn current(&self) -> Arc<Revision> {
        self.current.load_full()
    }

    /// Tells, once, that the revision shown was accepted before and no server has answered since:
    /// the caller has to [`Repository::check`] at once.
    pub fn take_unconfirmed(&self) -> bool {
        self.unconfirmed.swap(false, Ordering::Relaxed)
    }

    /// Tells whether newer revisions are to be looked for at all.
    pub fn follows_updates(&self) -> bool {
        self.config.pin == Pin::Latest
    }

    /// Returns which revision is shown.
    pub fn pin(&self) -> &Pin {
        &self.config.pin
    }

    /// Returns the keys that the repository is trusted by.
    pub fn keys(&self) -> &MasterKeys {
        &self.config.keys
    }

    /// Returns the fetcher for objects of the repository.
    pub fn fetcher(&self) -> &Arc<Fetcher> {
        &self.fetcher
    }

    /// Returns how many files and connections the repository may have open.
    pub fn descriptors(&self) -> &DescriptorBudget {
        &self.config.descriptors
    }

    /// Tells whether objects may be fetched before they are asked for.
    pub fn fetches_ahead(&self) -> bool {
        self.config.fetch_ahead
    }

    /// Returns how many plain bytes may be fetched so in a second, if that is bounded.
    pub fn ahead_bandwidth(&self) -> Option<NonZeroU64> {
        self.config.ahead_bandwidth
    }

    /// Returns the cache behind the fetcher.
    pub fn cache(&self) -> &Arc<dyn ObjectCache> {
        self.fetcher.cache()
    }

    /// Returns the manifest, unless the revision was given by its root hash.
    pub fn manifest(&self) -> Option<Verified<Manifest>> {
        self.accepted.lock().letters.as_ref().map(|letters| letters.manifest.clone())
    }

    /// Returns the base URL of the server in use.
    pub fn server(&self) -> String {
        let current = |selection: &mut Selection| {
            selection.hosts().get(selection.current_host()).cloned().unwrap_or_default()
        };
        self.fetcher.downloader().selection(current)
    }
}
