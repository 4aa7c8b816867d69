use std::error::Error as _;

use rsa::pkcs8::DecodePrivateKey as _;

use super::*;
use crate::decode::{DecodeError, SizeBound, decode_all};
use crate::format::certificate::MAX_CERTIFICATE_LEN;
use crate::object::{ObjectId, ObjectKind};

/// What the genuine server tools wrote; see testdata/README.md.
struct Genuine {
    fqrn: Fqrn,
    manifest: &'static [u8],
    whitelist: &'static [u8],
    stored_certificate: &'static [u8],
    master_key: &'static [u8],
}

macro_rules! genuine {
    ($name:literal) => {
        Genuine {
            fqrn: concat!($name, ".test.repo").parse().unwrap(),
            manifest: include_bytes!(concat!("../testdata/", $name, ".manifest")),
            whitelist: include_bytes!(concat!("../testdata/", $name, ".whitelist")),
            stored_certificate: include_bytes!(concat!("../testdata/", $name, ".certificate.z")),
            master_key: include_bytes!(concat!("../testdata/", $name, ".pub")),
        }
    };
}

/// One repository for each content hash algorithm.
fn all_genuine() -> [Genuine; 3] {
    [genuine!("small"), genuine!("shake"), genuine!("rmd")]
}

/// 2026-12-01; the genuine whitelists are valid from 2026-11-23 to 2046.
const NOW: i64 = 1_796_083_200;

impl Genuine {
    fn keys(&self) -> MasterKeys {
        MasterKeys::parse([("master", self.master_key)]).unwrap()
    }

    fn certificate_object(&self, stored: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let hash = unverified_certificate_hash(self.manifest).unwrap();
        let id = ObjectId::zlib(hash, ObjectKind::Certificate);
        let bound = SizeBound::AtMost(MAX_CERTIFICATE_LEN as u64);
        decode_all(id, stored, bound).map(|(pem, _)| pem)
    }

    fn certificate(&self) -> Certificate {
        Certificate::parse(&self.certificate_object(self.stored_certificate).unwrap()).unwrap()
    }

    fn verify_whitelist(&self, bytes: &[u8]) -> Result<Verified<Whitelist>, TrustError> {
        verify_whitelist(bytes, &self.keys(), &self.fqrn, NOW)
    }
}

#[test]
fn genuine_chains_are_accepted() {
    let mut roots = Vec::new();
    for repo in all_genuine() {
        let whitelist = repo.verify_whitelist(repo.whitelist).unwrap();
        assert_eq!(whitelist.fqrn, repo.fqrn.as_str());
        assert_eq!(whitelist.fingerprints.len(), 1);
        assert!(!unverified_alternative_paths(repo.manifest).unwrap());
        let manifest = verify_manifest(
            repo.manifest,
            &repo.certificate(),
            &whitelist,
            &Blocklist::default(),
            &repo.fqrn,
        )
        .unwrap();
        assert_eq!(manifest.certificate, unverified_certificate_hash(repo.manifest).unwrap());
        assert_eq!(manifest.ttl, 240);
        roots.push((
            manifest.root_catalog.to_string(),
            manifest.root_catalog_size,
            manifest.revision,
        ));
    }
    let expected = [
        ("ac01b34756e41694e91a7fdb80489ed2bb2ea189", Some(487_424), 4),
        ("0afba6690dfca813eb484ad5b627ac072dfcf9c4-shake128", Some(18_432), 2),
        ("973d16cd69b77c6fa3011bfb3a474f0d218a3945-rmd160", Some(18_432), 2),
    ];
    assert_eq!(roots, expected.map(|(root, size, revision)| (root.to_owned(), size, revision)));
}

/// Calls `check` with each byte of `bytes` changed in several ways or left out, and each prefix.
fn damage(bytes: &[u8], mut check: impl FnMut(&[u8], &str)) {
    for position in 0..bytes.len() {
        for mask in [1, 32, 128, 255] {
            let mut damaged = bytes.to_vec();
            damaged[position] ^= mask;
            check(&damaged, &format!("byte {position} xor {mask}"));
        }
        check(&bytes[..position], &format!("first {position} bytes"));
        let mut shorter = bytes.to_vec();
        shorter.remove(position);
        check(&shorter, &format!("without byte {position}"));
    }
    for extra in [0, b'\n', 0xff] {
        let longer = [bytes, &[extra]].concat();
        check(&longer, &format!("with byte {extra} at the end"));
    }
}

