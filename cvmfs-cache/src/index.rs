//! When each object was used last, in SQLite: what eviction goes by. A hint, never an authority.
//!
//! Nothing on the path of a reader touches it. One thread of each process ([`crate::keeper`])
//! writes what happened since last time, in one transaction; whoever evicts reads from it. An
//! object that is missing here is found by its next use or by a count; a row without its object
//! is noticed when the object is to be removed; a file that is no database is made anew.
//!
//! **Journal.** A rollback journal, not WAL. WAL maps a file into the memory of all processes: a
//! sibling that truncates that file ends every mount by SIGBUS, and network file systems cannot do
//! it at all. WAL's gain, readers beside a writer, is worth nothing here, as nobody waits for the
//! index. `synchronous` is off: after a power cut the index may be damaged, and is rebuilt.
//! Measured (`cargo bench -p benches --bench cache`, ext4, medians): 1,000 touches in a table of
//! 10,000 take 5.6 ms with a rollback journal and 4.0 ms with WAL, of 100,000 18.8 and 18.7 ms.
//!
//! **Locks.** SQLite's own (POSIX), which exclude across containers and end with their process.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cvmfs_core::exact_names;
use parking_lot::Mutex;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

/// How long a transaction of a sibling is waited for.
const BUSY_LIMIT: Duration = Duration::from_secs(2);
/// Longest piece of work: a batch takes milliseconds, a file that somebody made to keep us for ever
/// takes longer, and is then made anew.
const WORK_LIMIT: Duration = Duration::from_secs(30);
/// Virtual machine steps between two looks at the clock.
const STEPS_PER_CHECK: i32 = 100_000;
/// Longest text accepted from the file, which others may have written.
const MAX_TEXT_LEN: i32 = 64 * 1024;
/// Longest label kept: a path is at most 4 KiB, and its end tells most.
const MAX_LABEL_LEN: usize = 1024;
/// Changes when older code could not use the table.
const SCHEMA: i64 = 1;

/// What happened to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Use {
    /// Below `objects`: `ab/cdef...`.
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Milliseconds since 1970.
    pub(crate) used: i64,
    /// Set when it was stored, not when it was only used.
    pub(crate) stored: Option<Stored>,
}

/// What is known of an object when it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// For people.
    pub(crate) label: String,
    /// To be evicted first.
    pub(crate) volatile: bool,
}

/// An object that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Victim {
    /// Below `objects`.
    pub(crate) name: String,
    /// Bytes, as the index believes.
    pub(crate) size: u64,
}

/// One row, for people.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct IndexedObject {
    /// Name below `objects`: hash and kind, with a slash after the first two digits.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// When it was used last: milliseconds since 1970.
    pub used: i64,
    /// Evicted first.
    pub volatile: bool,
    /// What it is.
    pub label: String,
}

/// Why the index could not be used.
#[derive(Debug, thiserror::Error)]
#[error("the index of the cache cannot be used")]
pub(crate) struct IndexError(#[from] rusqlite::Error);

impl IndexError {
    /// Tells whether the file itself is at fault, and not a full disk or a busy sibling.
    pub(crate) fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode::{
            DatabaseCorrupt, NotADatabase, OperationInterrupted, SchemaChanged, TypeMismatch,
            Unknown,
        };
        matches!(
            self.0.sqlite_error_code(),
            None | Some(
                DatabaseCorrupt
                    | NotADatabase
                    | OperationInterrupted
                    | SchemaChanged
                    | TypeMismatch
                    | Unknown
            )
        )
    }
}

/// An open index.
pub(crate) struct Index {
    connection: Connection,
    path: PathBuf,
    started: Arc<Mutex<Instant>>,
    /// After the connection, which uses it until it is closed.
    _held: Option<Arc<OwnedFd>>,
}

impl Index {
    /// Opens the index in a file that exists already, because SQLite would give it other modes.
    ///
    /// A path through a descriptor is followed as it is; `held` keeps that open for as long as SQLite opens
    /// the journal by it.
    pub(crate) fn open(path: PathBuf, held: Option<Arc<OwnedFd>>) -> Result<Self, IndexError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let mut connection = match exact_names::vfs() {
            Some(vfs) if held.is_some() => Connection::open_with_flags_and_vfs(&path, flags, vfs)?,
            _ => Connection::open_with_flags(&path, flags)?,
        };
        connection.busy_timeout(BUSY_LIMIT)?;
        let started = Arc::new(Mutex::new(Instant::now()));
        let clock = Arc::clone(&started);
        connection
            .progress_handler(STEPS_PER_CHECK, Some(move || clock.lock().elapsed() > WORK_LIMIT))?;
        for (config, on) in [
            (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
            (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        ] {
            connection.set_db_config(config, on)?;
        }
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_TEXT_LEN)?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        connection.pragma_update(None, "journal_mode", "TRUNCATE")?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version != SCHEMA {
            create(&connection)?;
        }
        Ok(Self { connection, path, started, _held: held })
    }

