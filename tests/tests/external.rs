//! External data (spec/format.md section 18): files that other servers have, under their paths.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::io;
use std::time::{Duration, Instant};

use fixtures::peers::Nginx;
use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Rule, TestServer};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use tests::walk::get_xattr;
use tests::{MountSpec, TestMount, client, deadline};

const LIMIT: Duration = Duration::from_secs(60);
const FQRN: &str = "external.test.repo";
const ODD_NAME: &str = "odd name?%41=\u{e9}";
const CHUNK: u64 = 64 * 1024;

fn chunked() -> Vec<u8> {
    let mut bytes = vec![0; 5 * 64 * 1024 + 17];
    StdRng::seed_from_u64(7).fill_bytes(&mut bytes);
    bytes
}

fn published() -> Published {
    let mut repo = TestRepo::new(FQRN);
    repo.file("/inside", b"inside".to_vec());
    repo.file("/dir/whole", b"from elsewhere".to_vec()).external();
    repo.file(format!("/dir/{ODD_NAME}"), b"odd".to_vec()).external();
    repo.file("/dir/wrong", b"right bytes".to_vec()).external();
    repo.file("/dir/chunked", chunked()).external().chunked(CHUNK);
    repo.publish()
}

fn mount(published: &Published, server: &TestServer, external: &[&str]) -> TestMount {
    let mut spec = MountSpec::published(&client!(), published, &[server]).impatient();
    if !external.is_empty() {
        spec = spec.arg(format!("--set=CVMFS_EXTERNAL_URL={}", external.join(";")));
    }
    spec.start()
}

