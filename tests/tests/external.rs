//! External data (spec/format.md section 18): files that other servers have, under their paths.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::io;
use std::time::Duration;

use fixtures::peers::Nginx;
use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Rule, TestServer};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
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
