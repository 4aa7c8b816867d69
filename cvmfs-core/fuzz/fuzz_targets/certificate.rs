//! A certificate object and a master key file, as PEM and, to get past base64, as DER.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmfs_core::format::certificate::{Certificate, MIN_RSA_BITS};
use cvmfs_core::hash::HashAlgorithm;
use cvmfs_core::trust::MasterKeys;
use libfuzzer_sys::fuzz_target;
use rsa::traits::PublicKeyParts as _;

fn try_both(pem: &[u8]) {
    if let Ok(certificate) = Certificate::parse(pem) {
        assert!(certificate.key().n().bit_width() >= MIN_RSA_BITS);
        for algorithm in [HashAlgorithm::Sha1, HashAlgorithm::Rmd160, HashAlgorithm::Shake128] {
            assert!(certificate.has_fingerprint(&certificate.fingerprint(algorithm)));
        }
    }
    let _ = MasterKeys::parse([("key", pem)]);
}

fuzz_target!(|data: &[u8]| {
    try_both(data);
    let text = STANDARD.encode(data);
    for label in ["CERTIFICATE", "PUBLIC KEY"] {
        try_both(format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n").as_bytes());
    }
});
