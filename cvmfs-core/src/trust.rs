//! The chain from the master keys to the current manifest (spec/format.md sections 4 and 9).
//!
//! ```text
//! master key --signs--> whitelist --lists--> certificate --signs--> manifest --names--> catalog
//! ```
//!
//! [`verify_whitelist`] and [`verify_manifest`] are the only makers of [`Verified`] values, and no
//! field of a letter is used before its signature was right: unlike upstream there is no shortcut
//! for a manifest whose root catalog is known already (facts/behaviours.md T2). Each failed check
//! has a [`TrustError`] of its own, whose text contains upstream's text for it where there is one.

use std::ops::Deref;

use jiff::Timestamp;
use rsa::pkcs1v15::Pkcs1v15Sign;
use sha1::{Digest as _, Sha1};

use crate::format::blocklist::Blocklist;
use crate::format::certificate::{Certificate, CertificateError, KeyError, parse_rsa_key};
use crate::format::manifest::{
    Manifest, ManifestError, certificate_location, root_catalog_location,
};
use crate::format::signed::{LetterError, SignedLetter};
use crate::format::whitelist::{Whitelist, WhitelistError};
use crate::format::{PemError, single_block, write_block};
use crate::fqrn::Fqrn;
use crate::hash::{ContentHash, HashAlgorithm};

/// Why a letter is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The server has a whitelist without content.
    #[error("empty whitelist")]
    WhitelistEmpty,
    /// The whitelist is no signed letter.
    #[error("malformed whitelist")]
    WhitelistLetter(#[source] LetterError),
    /// The text of the whitelist has another hash than the letter states.
    #[error("malformed whitelist: its text was changed or damaged")]
    WhitelistText,
    /// The whitelist breaks the grammar, or asks for what is not supported.
    #[error("malformed whitelist")]
    Whitelist(#[source] WhitelistError),
    /// No master key made the signature of the whitelist.
    #[error("invalid whitelist signature: not made with any of the master keys {keys}")]
    WhitelistSignature {
        /// The names of the keys that were tried.
        keys: String,
    },
    /// The whitelist is that of another repository.
    #[error("repository name mismatch on whitelist: it is for {found:?} and not {expected}")]
    WhitelistName {
        /// The repository asked for.
        expected: Fqrn,
        /// The repository found.
        found: String,
    },
    /// The whitelist is void.
    #[error("expired whitelist: it ended at {ended}, and now it is {now}")]
    WhitelistExpired {
        /// The hour of expiry.
        ended: String,
        /// The time of the check.
        now: String,
    },
    /// The whitelist is older than one that was verified before, so it may list certificates that
    /// were revoked.
    #[error(
        "outdated whitelist: created at {found}, and one created at {known} is known; ask another \
         server, or have the whitelist signed anew"
    )]
    WhitelistOutdated {
        /// When the whitelist was created.
        found: String,
        /// When the newest one was created that a key of this configuration signed.
        known: String,
    },
    /// The certificate cannot be used.
    #[error("bad certificate, failed to verify repository manifest")]
    Certificate(#[from] CertificateError),
    /// The administrators of this machine forbid the certificate.
    #[error("certificate blacklisted: {fingerprint}")]
    CertificateBlocked {
        /// The entry of the blocklist.
        fingerprint: ContentHash,
    },
    /// The whitelist does not have the certificate.
    #[error("certificate not on whitelist: {fingerprint}")]
    CertificateNotListed {
        /// SHA-1 fingerprint of the certificate.
        fingerprint: ContentHash,
    },
    /// The manifest is no signed letter.
    #[error("malformed manifest")]
    ManifestLetter(#[source] LetterError),
    /// The text of the manifest has another hash than the letter states.
    #[error("bad signature, failed to verify repository manifest: its text was changed or damaged")]
    ManifestText,
    /// The key of the certificate did not make the signature of the manifest.
    #[error(
        "bad signature, failed to verify repository manifest: not made with the certificate {fingerprint}"
    )]
    ManifestSignature {
        /// SHA-1 fingerprint of the certificate.
        fingerprint: ContentHash,
    },
    /// A line of the manifest is missing or wrong.
    #[error("manifest cannot be used")]
    Manifest(#[source] ManifestError),
    /// The manifest is that of another repository.
    #[error("repository name mismatch: the manifest is of {found:?} and not {expected}")]
    ManifestName {
        /// The repository asked for.
        expected: Fqrn,
        /// The repository found.
        found: String,
    },
    /// Older than what was accepted under a certificate that is still trusted: a mirror that is
    /// behind, or an attack.
    #[error("outdated manifest: revision {found}, and {known} is known")]
    Rollback {
        /// The revision of the manifest.
        found: u64,
        /// The newest accepted one, or the oldest that the user permits.
        known: u64,
    },
    /// The revision that is known, with another content.
    #[error("revision {revision} is used a second time, for another root catalog")]
    Reused {
        /// The number.
        revision: u64,
    },
    /// The administrators of this machine forbid the revision.
    #[error(
        "revision blacklisted: {fqrn} revision {revision}, the first allowed one is {first_good}"
    )]
    RevisionBlocked {
        /// The repository.
        fqrn: Fqrn,
        /// The revision of the manifest.
        revision: u64,
        /// The first revision that the blocklist allows.
        first_good: u64,
    },
}

