//! File catalogs: one SQLite database for a part of the tree (spec/format.md sections 10 to 16).
//!
//! | module | what it holds |
//! |---|---|
//! | `tables` | the tables and columns that are read |
//! | `sql` | opens an untrusted database, all guards up |
//! | `schema` | what is in it, and the versions we read |
//! | [`budget`], [`evaluator`] | what a question may cost, and where one that takes long is asked |
//! | `row` | columns of a row, typed |
//! | `properties` | what a catalog says about itself |
//! | [`entry`] | a checked row: [`DirectoryEntry`] |
//! | [`chunks`] | the chunk table, checked |
//! | [`xattr`], [`symlink`] | attribute blobs; variables in link targets |
//!
//! A catalog is immutable. Its connections live in a pool: a query takes one out, so that no lock
//! is held while SQLite reads the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rusqlite::OptionalExtension as _;
use rusqlite::types::{ToSqlOutput, ValueRef};

use crate::cache::CachedObject;
use crate::hash::ContentHash;
use crate::path::{RepoPath, is_valid_name};

pub mod budget;
pub mod chunks;
pub mod entry;
mod error;
pub mod evaluator;
mod properties;
mod row;
mod schema;
pub mod sql;
pub mod symlink;
pub(crate) mod tables;
pub mod xattr;

use budget::Budget;
pub use entry::{
    Chunk, ChunkStyle, Content, DirectoryEntry, EntryIdentity, EntryKind, MAX_XATTR_LEN, RowFault,
};
use entry::{DecodeFailure, RowContext};
pub use error::CatalogError;
pub use properties::{Counters, Properties, Totals};
use properties::{nothing_counted, read_counters, read_properties, read_totals};
use row::RawRow;
use schema::{Found, Schema};
use sql::{Database, is_interrupted, open_database, open_judged};
use symlink::SymlinkVariables;
use tables::PARENT_INDEX;
use xattr::{XattrError, Xattrs};

/// Cap on the size of a catalog whose size nobody states; the largest published ones have
/// several hundred MiB.
pub const MAX_CATALOG_SIZE: u64 = 4 << 30;
/// Idle connections kept per catalog unless told otherwise: each costs a descriptor and some 100
/// Bytes of one that the kernel reads from disk at once when it is opened. Lookups in a larger one
/// may need little of it.
const READ_AHEAD: u64 = 16 << 20;
/// KiB.
const IDLE_CONNECTIONS: usize = 4;
/// Bytes of the entries of one page, about: what a listing holds at a time, however long it is.
const MAX_PAGE_BYTES: usize = 256 << 10;
/// Rows looked at for one page: fewer than a brief budget has steps for.
const MAX_PAGE_ROWS: usize = 512;
/// Largest row number from which a listing can be continued: it must fit into half of an offset, beside two numbers
/// for `.` and `..`. Servers number the rows of a catalog from 1.
pub const MAX_ROW_NUMBER: u32 = u32::MAX - 3;

/// A part of a directory, in the order of row numbers.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Entries with their row numbers, which rise; hidden ones and impossible rows are left out, so there may be
    /// none.
    pub entries: Vec<(u32, DirectoryEntry)>,
    /// Number of the row after which the next page begins; `None` at the end of the directory.
    pub next: Option<u32>,
}

/// A catalog attached below another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NestedReference {
    /// Where it is attached.
    pub attachment: Attachment,
    /// Its object.
    pub hash: ContentHash,
    /// Plain size if stated.
    pub size: Option<u64>,
}

/// Where a catalog is attached and what it may call itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attachment {
    /// Path of its root directory in the repository.
    pub mountpoint: RepoPath,
    /// The same path in the words of the catalog above, which differ below bind mountpoints: a
    /// nested catalog must state it. `None` for bind targets, which may come from anywhere.
    pub place: Option<RepoPath>,
}

impl Attachment {
    /// Attaches the root catalog.
    pub fn root() -> Self {
        Self { mountpoint: RepoPath::root(), place: Some(RepoPath::root()) }
    }
}