#[test]
fn every_damage_of_a_whitelist_is_refused() {
    for repo in all_genuine() {
        damage(repo.whitelist, |bytes, what| {
            assert!(repo.verify_whitelist(bytes).is_err(), "{}: {what}", repo.fqrn);
        });
    }
}

#[test]
fn every_damage_of_a_manifest_is_refused() {
    for repo in all_genuine() {
        let whitelist = repo.verify_whitelist(repo.whitelist).unwrap();
        let (certificate, blocklist) = (repo.certificate(), Blocklist::default());
        damage(repo.manifest, |bytes, what| {
            let result = verify_manifest(bytes, &certificate, &whitelist, &blocklist, &repo.fqrn);
            assert!(result.is_err(), "{}: {what}", repo.fqrn);
        });
    }
}

/// The hash of the object protects every byte. Without it, changes of the PEM frame that leave the
/// DER form as it is are harmless; all others must be refused.
#[test]
fn every_damage_of_a_certificate_is_refused() {
    for repo in all_genuine() {
        damage(repo.stored_certificate, |stored, what| {
            assert!(repo.certificate_object(stored).is_err(), "{}: {what}", repo.fqrn);
        });
        let whitelist = repo.verify_whitelist(repo.whitelist).unwrap();
        let pem = repo.certificate_object(repo.stored_certificate).unwrap();
        let fingerprint = repo.certificate().fingerprint(HashAlgorithm::Shake128);
        damage(&pem, |pem, what| {
            let Ok(certificate) = Certificate::parse(pem) else { return };
            let blocklist = Blocklist::default();
            match verify_manifest(repo.manifest, &certificate, &whitelist, &blocklist, &repo.fqrn) {
                Ok(_) => {
                    assert!(certificate.has_fingerprint(&fingerprint), "{}: {what}", repo.fqrn)
                }
                Err(error) => assert!(matches!(error, TrustError::CertificateNotListed { .. })),
            }
        });
    }
}

#[test]
fn letters_of_another_repository_are_refused() {
    let [small, shake, _] = all_genuine();
    let whitelist = small.verify_whitelist(small.whitelist).unwrap();
    let none = Blocklist::default();

    let error = small.verify_whitelist(shake.whitelist).unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid whitelist signature: not made with any of the master keys master"
    );
    // Known master key, other repository.
    let keys = MasterKeys::parse([("a", small.master_key), ("b", shake.master_key)]).unwrap();
    assert_eq!(keys.names().collect::<Vec<_>>(), ["a", "b"]);
    assert!(verify_whitelist(small.whitelist, &keys, &small.fqrn, NOW).is_ok());
    let error = verify_whitelist(shake.whitelist, &keys, &small.fqrn, NOW).unwrap_err();
    assert_eq!(
        error.to_string(),
        "repository name mismatch on whitelist: it is for \"shake.test.repo\" and not small.test.repo"
    );

    let error =
        verify_manifest(small.manifest, &small.certificate(), &whitelist, &none, &shake.fqrn);
    assert!(matches!(error, Err(TrustError::WhitelistName { .. })));
    let error =
        verify_manifest(shake.manifest, &shake.certificate(), &whitelist, &none, &small.fqrn);
    assert!(matches!(error, Err(TrustError::CertificateNotListed { .. })));
    let error =
        verify_manifest(shake.manifest, &small.certificate(), &whitelist, &none, &small.fqrn);
    assert!(matches!(error, Err(TrustError::ManifestSignature { .. })));
}

