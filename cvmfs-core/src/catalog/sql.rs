//! Opens databases that came over the network; the only place that knows how SQLite is tamed.
//!
//! A catalog is signed, but its signer is not trusted with this host (facts/behaviours.md T11). What stops a
//! database from running anything:
//!
//! | wall | stops |
//! |---|---|
//! | switches of the build (`.cargo/config.toml`) | virtual tables of full text search, R-trees, JSON; extensions; statistics of columns; allocations above 4 MiB |
//! | no module in the connection | virtual tables, whatever the build has |
//! | no function with an argument ([`Limit::SQLITE_LIMIT_FUNCTION_ARG`] of 0) | schemas that call anything, refused when SQLite parses them |
//! | the schema as SQLite sees it ([`super::schema`]) | views, virtual tables, generated columns, indexes of expressions |
//! | an authorizer for the life of the connection | reads of any other column than those in [`super::tables`], every function, every pragma after opening |
//! | read-only, immutable, defensive | writes, triggers |
//! | a budget for each question ([`super::budget`]) | statements that do not end |

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags};

use super::CatalogError;
use super::budget::{Budget, Meter, STEPS_PER_LOOK};
use super::schema::{Found, judge};
use super::tables::Table;
use crate::cache::CachedObject;
use crate::exact_names;

/// Longest text or blob: link targets have 4,095 bytes, attribute blobs 64 KiB, and a row as a whole less than this.
/// A longer value fails the statement before it is copied.
pub(super) const MAX_VALUE_LEN: i32 = 256 << 10;
/// Longest statement of a schema; those of servers have some 500 bytes, and ours as many.
const MAX_SQL_LEN: i32 = 4096;
/// Page cache of a connection: the upper pages of its trees. The kernel's page cache stands behind
/// it, and there may be hundreds of connections.
const PAGE_CACHE_KIB: i32 = 128;
/// Largest file that is read into memory where others wait.
const MAX_COPY: u64 = 1 << 20;
/// Pragmas that are used while a database is opened.
const PRAGMAS: [&str; 9] = [
    "cell_size_check",
    "mmap_size",
    "temp_store",
    "query_only",
    "cache_size",
    "table_list",
    "table_xinfo",
    "index_list",
    "index_xinfo",
];
/// Names of the table of the schema.
const SCHEMA_TABLES: [&str; 2] = ["sqlite_master", "sqlite_schema"];

/// A database opened with all guards up.
pub struct Database {
    opened: Opened,
    meter: Arc<Meter>,
    found: Arc<Found>,
}

/// A connection and what it reads. Fields are dropped in this order.
struct Opened {
    connection: Connection,
    /// Set if that is not a file.
    _bytes: Option<Bytes>,
}

impl Database {
    /// Asks one question.
    pub fn ask<T, E>(
        &self,
        budget: &Budget,
        question: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        self.meter.begin(budget, || self.opened.connection.get_interrupt_handle());
        let answer = question(&self.opened.connection);
        self.meter.finish();
        answer
    }

    /// Returns which of the described tables and columns the database has.
    pub(crate) fn found(&self) -> &Arc<Found> {
        &self.found
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Database")
    }
}

/// Opens a verified object as a database, by its name in the cache or from memory, of which only `tables` can be
/// read.
pub fn open_database(
    object: &CachedObject,
    tables: &'static [Table],
    budget: &Budget,
) -> Result<Database, CatalogError> {
    open_judged(object, tables, None, budget)
}

/// Opens one more connection to an object; `found` is what was found in it when it was opened first. A verified object
/// does not change, so its schema is not judged again.
pub(super) fn open_judged(
    object: &CachedObject,
    tables: &'static [Table],
    found: Option<&Arc<Found>>,
    budget: &Budget,
) -> Result<Database, CatalogError> {
    let mut opened = match object.exact_path() {
        Some(path) => {
            open_there(object, || is_still_there(&path, object), || open_file(&path), budget)?
        }
        None => open_bytes(object, budget)?,
    };
    let meter = Arc::new(Meter::new());
    let budget = budget.opening();
    meter.begin(&budget, || opened.connection.get_interrupt_handle());
    let found =
        harden(&mut opened.connection, &meter, tables, found).map_err(|error| match error {
            // No schema of ours takes that many steps, whoever waits.
            CatalogError::Sqlite(error) if is_interrupted(&error) => CatalogError::TimeLimit,
            error => error,
        });
    meter.finish();
    Ok(Database { opened, meter, found: found? })
}

