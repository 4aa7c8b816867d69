//! File catalogs: one SQLite database for a part of the tree (spec/format.md sections 10 to 16).
//!
//! | module | what it holds |
//! |---|---|
//! | `sql` | opens an untrusted database, all guards up |
//! | `schema` | the versions we read |
//! | `row` | columns of a row, typed |
//! | `properties` | what a catalog says about itself |
//! | [`entry`] | a checked row: [`DirectoryEntry`] |
//! | [`chunks`] | the chunk table, checked |
//! | [`xattr`], [`symlink`] | attribute blobs; variables in link targets |
//!
//! A catalog is immutable. Its connections live in a pool: a query takes one out, so that no lock
//! is held while SQLite reads the disk.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rusqlite::OptionalExtension as _;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};

use crate::cache::CachedObject;
use crate::hash::ContentHash;
use crate::path::RepoPath;

pub mod chunks;
pub mod entry;
mod error;
mod properties;
mod row;
mod schema;
pub mod sql;
pub mod symlink;
pub mod xattr;

use entry::RowContext;
pub use entry::{Chunk, ChunkStyle, Content, DirectoryEntry, EntryIdentity, EntryKind, RowFault};
pub use error::CatalogError;
pub use properties::{Counters, Properties, Totals};
use properties::{nothing_counted, read_counters, read_properties, read_totals};
use row::RawRow;
use schema::Schema;
use sql::{Database, open_database};
use symlink::SymlinkVariables;
use xattr::Xattrs;

/// Cap on the size of a catalog whose size nobody states; the largest published ones have
/// several hundred MiB.
pub const MAX_CATALOG_SIZE: u64 = 4 << 30;
/// Idle connections kept per catalog unless told otherwise: each costs a descriptor and some 100
/// Bytes of one that the kernel reads from disk at once when it is opened. Lookups in a larger one
/// may need little of it.
const READ_AHEAD: u64 = 16 << 20;
/// KiB.
const IDLE_CONNECTIONS: usize = 4;
/// Entries of one directory we are willing to hold in memory at once.
const MAX_DIRECTORY_LEN: usize = 10_000_000;

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
    list: String,
    nested_at: String,
}

