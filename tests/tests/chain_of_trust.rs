//! Each way to break the chain of trust is refused with its own message; a good second server
//! heals it; nothing but the certificate is asked for before the manifest is believed.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use fixtures::publish::keys::{
    ELLIPTIC_CURVE, OTHER_MASTER, OTHER_REPOSITORY, RSA_1024, TWO_CERTIFICATES,
};
use fixtures::publish::{Published, Signature, Suffix, TestRepo};
use fixtures::server::{Rule, TestServer};
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(150);
const CATALOG_FAILURE: i32 = 16;
const FQRN: &str = "chain.test.repo";

fn good() -> TestRepo {
    let mut repo = TestRepo::new(FQRN);
    repo.file("/f", b"content");
    repo
}

fn ls(published: &Published, servers: &[&TestServer], cache: &Path) -> Output {
    let bases: Vec<_> = servers.iter().map(|server| server.base(FQRN)).collect();
    client!()
        .command()
        .args(["ls", "chain.test.repo:/", "--server", &bases.join(";"), "--public-key"])
        .arg(published.public_key())
        .arg("--cache-dir")
        .arg(cache)
        .output()
        .unwrap()
}

type Break = (&'static str, fn(&mut TestRepo), &'static str);

/// How the chain is broken, and the part of the message that names the check.
const BREAKS: [Break; 25] = [
    (
        "no S",
        |r| {
            r.manifest().remove('S');
        },
        "incomplete manifest: no line 'S'",
    ),
    (
        "no X",
        |r| {
            r.manifest().remove('X');
        },
        "incomplete manifest: no line 'X'",
    ),
    (
        "other N",
        |r| {
            r.manifest().replace('N', "other.repo");
        },
        "repository name mismatch",
    ),
    (
        "other R",
        |r| {
            r.manifest().replace('R', "0123456789abcdef0123456789abcdef");
        },
        "catalog root path mismatch",
    ),
    (
        "MD5 in C",
        |r| {
            r.manifest().replace('C', "d41d8cd98f00b204e9800998ecf8427e");
        },
        "manifest line 'C'",
    ),
    (
        "S with letters",
        |r| {
            r.manifest().replace('S', "1x");
        },
        "manifest line 'S'",
    ),
    (
        "other key",
        |r| {
            r.manifest().signed_by(&OTHER_REPOSITORY);
        },
        "bad signature, failed to verify repository manifest",
    ),
    (
        "zero signature",
        |r| {
            r.manifest().signature(Signature::Zeros);
        },
        "bad signature, failed to verify repository manifest",
    ),
    (
        "no signature",
        |r| {
            r.manifest().signature(Signature::Missing);
        },
        "no signature",
    ),
    (
        "signature in the other scheme",
        |r| {
            r.manifest().signature(Signature::OtherScheme);
        },
        "bad signature",
    ),
    (
        "text changed after signing",
        |r| {
            r.manifest().tamper(|bytes| bytes[5] ^= 1);
        },
        "its text was changed or damaged",
    ),
    (
        "garbage",
        |r| {
            r.manifest().tamper(|bytes| *bytes = b"<html>".to_vec());
        },
        "no line with two dashes",
    ),
    (
        "whitelist expired",
        |r| {
            r.whitelist_expires("20200101000000");
        },
        "expired whitelist",
    ),
    (
        "whitelist of another",
        |r| {
            r.whitelist().line(2, "Nother.repo");
        },
        "repository name mismatch on whitelist",
    ),
    (
        "whitelist of another master",
        |r| {
            r.whitelist().signed_by_master(&OTHER_MASTER);
        },
        "invalid whitelist signature",
    ),
    (
        "whitelist in the other scheme",
        |r| {
            r.whitelist().signature(Signature::OtherScheme);
        },
        "invalid whitelist signature",
    ),
    (
        "whitelist text changed",
        |r| {
            r.whitelist().tamper(|bytes| bytes[3] ^= 1);
        },
        "malformed whitelist",
    ),
    (
        "whitelist empty",
        |r| {
            r.whitelist().tamper(Vec::clear);
        },
        "empty whitelist",
    ),
    (
        "whitelist by PKCS#7",
        |r| {
            r.whitelist().insert(3, "Vpkcs7");
        },
        "not supported",
    ),
    (
        "no fingerprint",
        |r| {
            r.fingerprints([""; 0]);
        },
        "certificate not on whitelist",
    ),
    (
        "certificate of an elliptic curve",
        |r| {
            r.identity(&ELLIPTIC_CURVE);
        },
        "bad certificate",
    ),
    (
        "certificate with a short key",
        |r| {
            r.identity(&RSA_1024);
        },
        "at least 2048",
    ),
    (
        "two certificates in one",
        |r| {
            r.identity(&TWO_CERTIFICATES);
        },
        "bad certificate",
    ),
    (
        "catalog with a view",
        |r| {
            r.sql("", "CREATE VIEW v AS SELECT 1");
        },
        "view",
    ),
    (
        "catalog of a foreign schema",
        |r| {
            r.sql("", "UPDATE properties SET value = '9.9' WHERE key = 'schema'");
        },
        "schema 9.9",
    ),
];

