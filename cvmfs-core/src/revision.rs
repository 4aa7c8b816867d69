//! One revision of a repository: an immutable snapshot, opened catalog by catalog.
//!
//! A revision starts with its root catalog; nested ones are fetched when a path below them is
//! asked for. Methods are asynchronous because of that, and ready at once when everything needed
//! is loaded.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use crate::catalog::symlink::SymlinkVariables;
use crate::catalog::xattr::Xattrs;
use crate::catalog::{
    Attachment, Catalog, CatalogError, Chunk, DirectoryEntry, EntryKind, MAX_CATALOG_SIZE,
    NestedReference, Properties,
};
use crate::decode::SizeBound;
use crate::fetch::{FetchError, FetchOptions, Fetcher, Place};
use crate::fqrn::Fqrn;
use crate::hash::ContentHash;
use crate::object::{ObjectId, ObjectKind};
use crate::path::RepoPath;

mod entries;

use entries::HotEntries;

/// Catalogs kept open: each holds up to a handful of descriptors, so this stays well under the
/// usual limit of 1,024.
const MAX_OPEN_CATALOGS: NonZeroUsize = NonZeroUsize::new(128).expect("not zero");

/// Why a question about a path could not be answered. None of these means absence.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RevisionError {
    /// A catalog could not be fetched.
    #[error("cannot load the catalog of {mountpoint}")]
    Fetch {
        /// Where the catalog is attached.
        mountpoint: RepoPath,
        /// The cause.
        source: Arc<FetchError>,
    },
    /// A catalog was fetched and cannot be used.
    #[error("the catalog of {mountpoint} cannot be used")]
    Catalog {
        /// Where the catalog is attached.
        mountpoint: RepoPath,
        /// The cause.
        source: Arc<CatalogError>,
    },
    /// Catalogs that contain each other.
    #[error("the catalog of {0} contains itself")]
    Cycle(RepoPath),
    /// A listing of something else.
    #[error("{0} is not a directory")]
    NotADirectory(RepoPath),
    /// A path whose parent does not exist either.
    #[error("{0} does not exist")]
    NotFound(RepoPath),
}

/// Counts for `df -i` and the like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Entries of the whole repository.
    pub total_entries: u64,
    /// Entries in the catalogs that are open now.
    pub loaded_entries: u64,
    /// Catalogs that are open now.
    pub loaded_catalogs: usize,
}

/// Where a revision starts.
#[derive(Debug, Clone)]
pub struct RootCatalog {
    /// Its object.
    pub hash: ContentHash,
    /// Plain size if the manifest or history states it.
    pub size: Option<u64>,
    /// Served under the alternative path.
    pub alternative_path: bool,
}

/// An immutable snapshot of a repository.
pub struct Revision {
    fqrn: Fqrn,
    fetcher: Arc<Fetcher>,
    variables: SymlinkVariables,
    root: Arc<Catalog>,
    nested: Mutex<LruCache<RepoPath, Arc<Catalog>>>,
    hot: HotEntries,
}

impl Revision {
    /// Fetches and opens the root catalog.
    pub async fn open(
        fqrn: Fqrn,
        fetcher: Arc<Fetcher>,
        root: &RootCatalog,
        variables: SymlinkVariables,
    ) -> Result<Self, RevisionError> {
        let attachment = Attachment::root();
        let id = ObjectId::zlib(root.hash, ObjectKind::Catalog);
        let place = match root.alternative_path {
            true => Place::Path(id.alternative_path()),
            false => Place::Data,
        };
        let root = load(&fetcher, root.hash, root.size, place, attachment, &variables).await?;
        Ok(Self {
            fqrn,
            fetcher,
            variables,
            root: Arc::new(root),
            nested: Mutex::new(LruCache::new(MAX_OPEN_CATALOGS)),
            hot: HotEntries::new(),
        })
    }

    /// Returns the name of the repository.
    pub fn fqrn(&self) -> &Fqrn {
        &self.fqrn
    }

    /// Returns the hash of the root catalog, which names the revision.
    pub fn root_hash(&self) -> ContentHash {
        self.root.hash()
    }

    /// Returns the revision number as the root catalog states it.
    pub fn number(&self) -> u64 {
        self.root.properties().revision
    }

    /// Returns what the root catalog says about the repository.
    pub fn properties(&self) -> &Properties {
        self.root.properties()
    }

    /// Returns entry counts.
    pub fn statistics(&self) -> Statistics {
        let root = self.root.counters();
        let nested = self.nested.lock();
        let loaded: u64 = nested.iter().map(|(_, catalog)| catalog.counters().own_entries).sum();
        Statistics {
            total_entries: root.own_entries.saturating_add(root.subtree_entries),
            loaded_entries: root.own_entries.saturating_add(loaded),
            loaded_catalogs: 1 + nested.len(),
        }
    }

