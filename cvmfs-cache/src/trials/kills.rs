//! Processes that die at any moment.
use super::*;
pub(super) fn churn(cache: &DiskCache, seed: u32) {
    let _ = (cache, seed);
}