/// A value whose signature was checked. Only this module makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// Returns the value without its proof.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Why master keys cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// Without keys nothing can be trusted.
    #[error("no master key")]
    NoKeys,
    /// A file is not one PEM block of a public key.
    #[error("master key {name} is not one PEM public key")]
    Pem {
        /// The name of the key.
        name: String,
        /// The cause.
        source: PemError,
    },
    /// A file has a key that cannot be used.
    #[error("master key {name} cannot be used")]
    Key {
        /// The name of the key.
        name: String,
        /// The cause.
        source: KeyError,
    },
}

/// The public keys that sign whitelists; any one of them suffices.
#[derive(Debug, Clone)]
pub struct MasterKeys(Vec<MasterKey>);

#[derive(Debug, Clone)]
struct MasterKey {
    name: String,
    key: rsa::PublicKey,
    der: Vec<u8>,
}

impl MasterKeys {
    /// Reads keys from pairs of a name (for messages) and the text of a PEM file.
    ///
    /// One bad file makes all fail: a mistyped configuration must not weaken the trust silently.
    pub fn parse<N: Into<String>, P: AsRef<[u8]>>(
        files: impl IntoIterator<Item = (N, P)>,
    ) -> Result<Self, MasterKeyError> {
        let mut keys = Vec::new();
        for (name, pem) in files {
            let name = name.into();
            let der = match single_block(pem.as_ref(), "PUBLIC KEY") {
                Ok(der) => der,
                Err(source) => return Err(MasterKeyError::Pem { name, source }),
            };
            match parse_rsa_key(&der) {
                Ok(key) => keys.push(MasterKey { name, key, der }),
                Err(source) => return Err(MasterKeyError::Key { name, source }),
            }
        }
        if keys.is_empty() { Err(MasterKeyError::NoKeys) } else { Ok(Self(keys)) }
    }

    /// Returns the names in the order of the files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|known| known.name.as_str())
    }

    /// Returns all of them as the text of one PEM file.
    pub fn pem(&self) -> String {
        self.0.iter().map(|known| write_block(&known.der, "PUBLIC KEY")).collect()
    }

    /// Checks the whitelist's kind of signature: PKCS#1 v1.5 type 1 padding around the characters
    /// of the hash, without a DigestInfo.
    fn maker(&self, letter: &SignedLetter<'_>) -> Option<&MasterKey> {
        self.0.iter().find(|MasterKey { key, .. }| {
            let scheme = Pkcs1v15Sign::new_unprefixed();
            key.verify(scheme, letter.signed_bytes(), letter.signature()).is_ok()
        })
    }

    /// Tells whether a key is one of these.
    pub(crate) fn has(&self, id: &KeyId) -> bool {
        self.0.iter().any(|known| known.id() == *id)
    }
}

impl MasterKey {
    fn id(&self) -> KeyId {
        KeyId(ContentHash::of(HashAlgorithm::Shake128, &self.der).to_string())
    }
}

/// The name of a master key in what is remembered: the hash of its DER form. The file's name may
/// change, and says nothing about the key.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct KeyId(String);

/// Checks a whitelist: hash of the text, signature, repository, expiry at `now` (Unix seconds).
///
/// To be called for every new manifest, because a whitelist can expire at any time.
pub fn verify_whitelist(
    bytes: &[u8],
    keys: &MasterKeys,
    fqrn: &Fqrn,
    now: i64,
) -> Result<Verified<Whitelist>, TrustError> {
    let list = verify_whitelist_origin(bytes, keys, fqrn)?;
    must_be_current(&list, now)?;
    Ok(list)
}

pub(crate) fn must_be_current(list: &Whitelist, now: i64) -> Result<(), TrustError> {
    if list.is_expired(now) {
        let (ended, now) = (show_time(list.expires), show_time(now));
        return Err(TrustError::WhitelistExpired { ended, now });
    }
    Ok(())
}

/// Checks a whitelist like [`verify_whitelist`], but not its expiry: for what was accepted in its
/// time and is only shown again. Nothing new may be accepted by it.
pub fn verify_whitelist_origin(
    bytes: &[u8],
    keys: &MasterKeys,
    fqrn: &Fqrn,
) -> Result<Verified<Whitelist>, TrustError> {
    verify_whitelist_maker(bytes, keys, fqrn).map(|(list, _)| list)
}

