//! The newest whitelist that was ever verified, so that no older one is accepted again.
//!
//! A whitelist revokes by leaving a certificate out. Whoever can answer for a server could bring an
//! older one back: after the newer one has expired and the clock was set back, or when the newer one
//! came with a manifest that was refused. So each verified whitelist counts from the moment of its
//! verification, whatever came along with it, and its date of creation is compared with that of
//! others, not with the clock.
//!
//! What is remembered is remembered for each master key. Who removes a key from the configuration,
//! because it was stolen, is rid of what it signed; who adds a key loses nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::cache::ObjectCache;
use crate::format::whitelist::Whitelist;
use crate::memory::RevisionMemory;
use crate::trust::{KeyId, MasterKeys, TrustError, show_time};

/// Master keys whose whitelists are remembered; sites have up to half a dozen.
const MAX_KEYS: usize = 16;
/// How far ahead of this machine's clock a whitelist may be created to be remembered. The signer's
/// clock was wrong if it is more, and all later whitelists would be refused.
const MAX_AHEAD: i64 = 24 * 3600;

/// The newest verified whitelist of one master key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeenWhitelist {
    key: KeyId,
    /// Date of creation, Unix seconds.
    created: i64,
    /// The signed letter in hexadecimal.
    whitelist: String,
}

/// The newest verified whitelists of a repository; kept in the record of the repository.
#[derive(Default)]
pub(crate) struct SeenWhitelists {
    seen: Mutex<Vec<SeenWhitelist>>,
    /// Where they are recorded, and the repository; `None` for what only looks.
    record: Option<(Arc<dyn ObjectCache>, String)>,
    warned: AtomicBool,
}

impl fmt::Debug for SeenWhitelists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeenWhitelists").finish_non_exhaustive()
    }
}

impl SeenWhitelists {
    /// Goes on with what is recorded.
    pub(crate) fn recorded(
        cache: &Arc<dyn ObjectCache>,
        fqrn: &str,
        memory: &RevisionMemory,
    ) -> Self {
        Self {
            seen: Mutex::new(memory.whitelists.clone()),
            record: Some((Arc::clone(cache), fqrn.to_owned())),
            warned: AtomicBool::new(false),
        }
    }

    /// Notes a verified whitelist, here and in the record, if it is newer than those before.
    pub(crate) fn see(&self, key: KeyId, list: &Whitelist, bytes: &[u8], now: i64) {
        let Some(created) =
            list.created.filter(|created| *created <= now.saturating_add(MAX_AHEAD))
        else {
            return;
        };
        let whitelist = hex::encode(bytes);
        if !raise(&mut self.seen.lock(), SeenWhitelist { key, created, whitelist }) {
            return;
        }
        let Some((cache, fqrn)) = &self.record else { return };
        let recorded = cache.update_record(fqrn, &mut |stored| {
            let mut record = stored.as_deref().and_then(RevisionMemory::parse).unwrap_or_default();
            self.merge(&mut record.whitelists);
            serde_json::to_vec(&record).ok()
        });
        // It holds for as long as this process lives all the same.
        if let Err(error) = recorded
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%fqrn, %error, "cannot record the newest whitelist; after a restart an older one may be accepted");
        }
    }

    /// Merges with what siblings have recorded; of each key the newest remains, on both sides.
    pub(crate) fn merge(&self, recorded: &mut Vec<SeenWhitelist>) {
        let mut seen = self.seen.lock();
        for one in recorded.drain(..) {
            raise(&mut seen, one);
        }
        recorded.clone_from(&seen);
    }

    /// Returns the newest whitelist of any of these keys.
    pub(crate) fn newest(&self, keys: &MasterKeys) -> Option<Bytes> {
        let seen = self.seen.lock();
        let newest = seen.iter().filter(|one| keys.has(&one.key)).max_by_key(|one| one.created)?;
        hex::decode(&newest.whitelist).ok().map(Bytes::from)
    }

    /// Refuses a whitelist that is older than the newest one of any of these keys.
    pub(crate) fn must_be_newest(
        &self,
        list: &Whitelist,
        keys: &MasterKeys,
    ) -> Result<(), TrustError> {
        let seen = self.seen.lock();
        let known = seen.iter().filter(|one| keys.has(&one.key)).map(|one| one.created).max();
        match known {
            Some(known) if list.created < Some(known) => Err(TrustError::WhitelistOutdated {
                found: list.created.map_or_else(|| "an unknown time".to_owned(), show_time),
                known: show_time(known),
            }),
            _ => Ok(()),
        }
    }
}

/// Keeps the newer one of a key; tells whether that is the given one.
fn raise(seen: &mut Vec<SeenWhitelist>, one: SeenWhitelist) -> bool {
    match seen.iter_mut().find(|known| known.key == one.key) {
        Some(known) if known.created >= one.created => false,
        Some(known) => {
            *known = one;
            true
        }
        None => {
            if seen.len() >= MAX_KEYS {
                // A key that signed nothing for the longest time is no longer in use.
                let oldest = seen.iter().enumerate().min_by_key(|(_, known)| known.created);
                if let Some(at) = oldest.map(|(at, _)| at) {
                    seen.swap_remove(at);
                }
            }
            seen.push(one);
            true
        }
    }
}
