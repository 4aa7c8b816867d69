//! The root catalog, on its way while the manifest that names it is still being checked: at the
//! first mount that saves one round trip of five.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::cache::Claim;
use crate::decode::SizeBound;
use crate::fetch::{FetchOptions, Fetcher, Place, Unstored};
use crate::format::manifest::Manifest;
use crate::object::{ObjectId, ObjectKind};
use crate::trust::{Verified, unverified_root_catalog};

/// Larger ones are fetched when the manifest has been verified: until then they are in memory, and
/// their server is not trusted.
const MAX_SIZE: u64 = 4 << 20;

/// The right to download something, among siblings.
type Right = Box<dyn Send + Sync>;

/// One root catalog that nobody looks at before [`RootAhead::store`].
#[derive(Default)]
pub(crate) struct RootAhead {
    begun: AtomicBool,
    /// With the right to download it, which ends when it is stored.
    fetched: Mutex<Option<(Unstored, Option<Right>)>>,
}

impl std::fmt::Debug for RootAhead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootAhead").finish_non_exhaustive()
    }
}

impl RootAhead {
    /// Fetches what a manifest claims, unless it is cached, from the server that sent the manifest;
    /// the first one only. Failures mean nothing.
    pub(super) async fn fetch(&self, fetcher: &Fetcher, manifest: &[u8], host: usize) {
        let Ok((hash, Some(size), alternative)) = unverified_root_catalog(manifest) else { return };
        let id = ObjectId::zlib(hash, ObjectKind::Catalog);
        let is_wanted = size <= MAX_SIZE && matches!(fetcher.cache().open(&id), Ok(None));
        if !is_wanted || self.begun.swap(true, Ordering::Relaxed) {
            return;
        }
        // Siblings that share the cache and mount at the same moment wait for this one.
        let claim = match fetcher.cache().claim(&id) {
            Claim::Taken => return,
            Claim::Ours(claim) => Some(claim),
            Claim::Unknown => None,
        };
        let mut options = FetchOptions::new(SizeBound::AtMost(size), "root catalog");
        options.only_host = Some(host);
        if alternative {
            options.place = Place::Path(id.alternative_path());
        }
        if let Ok(fetched) = fetcher.fetch_unstored(&id, &options).await {
            *self.fetched.lock() = Some((fetched, claim));
        }
    }

    /// Stores it if a verified manifest names it.
    pub(crate) fn store(&self, fetcher: &Fetcher, manifest: &Verified<Manifest>) {
        let fetched = self.fetched.lock().take();
        if let Some((fetched, _claim)) = fetched
            && fetched.id().hash == manifest.root_catalog
        {
            fetcher.store(fetched, "root catalog");
        }
    }
}
