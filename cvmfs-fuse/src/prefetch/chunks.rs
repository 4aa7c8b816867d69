//! Read-ahead in chunked files: while one chunk is read, the next ones are on their way.

use std::num::NonZeroUsize;
use std::ops::Range;

use cvmfs_core::catalog::Chunk;
use lru::LruCache;
use parking_lot::Mutex;

use crate::fs::Ino;

/// Files whose readers are remembered.
const MAX_FILES: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// So far into its first chunk a reader has to be: many look at the start of a file only.
const FIRST_BYTES: u64 = 512 << 10;
/// Chunks ahead of a reader that has come to the second one.
const FIRST_AHEAD: usize = 2;
/// Most chunks ahead of a reader; with 8 MiB each they fill a line of 10 Gbit/s at 50 ms.
const MAX_AHEAD: usize = 8;

#[derive(Debug, Clone, Copy)]
struct Reader {
    piece: usize,
    /// Chunks read one after the other.
    run: usize,
    /// First chunk that was not proposed yet.
    proposed: usize,
}

/// Where files are being read.
#[derive(Debug)]
pub struct ChunkReaders(Mutex<LruCache<Ino, Reader>>);

impl Default for ChunkReaders {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_FILES)))
    }
}

impl ChunkReaders {
    /// Notes a read at `inside` of a chunk; returns the chunks to fetch ahead.
    pub fn next(&self, ino: Ino, chunks: &[Chunk], piece: usize, inside: u64) -> Range<usize> {
        let mut readers = self.0.lock();
        let reader = match readers.get(&ino) {
            Some(&last) if last.piece == piece => last,
            // The kernel reads ahead by itself, and its requests overtake one another.
            Some(&last) if last.piece == piece + 1 => last,
            Some(&last) if last.piece + 1 == piece => Reader { piece, run: last.run + 1, ..last },
            _ => Reader { piece, run: 0, proposed: piece + 1 },
        };
        let far_enough = reader.run > 0 || (piece == 0 && inside >= FIRST_BYTES);
        let ahead = if far_enough { (FIRST_AHEAD << reader.run.min(8)).min(MAX_AHEAD) } else { 0 };
        let end = (reader.piece + 1 + ahead).min(chunks.len());
        let start = reader.proposed.max(reader.piece + 1);
        readers.put(ino, Reader { proposed: start.max(end), ..reader });
        start..end.max(start)
    }
}

#[cfg(test)]
mod tests {
    use cvmfs_core::hash::{ContentHash, HashAlgorithm};
    use cvmfs_core::object::{ObjectId, ObjectKind};

    use super::*;

    #[test]
    fn who_reads_on_finds_the_next_chunks_there_and_who_jumps_about_does_not() {
        let object = ObjectId::zlib(ContentHash::of(HashAlgorithm::Sha1, b""), ObjectKind::Chunk);
        let chunks: Vec<_> =
            (0..20).map(|n| Chunk { offset: n << 20, size: 1 << 20, object }).collect();
        let readers = ChunkReaders::default();
        let next = |piece, inside| readers.next(7, &chunks, piece, inside);
        assert!(next(0, 0).is_empty() && next(0, 4096).is_empty(), "only the start");
        assert_eq!(next(0, 600 << 10), 1..3);
        assert!(next(0, 700 << 10).is_empty(), "once");
        assert_eq!(next(1, 0), 3..6);
        assert_eq!(next(2, 0), 6..11);
        assert_eq!(next(3, 0), 11..12);
        assert!(next(15, 0).is_empty(), "a jump");
        assert!(next(3, 900 << 10).is_empty(), "and another one");
        assert_eq!(next(4, 0), 5..9);
        assert!(next(10, 0).is_empty() && next(9, 0).is_empty(), "overtaken");
        assert_eq!(next(11, 0), 12..16);
        assert!(next(19, 0).is_empty() && next(usize::MAX - 1, 0).is_empty());
    }
}
