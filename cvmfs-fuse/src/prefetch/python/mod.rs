//! Python: a module that is used says what it imports, and so do those in turn, long before the
//! interpreter gets there.
//!
//! Without this an import costs a round trip for each module, one after the other, since each is
//! found by running the one before. The imports of a compiled module can be read from it ([`pyc`]),
//! and where they are from the catalogs; what comes is read in turn.

pub mod packages;
pub mod pyc;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cvmfs_core::cache::CachedObject;
use cvmfs_core::catalog::{Content, DirectoryEntry};
use cvmfs_core::fetch::{FetchOptions, Fetcher};
use cvmfs_core::object::ObjectId;
use cvmfs_core::path::RepoPath;
use cvmfs_core::revision::Revision;
use cvmfs_core::share::{self, Owner};
use lru::LruCache;
use parking_lot::Mutex;

use super::queue::{Queue, Wish};
use packages::{Module, Packages};
use pyc::Import;

/// Input of the fuzz target `pyc`.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz_imports(data: &[u8]) -> Option<usize> {
    pyc::imports(data).map(|imports| imports.len())
}

/// Larger modules, in C mostly, are fetched when they are asked for: a wrong guess costs too much.
const MAX_SIZE: u64 = 4 << 20;
/// Largest compiled module that is read: most have some KiB.
const MAX_READ: u64 = 1 << 20;
/// Modules that were read, and those that were proposed.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");
/// Packages that are remembered as gone through.
const MAX_STOPPED: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// Plain bytes that one module may bring along by all that it imports, and they in turn.
const MAX_CHAIN_BYTES: u64 = 64 << 20;

/// Follows imports of one repository.
pub struct Imports {
    fetcher: Arc<Fetcher>,
    queue: Arc<Queue>,
    packages: Packages,
    read: Mutex<LruCache<ObjectId, ()>>,
    proposed: Mutex<LruCache<ObjectId, ()>>,
    /// Packages through which somebody goes file by file.
    stopped: Mutex<LruCache<RepoPath, ()>>,
    /// A version came by that is not known.
    is_lost: AtomicBool,
}

impl std::fmt::Debug for Imports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Imports").finish_non_exhaustive()
    }
}

/// What one used module brings along.
#[derive(Debug, Clone)]
struct Chain {
    /// The package of that module.
    root: RepoPath,
    left: Arc<AtomicU64>,
    revision: Arc<Revision>,
}

/// Where a compiled module is, and what the interpreter calls its version.
#[derive(Debug, Clone)]
struct Home {
    package: RepoPath,
    tag: Arc<[u8]>,
}

impl Home {
    /// Of `PACKAGE/__pycache__/NAME.TAG.pyc`.
    fn of(path: &RepoPath) -> Option<Self> {
        let stem = path.name().strip_suffix(b".pyc")?;
        let dot = stem.iter().position(|&byte| byte == b'.')?;
        let cache = path.parent().filter(|parent| parent.name() == packages::CACHE)?;
        Some(Self { package: cache.parent()?, tag: stem[dot + 1..].into() })
    }
}

impl Imports {
    /// Proposes to `queue`.
    pub fn new(fetcher: &Arc<Fetcher>, queue: &Arc<Queue>) -> Self {
        Self {
            fetcher: Arc::clone(fetcher),
            queue: Arc::clone(queue),
            packages: Packages::default(),
            read: Mutex::new(LruCache::new(MAX_REMEMBERED)),
            proposed: Mutex::new(LruCache::new(MAX_REMEMBERED)),
            stopped: Mutex::new(LruCache::new(MAX_STOPPED)),
            is_lost: AtomicBool::new(false),
        }
    }

    /// Tells whether what follows a file is known better than by its neighbours.
    pub fn knows(&self, path: &RepoPath, id: &ObjectId) -> bool {
        let is_module = Home::of(path).is_some() || is_extension(path.name());
        (is_module && !self.is_lost.load(Ordering::Relaxed)) || self.proposed.lock().contains(id)
    }

