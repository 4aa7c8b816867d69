//! Servers, proxies, catalogs and clocks that fail for a while (facts/behaviours.md section 3.1):
//! who is asked in which order, what is readable meanwhile, and that it heals.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fixtures::peers::Nginx;
use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Network, Rule, TestServer};
use tests::{MountSpec, TestMount, client, deadline};

const LIMIT: Duration = Duration::from_secs(100);
const SEEN: Duration = Duration::from_secs(20);
const FQRN: &str = "outages.test.repo";

fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    tests::wait_until(SEEN, what, condition).unwrap();
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn repo() -> TestRepo {
    let mut repo = TestRepo::new(FQRN);
    repo.ttl(1);
    repo.file("/warm", b"warm".to_vec());
    repo.file("/cold", b"cold".to_vec());
    repo.file("/nested/f", b"below".to_vec());
    repo.nested("/nested");
    repo
}

fn spec(published: &Published, servers: &[&TestServer]) -> MountSpec {
    MountSpec::published(&client!(), published, servers).impatient()
}

fn pattern(published: &Published, path: &str) -> String {
    let object = published.object_path(&published.file_object(path).unwrap());
    format!("*/{}", object.file_name().unwrap().to_str().unwrap())
}

#[test]
fn without_network_what_is_known_works_and_the_rest_is_an_error_not_absent() {
    deadline(LIMIT, || {
        let published = repo().publish();
        let server = TestServer::serving(published.root());
        let cache = tempfile::tempdir().unwrap();
        let spec = spec(&published, &[&server]).cache_dir(cache.path());
        let check = |mount: &TestMount| {
            assert_eq!(std::fs::read(mount.path("warm")).unwrap(), b"warm");
            assert_eq!(errno(std::fs::read(mount.path("cold"))), Some(libc::EIO));
            assert_eq!(errno(std::fs::metadata(mount.path("missing"))), Some(libc::ENOENT));
            // Its catalog was never seen: nobody knows what is in there.
            assert!(std::fs::metadata(mount.path("nested")).is_ok());
            assert_eq!(errno(std::fs::metadata(mount.path("nested/f"))), Some(libc::EIO));
            assert_eq!(errno(std::fs::read(mount.path("nested/none"))), Some(libc::EIO));
            assert_eq!(errno(list(&mount.path("nested"))), Some(libc::EIO));
        };
        {
            let mount = spec.start();
            assert_eq!(std::fs::read(mount.path("warm")).unwrap(), b"warm");
            server.set_network(Network::Refusing);
            check(&mount);
        }
        let mount = spec.start();
        check(&mount);
        server.set_network(Network::Up);
        let heals = |what: &str, condition: &dyn Fn() -> bool| {
            tests::wait_until(Duration::from_secs(1), what, condition).unwrap();
        };
        heals("cold file", &|| std::fs::read(mount.path("cold")).is_ok());
        heals("nested catalog", &|| std::fs::read(mount.path("nested/f")).is_ok());
        assert_eq!(errno(std::fs::read(mount.path("nested/none"))), Some(libc::ENOENT));
        wait_until("freshness", || mount.attribute("user.stale_since").is_none());
    });
}

#[test]
fn an_unreachable_nested_catalog_hides_only_what_is_below() {
    deadline(LIMIT, || {
        let published = repo().publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &[&server]).start();
        let catalog = published.object_path(&published.catalog_object("/nested").unwrap());
        let catalog = format!("*/{}", catalog.file_name().unwrap().to_str().unwrap());
        server.rule(Rule::on(&*catalog).status(404));
        assert!(std::fs::metadata(mount.path("nested")).is_ok());
        assert_eq!(errno(list(&mount.path("nested"))), Some(libc::EIO));
        assert_eq!(errno(std::fs::read(mount.path("nested/f"))), Some(libc::EIO));
        assert_eq!(errno(std::fs::metadata(mount.path("nested/none"))), Some(libc::EIO));
        assert_eq!(std::fs::read(mount.path("cold")).unwrap(), b"cold");
        server.clear();
        wait_until("healing", || std::fs::read(mount.path("nested/f")).is_ok());
        assert_eq!(errno(std::fs::metadata(mount.path("nested/none"))), Some(libc::ENOENT));
    });
}

