//! One revision of a repository: an immutable snapshot, opened catalog by catalog.
//!
//! A revision starts with its root catalog; nested ones are fetched when a path below them is
//! asked for. Methods are asynchronous because of that, and ready at once when everything needed
//! is loaded.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use crate::catalog::budget::Budget;
use crate::catalog::evaluator::Evaluator;
use crate::catalog::symlink::SymlinkVariables;
use crate::catalog::xattr::Xattrs;
use crate::catalog::{
    Attachment, Catalog, CatalogError, Chunk, Counters, DirectoryEntry, EntryKind,
    MAX_CATALOG_SIZE, NestedReference, Page, Properties, Totals,
};
use crate::decode::SizeBound;
use crate::fetch::{FetchOptions, Fetcher, Place};
use crate::fqrn::Fqrn;
use crate::hash::ContentHash;
use crate::object::{ObjectId, ObjectKind};
use crate::path::RepoPath;

mod catalogs;
mod entries;
mod error;

pub use catalogs::OpenCatalogs;
use entries::HotEntries;
pub use error::RevisionError;

/// Places of nested catalogs remembered, so that a catalog that was closed is found again without
/// its parents: less than 2 MiB.
const MAX_REFERENCES: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// Bytes of the entries of one directory that are held as a whole, about: some 40,000 entries. Longer directories are
/// read page by page.
pub const MAX_LISTING: usize = 16 << 20;

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
    root: NestedReference,
    root_place: Place,
    properties: Properties,
    counters: Counters,
    catalogs: Arc<OpenCatalogs>,
    references: Mutex<LruCache<RepoPath, NestedReference>>,
    hot: HotEntries,
}

impl Revision {
    /// Fetches and opens the root catalog; `catalogs` are those that all revisions of the
    /// repository have open.
    pub async fn open(
        fqrn: Fqrn,
        fetcher: Arc<Fetcher>,
        catalogs: Arc<OpenCatalogs>,
        root: &RootCatalog,
        variables: SymlinkVariables,
    ) -> Result<Self, RevisionError> {
        let id = ObjectId::zlib(root.hash, ObjectKind::Catalog);
        let place = match root.alternative_path {
            true => Place::Path(id.alternative_path()),
            false => Place::Data,
        };
        let root =
            NestedReference { attachment: Attachment::root(), hash: root.hash, size: root.size };
        let catalog =
            load(&fetcher, &root, place.clone(), &variables, catalogs.evaluator()).await?;
        Ok(Self {
            fqrn,
            fetcher,
            variables,
            root,
            root_place: place,
            properties: catalog.properties().clone(),
            counters: catalog.counters(),
            references: Mutex::new(LruCache::new(MAX_REFERENCES)),
            hot: HotEntries::new(),
            catalogs: {
                catalogs.insert(catalog);
                catalogs
            },
        })
    }

    /// Returns the name of the repository.
    pub fn fqrn(&self) -> &Fqrn {
        &self.fqrn
    }

    /// Returns the hash of the root catalog, which names the revision.
    pub fn root_hash(&self) -> ContentHash {
        self.root.hash
    }

    /// Returns the revision number as the root catalog states it.
    pub fn number(&self) -> u64 {
        self.properties.revision
    }

    /// Returns what the root catalog says about the repository.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Returns entry counts.
    pub fn statistics(&self) -> Statistics {
        let nested = self.open_nested();
        let loaded: u64 = nested.iter().map(|(_, counters)| counters.own_entries).sum();
        let Counters { own_entries, subtree_entries, .. } = self.counters;
        Statistics {
            total_entries: own_entries.saturating_add(subtree_entries),
            loaded_entries: own_entries.saturating_add(loaded),
            loaded_catalogs: 1 + nested.len(),
        }
    }

    /// Returns the nested catalogs that are open now.
    fn open_nested(&self) -> Vec<(NestedReference, Counters)> {
        let references = self.references.lock();
        let open = references.iter().filter_map(|(_, reference)| {
            let catalog = self.catalogs.peek(reference)?;
            Some((reference.clone(), catalog.counters()))
        });
        open.collect()
    }

    /// Returns where the catalogs that are open now are attached, and their hashes; the root first.
    pub fn open_catalogs(&self) -> Vec<(RepoPath, ContentHash)> {
        let mut open: Vec<_> = self
            .open_nested()
            .into_iter()
            .map(|(reference, _)| (reference.attachment.mountpoint, reference.hash))
            .collect();
        open.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        open.insert(0, (self.root.attachment.mountpoint.clone(), self.root.hash));
        open
    }

