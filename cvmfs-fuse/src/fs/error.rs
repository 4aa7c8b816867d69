//! What a filesystem call can fail with, and the only place that knows errno.

use std::io;
use std::sync::Arc;

use cvmfs_core::fetch::FetchError;
use cvmfs_core::fqrn::Fqrn;
use cvmfs_core::path::RepoPath;
use cvmfs_core::repository::Withheld;
use cvmfs_core::revision::RevisionError;

use super::Ino;

/// Why a call failed. Rules: [`FsError::NotFound`] is said only when a verified catalog says so, or,
/// of a repository, when all its servers say so; whatever could not be fetched, verified or read is
/// EIO, never absence.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// A verified catalog has no such entry, or there is no such repository.
    #[error("no such entry")]
    NotFound,
    /// A directory was needed.
    #[error("{0} is not a directory")]
    NotADirectory(RepoPath),
    /// A file was needed.
    #[error("{0} is a directory")]
    IsADirectory(RepoPath),
    /// A link was needed.
    #[error("{0} is not a symbolic link")]
    NotALink(RepoPath),
    /// Only regular files have content.
    #[error("{0} is a special file")]
    Special(RepoPath),
    /// Over 255 bytes.
    #[error("name of {0} bytes")]
    NameTooLong(usize),
    /// The kernel names an inode that it was never told of, or that it has forgotten.
    #[error("unknown inode {0}")]
    StaleInode(Ino),
    /// The entry has no such extended attribute.
    #[error("no such attribute")]
    NoSuchAttribute,
    /// The caller got a signal while it waited.
    #[error("interrupted")]
    Interrupted,
    /// The catalog row contradicts itself.
    #[error("{path} cannot be served: {reason}")]
    Broken {
        /// The file.
        path: RepoPath,
        /// What is wrong with its row.
        reason: &'static str,
    },
    /// It was under way each time when a server died.
    #[error("{path} was being opened when {deaths} servers died, and is refused")]
    Refused {
        /// The file.
        path: RepoPath,
        /// How many.
        deaths: u64,
    },
    /// A catalog could not answer.
    #[error("cannot look up {path}")]
    Revision {
        /// The path asked for.
        path: RepoPath,
        /// The cause.
        source: RevisionError,
    },
    /// The content could not be fetched or verified.
    #[error("cannot get the content of {path}")]
    Fetch {
        /// The file.
        path: RepoPath,
        /// The cause.
        source: Arc<FetchError>,
    },
    /// The cached object could not be read.
    #[error("cannot read the cached content of {path}")]
    Read {
        /// The file.
        path: RepoPath,
        /// The cause.
        source: io::Error,
    },
    /// A repository could not be opened, and may be there all the same.
    #[error("cannot open {fqrn}: {reason}")]
    Repository {
        /// The repository.
        fqrn: Fqrn,
        /// For people.
        reason: Arc<str>,
    },
    /// No server has vouched for the repository for too long.
    #[error(
        "the whitelist expired over {} days ago, and no server gives a newer one; the repository is \
         shown again when one does, or with a higher CVMFS_FUSE_OFFLINE_LIMIT",
        .0.limit.as_secs() / 86_400
    )]
    Withheld(Arc<Withheld>),
    /// Opening one more repository would take what the others need.
    #[error(
        "cannot open {fqrn}: {most} repositories are in use, which is all that the limit of descriptors allows"
    )]
    TooManyRepositories {
        /// The repository.
        fqrn: Fqrn,
        /// The limit.
        most: usize,
    },
    /// A call to one of several repositories failed.
    #[error("in {fqrn}")]
    Within {
        /// The repository.
        fqrn: Fqrn,
        /// The cause.
        source: Box<FsError>,
    },
}

impl FsError {
    /// Names the repository, where a mount has several. What callers may expect stays as it is.
    pub(super) fn within(self, fqrn: &Fqrn) -> Self {
        match self {
            Self::NotFound | Self::NoSuchAttribute | Self::Interrupted | Self::StaleInode(_) => {
                self
            }
            other => Self::Within { fqrn: fqrn.clone(), source: Box::new(other) },
        }
    }

    /// Returns the errno for the kernel. No catch-all: a new variant does not compile until
    /// somebody decides.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotFound => libc::ENOENT,
            Self::NotADirectory(_) => libc::ENOTDIR,
            Self::IsADirectory(_) => libc::EISDIR,
            Self::NotALink(_) | Self::Special(_) => libc::EINVAL,
            Self::NameTooLong(_) => libc::ENAMETOOLONG,
            Self::StaleInode(_) => libc::ESTALE,
            Self::NoSuchAttribute => libc::ENODATA,
            Self::Interrupted => libc::EINTR,
            Self::Broken { .. }
            | Self::Refused { .. }
            | Self::Fetch { .. }
            | Self::Read { .. }
            | Self::Withheld(_)
            | Self::Repository { .. } => libc::EIO,
            Self::TooManyRepositories { .. } => libc::EMFILE,
            Self::Within { source, .. } => source.errno(),
            Self::Revision { source, .. } => match source {
                RevisionError::NotFound(_) => libc::ENOENT,
                RevisionError::NotADirectory(_) => libc::ENOTDIR,
                RevisionError::Fetch { .. }
                | RevisionError::Catalog { .. }
                | RevisionError::Cycle(_) => libc::EIO,
            },
        }
    }
}
