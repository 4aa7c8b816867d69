//! Objects of the newest revision, chosen at random among some directories.

use std::collections::HashSet;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::limits::Plan;
use super::report::SizeClass;
use crate::cache::MemoryCache;
use crate::catalog::symlink::SymlinkVariables;
use crate::catalog::{Content, DirectoryEntry, EntryKind};
use crate::chain::chain;
use crate::decode::SizeBound;
use crate::fetch::Fetcher;
use crate::format::manifest::Manifest;
use crate::hash::ContentHash;
use crate::net::Downloader;
use crate::object::{ObjectId, ObjectKind};
use crate::path::RepoPath;
use crate::repository::RepositoryConfig;
use crate::revision::{OpenCatalogs, Revision, RootCatalog};
use crate::trust::Verified;

/// Directories that are listed.
const MAX_LISTINGS: usize = 64;
/// Catalogs that are fetched for that, with the root catalog.
const MAX_CATALOGS: usize = 4;
/// Directories that are remembered to be listed; more are passed over.
const MAX_WAITING: usize = 4096;
/// Objects chosen of each size.
const PER_CLASS: usize = 12;
/// Catalogs that are kept while directories are listed.
const CATALOG_MEMORY: u64 = 64 << 20;

/// An object to be fetched.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) id: ObjectId,
    pub(super) bound: SizeBound,
    /// Path below the base URL.
    pub(super) path: String,
    /// For people.
    pub(super) label: String,
}

/// Objects of one revision, in random order.
#[derive(Debug)]
pub(super) struct Samples {
    pub(super) root: ContentHash,
    pub(super) objects: Vec<Sample>,
}

impl Sample {
    /// The root catalog that a manifest announces.
    pub(super) fn root_catalog(manifest: &Verified<Manifest>) -> Self {
        let id = ObjectId::zlib(manifest.root_catalog, ObjectKind::Catalog);
        let bound = match manifest.root_catalog_size {
            Some(size) => SizeBound::Exactly(size),
            None => SizeBound::AtMost(crate::catalog::MAX_CATALOG_SIZE),
        };
        let path = match manifest.alternative_paths {
            true => id.alternative_path(),
            false => id.server_path(),
        };
        Self { id, bound, path, label: "root catalog".to_owned() }
    }

    pub(super) fn class(&self) -> Option<SizeClass> {
        SizeClass::of(self.bound.plain_cap())
    }

    /// Most bytes that can come.
    pub(super) fn stored_cap(&self) -> u64 {
        self.bound.stored_cap(self.id.compression)
    }
}

/// Lists directories of the newest revision until there are objects of every size.
pub(super) async fn find(
    config: &RepositoryConfig,
    downloader: Downloader,
    newest: &Verified<Manifest>,
    plan: &Plan,
) -> Result<Samples, String> {
    let cache = Arc::new(MemoryCache::with_limit(CATALOG_MEMORY));
    let fetcher = Arc::new(Fetcher::new(cache, downloader, false));
    let catalogs = Arc::new(OpenCatalogs::new(&config.descriptors));
    let root = RootCatalog {
        hash: newest.root_catalog,
        size: newest.root_catalog_size,
        alternative_path: newest.alternative_paths,
    };
    let variables = SymlinkVariables::new();
    let revision = Revision::open(config.fqrn.clone(), fetcher, catalogs, &root, variables)
        .await
        .map_err(|error| chain(&error))?;
    let mut random = plan.seed.map_or_else(StdRng::from_os_rng, StdRng::seed_from_u64);
    let mut basket = Basket::default();
    let mut waiting = vec![(RepoPath::root(), false)];
    let mut listed = 0;
    while !waiting.is_empty() && listed < MAX_LISTINGS && !basket.is_full() {
        let next = random.random_range(0..waiting.len());
        let (directory, is_nested) = waiting.swap_remove(next);
        if is_nested && revision.statistics().loaded_catalogs >= MAX_CATALOGS {
            continue;
        }
        listed += 1;
        // A catalog that cannot be had is a fault of one server; others are asked for it anyway.
        let Ok(entries) = revision.list(&directory).await else { continue };
        for entry in entries.iter() {
            let path = directory.join(&entry.name);
            if entry.kind == EntryKind::Directory {
                if waiting.len() < MAX_WAITING {
                    waiting.push((path, entry.nested_mountpoint));
                }
            } else {
                basket.take(&revision, entry, &path, &mut random).await;
            }
        }
    }
    let mut objects: Vec<Sample> =
        basket.classes.into_iter().flat_map(|(found, _)| found).collect();
    objects.shuffle(&mut random);
    if objects.is_empty() {
        return Err("no files of a suitable size in the directories looked at".to_owned());
    }
    Ok(Samples { root: newest.root_catalog, objects })
}

/// The objects chosen so far, by size, and how many there were to choose from.
#[derive(Default)]
struct Basket {
    classes: [(Vec<Sample>, usize); SizeClass::ALL.len()],
    seen: HashSet<ObjectId>,
}

impl Basket {
    fn is_full(&self) -> bool {
        self.classes.iter().all(|(found, _)| found.len() == PER_CLASS)
    }

    async fn take(
        &mut self,
        revision: &Revision,
        entry: &DirectoryEntry,
        path: &RepoPath,
        random: &mut StdRng,
    ) {
        // External files are on other servers.
        if entry.external || entry.size == 0 {
            return;
        }
        match &entry.content {
            Content::Whole(id) => self.put(*id, entry.size, path, random),
            Content::Chunked(_) => {
                let Ok(chunks) = revision.chunks(path).await else { return };
                for chunk in chunks.iter().take(PER_CLASS) {
                    self.put(chunk.object, chunk.size, path, random);
                }
            }
            Content::Broken(_) | Content::None => {}
        }
    }

    /// Keeps each of those seen with the same chance.
    fn put(&mut self, id: ObjectId, size: u64, path: &RepoPath, random: &mut StdRng) {
        let class = SizeClass::ALL.iter().position(|class| SizeClass::of(size) == Some(*class));
        let Some(class) = class.filter(|_| self.seen.insert(id)) else { return };
        let (found, seen) = &mut self.classes[class];
        *seen += 1;
        let sample = Sample {
            id,
            bound: SizeBound::Exactly(size),
            path: id.server_path(),
            label: path.to_string(),
        };
        if found.len() < PER_CLASS {
            found.push(sample);
        } else if let Some(place) = found.get_mut(random.random_range(0..*seen)) {
            *place = sample;
        }
    }
}
