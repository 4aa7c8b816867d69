//! The columns of one `catalog` row, typed but not yet believed.

use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::schema::Schema;

/// Raw columns, where SQLite has them; see spec/format.md section 10.1. Nothing is copied before its length is
/// checked.
#[derive(Debug, Clone)]
pub(super) struct RawRow<'r> {
    pub(super) path: (i64, i64),
    pub(super) hardlinks: i64,
    pub(super) hash: Option<&'r [u8]>,
    pub(super) size: i64,
    pub(super) mode: i64,
    pub(super) mtime: i64,
    pub(super) mtime_ns: Option<i64>,
    pub(super) flags: i64,
    pub(super) name: &'r [u8],
    pub(super) symlink: &'r [u8],
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) xattr: Option<&'r [u8]>,
}

/// Number of the first column behind those of [`columns`].
pub(super) const COLUMNS: usize = 14;

/// The select list that [`RawRow::read`] expects; upgraded catalogs have another column order, so
/// columns are always named.
pub(super) fn columns(schema: &Schema) -> String {
    format!(
        "md5path_1, md5path_2, hardlinks, hash, size, mode, mtime, {mtimens}, flags, name, symlink, \
         uid, gid, {xattr}",
        mtimens = if schema.has_mtimens { "mtimens" } else { "NULL" },
        xattr = if schema.has_xattr { "xattr" } else { "NULL" },
    )
}

impl<'r> RawRow<'r> {
    /// Reads the columns; `None` if one has a type that it must not have.
    pub(super) fn read(row: &'r Row<'_>) -> rusqlite::Result<Option<Self>> {
        let integer = |index| -> rusqlite::Result<Option<i64>> {
            Ok(match row.get_ref(index)? {
                ValueRef::Integer(value) => Some(value),
                _ => None,
            })
        };
        // NULL text and NULL blobs are empty; servers write both.
        let bytes = |index| -> rusqlite::Result<Option<&'r [u8]>> {
            Ok(match row.get_ref(index)? {
                ValueRef::Text(value) | ValueRef::Blob(value) => Some(value),
                ValueRef::Null => Some(&[]),
                _ => None,
            })
        };
        let (Some(first), Some(second)) = (integer(0)?, integer(1)?) else { return Ok(None) };
        let (Some(hardlinks), Some(hash)) = (integer(2)?, bytes(3)?) else { return Ok(None) };
        let (Some(size), Some(mode), Some(mtime)) = (integer(4)?, integer(5)?, integer(6)?) else {
            return Ok(None);
        };
        let (Some(flags), Some(name), Some(symlink)) = (integer(8)?, bytes(9)?, bytes(10)?) else {
            return Ok(None);
        };
        let (Some(uid), Some(gid), Some(xattr)) = (integer(11)?, integer(12)?, bytes(13)?) else {
            return Ok(None);
        };
        Ok(Some(Self {
            path: (first, second),
            hardlinks,
            hash: (!hash.is_empty()).then_some(hash),
            size,
            mode,
            mtime,
            mtime_ns: integer(7)?,
            flags,
            name,
            symlink,
            uid,
            gid,
            xattr: (!xattr.is_empty()).then_some(xattr),
        }))
    }
}
