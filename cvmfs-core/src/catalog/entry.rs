//! One row of a catalog as a checked value (spec/format.md sections 11 and 13).

use super::CatalogError;
use super::row::RawRow;
use super::symlink::SymlinkVariables;
use crate::hash::{ContentHash, HashAlgorithm};
use crate::object::{Compression, ObjectId, ObjectKind};
use crate::path::is_valid_name;

/// Largest file we believe in: 2^53 bytes, beyond any real file and safe in every arithmetic.
pub const MAX_FILE_SIZE: u64 = 1 << 53;

/// Longest link target, as stored and as shown: PATH_MAX of Linux with its NUL.
pub const MAX_TARGET_LEN: usize = 4095;

/// Longest blob of extended attributes: what the kernel takes of a list of names.
pub const MAX_XATTR_LEN: usize = 64 << 10;

const S_IFMT: u32 = 0o170_000;

mod flag {
    pub(super) const NESTED_MOUNTPOINT: i64 = 0x2;
    pub(super) const CHUNKED: i64 = 0x40;
    pub(super) const EXTERNAL: i64 = 0x80;
    pub(super) const BIND_MOUNTPOINT: i64 = 0x4000;
    pub(super) const HIDDEN: i64 = 0x8000;
    pub(super) const DIRECT_IO: i64 = 0x1_0000;
}

/// The type of an entry, taken from its mode and not from the flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

impl EntryKind {
    /// Reads the type bits of a mode.
    pub fn of_mode(mode: u32) -> Option<Self> {
        Some(match mode & S_IFMT {
            0o100_000 => Self::Regular,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Symlink,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            0o020_000 => Self::CharDevice,
            0o060_000 => Self::BlockDevice,
            _ => return None,
        })
    }
}

/// What makes up the content of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkStyle {
    /// Algorithm of the chunk hashes.
    pub algorithm: HashAlgorithm,
    /// How each chunk is stored.
    pub compression: Compression,
}

/// Where the bytes of a regular file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// One object of exactly as many plain bytes as the entry's size.
    Whole(ObjectId),
    /// Several objects; the chunk table tells.
    Chunked(ChunkStyle),
    /// The row contradicts itself; opening it fails with this reason.
    Broken(&'static str),
    /// Not a regular file.
    None,
}

/// One piece of a chunked file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// First byte in the file.
    pub offset: u64,
    /// Plain bytes.
    pub size: u64,
    /// The object that holds them.
    pub object: ObjectId,
}

/// Fingerprint of everything about an entry but its name: equal fingerprints mean equal content
/// and equal attributes. Inode numbers are derived from it.
pub type EntryIdentity = [u8; 16];

/// A file, directory, link or special file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Name in its directory; empty for the repository root.
    pub name: Box<[u8]>,
    /// Type.
    pub kind: EntryKind,
    /// Full `st_mode`, type included.
    pub mode: u32,
    /// Owner as stored.
    pub uid: u32,
    /// Group as stored.
    pub gid: u32,
    /// Bytes of a file, length of the expanded target of a link, as stored for directories, else 0.
    pub size: u64,
    /// Device number of device nodes.
    pub rdev: u32,
    /// Modification time, Unix seconds; may be negative.
    pub mtime: i64,
    /// Nanoseconds of the modification time.
    pub mtime_ns: u32,
    /// Link count, at least 1.
    pub nlink: u32,
    /// Hard-link group inside its catalog; 0 for none.
    pub hardlink_group: u32,
    /// Where the bytes are.
    pub content: Content,
    /// Target of a link, variables expanded.
    pub symlink: Box<[u8]>,
    /// Target of a link as stored.
    pub raw_symlink: Box<[u8]>,
    /// Extended attributes are stored for the entry.
    pub has_xattrs: bool,
    /// Another catalog is attached here.
    pub nested_mountpoint: bool,
    /// Left out of listings.
    pub hidden: bool,
    /// The publisher asks for reads past the page cache.
    pub direct_io: bool,
    /// The bytes are on the external servers, under the path of the file (spec/format.md
    /// section 18).
    pub external: bool,
    /// See [`EntryIdentity`].
    pub identity: EntryIdentity,
}