/// Which host each proxy was asked for, in the order of the requests for `pattern`.
fn asked(proxies: &[TestServer], hosts: &[TestServer], pattern: &str) -> Vec<(usize, usize)> {
    let mut all = Vec::new();
    for (number, proxy) in proxies.iter().enumerate() {
        for request in proxy.requests() {
            let host = hosts.iter().position(|host| {
                request.header("host") == Some(host.address().to_string().as_str())
            });
            if request.path.ends_with(pattern.trim_start_matches('*')) {
                all.push((request.at, number, host.expect("only hosts of the list are asked")));
            }
        }
    }
    all.sort();
    all.into_iter().map(|(_, proxy, host)| (proxy, host)).collect()
}

#[test]
fn proxies_are_tried_by_group_for_each_host_and_no_more_often_than_that() {
    deadline(LIMIT, || {
        let published = repo().publish();
        let hosts = [(); 2].map(|()| TestServer::serving(published.root()));
        let proxies = [(); 4].map(|()| TestServer::empty());
        let url = |number: usize| proxies[number].url();
        let list = format!("{}|{};{}|{}", url(0), url(1), url(2), url(3));
        let cold = pattern(&published, "/cold");
        let faults: [fn(Rule) -> Rule; 3] =
            [|r| r.status(403), Rule::close, |r| r.delay(Duration::from_secs(30))];
        for fault in faults {
            let mount = spec(&published, &[&hosts[0], &hosts[1]]).arg("--proxy").arg(&list).start();
            proxies.iter().for_each(|proxy| {
                proxy.reset_log();
                proxy.rule(fault(Rule::on(&*cold)));
            });
            let start = Instant::now();
            assert_eq!(errno(std::fs::read(mount.path("cold"))), Some(libc::EIO));
            let bound = Duration::from_secs(3) * 8;
            assert!(start.elapsed() < bound, "{:?}", start.elapsed());
            let order = asked(&proxies, &hosts, &cold);
            // (R + 1) x P x H, R = 0.
            assert!(order.len() <= 8, "{order:?}");
            let groups: Vec<_> = order.iter().map(|(proxy, host)| (*host, proxy / 2)).collect();
            let sorted = [(0, 0), (0, 0), (0, 1), (0, 1), (1, 0), (1, 0), (1, 1), (1, 1)];
            assert_eq!(groups, sorted, "{order:?}");
            let mut pairs = order.clone();
            pairs.sort_unstable();
            pairs.dedup();
            assert_eq!(pairs.len(), 8, "each pair once: {order:?}");
            proxies.iter().for_each(TestServer::clear);
            assert_eq!(std::fs::read(mount.path("cold")).unwrap(), b"cold");
        }
    });
}

#[test]
fn the_first_path_is_used_again_after_the_reset_time() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new(FQRN);
        for number in 0..400 {
            repo.file(format!("/{number}"), number.to_string().into_bytes());
        }
        let published = repo.publish();
        let hosts = [(); 2].map(|()| TestServer::serving(published.root()));
        let proxies = [(); 2].map(|()| TestServer::empty());
        let mount = spec(&published, &[&hosts[0], &hosts[1]])
            .arg(format!("--proxy={};{}", proxies[0].url(), proxies[1].url()))
            .arg("--set=CVMFS_HOST_RESET_AFTER=3")
            .arg("--set=CVMFS_PROXY_RESET_AFTER=3")
            .start();
        let mut next = 0..400;
        let mut read = || {
            let number = next.next().expect("there are enough files");
            let content = std::fs::read(mount.path(number.to_string())).unwrap();
            assert_eq!(content, number.to_string().into_bytes());
        };
        proxies[0].set_network(Network::Refusing);
        hosts[0].rule(Rule::on("*").status(500));
        read();
        let broken = Instant::now();
        proxies[0].set_network(Network::Up);
        hosts[0].clear();
        let before = (proxies[0].requests().len(), hosts[0].requests().len());
        read();
        assert!(
            broken.elapsed() > Duration::from_secs(2)
                || (proxies[0].requests().len(), hosts[0].requests().len()) == before
        );
        tests::wait_until(SEEN, "the return to the first path", || {
            #[allow(clippy::disallowed_methods, reason = "spares files; the return is waited for")]
            std::thread::sleep(Duration::from_millis(100));
            read();
            proxies[0].requests().len() > before.0 && hosts[0].requests().len() > before.1
        })
        .unwrap();
        assert!(broken.elapsed() < Duration::from_secs(10), "{:?}", broken.elapsed());
    });
}

