//! What the plain bytes of an object were when it was stored.
//!
//! The content hash covers the stored, compressed bytes, which are not kept, so it cannot be asked
//! again. Therefore BLAKE3 of the plain bytes is made in the pass that writes them, and kept in an
//! extended attribute of the file: it is there before the file has a name, goes where the file
//! goes, and costs one system call where it is wanted. What was considered:
//!
//! - a header or trailer: the kernel (passthrough) and SQLite read the files directly;
//! - the index: it is a hint that may be lost, and the checksums with it;
//! - a second file for each object: twice the files, and two things that can differ.
//!
//! Where there are no user attributes (tmpfs before Linux 6.6, most NFS) objects have no checksum:
//! in a private cache the seal must do, in a shared one such objects count as absent.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Name of the attribute; another scheme gets another name.
const ATTRIBUTE: &str = "user.cvmfs-fuse.blake3";
/// Bytes read at a time: BLAKE3 is at full speed from 16 KiB on.
const PIECE_LEN: usize = 128 * 1024;

/// Whether the bytes of a file are those that were stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They are.
    Right,
    /// They are not.
    Wrong,
    /// It does not say what they were.
    Unknown,
}

/// Writes the checksum of a file's bytes to the file; false if it cannot have one.
pub(crate) fn write(file: &File, checksum: &blake3::Hash) -> Result<bool, Errno> {
    match rustix::fs::fsetxattr(file, ATTRIBUTE, checksum.as_bytes(), XattrFlags::empty()) {
        Ok(()) => Ok(true),
        // No such attributes here, or no room for them.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM | Errno::NOSPC | Errno::DQUOT) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Returns the checksum that a file carries.
pub(crate) fn read(file: &File) -> Option<blake3::Hash> {
    let mut bytes = [0; 33];
    match rustix::fs::fgetxattr(file, ATTRIBUTE, &mut bytes[..]) {
        Ok(32) => Some(blake3::Hash::from_slice(&bytes[..32]).ok()?),
        _ => None,
    }
}

/// Reads a file of `size` bytes and compares it with its checksum.
pub(crate) fn verify(file: &File, size: u64) -> io::Result<Verdict> {
    let Some(expected) = read(file) else { return Ok(Verdict::Unknown) };
    Ok(if of_file(file, size)? == Some(expected) { Verdict::Right } else { Verdict::Wrong })
}

/// Returns the checksum of the bytes of a file; `None` if it does not have `size` bytes.
pub(crate) fn of_file(file: &File, size: u64) -> io::Result<Option<blake3::Hash>> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; PIECE_LEN];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buffer[..n]);
                offset += n as u64;
                // A file that grows while we read must not keep us.
                if offset > size {
                    return Ok(None);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((offset == size).then(|| hasher.finalize()))
}
