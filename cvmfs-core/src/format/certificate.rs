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
}

/// A certificate with an RSA key; whether it may sign is for [`crate::trust`] to say.
#[derive(Debug, Clone)]
pub struct Certificate {
    der: Vec<u8>,
    key: rsa::PublicKey,
    validity: (i64, i64),
}

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
        Ok(Self { key, validity, der })
    }

    /// Returns the fingerprint: the hash of the DER form.
    pub fn fingerprint(&self, algorithm: HashAlgorithm) -> ContentHash {
        ContentHash::of(algorithm, &self.der)
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
