//! What is remembered of a repository over restarts: the letters accepted last, and the newest
//! revision under each certificate (facts/behaviours.md section 3.2).
//!
//! The letters are verified again when they are read, so the record proves nothing by being
//! there. Revision numbers are remembered for each certificate, and only those of certificates
//! that are still trusted count: a stolen key cannot fast-forward a client past its revocation.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cache::{CacheError, ObjectCache};
use crate::format::blocklist::Blocklist;
use crate::format::certificate::Certificate;
use crate::format::whitelist::Whitelist;
use crate::letters::{Judge, Letters, SeenWhitelist};
use crate::trust::{TrustError, verify_whitelist_origin};

/// Certificates remembered; repositories have one or two at a time.
const MAX_CERTIFICATES: usize = 16;
/// Longest record worth reading: letters and certificates are bounded by 64 KiB or so each.
const MAX_RECORD_LEN: usize = 4 << 20;

/// The record, as stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RevisionMemory {
    /// Letters accepted last, in hexadecimal.
    manifest: String,
    whitelist: String,
    certificate: String,
    /// When a server last confirmed them, Unix seconds.
    pub(crate) confirmed: i64,
    certificates: Vec<Remembered>,
    /// Newest verified whitelist of each master key, also where its manifest was refused.
    #[serde(default)]
    pub(crate) whitelists: Vec<SeenWhitelist>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    /// PEM text.
    certificate: String,
    revision: u64,
}

impl RevisionMemory {
    /// Reads the record of a repository; one that is damaged counts as absent.
    pub(crate) fn load(cache: &dyn ObjectCache, fqrn: &str) -> Self {
        match cache.load_record(fqrn) {
            Ok(Some(bytes)) => Self::parse(&bytes).unwrap_or_else(|| {
                tracing::warn!(fqrn, "the record of accepted revisions is damaged, starting anew");
                Self::default()
            }),
            Ok(None) => Self::default(),
            Err(error) => {
                tracing::warn!(fqrn, %error, "cannot read the record of accepted revisions");
                Self::default()
            }
        }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes.get(..bytes.len().min(MAX_RECORD_LEN))?).ok()
    }

    /// Verifies the letters of the record; `None` if there are none that are still right.
    pub(crate) fn letters(&self, judge: Judge<'_>) -> Option<Letters> {
        if self.manifest.is_empty() {
            return None;
        }
        let bytes = |text: &str| hex::decode(text).ok().map(Bytes::from);
        let (manifest, own) = (bytes(&self.manifest)?, bytes(&self.whitelist)?);
        // One that was seen later may have revoked the certificate.
        let newest = judge.seen.newest(judge.keys);
        let created = |bytes: &Bytes| {
            let list = verify_whitelist_origin(bytes, judge.keys, judge.fqrn).ok()?;
            list.created
        };
        let whitelist = match newest {
            Some(newest) if created(&newest) > created(&own) => newest,
            _ => own,
        };
        let letters = Letters::again(judge, manifest, whitelist, bytes(&self.certificate)?);
        letters
            .inspect_err(|error| {
                tracing::warn!(fqrn = %judge.fqrn, %error, "remembered revision is not trusted any more");
            })
            .ok()
    }

    /// Returns the newest revision accepted under a certificate that is still trusted.
    pub(crate) fn newest(&self, whitelist: &Whitelist, blocklist: &Blocklist) -> Option<u64> {
        self.certificates
            .iter()
            .filter(|remembered| is_trusted(&remembered.certificate, whitelist, blocklist))
            .map(|remembered| remembered.revision)
            .max()
    }

    /// Refuses letters that are older than what is remembered, or reuse its number.
    pub(crate) fn check(
        &self,
        letters: &Letters,
        current: Option<&Letters>,
        judge: Judge<'_>,
    ) -> Result<(), TrustError> {
        let found = letters.manifest.revision;
        if let Some(known) = self.newest(&letters.whitelist, judge.blocklist)
            && found < known
        {
            return Err(TrustError::Rollback { found, known });
        }
        // Revision 0 is what very old repositories always say.
        let same = current.filter(|current| current.manifest.revision == found && found > 0);
        if same.is_some_and(|same| same.manifest.root_catalog != letters.manifest.root_catalog) {
            return Err(TrustError::Reused { revision: found });
        }
        Ok(())
    }

    /// Remembers accepted letters, here and in the store.
    pub(crate) fn accept(
        &mut self,
        letters: &Letters,
        judge: Judge<'_>,
        cache: &dyn ObjectCache,
    ) -> Result<(), CacheError> {
        let Judge { fqrn, blocklist, now, seen, .. } = judge;
        self.note(letters, blocklist, now);
        let mut merged = self.clone();
        cache.update_record(fqrn.as_str(), &mut |stored| {
            // A sibling on the same store may know more.
            let sibling = stored.as_deref().and_then(Self::parse).unwrap_or_default();
            for other in sibling.certificates {
                merged.raise(&other.certificate, other.revision);
            }
            merged.whitelists = sibling.whitelists;
            seen.merge(&mut merged.whitelists);
            merged.drop_untrusted(&letters.whitelist, blocklist);
            let behind =
                merged.newest(&letters.whitelist, blocklist) > Some(letters.manifest.revision);
            if behind {
                merged.manifest.clone_from(&sibling.manifest);
                merged.whitelist.clone_from(&sibling.whitelist);
                merged.certificate.clone_from(&sibling.certificate);
            }
            serde_json::to_vec(&merged).ok()
        })
    }

    fn note(&mut self, letters: &Letters, blocklist: &Blocklist, now: i64) {
        self.manifest = hex::encode(&letters.manifest_bytes);
        self.whitelist = hex::encode(&letters.whitelist_bytes);
        self.certificate = hex::encode(&letters.certificate);
        self.confirmed = now;
        let pem = String::from_utf8_lossy(&letters.certificate).into_owned();
        self.raise(&pem, letters.manifest.revision);
        self.drop_untrusted(&letters.whitelist, blocklist);
    }

    fn raise(&mut self, certificate: &str, revision: u64) {
        let room = self.certificates.len() < MAX_CERTIFICATES;
        match self.certificates.iter_mut().find(|known| known.certificate == certificate) {
            Some(known) => known.revision = known.revision.max(revision),
            None if room => {
                self.certificates
                    .push(Remembered { certificate: certificate.to_owned(), revision });
            }
            None => {}
        }
    }

    fn drop_untrusted(&mut self, whitelist: &Whitelist, blocklist: &Blocklist) {
        self.certificates.retain(|known| is_trusted(&known.certificate, whitelist, blocklist));
    }
}

fn is_trusted(pem: &str, whitelist: &Whitelist, blocklist: &Blocklist) -> bool {
    Certificate::parse(pem.as_bytes()).is_ok_and(|certificate| {
        blocklist.blocks_certificate(&certificate).is_none()
            && whitelist.fingerprints.iter().any(|listed| certificate.has_fingerprint(listed))
    })
}
