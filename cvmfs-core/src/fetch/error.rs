//! Why there is no object.

use crate::cache::CacheError;
use crate::net::DownloadError;
use crate::object::ObjectId;
use crate::share::Exhausted;

/// Why an object could not be had. For a reader this is EIO.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No server delivered it.
    #[error("failed to fetch {label} (object {id})")]
    Download {
        /// The object.
        id: ObjectId,
        /// For people.
        label: String,
        /// All attempts.
        source: DownloadError,
    },
    /// Its bytes are on external servers, and none is configured.
    #[error(
        "{label} is external data, and no external server is known; give --set CVMFS_EXTERNAL_URL=URL"
    )]
    NoExternalServer {
        /// For people.
        label: String,
    },
    /// The cache cannot take it and it is too large for memory.
    #[error("no room for {label} (object {id}, up to {size} bytes): the cache failed")]
    NoRoom {
        /// The object.
        id: ObjectId,
        /// For people.
        label: String,
        /// Its size or the cap on it.
        size: u64,
    },
    /// Descriptors have run out; later calls may find some.
    #[error("cannot open {label}: out of file descriptors")]
    OutOfDescriptors {
        /// For people.
        label: String,
        /// The cause.
        source: CacheError,
    },
    /// Too many downloads are under way already.
    #[error("no turn to download {label}: {exhausted}")]
    Busy {
        /// For people.
        label: String,
        /// Whose share is used up.
        exhausted: Exhausted,
    },
    /// The task that fetched it died; a defect of ours that must not take the mount down.
    #[error("the download of {label} (object {id}) was aborted")]
    Aborted {
        /// The object.
        id: ObjectId,
        /// For people.
        label: String,
    },
}

impl FetchError {
    /// Whether servers or proxies were at fault, which may be otherwise the next moment.
    pub fn is_of_the_network(&self) -> bool {
        matches!(self, Self::Download { .. })
    }
}