/// Tells whether a statement ended because its budget did.
pub(super) fn is_interrupted(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}

/// Opens the file of an object, which may be evicted or replaced at any moment: also in the one
/// between the look and the opening.
fn open_there(
    object: &CachedObject,
    is_still_there: impl Fn() -> bool,
    open_file: impl FnOnce() -> Result<Connection, CatalogError>,
    budget: &Budget,
) -> Result<Opened, CatalogError> {
    if !is_still_there() {
        return open_bytes(object, budget);
    }
    let opened = open_file();
    if is_still_there() {
        Ok(Opened { connection: opened?, _bytes: None })
    } else {
        open_bytes(object, budget)
    }
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

/// Opens bytes in memory where they are: a copy by SQLite would be one large allocation.
fn open_bytes(object: &CachedObject, budget: &Budget) -> Result<Opened, CatalogError> {
    if object.file().is_some() && object.len() > MAX_COPY && budget.is_brief() {
        return Err(CatalogError::Unfinished);
    }
    let bytes = object.read_all(super::MAX_CATALOG_SIZE).map_err(CatalogError::Read)?;
    let mut connection = Connection::open_in_memory()?;
    // SAFETY: the bytes do not move and do not change, since `Bytes` is immutable and shared by reference. They
    // outlive the connection: `Opened` drops it first, by the order of its fields, and so does an error here, by the
    // order of the variables. SQLite only reads them (SQLITE_DESERIALIZE_READONLY).
    let forever: &'static [u8] = unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) };
    connection.deserialize_bytes(MAIN_DB, forever)?;
    Ok(Opened { connection, _bytes: Some(bytes) })
}

/// Raises all guards, and looks at the schema behind them.
fn harden(
    connection: &mut Connection,
    meter: &Arc<Meter>,
    tables: &'static [Table],
    found: Option<&Arc<Found>>,
) -> Result<Arc<Found>, CatalogError> {
    // Nothing of the file is read before all of these hold.
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
        (Limit::SQLITE_LIMIT_SQL_LENGTH, MAX_SQL_LEN),
        (Limit::SQLITE_LIMIT_COLUMN, 64),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 20),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 4),
        (Limit::SQLITE_LIMIT_VDBE_OP, 25_000),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, 0),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 0),
        (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 16),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 1),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, value)?;
    }
    // SAFETY: the handle is that of an open connection, which nobody else has, and a null list keeps no module.
    let dropped =
        unsafe { rusqlite::ffi::sqlite3_drop_modules(connection.handle(), ptr::null_mut()) };
    if dropped != rusqlite::ffi::SQLITE_OK {
        return Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(dropped), None).into());
    }
    let is_opening = Arc::new(AtomicBool::new(true));
    let opening = Arc::clone(&is_opening);
    connection.authorizer(Some(move |context: AuthContext<'_>| {
        match allows(tables, opening.load(Ordering::Relaxed), &context) {
            true => Authorization::Allow,
            false => Authorization::Deny,
        }
    }))?;
    let looking = Arc::clone(meter);
    connection.progress_handler(STEPS_PER_LOOK, Some(move || looking.look()))?;
    connection.execute_batch(&format!(
        "PRAGMA cell_size_check=ON; PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY; \
         PRAGMA query_only=ON; PRAGMA cache_size=-{PAGE_CACHE_KIB};"
    ))?;
    let found = match found {
        Some(found) => Arc::clone(found),
        None => Arc::new(judge(connection, tables)?),
    };
    is_opening.store(false, Ordering::Relaxed);
    Ok(found)
}

/// Decides what a statement may do; SQLite asks when it compiles one.
fn allows(tables: &[Table], is_opening: bool, context: &AuthContext<'_>) -> bool {
    // Anything on behalf of a view or a trigger.
    if context.accessor.is_some() {
        return false;
    }
    match context.action {
        AuthAction::Select => true,
        AuthAction::Read { table_name, column_name } => {
            let is_described = tables.iter().any(|table| {
                table.name.eq_ignore_ascii_case(table_name) && table.is_read(column_name)
            });
            is_described || (is_opening && SCHEMA_TABLES.contains(&table_name))
        }
        AuthAction::Pragma { pragma_name, .. } => is_opening && PRAGMAS.contains(&pragma_name),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
