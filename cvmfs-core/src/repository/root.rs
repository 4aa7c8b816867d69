//! Which root catalog a manifest and a pin lead to.

use crate::catalog::MAX_CATALOG_SIZE;
use crate::catalog::budget::Budget;
use crate::catalog::evaluator::Evaluator;
use crate::decode::SizeBound;
use crate::fetch::Fetcher;
use crate::format::manifest::Manifest;
use crate::hash::ContentHash;
use crate::history::{History, HistoryError, Tag};
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
            let name_of = name.clone();
            history(config, fetcher, manifest, move |history, budget| {
                history.by_name(&name_of, budget)
            })
            .await?
            .ok_or_else(|| RepositoryError::NoSuchTag { fqrn: fqrn(), tag: name.clone() })?
        }
        (Pin::Date(date), Some(manifest)) => {
            let date = *date;
            history(config, fetcher, manifest, move |history, budget| history.by_date(date, budget))
                .await?
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
    let find = move |history: &History, budget: &Budget| history.by_root(&root, budget);
    Ok(history(config, fetcher, manifest, find).await?.is_some())
}

/// Asks the tag database, on a thread that nobody else waits for: all of it may have to be read.
async fn history(
    config: &RepositoryConfig,
    fetcher: &Fetcher,
    manifest: &Verified<Manifest>,
    question: impl FnOnce(&History, &Budget) -> Result<Option<Tag>, HistoryError> + Send + 'static,
) -> Result<Option<Tag>, RepositoryError> {
    let fqrn = config.fqrn.clone();
    let Some(hash) = manifest.history else { return Err(RepositoryError::NoHistory(fqrn)) };
    let id = ObjectId::zlib(hash, ObjectKind::History);
    let object = fetcher
        .open(&id, SizeBound::AtMost(MAX_HISTORY_SIZE), "history of tags")
        .await
        .map_err(|source| RepositoryError::HistoryFetch { fqrn: fqrn.clone(), source })?;
    let name = fqrn.clone();
    let evaluator = Evaluator::default();
    let asked = evaluator.apart(move |budget| {
        Ok(match History::open(&object, &name, budget) {
            Ok(history) => Ok(question(&history, budget)),
            Err(error) => Err(error),
        })
    });
    match asked.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            fetcher.discard(&id);
            Err(error)
        }
        Err(error) => Err(HistoryError::Open(error)),
    }
    .map_err(|source| RepositoryError::History { fqrn, source })
}
