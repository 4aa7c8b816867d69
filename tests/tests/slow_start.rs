//! A mount whose servers are slow to answer: what is cached and still trusted is shown meanwhile,
//! and only that.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Gate, Rule, TestServer};
use tempfile::TempDir;
use tests::{MountSpec, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(150);
const SOON: Duration = Duration::from_secs(60);
const FQRN: &str = "slow.test.repo";
/// Several times what a mount gives to its servers.
const LONG: Duration = Duration::from_secs(3);

fn repo() -> TestRepo {
    let mut repo = TestRepo::new(FQRN);
    // Nobody would look again by himself.
    repo.ttl(3600);
    repo.file("/f", b"1".to_vec());
    repo
}

/// A server, and a cache that a mount has filled. Servers are waited for longer than the test runs.
fn warm(published: &Published) -> (TestServer, TempDir, MountSpec) {
    let server = TestServer::serving(published.root());
    let cache = tempfile::tempdir().unwrap();
    let spec = MountSpec::published(&client!(), published, &[&server])
        .cache_dir(cache.path())
        .arg("--set=CVMFS_TIMEOUT_DIRECT=600");
    let mount = spec.start();
    assert_eq!(std::fs::read(mount.path("f")).unwrap(), b"1");
    drop(mount);
    (server, cache, spec)
}

/// Holds all letters until the gate is released.
fn hold(server: &TestServer) -> Gate {
    let gate = Gate::new();
    server.rule(Rule::on("*/.cvmfs*").gate(&gate));
    gate
}

#[test]
fn a_warm_mount_does_not_wait_and_catches_up() {
    deadline(LIMIT, || {
        let mut repo = repo();
        let (server, _cache, spec) = warm(&repo.publish());
        repo.file("/f", b"2".to_vec());
        repo.publish();
        let gate = hold(&server);
        let mount = spec.start();
        assert_eq!(mount.revision(), 1);
        assert_eq!(std::fs::read(mount.path("f")).unwrap(), b"1");
        assert!(mount.attribute("user.stale_since").is_some(), "it may be stale, and says so");
        assert!(mount.attribute("user.stale_reason").unwrap().contains("answered yet"));
        gate.release();
        wait_until(SOON, "the new revision", || mount.revision() == 2).unwrap();
        wait_until(SOON, "its content", || std::fs::read(mount.path("f")).unwrap() == b"2")
            .unwrap();
        assert!(mount.attribute("user.stale_since").is_none());
    });
}

#[test]
fn a_warm_mount_of_the_newest_is_confirmed() {
    deadline(LIMIT, || {
        let published = repo().publish();
        let (server, _cache, spec) = warm(&published);
        let gate = hold(&server);
        let mount = spec.start();
        assert!(mount.attribute("user.stale_since").is_some());
        gate.release();
        let is_confirmed = || mount.attribute("user.stale_since").is_none();
        wait_until(SOON, "the confirmation", is_confirmed).unwrap();
        assert_eq!(mount.revision(), 1);
    });
}

/// Tells whether a mount waits for its servers, and ends when it has heard them.
fn waits(server: &TestServer, spec: &MountSpec) -> bool {
    let gate = hold(server);
    let is_mounted = AtomicBool::new(false);
    // The mount would end with the thread that made it.
    std::thread::scope(|scope| {
        let servers = scope.spawn(|| {
            assert!(gate.wait_held(1, SOON), "nobody is asked");
            let mounted = || is_mounted.load(Ordering::SeqCst);
            let waited = wait_until(LONG, "a mount", mounted).is_err();
            gate.release();
            waited
        });
        let mount = spec.start();
        is_mounted.store(true, Ordering::SeqCst);
        assert_eq!(std::fs::read(mount.path("f")).unwrap(), b"1");
        servers.join().unwrap()
    })
}

#[test]
fn servers_are_waited_for_where_the_cache_is_not_enough() {
    deadline(LIMIT, || {
        let expiry = Command::new("date").args(["-u", "-d", "+30days", "+%Y%m%d%H%M%S"]).output();
        let expiry = String::from_utf8(expiry.unwrap().stdout).unwrap();
        let mut repo = repo();
        repo.whitelist_expires(expiry.trim());
        let (server, cache, spec) = warm(&repo.publish());
        assert!(!waits(&server, &spec), "all is here");
        server.clear();
        assert!(waits(&server, &spec.clone().arg("--no-auto-update")), "nobody would look again");
        server.clear();
        repo.whitelist_expires("20460101000000");
        repo.publish();
        let late = spec
            .clone()
            .env("LD_PRELOAD", faketime())
            .env("FAKETIME", "+60d")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        assert!(waits(&server, &late), "the whitelist in the cache has expired");
        server.clear();
        assert!(!waits(&server, &spec), "all is here again");
        server.clear();
        std::fs::remove_dir_all(cache.path().join("v2/objects")).unwrap();
        assert!(waits(&server, &spec), "there is no root catalog");
    });
}

/// The library that makes a program see another time.
fn faketime() -> PathBuf {
    std::fs::read_dir("/usr/lib")
        .unwrap()
        .map(|entry| entry.unwrap().path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
        .expect("libfaketime is missing: apt-get install faketime")
}
