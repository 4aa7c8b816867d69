//! Telling threads to end.

use std::sync::atomic::{AtomicBool, Ordering};

/// Raises a flag when dropped: also where the thread that holds it panics, those who look at the
/// flag must end.
#[derive(Debug)]
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
