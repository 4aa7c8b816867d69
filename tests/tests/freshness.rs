//! Rollback, freeze, fast-forward and replay (facts/behaviours.md section 3.2): what is accepted
//! only ever gets newer, under keys that are trusted now.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::time::Duration;

use fixtures::publish::{Published, Signature, TestRepo, keys};
use fixtures::server::{Network, Rule, TestServer};
use tempfile::TempDir;
use tests::{MountSpec, client, deadline};

const LIMIT: Duration = Duration::from_secs(100);
const SEEN: Duration = Duration::from_secs(20);
const FQRN: &str = "fresh.test.repo";
const MANIFEST: &str = "*/.cvmfspublished";

fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    tests::wait_until(SEEN, what, condition).unwrap();
}

fn spec(published: &Published, servers: &[&TestServer]) -> MountSpec {
    MountSpec::published(&client!(), published, servers).impatient()
}

/// One server, and a cache that outlives mounts.
fn with_cache(published: &Published) -> (TestServer, TempDir, MountSpec) {
    let server = TestServer::serving(published.root());
    let cache = tempfile::tempdir().unwrap();
    let spec = spec(published, &[&server]).cache_dir(cache.path());
    (server, cache, spec)
}

fn repo() -> TestRepo {
    let mut repo = TestRepo::new(FQRN);
    repo.ttl(1);
    repo.file("/f", b"1".to_vec());
    repo
}

fn publish(repo: &mut TestRepo, content: &str) -> Published {
    repo.file("/f", content.as_bytes().to_vec());
    repo.publish()
}

/// Serves these letters instead of those of the directory.
fn serve_letters(server: &TestServer, of: &Published) {
    server.rule(Rule::on(MANIFEST).body(of.manifest_bytes()));
    server.rule(Rule::on("*/.cvmfswhitelist").body(of.whitelist_bytes()));
}

/// Waits until the client has looked at the manifest often enough (up to two requests for a look)
/// to have done all that follows one look.
fn wait_for_looks(server: &TestServer) {
    let seen = server.count(MANIFEST);
    assert!(server.wait_for(MANIFEST, seen + 3, SEEN));
}

#[test]
fn an_older_manifest_is_refused_while_mounted_and_after_a_restart() {
    deadline(LIMIT, || {
        let mut repo = repo();
        let old = repo.publish();
        let new = publish(&mut repo, "2");
        let (server, _cache, spec) = with_cache(&new);
        {
            let mount = spec.start();
            assert_eq!(mount.revision(), 2);
            serve_letters(&server, &old);
            wait_until("the refusal", || mount.attribute("user.stale_since").is_some());
            assert!(mount.attribute("user.stale_reason").unwrap().contains("outdated manifest"));
            let looks = server.count(MANIFEST);
            wait_for_looks(&server);
            assert!(server.count(MANIFEST) <= looks + 6, "no hammering");
            assert_eq!(mount.revision(), 2);
            assert_eq!(std::fs::read(mount.path("f")).unwrap(), b"2");
        }
        let mount = spec.start();
        assert_eq!(mount.revision(), 2);
        assert!(mount.attribute("user.stale_since").is_some());
        server.clear();
        wait_until("the cure", || mount.attribute("user.stale_since").is_none());
    });
}

#[test]
fn with_an_empty_cache_the_newest_of_all_servers_wins_or_the_user_says_how_old_it_may_be() {
    deadline(LIMIT, || {
        let mut repo = repo();
        let old = repo.publish();
        let new = publish(&mut repo, "2");
        let [a, b, c] = [(); 3].map(|()| TestServer::serving(new.root()));
        serve_letters(&a, &old);
        serve_letters(&b, &old);
        let mount = spec(&new, &[&a, &b, &c]).start();
        assert_eq!(mount.revision(), 2);
        // Alone, an old one cannot be told from the newest.
        assert_eq!(spec(&new, &[&a]).start().revision(), 1);
        let failure = spec(&new, &[&a]).arg("--min-revision=2").try_start().err().unwrap();
        assert_eq!(failure.code, Some(16), "{failure}");
        assert!(failure.stderr.contains("outdated manifest"), "{failure}");
    });
}