/// Why a row is not shown at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowFault {
    /// Empty, `.`, `..`, with slash or NUL, or over 255 bytes.
    #[error("impossible name")]
    Name,
    /// The name does not belong to the path under which the row is stored.
    #[error("name and path digest disagree")]
    Digest,
    /// A second row of the same name.
    #[error("name listed twice")]
    Duplicate,
    /// A column of the wrong type, or a mode that is no file type.
    #[error("malformed columns")]
    Columns,
    /// File flag and directory mode, or the reverse.
    #[error("flags and mode disagree")]
    Kind,
    /// Negative, or over [`MAX_FILE_SIZE`].
    #[error("impossible size")]
    Size,
    /// A link target over [`MAX_TARGET_LEN`] bytes, as stored or with its variables expanded.
    #[error("impossible link target")]
    Target,
    /// A row number that no listing can continue from.
    #[error("impossible row number")]
    Number,
}

/// Why a row gives no entry.
pub(super) enum DecodeFailure {
    /// The row is at fault.
    Fault(RowFault),
    /// The catalog is, or the question takes too long.
    Catalog(CatalogError),
}

impl From<RowFault> for DecodeFailure {
    fn from(fault: RowFault) -> Self {
        Self::Fault(fault)
    }
}

/// Hands all chunks of a row to a function; see [`super::chunks::each`].
pub(super) type EachChunk<'a> =
    dyn FnMut(&mut dyn FnMut(Chunk)) -> Result<Result<(), &'static str>, CatalogError> + 'a;

/// What the decoder of rows needs beside the row.
pub(super) struct RowContext<'a> {
    pub(super) variables: &'a SymlinkVariables,
    /// Mountpoint of the catalog: hard-link groups are numbered per catalog.
    pub(super) mountpoint: &'a [u8],
    /// The root row of a catalog has no name of its own.
    pub(super) is_root: bool,
}

impl DirectoryEntry {
    /// Checks a row; `chunks` reads its chunks, and is asked only if it is chunked.
    pub(super) fn decode(
        row: &RawRow<'_>,
        context: &RowContext<'_>,
        chunks: &mut EachChunk<'_>,
    ) -> Result<Self, DecodeFailure> {
        let mut entry = Self::of_columns(row, context)?;
        let mut hasher = begin_identity(&entry, row);
        if Self::is_chunked(row) {
            // The same identity as without chunks, should they be of no use.
            let mut with_chunks = hasher.clone();
            let read = chunks(&mut |chunk| {
                field(&mut with_chunks, &chunk.offset.to_le_bytes());
                field(&mut with_chunks, chunk.object.hash.digest());
            });
            entry.content = match (read.map_err(DecodeFailure::Catalog)?, style_of(row.flags)) {
                (Ok(()), Ok(style)) => {
                    hasher = with_chunks;
                    Content::Chunked(style)
                }
                (Err(reason), Ok(_)) | (_, Err(reason)) => Content::Broken(reason),
            };
        }
        if entry.hardlink_group != 0 {
            field(&mut hasher, context.mountpoint);
        }
        entry.identity.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Ok(entry)
    }