/// Checks a whitelist like [`verify_whitelist_origin`], and tells which key signed it.
pub(crate) fn verify_whitelist_maker(
    bytes: &[u8],
    keys: &MasterKeys,
    fqrn: &Fqrn,
) -> Result<(Verified<Whitelist>, KeyId), TrustError> {
    if bytes.is_empty() {
        return Err(TrustError::WhitelistEmpty);
    }
    let letter = SignedLetter::split(bytes).map_err(TrustError::WhitelistLetter)?;
    if !letter.text_hash_matches() {
        return Err(TrustError::WhitelistText);
    }
    // Parsed before the signature is checked, so that an unsupported kind of list, which has
    // another kind of signature, is named as such. Nothing but a refusal can come of it.
    let list = Whitelist::parse(letter.text()).map_err(TrustError::Whitelist)?;
    let Some(maker) = keys.maker(&letter) else {
        let keys = keys.names().collect::<Vec<_>>().join(", ");
        return Err(TrustError::WhitelistSignature { keys });
    };
    must_be_whitelist_of(&list, fqrn)?;
    Ok((Verified(list), maker.id()))
}

/// Checks a manifest: certificate, hash of the text, signature; then its fields: repository, path
/// of the root catalog, revision.
///
/// The caller has fetched `certificate` as the object that the manifest names, has checked
/// `whitelist` just now, and decides whether the revision is newer than what it has.
pub fn verify_manifest(
    bytes: &[u8],
    certificate: &Certificate,
    whitelist: &Verified<Whitelist>,
    blocklist: &Blocklist,
    fqrn: &Fqrn,
) -> Result<Verified<Manifest>, TrustError> {
    must_be_whitelist_of(whitelist, fqrn)?;
    if let Some(&fingerprint) = blocklist.blocks_certificate(certificate) {
        return Err(TrustError::CertificateBlocked { fingerprint });
    }
    let fingerprint = certificate.fingerprint(HashAlgorithm::Sha1);
    if !whitelist.fingerprints.iter().any(|listed| certificate.has_fingerprint(listed)) {
        return Err(TrustError::CertificateNotListed { fingerprint });
    }
    let letter = split_manifest(bytes)?;
    // SHA-1 whatever the content hash algorithm of the repository is.
    let digest = Sha1::digest(letter.signed_bytes());
    let scheme = Pkcs1v15Sign::new::<Sha1>();
    if certificate.key().verify(scheme, &digest, letter.signature()).is_err() {
        return Err(TrustError::ManifestSignature { fingerprint });
    }
    let manifest = Manifest::parse(letter.text()).map_err(TrustError::Manifest)?;
    if manifest.fqrn != fqrn.as_str() {
        return Err(TrustError::ManifestName { expected: fqrn.clone(), found: manifest.fqrn });
    }
    let revision = manifest.revision;
    if let Some(first_good) = blocklist.blocks_revision(fqrn, revision) {
        return Err(TrustError::RevisionBlocked { fqrn: fqrn.clone(), revision, first_good });
    }
    Ok(Verified(manifest))
}

/// Returns the hash of the certificate object that a manifest *claims* to be signed with, so that
/// the object can be fetched; nothing is proven by it.
pub fn unverified_certificate_hash(bytes: &[u8]) -> Result<ContentHash, TrustError> {
    let letter = split_manifest(bytes)?;
    let (hash, _) = certificate_location(letter.text()).map_err(TrustError::Manifest)?;
    Ok(hash)
}

/// Tells whether a manifest *claims* that its certificate is at the alternative path
/// (spec/format.md section 1.2); nothing is proven by it.
pub fn unverified_alternative_paths(bytes: &[u8]) -> Result<bool, TrustError> {
    let letter = split_manifest(bytes)?;
    let (_, alternative) = certificate_location(letter.text()).map_err(TrustError::Manifest)?;
    Ok(alternative)
}

/// Returns the root catalog that a manifest *claims*, its size, and whether it is at the alternative
/// path, so that it can be on its way while the signature is checked; nothing is proven by it.
pub(crate) fn unverified_root_catalog(
    bytes: &[u8],
) -> Result<(ContentHash, Option<u64>, bool), TrustError> {
    let letter = split_manifest(bytes)?;
    root_catalog_location(letter.text()).map_err(TrustError::Manifest)
}

/// Takes a manifest apart and compares the hash of its text.
fn split_manifest(bytes: &[u8]) -> Result<SignedLetter<'_>, TrustError> {
    let letter = SignedLetter::split(bytes).map_err(TrustError::ManifestLetter)?;
    if letter.text_hash_matches() { Ok(letter) } else { Err(TrustError::ManifestText) }
}

fn must_be_whitelist_of(list: &Whitelist, fqrn: &Fqrn) -> Result<(), TrustError> {
    if list.fqrn == fqrn.as_str() {
        return Ok(());
    }
    Err(TrustError::WhitelistName { expected: fqrn.clone(), found: list.fqrn.clone() })
}

pub(crate) fn show_time(unix_seconds: i64) -> String {
    Timestamp::from_second(unix_seconds)
        .map_or_else(|_| format!("{unix_seconds} s"), |time| time.to_string())
}

#[cfg(test)]
mod tests;