#[test]
fn a_mirror_that_is_behind_still_serves_objects() {
    deadline(LIMIT, || {
        let mut repo = repo();
        repo.file("/cold", b"cold".to_vec());
        let old = repo.publish();
        let new = publish(&mut repo, "2");
        let (a, b) = (TestServer::serving(new.root()), TestServer::serving(new.root()));
        serve_letters(&b, &old);
        let mount = spec(&new, &[&a, &b]).start();
        assert_eq!(mount.revision(), 2);
        a.set_network(Network::Refusing);
        assert_eq!(std::fs::read(mount.path("cold")).unwrap(), b"cold");
        wait_for_looks(&b);
        assert_eq!(mount.revision(), 2);
    });
}

#[test]
fn forged_numbers_are_not_believed() {
    deadline(LIMIT, || {
        let mut repo = repo();
        let (_server, _cache, spec) = with_cache(&repo.publish());
        let mount = spec.start();
        // The mounted root hash with a number from the future, and nobody's signature.
        repo.manifest().replace('S', "999999").signature(Signature::Zeros);
        repo.publish();
        wait_until("the refusal", || {
            mount.attribute("user.stale_reason").is_some_and(|why| why.contains("bad signature"))
        });
        assert_eq!(mount.revision(), 1);
        repo.repair();
        repo.revision(3);
        publish(&mut repo, "3");
        wait_until("the genuine one", || mount.revision() == 3);
        drop(mount);
        assert_eq!(spec.start().revision(), 3);
    });
}

#[test]
fn a_revoked_key_loses_its_revisions() {
    deadline(LIMIT, || {
        let mut repo = repo();
        let (_server, _cache, spec) = with_cache(&repo.publish());
        let mount = spec.start();
        // Whoever has the key jumps ahead.
        repo.revision(1 << 62);
        publish(&mut repo, "stolen");
        wait_until("the stolen revision", || mount.revision() == 1 << 62);
        // The owners take another key; the new whitelist names only that one.
        repo.identity(&keys::OTHER_REPOSITORY);
        repo.revision(7);
        publish(&mut repo, "7");
        wait_until("the revision under the new key", || mount.revision() == 7);
        wait_until("its content", || std::fs::read(mount.path("f")).unwrap() == b"7");
        drop(mount);
        assert_eq!(spec.start().revision(), 7);
    });
}

#[test]
fn a_number_used_twice_changes_nothing() {
    deadline(LIMIT, || {
        let mut repo = repo();
        repo.revision(5);
        let first = repo.publish();
        let server = TestServer::serving(first.root());
        let mount = spec(&first, &[&server]).start();
        repo.revision(5);
        publish(&mut repo, "other");
        wait_until("the refusal", || mount.attribute("user.stale_since").is_some());
        assert!(mount.attribute("user.stale_reason").unwrap().contains("second time"));
        assert_eq!(std::fs::read(mount.path("f")).unwrap(), b"1");
        publish(&mut repo, "6");
        wait_until("the next number", || mount.revision() == 6);
    });
}

#[test]
fn an_expired_whitelist_is_noticed_although_nothing_changes() {
    deadline(LIMIT, || {
        let mut repo = repo();
        let good = repo.publish();
        let (server, _cache, spec) = with_cache(&good);
        drop(spec.start());
        repo.whitelist_expires("20200101000000");
        repo.publish();
        // Mounted from what was accepted in its time; nothing new is accepted.
        let mount = spec.start();
        assert_eq!(mount.revision(), 1);
        assert!(mount.attribute("user.stale_reason").unwrap().contains("expired whitelist"));
        assert_eq!(std::fs::read(mount.path("f")).unwrap(), b"1");
        // Without that, there is nothing to trust.
        let bases = server.base(FQRN);
        let fresh = MountSpec::new(&client!(), FQRN, &bases, &good.public_key());
        assert_eq!(fresh.try_start().err().unwrap().code, Some(16));
        repo.repair();
        publish(&mut repo, "3");
        wait_until("a valid whitelist", || mount.revision() == 3);
        assert_eq!(mount.attribute("user.stale_since"), None);
    });
}
