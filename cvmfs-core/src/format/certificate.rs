//! The certificate whose key signs manifests (spec/format.md section 6).
//!
//! Only the key and the fingerprint count. Dates, subject, issuer and key usage are not part of
//! the trust chain of a repository, and genuine certificates are mostly expired.

use rsa::pkcs8::DecodePublicKey as _;
use rsa::traits::PublicKeyParts as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::format::pem::{PemError, single_block};
use crate::hash::{ContentHash, HashAlgorithm};

/// Longest certificate object, in plain bytes.
///
/// Genuine ones have about 1 KiB; the bound is that of facts/behaviours.md T8.
pub const MAX_CERTIFICATE_LEN: usize = 64 * 1024;

/// Smallest RSA key that is accepted, in bits: shorter ones are within reach of an attacker.
pub const MIN_RSA_BITS: u32 = 2048;

/// Largest RSA key that is accepted, in bits: checking a signature takes time with the square of it.
pub const MAX_RSA_BITS: u32 = 8192;

/// Longest public exponent of an RSA key, in bits: 65537 has 17, and each bit costs a multiplication. An even one, and
/// 1, are none that sign.
pub const MAX_EXPONENT_BITS: u32 = 33;

/// Why bytes are no certificate that may sign.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Over [`MAX_CERTIFICATE_LEN`].
    #[error("certificate of {0} bytes, at most {MAX_CERTIFICATE_LEN} are allowed")]
    TooLong(usize),
    /// Not exactly one PEM block of a certificate.
    #[error("certificate object is not one PEM certificate")]
    Pem(#[from] PemError),
    /// The block is no X.509 certificate.
    #[error("not an X.509 certificate: {0}")]
    X509(String),
    /// The key is not RSA, or too weak or odd to use.
    #[error("no usable key in the certificate")]
    Key(#[from] KeyError),
}

/// Why a public key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No RSA key in the form of RFC 5280 section 4.1.
    #[error("not an RSA public key: {0}")]
    NotRsa(String),
    /// Under [`MIN_RSA_BITS`].
    #[error("RSA key of {0} bits, at least {MIN_RSA_BITS} are required")]
    Short(u32),
    /// Over [`MAX_RSA_BITS`], or its exponent is over [`MAX_EXPONENT_BITS`].
    #[error(
        "RSA key of {0} bits with an exponent of {1} bits, at most {MAX_RSA_BITS} and {MAX_EXPONENT_BITS} are allowed"
    )]
    Long(u32, u32),
}

/// A certificate with an RSA key; whether it may sign is for [`crate::trust`] to say.
#[derive(Debug, Clone)]
pub struct Certificate {
    key: rsa::PublicKey,
    validity: (i64, i64),
    /// Under each algorithm: a list has thousands of lines, and a certificate up to 64 KiB to hash.
    fingerprints: [ContentHash; ALGORITHMS.len()],
}

/// Algorithms of fingerprints.
const ALGORITHMS: [HashAlgorithm; 3] =
    [HashAlgorithm::Sha1, HashAlgorithm::Rmd160, HashAlgorithm::Shake128];

impl Certificate {
    /// Parses the plain bytes of a certificate object.
    ///
    /// Stricter than upstream, which takes the first of several blocks (facts/behaviours.md T5).
    pub fn parse(pem: &[u8]) -> Result<Self, CertificateError> {
        if pem.len() > MAX_CERTIFICATE_LEN {
            return Err(CertificateError::TooLong(pem.len()));
        }
        let der = single_block(pem, "CERTIFICATE")?;
        let (rest, certificate) = X509Certificate::from_der(&der)
            .map_err(|error| CertificateError::X509(error.to_string()))?;
        if !rest.is_empty() {
            return Err(CertificateError::X509("bytes after its end".to_owned()));
        }
        let key = parse_rsa_key(certificate.public_key().raw)?;
        let validity = certificate.validity();
        let validity = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let fingerprints = ALGORITHMS.map(|algorithm| ContentHash::of(algorithm, &der));
        Ok(Self { key, validity, fingerprints })
    }