/// One opened catalog.
#[derive(Debug)]
pub struct Catalog {
    attachment: Attachment,
    /// Paths inside the catalog start with this instead of the mountpoint.
    root_prefix: RepoPath,
    hash: ContentHash,
    has_xattr: bool,
    has_statistics: bool,
    found: Arc<Found>,
    statements: Statements,
    properties: Properties,
    counters: Counters,
    has_nested: bool,
    object: CachedObject,
    idle: Mutex<Vec<Database>>,
    max_idle: usize,
    variables: SymlinkVariables,
    skipped_rows: AtomicU64,
}

/// The queries of spec/format.md section 10.3, in the words of the catalog's schema.
#[derive(Debug)]
struct Statements {
    lookup: String,
    page: String,
    /// Any row of the tables of nested catalogs.
    nested: String,
    nested_at: String,
}

impl Statements {
    fn new(schema: &Schema) -> Self {
        let columns = row::columns(schema);
        Self {
            lookup: format!(
                "SELECT {columns} FROM catalog WHERE md5path_1 = ?1 AND md5path_2 = ?2"
            ),
            // The index has the row number behind its columns, so this is one run through it.
            page: format!(
                "SELECT {columns}, rowid FROM catalog INDEXED BY {PARENT_INDEX} \
                 WHERE parent_1 = ?1 AND parent_2 = ?2 AND rowid > ?3 ORDER BY rowid"
            ),
            nested: format!("SELECT path FROM ({}) LIMIT 1", nested_tables(schema)),
            nested_at: format!(
                "SELECT sha1, size, bind FROM ({}) WHERE path = ?1",
                nested_tables(schema)
            ),
        }
    }
}

impl Catalog {
    /// Opens a verified object as the catalog of `attachment`.
    pub fn open(
        object: CachedObject,
        hash: ContentHash,
        attachment: Attachment,
        variables: SymlinkVariables,
        budget: &Budget,
    ) -> Result<Self, CatalogError> {
        if object.is_on_disk_only() {
            // A walk needs all of it, page by page.
            object.read_ahead(READ_AHEAD);
        }
        let database = open_database(&object, &tables::CATALOG, budget)?;
        let answered = database.ask(budget, |connection| -> Result<_, CatalogError> {
            let (properties, version) = read_properties(connection)?;
            let schema = Schema::read(database.found(), version)?;
            let statements = Statements::new(&schema);
            let has_nested =
                connection.query_row(&statements.nested, [], |_| Ok(())).optional()?.is_some();
            let counters = if schema.has_statistics {
                read_counters(connection)?
            } else {
                Counters::default()
            };
            Ok((properties, schema, statements, has_nested, counters))
        });
        let (properties, schema, statements, has_nested, counters) =
            answered.map_err(|error| explain(error, budget))?;
        let stated = properties.root_prefix.clone().unwrap_or_default();
        let root_prefix = RepoPath::parse(&stated).filter(|path| path.as_bytes() == stated);
        // A nested catalog belongs to one place; a bind target may come from anywhere. Catalogs
        // that do not state their place are taken at the word of the one above.
        let root_prefix = match (root_prefix, &attachment.place) {
            (Some(prefix), None) => prefix,
            (Some(prefix), Some(place)) if prefix == *place => prefix,
            (Some(_), Some(place)) if properties.root_prefix.is_none() => place.clone(),
            _ => {
                return Err(CatalogError::WrongPrefix {
                    stated: stated.escape_ascii().to_string(),
                    mountpoint: attachment.mountpoint,
                });
            }
        };
        let catalog = Self {
            root_prefix,
            hash,
            has_xattr: schema.has_xattr,
            has_statistics: schema.has_statistics,
            found: Arc::clone(database.found()),
            statements,
            properties,
            counters,
            has_nested,
            object,
            idle: Mutex::new(vec![database]),
            max_idle: IDLE_CONNECTIONS,
            variables,
            skipped_rows: AtomicU64::new(0),
            attachment,
        };
        let root = catalog.lookup(&catalog.attachment.mountpoint, budget)?;
        if root.is_none_or(|root| root.kind != EntryKind::Directory) {
            return Err(CatalogError::NoRoot(catalog.attachment.mountpoint));
        }
        Ok(catalog)
    }

    /// Keeps up to `connections` idle connections.
    pub fn keeping(self, connections: usize) -> Self {
        Self { max_idle: connections, ..self }
    }

