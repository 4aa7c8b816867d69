//! A blocklist: of this machine, or of a configuration repository.
#![no_main]

use cvmfs_core::format::blocklist::Blocklist;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let fqrn = "a.b.c".parse().expect("a good name");
    let mut list = Blocklist::parse(data);
    if let Some(first_good) = list.blocks_revision(&fqrn, 7) {
        assert!(first_good > 7);
    }
    let alone = list.blocks_revision(&fqrn, 0);
    list.extend(Blocklist::parse(b"<a.b.c 100\n"));
    assert!(list.blocks_revision(&fqrn, 0).is_some_and(|first| first >= 100));
    assert!(alone.is_none() || list.blocks_revision(&fqrn, 0) >= alone);
});
