//! Bodies that are in memory as a whole, as those of most files are: hashed first, then inflated in
//! one go by libdeflate, which takes 0.55 times as long as a stream does and sees only what was checked.

use std::cell::Cell;

use bytes::Bytes;
use libdeflater::{DecompressionError, Decompressor};

use super::{BodyDecoder, CheckedBody, DecodeError, SizeBound};
use crate::hash::Hasher;
use crate::object::{Compression, ObjectId};

/// Stored bytes of a body that is worth keeping together.
pub const MAX_STORED_WHOLE: usize = 256 * 1024;
/// Plain bytes of one that is inflated in one go; more go through the stream, piece by piece.
const MAX_PLAIN: u64 = 1 << 20;
/// Buffer that a thread keeps: enough for nearly all files, and little for all threads together.
const MAX_KEPT: usize = 256 * 1024;
/// Bytes of the checksum that ends a zlib stream.
const TRAILER: usize = 4;

struct Inflater {
    state: Decompressor,
    buffer: Vec<u8>,
}

thread_local! {
    /// Of the last body on this thread.
    static SPARE: Cell<Option<Inflater>> = const { Cell::new(None) };
}

/// Checks and decodes a body of which all pieces are here, and hands plain pieces to `sink`. As
/// [`BodyDecoder`], but nothing is handed out of a body with another hash where its size is stated.
pub fn decode_whole<E: From<DecodeError>>(
    id: ObjectId,
    bound: SizeBound,
    pieces: &[Bytes],
    mut sink: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<CheckedBody, E> {
    let size = match (bound, id.compression) {
        (SizeBound::Exactly(size @ ..=MAX_PLAIN), Compression::Zlib) => size,
        _ => {
            let mut decoder = BodyDecoder::new(id, bound);
            pieces.iter().try_for_each(|piece| decoder.push(piece, &mut sink))?;
            return Ok(decoder.finish()?);
        }
    };
    let mut hasher = Hasher::new(id.hash.algorithm());
    pieces.iter().for_each(|piece| hasher.update(piece));
    let actual = hasher.finish();
    if actual != id.hash {
        return Err(DecodeError::HashMismatch { expected: id.hash, actual }.into());
    }
    let joined;
    let stored = match pieces {
        [piece] => &piece[..],
        pieces => {
            joined = pieces.concat();
            &joined[..]
        }
    };
    let spare = SPARE.take();
    let mut inflater =
        spare.unwrap_or_else(|| Inflater { state: Decompressor::new(), buffer: Vec::new() });
    let len = usize::try_from(size).unwrap_or(usize::MAX);
    // What was there before is overwritten, or not handed out.
    if inflater.buffer.len() < len {
        inflater.buffer.resize(len, 0);
    }
    let plain = inflate(id, &mut inflater.state, stored, &mut inflater.buffer[..len])?;
    if !plain.is_empty() {
        sink(plain)?;
    }
    if inflater.buffer.len() > MAX_KEPT {
        inflater.buffer = Vec::new();
    }
    SPARE.set(Some(inflater));
    Ok(CheckedBody { id, size })
}

/// Inflates a stream that must fill the buffer and have nothing behind it.
fn inflate<'a>(
    id: ObjectId,
    state: &mut Decompressor,
    stored: &[u8],
    buffer: &'a mut [u8],
) -> Result<&'a [u8], DecodeError> {
    let damaged = |reason: &str| DecodeError::Zlib { id, reason: reason.to_owned() };
    let expected = buffer.len() as u64;
    let len = state.zlib_decompress(stored, buffer).map_err(|error| match error {
        DecompressionError::InsufficientSpace => DecodeError::TooLarge { id, limit: expected },
        DecompressionError::BadData => damaged("damaged or cut short"),
    })?;
    if (len as u64) < expected {
        return Err(DecodeError::TooSmall { id, expected, actual: len as u64 });
    }
    let plain = &buffer[..len];
    // The library has compared the checksum where it stands. It must stand at the end.
    let sum = libdeflater::adler32(plain).to_be_bytes();
    if stored.last_chunk::<TRAILER>() != Some(&sum) {
        return Err(damaged("bytes after its end"));
    }
    Ok(plain)
}
