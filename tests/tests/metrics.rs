//! The endpoint for monitoring, and its page in a real browser.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::server::TestServer;
use tests::{MountSpec, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(150);

/// An endpoint; it ends with this value.
struct Endpoint {
    process: Child,
    address: String,
}

impl Endpoint {
    fn start() -> Self {
        let mut command = client!().command();
        command.args(["metrics", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap();
        Self { address: address.trim_end_matches('/').to_owned(), process }
    }

    fn connect(&self) -> TcpStream {
        let peer = TcpStream::connect(&self.address).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        peer
    }

    fn get(&self, path: &str) -> (String, String) {
        let mut peer = self.connect();
        write!(peer, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut reply = String::new();
        peer.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_endpoint_tells_of_all_mounts_whatever_peers_do() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let mount = MountSpec::genuine(&client!(), &genuine, &server).start();
        std::fs::read(mount.root().join("hello.txt")).unwrap();
        let endpoint = Endpoint::start();
        let at =
            format!("{{repository=\"small.test.repo\",mountpoint=\"{}\"}}", mount.root().display());
        let value = |page: &str, name: &str| {
            let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name}{at} ")));
            line.unwrap_or_else(|| panic!("no {name}{at} in {page}")).parse::<f64>().unwrap()
        };
        let (head, page) = endpoint.get("/metrics");
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("openmetrics-text"), "{head}");
        assert!((value(&page, "cvmfs_fuse_revision") - 4.0).abs() < 0.5);
        assert!(value(&page, "cvmfs_fuse_downloads_total") >= 1.0);
        assert!(value(&page, "cvmfs_fuse_received_bytes_total") > 1000.0);
        assert!(page.ends_with("# EOF\n"));
        assert!(endpoint.get("/nothing").0.starts_with("HTTP/1.1 404"));
        // Silent peers, more than there are places for, and one that sends nonsense.
        let silent: Vec<_> = (0..40).map(|_| endpoint.connect()).collect();
        endpoint.connect().write_all(&[b'x'; 100_000]).unwrap_or(());
        assert!(endpoint.get("/metrics").0.starts_with("HTTP/1.1 200"));
        drop(silent);
        let json: serde_json::Value =
            serde_json::from_str(&endpoint.get("/status.json").1).unwrap();
        let names: Vec<_> = json.as_array().unwrap().iter().map(|one| &one["repository"]).collect();
        assert!(names.contains(&&"small.test.repo".into()), "{json}");
        let once = client!().command().arg("metrics").output().unwrap();
        assert!(String::from_utf8(once.stdout).unwrap().contains(&at));
    });
}

#[test]
fn a_browser_shows_the_page() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let mount = MountSpec::genuine(&client!(), &genuine, &server).start();
        std::fs::read(mount.root().join("hello.txt")).unwrap();
        let endpoint = Endpoint::start();
        let (head, source) = endpoint.get("/");
        assert!(head.contains("default-src 'none'"), "{head}");
        for outside in ["http:", "https:", "src=", "@import"] {
            let allowed = source.replace("http://www.w3.org/2000/svg", "");
            assert!(!allowed.contains(outside), "{outside} in the page");
        }
        let profile = tempfile::tempdir().unwrap();
        let output = Command::new("timeout")
            .args(["--kill-after=5", "90", "chromium", "--headless", "--no-sandbox"])
            .args(["--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--virtual-time-budget=7000", "--dump-dom"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("http://{}/", endpoint.address))
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(shown.contains(">small.test.repo</td>"), "{shown} {errors}");
        assert!(shown.contains("<polyline points="), "{shown}");
        assert!(!shown.contains(">no answer"), "{shown}");
    });
}

/// A line for InfluxDB: measurement, tags, fields, time.
fn influx(line: &str) -> (&str, Vec<&str>, BTreeMap<&str, f64>, u64) {
    let words: Vec<_> = line.split(' ').collect();
    let [series, fields, time] = words[..] else { panic!("{line}") };
    let mut series = series.split(',');
    let fields = fields.split(',').map(|field| field.split_once('=').unwrap());
    let fields = fields.map(|(name, value)| (name, value.parse().unwrap())).collect();
    (series.next().unwrap(), series.collect(), fields, time.parse().unwrap())
}

