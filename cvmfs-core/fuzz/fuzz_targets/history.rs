//! Arbitrary bytes opened as a tag database: what a hostile publisher can sign.
#![no_main]

use bytes::Bytes;
use cvmfs_core::cache::CachedObject;
use cvmfs_core::catalog::budget::Budget;
use cvmfs_core::history::History;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let object = CachedObject::from_memory(Bytes::copy_from_slice(data));
    let fqrn = "a.b".parse().expect("a good name");
    let budget = Budget::long();
    let Ok(history) = History::open(&object, &fqrn, &budget) else { return };
    if let Ok(tags) = history.tags(&budget) {
        for tag in tags.iter().take(8) {
            let _ = history.by_name(&tag.name, &budget);
        }
    }
    for date in [i64::MIN, 0, 1, i64::MAX] {
        let _ = history.by_date(date, &budget);
    }
});