    /// Checks all but the chunks.
    fn of_columns(row: &RawRow<'_>, context: &RowContext<'_>) -> Result<Self, RowFault> {
        if !context.is_root && !is_valid_name(row.name) {
            return Err(RowFault::Name);
        }
        let mode = u32::try_from(row.mode).map_err(|_| RowFault::Columns)?;
        let kind = EntryKind::of_mode(mode).ok_or(RowFault::Columns)?;
        let directory_flag = row.flags & 0x1 != 0;
        if directory_flag != (kind == EntryKind::Directory) {
            return Err(RowFault::Kind);
        }
        let stored_size = u64::try_from(row.size).map_err(|_| RowFault::Size)?;
        if stored_size > MAX_FILE_SIZE {
            return Err(RowFault::Size);
        }
        let is_device = matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        let symlink: Box<[u8]> = match kind {
            EntryKind::Symlink
                if row.symlink.len() > MAX_TARGET_LEN || row.symlink.contains(&0) =>
            {
                return Err(RowFault::Target);
            }
            EntryKind::Symlink => context.variables.expand(row.symlink).into_boxed_slice(),
            _ => Box::default(),
        };
        if symlink.len() > MAX_TARGET_LEN {
            return Err(RowFault::Target);
        }
        let size = match kind {
            EntryKind::Regular | EntryKind::Directory => stored_size,
            EntryKind::Symlink => symlink.len() as u64,
            _ => 0,
        };
        // Two halves of an unsigned integer: group above, count below.
        let hardlinks = row.hardlinks.to_le_bytes();
        let nlink = u32::from_le_bytes([hardlinks[0], hardlinks[1], hardlinks[2], hardlinks[3]]);
        let group = u32::from_le_bytes([hardlinks[4], hardlinks[5], hardlinks[6], hardlinks[7]]);
        Ok(Self {
            name: if context.is_root { Box::default() } else { row.name.into() },
            kind,
            mode,
            uid: u32::try_from(row.uid).map_err(|_| RowFault::Columns)?,
            gid: u32::try_from(row.gid).map_err(|_| RowFault::Columns)?,
            size,
            rdev: if is_device {
                u32::try_from(stored_size).map_err(|_| RowFault::Size)?
            } else {
                0
            },
            mtime: row.mtime,
            mtime_ns: row
                .mtime_ns
                .and_then(|ns| u32::try_from(ns).ok())
                .map_or(0, |ns| ns.min(999_999_999)),
            nlink: nlink.max(1),
            hardlink_group: if kind == EntryKind::Directory { 0 } else { group },
            content: content_of(row, kind),
            raw_symlink: match kind {
                EntryKind::Symlink => row.symlink.into(),
                _ => Box::default(),
            },
            symlink,
            has_xattrs: row.xattr.is_some(),
            nested_mountpoint: kind == EntryKind::Directory
                && row.flags & (flag::NESTED_MOUNTPOINT | flag::BIND_MOUNTPOINT) != 0,
            hidden: row.flags & flag::HIDDEN != 0,
            direct_io: row.flags & flag::DIRECT_IO != 0,
            external: kind == EntryKind::Regular && row.flags & flag::EXTERNAL != 0,
            identity: EntryIdentity::default(),
        })
    }

    /// Returns the bytes that the entry takes in memory, about.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.name.len() + self.symlink.len() + self.raw_symlink.len()
    }

    /// Tells whether the row's flags say that its content is in the chunk table.
    pub(super) fn is_chunked(row: &RawRow<'_>) -> bool {
        row.flags & flag::CHUNKED != 0
            && u32::try_from(row.mode).ok().and_then(EntryKind::of_mode) == Some(EntryKind::Regular)
    }
}

/// Tells where the bytes of a row are that is not chunked.
fn content_of(row: &RawRow<'_>, kind: EntryKind) -> Content {
    if kind != EntryKind::Regular {
        return Content::None;
    }
    let style = match style_of(row.flags) {
        Ok(style) => style,
        Err(reason) => return Content::Broken(reason),
    };
    match row.hash {
        None => Content::Broken("no content hash"),
        Some(digest) => match ContentHash::from_digest(style.algorithm, digest) {
            Ok(hash) if hash.is_null() => Content::Broken("null content hash"),
            Ok(hash) => Content::Whole(ObjectId {
                hash,
                kind: ObjectKind::Data,
                compression: style.compression,
            }),
            Err(_) => Content::Broken("content hash of the wrong length"),
        },
    }
}

/// Reads hash algorithm and compression from the flags (spec/format.md section 11).
pub(super) fn style_of(flags: i64) -> Result<ChunkStyle, &'static str> {
    let algorithm = match (flags >> 8) & 0x7 {
        0 => HashAlgorithm::Sha1,
        1 => HashAlgorithm::Rmd160,
        2 => HashAlgorithm::Shake128,
        _ => return Err("unknown hash algorithm"),
    };
    let compression = match (flags >> 11) & 0x7 {
        0 => Compression::Zlib,
        1 => Compression::None,
        _ => return Err("unknown compression"),
    };
    Ok(ChunkStyle { algorithm, compression })
}

/// Begins the fingerprint of a row; chunks and group follow.
fn begin_identity(entry: &DirectoryEntry, row: &RawRow<'_>) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    for number in [
        i64::from(entry.mode),
        i64::from(entry.uid),
        i64::from(entry.gid),
        row.size,
        row.mtime,
        i64::from(entry.mtime_ns),
        row.hardlinks,
        row.flags,
    ] {
        hasher.update(&number.to_le_bytes());
    }
    field(&mut hasher, &entry.symlink);
    field(&mut hasher, row.hash.unwrap_or_default());
    field(&mut hasher, row.xattr.unwrap_or_default());
    hasher
}

fn field(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}
