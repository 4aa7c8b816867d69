//! From one revision to the next under a live mount: what differs, and what the kernel must drop.
//!
//! Only directories that the kernel knows are compared, and of those only the ones below catalogs
//! that changed. Names whose row differs are taken back one by one; everything else stays in the
//! kernel as it is. What the kernel still uses of the old revision (open files, mappings, working
//! directories that are gone) is bound to it and goes on as before.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cvmfs_core::catalog::{DirectoryEntry, EntryKind};
use cvmfs_core::path::RepoPath;
use cvmfs_core::revision::{Revision, RevisionError};

use super::Ino;

/// Longest comparison of two revisions. What is left then counts as changed, which costs the kernel what it kept of
/// it and nothing else: catalogs that take seconds for each directory must not hold up later revisions.
const LONGEST: Duration = Duration::from_secs(60);

/// Something the kernel must forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A name in a directory: it leads elsewhere now, or nowhere, or no longer nowhere.
    Name {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Box<[u8]>,
    },
    /// Attributes and listing of a directory.
    Directory(Ino),
}

/// How a name changed.
#[derive(Debug)]
pub(super) struct NameChange {
    pub(super) name: Box<[u8]>,
    pub(super) old: Option<Arc<DirectoryEntry>>,
    pub(super) new: Option<Arc<DirectoryEntry>>,
}

impl NameChange {
    /// Tells whether a directory stays one: it keeps its number, only its attributes differ.
    pub(super) fn is_directory_kept(&self) -> bool {
        let is_directory = |entry: &Option<Arc<DirectoryEntry>>| {
            entry.as_ref().is_some_and(|entry| entry.kind == EntryKind::Directory)
        };
        is_directory(&self.old) && is_directory(&self.new)
    }
}

/// What differs in one directory that the kernel knows.
#[derive(Debug)]
pub(super) enum DirectoryChange {
    /// These names.
    Names(RepoPath, Vec<NameChange>),
    /// All of it: the directory is gone, too long to be compared, or nobody can tell.
    Everything(RepoPath),
}

/// Compares directories, given shallow to deep or in any other order.
pub(super) async fn differences(
    old: &Revision,
    new: &Revision,
    mut directories: Vec<RepoPath>,
) -> Vec<DirectoryChange> {
    directories.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    let mut changes = Vec::new();
    let mut same: Option<RepoPath> = None;
    let end = Instant::now() + LONGEST;
    for directory in directories {
        if Instant::now() > end {
            changes.push(DirectoryChange::Everything(directory));
            continue;
        }
        if same.as_ref().is_some_and(|same| is_below(&directory, same)) {
            continue;
        }
        match new.same_below(old, &directory).await {
            Ok(true) => same = Some(directory),
            Ok(false) => changes.extend(compare(old, new, directory).await),
            Err(_) => changes.push(DirectoryChange::Everything(directory)),
        }
    }
    changes
}

fn is_below(path: &RepoPath, ancestor: &RepoPath) -> bool {
    path.as_bytes()
        .strip_prefix(ancestor.as_bytes())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

async fn compare(old: &Revision, new: &Revision, directory: RepoPath) -> Option<DirectoryChange> {
    let (before, after) = match (old.list(&directory).await, new.list(&directory).await) {
        (Ok(before), Ok(after)) => (before, after),
        // Known to the kernel from an even earlier revision, and in neither of these.
        (
            Err(RevisionError::NotFound(_) | RevisionError::NotADirectory(_)),
            Err(RevisionError::NotFound(_) | RevisionError::NotADirectory(_)),
        ) => return None,
        _ => return Some(DirectoryChange::Everything(directory)),
    };
    let mut left: HashMap<&[u8], &Arc<DirectoryEntry>> =
        before.iter().map(|entry| (&*entry.name, entry)).collect();
    let mut names = Vec::new();
    for entry in after.iter() {
        let old = left.remove(&*entry.name);
        if old.is_none_or(|old| old.identity != entry.identity) {
            let (old, new) = (old.cloned(), Some(Arc::clone(entry)));
            names.push(NameChange { name: entry.name.clone(), old, new });
        }
    }
    names.extend(left.into_values().map(|old| NameChange {
        name: old.name.clone(),
        old: Some(Arc::clone(old)),
        new: None,
    }));
    (!names.is_empty()).then_some(DirectoryChange::Names(directory, names))
}