    /// Returns the fingerprint: the hash of the DER form.
    pub fn fingerprint(&self, algorithm: HashAlgorithm) -> ContentHash {
        let [sha1, rmd160, shake128] = self.fingerprints;
        match algorithm {
            HashAlgorithm::Sha1 => sha1,
            HashAlgorithm::Rmd160 => rmd160,
            HashAlgorithm::Shake128 => shake128,
        }
    }

    /// Tells whether `fingerprint`, under its own algorithm, is that of this certificate.
    pub fn has_fingerprint(&self, fingerprint: &ContentHash) -> bool {
        self.fingerprint(fingerprint.algorithm()) == *fingerprint
    }

    /// Returns the key.
    pub fn key(&self) -> &rsa::PublicKey {
        &self.key
    }

    /// Returns the first and last second of the validity (Unix). Not enforced: for logs only.
    pub fn validity(&self) -> (i64, i64) {
        self.validity
    }
}

/// Reads an RSA key of a sane size from a DER `SubjectPublicKeyInfo`.
pub(crate) fn parse_rsa_key(spki: &[u8]) -> Result<rsa::PublicKey, KeyError> {
    let key = rsa::PublicKey::from_public_key_der(spki)
        .map_err(|error| KeyError::NotRsa(error.to_string()))?;
    let bits = key.n().bit_width();
    if bits < MIN_RSA_BITS {
        return Err(KeyError::Short(bits));
    }
    // The library has these bounds, too; here they are ours.
    let exponent = key.e().bit_width();
    if bits > MAX_RSA_BITS || exponent > MAX_EXPONENT_BITS {
        return Err(KeyError::Long(bits, exponent));
    }
    Ok(key)
}

