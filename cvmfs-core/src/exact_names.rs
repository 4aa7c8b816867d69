//! Databases opened under exactly the name that is given.
//!
//! SQLite resolves symbolic links itself before it opens a file, and opens the journal by the name that
//! results. Between these steps another user may exchange a directory on the way. Names such as
//! `/proc/self/fd/7/index.sqlite` say which directory is meant, whatever its path is now; SQLite would turn
//! them into that path. The file system layer registered here is SQLite's own for Unix without this step.
//! The last part of a name may be no link: SQLite opens all files with `O_NOFOLLOW`.

use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

use rusqlite::ffi;

/// Name of the layer.
const NAME: &CStr = c"cvmfs-exact-names";
/// Name of the layer that it is made of.
const UNIX: &CStr = c"unix";

/// Returns the name of the layer for `open_with_flags_and_vfs`; `None` if SQLite did not take it.
pub fn vfs() -> Option<&'static CStr> {
    static IS_THERE: OnceLock<bool> = OnceLock::new();
    IS_THERE.get_or_init(register).then_some(NAME)
}

fn register() -> bool {
    // SAFETY: both functions initialise SQLite and lock its list of layers. The layer found lives as long as
    // the process and is only read; the copy is never freed, as SQLite wants it, and has a name that
    // lives as long. All its functions but one are those of the layer it was copied from, and find what
    // they need through `pAppData`, which is copied too.
    unsafe {
        let unix = ffi::sqlite3_vfs_find(UNIX.as_ptr());
        if unix.is_null() {
            return false;
        }
        let own = Box::leak(Box::new(*unix));
        own.zName = NAME.as_ptr();
        own.pNext = std::ptr::null_mut();
        own.xFullPathname = Some(same_name);
        ffi::sqlite3_vfs_register(own, 0) == ffi::SQLITE_OK
    }
}

/// Gives a name back as it is.
unsafe extern "C" fn same_name(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite passes a text that ends in NUL, and `room` bytes to write to, which is elsewhere.
    unsafe {
        let name = CStr::from_ptr(name).to_bytes_with_nul();
        if usize::try_from(room).is_ok_and(|room| name.len() <= room) {
            std::ptr::copy_nonoverlapping(name.as_ptr().cast(), out, name.len());
            return ffi::SQLITE_OK;
        }
    }
    ffi::SQLITE_CANTOPEN
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use rusqlite::{Connection, OpenFlags};

    use super::*;

    #[test]
    fn a_directory_is_the_one_that_was_opened_whatever_its_name_is_now() {
        let scratch = tempfile::tempdir().unwrap();
        let (there, away) = (scratch.path().join("there"), scratch.path().join("away"));
        std::fs::create_dir(&there).unwrap();
        let directory = std::fs::File::open(&there).unwrap();
        std::fs::rename(&there, &away).unwrap();
        std::fs::create_dir(scratch.path().join("outside")).unwrap();
        std::os::unix::fs::symlink("outside", &there).unwrap();
        let name = format!("/proc/self/fd/{}/db", directory.as_raw_fd());
        let open = |flags| Connection::open_with_flags_and_vfs(&name, flags, vfs().unwrap());
        let connection = open(OpenFlags::default()).unwrap();
        connection.execute_batch("PRAGMA journal_mode = TRUNCATE; CREATE TABLE t (x)").unwrap();
        drop(connection);
        assert!(away.join("db").exists() && away.join("db-journal").exists());
        assert_eq!(std::fs::read_dir(scratch.path().join("outside")).unwrap().count(), 0);
        // No link as the last part.
        std::fs::rename(away.join("db"), scratch.path().join("outside/db")).unwrap();
        std::os::unix::fs::symlink("../outside/db", away.join("db")).unwrap();
        assert!(open(OpenFlags::SQLITE_OPEN_READ_ONLY).is_err());
    }
}
