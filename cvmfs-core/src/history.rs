//! The database of named tags (spec/format.md section 21).

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Params, Row, params};

use crate::cache::CachedObject;
use crate::catalog::CatalogError;
use crate::catalog::budget::Budget;
use crate::catalog::sql::{Database, open_database};
use crate::catalog::tables;
use crate::fqrn::Fqrn;
use crate::hash::{ContentHash, HashParseError};

/// From this schema revision on, tags have the size of their root catalog.
const REVISION_WITH_SIZE: u32 = 1;
/// From this schema revision on, tags belong to a branch; the trunk is the branch ''.
const REVISION_WITH_BRANCH: u32 = 3;

/// Longest name, hash or description of a tag, and longest property; tags with longer ones are refused.
const MAX_TEXT: usize = 64 << 10;
/// Most tags that are listed: a repository with one for each day of a century has fewer.
const MAX_TAGS: usize = 100_000;
/// Bytes of their texts.
const MAX_TAG_BYTES: usize = 32 << 20;
/// Most properties that are looked at: servers write three.
const MAX_PROPERTIES: u32 = 1000;

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
    /// A text is longer than any that a server writes.
    #[error("tag database has a {column} of {len} bytes")]
    Long {
        /// The column.
        column: &'static str,
        /// Its length.
        len: usize,
    },
    /// More tags than are listed.
    #[error("tag database has too many tags to be listed")]
    TooMany,
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
    has_size: bool,
    has_branch: bool,
}

impl History {
    /// Opens a history object, which must be of the repository `fqrn`.
    pub fn open(object: &CachedObject, fqrn: &Fqrn, budget: &Budget) -> Result<Self, HistoryError> {
        let database = open_database(object, &tables::HISTORY, budget)?;
        let (found, schema_revision) = database.ask(budget, read_properties)?;
        if found != fqrn.as_str() {
            return Err(HistoryError::Name { expected: fqrn.clone(), found });
        }
        // Columns that an upgrade did not add are not there, whatever the number says.
        let has = |column| database.found().has("tags", column);
        let has_size = schema_revision >= REVISION_WITH_SIZE && has("size");
        let has_branch = schema_revision >= REVISION_WITH_BRANCH && has("branch");
        Ok(Self { database, has_size, has_branch })
    }

    /// Finds a tag by its name.
    pub fn by_name(&self, name: &str, budget: &Budget) -> Result<Option<Tag>, HistoryError> {
        let sql = format!("SELECT {} FROM tags WHERE name = ?1", self.columns());
        let mut found = None;
        self.each(&sql, params![name], budget, |tag| {
            found.get_or_insert(tag);
            Ok(())
        })?;
        found.map(check).transpose()
    }

    /// Finds the newest revision of the trunk that was published at `date` (Unix seconds) or before.
    pub fn by_date(&self, date: i64, budget: &Budget) -> Result<Option<Tag>, HistoryError> {
        let trunk = if self.has_branch { "AND branch = ''" } else { "" };
        let sql = format!("SELECT {} FROM tags WHERE timestamp <= ?1 {trunk}", self.columns());
        // Compared here: SQLite would sort all of them.
        let mut newest: Option<RawTag> = None;
        self.each(&sql, params![date], budget, |tag| {
            if newest.as_ref().is_none_or(|newest| newest.revision < tag.revision) {
                newest = Some(tag);
            }
            Ok(())
        })?;
        newest.map(check).transpose()
    }

    /// Finds a tag of this root catalog.
    pub fn by_root(
        &self,
        root: &ContentHash,
        budget: &Budget,
    ) -> Result<Option<Tag>, HistoryError> {
        let sql = format!("SELECT {} FROM tags WHERE hash = ?1", self.columns());
        let mut found = None;
        self.each(&sql, params![root.to_string()], budget, |tag| {
            found.get_or_insert(tag);
            Ok(())
        })?;
        found.map(check).transpose()
    }

    /// Returns all tags, the newest revision first, then by name.
    pub fn tags(&self, budget: &Budget) -> Result<Vec<Tag>, HistoryError> {
        let sql = format!("SELECT {} FROM tags", self.columns());
        let (mut tags, mut bytes) = (Vec::new(), 0);
        self.each(&sql, params![], budget, |tag| {
            let tag = check(tag)?;
            bytes += tag.name.len() + tag.description.len();
            if tags.len() >= MAX_TAGS || bytes > MAX_TAG_BYTES {
                return Err(HistoryError::TooMany);
            }
            tags.push(tag);
            Ok(())
        })?;
        tags.sort_by(|a, b| b.revision.cmp(&a.revision).then_with(|| a.name.cmp(&b.name)));
        Ok(tags)
    }

    /// Calls `take` with each row of a statement.
    fn each(
        &self,
        sql: &str,
        with: impl Params,
        budget: &Budget,
        mut take: impl FnMut(RawTag) -> Result<(), HistoryError>,
    ) -> Result<(), HistoryError> {
        self.database.ask(budget, |connection| {
            let mut statement = connection.prepare(sql)?;
            let mut rows = statement.query(with)?;
            while let Some(row) = rows.next()? {
                budget.check()?;
                take(raw_tag(row)?)?;
            }
            Ok(())
        })
    }

    fn columns(&self) -> &'static str {
        if self.has_size {
            "name, hash, revision, timestamp, description, size"
        } else {
            "name, hash, revision, timestamp, description, 0"
        }
    }
}

/// Returns the name of the repository, empty if there is none, and the revision of the schema; databases older than
/// that property are of revision 0.
fn read_properties(connection: &Connection) -> Result<(String, u32), HistoryError> {
    let (mut fqrn, mut revision) = (String::new(), 0);
    let sql = format!("SELECT key, value FROM properties LIMIT {MAX_PROPERTIES}");
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let value = match row.get_ref(1)? {
            ValueRef::Integer(number) => number.to_string(),
            ValueRef::Text(text) | ValueRef::Blob(text) => {
                bounded(text.len(), "property")?;
                String::from_utf8_lossy(text).into_owned()
            }
            ValueRef::Null | ValueRef::Real(_) => String::new(),
        };
        match row.get_ref(0)? {
            ValueRef::Text(b"fqrn") => fqrn = value,
            ValueRef::Text(b"schema_revision") => revision = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    Ok((fqrn, revision))
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

fn raw_tag(row: &Row<'_>) -> Result<RawTag, HistoryError> {
    for (index, column) in [(0, "name"), (1, "hash"), (4, "description")] {
        if let ValueRef::Text(text) | ValueRef::Blob(text) = row.get_ref(index)? {
            bounded(text.len(), column)?;
        }
    }
    Ok(RawTag {
        name: row.get(0)?,
        hash: row.get(1)?,
        revision: row.get(2)?,
        timestamp: row.get(3)?,
        description: row.get::<_, Option<String>>(4)?.unwrap_or_default(),
        size: row.get::<_, Option<i64>>(5)?.unwrap_or(0),
    })
}

/// Refuses a text before it is copied.
fn bounded(len: usize, column: &'static str) -> Result<(), HistoryError> {
    if len <= MAX_TEXT { Ok(()) } else { Err(HistoryError::Long { column, len }) }
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
