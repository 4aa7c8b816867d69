//! The database of named tags (spec/format.md section 21).

use rusqlite::{Connection, OptionalExtension as _, Params, Row, params};

use crate::cache::CachedObject;
use crate::catalog::CatalogError;
use crate::catalog::sql::{Database, open_database};
use crate::fqrn::Fqrn;
use crate::hash::{ContentHash, HashParseError};

/// From this schema revision on, tags have the size of their root catalog.
const REVISION_WITH_SIZE: u32 = 1;
/// From this schema revision on, tags belong to a branch; the trunk is the branch ''.
const REVISION_WITH_BRANCH: u32 = 3;

/// Why tags cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The object is no database that may be opened.
    #[error("cannot open the tag database")]
    Open(#[from] CatalogError),
    /// The database lacks a table or column, or has a value of another type than it should.
    #[error("cannot read the tag database")]
    Database(#[from] rusqlite::Error),
    /// The database is of another repository.
    #[error("tag database is of {found:?} and not {expected}")]
    Name {
        /// The repository asked for.
        expected: Fqrn,
        /// The repository found; empty if none is named.
        found: String,
    },
    /// A tag has no usable root catalog.
    #[error("tag {name:?} names no root catalog")]
    Hash {
        /// The tag.
        name: String,
        /// The cause.
        source: HashParseError,
    },
    /// A tag has a negative revision or size.
    #[error("tag {name:?} has a negative {column}")]
    Negative {
        /// The tag.
        name: String,
        /// The column.
        column: &'static str,
    },
}

/// A name for one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Its name.
    pub name: String,
    /// The root catalog of the revision.
    pub root_catalog: ContentHash,
    /// The number of the revision.
    pub revision: u64,
    /// When it was published, in Unix seconds.
    pub timestamp: i64,
    /// What the publisher says about it.
    pub description: String,
    /// Plain size of the root catalog in bytes; `None` if not recorded.
    pub size: Option<u64>,
}

/// The named tags of a repository.
#[derive(Debug)]
pub struct History {
    database: Database,
    schema_revision: u32,
}

impl History {
    /// Opens a history object, which must be of the repository `fqrn`.
    pub fn open(object: &CachedObject, fqrn: &Fqrn) -> Result<Self, HistoryError> {
        let database = open_database(object)?;
        let found = property(database.statement(), "fqrn")?.unwrap_or_default();
        if found != fqrn.as_str() {
            return Err(HistoryError::Name { expected: fqrn.clone(), found });
        }
        // Databases older than the property are of revision 0.
        let schema_revision = property(database.statement(), "schema_revision")?;
        let schema_revision = schema_revision.and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Self { database, schema_revision })
    }

    /// Finds a tag by its name.
    pub fn by_name(&self, name: &str) -> Result<Option<Tag>, HistoryError> {
        let sql = format!("SELECT {} FROM tags WHERE name = ?1", self.columns());
        self.first(&sql, params![name])
    }

    /// Finds the newest revision of the trunk that was published at `date` (Unix seconds) or before.
    pub fn by_date(&self, date: i64) -> Result<Option<Tag>, HistoryError> {
        let trunk =
            if self.schema_revision >= REVISION_WITH_BRANCH { "AND branch = ''" } else { "" };
        let sql = format!(
            "SELECT {} FROM tags WHERE timestamp <= ?1 {trunk} ORDER BY revision DESC LIMIT 1",
            self.columns()
        );
        self.first(&sql, params![date])
    }

    /// Tells whether a tag names this root catalog.
    pub fn has_root(&self, root: &ContentHash) -> Result<bool, HistoryError> {
        let sql = format!("SELECT {} FROM tags WHERE hash = ?1 LIMIT 1", self.columns());
        Ok(self.first(&sql, params![root.to_string()])?.is_some())
    }

    /// Returns all tags, the newest revision first, then by name.
    pub fn tags(&self) -> Result<Vec<Tag>, HistoryError> {
        let sql = format!("SELECT {} FROM tags ORDER BY revision DESC, name", self.columns());
        let mut statement = self.database.statement().prepare(&sql)?;
        let rows = statement.query_map([], raw_tag)?;
        rows.map(|row| check(row?)).collect()
    }

    fn first(&self, sql: &str, with: impl Params) -> Result<Option<Tag>, HistoryError> {
        let row = self.database.statement().query_row(sql, with, raw_tag).optional()?;
        row.map(check).transpose()
    }

    fn columns(&self) -> &'static str {
        if self.schema_revision >= REVISION_WITH_SIZE {
            "name, hash, revision, timestamp, COALESCE(description, ''), COALESCE(size, 0)"
        } else {
            "name, hash, revision, timestamp, COALESCE(description, ''), 0"
        }
    }
}

fn property(connection: &Connection, key: &str) -> Result<Option<String>, rusqlite::Error> {
    let sql = "SELECT CAST(value AS TEXT) FROM properties WHERE key = ?1";
    Ok(connection
        .query_row(sql, [key], |row| row.get::<_, Option<String>>(0))
        .optional()?
        .flatten())
}

/// A row of the table, with the types of its columns and nothing else checked.
struct RawTag {
    name: String,
    hash: String,
    revision: i64,
    timestamp: i64,
    description: String,
    size: i64,
}

fn raw_tag(row: &Row<'_>) -> Result<RawTag, rusqlite::Error> {
    Ok(RawTag {
        name: row.get(0)?,
        hash: row.get(1)?,
        revision: row.get(2)?,
        timestamp: row.get(3)?,
        description: row.get(4)?,
        size: row.get(5)?,
    })
}

fn check(raw: RawTag) -> Result<Tag, HistoryError> {
    let RawTag { name, hash, revision, timestamp, description, size } = raw;
    let root_catalog = match hash.parse() {
        Ok(hash) => hash,
        Err(source) => return Err(HistoryError::Hash { name, source }),
    };
    let Ok(revision) = u64::try_from(revision) else {
        return Err(HistoryError::Negative { name, column: "revision" });
    };
    let Ok(size) = u64::try_from(size) else {
        return Err(HistoryError::Negative { name, column: "size" });
    };
    let size = Some(size).filter(|&size| size > 0);
    Ok(Tag { name, root_catalog, revision, timestamp, description, size })
}

#[cfg(test)]
mod tests;