    /// Returns where the catalog is attached.
    pub fn mountpoint(&self) -> &RepoPath {
        &self.attachment.mountpoint
    }

    /// Returns where it is attached.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Returns the hash of the catalog's object.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Returns what the catalog says about itself.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Returns the entry counts.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Reads all that is counted.
    pub fn totals(&self, budget: &Budget) -> Result<Totals, CatalogError> {
        if !self.has_statistics {
            return Ok(nothing_counted());
        }
        self.with_database(budget, read_totals)
    }

    /// Returns how many malformed rows were left out so far.
    pub fn skipped_rows(&self) -> u64 {
        self.skipped_rows.load(Ordering::Relaxed)
    }

    /// Finds the entry of a path; `None` is the catalog's word that there is none.
    pub fn lookup(
        &self,
        path: &RepoPath,
        budget: &Budget,
    ) -> Result<Option<DirectoryEntry>, CatalogError> {
        let inside = self.inside(path);
        let key = inside.hash();
        self.with_database(budget, |connection| {
            let mut statement = connection.prepare_cached(&self.statements.lookup)?;
            let mut rows = statement.query([key.first, key.second])?;
            let Some(row) = rows.next()? else { return Ok(None) };
            let raw = RawRow::read(row)?
                .ok_or(CatalogError::Row { path: path.clone(), fault: RowFault::Columns })?;
            let is_root = *path == self.attachment.mountpoint;
            if !is_root && raw.name != path.name() {
                self.skip(path, RowFault::Digest);
                return Ok(None);
            }
            match self.decode(connection, &raw, is_root, budget) {
                Ok(entry) => Ok(Some(entry)),
                // The row of this very name exists and cannot be believed: an error, not absence.
                Err(DecodeFailure::Fault(fault)) => {
                    Err(CatalogError::Row { path: path.clone(), fault })
                }
                Err(DecodeFailure::Catalog(error)) => Err(error),
            }
        })
    }

    /// Lists a part of a directory, from the row after `after` on (0 for the start): no `.` and `..`, hidden entries
    /// left out. Rows that cannot be right are skipped, counted and logged.
    ///
    /// The page ends where it is large enough, and where the budget does.
    pub fn page(
        &self,
        directory: &RepoPath,
        after: u32,
        budget: &Budget,
    ) -> Result<Page, CatalogError> {
        let inside = self.inside(directory);
        let key = inside.hash();
        self.with_database(budget, |connection| {
            let mut statement = connection.prepare_cached(&self.statements.page)?;
            let mut rows = statement.query((key.first, key.second, after))?;
            let mut page = Page::default();
            let mut digests = std::collections::HashSet::new();
            let (mut bytes, mut last) = (0, after);
            for count in 0.. {
                let Some(row) = rows.next()? else { return Ok(page) };
                let number = row.get::<_, i64>(row::COLUMNS)?;
                let Some(number) = u32::try_from(number).ok().filter(|n| *n <= MAX_ROW_NUMBER)
                else {
                    // All that follow are larger.
                    self.skip(directory, RowFault::Number);
                    return Ok(page);
                };
                if number <= last {
                    return Err(CatalogError::Disorder(directory.clone()));
                }
                if count > 0
                    && (count >= MAX_PAGE_ROWS || bytes >= MAX_PAGE_BYTES || budget.is_slice_over())
                {
                    page.next = Some(last);
                    return Ok(page);
                }
                let raw = RawRow::read(row)?;
                let digest = raw.as_ref().map(|raw| raw.path);
                let entry = match self.child(connection, &inside, raw, budget) {
                    Ok(entry) => entry,
                    // Its chunks are many: the next page begins with them.
                    Err(CatalogError::Unfinished) if count > 0 => {
                        page.next = Some(last);
                        return Ok(page);
                    }
                    Err(error) => return Err(error),
                };
                last = number;
                let Some(entry) = entry else { continue };
                // The digest is that of the name.
                if digests.insert(digest) {
                    bytes += entry.weight();
                    page.entries.push((number, entry));
                } else {
                    self.skip(&inside.join(&entry.name), RowFault::Duplicate);
                }
            }
            Ok(page)
        })
    }

