//! The signed letters of one server: fetched, checked, and kept together.

use std::sync::Arc;

use bytes::Bytes;

use crate::decode::SizeBound;
use crate::fetch::{FetchError, FetchOptions, Fetcher, Place};
use crate::format::blocklist::Blocklist;
use crate::format::certificate::{Certificate, MAX_CERTIFICATE_LEN};
use crate::format::manifest::{MAX_MANIFEST_LEN, Manifest};
use crate::format::whitelist::{MAX_WHITELIST_LEN, Whitelist};
use crate::fqrn::Fqrn;
use crate::net::DownloadError;
use crate::object::{ObjectId, ObjectKind};
use crate::trust::{
    MasterKeys, TrustError, Verified, must_be_current, unverified_alternative_paths,
    unverified_certificate_hash, verify_manifest, verify_whitelist, verify_whitelist_maker,
    verify_whitelist_origin,
};

mod root;
mod seen;

pub(crate) use root::RootAhead;
pub(crate) use seen::{SeenWhitelist, SeenWhitelists};

/// Where a server has its manifest.
const MANIFEST: &str = ".cvmfspublished";
/// Where a server has its whitelist.
const WHITELIST: &str = ".cvmfswhitelist";

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

/// Against what letters are checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judge<'a> {
    pub(crate) fqrn: &'a Fqrn,
    pub(crate) keys: &'a MasterKeys,
    pub(crate) blocklist: &'a Blocklist,
    /// Unix seconds.
    pub(crate) now: i64,
    /// Newest whitelists so far; older ones are refused.
    pub(crate) seen: &'a SeenWhitelists,
}

/// A manifest that passed every check, and what proves it.
#[derive(Debug, Clone)]
pub(crate) struct Letters {
    pub(crate) manifest: Verified<Manifest>,
    pub(crate) whitelist: Verified<Whitelist>,
    pub(crate) manifest_bytes: Bytes,
    pub(crate) whitelist_bytes: Bytes,
    pub(crate) certificate: Bytes,
}

impl Letters {
    /// Checks letters that were accepted before, for showing the same revision again: an expired
    /// whitelist is no obstacle to that.
    pub(crate) fn again(
        judge: Judge<'_>,
        manifest_bytes: Bytes,
        whitelist_bytes: Bytes,
        certificate: Bytes,
    ) -> Result<Self, TrustError> {
        let whitelist = verify_whitelist_origin(&whitelist_bytes, judge.keys, judge.fqrn)?;
        let manifest = check(judge, &manifest_bytes, &certificate, &whitelist)?;
        Ok(Self { manifest, whitelist, manifest_bytes, whitelist_bytes, certificate })
    }

    /// Fetches and checks the letters of one server. Of its whitelist and the newest one that was
    /// ever verified the newer counts, and an older one is refused once the newer has expired: a
    /// mirror that is behind, or an attacker, cannot bring back a certificate. A
    /// `manifest` that this server has just sent is not asked for again. The root catalog is fetched
    /// beside the certificate if there is somewhere to put it.
    pub(crate) async fn fetch(
        judge: Judge<'_>,
        fetcher: &Fetcher,
        host: usize,
        known: Option<&Self>,
        manifest: Option<Bytes>,
        root: Option<&RootAhead>,
    ) -> Result<Self, ServerError> {
        let downloader = fetcher.downloader();
        let manifest = async {
            match manifest {
                Some(manifest) => Ok(manifest),
                None => fetch_manifest(fetcher, host).await,
            }
        };
        let genuine = |bytes: &[u8]| verify_whitelist_origin(bytes, judge.keys, judge.fqrn).is_ok();
        let (manifest, whitelist) = tokio::join!(
            manifest,
            downloader.fetch_signed(WHITELIST, MAX_WHITELIST_LEN as u64, host, &genuine),
        );
        // Before anything else can fail: what it revokes is revoked, whatever came along.
        let fetched = whitelist.map_err(ServerError::Whitelist).and_then(|bytes| {
            let (list, key) = verify_whitelist_maker(&bytes, judge.keys, judge.fqrn)?;
            judge.seen.see(key, &list, &bytes, judge.now);
            Ok((bytes, list))
        });
        let manifest_bytes = manifest?;
        let (whitelist_bytes, whitelist) = judge.newest_whitelist(fetched?, known)?;
        let certificate = certificate(fetcher, &manifest_bytes, host, |pem| {
            check(judge, &manifest_bytes, pem, &whitelist)
        });
        let root = async {
            if let Some(root) = root {
                root.fetch(fetcher, &manifest_bytes, host).await;
            }
        };
        let (certificate, ()) = tokio::join!(certificate, root);
        let (manifest, certificate) = certificate?;
        Ok(Self { manifest, whitelist, manifest_bytes, whitelist_bytes, certificate })
    }
}