#[test]
fn blocklist_wins() {
    let [small, ..] = all_genuine();
    let whitelist = small.verify_whitelist(small.whitelist).unwrap();
    let certificate = small.certificate();
    let verify = |lines: &str| {
        let blocklist = Blocklist::parse(lines.as_bytes());
        let result =
            verify_manifest(small.manifest, &certificate, &whitelist, &blocklist, &small.fqrn);
        result.map(|manifest| manifest.revision).map_err(|error| error.to_string())
    };
    let shake = certificate.fingerprint(HashAlgorithm::Shake128);
    assert_eq!(verify(&shake.to_string()), Err(format!("certificate blacklisted: {shake}")));
    assert_eq!(
        verify("<small.test.repo 5"),
        Err("revision blacklisted: small.test.repo revision 4, the first allowed one is 5"
            .to_owned())
    );
    assert_eq!(verify("<small.test.repo 4\n<shake.test.repo 9"), Ok(4));
}

#[test]
fn master_keys() {
    let good = include_str!("../testdata/made.master.pub");
    let ec = include_str!("../testdata/made-ec.pub");
    let short = include_str!("../testdata/made-1024.pub");
    let certificate = include_str!("../testdata/made.certificate.pem");
    assert_eq!(MasterKeys::parse([("one", good)]).unwrap().names().count(), 1);
    for (files, message, cause) in [
        (vec![], "no master key", None),
        (vec![good, ""], "master key 1 is not one PEM public key", Some("no readable PEM block")),
        (
            vec![&good.repeat(2)],
            "master key 0 is not one PEM public key",
            Some("more text after the first PEM block"),
        ),
        (
            vec![good, certificate],
            "master key 1 is not one PEM public key",
            Some("PEM block \"CERTIFICATE\" instead of \"PUBLIC KEY\""),
        ),
        (
            vec![short, good],
            "master key 0 cannot be used",
            Some("RSA key of 1024 bits, at least 2048 are required"),
        ),
        (vec![good, ec], "master key 1 cannot be used", None),
    ] {
        let names = (0..files.len()).map(|n| n.to_string());
        let error = MasterKeys::parse(names.zip(files)).unwrap_err();
        assert_eq!(error.to_string(), message);
        if let Some(cause) = cause {
            assert_eq!(error.source().unwrap().to_string(), cause);
        }
    }
}

const MADE: &str = "made.test.repo";
const ROOT: &str = "f3bc68897a32278da5b5b0e4b5e4711a9102dde5";

fn private_key(der: &[u8]) -> rsa::PrivateKey {
    rsa::PrivateKey::from_pkcs8_der(der).unwrap()
}

/// Puts a text and a signature together, whoever makes it.
fn letter(text: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let hash = ContentHash::of(HashAlgorithm::Sha1, text.as_bytes()).to_string();
    [format!("{text}--\n{hash}\n").into_bytes(), sign(hash.as_bytes())].concat()
}

fn sign_raw(hash: &[u8]) -> Vec<u8> {
    let key = private_key(include_bytes!("../testdata/made.master.pk8"));
    key.sign(Pkcs1v15Sign::new_unprefixed(), hash).unwrap()
}

fn sign_sha1(hash: &[u8]) -> Vec<u8> {
    let key = private_key(include_bytes!("../testdata/made.certificate.pk8"));
    key.sign(Pkcs1v15Sign::new::<Sha1>(), &Sha1::digest(hash)).unwrap()
}

fn made_certificate() -> Certificate {
    Certificate::parse(include_bytes!("../testdata/made.certificate.pem")).unwrap()
}

fn made_whitelist(text: &str, now: i64) -> Result<Verified<Whitelist>, TrustError> {
    let keys = [("made", include_bytes!("../testdata/made.master.pub"))];
    let bytes = letter(text, sign_raw);
    verify_whitelist(&bytes, &MasterKeys::parse(keys).unwrap(), &MADE.parse().unwrap(), now)
}

fn whitelist_text(expires: &str, lines: &str) -> String {
    format!("20260101000000\nE{expires}\nN{MADE}\n{lines}\n")
}

