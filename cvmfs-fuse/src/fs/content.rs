//! The open content of inodes: whole objects and chunks, kept by inode and not by handle.
//!
//! Reads work on any inode that the kernel knows, opened or not: what is not open is opened again.
//! Open objects are bounded over all files and for each file (`objects`). No lock is held while
//! anything is fetched, read or closed.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use cvmfs_core::cache::CachedObject;
use cvmfs_core::catalog::{Chunk, Content};
use cvmfs_core::fetch::{FetchOptions, Fetcher};
use cvmfs_core::object::ObjectId;
use cvmfs_core::revision::Revision;
use lru::LruCache;
use parking_lot::Mutex;

use super::buffers::{Buffer, Buffers};
use super::inode::Inode;
use super::objects::{OpenObjects, Piece};
use super::repeats::Repeats;
use super::suspects::Suspects;
use super::{FsError, Ino};
use crate::prefetch::profile::learner::Learner;
use crate::prefetch::{FirstUse, Prefetcher, Use};

/// Chunks of all lists that are kept, some 20 MiB: the list of a 100 GB file in chunks of 8 MiB has 12,000. The list
/// used last is kept whatever its length.
const MAX_CHUNKS_KEPT: usize = 1 << 18;
/// Chunk lists kept.
const MAX_CHUNK_LISTS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// Open objects and chunk lists of a mount.
pub struct ContentTable {
    prefetcher: Option<Prefetcher>,
    objects: Mutex<OpenObjects>,
    chunk_lists: Mutex<LruCache<Ino, Arc<[Chunk]>>>,
    repeats: Repeats,
    buffers: Arc<Buffers>,
    /// `None` where nobody would succeed us.
    suspects: Option<Suspects>,
}

impl ContentTable {
    /// Makes an empty table for up to `objects` open objects; `prefetcher` is told of what is used.
    pub fn new(objects: usize, prefetcher: Option<Prefetcher>) -> Self {
        let bound = NonZeroUsize::new(objects).unwrap_or(NonZeroUsize::MIN);
        Self {
            prefetcher,
            objects: Mutex::new(OpenObjects::new(bound)),
            chunk_lists: Mutex::new(LruCache::new(MAX_CHUNK_LISTS)),
            repeats: Repeats::default(),
            buffers: Arc::default(),
            suspects: None,
        }
    }

    /// Notes what is under way for a successor, and refuses what killed predecessors.
    pub fn with_suspects(mut self, suspects: Suspects) -> Self {
        self.suspects = Some(suspects);
        self
    }

    /// Prepares a file for reading: fetches a whole object, loads a chunk list. Returns the file that
    /// has all of the content, if there is one.
    pub async fn open(
        &self,
        inode: &Inode,
        caller: u32,
        fetcher: &Fetcher,
        revisions: &[Arc<Revision>],
    ) -> Result<Option<Arc<File>>, FsError> {
        match &inode.entry.content {
            Content::Whole(id) => {
                let source = Source { inode, piece: 0, id, chunk: None, caller, revisions };
                let object = self.object(&source, fetcher).await?;
                // Should its length not be that of the inode, reads through us say so.
                let is_whole = object.len() == inode.entry.size;
                Ok(object.file().filter(|_| is_whole).cloned())
            }
            Content::Chunked(_) => self.chunks(inode, revisions).await.map(|_| None),
            unservable => Err(refusal(inode, unservable)),
        }
    }

    /// Reads up to `size` bytes from `offset`; less only at the end of the file.
    pub async fn read(
        &self,
        inode: &Inode,
        caller: u32,
        (offset, size): (u64, u32),
        fetcher: &Fetcher,
        revisions: &[Arc<Revision>],
    ) -> Result<Buffer, FsError> {
        let left = inode.entry.size.saturating_sub(offset);
        let wanted = usize::try_from(left.min(u64::from(size))).unwrap_or(0);
        // All of it is filled, or the read fails.
        let mut buffer = self.buffers.take(wanted);
        match &inode.entry.content {
            _ if wanted == 0 => {}
            Content::Whole(id) => {
                let source = Source { inode, piece: 0, id, chunk: None, caller, revisions };
                self.fill(&source, &mut buffer, offset, fetcher).await?;
            }
            Content::Chunked(_) => {
                let chunks = self.chunks(inode, revisions).await?;
                let mut filled = 0;
                for Span { piece, inside, start, len } in spans(&chunks, offset, wanted) {
                    let chunk = &chunks[piece];
                    if let Some(prefetcher) = self.prefetcher() {
                        prefetcher.read_chunk(inode, &chunks, piece, inside);
                    }
                    let (id, chunk) = (&chunk.object, Some(chunk));
                    let source = Source { inode, piece, id, chunk, caller, revisions };
                    self.fill(&source, &mut buffer[start..start + len], inside, fetcher).await?;
                    filled = start + len;
                }
                // Chunks that do not make up the file were refused before. Should they get here, what
                // others have read is not shown.
                buffer[filled..].fill(0);
            }
            unservable => return Err(refusal(inode, unservable)),
        }
        Ok(buffer)
    }