fn elsewhere(base: &str) -> String {
    format!("{base}/external/{FQRN}")
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn files_come_from_the_external_servers_and_are_checked() {
    deadline(LIMIT, || {
        let published = published();
        let server = TestServer::serving(published.root());
        let [a, b] = [(); 2].map(|()| TestServer::serving(published.root()));
        let urls = [elsewhere(&a.url()), elsewhere(&b.url())];
        let mount = mount(&published, &server, &[&urls[0], &urls[1]]);
        assert_eq!(std::fs::read(mount.path("inside")).unwrap(), b"inside");
        assert_eq!(std::fs::read(mount.path("dir/whole")).unwrap(), b"from elsewhere");
        assert_eq!((a.requests().len(), b.requests().len()), (1, 0));
        assert_eq!(server.count("*/external/*"), 0);
        let where_it_is = |name: &str| get_xattr(&mount.path(name), b"user.external_url");
        assert_eq!(
            where_it_is("dir/whole").unwrap(),
            format!("{}/dir/whole", urls[0]).into_bytes()
        );
        assert_eq!(where_it_is("inside").unwrap_err().raw_os_error(), Some(libc::ENODATA));

        // One server's damaged copy is made good by the other; with both damaged it is EIO.
        a.rule(Rule::on("*/dir/wrong").flip_bit(3));
        let both = b.rule(Rule::on("*/dir/wrong").flip_bit(3));
        assert_eq!(errno(std::fs::read(mount.path("dir/wrong"))), Some(libc::EIO));
        b.remove(both);
        assert_eq!(std::fs::read(mount.path("dir/wrong")).unwrap(), b"right bytes");
    });
}

#[test]
fn chunks_are_asked_for_as_ranges() {
    deadline(LIMIT, || {
        let published = published();
        let server = TestServer::serving(published.root());
        let nginx = Nginx::serving(published.root()).unwrap();
        let base = nginx.base(FQRN);
        let base = base.strip_suffix(&format!("/{FQRN}")).unwrap();
        // The first one cannot send ranges, and must not be believed to send chunks.
        let unable = TestServer::serving(published.root());
        let urls = [elsewhere(&unable.url()), elsewhere(base)];
        let mount = mount(&published, &server, &[&urls[0], &urls[1]]);
        assert_eq!(std::fs::read(mount.path("dir/chunked")).unwrap(), chunked());
        let odd = format!("dir/{ODD_NAME}");
        assert_eq!(std::fs::read(mount.path(odd)).unwrap(), b"odd");
        let asked = unable.requests();
        let first = asked.first().unwrap();
        assert_eq!(first.header("range"), Some("bytes=0-65535"));
        let ranges = nginx.requests();
        let partial = ranges.iter().filter(|line| line.contains("GET 206")).count();
        assert_eq!(partial, 6, "{ranges:?}");
    });
}

#[test]
fn external_servers_have_proxies_of_their_own() {
    deadline(LIMIT, || {
        let published = published();
        let server = TestServer::serving(published.root());
        let (proxy, far) = (TestServer::empty(), TestServer::serving(published.root()));
        proxy.map_host("far.test", &far);
        let mount = MountSpec::published(&client!(), &published, &[&server])
            .impatient()
            .arg(format!("--set=CVMFS_EXTERNAL_URL={}", elsewhere("http://far.test")))
            .arg(format!("--set=CVMFS_EXTERNAL_HTTP_PROXY={}", proxy.url()))
            .start();
        assert_eq!(std::fs::read(mount.path("inside")).unwrap(), b"inside");
        assert_eq!(std::fs::read(mount.path("dir/whole")).unwrap(), b"from elsewhere");
        assert_eq!(proxy.requests().len(), 1);
        assert_eq!(proxy.requests()[0].proxied_authority(), Some("far.test"));
    });
}

#[test]
fn auto_asks_the_script_about_the_external_servers() {
    deadline(LIMIT, || {
        let published = published();
        let server = TestServer::serving(published.root());
        let (proxy, far) = (TestServer::empty(), TestServer::serving(published.root()));
        proxy.map_host("far.test", &far);
        let site = TestServer::empty();
        site.rule(Rule::on("/wpad.dat").body(format!(
            "function FindProxyForURL(url, host) {{ \
             return host == 'far.test' ? 'PROXY {}' : 'PROXY 127.0.0.1:9'; }}",
            proxy.address()
        )));
        let auto = |external: &str| {
            MountSpec::published(&client!(), &published, &[&server])
                .impatient()
                .arg("--set=CVMFS_EXTERNAL_HTTP_PROXY=auto")
                .arg(format!("--set=CVMFS_PAC_URLS={}/wpad.dat", site.url()))
                .arg(external)
        };
        let url = format!("--set=CVMFS_EXTERNAL_URL={}", elsewhere("http://far.test"));
        let mount = auto(&url).start();
        assert_eq!(std::fs::read(mount.path("dir/whole")).unwrap(), b"from elsewhere");
        assert_eq!(proxy.requests().len(), 1);
        // Without external servers nobody needs the script, and its absence ends no mount.
        site.clear();
        auto("--set=CVMFS_EXTERNAL_MAX_SERVERS=0").start();
    });
}

#[test]
fn the_nearest_external_server_is_used_and_no_more_than_wanted() {
    deadline(LIMIT, || {
        let published = published();
        let server = TestServer::serving(published.root());
        let [a, b] = [(); 2].map(|()| TestServer::serving(published.root()));
        server.rule(Rule::on("*/api/v1.0/geo/*").body("2,1\n"));
        let mount = MountSpec::published(&client!(), &published, &[&server])
            .impatient()
            .arg(format!(
                "--set=CVMFS_EXTERNAL_URL={};{}",
                elsewhere(&a.url()),
                elsewhere(&b.url())
            ))
            .arg("--set=CVMFS_USE_GEOAPI=yes")
            .arg("--set=CVMFS_EXTERNAL_MAX_SERVERS=1")
            .start();
        assert_eq!(std::fs::read(mount.path("dir/whole")).unwrap(), b"from elsewhere");
        b.rule(Rule::on("*").status(503));
        assert_eq!(errno(std::fs::read(mount.path("dir/wrong"))), Some(libc::EIO));
        assert_eq!(a.requests().len(), 0);
        assert!(b.requests().len() >= 2);
    });
}

#[test]
fn external_servers_have_a_time_limit_of_their_own() {
    deadline(LIMIT, || {
        let published = published();
        let server = TestServer::serving(published.root());
        let far = TestServer::serving(published.root());
        far.rule(Rule::on("*/dir/whole").stall_after(0));
        let mount = MountSpec::published(&client!(), &published, &[&server])
            .arg("--set=CVMFS_TIMEOUT_DIRECT=30")
            .arg("--set=CVMFS_MAX_RETRIES=0")
            .arg("--set=CVMFS_EXTERNAL_TIMEOUT_DIRECT=1")
            .arg(format!("--set=CVMFS_EXTERNAL_URL={}", elsewhere(&far.url())))
            .start();
        let start = Instant::now();
        assert_eq!(errno(std::fs::read(mount.path("dir/whole"))), Some(libc::EIO));
        // The regular limit would be 30 s.
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    });
}

#[test]
fn cat_prints_external_chunks() {
    deadline(LIMIT, || {
        let published = published();
        let server = TestServer::serving(published.root());
        let cache = tempfile::tempdir().unwrap();
        let printed = client!()
            .command()
            .args(["cat", "--server", &server.base(FQRN), "--public-key"])
            .arg(published.public_key())
            .arg("--cache-dir")
            .arg(cache.path())
            .arg(format!("--set=CVMFS_EXTERNAL_URL=file://{}", published.external_root().display()))
            .arg(format!("{FQRN}:/dir/chunked"))
            .output()
            .unwrap();
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        assert_eq!(printed.stdout, chunked());
    });
}

#[test]
fn chunks_come_from_files_too() {
    deadline(LIMIT, || {
        let published = published();
        let server = TestServer::serving(published.root());
        let url = format!("file://{}", published.external_root().display());
        let mount = mount(&published, &server, &[&url]);
        assert_eq!(std::fs::read(mount.path("dir/chunked")).unwrap(), chunked());
        assert_eq!(std::fs::read(mount.path("dir/whole")).unwrap(), b"from elsewhere");
    });
}

#[test]
fn without_a_server_the_log_says_what_to_set() {
    deadline(LIMIT, || {
        let published = published();
        let server = TestServer::serving(published.root());
        let mount = mount(&published, &server, &[]);
        assert_eq!(errno(std::fs::read(mount.path("dir/whole"))), Some(libc::EIO));
        assert_eq!(std::fs::metadata(mount.path("dir/whole")).unwrap().len(), 14);
        let log = mount.log();
        assert!(log.contains("CVMFS_EXTERNAL_URL"), "{log}");
    });
}
