//! Neighbours: who reads two files of a directory will read more of them, and who reads them in the
//! order of the listing (tar, cp, rsync) goes on with the directories behind it.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use cvmfs_core::catalog::{Content, DirectoryEntry, EntryKind};
use cvmfs_core::fetch::FetchOptions;
use cvmfs_core::object::ObjectId;
use cvmfs_core::path::RepoPath;
use cvmfs_core::revision::{Revision, RevisionError};
use cvmfs_core::share::{self, Owner};
use lru::LruCache;
use parking_lot::Mutex;

use super::Use;
use super::listings::{Entries, Listings};
use super::queue::{Queue, Wish};

/// Directories that are watched.
const MAX_DIRECTORIES: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// Larger files are fetched when they are asked for: their bytes take longer than the round trip,
/// and a wrong guess costs too much.
const MAX_SIZE: u64 = 256 << 10;
/// The same where somebody reads in the order of the listing, and is going to read all of them.
const MAX_WALK_SIZE: u64 = 2 << 20;
/// Files used in a directory before its others are fetched.
const EVIDENCE: usize = 2;
/// Files used in the order of the listing before it is taken for a walk.
const WALK_EVIDENCE: usize = 4;
/// The same where something else tells what is next: each one right behind the one before.
const STRICT_EVIDENCE: usize = 8;
/// Several threads that share a directory are near each other in its listing: as many as this.
const MAX_READERS: usize = 16;
/// Files used near each other before that is taken for a walk.
const NEAR_EVIDENCE: usize = 16;
/// Files fetched ahead at first; doubled with each one that proved right, in time.
const FIRST_WINDOW: usize = 32;
/// Most files ahead of a reader.
const MAX_WINDOW: usize = 256;
/// Most bytes of them.
const MAX_WINDOW_BYTES: u64 = 16 << 20;
/// Uses of a directory that are remembered before its order is known.
const MAX_BEFORE: usize = 16;
/// Directories that are listed to find them; some have no file at all.
const MAX_LISTED: usize = 64;
/// A walk may go up so many levels from where it is seen.
const MAX_UP: usize = 3;

/// What is known about readers in one directory.
#[derive(Debug, Clone, Default)]
struct Directory {
    used: usize,
    /// Where each name is in the listing, once that was needed.
    order: Option<Arc<HashMap<Box<[u8]>, usize>>>,
    /// What was used before that, in this order: little, since it is needed at the second use.
    before: Vec<Box<[u8]>>,
    /// Where in the listing the last one was.
    last: Option<usize>,
    /// Uses behind the one before, in the order of the listing.
    in_order: usize,
    /// Of these, right behind it.
    next_in_order: usize,
    /// Where in the listing the one furthest behind was.
    furthest: Option<usize>,
    /// Uses near that one.
    near: usize,
    window: usize,
    /// Proposed and not used yet, as far as it is known.
    outstanding: usize,
    /// Somebody is at work on it.
    busy: bool,
    /// All its small files were proposed.
    exhausted: bool,
}

impl Directory {
    /// Notes that a file is used.
    fn note(&mut self, name: &[u8]) {
        let Some(order) = &self.order else {
            if self.before.len() < MAX_BEFORE {
                self.before.push(name.into());
            }
            return;
        };
        let Some(&at) = order.get(name) else { return };
        if self.last.is_none_or(|last| at > last) {
            self.in_order += 1;
        }
        self.next_in_order += usize::from(self.last.is_some_and(|last| at == last + 1));
        self.last = Some(at);
        let furthest = self.furthest.unwrap_or(0);
        self.near += usize::from(at.abs_diff(furthest) <= MAX_READERS);
        self.furthest = Some(furthest.max(at));
    }

    /// Learns the order of the listing.
    fn learn(&mut self, entries: &Entries) {
        if self.order.is_none() {
            let places = entries.iter().enumerate();
            let places = places.map(|(at, entry)| (entry.name.clone(), at));
            self.order = Some(Arc::new(places.collect()));
            for name in std::mem::take(&mut self.before) {
                self.note(&name);
            }
        }
    }

    fn is_walked(&self) -> bool {
        (self.in_order >= WALK_EVIDENCE && self.in_order + 2 >= self.used)
            || (self.near >= NEAR_EVIDENCE && self.near + 2 >= self.used)
    }