impl Statements {
    fn new(schema: &Schema) -> Self {
        let columns = row::columns(schema);
        Self {
            lookup: format!(
                "SELECT {columns} FROM catalog WHERE md5path_1 = ?1 AND md5path_2 = ?2"
            ),
            list: format!("SELECT {columns} FROM catalog WHERE parent_1 = ?1 AND parent_2 = ?2"),
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
    ) -> Result<Self, CatalogError> {
        if object.is_on_disk_only() {
            // A walk needs all of it, page by page.
            object.read_ahead(READ_AHEAD);
        }
        let database = open_database(&object)?;
        let connection = database.statement();
        let (properties, version) = read_properties(connection)?;
        let schema = Schema::read(connection, version)?;
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
        let has_nested: bool = connection.query_row(
            &format!("SELECT EXISTS(SELECT 1 FROM ({}))", nested_tables(&schema)),
            [],
            |row| row.get(0),
        )?;
        let counters =
            if schema.has_statistics { read_counters(connection)? } else { Counters::default() };
        let catalog = Self {
            root_prefix,
            hash,
            has_xattr: schema.has_xattr,
            has_statistics: schema.has_statistics,
            statements: Statements::new(&schema),
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
        let root = catalog.lookup(&catalog.attachment.mountpoint)?;
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
    pub fn totals(&self) -> Result<Totals, CatalogError> {
        if !self.has_statistics {
            return Ok(nothing_counted());
        }
        self.with_database(|database| read_totals(database.statement()))
    }

    /// Returns how many malformed rows were left out so far.
    pub fn skipped_rows(&self) -> u64 {
        self.skipped_rows.load(Ordering::Relaxed)
    }

    /// Finds the entry of a path; `None` is the catalog's word that there is none.
    pub fn lookup(&self, path: &RepoPath) -> Result<Option<DirectoryEntry>, CatalogError> {
        let inside = self.inside(path);
        let key = inside.hash();
        self.with_database(|database| {
            let connection = database.statement();
            let mut statement = connection.prepare_cached(&self.statements.lookup)?;
            let mut rows = statement.query([key.first, key.second])?;
            let Some(row) = rows.next()? else { return Ok(None) };
            let raw = RawRow::read(row)?
                .ok_or(CatalogError::Row { path: path.clone(), fault: RowFault::Columns })?;
            let is_root = *path == self.attachment.mountpoint;
            if !is_root && &*raw.name != path.name() {
                self.skip(path, RowFault::Digest);
                return Ok(None);
            }
            match self.decode(connection, &raw, is_root) {
                Ok(entry) => Ok(Some(entry)),
                // The row of this very name exists and cannot be believed: an error, not absence.
                Err(DecodeFailure::Fault(fault)) => {
                    Err(CatalogError::Row { path: path.clone(), fault })
                }
                Err(DecodeFailure::Catalog(error)) => Err(error),
            }
        })
    }

    /// Lists a directory: no `.` and `..`, hidden entries left out, each name once, in the order
    /// of the database. Rows that cannot be right are skipped, counted and logged.
    pub fn list(&self, directory: &RepoPath) -> Result<Vec<DirectoryEntry>, CatalogError> {
        let inside = self.inside(directory);
        let key = inside.hash();
        self.with_database(|database| {
            let connection = database.statement();
            let mut statement = connection.prepare_cached(&self.statements.list)?;
            let mut rows = statement.query([key.first, key.second])?;
            let mut entries = Vec::new();
            let mut names = std::collections::HashSet::new();
            while let Some(row) = rows.next()? {
                let Some(raw) = RawRow::read(row)? else {
                    self.skip(directory, RowFault::Columns);
                    continue;
                };
                let child = inside.join(&raw.name);
                // A row whose digest is not that of its name could be listed but not looked up.
                let digest = child.hash();
                if (digest.first, digest.second) != raw.path {
                    self.skip(&child, RowFault::Digest);
                    continue;
                }
                match self.decode(connection, &raw, false) {
                    Ok(entry) if entry.hidden => {}
                    Ok(entry) => {
                        if !names.insert(entry.name.clone()) {
                            self.skip(&child, RowFault::Duplicate);
                            continue;
                        }
                        if entries.len() >= MAX_DIRECTORY_LEN {
                            return Err(CatalogError::TooManyEntries(directory.clone()));
                        }
                        entries.push(entry);
                    }
                    Err(DecodeFailure::Fault(fault)) => self.skip(&child, fault),
                    Err(DecodeFailure::Catalog(error)) => return Err(error),
                }
            }
            Ok(entries)
        })
    }

    /// Reads the chunks of a file: contiguous from 0, their sum is the file's size.
    pub fn chunks(&self, path: &RepoPath) -> Result<Vec<Chunk>, CatalogError> {
        let key = self.inside(path).hash();
        self.with_database(|database| {
            let connection = database.statement();
            let raw = connection
                .prepare_cached(&self.statements.lookup)?
                .query_row([key.first, key.second], RawRow::read)
                .optional()?
                .flatten();
            let unusable = |reason| CatalogError::Chunks { path: path.clone(), reason };
            let raw =
                raw.filter(DirectoryEntry::is_chunked).ok_or(unusable("not a chunked file"))?;
            chunks::read(connection, &raw)?.map_err(unusable)
        })
    }

    /// Reads the extended attributes of an entry. A malformed blob counts as none, as upstream.
    pub fn xattrs(&self, path: &RepoPath) -> Result<Xattrs, CatalogError> {
        if !self.has_xattr {
            return Ok(Xattrs::default());
        }
        let key = self.inside(path).hash();
        self.with_database(|database| {
            let blob = database
                .statement()
                .prepare_cached(
                    "SELECT xattr FROM catalog WHERE md5path_1 = ?1 AND md5path_2 = ?2",
                )?
                .query_row([key.first, key.second], |row| {
                    Ok(row.get_ref(0)?.as_bytes_or_null()?.map(<[u8]>::to_vec))
                })
                .optional()?
                .flatten();
            let Some(blob) = blob else { return Ok(Xattrs::default()) };
            Ok(Xattrs::parse(&blob).unwrap_or_else(|error| {
                tracing::warn!(%path, %error, "extended attributes left out");
                Xattrs::default()
            }))
        })
    }

    /// Finds the nested catalog that is attached exactly at `path`.
    pub fn nested_at(&self, path: &RepoPath) -> Result<Option<NestedReference>, CatalogError> {
        if !self.has_nested {
            return Ok(None);
        }
        let inside = self.inside(path);
        self.with_database(|database| {
            // Bound as text whatever its bytes: a blob never equals a text.
            let key = ToSqlOutput::Borrowed(ValueRef::Text(inside.as_bytes()));
            let connection = database.statement();
            let mut statement = connection.prepare_cached(&self.statements.nested_at)?;
            let found = statement
                .query_row([key], |row| {
                    let hash: Value = row.get(0)?;
                    let size: Value = row.get(1)?;
                    Ok((hash, size, row.get::<_, bool>(2)?))
                })
                .optional()?;
            let Some((hash, size, is_bind)) = found else { return Ok(None) };
            let malformed = || CatalogError::Reference(path.clone());
            let Value::Text(hash) = hash else { return Err(malformed()) };
            let hash: ContentHash = hash.parse().map_err(|_| malformed())?;
            let size = match size {
                Value::Null | Value::Integer(0) => None,
                Value::Integer(size) => Some(u64::try_from(size).map_err(|_| malformed())?),
                _ => return Err(malformed()),
            };
            let place = (!is_bind).then(|| inside.clone());
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
        raw: &RawRow,
        is_root: bool,
    ) -> Result<DirectoryEntry, DecodeFailure> {
        let chunks = if DirectoryEntry::is_chunked(raw) {
            Some(chunks::read(connection, raw).map_err(DecodeFailure::Catalog)?)
        } else {
            None
        };
        let context = RowContext {
            variables: &self.variables,
            mountpoint: self.attachment.mountpoint.as_bytes(),
            chunks: chunks.as_ref().map(|chunks| chunks.as_deref().map_err(|reason| *reason)),
            is_root,
        };
        DirectoryEntry::decode(raw, &context).map_err(DecodeFailure::Fault)
    }

    /// Takes a connection out of the pool for the time of `query`.
    fn with_database<T>(
        &self,
        query: impl FnOnce(&Database) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        let pooled = self.idle.lock().pop();
        let database = match pooled {
            Some(database) => database,
            None => open_database(&self.object)?,
        };
        let result = query(&database)?;
        let mut idle = self.idle.lock();
        if idle.len() < self.max_idle {
            idle.push(database);
        }
        Ok(result)
    }

    fn skip(&self, path: &RepoPath, fault: RowFault) {
        // One line for the first of each power of two: a catalog may be full of them.
        let before = self.skipped_rows.fetch_add(1, Ordering::Relaxed);
        if (before + 1).is_power_of_two() {
            tracing::warn!(catalog = %self.hash, %path, %fault, skipped = before + 1, "catalog row left out");
        }
    }
}

enum DecodeFailure {
    Fault(RowFault),
    Catalog(CatalogError),
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
