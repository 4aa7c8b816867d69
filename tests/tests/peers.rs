//! With the programs that sites run: nginx as a mirror, Squid as a proxy.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use fixtures::peers::{Authority, Nginx, Squid, Trouble};
use fixtures::publish::{Published, TestRepo};
use tests::{MountSpec, TestMount, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(100);
const FQRN: &str = "peers.test.repo";
/// How long the server is away, as the issue wants it.
const OUTAGE: Duration = Duration::from_secs(60);

fn published() -> Published {
    let mut repo = TestRepo::new(FQRN);
    repo.ttl(1);
    for name in ["/warm", "/cold", "/later", "/poisoned"] {
        repo.file(name, format!("content of {name}").into_bytes());
    }
    repo.publish()
}

fn spec(published: &Published, servers: &str) -> MountSpec {
    MountSpec::new(&client!(), FQRN, servers, &published.public_key()).impatient()
}

fn read(mount: &TestMount, name: &str) -> io::Result<String> {
    std::fs::read_to_string(mount.path(name))
}

fn assert_good(mount: &TestMount, name: &str) {
    assert_eq!(read(mount, name).unwrap(), format!("content of /{name}"));
}

#[test]
fn through_squid_from_nginx_also_where_squid_holds_a_wrong_copy() {
    deadline(LIMIT, || {
        let published = published();
        let nginx = Nginx::serving(published.root()).unwrap();
        let (mut first, mut second) = (Squid::new().unwrap(), Squid::new().unwrap());
        let proxies = format!("{}|{}", first.url(), second.url());
        let mount = spec(&published, &nginx.base(FQRN)).arg("--proxy").arg(&proxies).start();
        assert_good(&mount, "warm");
        nginx.set(Trouble::Garbage, true);
        assert_eq!(read(&mount, "poisoned").unwrap_err().raw_os_error(), Some(libc::EIO));
        nginx.set(Trouble::Garbage, false);
        // Squid may keep the garbage for three days; a request without caches gets around it.
        assert_good(&mount, "poisoned");
        let asked = [first.requests(), second.requests()].concat();
        assert!(
            asked.iter().any(|line| line.contains("_HIT/200")),
            "no wrong copy was held: {asked:#?}"
        );
        // Either proxy alone will do.
        first.kill();
        assert_good(&mount, "cold");
        first.start().unwrap();
        second.kill();
        assert_good(&mount, "later");
        let direct = nginx.requests().iter().filter(|line| line.contains("HTTP/1.1 GET")).count();
        let forwarded = first.requests().len() + second.requests().len();
        assert!(direct <= forwarded, "{direct} requests, {forwarded} of them through a proxy");
    });
}

#[test]
fn over_tls_with_http_2_and_only_with_a_known_authority() {
    deadline(LIMIT, || {
        let published = published();
        let authority = Authority::new();
        let nginx = Nginx::serving_tls(published.root(), &authority).unwrap();
        let bundle = published.root().join("bundle.pem");
        std::fs::write(&bundle, authority.pem()).unwrap();
        let servers = nginx.base(FQRN);
        let trusting = format!("--set=X509_CERT_BUNDLE={}", bundle.display());
        let mount = spec(&published, &servers).arg(trusting).start();
        assert_good(&mount, "cold");
        let requests = nginx.requests();
        assert!(requests.iter().all(|line| line.starts_with("HTTP/2.0 GET 200")), "{requests:?}");
        assert!(requests.len() >= 5, "{requests:?}");
        let failure = spec(&published, &servers).try_start().err().unwrap();
        assert_eq!(failure.code, Some(16), "{failure}");
        assert!(failure.stderr.to_lowercase().contains("certificate"), "{failure}");
    });
}

#[test]
fn the_authorities_of_the_system_are_read_for_https_only() {
    deadline(LIMIT, || {
        let published = published();
        let authority = Authority::new();
        let tls = Nginx::serving_tls(published.root(), &authority).unwrap();
        let plain = Nginx::serving(published.root()).unwrap();
        // Whoever opens it waits for somebody to write.
        let authorities = published.root().join("authorities");
        nix::unistd::mkfifo(&authorities, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let asking = |servers: &str| spec(&published, servers).env("SSL_CERT_FILE", &authorities);
        let mount = asking(&plain.base(FQRN)).start();
        assert_good(&mount, "cold");
        let is_read = || {
            let mut writing = std::fs::OpenOptions::new();
            writing.write(true).custom_flags(libc::O_NONBLOCK).open(&authorities).is_ok()
        };
        assert!(!is_read());
        // This one does wait, and finds nobody to trust.
        let servers = tls.base(FQRN);
        let was_read = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mounting = scope.spawn(|| asking(&servers).try_start().err().unwrap());
            wait_until(LIMIT, "the mount ends", || {
                was_read.fetch_or(is_read(), std::sync::atomic::Ordering::Relaxed);
                mounting.is_finished()
            })
            .unwrap();
            assert_eq!(mounting.join().unwrap().code, Some(16));
        });
        assert!(was_read.into_inner());
    });
}