    /// Returns who learns from the use of the repository.
    pub fn learner(&self) -> Option<Arc<Learner>> {
        self.prefetcher.as_ref().map(Prefetcher::learner)
    }

    /// Closes what is open of an inode that the kernel has forgotten.
    pub fn close(&self, ino: Ino) {
        let list = self.chunk_lists.lock().pop(&ino);
        let closed = self.objects.lock().remove_file(ino);
        // Descriptors are closed outside the lock.
        drop((list, closed));
    }

    /// Returns who may fetch ahead, if that is wanted now.
    fn prefetcher(&self) -> Option<&Prefetcher> {
        let is_quiet = self.suspects.as_ref().is_none_or(Suspects::is_quiet);
        self.prefetcher.as_ref().filter(|_| is_quiet)
    }

    async fn object(
        &self,
        source: &Source<'_>,
        fetcher: &Fetcher,
    ) -> Result<CachedObject, FsError> {
        let Source { inode, piece, id, chunk, caller, revisions } = *source;
        if let Some(object) = self.objects.lock().get(inode.ino, piece) {
            return Ok(object);
        }
        let label = inode.path.to_string();
        let options = FetchOptions::content(&inode.entry, &inode.path, chunk, label);
        let failed = |source| FsError::Fetch { path: inode.path.clone(), source };
        let used = |how| {
            if let (Some(revision), Some(prefetcher)) = (revisions.first(), self.prefetcher()) {
                prefetcher.used(&FirstUse { inode, id, chunk, caller, revision, how });
            }
        };
        let arrived = |how, object: &CachedObject| {
            if let (Some(revision), Some(prefetcher)) = (revisions.first(), self.prefetcher()) {
                let first = FirstUse { inode, id, chunk, caller, revision, how };
                prefetcher.arrived(&first, object);
            }
        };
        let under_way = match &self.suspects {
            Some(suspects) => Some(suspects.begin(inode).await?),
            None => None,
        };
        let here = fetcher.open_here(id, &options).map_err(|error| failed(Arc::new(error)))?;
        let object = match here {
            Some((object, was_fetched_ahead)) => {
                let how = match was_fetched_ahead {
                    true => Use::Early,
                    false if self.prefetcher.is_some() && object.is_on_disk_only() => Use::FromDisk,
                    false => Use::Here,
                };
                used(how);
                arrived(how, &object);
                object
            }
            None => {
                if let Some(error) = self.repeats.of((inode.ino, piece), caller) {
                    return Err(failed(error));
                }
                used(Use::Missed);
                let begun = Instant::now();
                let opened = fetcher.open_missing(id, &options).await;
                if let (Err(_), Some(under_way)) = (&opened, &under_way) {
                    under_way.survived();
                }
                let object = opened.map_err(|error| {
                    self.repeats.note((inode.ino, piece), &error, begun.elapsed());
                    failed(error)
                })?;
                arrived(Use::Missed, &object);
                object
            }
        };
        if let Some(under_way) = &under_way {
            under_way.survived();
        }
        let closed = self.objects.lock().insert(inode.ino, piece, object.clone());
        drop(closed);
        Ok(object)
    }

    async fn chunks(
        &self,
        inode: &Inode,
        revisions: &[Arc<Revision>],
    ) -> Result<Arc<[Chunk]>, FsError> {
        if let Some(chunks) = self.chunk_lists.lock().get(&inode.ino) {
            return Ok(Arc::clone(chunks));
        }
        let chunks = inode
            .home(revisions)
            .await?
            .chunks(&inode.path)
            .await
            .map_err(|source| FsError::Revision { path: inode.path.clone(), source })?;
        let mut freed = Vec::new();
        let mut lists = self.chunk_lists.lock();
        freed.extend(lists.push(inode.ino, Arc::clone(&chunks)));
        let mut kept: usize = lists.iter().map(|(_, list)| list.len()).sum();
        while kept > MAX_CHUNKS_KEPT && lists.len() > 1 {
            let Some((ino, list)) = lists.pop_lru() else { break };
            kept -= list.len();
            freed.push((ino, list));
        }
        drop(lists);
        drop(freed);
        Ok(chunks)
    }