/// Objects in a cache.
fn objects(cache: &Path) -> usize {
    let directories = std::fs::read_dir(cache.join("v2/objects")).unwrap();
    directories.map(|fan| std::fs::read_dir(fan.unwrap().path()).unwrap().count()).sum()
}

#[test]
fn each_break_has_its_message() {
    deadline(LIMIT, || {
        for (name, damage, part) in BREAKS {
            let mut repo = good();
            damage(&mut repo);
            let published = repo.publish();
            let server = TestServer::serving(published.root());
            let cache = tempfile::tempdir().unwrap();
            let output = ls(&published, &[&server], cache.path());
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(CATALOG_FAILURE), "{name}: {message}");
            assert!(message.contains(part), "{name}: no {part:?} in {message}");
            assert!(output.stdout.is_empty(), "{name}");
            // Of what the letters lead to, only certificate and root catalog are asked for before
            // they are believed, and nothing is kept.
            let before_trust = !name.starts_with("catalog");
            for request in server.requests() {
                let path = &request.path;
                let first = path.contains("/.cvmfs") || path.ends_with('X') || path.ends_with('C');
                assert!(first || !before_trust, "{name}: asked for {path}");
            }
            if before_trust {
                assert_eq!(objects(cache.path()), 0, "{name}");
            }
        }
    });
}

/// Mirrors that are broken in the letters, or lost objects, do not matter if another is good.
#[test]
fn a_good_second_server_heals_every_break_of_the_first() {
    deadline(LIMIT, || {
        let published = good().publish();
        let fine = TestServer::serving(published.root());
        for (name, damage, _) in BREAKS {
            let mut repo = good();
            damage(&mut repo);
            let broken = repo.publish();
            let server = TestServer::serving(broken.root());
            let cache = tempfile::tempdir().unwrap();
            let output = ls(&published, &[&server, &fine], cache.path());
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            // A signed catalog that cannot be used is the publisher's fault, not the mirror's.
            let healed = !name.starts_with("catalog");
            assert_eq!(output.status.success(), healed, "{name}: {message}");
        }
        for pattern in ["*/.cvmfspublished", "*/.cvmfswhitelist", "*X", "*C"] {
            let server = TestServer::serving(published.root());
            server.rule(Rule::on(pattern).status(404));
            let cache = tempfile::tempdir().unwrap();
            let output = ls(&published, &[&server, &fine], cache.path());
            assert!(
                output.status.success(),
                "{pattern}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    });
}

/// Endless and huge letters end at their caps.
#[test]
fn letters_have_a_size() {
    deadline(LIMIT, || {
        let published = good().publish();
        for path in ["*/.cvmfspublished", "*/.cvmfswhitelist"] {
            for rule in [Rule::on(path).endless(), Rule::on(path).body(vec![b'a'; 2 << 20])] {
                let server = TestServer::serving(published.root());
                server.rule(rule);
                let cache = tempfile::tempdir().unwrap();
                let output = ls(&published, &[&server], cache.path());
                let message = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(output.status.code(), Some(CATALOG_FAILURE), "{message}");
                assert!(message.contains("resource too big to download"), "{message}");
            }
        }
    });
}

/// A root hash is trusted because the user gave it: no letter is asked for.
#[test]
fn a_root_hash_needs_no_letters() {
    deadline(LIMIT, || {
        let published = good().publish();
        let server = TestServer::serving(published.root());
        let cache = tempfile::tempdir().unwrap();
        let output = client!()
            .command()
            .args(["ls", "chain.test.repo:/", "--server", &server.base(FQRN), "--public-key"])
            .arg(published.public_key())
            .arg("--cache-dir")
            .arg(cache.path())
            .args(["--root-hash", &published.root_hash().to_string()])
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"f\n", "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(server.count("*/.cvmfs*"), 0);
        // The object of another kind under its right hash is no catalog.
        let other = published.store_compressed(b"no catalog", Suffix::Catalog).unwrap();
        let output = client!()
            .command()
            .args(["ls", "chain.test.repo:/", "--server", &server.base(FQRN), "--public-key"])
            .arg(published.public_key())
            .args(["--root-hash", &other.hash.to_string()])
            .arg("--cache-dir")
            .arg(cache.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(CATALOG_FAILURE));
    });
}
