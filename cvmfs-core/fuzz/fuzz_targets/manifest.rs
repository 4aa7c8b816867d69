//! A signed letter from the network, read as a manifest.
#![no_main]

use cvmfs_core::format::manifest::Manifest;
use cvmfs_core::format::signed::SignedLetter;
use cvmfs_core::trust::{unverified_alternative_paths, unverified_certificate_hash};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // Mutated letters rarely have the right hash; so the parser also gets the bytes as they are.
    let parsed = Manifest::parse(data);
    if let Ok(manifest) = &parsed {
        assert!(!manifest.root_catalog.is_null() && !manifest.certificate.is_null());
        assert_ne!(manifest.root_catalog_size, Some(0));
    }
    let _ = unverified_alternative_paths(data);
    if let Ok(hash) = unverified_certificate_hash(data) {
        let letter = SignedLetter::split(data).expect("a hash was found in it");
        assert!(letter.text_hash_matches());
        if let Ok(manifest) = Manifest::parse(letter.text()) {
            assert_eq!(manifest.certificate, hash);
        }
    }
    if let Ok(letter) = SignedLetter::split(data) {
        assert!(data.starts_with(letter.text()) && data.ends_with(letter.signature()));
        let between = b"--\n".len() + letter.signed_bytes().len() + b"\n".len();
        assert_eq!(letter.text().len() + between + letter.signature().len(), data.len());
        // What stands behind the separator line must not count.
        assert_eq!(Manifest::parse(letter.text()), parsed);
    }
});