    /// Closes the nested catalogs; they are opened again when they are needed.
    pub fn close_nested(&self) {
        for (reference, _) in self.open_nested() {
            if let Some(catalog) = self.catalogs.peek(&reference) {
                self.catalogs.remove(&catalog);
            }
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
        self.ask(&catalog, path, Catalog::lookup).await.map(|entry| entry.map(Arc::new))
    }

    /// Lists a directory without `.` and `..`, each name once; fails if its entries take more than [`MAX_LISTING`]
    /// bytes.
    pub async fn list(
        &self,
        directory: &RepoPath,
    ) -> Result<Arc<[Arc<DirectoryEntry>]>, RevisionError> {
        self.list_up_to(directory, MAX_LISTING).await
    }

    /// Lists a directory whose entries take up to `most` bytes.
    pub async fn list_up_to(
        &self,
        directory: &RepoPath,
        most: usize,
    ) -> Result<Arc<[Arc<DirectoryEntry>]>, RevisionError> {
        let (mut entries, mut bytes, mut next) = (Vec::new(), 0, Some(0));
        while let Some(after) = next {
            let page = self.page(directory, after).await?;
            bytes += page.entries.iter().map(|(_, entry)| entry.weight()).sum::<usize>();
            if bytes > most {
                let source = Arc::new(CatalogError::TooManyEntries(directory.clone()));
                let catalog = self.catalog_of(directory, true).await?;
                let mountpoint = catalog.mountpoint().clone();
                return Err(RevisionError::Catalog { mountpoint, source });
            }
            entries.extend(page.entries.into_iter().map(|(_, entry)| Arc::new(entry)));
            next = page.next;
            if next.is_some() {
                // A long directory is a turn for others after each page.
                tokio::task::yield_now().await;
            }
        }
        Ok(entries.into())
    }

    /// Lists a part of a directory, from the row after `after` on (0 for the start); see [`Catalog::page`].
    pub async fn page(&self, directory: &RepoPath, after: u32) -> Result<Page, RevisionError> {
        if after == 0 {
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
        }
        let catalog = self.catalog_of(directory, true).await?;
        self.ask(&catalog, directory, move |catalog, directory, budget| {
            catalog.page(directory, after, budget)
        })
        .await
    }

    /// Returns the chunks of a chunked file.
    pub async fn chunks(&self, path: &RepoPath) -> Result<Arc<[Chunk]>, RevisionError> {
        let catalog = self.catalog_of(path, false).await?;
        self.ask(&catalog, path, Catalog::chunks).await.map(Arc::from)
    }

    /// Returns the extended attributes stored for an entry.
    pub async fn xattrs(&self, path: &RepoPath) -> Result<Xattrs, RevisionError> {
        let catalog = self.catalog_of(path, false).await?;
        self.ask(&catalog, path, Catalog::xattrs).await
    }

    /// Returns mountpoint and hash of the catalog that answers for a path.
    pub async fn catalog_at(
        &self,
        path: &RepoPath,
    ) -> Result<(RepoPath, ContentHash), RevisionError> {
        let catalog = self.catalog_of(path, false).await?;
        Ok((catalog.mountpoint().clone(), catalog.hash()))
    }

    /// Returns mountpoint, hash and counters of the catalog that answers for a path.
    pub async fn counters_at(
        &self,
        path: &RepoPath,
    ) -> Result<(RepoPath, ContentHash, Totals), RevisionError> {
        let catalog = self.catalog_of(path, false).await?;
        let totals = self.ask(&catalog, path, |catalog, _, budget| catalog.totals(budget)).await?;
        Ok((catalog.mountpoint().clone(), catalog.hash(), totals))
    }

    /// Makes ready what is in use of an earlier revision: unchanged nested catalogs are taken
    /// over, changed ones are loaded. Paths that are gone are left out.
    pub async fn adopt(&self, earlier: &Self) -> Result<(), RevisionError> {
        let mut open = earlier.open_nested();
        // Parents first: a child is found through its parent.
        open.sort_by_key(|(reference, _)| reference.attachment.mountpoint.as_bytes().len());
        for (reference, _) in open {
            let mountpoint = reference.attachment.mountpoint.clone();
            let parent = self.catalog_of(&mountpoint, false).await?;
            let found = self.ask(&parent, &mountpoint, Catalog::nested_at).await?;
            drop(parent);
            match found {
                // The same catalog, open already.
                Some(new)
                    if new.hash == reference.hash && new.attachment == reference.attachment =>
                {
                    self.references.lock().put(mountpoint, reference);
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
        if earlier.root.hash == self.root.hash {
            return Ok(true);
        }
        let mut old = earlier.catalog(&earlier.root).await?;
        let mut new = self.catalog(&self.root).await?;
        for prefix in mountpoint_candidates(directory, true) {
            let before = earlier.ask(&old, &prefix, Catalog::nested_at).await?;
            let after = self.ask(&new, &prefix, Catalog::nested_at).await?;
            match (before, after) {
                (None, None) => {}
                (Some(before), Some(after)) => {
                    if before.hash == after.hash && before.attachment == after.attachment {
                        return Ok(true);
                    }
                    drop((old, new));
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
    /// `enter` also descends into a catalog attached at `path` itself, as a listing needs. No
    /// catalog is held while another one is loaded: thousands may wait for theirs, and all that
    /// they hold would stay open.
    async fn catalog_of(
        &self,
        path: &RepoPath,
        enter: bool,
    ) -> Result<Arc<Catalog>, RevisionError> {
        // All else hangs on it, so the root of a revision in use stays open, though it may not be
        // asked for long.
        self.catalogs.touch(&self.root);
        let mut reference = self.root.clone();
        let mut seen = vec![reference.hash];
        for prefix in mountpoint_candidates(path, enter) {
            let known = self.references.lock().get(&prefix).cloned();
            if let Some(known) = known {
                seen.push(known.hash);
                reference = known;
                continue;
            }
            let catalog = self.catalog(&reference).await?;
            let Some(nested) = self.ask(&catalog, &prefix, Catalog::nested_at).await? else {
                continue;
            };
            // A bind mountpoint may lead to the tree it lies in; any other repetition is hostile.
            if nested.attachment.place.is_some() && seen.contains(&nested.hash) {
                return Err(RevisionError::Cycle(prefix));
            }
            seen.push(nested.hash);
            self.references.lock().put(prefix, nested.clone());
            reference = nested;
        }
        self.catalog(&reference).await
    }

    /// Returns an open catalog, or loads it.
    async fn catalog(&self, reference: &NestedReference) -> Result<Arc<Catalog>, RevisionError> {
        if let Some(catalog) = self.catalogs.get(reference) {
            return Ok(catalog);
        }
        let mountpoint = &reference.attachment.mountpoint;
        tracing::debug!(%mountpoint, hash = %reference.hash, "loading catalog");
        let place = if mountpoint.is_root() { self.root_place.clone() } else { Place::Data };
        let evaluator = self.catalogs.evaluator();
        let catalog = load(&self.fetcher, reference, place, &self.variables, evaluator).await?;
        // Whoever else loaded it meanwhile got the same immutable content; the last one stays.
        Ok(self.catalogs.insert(catalog))
    }

    /// Asks a catalog about a path, here or apart; one whose database fails is dropped, so that the next call starts
    /// afresh.
    async fn ask<T: Send + 'static>(
        &self,
        catalog: &Arc<Catalog>,
        path: &RepoPath,
        question: impl Fn(&Catalog, &RepoPath, &Budget) -> Result<T, CatalogError>
        + Copy
        + Send
        + 'static,
    ) -> Result<T, RevisionError> {
        let evaluator = self.catalogs.evaluator();
        let answer = match evaluator.briefly(|budget| question(catalog, path, budget)) {
            Some(answer) => answer,
            None => {
                let (catalog, path) = (Arc::clone(catalog), path.clone());
                evaluator.apart(move |budget| question(&catalog, &path, budget)).await
            }
        };
        answer.map_err(|error| {
            if error.may_be_damage() {
                self.catalogs.remove(catalog);
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
    reference: &NestedReference,
    place: Place,
    variables: &SymlinkVariables,
    evaluator: &Evaluator,
) -> Result<Catalog, RevisionError> {
    let NestedReference { attachment, hash, size } = reference;
    let id = ObjectId::zlib(*hash, ObjectKind::Catalog);
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
        let (hash, attachment, variables) = (*hash, attachment.clone(), variables.clone());
        let open = move |budget: &Budget| {
            let (object, attachment) = (object.clone(), attachment.clone());
            Catalog::open(object, hash, attachment, variables.clone(), budget)
        };
        let opened = match evaluator.briefly(&open) {
            Some(opened) => opened,
            None => evaluator.apart(open).await,
        };
        match opened {
            Ok(catalog) => return Ok(catalog),
            Err(error) => {
                // Never keep what cannot be used: damaged on disk, or signed and still no catalog.
                if error.may_be_damage() || error.is_lasting() {
                    fetcher.discard(&id);
                }
                if fresh || !error.may_be_damage() {
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