#[test]
fn a_revision_that_cannot_be_loaded_whole_is_not_switched_to() {
    deadline(LIMIT, || {
        type Damage = fn(&Published, &TestServer);
        let damages: [Damage; 2] = [
            |published, server| {
                let root = published.object_path(&published.catalog_object("").unwrap());
                let name = root.file_name().unwrap().to_str().unwrap().to_owned();
                server.rule(Rule::on(format!("*/{name}")).status(404));
            },
            |_, _| (),
        ];
        for (number, damage) in damages.into_iter().enumerate() {
            let mut repo = repo();
            let published = repo.publish();
            let server = TestServer::serving(published.root());
            let mount = spec(&published, &[&server]).start();
            repo.file("/warm", b"new".to_vec());
            if number == 1 {
                // Signed and hashed as it should be, and no catalog at all.
                repo.sql("", "ALTER TABLE catalog RENAME TO no_catalog");
            }
            let broken = {
                // The server is away while the rule for what is published is not yet in place.
                server.set_network(Network::Refusing);
                let broken = repo.publish();
                damage(&broken, &server);
                server.set_network(Network::Up);
                broken
            };
            server.reset_log();
            assert!(server.wait_for("*/.cvmfspublished", 2, SEEN));
            wait_until("the refusal", || {
                mount.attribute("user.stale_reason").is_some_and(|why| !why.contains("refused"))
            });
            assert_eq!(mount.attribute("user.revision").unwrap(), "1");
            assert_eq!(std::fs::read(mount.path("warm")).unwrap(), b"warm");
            assert_eq!(std::fs::read(mount.path("nested/f")).unwrap(), b"below");
            let _ = broken;
            server.clear();
            repo.repair();
            repo.file("/warm", b"newer".to_vec());
            repo.publish();
            wait_until("the next revision", || {
                std::fs::read(mount.path("warm")).is_ok_and(|content| content == b"newer")
            });
        }
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

fn in_time(spec: &MountSpec, time: &str) -> MountSpec {
    spec.clone()
        .env("LD_PRELOAD", faketime())
        .env("FAKETIME", time)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
}

#[test]
fn a_clock_that_is_wrong_by_months() {
    deadline(LIMIT, || {
        let expiry = Command::new("date").args(["-u", "-d", "+30days", "+%Y%m%d%H%M%S"]).output();
        let expiry = String::from_utf8(expiry.unwrap().stdout).unwrap();
        let mut repo = repo();
        repo.whitelist_expires(expiry.trim());
        let published = repo.publish();
        // It tells the time, as real servers do.
        let server = Nginx::serving(published.root()).unwrap();
        let cache = tempfile::tempdir().unwrap();
        let key = published.public_key();
        let spec =
            MountSpec::new(&client!(), FQRN, &server.base(FQRN), &key).cache_dir(cache.path());
        // Long before: nothing has expired.
        let early = in_time(&spec, "-60d").start();
        assert_eq!(std::fs::read(early.path("warm")).unwrap(), b"warm");
        assert!(early.log().contains("clock"), "no warning: {}", early.log());
        drop(early);
        // Past the expiry: what is in the cache, and nothing new.
        repo.file("/warm", b"new".to_vec());
        repo.publish();
        let late = in_time(&spec, "+45d").start();
        assert_eq!(std::fs::read(late.path("warm")).unwrap(), b"warm");
        assert!(late.attribute("user.stale_reason").unwrap().contains("expired whitelist"));
        assert!(late.log().contains("clock"), "no word about the clock: {}", late.log());
        drop(late);
        let mount = spec.start();
        wait_until("the new revision", || std::fs::read(mount.path("warm")).unwrap() == b"new");
    });
}

/// Opening a directory asks nobody; reading it does.
fn list(path: &Path) -> std::io::Result<Vec<std::fs::DirEntry>> {
    std::fs::read_dir(path)?.collect()
}
