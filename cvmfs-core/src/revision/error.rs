//! Why a revision has no answer.

use std::sync::Arc;

use crate::catalog::CatalogError;
use crate::fetch::FetchError;
use crate::path::RepoPath;

/// Why a question about a path could not be answered. None of these means absence.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RevisionError {
    /// A catalog could not be fetched.
    #[error("cannot load the catalog of {mountpoint}")]
    Fetch {
        /// Where the catalog is attached.
        mountpoint: RepoPath,
        /// The cause.
        source: Arc<FetchError>,
    },
    /// A catalog was fetched and cannot be used.
    #[error("the catalog of {mountpoint} cannot be used")]
    Catalog {
        /// Where the catalog is attached.
        mountpoint: RepoPath,
        /// The cause.
        source: Arc<CatalogError>,
    },
    /// Catalogs that contain each other.
    #[error("the catalog of {0} contains itself")]
    Cycle(RepoPath),
    /// A listing of something else.
    #[error("{0} is not a directory")]
    NotADirectory(RepoPath),
    /// A path whose parent does not exist either.
    #[error("{0} does not exist")]
    NotFound(RepoPath),
}
