//! Catalog rows as the attributes that `stat` shows.

use cvmfs_core::catalog::{DirectoryEntry, EntryKind};

use super::Ino;

/// Reported as preferred read size.
const BLOCK_SIZE: u32 = 4096;

/// What `stat` shows of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number.
    pub ino: Ino,
    /// Type.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky: `0o7777`.
    pub perm: u16,
    /// Link count.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of device nodes, else 0.
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Blocks of 512 bytes (spec/format.md section 13).
    pub blocks: u64,
    /// Preferred read size.
    pub blksize: u32,
    /// Modification time in Unix seconds, negative before 1970; also access and change time.
    pub mtime: i64,
    /// Its nanoseconds.
    pub mtime_ns: u32,
}

impl Attributes {
    pub(super) fn of(ino: Ino, entry: &DirectoryEntry) -> Self {
        Self {
            ino,
            kind: entry.kind,
            perm: u16::try_from(entry.mode & 0o7777).unwrap_or(0),
            nlink: entry.nlink,
            uid: entry.uid,
            gid: entry.gid,
            rdev: entry.rdev,
            size: entry.size,
            blocks: 1 + entry.size / 512,
            blksize: BLOCK_SIZE,
            mtime: entry.mtime,
            mtime_ns: entry.mtime_ns,
        }
    }
}
