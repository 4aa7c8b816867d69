//! What is asked for beside the id of an object, and where it is.

use crate::catalog::{Chunk, DirectoryEntry};
use crate::decode::SizeBound;
use crate::net::{Resource, Window};
use crate::object::ObjectId;
use crate::path::RepoPath;

/// What is asked for beside the id.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// What is known about the plain size.
    pub bound: SizeBound,
    /// For people: a path or a role.
    pub label: String,
    /// Where it is.
    pub place: Place,
    /// Ask this server only.
    pub only_host: Option<usize>,
}

/// Where servers keep an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// The usual place of its id.
    Data,
    /// This path below the base URL.
    Path(String),
    /// The external servers, under the path of the file (spec/format.md section 18).
    External {
        /// Without leading slash.
        path: Box<[u8]>,
        /// The part that is the object.
        window: Option<Window>,
    },
}

impl FetchOptions {
    /// The usual place on the server.
    pub fn new(bound: SizeBound, label: impl Into<String>) -> Self {
        Self { bound, label: label.into(), place: Place::Data, only_host: None }
    }

    /// The content of a file, or one chunk of it.
    pub fn content(
        entry: &DirectoryEntry,
        path: &RepoPath,
        chunk: Option<&Chunk>,
        label: impl Into<String>,
    ) -> Self {
        let size = chunk.map_or(entry.size, |chunk| chunk.size);
        let mut options = Self::new(SizeBound::Exactly(size), label);
        if entry.external {
            let path = path.as_bytes();
            let window = chunk.map(|chunk| Window { offset: chunk.offset, len: chunk.size });
            options.place =
                Place::External { path: path.strip_prefix(b"/").unwrap_or(path).into(), window };
        }
        options
    }

    /// Returns the path on the server.
    pub(super) fn path(&self, id: &ObjectId) -> Vec<u8> {
        match &self.place {
            Place::Data => id.server_path().into_bytes(),
            Place::Path(path) => path.clone().into_bytes(),
            Place::External { path, .. } => path.to_vec(),
        }
    }

    pub(super) fn resource<'a>(&self, id: &ObjectId, path: &'a [u8]) -> Resource<'a> {
        let window = match &self.place {
            Place::External { window, .. } => *window,
            Place::Data | Place::Path(_) => None,
        };
        Resource { path, window, cap: self.bound.stored_cap(id.compression) }
    }
}