#[test]
fn figures_arrive_as_influx_lines() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let port = receiver.local_addr().unwrap().port();
        let mount = MountSpec::genuine(&client!(), &genuine, &server)
            .without_prefetch()
            .arg("--set=CVMFS_TELEMETRY_SEND=ON")
            // Five is the least.
            .arg("--set=CVMFS_TELEMETRY_RATE=1")
            .arg("--set=CVMFS_INFLUX_HOST=127.0.0.1")
            .arg(format!("--set=CVMFS_INFLUX_PORT={port}"))
            .arg("--set=CVMFS_INFLUX_METRIC_NAME=node7")
            .arg("--set=CVMFS_INFLUX_EXTRA_TAGS=site=here,rack=3")
            .arg("--set=CVMFS_INFLUX_EXTRA_FIELDS=cores=64")
            .start();
        let mut buffer = vec![0; 65536];
        let mut next = || {
            let length = receiver.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        let text = next();
        assert!(text.ends_with('\n') && text.lines().count() == 1, "{text}");
        let (name, tags, first, began) = influx(text.trim_end());
        assert_eq!(name, "node7_absolute");
        assert_eq!(tags, ["repo=small.test.repo", "site=here", "rack=3"]);
        assert_eq!((first["cvmfs.revision"], first["cores"]), (4.0, 64.0));
        assert!(!first.contains_key("cache.n_damaged"), "what is 0 is not told: {text}");
        // Between two datagrams.
        std::fs::read(mount.root().join("hello.txt")).unwrap();
        let text = next();
        let lines: Vec<_> = text.lines().map(influx).collect();
        let [(_, _, now, _), (name, tags, change, time)] = &lines[..] else { panic!("{text}") };
        assert_eq!(*name, "node7_delta");
        assert_eq!(*tags, ["repo=small.test.repo", "site=here", "rack=3"]);
        assert!(!change.contains_key("cores"), "{text}");
        let downloads = "download.n_downloads";
        assert!(change[downloads] >= 1.0, "{text}");
        assert_eq!(now[downloads] - first[downloads], change[downloads], "{text}");
        assert_eq!(change["cvmfs.revision"], 0.0);
        assert!(time - began > 4_000_000_000, "no more often than every 5 s: {began} {time}");
        assert!(mount.unmount().success());
    });
}

#[test]
fn a_receiver_that_is_gone_disturbs_no_mount() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        // A name server that says nothing, and a port at which nobody listens.
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let spec = || {
            MountSpec::genuine(&client!(), &genuine, &server)
                .arg("--set=CVMFS_TELEMETRY_SEND=yes")
                .arg("--set=CVMFS_TELEMETRY_RATE=5")
                .arg("--set=CVMFS_INFLUX_METRIC_NAME=x")
                .arg(format!("--set=CVMFS_INFLUX_PORT={nobody}"))
        };
        let lost = spec()
            .arg("--set=CVMFS_INFLUX_HOST=influx.example.org")
            .arg(format!("--set=CVMFS_DNS_SERVER={}", silent.local_addr().unwrap()))
            .arg("--set=CVMFS_DNS_TIMEOUT=1")
            .start();
        let dead = spec().arg("--set=CVMFS_INFLUX_HOST=127.0.0.1").start();
        let incomplete = spec().start();
        for (mount, words) in
            [(&incomplete, "no telemetry is sent"), (&lost, "telemetry cannot be sent")]
        {
            let is_said = || mount.log().contains(words);
            wait_until(Duration::from_secs(60), words, is_said).unwrap();
        }
        for mount in [lost, dead, incomplete] {
            assert!(!std::fs::read(mount.root().join("hello.txt")).unwrap().is_empty());
            assert!(mount.unmount().success());
        }
    });
}
