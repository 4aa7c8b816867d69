//! What of an object the kernel has in memory, and how to get the rest there without waiting.
//!
//! After a reboot, or when memory was short, a warm cache is on disk only. Who uses its objects one after the
//! other waits for the disk each time, where a disk could bring many at a time.

use std::io::IoSliceMut;

use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};

use super::{CachedObject, Store};

impl CachedObject {
    /// Tells whether the start of the object would have to be read from disk; some kernels begin to
    /// read it then. False where the file system cannot tell.
    pub fn is_on_disk_only(&self) -> bool {
        let Store::File { file, .. } = &self.store else { return false };
        let mut byte = [0];
        let start = &mut [IoSliceMut::new(&mut byte)];
        let read = rustix::io::preadv2(file, start, 0, ReadWriteFlags::NOWAIT);
        matches!(read, Err(Errno::AGAIN))
    }

    /// Asks the kernel to read the first `most` bytes, and does not wait for them.
    pub fn read_ahead(&self, most: u64) {
        let Store::File { file, .. } = &self.store else { return };
        let Some(len) = std::num::NonZeroU64::new(self.len.min(most)) else { return };
        // Who cannot has it read when it is used.
        let _ = rustix::fs::fadvise(file, 0, Some(len), Advice::WillNeed);
    }
}