    /// Finds an entry; `None` is a verified absence.
    ///
    /// A mountpoint is answered by the catalog above it, so that its own need not be loaded.
    pub async fn lookup(
        &self,
        path: &RepoPath,
    ) -> Result<Option<Arc<DirectoryEntry>>, RevisionError> {
        if let Some(known) = self.hot.get(path) {
            return Ok(known);
        }
        let entry = self.read_entry(path).await?;
        self.hot.insert(path, &entry);
        Ok(entry)
    }

    async fn read_entry(
        &self,
        path: &RepoPath,
    ) -> Result<Option<Arc<DirectoryEntry>>, RevisionError> {
        let catalog = self.catalog_of(path, false).await?;
        self.ask(&catalog, |catalog| catalog.lookup(path)).map(|entry| entry.map(Arc::new))
    }

    /// Lists a directory without `.` and `..`, each name once.
    pub async fn list(
        &self,
        directory: &RepoPath,
    ) -> Result<Arc<[Arc<DirectoryEntry>]>, RevisionError> {
        // Not remembered: a walk lists each directory once.
        let entry = match self.hot.get(directory) {
            Some(known) => known,
            None => self.read_entry(directory).await?,
        };
        match entry {
            None => return Err(RevisionError::NotFound(directory.clone())),
            Some(entry) if entry.kind != EntryKind::Directory => {
                return Err(RevisionError::NotADirectory(directory.clone()));
            }
            Some(_) => {}
        }
        let catalog = self.catalog_of(directory, true).await?;
        let entries = self.ask(&catalog, |catalog| catalog.list(directory))?;
        Ok(entries.into_iter().map(Arc::new).collect())
    }

    /// Returns the chunks of a chunked file.
    pub async fn chunks(&self, path: &RepoPath) -> Result<Arc<[Chunk]>, RevisionError> {
        let catalog = self.catalog_of(path, false).await?;
        self.ask(&catalog, |catalog| catalog.chunks(path)).map(Arc::from)
    }

    /// Returns the extended attributes stored for an entry.
    pub async fn xattrs(&self, path: &RepoPath) -> Result<Xattrs, RevisionError> {
        let catalog = self.catalog_of(path, false).await?;
        self.ask(&catalog, |catalog| catalog.xattrs(path))
    }

    /// Returns mountpoint and hash of the catalog that answers for a path.
    pub async fn catalog_at(
        &self,
        path: &RepoPath,
    ) -> Result<(RepoPath, ContentHash), RevisionError> {
        let catalog = self.catalog_of(path, false).await?;
        Ok((catalog.mountpoint().clone(), catalog.hash()))
    }

    /// Makes ready what is in use of an earlier revision: unchanged nested catalogs are taken
    /// over, changed ones are loaded. Paths that are gone are left out.
    pub async fn adopt(&self, earlier: &Self) -> Result<(), RevisionError> {
        let mut open: Vec<_> = earlier
            .nested
            .lock()
            .iter()
            .map(|(mountpoint, catalog)| (mountpoint.clone(), Arc::clone(catalog)))
            .collect();
        // Parents first: a child is found through its parent.
        open.sort_by_key(|(mountpoint, _)| mountpoint.as_bytes().len());
        for (mountpoint, catalog) in open {
            let parent = self.catalog_of(&mountpoint, false).await?;
            match self.ask(&parent, |parent| parent.nested_at(&mountpoint))? {
                Some(new)
                    if new.hash == catalog.hash() && new.attachment == *catalog.attachment() =>
                {
                    self.nested.lock().put(mountpoint, catalog);
                }
                Some(_) => drop(self.catalog_of(&mountpoint, true).await?),
                None => {}
            }
        }
        Ok(())
    }