    /// Lists a directory whose entries take up to `most` bytes, see [`Self::page`].
    pub fn list(
        &self,
        directory: &RepoPath,
        most: usize,
        budget: &Budget,
    ) -> Result<Vec<DirectoryEntry>, CatalogError> {
        let (mut entries, mut bytes, mut next) = (Vec::new(), 0, Some(0));
        while let Some(after) = next {
            budget.check()?;
            let page = self.page(directory, after, budget)?;
            bytes += page.entries.iter().map(|(_, entry)| entry.weight()).sum::<usize>();
            if bytes > most {
                return Err(CatalogError::TooManyEntries(directory.clone()));
            }
            entries.extend(page.entries.into_iter().map(|(_, entry)| entry));
            next = page.next;
        }
        Ok(entries)
    }

    /// Checks a row of a listing; `None` if it is not to be listed.
    fn child(
        &self,
        connection: &rusqlite::Connection,
        directory: &RepoPath,
        raw: Option<RawRow<'_>>,
        budget: &Budget,
    ) -> Result<Option<DirectoryEntry>, CatalogError> {
        let Some(raw) = raw else {
            self.skip(directory, RowFault::Columns);
            return Ok(None);
        };
        if !is_valid_name(raw.name) {
            self.skip(directory, RowFault::Name);
            return Ok(None);
        }
        let child = directory.join(raw.name);
        // A row whose digest is not that of its name could be listed but not looked up.
        let digest = child.hash();
        if (digest.first, digest.second) != raw.path {
            self.skip(&child, RowFault::Digest);
            return Ok(None);
        }
        match self.decode(connection, &raw, false, budget) {
            Ok(entry) => Ok(Some(entry).filter(|entry| !entry.hidden)),
            Err(DecodeFailure::Fault(fault)) => {
                self.skip(&child, fault);
                Ok(None)
            }
            Err(DecodeFailure::Catalog(error)) => Err(error),
        }
    }

    /// Reads the chunks of a file: contiguous from 0, their sum is the file's size.
    pub fn chunks(&self, path: &RepoPath, budget: &Budget) -> Result<Vec<Chunk>, CatalogError> {
        let key = self.inside(path).hash();
        self.with_database(budget, |connection| {
            let unusable = |reason| CatalogError::Chunks { path: path.clone(), reason };
            let mut statement = connection.prepare_cached(&self.statements.lookup)?;
            let mut rows = statement.query([key.first, key.second])?;
            let raw = match rows.next()? {
                Some(row) => RawRow::read(row)?.filter(DirectoryEntry::is_chunked),
                None => None,
            };
            let raw = raw.ok_or(unusable("not a chunked file"))?;
            let mut chunks = Vec::new();
            chunks::each(connection, &raw, budget, &mut |chunk| chunks.push(chunk))?
                .map_err(unusable)?;
            Ok(chunks)
        })
    }

