//! Objects fetched ahead of their use, because cold use is bound by the round trip: programs ask for
//! one file after the other, and each costs one.
//!
//! | module | what it holds |
//! |---|---|
//! | [`queue`] | what is to be fetched, bounded in objects and bytes; a customer of the fetcher |
//! | [`walk`] | neighbours of files that are read in one directory, or in the order of a walk |
//! | [`chunks`] | the next chunks of a file that is read from start to end |
//! | [`profile`] | what followed when the same program was started before |
//! | [`python`] | what a module imports, and what those import |
//! | [`bundle`] | what the publisher says is needed along with a file |
//! | [`group`] | wishes that are dropped together |
//! | `listings` | directories that a walk has listed |
//! | `pace` | a bound of bandwidth |
//!
//! Whatever is proposed here is only a guess: nothing waits for it, nothing fails with it, and what
//! is asked for joins a download that is under way.

pub mod bundle;
pub mod chunks;
pub mod group;
mod listings;
mod pace;
pub mod profile;
pub mod python;
pub mod queue;
pub mod walk;

use std::sync::Arc;

use cvmfs_core::cache::CachedObject;
use cvmfs_core::catalog::Chunk;
use cvmfs_core::fetch::FetchOptions;
use cvmfs_core::object::ObjectId;
use cvmfs_core::repository::Repository;
use cvmfs_core::revision::Revision;

use crate::fs::inode::Inode;
use bundle::Bundles;
use chunks::ChunkReaders;
use profile::Item;
use profile::learner::Learner;
use python::Imports;
use queue::{Queue, Wish};
use walk::Walks;

/// How a first use of an object went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is not here, and somebody waits for it.
    Missed,
    /// It is here because it was fetched ahead.
    Early,
    /// It was here.
    Here,
    /// It was here, and had to be read from disk: so may be what is used next.
    FromDisk,
}

/// The first use of a whole file or a chunk since it was closed.
#[derive(Debug)]
pub struct FirstUse<'a> {
    /// The file.
    pub inode: &'a Inode,
    /// Its content, or that of the chunk.
    pub id: &'a ObjectId,
    /// If it is one.
    pub chunk: Option<&'a Chunk>,
    /// The thread that asks; 0 if it is not known.
    pub caller: u32,
    /// Where the file is.
    pub revision: &'a Arc<Revision>,
    /// How it went.
    pub how: Use,
}

/// Watches what is used of one repository, and fetches what may be used next.
#[derive(Debug)]
pub struct Prefetcher {
    queue: Arc<Queue>,
    walks: Arc<Walks>,
    chunks: ChunkReaders,
    learner: Arc<Learner>,
    bundles: Arc<Bundles>,
    imports: Arc<Imports>,
}

impl Prefetcher {
    /// Fetches objects of a repository, as fast as it may.
    pub fn new(repository: &Repository) -> Self {
        let (fqrn, fetcher) = (repository.fqrn().as_str(), repository.fetcher());
        let queue = Arc::new(Queue::new(Arc::clone(fetcher), repository.ahead_bandwidth()));
        Self {
            walks: Arc::new(Walks::new(Arc::clone(&queue))),
            learner: Learner::new(fqrn, fetcher, &queue),
            bundles: Arc::new(Bundles::new(fetcher, &queue)),
            imports: Arc::new(Imports::new(fetcher, &queue)),
            queue,
            chunks: ChunkReaders::default(),
        }
    }

    /// To be told of each first use. Must be called inside the runtime; returns at once.
    pub fn used(&self, first: &FirstUse<'_>) {
        let FirstUse { inode, id, chunk, caller, revision, how } = *first;
        let size = chunk.map_or(inode.entry.size, |chunk| chunk.size);
        if how == Use::FromDisk {
            self.queue.reads_from_disk();
        }
        // External data are found by their path, which a profile does not have.
        let is_expected =
            !inode.entry.external && self.learner.used(caller, Item { id: *id, size });
        if how == Use::Here {
            return;
        }
        // One that was fetched ahead has been expected: what needs it is under way already.
        if how == Use::Missed && chunk.is_none_or(|chunk| chunk.offset == 0) {
            self.bundles.used(&inode.path, revision);
        }
        if is_expected {
            // What follows is known better than by its neighbours.
            self.queue.asked_for(id);
        } else if chunk.is_none() {
            let guesses = !self.imports.knows(&inode.path, id);
            self.walks.used(&inode.path, &inode.entry, revision, (how, guesses));
        }
    }

    /// To be told of the same first use when the object is here. As [`Self::used`].
    pub fn arrived(&self, first: &FirstUse<'_>, object: &CachedObject) {
        let FirstUse { inode, id, chunk, revision, how, .. } = *first;
        if how == Use::Here || chunk.is_some() {
            return;
        }
        if self.walks.is_walked(&inode.path) {
            self.imports.stop(&inode.path);
        } else {
            self.imports.used(&inode.path, id, object, revision);
        }
    }

    /// Returns who learns from what is used.
    pub fn learner(&self) -> Arc<Learner> {
        Arc::clone(&self.learner)
    }

    /// To be told of each read of a chunked file. As [`Self::used`].
    pub fn read_chunk(&self, inode: &Inode, chunks: &[Chunk], piece: usize, inside: u64) {
        for next in self.chunks.next(inode.ino, chunks, piece, inside) {
            let Some(chunk) = chunks.get(next) else { break };
            let label = inode.path.to_string();
            let options = FetchOptions::content(&inode.entry, &inode.path, Some(chunk), label);
            self.queue.propose(Wish { id: chunk.object, size: chunk.size, options, group: None });
        }
    }
}
