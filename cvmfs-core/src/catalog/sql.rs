//! Opens databases that came over the network; the only place that knows how SQLite is tamed.
//!
//! A catalog is signed, but its signer is not trusted with this host (facts/behaviours.md T11):
//! read-only, immutable, no views, triggers or virtual tables, hard limits, and a time limit on
//! every statement. The advice is SQLite's own page on untrusted files.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, MAIN_DB, OpenFlags};

use super::CatalogError;
use crate::cache::CachedObject;
use crate::exact_names;

/// Longest statement run: a listing of a million rows takes a few seconds, a query that loops over
/// a malformed tree for ever.
const STATEMENT_TIME_LIMIT: Duration = Duration::from_secs(30);
/// Virtual machine steps between two looks at the clock.
const STEPS_PER_CHECK: i32 = 100_000;
/// Longest text or blob: names have 255 bytes, targets 4 KiB, attribute blobs 130 KiB.
const MAX_VALUE_LEN: i32 = 10_000_000;
/// Page cache of a connection: the upper pages of its trees. The kernel's page cache stands behind
/// it, and there may be hundreds of connections.
const PAGE_CACHE_KIB: i32 = 128;

/// A database opened with all guards up.
pub struct Database {
    connection: Connection,
    started: std::sync::Arc<parking_lot::Mutex<Instant>>,
}

impl Database {
    /// Gives the connection for one statement, whose time starts now.
    pub fn statement(&self) -> &Connection {
        *self.started.lock() = Instant::now();
        &self.connection
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Database")
    }
}

/// Opens a verified object as a database, by its name in the cache or from memory.
pub fn open_database(object: &CachedObject) -> Result<Database, CatalogError> {
    let mut connection = match object.exact_path() {
        Some(path) => open_there(object, || is_still_there(&path, object), || open_file(&path))?,
        None => open_bytes(object)?,
    };
    let started = std::sync::Arc::new(parking_lot::Mutex::new(Instant::now()));
    harden(&mut connection, &started)?;
    refuse_programs(&connection)?;
    Ok(Database { connection, started })
}

/// Opens the file of an object, which may be evicted or replaced at any moment: also in the one
/// between the look and the opening.
fn open_there(
    object: &CachedObject,
    is_still_there: impl Fn() -> bool,
    open_file: impl FnOnce() -> Result<Connection, CatalogError>,
) -> Result<Connection, CatalogError> {
    if !is_still_there() {
        return open_bytes(object);
    }
    let opened = open_file();
    if is_still_there() { opened } else { open_bytes(object) }
}

/// An evicted or replaced file must not be opened in place of the one that was checked.
fn is_still_there(path: &Path, object: &CachedObject) -> bool {
    let (Ok(by_name), Some(Ok(by_descriptor))) =
        (std::fs::symlink_metadata(path), object.file().map(|file| file.metadata()))
    else {
        return false;
    };
    (by_name.dev(), by_name.ino()) == (by_descriptor.dev(), by_descriptor.ino())
}

fn open_file(path: &Path) -> Result<Connection, CatalogError> {
    // In a URI every byte but these must be escaped.
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    // Immutable: nobody changes an object, so neither locks nor change counters are looked at.
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // A name of a store may go through a descriptor of its directory: followed as it is.
    Ok(match exact_names::vfs() {
        Some(vfs) => Connection::open_with_flags_and_vfs(uri, flags, vfs)?,
        None => Connection::open_with_flags(uri, flags)?,
    })
}

fn open_bytes(object: &CachedObject) -> Result<Connection, CatalogError> {
    let bytes = object.read_all(super::MAX_CATALOG_SIZE).map_err(CatalogError::Read)?;
    let mut connection = Connection::open_in_memory()?;
    connection.deserialize_read_exact(MAIN_DB, &bytes[..], bytes.len(), true)?;
    Ok(connection)
}

fn harden(
    connection: &mut Connection,
    started: &std::sync::Arc<parking_lot::Mutex<Instant>>,
) -> Result<(), CatalogError> {
    for (config, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
    ] {
        connection.set_db_config(config, on)?;
    }
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_LEN),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, 100_000),
        (Limit::SQLITE_LIMIT_COLUMN, 64),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 20),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 4),
        (Limit::SQLITE_LIMIT_VDBE_OP, 25_000),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, 8),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 16),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 1),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, value)?;
    }
    connection.execute_batch(&format!(
        "PRAGMA cell_size_check=ON; PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY; \
         PRAGMA query_only=ON; PRAGMA cache_size=-{PAGE_CACHE_KIB};"
    ))?;
    let started = std::sync::Arc::clone(started);
    connection.progress_handler(
        STEPS_PER_CHECK,
        Some(move || started.lock().elapsed() > STATEMENT_TIME_LIMIT),
    )?;
    Ok(())
}

/// Only plain tables and indexes may be in the file.
fn refuse_programs(connection: &Connection) -> Result<(), CatalogError> {
    let mut statement = connection.prepare("SELECT type, name, sql FROM sqlite_schema")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text = |index| -> rusqlite::Result<String> {
            Ok(row.get_ref(index)?.as_bytes_or_null()?.map_or_else(String::new, |bytes| {
                String::from_utf8_lossy(bytes).to_ascii_lowercase()
            }))
        };
        let (kind, name, sql) = (text(0)?, text(1)?, text(2)?);
        let plain = match kind.as_str() {
            "table" => !sql.trim_start().starts_with("create virtual"),
            "index" => true,
            _ => false,
        };
        if !plain {
            return Err(CatalogError::ForbiddenSchema { kind, name });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// Chaos found it: the file went between the look and the opening, and readers had EIO.
    #[test]
    fn a_catalog_that_is_evicted_or_replaced_while_it_is_opened_is_read_all_the_same() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("object");
        let make = |path: &Path, value: &str| {
            let connection = Connection::open(path).unwrap();
            connection.execute_batch(&format!("CREATE TABLE t AS SELECT '{value}' AS v")).unwrap();
        };
        let other = scratch.path().join("other");
        make(&other, "another");
        let evict = || std::fs::remove_file(&path).unwrap();
        let replace = || std::fs::rename(&other, &path).unwrap();
        for meanwhile in [&evict as &dyn Fn(), &replace] {
            make(&path, "right");
            let file = File::open(&path).unwrap();
            let len = file.metadata().unwrap().len();
            let object = CachedObject::from_file(file, len, Some(path.clone()));
            let is_there = || is_still_there(&path, &object);
            let opened = open_there(&object, is_there, || {
                meanwhile();
                open_file(&path)
            });
            let value: String =
                opened.unwrap().query_row("SELECT v FROM t", [], |row| row.get(0)).unwrap();
            assert_eq!(value, "right");
        }
    }
}
