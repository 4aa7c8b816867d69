//! What makes a file under an object's name the whole object.
//!
//! Commits do not fsync: a first visit to a big software tree would pay for ten thousands of
//! flushes, for data that can be fetched again. The price is that a *power cut* (not the death of
//! a process: the page cache outlives it) can leave a named file whose last blocks, or all of
//! them, never reached the disk. Catalogs and certificates may have no size stated anywhere, so
//! the reader cannot always notice.
//!
//! Therefore each file says itself how long it must be, where one `fstat` finds it: its
//! **modification time is its size in bytes**. The time is set after the last write and before
//! the file gets its name. Journals keep metadata in order, so a name that survived a crash has
//! its seal, while the length on disk follows the data that were written back: a file cut short,
//! emptied, or grown later fails the comparison and counts as absent. What was considered:
//!
//! - the size in the name: a lookup would have to know it, or list the directory;
//! - extended attributes: not on every file system, and not on tmpfs before Linux 6.6;
//! - a header or trailer in the file: the kernel and SQLite could no longer read it directly;
//! - an index: one more thing that a crash can damage; it is there for eviction, as a hint only.
//!
//! Any later write moves the time to the present, and so breaks the seal; copies by `cp -a` or a
//! backup keep it. A file of the right length with wrong bytes and the right time is found by its
//! checksum ([`crate::checksum`]).

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;

use nix::libc;
use rustix::fs::{Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::layout::Layout;
use crate::sharing::Sharing;

/// Seconds that all file systems can hold: XFS without `bigtime` and old ext4 end in 2038.
const SECONDS_BITS: u32 = 31;

/// What was found under the name of an object.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing.
    Absent,
    /// The whole object, and what the file system says about it.
    Object(File, Metadata),
    /// Something that is not to be served, and why.
    Foreign(&'static str),
}

/// Marks `file` as complete with `size` bytes; no write may follow.
pub(crate) fn seal(file: &File, size: u64) -> Result<(), Errno> {
    let (seconds, nanoseconds) = time_of(size);
    let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let sealed =
        Timespec { tv_sec: i64::try_from(seconds).unwrap_or(0), tv_nsec: i64::from(nanoseconds) };
    rustix::fs::futimens(file, &Timestamps { last_access: omit, last_modification: sealed })
}

/// Opens what is under the name of an object, and looks at it before anybody reads it.
pub(crate) fn open(layout: &Layout, name: &str) -> Result<Found, Errno> {
    // Without O_NONBLOCK a FIFO would hold us up until somebody writes to it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match layout.open(name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        // A file in place of the directory is taken away by the next commit.
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Found::Absent),
        Err(Errno::LOOP) => return Ok(Found::Foreign("a symbolic link")),
        Err(Errno::NXIO | Errno::NODEV) => return Ok(Found::Foreign("a socket or device")),
        Err(error) => return Err(error),
    };
    let metadata = file
        .metadata()
        .map_err(|error| Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)))?;
    match fault(&metadata, *layout.sharing()) {
        Some(reason) => Ok(Found::Foreign(reason)),
        None => Ok(Found::Object(file, metadata)),
    }
}

/// Tells why a file is no object of ours.
fn fault(found: &Metadata, sharing: Sharing) -> Option<&'static str> {
    if !found.is_file() {
        return Some("not a regular file");
    }
    // Without a name it was evicted after we opened it, and is as good as ever.
    if found.nlink() > 1 {
        return Some("a file with a second name");
    }
    if let Some(reason) = sharing.refuses(found) {
        return Some(reason);
    }
    if !sealed(found) {
        return Some("a file of another size than was stored, or changed since");
    }
    None
}

/// Tells whether the time of a file fits its size.
pub(crate) fn sealed(found: &Metadata) -> bool {
    let (seconds, nanoseconds) = time_of(found.len());
    // Some file systems keep whole seconds only.
    u64::try_from(found.mtime()) == Ok(seconds)
        && (found.mtime_nsec() == i64::from(nanoseconds) || found.mtime_nsec() == 0)
}

/// Returns the time that seals a size: the low bits as seconds, the rest as nanoseconds.
fn time_of(size: u64) -> (u64, u32) {
    // Regular files end at 2^63 bytes, so the division is below 10^9 for 2^60 and all real sizes.
    let seconds = size & ((1 << SECONDS_BITS) - 1);
    let nanoseconds = (size >> SECONDS_BITS) % 1_000_000_000;
    (seconds, u32::try_from(nanoseconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    #[test]
    fn sizes_become_times() {
        let cases = [
            (0, (0, 0)),
            (1, (1, 0)),
            ((1 << 31) - 1, (0x7fff_ffff, 0)),
            (1 << 31, (0, 1)),
            ((5 << 31) + 7, (7, 5)),
        ];
        for (size, time) in cases {
            assert_eq!(time_of(size), time, "{size}");
        }
    }

    fn sealed_file(path: &Path, bytes: &[u8]) -> File {
        let mut file = File::options().write(true).create_new(true).open(path).unwrap();
        file.write_all(bytes).unwrap();
        seal(&file, bytes.len() as u64).unwrap();
        file
    }

    fn size(found: Found) -> Result<u64, &'static str> {
        match found {
            Found::Object(_, found) => Ok(found.len()),
            Found::Foreign(reason) => Err(reason),
            Found::Absent => Err("absent"),
        }
    }

    #[test]
    fn only_whole_files_are_objects() {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(scratch.path(), false).unwrap();
        let at = |name: &str| layout.path(name);
        let changed = "a file of another size than was stored, or changed since";

        sealed_file(&at("good"), b"12345");
        sealed_file(&at("empty"), b"");
        sealed_file(&at("cut"), b"12345").set_len(3).unwrap();
        // What a power cut leaves: the time got to the disk and the blocks did not.
        let emptied = sealed_file(&at("emptied"), b"12345");
        emptied.set_len(0).unwrap();
        seal(&emptied, 5).unwrap();
        sealed_file(&at("grown"), b"12345").write_all(b"6").unwrap();
        sealed_file(&at("flipped"), b"12345");
        let mut flipped = File::options().write(true).open(at("flipped")).unwrap();
        flipped.write_all(b"2").unwrap();
        std::fs::write(at("unsealed"), b"12345").unwrap();
        sealed_file(&at("twice"), b"12345");
        std::fs::hard_link(at("twice"), at("second")).unwrap();
        symlink(at("good"), at("link")).unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();

        let cases = [
            ("good", Ok(5)),
            ("empty", Ok(0)),
            ("missing", Err("absent")),
            ("cut", Err(changed)),
            ("emptied", Err(changed)),
            ("grown", Err(changed)),
            ("flipped", Err(changed)),
            ("unsealed", Err(changed)),
            ("twice", Err("a file with a second name")),
            ("link", Err("a symbolic link")),
            ("directory", Err("not a regular file")),
            ("fifo", Err("not a regular file")),
            ("socket", Err("a socket or device")),
        ];
        for (name, expected) in cases {
            assert_eq!(size(open(&layout, name).unwrap()), expected, "{name}");
        }
        let good = at("good").metadata().unwrap();
        let group = Sharing::Group(good.gid() + 1);
        assert_eq!(fault(&good, group), Some("a file of another group"));
    }

    #[test]
    fn large_sizes_survive_the_file_system() {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(scratch.path(), false).unwrap();
        let path = layout.path("sparse");
        let file = File::create_new(&path).unwrap();
        let length = (3 << 31) + 17;
        file.set_len(length).unwrap();
        seal(&file, length).unwrap();
        assert_eq!(size(open(&layout, "sparse").unwrap()), Ok(length));
    }
}