    /// To be told of a whole file that is used for the first time, and is here now. Must be called
    /// inside the runtime; returns at once.
    pub fn used(
        self: &Arc<Self>,
        path: &RepoPath,
        id: &ObjectId,
        object: &CachedObject,
        revision: &Arc<Revision>,
    ) {
        let Some(home) = Home::of(path) else { return };
        if self.read.lock().contains(id) {
            return;
        }
        self.stopped.lock().pop(&home.package);
        let chain = Chain {
            root: home.package.clone(),
            left: Arc::new(AtomicU64::new(MAX_CHAIN_BYTES)),
            revision: Arc::clone(revision),
        };
        let (imports, id, object) = (Arc::clone(self), *id, object.clone());
        let follow = async move { imports.follow(home, id, object, chain).await };
        tokio::spawn(share::scope(Owner::Ahead, follow));
    }

    /// Somebody goes through all files of a package, and imports nothing. Other packages go on:
    /// modules that import each other by the alphabet look like that, too.
    pub fn stop(&self, path: &RepoPath) {
        if let Some(home) = Home::of(path) {
            self.stopped.lock().put(home.package, ());
        }
    }

    /// Proposes what a module imports.
    async fn follow(self: Arc<Self>, home: Home, id: ObjectId, object: CachedObject, chain: Chain) {
        if object.len() > MAX_READ || self.read.lock().put(id, ()).is_some() {
            return;
        }
        let imports = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; usize::try_from(object.len()).ok()?];
            let read = object.read_at(&mut bytes, 0).ok()?;
            bytes.truncate(read);
            pyc::imports(&bytes)
        });
        let Ok(Some(imports)) = imports.await else {
            self.is_lost.store(true, Ordering::Relaxed);
            return;
        };
        if !imports.is_empty() {
            self.is_lost.store(false, Ordering::Relaxed);
        }
        for import in &imports {
            let Some(modules) = self.find(import, &home, &chain.revision).await else { return };
            for module in modules {
                if self.stopped.lock().contains(&chain.root) {
                    return;
                }
                self.propose(module, &chain);
            }
        }
    }

    /// Finds the files of an import; `None` if catalogs cannot be had now.
    async fn find(
        &self,
        import: &Import,
        home: &Home,
        revision: &Arc<Revision>,
    ) -> Option<Vec<Module>> {
        let bases = match import.level.checked_sub(1) {
            Some(up) => {
                let mut base = Some(home.package.clone());
                (0..up).for_each(|_| base = base.as_ref().and_then(RepoPath::parent));
                base.into_iter().collect()
            }
            None => self.packages.roots(&home.package, &home.tag, revision).await?,
        };
        for base in bases {
            let found = self.packages.find(import, base, &home.tag, revision).await?;
            if !found.is_empty() {
                return Some(found);
            }
        }
        Some(Vec::new())
    }

    fn propose(self: &Arc<Self>, module: Module, chain: &Chain) {
        let Module { path, entry } = module;
        let Some(id) = worth(&entry) else { return };
        // Most are imported many times, and must not use up the chain each time.
        if self.proposed.lock().contains(&id) {
            return;
        }
        let taken = chain.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(entry.size)
        });
        if taken.is_err() {
            return;
        }
        self.proposed.lock().put(id, ());
        let size = entry.size;
        let options = FetchOptions::content(&entry, &path, None, path.to_string());
        let then = Home::of(&path).map(|home| {
            let (imports, chain) = (Arc::clone(self), chain.clone());
            Box::new(move || {
                // Not as one that is used: only who reads it uses it.
                if let Ok(Some(object)) = imports.fetcher.cache().open(&id)
                    && object.len() == size
                {
                    let follow = imports.follow(home, id, object, chain);
                    tokio::spawn(share::scope(Owner::Ahead, follow));
                }
            }) as Box<dyn FnOnce() + Send>
        });
        self.queue.propose_then(Wish { id, size, options, group: None }, then);
    }
}

/// Tells whether a name is that of a module in C, as its build names it.
fn is_extension(name: &[u8]) -> bool {
    let holds = |part: &[u8]| name.windows(part.len()).any(|window| window == part);
    name.ends_with(b".so") && (holds(b".cpython-") || holds(b".abi3."))
}

/// A file that is worth a guess.
fn worth(entry: &DirectoryEntry) -> Option<ObjectId> {
    match entry.content {
        Content::Whole(id) if (1..=MAX_SIZE).contains(&entry.size) && !entry.external => Some(id),
        _ => None,
    }
}
