//! Part of a file in memory.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// Of this machine's kernel; mappings begin at its multiples.
pub(super) const PAGE: usize = 4096;

/// How a mapping belongs to its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `MAP_SHARED`, read-only.
    Shared,
    /// `MAP_PRIVATE`, may be written to.
    Private,
    /// `MAP_PRIVATE`, with all its pages at once.
    Populated,
}

/// A mapping; it ends with this value.
#[derive(Debug)]
pub(super) struct Mapping {
    start: *mut libc::c_void,
    /// Bytes of the file that were asked for.
    len: usize,
    kind: Kind,
}

// SAFETY: the memory belongs to this value alone.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes, not none, from `offset` on, which is a multiple of [`PAGE`].
    pub(super) fn of(file: &File, offset: u64, len: usize, kind: Kind) -> io::Result<Self> {
        let (protection, flags) = match kind {
            Kind::Shared => (libc::PROT_READ, libc::MAP_SHARED),
            Kind::Private => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE),
            Kind::Populated => (libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_POPULATE),
        };
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let (nowhere, descriptor) = (std::ptr::null_mut(), file.as_raw_fd());
        // SAFETY: a new mapping at a place that the kernel chooses.
        let start = unsafe { libc::mmap(nowhere, len, protection, flags, descriptor, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start, len, kind })
    }

    /// Returns what was mapped, up to the end of its last page: zeroes where the file has ended.
    pub(super) fn pages(&self) -> &[u8] {
        let len = self.len.next_multiple_of(PAGE);
        // SAFETY: the kernel maps whole pages, and the file, which nobody can truncate, has a byte
        // in each of them.
        unsafe { std::slice::from_raw_parts(self.start.cast(), len) }
    }

    /// Returns the bytes that were asked for.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.pages()[..self.len]
    }

    /// Returns them for writing.
    ///
    /// # Panics
    /// If the mapping is not for writing.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        assert_eq!(self.kind, Kind::Private, "others are read-only");
        // SAFETY: mapped for writing, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.len) }
    }

    /// Lets the kernel drop its pages; they come back from the file.
    pub(super) fn drop_pages(&self) {
        // SAFETY: the mapping is ours; what was written to it is lost, as is meant.
        unsafe { libc::madvise(self.start, self.len, libc::MADV_DONTNEED) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by mmap with this length; slices of it do not outlive it.
        unsafe { libc::munmap(self.start, self.len) };
    }
}
