//! A signed letter from the network, read as a whitelist, and the local blocklist.
#![no_main]

use cvmfs_core::format::blocklist::Blocklist;
use cvmfs_core::format::certificate::parse_fingerprint;
use cvmfs_core::format::signed::SignedLetter;
use cvmfs_core::format::whitelist::Whitelist;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let parsed = Whitelist::parse(data);
    if let Ok(list) = &parsed {
        assert_eq!(list.expires % 3600, 0);
        assert!(list.is_expired(list.expires) && !list.is_expired(list.expires - 1));
        for fingerprint in &list.fingerprints {
            // The text form of a hash is a fingerprint line of the same meaning.
            assert_eq!(parse_fingerprint(fingerprint.to_string().as_bytes()), Some(*fingerprint));
        }
    }
    if let Ok(letter) = SignedLetter::split(data) {
        assert_eq!(Whitelist::parse(letter.text()), parsed);
    }
    let fqrn = "small.test.repo".parse().expect("a good name");
    let list = Blocklist::parse(data);
    if let Some(first_good) = list.blocks_revision(&fqrn, 0) {
        assert_eq!(list.blocks_revision(&fqrn, first_good), None);
        assert_eq!(list.blocks_revision(&fqrn, first_good - 1), Some(first_good));
    }
});
