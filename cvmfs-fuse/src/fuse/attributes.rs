//! Values of [`crate::fs`] in the kernel's terms.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cvmfs_core::catalog::EntryKind;
use fuser::{FileAttr, FileType, INodeNo};

use crate::fs::Attributes;

/// Returns the kernel's word for a kind of entry.
pub fn file_type(kind: EntryKind) -> FileType {
    match kind {
        EntryKind::Regular => FileType::RegularFile,
        EntryKind::Directory => FileType::Directory,
        EntryKind::Symlink => FileType::Symlink,
        EntryKind::Fifo => FileType::NamedPipe,
        EntryKind::Socket => FileType::Socket,
        EntryKind::CharDevice => FileType::CharDevice,
        EntryKind::BlockDevice => FileType::BlockDevice,
    }
}

/// Returns what stat(2) shows. Catalogs know one time only, it stands for all three.
pub fn file_attr(attributes: &Attributes) -> FileAttr {
    let time = system_time(attributes.mtime, attributes.mtime_ns);
    FileAttr {
        ino: INodeNo(attributes.ino),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attributes.kind),
        perm: attributes.perm,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.rdev,
        blksize: attributes.blksize,
        flags: 0,
    }
}

/// Returns the entry that says "there is nothing of that name": inode 0, which the kernel keeps
/// as a negative entry as long as it would keep a positive one (fs/fuse/dir.c,
/// `fuse_lookup_name`).
pub fn negative_attr() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// Nanoseconds always count forward, also before 1970: (-1, 999_999_999) is just before the epoch.
fn system_time(seconds: i64, nanoseconds: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time =
        if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    let fraction = Duration::from_nanos(u64::from(nanoseconds.min(999_999_999)));
    time.and_then(|time| time.checked_add(fraction)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_all_ages() {
        // (seconds, nanoseconds) and the distance from the epoch: (negative, seconds, nanoseconds)
        let table = [
            ((0, 0), (false, 0, 0)),
            ((1, 5), (false, 1, 5)),
            ((-1, 999_999_999), (true, 0, 1)),
            ((-2, 800_000_000), (true, 1, 200_000_000)),
            ((-1, 0), (true, 1, 0)),
            ((7, u32::MAX), (false, 7, 999_999_999)),
            ((i64::MAX, 999_999_999), (false, u64::MAX / 2, 999_999_999)),
            ((i64::MIN, 0), (true, u64::MAX / 2 + 1, 0)),
        ];
        for ((seconds, nanoseconds), (negative, whole, fraction)) in table {
            let time = system_time(seconds, nanoseconds);
            let distance = match time.duration_since(UNIX_EPOCH) {
                Ok(distance) => (false, distance),
                Err(before) => (true, before.duration()),
            };
            assert_eq!(distance, (negative, Duration::new(whole, fraction)), "{seconds}");
        }
    }

    #[test]
    fn attributes_reach_the_kernel_unchanged() {
        let attributes = Attributes {
            ino: 77,
            kind: EntryKind::CharDevice,
            perm: 0o4755,
            nlink: 3,
            uid: 10,
            gid: 20,
            rdev: 0x0103,
            size: 1 << 40,
            blocks: 9,
            blksize: 4096,
            mtime: -1,
            mtime_ns: 250_000_000,
        };
        let attr = file_attr(&attributes);
        assert_eq!((attr.ino.0, attr.kind, attr.perm), (77, FileType::CharDevice, 0o4755));
        assert_eq!((attr.nlink, attr.uid, attr.gid, attr.rdev), (3, 10, 20, 0x0103));
        assert_eq!((attr.size, attr.blocks, attr.blksize), (1 << 40, 9, 4096));
        assert_eq!(attr.mtime, UNIX_EPOCH - Duration::from_millis(750));
        assert_eq!((attr.atime, attr.ctime), (attr.mtime, attr.mtime));
        assert_eq!(negative_attr().ino.0, 0);
    }
}
