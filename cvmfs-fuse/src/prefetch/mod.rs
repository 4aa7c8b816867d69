//! Objects fetched ahead of their use, because cold use is bound by the round trip: programs ask for
//! one file after the other, and each costs one.
//!
//! | module | what it holds |
//! |---|---|
//! | [`queue`] | what is to be fetched, bounded in objects and bytes; a customer of the fetcher |
//! | [`walk`] | neighbours of files that are read in one directory, or in the order of a walk |
//! | [`chunks`] | the next chunks of a file that is read from start to end |
//!
//! Whatever is proposed here is only a guess: nothing waits for it, nothing fails with it, and what
//! is asked for joins a download that is under way.

pub mod chunks;
pub mod queue;
pub mod walk;

use std::sync::Arc;

use cvmfs_core::catalog::Chunk;
use cvmfs_core::fetch::{FetchOptions, Fetcher};
use cvmfs_core::revision::Revision;

use crate::fs::inode::Inode;
use chunks::ChunkReaders;
use queue::{Queue, Wish};
use walk::Walks;

/// How a first use of an object went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is not here, and somebody waits for it.
    Missed,
    /// It is here because it was fetched ahead.
    Early,
}

/// Watches what is used of one repository, and fetches what may be used next.
#[derive(Debug)]
pub struct Prefetcher {
    queue: Arc<Queue>,
    walks: Arc<Walks>,
    chunks: ChunkReaders,
}

impl Prefetcher {
    /// Fetches with `fetcher`.
    pub fn new(fetcher: &Arc<Fetcher>) -> Self {
        let queue = Arc::new(Queue::new(Arc::clone(fetcher)));
        Self {
            walks: Arc::new(Walks::new(Arc::clone(&queue))),
            queue,
            chunks: ChunkReaders::default(),
        }
    }

    /// To be told of the first use of a whole file since it was closed. Must be called inside the
    /// runtime; returns at once.
    pub fn used(&self, inode: &Inode, revision: &Arc<Revision>, how: Use) {
        self.walks.used(&inode.path, &inode.entry, revision, how);
    }

    /// To be told of each read of a chunked file. As [`Self::used`].
    pub fn read_chunk(&self, inode: &Inode, chunks: &[Chunk], piece: usize, inside: u64) {
        for next in self.chunks.next(inode.ino, chunks, piece, inside) {
            let Some(chunk) = chunks.get(next) else { break };
            let label = inode.path.to_string();
            let options = FetchOptions::content(&inode.entry, &inode.path, Some(chunk), label);
            self.queue.propose(Wish { id: chunk.object, size: chunk.size, options });
        }
    }
}
