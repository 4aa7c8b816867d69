//! The filesystem as plain values: everything but the kernel's wire format, testable without it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`error`] | why a call fails, and the only errno match |
//! | [`attributes`] | rows as `stat` shows them |
//! | [`inode`] | the scheme of inode numbers, references of the kernel |
//! | [`journal`] | what a successor must know of them |
//! | [`content`] | open objects and chunks, by inode |
//! | [`buffers`] | what answers to reads are made in |
//! | `objects` | which objects are open, and how many may be |
//! | `kept` | whether cached copies are what was fetched |
//! | [`recent`] | the last failures, for people |
//! | `repeats` | the kernel's second question after a failure |
//! | [`suspects`] | what was under way when a server died |
//! | `directory`, `pages` | open directories, and the parts of them that are read |
//! | [`gate`], [`switch`] | from one revision to the next while the kernel keeps what it was told |
//! | [`repo`] | [`RepoFs`]: one repository as a filesystem |
//! | [`root`] | [`RootFs`]: all repositories as one filesystem, each opened at its first use |

use std::fs::File;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cvmfs_core::catalog::EntryKind;

pub mod attributes;
pub mod buffers;
pub mod content;
mod directory;
pub mod error;
pub mod exposure;
mod facts;
pub mod gate;
pub mod inode;
pub mod journal;
mod kept;
mod magic;
mod objects;
pub mod ownership;
mod pages;
pub mod recent;
mod remote;
mod repeats;
pub mod repo;
pub mod root;
pub mod suspects;
pub mod switch;

pub use attributes::Attributes;
pub use buffers::Buffer;
pub use error::FsError;
pub use gate::Gate;
pub use ownership::RepoFsOptions;
pub use recent::{RecentFailure, RecentFailures};
pub use repo::RepoFs;
pub use root::RootFs;

/// An inode number.
pub type Ino = u64;

/// The root directory of a mount, as FUSE fixes it.
pub const ROOT_INO: Ino = 1;

/// Attributes, and how long the kernel may keep them and the name that led to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What `stat` shows.
    pub attributes: Attributes,
    /// How long it stays true.
    pub ttl: Duration,
}

/// How the kernel shall treat an opened file.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Handle for read and release; carries no state, reads go by inode.
    pub handle: u64,
    /// Pages of earlier opens stay valid.
    pub keep_cache: bool,
    /// Reads go past the page cache.
    pub direct_io: bool,
    /// A file that has the whole content, if there is one: the kernel may read it without us.
    pub whole: Option<Arc<File>>,
}

/// What `df` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsStatistics {
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks of the cache.
    pub blocks: u64,
    /// Blocks not in use.
    pub free_blocks: u64,
    /// Entries of the repository.
    pub files: u64,
    /// Entries in catalogs that are not loaded.
    pub free_files: u64,
    /// Longest name.
    pub name_len: u32,
}

/// One entry of a listing on its way to the kernel.
#[derive(Debug)]
pub struct ListedEntry<'a> {
    /// Name.
    pub name: &'a [u8],
    /// Where to go on after this entry.
    pub offset: u64,
    /// Inode number, the same as lookup gives.
    pub ino: Ino,
    /// Type.
    pub kind: EntryKind,
    /// Attributes, if the replier wants them; never for `.` and `..`.
    pub entry: Option<&'a Entry>,
}

/// Takes the entries of a listing: readdir, readdirplus, or a test.
pub trait DirectoryReplier: Send {
    /// Tells whether entries shall carry attributes; each one taken then counts as a lookup.
    fn wants_attributes(&self) -> bool;
    /// Takes an entry; returns true, without taking it, when there is no room left.
    fn add(&mut self, entry: ListedEntry<'_>) -> bool;
    /// Sends what was taken; called once, at the end, and only where the listing succeeded.
    fn finish(&mut self);
}

/// A filesystem as the kernel sees it. Futures are ready at once when nothing has to be fetched.
pub trait Vfs: Send + Sync + 'static {
    /// Finds an entry; success counts one reference of the kernel.
    fn lookup(
        &self,
        parent: Ino,
        name: &[u8],
    ) -> impl Future<Output = Result<Entry, FsError>> + Send;
    /// Takes back references of the kernel.
    fn forget(&self, ino: Ino, count: u64);
    /// Returns attributes.
    fn getattr(&self, ino: Ino) -> impl Future<Output = Result<Entry, FsError>> + Send;
    /// Returns the target of a link.
    fn readlink(&self, ino: Ino) -> impl Future<Output = Result<Vec<u8>, FsError>> + Send;
    /// Makes a file ready for reading for the thread `caller`; a whole object is fetched before this
    /// returns. Kernels that open files by themselves do not ask for it.
    fn open(&self, ino: Ino, caller: u32) -> impl Future<Output = Result<Opened, FsError>> + Send;
    /// Reads for the thread `caller` (0 if it is not known), whether the file was opened or not;
    /// returns less than `size` bytes only at the end of the file.
    fn read(
        &self,
        ino: Ino,
        caller: u32,
        offset: u64,
        size: u32,
    ) -> impl Future<Output = Result<Buffer, FsError>> + Send;
    /// Closes a file.
    fn release(&self, ino: Ino, handle: u64);
    /// Lists a directory and keeps the listing under the handle returned.
    fn opendir(&self, ino: Ino) -> impl Future<Output = Result<u64, FsError>> + Send;
    /// Hands out entries from `offset` until the replier is full.
    fn readdir<R: DirectoryReplier>(
        &self,
        ino: Ino,
        handle: u64,
        offset: u64,
        replier: &mut R,
    ) -> impl Future<Output = Result<(), FsError>> + Send;
    /// Closes a directory.
    fn releasedir(&self, ino: Ino, handle: u64);
    /// Returns what `df` shows where this inode is.
    fn statfs(&self, ino: Ino) -> impl Future<Output = Result<FsStatistics, FsError>> + Send;
    /// Returns the value of an extended attribute for a process of the primary group `group`.
    fn getxattr(
        &self,
        ino: Ino,
        name: &[u8],
        group: u32,
    ) -> impl Future<Output = Result<Vec<u8>, FsError>> + Send;
    /// Returns the names of the extended attributes that this group sees, each ended by NUL.
    fn listxattr(
        &self,
        ino: Ino,
        group: u32,
    ) -> impl Future<Output = Result<Vec<u8>, FsError>> + Send;
    /// Returns the gate that replies pass.
    fn gate(&self) -> &Gate;
    /// Returns an attribute that tells about the repository of an inode or its server, not about
    /// an entry. It never waits; what is not known without is left to [`Vfs::getxattr`].
    fn server_attribute(&self, ino: Ino, name: &[u8]) -> Option<Vec<u8>>;
    /// Tells whether a group may be given that attribute; to be asked before
    /// [`Vfs::server_attribute`]. It never waits.
    fn allows_attribute(&self, _ino: Ino, _name: &[u8], _group: u32) -> bool {
        true
    }
    /// Returns how long the kernel may remember that a name does not exist in a directory.
    fn negative_ttl(&self, parent: Ino) -> Duration;
    /// Returns where an inode is that the kernel knows, below the mountpoint and without a slash at
    /// its end; for people. It never waits.
    fn shown_path(&self, _ino: Ino) -> Option<String> {
        None
    }
    /// Tells whether the kernel may keep the listing of a directory until it is told of a change.
    fn keeps_listing(&self, _ino: Ino) -> bool {
        true
    }
    /// Tells whether that is so for all directories, which then need not be opened.
    fn keeps_all_listings(&self) -> bool {
        true
    }
}

#[cfg(test)]
pub(crate) mod tests;
