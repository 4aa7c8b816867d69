//! Proxies and servers that are found: by name, by script, by distance.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::time::Duration;

use fixtures::name_server::NameServer;
use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Network, Rule, TestServer};
use tests::{MountSpec, TestMount, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(100);
const SEEN: Duration = Duration::from_secs(20);
const FQRN: &str = "finding.test.repo";

fn published() -> Published {
    let mut repo = TestRepo::new(FQRN);
    for number in 0..200 {
        repo.file(format!("/{number}"), number.to_string().into_bytes());
    }
    repo.publish()
}

fn spec(published: &Published, servers: &[&TestServer]) -> MountSpec {
    MountSpec::published(&client!(), published, servers).impatient()
}

/// Reads the next file that nobody has read.
fn read_next(mount: &TestMount, number: &mut u32) {
    let content = std::fs::read(mount.path(number.to_string())).unwrap();
    assert_eq!(content, number.to_string().into_bytes());
    *number += 1;
}

#[test]
fn a_proxy_that_moves_is_followed_and_a_dead_name_server_stops_nothing() {
    deadline(LIMIT, || {
        let published = published();
        let server = TestServer::serving(published.root());
        let proxy = TestServer::empty();
        let names = NameServer::start();
        // Nobody listens there.
        names.set("proxy.test", &["127.0.0.7"]);
        let port = proxy.address().port();
        let mount = spec(&published, &[&server])
            .arg(format!("--proxy=http://proxy.test:{port};DIRECT"))
            .arg(format!("--set=CVMFS_DNS_SERVER={}", names.address()))
            .arg("--set=CVMFS_DNS_MIN_TTL=1")
            .arg("--set=CVMFS_DNS_TIMEOUT=1")
            .arg("--set=CVMFS_PROXY_RESET_AFTER=1")
            .start();
        let mut number = 0;
        read_next(&mount, &mut number);
        assert_eq!(proxy.requests().len(), 0);
        assert!(mount.attribute("user.proxy_list").unwrap().contains("127.0.0.7"));
        names.set("proxy.test", &["127.0.0.1"]);
        let mut pause_and_read = || {
            #[allow(clippy::disallowed_methods, reason = "spares files; a request is waited for")]
            std::thread::sleep(Duration::from_millis(100));
            read_next(&mount, &mut number);
        };
        wait_until(SEEN, "request by the new address", || {
            pause_and_read();
            !proxy.requests().is_empty()
        })
        .unwrap();
        assert_eq!(mount.attribute("user.proxy").unwrap(), format!("http://127.0.0.1:{port}"));
        names.set_silent(true);
        let asked = names.questions();
        // Long enough for the address to be too old more than once.
        wait_until(SEEN, "questions to the dead name server", || {
            let before = proxy.requests().len();
            pause_and_read();
            assert!(proxy.requests().len() > before, "the proxy was left");
            names.questions() >= asked + 4
        })
        .unwrap();
    });
}

#[test]
fn auto_takes_the_proxy_of_a_script_and_remembers_it() {
    deadline(LIMIT, || {
        let published = published();
        let server = TestServer::serving(published.root());
        let (proxy, site) = (TestServer::empty(), TestServer::empty());
        let script = format!(
            "function FindProxyForURL(url, host) {{ \
             if (isInNet(dnsResolve(host), '127.0.0.0', '255.0.0.0')) return 'PROXY {}; DIRECT'; \
             return 'PROXY 127.0.0.1:9'; }}",
            proxy.address()
        );
        site.rule(Rule::on("/wpad.dat").body(script));
        let cache = tempfile::tempdir().unwrap();
        let auto = |published: &Published| {
            spec(published, &[&server])
                .arg("--proxy=auto")
                .arg(format!("--set=CVMFS_PAC_URLS={}/wpad.dat", site.url()))
        };
        let through_proxy = |mount: TestMount| {
            assert_eq!(
                mount.attribute("user.proxy").unwrap(),
                format!("http://{}", proxy.address())
            );
            assert!(!proxy.requests().is_empty());
        };
        through_proxy(auto(&published).cache_dir(cache.path()).start());
        site.set_network(Network::Refusing);
        through_proxy(auto(&published).cache_dir(cache.path()).start());
        let failure = auto(&published).try_start().err().unwrap();
        assert_eq!(failure.code, Some(23), "{failure}");
        assert!(failure.stderr.contains("CVMFS_PAC_URLS"), "{failure}");
        // The environment counts for auto, before any script, and for nothing else.
        let variable = format!("http://{}", proxy.address());
        through_proxy(auto(&published).env("http_proxy", &variable).start());
        let direct = spec(&published, &[&server]).env("http_proxy", &variable).start();
        assert_eq!(direct.attribute("user.proxy").unwrap(), "DIRECT");
    });
}

#[test]
fn the_nearest_server_is_asked_first() {
    deadline(LIMIT, || {
        let published = published();
        let [a, b, c] = [(); 3].map(|()| TestServer::serving(published.root()));
        let all = [&a, &b, &c];
        for server in all {
            server.rule(Rule::on("*/api/v1.0/geo/*").body("3, 1,2\n"));
        }
        let geo = || spec(&published, &all).arg("--set=CVMFS_USE_GEOAPI=yes");
        let list = |mount: &TestMount| mount.attribute("user.host_list").unwrap();
        let of = |servers: &[&TestServer]| {
            servers.iter().map(|server| server.base(FQRN)).collect::<Vec<_>>().join(";")
        };
        assert_eq!(list(&geo().start()), of(&[&c, &a, &b]));
        assert_eq!(list(&geo().arg("--set=CVMFS_MAX_SERVERS=2").start()), of(&[&c, &a]));
        let asked = |server: &TestServer, part: &str| {
            server.requests().iter().any(|request| request.path.contains(part))
        };
        let sites = geo().arg("--set=CVMFS_PROXY_TEMPLATE=my.site").start();
        assert!(
            all.iter().any(|server| asked(server, "/geo/my.site/127.0.0.1,127.0.0.1,127.0.0.1"))
        );
        drop(sites);
        // Nobody knows: the time tells.
        for server in all {
            server.clear();
        }
        a.rule(Rule::on("*/.cvmfspublished").delay(Duration::from_millis(400)));
        c.rule(Rule::on("*/.cvmfspublished").delay(Duration::from_millis(200)));
        assert_eq!(list(&geo().start()), of(&[&b, &c, &a]));
        // Servers that are not to be used are asked for nothing.
        for server in all {
            server.clear();
            server.reset_log();
        }
        let first = spec(&published, &all).arg("--set=CVMFS_MAX_SERVERS=1").start();
        assert_eq!(list(&first), of(&[&a]));
        assert_eq!((b.requests().len(), c.requests().len()), (0, 0));
        // By itself, nothing is asked and nothing is changed.
        for server in all {
            server.clear();
            server.reset_log();
        }
        assert_eq!(list(&spec(&published, &all).start()), of(&[&a, &b, &c]));
        assert!(!all.iter().any(|server| asked(server, "/geo/")));
    });
}
