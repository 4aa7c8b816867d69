//! One pass over an object's body: hash the stored bytes, inflate them, bound the size.
//!
//! The decoder knows neither network nor cache. Pieces of the stored body go in, plain pieces come
//! out, and [`BodyDecoder::finish`] gives the proof without which no cache commits.

use std::cell::Cell;

use flate2::{Decompress, FlushDecompress, Status};

use crate::cache::CacheError;
use crate::hash::{ContentHash, Hasher};
use crate::object::{Compression, ObjectId};

/// Plain bytes handed out at a time.
const PIECE_LEN: usize = 64 * 1024;

/// How plain and stored size may be related.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SizeBound {
    /// A verified catalog or manifest states the plain size: anything else is refused.
    Exactly(u64),
    /// The size is not known ahead: a cap against decompression bombs.
    AtMost(u64),
}

impl SizeBound {
    /// Returns the most plain bytes that may come out.
    pub fn plain_cap(self) -> u64 {
        match self {
            Self::Exactly(size) | Self::AtMost(size) => size,
        }
    }

    /// Returns the most stored bytes worth receiving.
    ///
    /// Deflate never grows data by more than 5 bytes for each block of 16 KiB or so, plus header
    /// and checksum; a hundredth and 1 KiB are generous.
    pub fn stored_cap(self, compression: Compression) -> u64 {
        let plain = self.plain_cap();
        match compression {
            Compression::None => plain,
            Compression::Zlib => plain.saturating_add(plain / 100).saturating_add(1024),
        }
    }
}

/// Why a body is not the object that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The stored bytes have another hash.
    #[error("body of object {expected} has hash {actual}")]
    HashMismatch {
        /// The hash that was asked for.
        expected: ContentHash,
        /// The hash of what came.
        actual: ContentHash,
    },
    /// More bytes than the catalog states, or than the cap allows.
    #[error("object {id} is larger than {limit} bytes")]
    TooLarge {
        /// The object.
        id: ObjectId,
        /// The bound that was crossed.
        limit: u64,
    },
    /// Fewer bytes than the catalog states.
    #[error("object {id} has {actual} bytes, {expected} expected")]
    TooSmall {
        /// The object.
        id: ObjectId,
        /// The size stated.
        expected: u64,
        /// The size found.
        actual: u64,
    },
    /// The zlib stream is damaged, cut, or followed by other bytes.
    #[error("object {id} is no single zlib stream: {reason}")]
    Zlib {
        /// The object.
        id: ObjectId,
        /// What is wrong with it.
        reason: String,
    },
}

/// Proof that a body had the right hash and size; only [`BodyDecoder::finish`] makes it.
#[derive(Debug)]
pub struct CheckedBody {
    id: ObjectId,
    size: u64,
}

impl CheckedBody {
    /// Takes a store's word: what it holds was checked when it was committed. For copies from one
    /// store to another, which is why it is not for everybody.
    pub(crate) fn of_cached(id: ObjectId, size: u64) -> Self {
        Self { id, size }
    }

    /// Returns the object that was checked.
    pub fn id(&self) -> &ObjectId {
        &self.id
    }

    /// Returns the size of the plain bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Checks that the proof is about `id` and that `written` bytes were stored.
    pub fn must_match(&self, id: &ObjectId, written: u64) -> Result<(), CacheError> {
        if self.id != *id {
            return Err(CacheError::WrongBody { expected: *id, body: self.id });
        }
        if self.size != written {
            return Err(CacheError::WrongSize { id: *id, written, checked: self.size });
        }
        Ok(())
    }
}

/// Decodes the body of one object.
pub struct BodyDecoder {
    id: ObjectId,
    bound: SizeBound,
    hasher: Hasher,
    inflater: Option<Inflater>,
    plain_len: u64,
}

struct Inflater {
    state: Decompress,
    buffer: Box<[u8]>,
    ended: bool,
}

thread_local! {
    /// State and buffer of the last body that ended on this thread: some 110 KiB that would else
    /// be allocated for each small file, between small allocations that live on.
    static SPARE: Cell<Option<Inflater>> = const { Cell::new(None) };
}

impl Inflater {
    fn new() -> Self {
        if let Some(mut spare) = SPARE.take() {
            spare.state.reset(true);
            spare.ended = false;
            return spare;
        }
        let buffer = vec![0; PIECE_LEN].into_boxed_slice();
        Self { state: Decompress::new(true), buffer, ended: false }
    }
}