    /// The same, beyond doubt.
    fn is_walked_strictly(&self) -> bool {
        self.next_in_order >= STRICT_EVIDENCE && self.next_in_order + 2 >= self.used
    }
}

/// What is passed on to a directory that a walk comes to next.
#[derive(Debug, Clone, Copy)]
struct Expected {
    window: usize,
    /// The walk is beyond doubt.
    strictly: bool,
}

/// All directories that are read from.
#[derive(Debug)]
pub struct Walks {
    queue: Arc<Queue>,
    directories: Mutex<LruCache<RepoPath, Directory>>,
    /// Directories that a walk comes to next: no evidence is waited for there.
    expected: Mutex<LruCache<RepoPath, Expected>>,
    listings: Mutex<Listings>,
}

impl Walks {
    /// Proposes to `queue`.
    pub fn new(queue: Arc<Queue>) -> Self {
        Self {
            queue,
            directories: Mutex::new(LruCache::new(MAX_DIRECTORIES)),
            expected: Mutex::new(LruCache::new(MAX_DIRECTORIES)),
            listings: Mutex::default(),
        }
    }

    /// Tells whether the directory of a file is read in order, beyond doubt.
    pub fn is_walked(&self, path: &RepoPath) -> bool {
        let Some(parent) = path.parent() else { return false };
        let directories = self.directories.lock();
        directories.peek(&parent).is_some_and(Directory::is_walked_strictly)
    }

    /// Notes the first use of a file, and proposes its neighbours in a task of its own: if
    /// `guesses` is not set, only where it is read in order.
    pub fn used(
        self: &Arc<Self>,
        path: &RepoPath,
        entry: &Arc<DirectoryEntry>,
        revision: &Arc<Revision>,
        (how, guesses): (Use, bool),
    ) {
        let Some(parent) = path.parent() else { return };
        if let Content::Whole(id) = &entry.content {
            self.queue.asked_for(id);
        }
        let expected = self.expected.lock().pop(&parent);
        {
            let mut directories = self.directories.lock();
            let directory = directories.get_or_insert_mut(parent.clone(), Directory::default);
            directory.used += 1;
            directory.note(path.name());
            if let Some(Expected { window, strictly }) = expected {
                // As if it had been walked from the start: it is, by its predecessor's evidence.
                directory.in_order += WALK_EVIDENCE;
                directory.near += NEAR_EVIDENCE;
                directory.next_in_order += if strictly { STRICT_EVIDENCE } else { 0 };
                directory.window = window;
            }
            if how == Use::Early {
                directory.outstanding = directory.outstanding.saturating_sub(1);
            }
            let has_evidence = directory.used >= EVIDENCE || expected.is_some();
            let has_enough = directory.outstanding > directory.window / 2;
            let is_done = directory.exhausted && !directory.is_walked();
            // Once its order is known, uses are enough to tell.
            let is_no_walk =
                !guesses && directory.order.is_some() && !directory.is_walked_strictly();
            if !has_evidence || has_enough || is_done || is_no_walk || directory.busy {
                return;
            }
            directory.busy = true;
            directory.window = (directory.window * 2).clamp(FIRST_WINDOW, MAX_WINDOW);
        }
        let (walks, path, revision) = (Arc::clone(self), path.clone(), Arc::clone(revision));
        let look = async move { walks.look_ahead(&parent, &path, &revision, guesses).await };
        tokio::spawn(share::scope(Owner::Ahead, look));
    }

    async fn look_ahead(
        &self,
        parent: &RepoPath,
        path: &RepoPath,
        revision: &Arc<Revision>,
        guesses: bool,
    ) {
        let proposed = self.propose_around(parent, path, revision, guesses).await;
        let mut directories = self.directories.lock();
        if let Some(directory) = directories.get_mut(parent) {
            directory.busy = false;
            directory.outstanding += proposed;
        }
    }

    /// Lists a directory; what was listed lately is at hand.
    async fn list(
        &self,
        directory: &RepoPath,
        revision: &Arc<Revision>,
    ) -> Result<Entries, RevisionError> {
        let root = revision.root_hash();
        if let Some(entries) = self.listings.lock().get(root, directory) {
            return Ok(entries);
        }
        let entries = revision.list(directory).await?;
        self.listings.lock().put(root, directory, &entries);
        Ok(entries)
    }