    /// Gives the next piece of work its time.
    pub(crate) fn start_clock(&self) {
        *self.started.lock() = Instant::now();
    }

    /// Tells which file this is.
    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Writes what happened, and which objects are gone.
    pub(crate) fn apply(&mut self, uses: &[Use], gone: &[String]) -> Result<(), IndexError> {
        if uses.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let transaction = self.connection.transaction()?;
        {
            let mut remove = transaction.prepare_cached("DELETE FROM objects WHERE name = ?1")?;
            for name in gone {
                remove.execute([name])?;
            }
            let mut store = transaction.prepare_cached(
                "INSERT INTO objects (name, size, used, volatile, label) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (name) DO UPDATE SET size = ?2, used = max(used, ?3), volatile = ?4,
                 label = CASE WHEN ?5 = '' THEN label ELSE ?5 END",
            )?;
            let mut touch = transaction.prepare_cached(
                "INSERT INTO objects (name, size, used, volatile, label) VALUES (?1, ?2, ?3, 0, '')
                 ON CONFLICT (name) DO UPDATE SET used = max(used, ?3)",
            )?;
            for one in uses {
                let size = i64::try_from(one.size).unwrap_or(i64::MAX);
                match &one.stored {
                    Some(stored) => {
                        let label = shortened(&stored.label);
                        store.execute(params![one.name, size, one.used, stored.volatile, label])?
                    }
                    None => touch.execute(params![one.name, size, one.used])?,
                };
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Adds objects found in the directory that have no row.
    pub(crate) fn complete(&mut self, found: &[Use]) -> Result<(), IndexError> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO objects (name, size, used, volatile, label) VALUES (?1, ?2, ?3, 0, '')
                 ON CONFLICT (name) DO UPDATE SET size = ?2",
            )?;
            for one in found {
                let size = i64::try_from(one.size).unwrap_or(i64::MAX);
                insert.execute(params![one.name, size, one.used])?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Returns up to `limit` objects in the order in which they should go, after the first `skip`.
    pub(crate) fn victims(&self, skip: usize, limit: usize) -> Result<Vec<Victim>, IndexError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT name, size FROM objects ORDER BY volatile DESC, used ASC LIMIT ?2 OFFSET ?1",
        )?;
        let skip = i64::try_from(skip).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map([skip, limit], |row| {
            let size: i64 = row.get(1)?;
            Ok(Victim { name: row.get(0)?, size: u64::try_from(size).unwrap_or(0) })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Hands all rows to `each`, last used first, until it says no.
    pub(crate) fn for_each(
        &self,
        each: &mut dyn FnMut(IndexedObject) -> bool,
    ) -> Result<(), IndexError> {
        let mut statement = self
            .connection
            .prepare("SELECT name, size, used, volatile, label FROM objects ORDER BY used DESC")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let size: i64 = row.get(1)?;
            let object = IndexedObject {
                name: row.get(0)?,
                size: u64::try_from(size).unwrap_or(0),
                used: row.get(2)?,
                volatile: row.get::<_, i64>(3)? != 0,
                label: row.get(4)?,
            };
            if !each(object) {
                break;
            }
        }
        Ok(())
    }

    /// Returns the names that start with a directory, `ab/`.
    pub(crate) fn names_in(&self, fan: u8) -> Result<Vec<String>, IndexError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT name FROM objects WHERE name >= ?1 AND name < ?2")?;
        // '0' follows '/' in ASCII.
        let rows = statement
            .query_map([format!("{fan:02x}/"), format!("{fan:02x}0")], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Tells whether somebody ought to count what is stored.
    pub(crate) fn count_is_due(&self) -> Result<bool, IndexError> {
        let due = self.connection.query_row(
            "SELECT value FROM state WHERE key = 'count_due'",
            [],
            |row| row.get::<_, i64>(0),
        );
        Ok(due.optional()? != Some(0))
    }

    /// Notes whether somebody ought to count.
    pub(crate) fn set_count_due(&self, due: bool) -> Result<(), IndexError> {
        self.connection.execute(
            "INSERT INTO state (key, value) VALUES ('count_due', ?1)
             ON CONFLICT (key) DO UPDATE SET value = ?1",
            [i64::from(due)],
        )?;
        Ok(())
    }
}

fn create(connection: &Connection) -> Result<(), IndexError> {
    // Two processes may do this at once: the lock of the first statement decides who does it.
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE;
         DROP TABLE IF EXISTS objects;
         CREATE TABLE objects (
             name TEXT PRIMARY KEY NOT NULL,
             size INTEGER NOT NULL,
             used INTEGER NOT NULL,
             volatile INTEGER NOT NULL,
             label TEXT NOT NULL
         ) STRICT, WITHOUT ROWID;
         CREATE INDEX objects_by_use ON objects (volatile DESC, used ASC);
         CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL)
             STRICT, WITHOUT ROWID;
         DELETE FROM state;
         PRAGMA user_version = {SCHEMA};
         COMMIT;"
    ))?;
    Ok(())
}

/// Keeps the end of a long label.
fn shortened(label: &str) -> &str {
    let mut start = label.len().saturating_sub(MAX_LABEL_LEN);
    while !label.is_char_boundary(start) {
        start += 1;
    }
    &label[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(directory: &std::path::Path) -> Index {
        let path = directory.join("index.sqlite");
        if !path.exists() {
            std::fs::write(&path, b"").unwrap();
        }
        Index::open(path, None).unwrap()
    }

    fn used(name: &str, size: u64, used: i64, volatile: Option<bool>) -> Use {
        let stored = volatile.map(|volatile| Stored { label: format!("/{name}"), volatile });
        Use { name: name.to_owned(), size, used, stored }
    }

    fn order(index: &Index) -> Vec<String> {
        index.victims(0, 100).unwrap().into_iter().map(|victim| victim.name).collect()
    }

    #[test]
    fn volatile_first_then_by_use() {
        let scratch = tempfile::tempdir().unwrap();
        let mut index = index(scratch.path());
        let stored = [
            used("00/a", 1, 10, Some(false)),
            used("01/b", 2, 20, Some(true)),
            used("02/c", 3, 30, Some(false)),
            used("ff/d", 4, 40, Some(true)),
        ];
        index.apply(&stored, &[]).unwrap();
        assert_eq!(order(&index), ["01/b", "ff/d", "00/a", "02/c"]);
        // A touch keeps label and kind; one that comes late does not turn time back.
        index.apply(&[used("00/a", 1, 50, None), used("02/c", 3, 5, None)], &[]).unwrap();
        assert_eq!(order(&index), ["01/b", "ff/d", "02/c", "00/a"]);
        // A touch of an object without a row makes one.
        index.apply(&[used("03/e", 9, 1, None)], &["01/b".to_owned()]).unwrap();
        assert_eq!(order(&index), ["ff/d", "03/e", "02/c", "00/a"]);
        assert_eq!(index.victims(1, 1).unwrap(), [Victim { name: "03/e".to_owned(), size: 9 }]);
        assert_eq!(index.names_in(0xff).unwrap(), ["ff/d"]);
        let mut rows = Vec::new();
        index
            .for_each(&mut |row| {
                rows.push((row.name, row.label));
                rows.len() < 2
            })
            .unwrap();
        assert_eq!(rows[0], ("00/a".to_owned(), "/00/a".to_owned()));
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn a_new_index_asks_for_a_count() {
        let scratch = tempfile::tempdir().unwrap();
        let first = index(scratch.path());
        assert!(first.count_is_due().unwrap());
        first.set_count_due(false).unwrap();
        assert!(!index(scratch.path()).count_is_due().unwrap());
    }

    #[test]
    fn what_is_no_index_is_known_as_such() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("index.sqlite");
        std::fs::write(&path, b"bla".repeat(1000)).unwrap();
        assert!(Index::open(path, None).is_err_and(|error| error.is_damage()));
        let link = scratch.path().join("link");
        std::os::unix::fs::symlink(scratch.path().join("elsewhere"), &link).unwrap();
        assert!(Index::open(link, None).is_err());
        assert!(!scratch.path().join("elsewhere").exists());
    }

    #[test]
    fn long_labels_lose_their_beginning() {
        let label = format!("{}/end", "é".repeat(2000));
        assert!(shortened(&label).ends_with("/end"));
        assert!(shortened(&label).len() <= MAX_LABEL_LEN);
    }
}