/// Reads a fingerprint line of a whitelist or blocklist (section 7.2).
///
/// Returns `None` for comments and everything else that is no content hash.
pub fn parse_fingerprint(line: &[u8]) -> Option<ContentHash> {
    let end = line.iter().position(|b| matches!(b, b' ' | b'\t' | b'#')).unwrap_or(line.len());
    let text: Vec<u8> =
        line[..end].iter().filter(|&&b| b != b':').map(u8::to_ascii_lowercase).collect();
    ContentHash::parse_bytes(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADE: &[u8] = include_bytes!("../testdata/made.certificate.pem");

    #[test]
    fn key_fingerprint_and_dates() {
        let certificate = Certificate::parse(MADE).unwrap();
        assert_eq!(certificate.key().n().bit_width(), 2048);
        // `openssl x509 -fingerprint -sha1`; the dates are long over, which does not matter.
        assert_eq!(
            certificate.fingerprint(HashAlgorithm::Sha1).to_string(),
            include_str!("../testdata/made.fingerprint").trim()
        );
        assert_eq!(certificate.validity(), (946_684_800, 978_307_200));
        for algorithm in [HashAlgorithm::Sha1, HashAlgorithm::Rmd160, HashAlgorithm::Shake128] {
            assert!(certificate.has_fingerprint(&certificate.fingerprint(algorithm)));
        }
        let other = ContentHash::new(
            HashAlgorithm::Rmd160,
            *certificate.fingerprint(HashAlgorithm::Sha1).digest(),
        );
        assert!(!certificate.has_fingerprint(&other));
    }

    #[test]
    fn refuses_what_may_not_sign() {
        let pem = String::from_utf8(MADE.to_vec()).unwrap();
        let text_before = format!("Certificate:\n    Data: ...\n{pem}");
        assert!(Certificate::parse(text_before.as_bytes()).is_ok());
        let ec = include_str!("../testdata/made-ec.certificate.pem");
        let short = include_str!("../testdata/made-1024.certificate.pem");
        for (text, message) in [
            (String::new(), "certificate object is not one PEM certificate"),
            (pem.repeat(2), "certificate object is not one PEM certificate"),
            (format!("{pem}tail"), "certificate object is not one PEM certificate"),
            (
                pem.replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
                "certificate object is not one PEM certificate",
            ),
            (
                "x".repeat(MAX_CERTIFICATE_LEN + 1),
                "certificate of 65537 bytes, at most 65536 are allowed",
            ),
            (ec.to_owned(), "no usable key in the certificate"),
            (short.to_owned(), "no usable key in the certificate"),
        ] {
            assert_eq!(Certificate::parse(text.as_bytes()).unwrap_err().to_string(), message);
        }
        assert!(matches!(
            Certificate::parse(ec.as_bytes()),
            Err(CertificateError::Key(KeyError::NotRsa(_)))
        ));
        assert!(matches!(
            Certificate::parse(short.as_bytes()),
            Err(CertificateError::Key(KeyError::Short(1024)))
        ));
    }

    /// A DER element.
    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let [low, middle, high, ..] = content.len().to_le_bytes();
        // DER has no length longer than it need be.
        let head = match content.len() {
            0..=0x7f => vec![tag, low],
            0x80..=0xff => vec![tag, 0x81, low],
            0x100..=0xffff => vec![tag, 0x82, middle, low],
            _ => vec![tag, 0x83, high, middle, low],
        };
        [head.as_slice(), content].concat()
    }

    /// A public key of this modulus and exponent, big-endian.
    fn key_of(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
        let number = |bytes: &[u8]| der(2, &[&[0], bytes].concat());
        let key = der(0x30, &[number(modulus), der(2, exponent)].concat());
        let algorithm = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
        der(0x30, &[&algorithm[..], &der(3, &[&[0][..], &key].concat())].concat())
    }

    #[test]
    fn m1_keys_that_take_long_to_check_are_refused() {
        let f4 = [1, 0, 1];
        let modulus = |bytes: usize| vec![0xff; bytes];
        assert!(parse_rsa_key(&key_of(&modulus(256), &f4)).is_ok());
        assert!(parse_rsa_key(&key_of(&modulus(1024), &f4)).is_ok());
        let even = [vec![0xff; 255], vec![0xfe]].concat();
        let huge_exponent = [&[0x7f][..], &[0xff; 200]].concat();
        for (what, key) in [
            ("8200 bits", key_of(&modulus(1025), &f4)),
            ("64 KiB", key_of(&modulus(60_000), &f4)),
            ("even modulus", key_of(&even, &f4)),
            ("exponent of 1600 bits", key_of(&modulus(256), &huge_exponent)),
            ("exponent of 40 bits", key_of(&modulus(256), &[0x7f, 0xff, 0xff, 0xff, 0xff])),
            ("exponent 1", key_of(&modulus(256), &[1])),
            ("exponent 0", key_of(&modulus(256), &[0])),
            ("even exponent", key_of(&modulus(256), &[2])),
            ("negative exponent", key_of(&modulus(256), &[0xff])),
            ("more behind it", [key_of(&modulus(256), &f4), vec![0, 0]].concat()),
        ] {
            assert!(parse_rsa_key(&key).is_err(), "{what}");
        }
    }

    /// Structures as deep as a certificate object is long, in each place that may hold any.
    #[test]
    fn m1_nested_structures_end_in_a_small_stack() {
        use base64::Engine as _;
        let deep = |tag: u8| {
            let mut inner = Vec::new();
            while inner.len() < 40_000 {
                inner = der(tag, &inner);
            }
            inner
        };
        let run = move || {
            let genuine = single_block(MADE, "CERTIFICATE").unwrap();
            for tag in [0x30, 0x31, 0xa0, 0xa4, 0x24, 0x23] {
                let deep = deep(tag);
                let mut forms =
                    vec![deep.clone(), der(0x30, &[deep.clone(), deep.clone()].concat())];
                // In front of each element of the genuine one, with the lengths around it corrected.
                for at in (4..genuine.len()).step_by(3) {
                    let body = [&genuine[8..at.max(8)], &deep, &genuine[at.max(8)..]].concat();
                    forms.push(der(0x30, &der(0x30, &body)));
                }
                for form in forms {
                    let text = base64::engine::general_purpose::STANDARD.encode(form);
                    let pem =
                        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
                    assert!(Certificate::parse(pem.as_bytes()).is_err());
                }
            }
        };
        let small = std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap();
        small.join().unwrap();
    }

    #[test]
    fn refuses_bytes_after_the_certificate() {
        // Two more zero bytes inside the block: `AAA=` decodes to them.
        let body = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        assert!(matches!(Certificate::parse(body.as_bytes()), Err(CertificateError::X509(_))));
        let tailed = include_bytes!("../testdata/made-tail.certificate.pem");
        let error = Certificate::parse(tailed).unwrap_err();
        assert_eq!(error.to_string(), "not an X.509 certificate: bytes after its end");
    }
}
