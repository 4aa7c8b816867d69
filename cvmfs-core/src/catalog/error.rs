//! What can be wrong with a catalog.

use std::io;

use super::entry::RowFault;
use crate::path::RepoPath;

/// What went wrong with a catalog. All of these are EIO for whoever asked, never ENOENT.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// SQLite refused: no database, damaged pages, time limit.
    #[error("catalog database failed")]
    Sqlite(#[from] rusqlite::Error),
    /// The cached file cannot be read.
    #[error("cannot read the catalog file")]
    Read(#[source] io::Error),
    /// A view, trigger, virtual table or generated column.
    #[error("catalog contains a {kind} ({name}), only plain tables are allowed")]
    ForbiddenSchema {
        /// What it is.
        kind: String,
        /// Its name.
        name: String,
    },
    /// Not 2.4 or 2.5.
    #[error("catalog schema {0} is not supported, only 2.4 and 2.5 are")]
    SchemaVersion(String),
    /// A column that every supported schema has.
    #[error("catalog table {table} lacks column {column}")]
    MissingColumn {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
    },
    /// The catalog says that it belongs elsewhere.
    #[error("catalog of {stated:?} attached at {mountpoint}")]
    WrongPrefix {
        /// Property `root_prefix`.
        stated: String,
        /// Where it is attached.
        mountpoint: RepoPath,
    },
    /// The catalog has no row for its own root directory.
    #[error("catalog attached at {0} has no root directory")]
    NoRoot(RepoPath),
    /// A row that must be used is malformed.
    #[error("row of {path} is malformed: {fault}")]
    Row {
        /// The entry.
        path: RepoPath,
        /// What is wrong.
        fault: RowFault,
    },
    /// The reference to a nested catalog holds no valid hash or size.
    #[error("reference to nested catalog {0} is malformed")]
    Reference(RepoPath),
    /// The chunks of a file cannot make up its content.
    #[error("chunks of {path} cannot be used: {reason}")]
    Chunks {
        /// The file.
        path: RepoPath,
        /// Why.
        reason: &'static str,
    },
    /// More entries than we hold in memory.
    #[error("directory {0} has too many entries")]
    TooManyEntries(RepoPath),
}

impl CatalogError {
    /// Tells whether the cached file may be damaged, so that another copy could be better.
    ///
    /// A file that was there a moment ago and cannot be opened is not: descriptors have run out.
    pub fn may_be_damage(&self) -> bool {
        match self {
            Self::Sqlite(error) => {
                error.sqlite_error_code() != Some(rusqlite::ErrorCode::CannotOpen)
            }
            Self::Read(_) => true,
            _ => false,
        }
    }

    /// Tells whether the content itself is at fault, whoever delivers it.
    pub fn is_lasting(&self) -> bool {
        !matches!(self, Self::Sqlite(_) | Self::Read(_))
    }
}
