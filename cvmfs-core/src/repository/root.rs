//! Which root catalog a manifest and a pin lead to.

use crate::catalog::MAX_CATALOG_SIZE;
use crate::decode::SizeBound;
use crate::fetch::Fetcher;
use crate::format::manifest::Manifest;
use crate::hash::ContentHash;
use crate::history::History;
use crate::object::{ObjectId, ObjectKind};
use crate::revision::RootCatalog;
use crate::trust::Verified;

use super::{Pin, RepositoryConfig, RepositoryError};

/// Largest history database: a row of 200 bytes for each of a million tags.
const MAX_HISTORY_SIZE: u64 = 256 << 20;

pub(super) async fn root_catalog(
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

/// Tells whether the history of a manifest has a tag for a root catalog.
pub(super) async fn has_tag(
    config: &RepositoryConfig,
    fetcher: &Fetcher,
    manifest: &Verified<Manifest>,
    root: ContentHash,
) -> Result<bool, RepositoryError> {
    if manifest.history.is_none() {
        return Ok(false);
    }
    let history = history(config, fetcher, manifest).await?;
    let fqrn = config.fqrn.clone();
    history.has_root(&root).map_err(|source| RepositoryError::History { fqrn, source })
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
