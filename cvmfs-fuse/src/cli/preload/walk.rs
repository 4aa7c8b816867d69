//! All objects of a part of a repository, one after the other, while many directories are listed
//! at once: each may need a catalog that is on a server.

use std::collections::HashSet;
use std::sync::Arc;

use cvmfs_core::catalog::{Content, DirectoryEntry, EntryKind};
use cvmfs_core::fetch::FetchOptions;
use cvmfs_core::object::ObjectId;
use cvmfs_core::path::RepoPath;
use cvmfs_core::revision::{Revision, RevisionError};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::Sender;

use super::selection::{Selection, Verdict};

/// Directories listed at a time.
const LISTINGS: usize = 8;

/// An object that is wanted, once.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Its name.
    pub(super) id: ObjectId,
    /// How it is fetched.
    pub(super) options: FetchOptions,
    /// Bytes, plain.
    pub(super) size: u64,
}

/// What a walk finds.
#[derive(Debug)]
pub(super) enum Found {
    /// An object.
    Object(Wanted),
    /// A path of which nobody can say what belongs to it, and why.
    Failed(RepoPath, String),
}

/// Hands everything wanted below `roots` to `found`. Ends early if nobody listens.
pub(super) async fn walk(
    revision: &Arc<Revision>,
    roots: &[(RepoPath, Arc<DirectoryEntry>)],
    selection: &Selection,
    found: &Sender<Found>,
) {
    let mut seen = HashSet::new();
    // Directories, and the row after which they are to be listed: long ones are read page by page.
    let mut waiting: Vec<(RepoPath, u32)> = Vec::new();
    for (path, entry) in roots {
        if enter(revision, path, entry, selection, &mut seen, &mut waiting, found).await.is_none() {
            return;
        }
    }
    let mut listings = FuturesUnordered::new();
    loop {
        while listings.len() < LISTINGS
            && let Some((directory, after)) = waiting.pop()
        {
            let revision = Arc::clone(revision);
            listings.push(async move {
                let listed = revision.page(&directory, after).await;
                (directory, listed)
            });
        }
        let Some((directory, listed)) = listings.next().await else { return };
        let page = match listed {
            Ok(page) => page,
            Err(error) => {
                if fail(directory, &error, found).await.is_none() {
                    return;
                }
                continue;
            }
        };
        if let Some(next) = page.next {
            waiting.push((directory.clone(), next));
        }
        for (_, entry) in &page.entries {
            let path = directory.join(&entry.name);
            let entered = enter(revision, &path, entry, selection, &mut seen, &mut waiting, found);
            if entered.await.is_none() {
                return;
            }
        }
    }
}

/// Takes one entry; `None` if nobody listens any more.
async fn enter(
    revision: &Arc<Revision>,
    path: &RepoPath,
    entry: &DirectoryEntry,
    selection: &Selection,
    seen: &mut HashSet<ObjectId>,
    waiting: &mut Vec<(RepoPath, u32)>,
    found: &Sender<Found>,
) -> Option<()> {
    let verdict = selection.judge(path);
    if entry.kind == EntryKind::Directory {
        if verdict != Verdict::Unwanted {
            waiting.push((path.clone(), 0));
        }
        return Some(());
    }
    if verdict != Verdict::Wanted {
        return Some(());
    }
    let label = path.to_string();
    match &entry.content {
        Content::Whole(id) if seen.insert(*id) => {
            let options = FetchOptions::content(entry, path, None, label);
            let wanted = Wanted { id: *id, options, size: entry.size };
            found.send(Found::Object(wanted)).await.ok()
        }
        Content::Chunked(_) => {
            let chunks = match revision.chunks(path).await {
                Ok(chunks) => chunks,
                Err(error) => return fail(path.clone(), &error, found).await,
            };
            for chunk in chunks.iter() {
                if seen.insert(chunk.object) {
                    let options = FetchOptions::content(entry, path, Some(chunk), label.clone());
                    let wanted = Wanted { id: chunk.object, options, size: chunk.size };
                    found.send(Found::Object(wanted)).await.ok()?;
                }
            }
            Some(())
        }
        Content::Broken(reason) => {
            let reason = (*reason).to_owned();
            found.send(Found::Failed(path.clone(), reason)).await.ok()
        }
        Content::Whole(_) | Content::None => Some(()),
    }
}

async fn fail(path: RepoPath, error: &RevisionError, found: &Sender<Found>) -> Option<()> {
    found.send(Found::Failed(path, cvmfs_core::chain::chain(error))).await.ok()
}