impl Drop for BodyDecoder {
    fn drop(&mut self) {
        if let Some(inflater) = self.inflater.take() {
            SPARE.set(Some(inflater));
        }
    }
}

impl BodyDecoder {
    /// Starts with an empty body.
    pub fn new(id: ObjectId, bound: SizeBound) -> Self {
        let inflater = match id.compression {
            Compression::None => None,
            Compression::Zlib => Some(Inflater::new()),
        };
        Self { id, bound, hasher: Hasher::new(id.hash.algorithm()), inflater, plain_len: 0 }
    }

    /// Takes the next piece of the stored body and hands plain pieces to `sink`.
    ///
    /// The sink's own failures pass through unchanged. After an error the decoder is of no use.
    pub fn push<E: From<DecodeError>>(
        &mut self,
        stored: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.hasher.update(stored);
        let Some(inflater) = &mut self.inflater else {
            grow(&mut self.plain_len, stored.len(), self.bound, self.id)?;
            return sink(stored);
        };
        let mut rest = stored;
        loop {
            if inflater.ended {
                if rest.is_empty() {
                    return Ok(());
                }
                let reason = "bytes after its end".to_owned();
                return Err(DecodeError::Zlib { id: self.id, reason }.into());
            }
            let (before_in, before_out) = (inflater.state.total_in(), inflater.state.total_out());
            let status = inflater
                .state
                .decompress(rest, &mut inflater.buffer, FlushDecompress::None)
                .map_err(|error| DecodeError::Zlib { id: self.id, reason: error.to_string() })?;
            // Both deltas are bounded by the lengths of the slices just passed.
            let used = usize::try_from(inflater.state.total_in() - before_in).unwrap_or(rest.len());
            let made =
                usize::try_from(inflater.state.total_out() - before_out).unwrap_or(PIECE_LEN);
            rest = &rest[used..];
            inflater.ended = status == Status::StreamEnd;
            if made > 0 {
                grow(&mut self.plain_len, made, self.bound, self.id)?;
                sink(&inflater.buffer[..made])?;
            } else if used == 0 && !rest.is_empty() && !inflater.ended {
                // Must not happen, but dropping the rest or turning for ever would be worse.
                let reason = "no progress".to_owned();
                return Err(DecodeError::Zlib { id: self.id, reason }.into());
            }
            if rest.is_empty() && made < PIECE_LEN {
                return Ok(());
            }
        }
    }

    /// Ends the body: hash, end of the zlib stream and size must be right.
    pub fn finish(mut self) -> Result<CheckedBody, DecodeError> {
        let hasher = Hasher::new(self.id.hash.algorithm());
        let actual = std::mem::replace(&mut self.hasher, hasher).finish();
        if actual != self.id.hash {
            return Err(DecodeError::HashMismatch { expected: self.id.hash, actual });
        }
        if self.inflater.as_ref().is_some_and(|inflater| !inflater.ended) {
            return Err(DecodeError::Zlib { id: self.id, reason: "cut short".to_owned() });
        }
        match self.bound {
            SizeBound::Exactly(expected) if expected != self.plain_len => {
                Err(DecodeError::TooSmall { id: self.id, expected, actual: self.plain_len })
            }
            _ => Ok(CheckedBody { id: self.id, size: self.plain_len }),
        }
    }
}

fn grow(len: &mut u64, more: usize, bound: SizeBound, id: ObjectId) -> Result<(), DecodeError> {
    *len = len.saturating_add(more as u64);
    if *len > bound.plain_cap() {
        return Err(DecodeError::TooLarge { id, limit: bound.plain_cap() });
    }
    Ok(())
}

mod whole;

pub use whole::{MAX_STORED_WHOLE, decode_whole};

/// Decodes a whole body that is already in memory.
pub fn decode_all(
    id: ObjectId,
    stored: &[u8],
    bound: SizeBound,
) -> Result<(Vec<u8>, CheckedBody), DecodeError> {
    let mut plain = Vec::new();
    let mut decoder = BodyDecoder::new(id, bound);
    decoder.push(stored, |piece| {
        plain.extend_from_slice(piece);
        Ok::<_, DecodeError>(())
    })?;
    Ok((plain, decoder.finish()?))
}

#[cfg(test)]
mod tests;