    /// Fills a buffer from one piece of a file. An object that cannot be read or ends early was
    /// damaged on disk after it was checked: it is fetched again, once.
    async fn fill(
        &self,
        source: &Source<'_>,
        buffer: &mut [u8],
        offset: u64,
        fetcher: &Fetcher,
    ) -> Result<(), FsError> {
        let path = &source.inode.path;
        let damaged = self.object(source, fetcher).await?;
        let Err(error) = read_whole(&damaged, buffer, offset) else { return Ok(()) };
        tracing::warn!(%path, id = %source.id, %error, "cached object cannot be read, fetching it again");
        self.discard(source, &damaged, fetcher);
        drop(damaged);
        let fresh = self.object(source, fetcher).await?;
        read_whole(&fresh, buffer, offset).map_err(|error| {
            self.discard(source, &fresh, fetcher);
            FsError::Read { path: path.clone(), source: error }
        })
    }

    /// Closes a damaged object and removes it from the cache.
    fn discard(&self, source: &Source<'_>, damaged: &CachedObject, fetcher: &Fetcher) {
        let (ino, piece) = (source.inode.ino, source.piece);
        let closed = {
            let mut objects = self.objects.lock();
            // Another reader may have met the same damage and replaced the object already.
            if objects.get(ino, piece).is_some_and(|open| !open.is_clone_of(damaged)) {
                return;
            }
            objects.remove(ino, piece)
        };
        drop(closed);
        fetcher.discard(source.id);
    }
}

/// Where the bytes of one piece of a file come from.
struct Source<'a> {
    inode: &'a Inode,
    piece: Piece,
    id: &'a ObjectId,
    chunk: Option<&'a Chunk>,
    /// Who asks.
    caller: u32,
    /// That may have the file, the likely one first.
    revisions: &'a [Arc<Revision>],
}

/// Fills all of a buffer; an end before that is an error.
fn read_whole(object: &CachedObject, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    if object.read_at(buffer, offset)? < buffer.len() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file was cut short"));
    }
    Ok(())
}

fn refusal(inode: &Inode, content: &Content) -> FsError {
    let path = inode.path.clone();
    match content {
        Content::Broken(reason) => FsError::Broken { path, reason },
        Content::Whole(_) | Content::Chunked(_) | Content::None => FsError::Special(path),
    }
}

/// The part of a read that one chunk serves.
#[derive(Debug, PartialEq, Eq)]
struct Span {
    piece: Piece,
    /// First byte inside the chunk.
    inside: u64,
    /// First byte inside the buffer.
    start: usize,
    len: usize,
}

/// Splits a read over the chunks that it touches. Chunks are contiguous from 0.
fn spans(chunks: &[Chunk], offset: u64, len: usize) -> Vec<Span> {
    let first = chunks.partition_point(|chunk| chunk.offset + chunk.size <= offset);
    let mut spans = Vec::new();
    let mut start = 0;
    for (piece, chunk) in chunks.iter().enumerate().skip(first) {
        if start == len {
            break;
        }
        let inside = (offset + start as u64).saturating_sub(chunk.offset);
        let left = usize::try_from(chunk.size - inside).unwrap_or(usize::MAX);
        let part = left.min(len - start);
        if part > 0 {
            spans.push(Span { piece, inside, start, len: part });
        }
        start += part;
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use cvmfs_core::hash::{ContentHash, HashAlgorithm};
    use cvmfs_core::object::ObjectKind;

    #[test]
    fn reads_touch_only_their_chunks() {
        let object = ObjectId::zlib(ContentHash::of(HashAlgorithm::Sha1, b""), ObjectKind::Chunk);
        let chunk = |offset, size| Chunk { offset, size, object };
        // An empty chunk in the middle is legal.
        let chunks = [chunk(0, 10), chunk(10, 0), chunk(10, 5), chunk(15, 1), chunk(16, 100)];
        let split = |offset, len| {
            spans(&chunks, offset, len)
                .iter()
                .map(|span| (span.piece, span.inside, span.start, span.len))
                .collect::<Vec<_>>()
        };
        assert_eq!(split(0, 10), [(0, 0, 0, 10)]);
        assert_eq!(split(3, 4), [(0, 3, 0, 4)]);
        assert_eq!(split(9, 8), [(0, 9, 0, 1), (2, 0, 1, 5), (3, 0, 6, 1), (4, 0, 7, 1)]);
        assert_eq!(split(10, 1), [(2, 0, 0, 1)]);
        assert_eq!(split(50, 66), [(4, 34, 0, 66)]);
        assert_eq!(split(116, 1), []);
        let huge = [chunk(0, 5 << 30), chunk(5 << 30, 1)];
        assert_eq!(spans(&huge, (5 << 30) - 1, 2).len(), 2);
    }
}
