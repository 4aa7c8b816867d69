//! What can be wrong with a catalog.

use std::io;

use rusqlite::ErrorCode;

use super::budget::LONGEST;
use super::entry::RowFault;
use crate::path::RepoPath;

/// What went wrong with a catalog. All of these are EIO for whoever asked, never ENOENT.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// SQLite refused: no database, damaged pages, a schema that calls functions.
    #[error("catalog database failed")]
    Sqlite(#[from] rusqlite::Error),
    /// The cached file cannot be read.
    #[error("cannot read the catalog file")]
    Read(#[source] io::Error),
    /// A view, trigger, virtual table, generated column, or anything else that is no plain table.
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
    /// A table that every supported schema has.
    #[error("catalog lacks table {0}")]
    MissingTable(&'static str),
    /// An index without which every question would read all rows.
    #[error("catalog table {table} lacks its index of {columns:?}")]
    MissingIndex {
        /// The table.
        table: &'static str,
        /// First columns of the index.
        columns: &'static [&'static str],
    },
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
    /// More entries than the caller wants to hold in memory.
    #[error("directory {0} has too many entries to be listed at once")]
    TooManyEntries(RepoPath),
    /// Rows that are not in the order of their index.
    #[error("index of directory {0} is not in order")]
    Disorder(RepoPath),
    /// More steps or time than a brief budget has; to be asked again with a long one.
    #[error("the question takes longer than others may wait")]
    Unfinished,
    /// More steps or time than any question may take.
    #[error("the catalog was not evaluated within its limit of {} s", LONGEST.as_secs())]
    TimeLimit,
    /// Other questions to catalogs of the repository took all the time that this one had.
    #[error("catalogs of this repository are busy with other questions that take long")]
    Busy,
    /// No thread for a question that takes long.
    #[error("cannot start a thread for a question to a catalog")]
    Thread(#[source] io::Error),
    /// A defect of ours.
    #[error("a question to a catalog crashed")]
    Crashed,
}

impl CatalogError {
    /// Tells whether the cached file may be damaged, so that another copy could be better.
    ///
    /// A file that was there a moment ago and cannot be opened is not: descriptors have run out.
    pub fn may_be_damage(&self) -> bool {
        match self {
            Self::Sqlite(error) => !matches!(
                error.sqlite_error_code(),
                // The last three are what our own limits make of content as it was signed.
                Some(
                    ErrorCode::CannotOpen
                        | ErrorCode::OutOfMemory
                        | ErrorCode::TooBig
                        | ErrorCode::AuthorizationForStatementDenied
                )
            ),
            Self::Read(_) => true,
            _ => false,
        }
    }

    /// Tells whether the content itself is at fault, whoever delivers it.
    pub fn is_lasting(&self) -> bool {
        !matches!(
            self,
            Self::Sqlite(_)
                | Self::Read(_)
                | Self::Unfinished
                | Self::TimeLimit
                | Self::Busy
                | Self::Thread(_)
                | Self::Crashed
        )
    }
}
