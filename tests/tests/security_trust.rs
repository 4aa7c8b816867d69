//! Trust over time, as a user of the program meets it.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::path::Path;
use std::time::Duration;

use fixtures::publish::{Published, TestRepo};
use fixtures::server::TestServer;
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(120);
const FQRN: &str = "trust.test.repo";

/// Lists the repository; returns what was said if that failed.
fn ls(published: &Published, server: &TestServer, cache: &Path) -> Result<(), String> {
    let output = client!()
        .command()
        .args(["ls", &format!("{FQRN}:/"), "--server", &server.base(FQRN), "--public-key"])
        .arg(published.public_key())
        .arg("--cache-dir")
        .arg(cache)
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The attacker answers with what was signed before the certificate was revoked.
#[test]
fn m2_a_revoked_certificate_does_not_come_back_with_an_older_whitelist() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        repo.file("/f", b"x".to_vec());
        let before = repo.publish();
        let server = TestServer::serving(before.root());
        let cache = tempfile::tempdir().unwrap();
        ls(&before, &server, cache.path()).unwrap();
        repo.whitelist_created("20250101000000").fingerprints([""; 0]).publish();
        let message = ls(&before, &server, cache.path()).unwrap_err();
        assert!(message.contains("certificate not on whitelist"), "{message}");
        before.restore_letters().unwrap();
        let message = ls(&before, &server, cache.path()).unwrap_err();
        assert!(message.contains("certificate not on whitelist"), "{message}");
        // Who never saw the newer one has no way to know.
        ls(&before, &server, tempfile::tempdir().unwrap().path()).unwrap();
    });
}

/// The newer one is void by now, and the older one is not.
#[test]
fn m2_an_older_whitelist_is_refused_though_the_newer_one_is_void() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        repo.file("/f", b"x".to_vec());
        let before = repo.publish();
        let server = TestServer::serving(before.root());
        let cache = tempfile::tempdir().unwrap();
        repo.whitelist_created("20250101000000").whitelist_expires("20250201000000").publish();
        let message = ls(&before, &server, cache.path()).unwrap_err();
        assert!(message.contains("expired whitelist"), "{message}");
        before.restore_letters().unwrap();
        let message = ls(&before, &server, cache.path()).unwrap_err();
        assert!(message.contains("outdated whitelist: created at 2023-11-14"), "{message}");
    });
}
