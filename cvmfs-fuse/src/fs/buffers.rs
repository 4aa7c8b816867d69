//! Buffers that answers to reads are made in, used again.
//!
//! A large read would otherwise map, clear and unmap its megabyte: a page fault for each 4 KiB,
//! which costs more than reading it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;

/// Buffers kept for the next reads: one for each of the fewest workers.
const MAX_KEPT: usize = 4;
/// The largest that is kept; the kernel asks for no more at once.
const MAX_LEN: usize = 1 << 20;

/// Buffers not in use.
#[derive(Debug, Default)]
pub struct Buffers(Mutex<Vec<Vec<u8>>>);

/// What a read returns. Its bytes belong to it until it is dropped.
#[derive(Debug)]
pub struct Buffer {
    /// At least as long as what is shown of it.
    bytes: Vec<u8>,
    len: usize,
    home: Arc<Buffers>,
}

impl Buffers {
    /// Returns a buffer of `len` bytes with anything in it.
    pub fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let kept = self.0.lock().pop();
        let mut bytes = kept.unwrap_or_default();
        if bytes.len() < len {
            // Not grown: what is in it is not worth a copy.
            bytes = vec![0; len];
        }
        Buffer { bytes, len, home: Arc::clone(self) }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.len).unwrap_or_default()
    }
}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for Buffer {
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.len() <= MAX_LEN {
            let mut kept = self.home.0.lock();
            if kept.len() < MAX_KEPT {
                kept.push(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_at_any_length_and_few_are_kept() {
        let buffers = Arc::<Buffers>::default();
        let mut first = buffers.take(100);
        first.fill(7);
        let place = first.as_ptr();
        drop(first);
        let again = buffers.take(10);
        assert_eq!((again.len(), again.as_ptr()), (10, place));
        assert_eq!(*again, [7; 10], "not cleared: it is filled anyway");
        drop(again);
        assert_eq!(buffers.take(5000).len(), 5000);
        let many: Vec<_> = (0..2 * MAX_KEPT).map(|_| buffers.take(4096)).collect();
        drop(many);
        drop(buffers.take(2 * MAX_LEN));
        let kept = buffers.0.lock();
        assert!(kept.len() <= MAX_KEPT && kept.iter().all(|kept| kept.len() <= MAX_LEN));
    }
}
