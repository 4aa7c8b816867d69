//! Genuine repositories, mounted for real, look exactly as the genuine client shows them.

use std::collections::BTreeSet;
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::server::{LoggedRequest, TestServer};
use tests::walk::assert_equal;
use tests::{MountSpec, client, deadline};

const LIMIT: Duration = Duration::from_secs(90);

/// Mounts the revision in place with an empty cache, and compares.
fn check(genuine: &Genuine) {
    deadline(LIMIT, || {
        let server = TestServer::serving(genuine.dir());
        let mount = MountSpec::genuine(&client!(), genuine, &server).start();
        assert_equal(&genuine.truth(), mount.root());
        let status = mount.unmount();
        assert!(status.success(), "unmounted, the client ended with {status}");
    });
}

fn check_small(revision: u64) {
    let mut small = Genuine::small();
    small.set_revision(revision);
    check(&small);
}

#[test]
fn small_revision_2() {
    check_small(2);
}

#[test]
fn small_revision_3() {
    check_small(3);
}

#[test]
fn small_revision_4() {
    check_small(4);
}

#[test]
fn shake128() {
    check(&Genuine::shake());
}

#[test]
fn ripemd160() {
    check(&Genuine::rmd());
}

#[test]
fn uncompressed() {
    check(&Genuine::none());
}

#[test]
fn garbage_collectable() {
    check(&Genuine::gc());
}

fn paths(requests: Vec<LoggedRequest>) -> BTreeSet<String> {
    requests.into_iter().map(|request| request.path).collect()
}

/// What was read once is in the cache: of this mount, and of the next one.
#[test]
fn nothing_is_downloaded_twice() {
    deadline(LIMIT, || {
        let small = Genuine::small();
        let truth = small.truth();
        let server = TestServer::serving(small.dir());
        let cache = tempfile::tempdir().unwrap();
        let spec = MountSpec::genuine(&client!(), &small, &server).cache_dir(cache.path());

        let mount = spec.start();
        assert_equal(&truth, mount.root());
        let first = server.requests();
        let objects: Vec<_> = first.iter().filter(|r| r.path.contains("/data/")).collect();
        assert_eq!(
            objects.len(),
            paths(objects.into_iter().cloned().collect()).len(),
            "asked twice"
        );
        server.reset_log();
        assert_equal(&truth, mount.root());
        assert_eq!(paths(server.requests()), BTreeSet::new(), "second walk");
        assert!(mount.unmount().success());

        let mount = spec.start();
        assert_equal(&truth, mount.root());
        let signed = ["/small.test.repo/.cvmfspublished", "/small.test.repo/.cvmfswhitelist"];
        assert_eq!(paths(server.requests()), BTreeSet::from(signed.map(str::to_owned)), "remount");
    });
}

/// Tags of the history database lead to the older revisions, also when a newer one is published.
#[test]
fn tags_show_older_revisions() {
    deadline(LIMIT, || {
        let small = Genuine::small();
        let server = TestServer::serving(small.dir());
        let cache = tempfile::tempdir().unwrap();
        for (tag, revision) in [("first", 2), ("second", 3), ("third", 4)] {
            let mount = MountSpec::genuine(&client!(), &small, &server)
                .cache_dir(cache.path())
                .arg("--tag")
                .arg(tag)
                .start();
            assert_equal(&small.truth_of(revision), mount.root());
        }
    });
}