impl Judge<'_> {
    /// Chooses the whitelist that counts: the one that was fetched, or a newer one that is still
    /// good.
    fn newest_whitelist(
        self,
        fetched: (Bytes, Verified<Whitelist>),
        known: Option<&Letters>,
    ) -> Result<(Bytes, Verified<Whitelist>), TrustError> {
        must_be_current(&fetched.1, self.now)?;
        let kept = known.map(|known| known.whitelist_bytes.clone());
        let newer = kept.into_iter().chain(self.seen.newest(self.keys)).filter_map(|bytes| {
            let list = verify_whitelist(&bytes, self.keys, self.fqrn, self.now).ok()?;
            (list.created > fetched.1.created).then_some((bytes, list))
        });
        if let Some(newest) = newer.max_by_key(|(_, list)| list.created) {
            return Ok(newest);
        }
        self.seen.must_be_newest(&fetched.1, self.keys)?;
        Ok(fetched)
    }
}

/// Fetches a server's manifest, which nobody has checked yet.
pub(crate) async fn fetch_manifest(fetcher: &Fetcher, host: usize) -> Result<Bytes, ServerError> {
    let genuine = |bytes: &[u8]| unverified_certificate_hash(bytes).is_ok();
    let downloader = fetcher.downloader();
    let manifest = downloader.fetch_signed(MANIFEST, MAX_MANIFEST_LEN as u64, host, &genuine);
    manifest.await.map_err(ServerError::Manifest)
}

/// Finds the certificate that a manifest claims, in the cache or at the server, and stores it only
/// once it made the manifest acceptable.
async fn certificate(
    fetcher: &Fetcher,
    manifest: &[u8],
    host: usize,
    check: impl Fn(&[u8]) -> Result<Verified<Manifest>, TrustError>,
) -> Result<(Verified<Manifest>, Bytes), ServerError> {
    let id = ObjectId::zlib(unverified_certificate_hash(manifest)?, ObjectKind::Certificate);
    let cached = fetcher.cache().open(&id).ok().flatten();
    if let Some(object) = cached {
        let pem = object.read_all(MAX_CERTIFICATE_LEN as u64).unwrap_or_default();
        match check(&pem) {
            Ok(manifest) => return Ok((manifest, pem)),
            // The cached file may be at fault: decide on a fresh one.
            Err(TrustError::Certificate(_) | TrustError::CertificateNotListed { .. }) => {
                fetcher.discard(&id);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut options =
        FetchOptions::new(SizeBound::AtMost(MAX_CERTIFICATE_LEN as u64), "certificate");
    options.only_host = Some(host);
    if unverified_alternative_paths(manifest)? {
        options.place = Place::Path(id.alternative_path());
    }
    let fetched = match fetcher.fetch_unstored(&id, &options).await {
        Ok(fetched) => Ok(fetched),
        // One mirror's damaged copy does not spoil its manifest: the hash says what it must be.
        Err(_) if fetcher.downloader().hosts().len() > 1 => {
            options.only_host = None;
            fetcher.fetch_unstored(&id, &options).await
        }
        Err(error) => Err(error),
    };
    let fetched = fetched.map_err(|error| ServerError::Certificate(Arc::new(error)))?;
    let pem = fetched.plain.clone();
    let verified = check(&pem)?;
    fetcher.store(fetched, &options.label);
    Ok((verified, pem))
}

fn check(
    judge: Judge<'_>,
    manifest: &[u8],
    pem: &[u8],
    whitelist: &Verified<Whitelist>,
) -> Result<Verified<Manifest>, TrustError> {
    let certificate = Certificate::parse(pem)?;
    verify_manifest(manifest, &certificate, whitelist, judge.blocklist, judge.fqrn)
}
