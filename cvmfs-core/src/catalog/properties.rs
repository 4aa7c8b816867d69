//! What a catalog says about itself: properties and counters.

use std::collections::BTreeMap;

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::CatalogError;
use crate::hash::ContentHash;

/// TTL of a catalog that states none (spec/format.md section 20).
const DEFAULT_TTL: u64 = 240;
/// Rows read of each table: servers write some twenty.
const MAX_ROWS: u32 = 1000;
/// Longest key or value: a path; anything longer counts as empty.
const MAX_PROPERTY_LEN: usize = 4096;

/// What a catalog says about itself (spec/format.md section 20).
#[derive(Debug, Clone, Default)]
pub struct Properties {
    /// Repository revision.
    pub revision: u64,
    /// Seconds between two looks for a new revision.
    pub ttl: u64,
    /// Objects should leave caches first.
    pub volatile: bool,
    /// Publish time, Unix seconds.
    pub last_modified: Option<i64>,
    /// Membership needed to read.
    pub membership: Option<String>,
    /// Root catalog of the revision before, as the publisher names it.
    pub previous: Option<ContentHash>,
    pub(super) root_prefix: Option<Vec<u8>>,
}

/// Entry counts (spec/format.md section 19).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Entries of this catalog.
    pub own_entries: u64,
    /// Entries of all catalogs below.
    pub subtree_entries: u64,
}

/// What is counted, by name; each with all catalogs below (spec/format.md section 19).
pub type Totals = BTreeMap<&'static str, u64>;

/// Their names. Those that older servers do not write are 0.
const COUNTED: [&str; 12] = [
    "chunked",
    "chunked_size",
    "chunks",
    "dir",
    "external",
    "external_file_size",
    "file_size",
    "nested",
    "regular",
    "special",
    "symlink",
    "xattr",
];

/// Of a catalog without the table: those who read them expect every name.
pub(super) fn nothing_counted() -> Totals {
    COUNTED.iter().map(|name| (*name, 0)).collect()
}

pub(super) fn read_totals(connection: &Connection) -> Result<Totals, CatalogError> {
    let mut totals = nothing_counted();
    each_counter(connection, |_, name, value| {
        let known = COUNTED.iter().find(|known| known.as_bytes() == name);
        if let Some(total) = known.and_then(|known| totals.get_mut(known)) {
            *total = total.saturating_add(value);
        }
    })?;
    Ok(totals)
}

pub(super) fn read_properties(connection: &Connection) -> Result<(Properties, f64), CatalogError> {
    let mut properties = Properties { ttl: DEFAULT_TTL, ..Properties::default() };
    let mut version = 1.0;
    let mut statement =
        connection.prepare(&format!("SELECT key, value FROM properties LIMIT {MAX_ROWS}"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text = |index| -> rusqlite::Result<Vec<u8>> {
            Ok(match row.get_ref(index)? {
                ValueRef::Text(value) | ValueRef::Blob(value) if value.len() > MAX_PROPERTY_LEN => {
                    Vec::new()
                }
                ValueRef::Text(value) | ValueRef::Blob(value) => value.to_vec(),
                ValueRef::Integer(value) => value.to_string().into_bytes(),
                ValueRef::Real(value) => value.to_string().into_bytes(),
                ValueRef::Null => Vec::new(),
            })
        };
        let (key, value) = (text(0)?, text(1)?);
        let utf8 = std::str::from_utf8(&value).unwrap_or_default();
        match key.as_slice() {
            b"schema" => version = utf8.parse().unwrap_or(f64::NAN),
            b"revision" => properties.revision = utf8.parse().unwrap_or_default(),
            b"TTL" => properties.ttl = utf8.parse().unwrap_or(DEFAULT_TTL),
            b"volatile" => properties.volatile = utf8 == "1",
            b"last_modified" => properties.last_modified = utf8.parse().ok(),
            b"voms_authz" => properties.membership = Some(utf8.to_owned()),
            b"previous_revision" => properties.previous = utf8.parse().ok(),
            b"root_prefix" => properties.root_prefix = Some(value),
            _ => {}
        }
    }
    Ok((properties, version))
}

pub(super) fn read_counters(connection: &Connection) -> Result<Counters, CatalogError> {
    let mut counters = Counters::default();
    each_counter(connection, |is_own, counter, value| {
        let sum = if is_own { &mut counters.own_entries } else { &mut counters.subtree_entries };
        if matches!(counter, b"regular" | b"symlink" | b"special" | b"dir") {
            *sum = sum.saturating_add(value);
        }
    })?;
    Ok(counters)
}

/// Calls `take` with whether a counter is of this catalog only, its name without that, and value.
fn each_counter(
    connection: &Connection,
    mut take: impl FnMut(bool, &[u8], u64),
) -> Result<(), CatalogError> {
    let mut statement =
        connection.prepare(&format!("SELECT counter, value FROM statistics LIMIT {MAX_ROWS}"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (ValueRef::Text(name), ValueRef::Integer(value)) = (row.get_ref(0)?, row.get_ref(1)?)
        else {
            continue;
        };
        let value = u64::try_from(value).unwrap_or_default();
        if let Some(counter) = name.strip_prefix(b"self_") {
            take(true, counter, value);
        } else if let Some(counter) = name.strip_prefix(b"subtree_") {
            take(false, counter, value);
        }
    }
    Ok(())
}