#[test]
fn a_frozen_mirror_costs_one_timeout() {
    deadline(LIMIT, || {
        let published = published();
        let a = Nginx::serving(published.root()).unwrap();
        let b = Nginx::serving(published.root()).unwrap();
        let mount = spec(&published, &format!("{};{}", a.base(FQRN), b.base(FQRN))).start();
        a.freeze();
        let start = Instant::now();
        assert_good(&mount, "cold");
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        assert_good(&mount, "later");
        a.thaw();
    });
}

#[test]
fn sixty_seconds_without_the_server() {
    deadline(OUTAGE + LIMIT, || {
        let published = published();
        let mut nginx = Nginx::serving(published.root()).unwrap();
        let mount = spec(&published, &nginx.base(FQRN)).start();
        assert_good(&mount, "warm");
        nginx.kill();
        let (start, mut reads, mut slowest) = (Instant::now(), 0_u32, Duration::ZERO);
        while start.elapsed() < OUTAGE {
            let before = Instant::now();
            assert_good(&mount, "warm");
            assert_eq!(read(&mount, "cold").unwrap_err().raw_os_error(), Some(libc::EIO));
            assert_eq!(read(&mount, "none").unwrap_err().raw_os_error(), Some(libc::ENOENT));
            slowest = slowest.max(before.elapsed());
            reads += 1;
        }
        // Refused connections are known at once: T + 1 s at the very most.
        assert!(slowest < Duration::from_secs(3), "{slowest:?}");
        assert!(mount.attribute("user.stale_since").is_some());
        nginx.start().unwrap();
        let back = Instant::now();
        wait_until(Duration::from_secs(1), "recovery", || read(&mount, "cold").is_ok()).unwrap();
        let healed = back.elapsed();
        assert_good(&mount, "cold");
        wait_until(Duration::from_secs(20), "freshness", || {
            mount.attribute("user.stale_since").is_none()
        })
        .unwrap();
        #[allow(clippy::print_stderr, reason = "figures of the test")]
        {
            eprintln!("{reads} rounds, slowest {slowest:?}; cold file {healed:?} after the return");
        }
    });
}

/// As in an empty container: HTTP needs no authority, since every byte is verified anyway.
#[test]
fn without_any_authority_only_https_is_refused() {
    deadline(LIMIT, || {
        let published = published();
        let plain = Nginx::serving(published.root()).unwrap();
        let secure = Nginx::serving_tls(published.root(), &Authority::new()).unwrap();
        let bare = |servers: &str| {
            spec(&published, servers)
                .env("SSL_CERT_FILE", "/nonexistent")
                .env("SSL_CERT_DIR", "/nonexistent")
        };
        assert_good(&bare(&plain.base(FQRN)).start(), "cold");
        let both = format!("{};{}", secure.base(FQRN), plain.base(FQRN));
        assert_good(&bare(&both).start(), "cold");
        let failure = bare(&secure.base(FQRN)).try_start().err().unwrap();
        assert_eq!(failure.code, Some(16), "{failure}");
        for part in ["no certificates of authorities", "X509_CERT_BUNDLE"] {
            assert!(failure.stderr.contains(part), "{failure}");
        }
    });
}