    /// Reads the extended attributes of an entry. A broken blob gives none, as for upstream.
    pub fn xattrs(&self, path: &RepoPath, budget: &Budget) -> Result<Xattrs, CatalogError> {
        if !self.has_xattr {
            return Ok(Xattrs::default());
        }
        let key = self.inside(path).hash();
        self.with_database(budget, |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT xattr FROM catalog WHERE md5path_1 = ?1 AND md5path_2 = ?2",
            )?;
            let mut rows = statement.query([key.first, key.second])?;
            let Some(row) = rows.next()? else { return Ok(Xattrs::default()) };
            // Neither text nor blob: no attributes either.
            let Some(blob) = row.get_ref(0)?.as_bytes_or_null().ok().flatten() else {
                return Ok(Xattrs::default());
            };
            let parsed = match blob.len() > MAX_XATTR_LEN {
                true => Err(XattrError::Long(blob.len())),
                false => Xattrs::parse(blob),
            };
            Ok(parsed.unwrap_or_else(|error| {
                tracing::warn!(%path, %error, "extended attributes left out");
                Xattrs::default()
            }))
        })
    }

    /// Finds the nested catalog that is attached exactly at `path`.
    pub fn nested_at(
        &self,
        path: &RepoPath,
        budget: &Budget,
    ) -> Result<Option<NestedReference>, CatalogError> {
        if !self.has_nested {
            return Ok(None);
        }
        let inside = self.inside(path);
        self.with_database(budget, |connection| {
            // Bound as text whatever its bytes: a blob never equals a text.
            let key = ToSqlOutput::Borrowed(ValueRef::Text(inside.as_bytes()));
            let mut statement = connection.prepare_cached(&self.statements.nested_at)?;
            let mut rows = statement.query([key])?;
            let Some(row) = rows.next()? else { return Ok(None) };
            let malformed = || CatalogError::Reference(path.clone());
            let ValueRef::Text(hash) = row.get_ref(0)? else { return Err(malformed()) };
            let hash = std::str::from_utf8(hash).ok().and_then(|hash| hash.parse().ok());
            let hash: ContentHash = hash.ok_or_else(malformed)?;
            let size = match row.get_ref(1)? {
                ValueRef::Null | ValueRef::Integer(0) => None,
                ValueRef::Integer(size) => Some(u64::try_from(size).map_err(|_| malformed())?),
                _ => return Err(malformed()),
            };
            let place = (!row.get::<_, bool>(2)?).then(|| inside.clone());
            let attachment = Attachment { mountpoint: path.clone(), place };
            Ok(Some(NestedReference { attachment, hash, size }))
        })
    }

    /// Translates a repository path to the catalog's own (spec/format.md section 12).
    fn inside(&self, path: &RepoPath) -> RepoPath {
        if self.root_prefix == self.attachment.mountpoint {
            return path.clone();
        }
        let below = &path.as_bytes()[self.attachment.mountpoint.as_bytes().len()..];
        let mut inside = self.root_prefix.as_bytes().to_vec();
        inside.extend_from_slice(below);
        RepoPath::from_catalog(inside)
    }

    fn decode(
        &self,
        connection: &rusqlite::Connection,
        raw: &RawRow<'_>,
        is_root: bool,
        budget: &Budget,
    ) -> Result<DirectoryEntry, DecodeFailure> {
        let context = RowContext {
            variables: &self.variables,
            mountpoint: self.attachment.mountpoint.as_bytes(),
            is_root,
        };
        DirectoryEntry::decode(raw, &context, &mut |take| {
            chunks::each(connection, raw, budget, take)
        })
    }

    /// Takes a connection out of the pool for the time of `query`.
    fn with_database<T>(
        &self,
        budget: &Budget,
        query: impl FnOnce(&rusqlite::Connection) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        let pooled = self.idle.lock().pop();
        let database = match pooled {
            Some(database) => database,
            None => open_judged(&self.object, &tables::CATALOG, Some(&self.found), budget)?,
        };
        let result = database.ask(budget, query).map_err(|error| explain(error, budget));
        // What failed may fail again; what only took long need not be opened again.
        if matches!(result, Ok(_) | Err(CatalogError::Unfinished | CatalogError::TimeLimit)) {
            let mut idle = self.idle.lock();
            if idle.len() < self.max_idle {
                idle.push(database);
            }
        }
        result
    }

    fn skip(&self, path: &RepoPath, fault: RowFault) {
        // One line for the first of each power of two: a catalog may be full of them.
        let before = self.skipped_rows.fetch_add(1, Ordering::Relaxed);
        if (before + 1).is_power_of_two() {
            tracing::warn!(catalog = %self.hash, %path, %fault, skipped = before + 1, "catalog row left out");
        }
    }
}

/// Tells a statement that used up its budget from one that failed.
fn explain(error: CatalogError, budget: &Budget) -> CatalogError {
    match error {
        CatalogError::Sqlite(error) if is_interrupted(&error) => budget.spent(),
        error => error,
    }
}

/// Both tables of nested catalogs as one; the first row of a path wins, nested before bind.
fn nested_tables(schema: &Schema) -> String {
    let size = if schema.has_nested_size { "size" } else { "NULL AS size" };
    let nested = format!("SELECT path, sha1, {size}, 0 AS bind FROM nested_catalogs");
    if schema.has_bind_mountpoints {
        format!("{nested} UNION ALL SELECT path, sha1, size, 1 AS bind FROM bind_mountpoints")
    } else {
        nested
    }
}

#[cfg(test)]
mod tests;
