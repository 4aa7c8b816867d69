//! The chunk table: which objects make up a large file (spec/format.md section 15).

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::CatalogError;
use super::budget::Budget;
use super::entry::{Chunk, MAX_FILE_SIZE, style_of};
use super::row::RawRow;
use crate::hash::ContentHash;
use crate::object::{ObjectId, ObjectKind};

/// Most chunks of one file: 1 TiB in chunks of 1 MiB.
const MAX_CHUNKS: usize = 1 << 20;

/// Hands the chunks of a row to `take`, one after the other; the inner error says why they cannot be used.
///
/// They must start at 0 and follow each other without gap or overlap up to the file's size:
/// upstream moves the data silently where they do not.
pub(super) fn each(
    connection: &Connection,
    row: &RawRow<'_>,
    budget: &Budget,
    take: &mut dyn FnMut(Chunk),
) -> Result<Result<(), &'static str>, CatalogError> {
    let style = match style_of(row.flags) {
        Ok(style) => style,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut statement = connection.prepare_cached(
        "SELECT offset, size, hash FROM chunks WHERE md5path_1 = ?1 AND md5path_2 = ?2 \
         ORDER BY offset, size",
    )?;
    let mut rows = statement.query([row.path.0, row.path.1])?;
    let mut count = 0;
    let mut end = 0u64;
    while let Some(row) = rows.next()? {
        budget.check()?;
        let (ValueRef::Integer(offset), ValueRef::Integer(size), ValueRef::Blob(digest)) =
            (row.get_ref(0)?, row.get_ref(1)?, row.get_ref(2)?)
        else {
            return Ok(Err("chunk row of the wrong type"));
        };
        let (Ok(offset), Ok(size)) = (u64::try_from(offset), u64::try_from(size)) else {
            return Ok(Err("negative chunk"));
        };
        if offset != end {
            return Ok(Err(if offset > end { "gap between chunks" } else { "chunks overlap" }));
        }
        let Ok(hash) = ContentHash::from_digest(style.algorithm, digest) else {
            return Ok(Err("chunk hash of the wrong length"));
        };
        end = match offset.checked_add(size) {
            Some(end) if end <= MAX_FILE_SIZE => end,
            _ => return Ok(Err("chunk beyond every file")),
        };
        if count >= MAX_CHUNKS {
            return Ok(Err("too many chunks"));
        }
        count += 1;
        let compression = style.compression;
        take(Chunk {
            offset,
            size,
            object: ObjectId { hash, kind: ObjectKind::Chunk, compression },
        });
    }
    if count == 0 {
        return Ok(Err("no chunks"));
    }
    if u64::try_from(row.size) != Ok(end) {
        return Ok(Err("chunks do not add up to the size"));
    }
    Ok(Ok(()))
}
