//! Where modules are: the directories of packages, as the catalogs list them.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use cvmfs_core::catalog::{DirectoryEntry, EntryKind};
use cvmfs_core::hash::ContentHash;
use cvmfs_core::path::RepoPath;
use cvmfs_core::revision::{Revision, RevisionError};
use lru::LruCache;
use parking_lot::Mutex;

use super::pyc::Import;

/// Where compiled modules are, beside their sources.
pub const CACHE: &[u8] = b"__pycache__";
/// The file of a package itself.
const INIT: &[u8] = b"__init__";
/// Directories below the one of the standard library in which modules are found, too.
const BELOW_ROOT: [&[u8]; 2] = [b"lib-dynload", b"site-packages"];
/// Packages whose directory is remembered.
const MAX_PACKAGES: NonZeroUsize = NonZeroUsize::new(512).expect("not zero");
/// Modules of one of them; a larger directory is none.
const MAX_MODULES: usize = 4096;
/// Directories in which absolute imports are looked for.
const MAX_ROOTS: usize = 16;
/// How deep packages may be.
const MAX_DEPTH: usize = 32;

/// The file of a module.
#[derive(Debug, Clone)]
pub struct Module {
    /// Where it is.
    pub path: RepoPath,
    /// What the catalog says of it.
    pub entry: Arc<DirectoryEntry>,
}

/// What a name in a package may be.
#[derive(Debug, Default)]
struct Member {
    is_directory: bool,
    file: Option<Module>,
}

/// The modules of one directory.
#[derive(Debug)]
struct Package {
    root: ContentHash,
    tag: Arc<[u8]>,
    members: HashMap<Box<[u8]>, Member>,
}

/// All directories that were looked into.
#[derive(Debug)]
pub struct Packages {
    known: Mutex<LruCache<RepoPath, Arc<Package>>>,
    /// The first ones are asked first.
    roots: Mutex<Vec<RepoPath>>,
}

impl Default for Packages {
    fn default() -> Self {
        Self { known: Mutex::new(LruCache::new(MAX_PACKAGES)), roots: Mutex::default() }
    }
}

impl Packages {
    /// Returns where absolute imports are looked for, that of the package `home` among them; `None`
    /// if catalogs cannot be had now.
    pub async fn roots(
        &self,
        home: &RepoPath,
        tag: &Arc<[u8]>,
        revision: &Arc<Revision>,
    ) -> Option<Vec<RepoPath>> {
        let mut root = home.clone();
        for _ in 0..MAX_DEPTH {
            let package = self.package(&root, tag, revision).await?;
            match root.parent() {
                Some(parent) if package.members.contains_key(INIT) => root = parent,
                _ => break,
            }
        }
        if !self.roots.lock().contains(&root) {
            let package = self.package(&root, tag, revision).await?;
            let below = BELOW_ROOT.into_iter().filter(|name| package.members.contains_key(*name));
            let below: Vec<_> = below.map(|name| root.join(name)).collect();
            let mut roots = self.roots.lock();
            for new in std::iter::once(root).chain(below) {
                if !roots.contains(&new) {
                    roots.push(new);
                }
            }
            let surplus = roots.len().saturating_sub(MAX_ROOTS);
            roots.drain(..surplus);
        }
        Some(self.roots.lock().clone())
    }

    /// Returns the files that an import uses when it is found below `base`: those of the packages
    /// on the way, the module, and items that are modules. None if it is not there.
    pub async fn find(
        &self,
        import: &Import,
        base: RepoPath,
        tag: &Arc<[u8]>,
        revision: &Arc<Revision>,
    ) -> Option<Vec<Module>> {
        let mut found = Vec::new();
        let mut directory = base;
        for part in import.name.split(|&byte| byte == b'.').filter(|part| !part.is_empty()) {
            let package = self.package(&directory, tag, revision).await?;
            let Some(member) = package.members.get(part) else { return Some(found) };
            if let Some(init) = self.init(&directory, part, member, tag, revision).await? {
                found.push(init);
                directory = directory.join(part);
            } else {
                // The last one, or there is nothing below it.
                found.extend(member.file.clone());
                return Some(found);
            }
        }
        let package = self.package(&directory, tag, revision).await?;
        for item in &import.items {
            let Some(member) = package.members.get(item) else { continue };
            match self.init(&directory, item, member, tag, revision).await? {
                Some(init) => found.push(init),
                None => found.extend(member.file.clone()),
            }
        }
        Some(found)
    }

    /// Returns the file of a package in a directory, if it is one.
    async fn init(
        &self,
        directory: &RepoPath,
        name: &[u8],
        member: &Member,
        tag: &Arc<[u8]>,
        revision: &Arc<Revision>,
    ) -> Option<Option<Module>> {
        if !member.is_directory {
            return Some(None);
        }
        let package = self.package(&directory.join(name), tag, revision).await?;
        Some(package.members.get(INIT).and_then(|init| init.file.clone()))
    }

    async fn package(
        &self,
        directory: &RepoPath,
        tag: &Arc<[u8]>,
        revision: &Arc<Revision>,
    ) -> Option<Arc<Package>> {
        let root = revision.root_hash();
        if let Some(known) = self.known.lock().get(directory)
            && known.root == root
            && known.tag == *tag
        {
            return Some(Arc::clone(known));
        }
        let members = members(directory, tag, revision).await?;
        let package = Arc::new(Package { root, tag: Arc::clone(tag), members });
        self.known.lock().put(directory.clone(), Arc::clone(&package));
        Some(package)
    }
}

async fn members(
    directory: &RepoPath,
    tag: &[u8],
    revision: &Arc<Revision>,
) -> Option<HashMap<Box<[u8]>, Member>> {
    let mut members: HashMap<Box<[u8]>, Member> = HashMap::new();
    let entries = match revision.list(directory).await {
        Ok(entries) if entries.len() <= MAX_MODULES => entries,
        Ok(_) | Err(RevisionError::NotFound(_) | RevisionError::NotADirectory(_)) => {
            return Some(members);
        }
        Err(_) => return None,
    };
    let mut has_cache = false;
    for entry in entries.iter() {
        let name = &*entry.name;
        if entry.kind == EntryKind::Directory && name == CACHE {
            has_cache = true;
        } else if entry.kind == EntryKind::Directory {
            members.entry(name.into()).or_default().is_directory = true;
        } else if entry.kind == EntryKind::Regular
            && name.ends_with(b".so")
            && let Some(stem) = name.split(|&byte| byte == b'.').next()
        {
            let file = Module { path: directory.join(name), entry: Arc::clone(entry) };
            members.entry(stem.into()).or_default().file = Some(file);
        }
    }
    if has_cache {
        let cache = directory.join(CACHE);
        let compiled = revision.list(&cache).await.ok()?;
        for entry in compiled.iter().take(MAX_MODULES) {
            let stem = entry.name.strip_suffix(b".pyc").and_then(|name| name.strip_suffix(tag));
            let Some(stem) = stem.and_then(|stem| stem.strip_suffix(b".")) else { continue };
            let member = members.entry(stem.into()).or_default();
            // One in C comes first.
            if member.file.is_none() && entry.kind == EntryKind::Regular {
                let path = cache.join(&entry.name);
                member.file = Some(Module { path, entry: Arc::clone(entry) });
            }
        }
    }
    Some(members)
}