    /// Tells whether a directory and all below it is the same in both revisions, judged by the
    /// hashes of catalogs alone; false only means that somebody must look closer.
    pub async fn same_below(
        &self,
        earlier: &Self,
        directory: &RepoPath,
    ) -> Result<bool, RevisionError> {
        let (mut old, mut new) = (Arc::clone(&earlier.root), Arc::clone(&self.root));
        if old.hash() == new.hash() {
            return Ok(true);
        }
        for prefix in mountpoint_candidates(directory, true) {
            let before = earlier.ask(&old, |catalog| catalog.nested_at(&prefix))?;
            let after = self.ask(&new, |catalog| catalog.nested_at(&prefix))?;
            match (before, after) {
                (None, None) => {}
                (Some(before), Some(after)) => {
                    if before.hash == after.hash && before.attachment == after.attachment {
                        return Ok(true);
                    }
                    old = earlier.catalog_of(&prefix, true).await?;
                    new = self.catalog_of(&prefix, true).await?;
                }
                _ => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Descends to the catalog that answers for `path`, loading what is missing.
    ///
    /// `enter` also descends into a catalog attached at `path` itself, as a listing needs.
    async fn catalog_of(
        &self,
        path: &RepoPath,
        enter: bool,
    ) -> Result<Arc<Catalog>, RevisionError> {
        let mut catalog = Arc::clone(&self.root);
        let mut seen = vec![catalog.hash()];
        for prefix in mountpoint_candidates(path, enter) {
            let cached = self.nested.lock().get(&prefix).cloned();
            if let Some(nested) = cached {
                seen.push(nested.hash());
                catalog = nested;
                continue;
            }
            let Some(reference) = self.ask(&catalog, |catalog| catalog.nested_at(&prefix))? else {
                continue;
            };
            // A bind mountpoint may lead to the tree it lies in; any other repetition is hostile.
            if reference.attachment.place.is_some() && seen.contains(&reference.hash) {
                return Err(RevisionError::Cycle(prefix));
            }
            seen.push(reference.hash);
            catalog = self.attach(reference).await?;
        }
        Ok(catalog)
    }

    async fn attach(&self, reference: NestedReference) -> Result<Arc<Catalog>, RevisionError> {
        let NestedReference { attachment, hash, size } = reference;
        let mountpoint = attachment.mountpoint.clone();
        tracing::debug!(%mountpoint, %hash, "loading nested catalog");
        let catalog = Arc::new(
            load(&self.fetcher, hash, size, Place::Data, attachment, &self.variables).await?,
        );
        // Whoever else loaded it meanwhile got the same immutable content; the last one stays.
        self.nested.lock().put(mountpoint, Arc::clone(&catalog));
        Ok(catalog)
    }

    /// Asks a catalog; one whose database fails is dropped, so that the next call starts afresh.
    fn ask<T>(
        &self,
        catalog: &Arc<Catalog>,
        question: impl FnOnce(&Catalog) -> Result<T, CatalogError>,
    ) -> Result<T, RevisionError> {
        question(catalog).map_err(|error| {
            if matches!(error, CatalogError::Sqlite(_) | CatalogError::Read(_)) {
                self.nested.lock().pop(catalog.mountpoint());
                self.fetcher.discard(&ObjectId::zlib(catalog.hash(), ObjectKind::Catalog));
            }
            let mountpoint = catalog.mountpoint().clone();
            RevisionError::Catalog { mountpoint, source: Arc::new(error) }
        })
    }
}

/// The ancestors of a path, shallow to deep, without the root; with the path itself if `enter`.
fn mountpoint_candidates(path: &RepoPath, enter: bool) -> impl Iterator<Item = RepoPath> + '_ {
    let bytes = path.as_bytes();
    let ends = (1..bytes.len()).filter(|&at| bytes[at] == b'/');
    ends.chain(enter.then_some(bytes.len()))
        .filter(|&end| end > 0)
        .map(|end| RepoPath::from_catalog(bytes[..end].to_vec()))
}

impl std::fmt::Debug for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Revision({} {})", self.fqrn, self.root_hash())
    }
}

/// Fetches and opens one catalog. A cached file that is no good is fetched again once.
async fn load(
    fetcher: &Arc<Fetcher>,
    hash: ContentHash,
    size: Option<u64>,
    place: Place,
    attachment: Attachment,
    variables: &SymlinkVariables,
) -> Result<Catalog, RevisionError> {
    let id = ObjectId::zlib(hash, ObjectKind::Catalog);
    let mountpoint = attachment.mountpoint.clone();
    let label = if mountpoint.is_root() {
        "root catalog".to_owned()
    } else {
        format!("nested catalog of {mountpoint}")
    };
    let bound = size.map_or(SizeBound::AtMost(MAX_CATALOG_SIZE), SizeBound::AtMost);
    let options = FetchOptions { bound, label, place, only_host: None };
    let mut fresh = false;
    loop {
        let object = fetcher
            .open_with(&id, &options)
            .await
            .map_err(|source| RevisionError::Fetch { mountpoint: mountpoint.clone(), source })?;
        let object = object.pinned(fetcher.cache().pin(&id));
        match Catalog::open(object, hash, attachment.clone(), variables.clone()) {
            Ok(catalog) => return Ok(catalog),
            Err(error) => {
                // Never keep what cannot be used: damaged on disk, or signed and still no catalog.
                fetcher.discard(&id);
                if fresh || !matches!(error, CatalogError::Sqlite(_) | CatalogError::Read(_)) {
                    let source = Arc::new(error);
                    return Err(RevisionError::Catalog { mountpoint, source });
                }
                fresh = true;
            }
        }
    }
}

#[cfg(test)]
mod tests;
