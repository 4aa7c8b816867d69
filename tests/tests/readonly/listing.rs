//! Directory streams: seeking, rewinding, buffers of any size.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::zoo::in_zoo;

/// opendir(3), which the standard library hides.
struct Stream(*mut libc::DIR);

impl Stream {
    fn open(path: &Path) -> Self {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the path ends with NUL.
        let stream = unsafe { libc::opendir(path.as_ptr()) };
        assert!(!stream.is_null(), "{}", std::io::Error::last_os_error());
        Self(stream)
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        // SAFETY: the stream is open, and nobody else reads it.
        let entry = unsafe { libc::readdir(self.0) };
        if entry.is_null() {
            return None;
        }
        // SAFETY: the entry is valid until the next call, its name ends with NUL.
        Some(unsafe { CStr::from_ptr((*entry).d_name.as_ptr()) }.to_bytes().to_vec())
    }

    fn tell(&self) -> libc::c_long {
        // SAFETY: the stream is open.
        unsafe { libc::telldir(self.0) }
    }

    fn seek(&mut self, position: libc::c_long) {
        // SAFETY: the stream is open, the position came from it.
        unsafe { libc::seekdir(self.0, position) }
    }

    fn rewind(&mut self) {
        // SAFETY: the stream is open.
        unsafe { libc::rewinddir(self.0) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the stream is open, and this is its last use.
        unsafe { libc::closedir(self.0) };
    }
}

#[test]
fn seeking_in_3000_entries() {
    in_zoo(|zoo| {
        let mut stream = Stream::open(&zoo.mount.path("many"));
        // Before each entry, where it is.
        let mut entries = Vec::new();
        loop {
            let position = stream.tell();
            match stream.next() {
                Some(name) => entries.push((position, name)),
                None => break,
            }
        }
        assert_eq!(entries.len(), 3002, "with . and ..");
        let names: HashSet<_> = entries.iter().map(|(_, name)| name.clone()).collect();
        assert_eq!(names.len(), entries.len(), "each name once");
        assert!(names.contains(&b"."[..]) && names.contains(&b".."[..]));
        let positions: HashSet<_> = entries.iter().map(|(position, _)| *position).collect();
        assert_eq!(positions.len(), entries.len(), "each position once");

        // 1231 has no common factor with 3002: a walk over all entries in a wild order.
        for step in 0..entries.len() {
            let at = step * 1231 % entries.len();
            let (position, name) = &entries[at];
            stream.seek(*position);
            assert_eq!(stream.next().as_ref(), Some(name), "entry {at}");
            let after = stream.next();
            assert_eq!(after.as_ref(), entries.get(at + 1).map(|(_, name)| name), "after {at}");
        }
        stream.rewind();
        for (_, name) in &entries {
            assert_eq!(stream.next().as_ref(), Some(name), "after rewinding");
        }
        assert_eq!(stream.next(), None);
        assert_eq!(stream.next(), None, "the end stays the end");
    });
}

#[test]
fn a_stream_may_be_left_and_opened_again() {
    in_zoo(|zoo| {
        let path = zoo.mount.path("many");
        for length in [0, 1, 500] {
            let mut stream = Stream::open(&path);
            for _ in 0..length {
                assert!(stream.next().is_some());
            }
        }
        let mut left = Stream::open(&path);
        let mut right = Stream::open(&path);
        while let Some(name) = left.next() {
            assert_eq!(right.next(), Some(name), "two streams do not disturb each other");
        }
        assert_eq!(right.next(), None);
    });
}

/// getdents64(2) with buffers that hold only an entry or two.
#[test]
fn small_buffers_lose_nothing() {
    in_zoo(|zoo| {
        let truth = zoo.genuine.truth();
        for path in ["many", "names", "empty-dir"] {
            let inside = format!("{path}/").into_bytes();
            let published = truth.iter().filter(|entry| entry.path.starts_with(&inside)).count();
            let directory = File::open(zoo.mount.path(path)).unwrap();
            // The longest name needs 19 + 255 + 1 bytes, rounded up to a multiple of 8.
            let mut buffer = [0_u8; 280];
            let mut names = HashSet::new();
            loop {
                // SAFETY: the descriptor is open, the buffer has the size told.
                let filled = unsafe {
                    libc::syscall(
                        libc::SYS_getdents64,
                        directory.as_raw_fd(),
                        buffer.as_mut_ptr(),
                        buffer.len(),
                    )
                };
                let filled = usize::try_from(filled).expect("getdents64 works");
                if filled == 0 {
                    break;
                }
                let mut rest = &buffer[..filled];
                while !rest.is_empty() {
                    // struct linux_dirent64: d_reclen at 16, d_type at 18, d_name from 19.
                    let length = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
                    let name = CStr::from_bytes_until_nul(&rest[19..length]).unwrap();
                    assert!(names.insert(name.to_owned()), "{name:?} twice in {path}");
                    rest = &rest[length..];
                }
            }
            assert_eq!(names.len(), published + 2, "{path} with . and ..");
        }
    });
}