    /// Proposes what is behind a file, first in its directory and, in a walk, behind that.
    async fn propose_around(
        &self,
        parent: &RepoPath,
        path: &RepoPath,
        revision: &Arc<Revision>,
        guesses: bool,
    ) -> usize {
        let Ok(entries) = self.list(parent, revision).await else { return 0 };
        let Some(at) = entries.iter().position(|entry| &*entry.name == path.name()) else {
            return 0;
        };
        let (window, is_walked, strictly) = {
            let mut directories = self.directories.lock();
            let Some(directory) = directories.get_mut(parent) else { return 0 };
            directory.learn(&entries);
            if !guesses && !directory.is_walked_strictly() {
                return 0;
            }
            (directory.window, directory.is_walked(), directory.is_walked_strictly())
        };
        let mut ahead = Ahead {
            walks: self,
            revision,
            left: window,
            bytes: MAX_WINDOW_BYTES,
            proposed: 0,
            strictly,
        };
        if is_walked {
            ahead.walk(parent, entries, at + 1).await;
        } else {
            let (before, behind) = entries.split_at(at);
            for entry in behind.iter().skip(1).chain(before) {
                ahead.offer(parent, entry, MAX_SIZE);
            }
            if !ahead.is_done()
                && let Some(directory) = self.directories.lock().get_mut(parent)
            {
                directory.exhausted = true;
            }
        }
        ahead.proposed
    }
}

/// One look ahead.
struct Ahead<'a> {
    walks: &'a Walks,
    revision: &'a Arc<Revision>,
    left: usize,
    bytes: u64,
    proposed: usize,
    /// The walk is beyond doubt.
    strictly: bool,
}

impl Ahead<'_> {
    fn is_done(&self) -> bool {
        self.left == 0 || self.bytes == 0
    }

    /// Proposes a file that is not larger than `most`.
    fn offer(&mut self, directory: &RepoPath, entry: &DirectoryEntry, most: u64) {
        let Some((id, size)) = small(entry, most) else { return };
        if self.is_done() {
            return;
        }
        self.left -= 1;
        self.bytes = self.bytes.saturating_sub(size);
        // Most were proposed from further back.
        if !self.walks.queue.is_news(&id) {
            return;
        }
        let path = directory.join(&entry.name);
        let options = FetchOptions::content(entry, &path, None, path.to_string());
        self.proposed +=
            usize::from(self.walks.queue.propose(Wish { id, size, options, group: None }));
    }

    /// Goes on as a walk does: entries in the order of the listing, directories where they stand,
    /// then behind the directory itself.
    async fn walk(&mut self, start: &RepoPath, entries: Entries, from: usize) {
        let mut listed = 0;
        let mut seen = HashSet::new();
        let mut stack = vec![(start.clone(), entries, from)];
        let (mut top, mut ups) = (start.clone(), 0);
        while !self.is_done() && listed < MAX_LISTED {
            let Some((directory, entries, at)) = stack.last_mut() else {
                // Behind the directory where the walk was seen, or an ancestor of it.
                let Some(parent) = top.parent().filter(|_| ups < MAX_UP) else { return };
                let Ok(entries) = self.walks.list(&parent, self.revision).await else { return };
                let Some(at) = entries.iter().position(|entry| &*entry.name == top.name()) else {
                    return;
                };
                ups += 1;
                listed += 1;
                stack.push((parent.clone(), entries, at + 1));
                top = parent;
                continue;
            };
            let Some(entry) = entries.get(*at).cloned() else {
                stack.pop();
                continue;
            };
            *at += 1;
            let directory = directory.clone();
            if entry.kind != EntryKind::Directory {
                self.offer(&directory, &entry, MAX_WALK_SIZE);
                continue;
            }
            let below = directory.join(&entry.name);
            if seen.insert(below.clone()) {
                listed += 1;
                // Its catalog is fetched by this, if it has one.
                let Ok(entries) = self.walks.list(&below, self.revision).await else { continue };
                let window = FIRST_WINDOW.max(self.left / 2);
                let expected = Expected { window, strictly: self.strictly };
                self.walks.expected.lock().put(below.clone(), expected);
                stack.push((below, entries, 0));
            }
        }
    }
}

/// A file that is worth a guess.
fn small(entry: &DirectoryEntry, most: u64) -> Option<(ObjectId, u64)> {
    match entry.content {
        Content::Whole(id) if (1..=most).contains(&entry.size) && !entry.external => {
            Some((id, entry.size))
        }
        _ => None,
    }
}