#[test]
fn signed_whitelists_that_do_not_fit() {
    let noon = 1_767_268_800;
    let fingerprint =
        made_certificate().fingerprint(HashAlgorithm::Rmd160).to_string().to_uppercase();
    let good = whitelist_text("20260101125959", &fingerprint);
    assert_eq!(made_whitelist(&good, noon - 1).unwrap().fingerprints.len(), 1);
    for now in [noon, noon + 1800, i64::MAX] {
        assert!(matches!(made_whitelist(&good, now), Err(TrustError::WhitelistExpired { .. })));
    }
    let error = made_whitelist(&good, noon).unwrap_err();
    assert_eq!(
        error.to_string(),
        "expired whitelist: it ended at 2026-01-01T12:00:00Z, and now it is 2026-01-01T12:00:00Z"
    );
    // The name is judged before the date.
    let other = good.replace(MADE, "Made.test.repo");
    assert!(matches!(made_whitelist(&other, noon), Err(TrustError::WhitelistName { .. })));
    for lines in ["Vpkcs7", "Wcachain"] {
        let error = made_whitelist(&whitelist_text("20260101125959", lines), 0).unwrap_err();
        assert!(matches!(error, TrustError::Whitelist(WhitelistError::Unsupported(_))), "{error}");
    }
    let empty = verify_whitelist(b"", &all_genuine()[0].keys(), &MADE.parse().unwrap(), 0);
    assert_eq!(empty.unwrap_err().to_string(), "empty whitelist");
}

#[test]
fn signatures_of_the_other_kind_are_refused() {
    // A DigestInfo in the whitelist's signature, or the certificate's key instead of the master's.
    let keys =
        MasterKeys::parse([("made", include_bytes!("../testdata/made.master.pub"))]).unwrap();
    let text = whitelist_text("20260101125959", "");
    let master = private_key(include_bytes!("../testdata/made.master.pk8"));
    let prefixed =
        |hash: &[u8]| master.sign(Pkcs1v15Sign::new::<Sha1>(), &Sha1::digest(hash)).unwrap();
    let digest_only =
        |hash: &[u8]| master.sign(Pkcs1v15Sign::new_unprefixed(), &Sha1::digest(hash)).unwrap();
    for bytes in [letter(&text, prefixed), letter(&text, digest_only), letter(&text, sign_sha1)] {
        let result = verify_whitelist(&bytes, &keys, &MADE.parse().unwrap(), 0);
        assert!(matches!(result, Err(TrustError::WhitelistSignature { .. })));
    }
    // No DigestInfo in the manifest's signature.
    let signer = private_key(include_bytes!("../testdata/made.certificate.pk8"));
    let raw = |hash: &[u8]| signer.sign(Pkcs1v15Sign::new_unprefixed(), hash).unwrap();
    let result = made_manifest(&letter(&manifest_text(""), raw));
    assert!(matches!(result, Err(TrustError::ManifestSignature { .. })));
}

fn manifest_text(line: &str) -> String {
    format!("C{ROOT}\nRd41d8cd98f00b204e9800998ecf8427e\nD240\nS7\nN{MADE}\nX{ROOT}\n{line}\n")
}

fn made_manifest(bytes: &[u8]) -> Result<Verified<Manifest>, TrustError> {
    let certificate = made_certificate();
    let fingerprint = certificate.fingerprint(HashAlgorithm::Shake128).to_string();
    let whitelist = made_whitelist(&whitelist_text("20260101125959", &fingerprint), 0)?;
    verify_manifest(bytes, &certificate, &whitelist, &Blocklist::default(), &MADE.parse().unwrap())
}

#[test]
fn signed_manifests_that_do_not_fit() {
    assert_eq!(
        made_manifest(&letter(&manifest_text("Ayes"), sign_sha1)).unwrap().into_inner().revision,
        7
    );
    assert!(unverified_alternative_paths(&letter(&manifest_text("Ayes"), sign_sha1)).unwrap());
    for (line, message) in [
        (
            "Nother.test.repo",
            "repository name mismatch: the manifest is of \"other.test.repo\" and not made.test.repo",
        ),
        ("Cd41d8cd98f00b204e9800998ecf8427e", "manifest cannot be used"),
        ("R", "manifest cannot be used"),
    ] {
        let error = made_manifest(&letter(&manifest_text(line), sign_sha1)).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    // The certificate of a manifest is only looked up in a text that is whole.
    let mut cut = letter(&manifest_text(""), sign_sha1);
    cut[0] = b'Q';
    assert!(matches!(unverified_certificate_hash(&cut), Err(TrustError::ManifestText)));
    assert!(matches!(unverified_certificate_hash(b""), Err(TrustError::ManifestLetter(_))));
}
