//! `mirrors`: servers that are slow, old, wrong or away are found, ranked and named.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::process::{Command, Output};
use std::time::Duration;

use cvmfs_core::mirrors::Survey;
use fixtures::genuine::Genuine;
use fixtures::name_server::NameServer;
use fixtures::peers::{Authority, Nginx, Squid};
use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Network, Rule, TestServer};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use serde_json::Value;
use tempfile::TempDir;
use tests::{client, deadline};

#[path = "mirrors/hostile.rs"]
mod hostile;
#[path = "mirrors/page.rs"]
mod page;
#[path = "mirrors/watch.rs"]
mod watch;

const LIMIT: Duration = Duration::from_secs(200);
const FQRN: &str = "mirrors.test.repo";

/// Seconds from now, as whitelists have it.
fn in_seconds(seconds: i64) -> String {
    let at = format!("{seconds:+} seconds");
    let date = Command::new("date").args(["-u", "-d", &at, "+%Y%m%d%H%M%S"]).output().unwrap();
    String::from_utf8(date.stdout).unwrap().trim().to_owned()
}

/// A repository of which mirrors can be left behind.
struct Origin {
    repo: TestRepo,
    published: Published,
}

impl Origin {
    fn new() -> Self {
        let mut repo = TestRepo::new(FQRN);
        repo.whitelist_expires(&in_seconds(30 * 86_400));
        let mut random = StdRng::seed_from_u64(7);
        for (size, count) in [(2 << 10, 8), (60 << 10, 8), (400 << 10, 3)] {
            for number in 0..count {
                let mut content = vec![0; size];
                random.fill_bytes(&mut content);
                repo.file(format!("/d{}/{size}-{number}", number % 2), content);
            }
        }
        let published = repo.publish();
        Self { repo, published }
    }

    fn publish(&mut self) {
        self.repo.file("/new", b"of a later revision".to_vec());
        self.published = self.repo.publish();
    }

    fn serve(&self) -> TestServer {
        TestServer::serving(self.published.root())
    }

    /// A mirror of what is published now, which does not follow.
    fn snapshot(&self) -> (TempDir, TestServer) {
        let directory = tempfile::tempdir().unwrap();
        let copied = Command::new("cp")
            .arg("-a")
            .arg(format!("{}/.", self.published.root().display()))
            .arg(directory.path())
            .status();
        assert!(copied.unwrap().success());
        let server = TestServer::serving(directory.path());
        (directory, server)
    }

    fn command(&self, servers: &[String]) -> Command {
        let mut command = client!().command();
        command
            .arg("mirrors")
            .arg(FQRN)
            .arg(format!("--servers={}", servers.join(";")))
            .arg("--public-key")
            .arg(self.published.public_key())
            .arg("--set=CVMFS_TIMEOUT=5")
            .arg("--set=CVMFS_TIMEOUT_DIRECT=5")
            .arg("--seed=1");
        command
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(output: &Output) -> Value {
    let line = text(&output.stdout);
    assert_eq!(line.lines().count(), 1, "{line}\n{}", text(&output.stderr));
    serde_json::from_str(&line).unwrap()
}

/// What is said about a server.
#[track_caller]
fn mirror<'v>(survey: &'v Value, server: &str) -> &'v Value {
    let mirrors = survey["mirrors"].as_array().unwrap().iter();
    let mut found = mirrors.filter(|mirror| mirror["server"] == server);
    found.next().unwrap_or_else(|| panic!("no {server} in {survey:#}"))
}

/// Kinds of its faults, each with its severity.
fn faults(mirror: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let faults = mirror["faults"].as_array().unwrap().iter();
    faults.map(|fault| (text(&fault["kind"]), text(&fault["severity"]))).collect()
}

#[track_caller]
fn assert_faults(mirror: &Value, expected: &[(&str, &str)]) {
    let found = faults(mirror);
    let found: Vec<_> = found.iter().map(|(kind, how)| (kind.as_str(), how.as_str())).collect();
    assert_eq!(found, expected, "{mirror:#}");
}

fn genuine_command(genuine: &Genuine, servers: &[String]) -> Command {
    let mut command = client!().command();
    command
        .args(["mirrors", genuine.fqrn(), "--json"])
        .arg(format!("--servers={}", servers.join(";")))
        .arg("--public-key")
        .arg(genuine.public_key());
    command
}

fn is_file_object(path: &str) -> bool {
    path.contains("/data/") && !path.ends_with(['C', 'X', 'H'])
}

#[test]
fn each_mirror_has_its_rank_and_its_faults() {
    deadline(LIMIT, || {
        let mut origin = Origin::new();
        let (_old, stale) = origin.snapshot();
        origin.publish();
        let [near, far, slow, corrupt, away] = [(); 5].map(|()| origin.serve());
        far.rule(Rule::on("*").delay(Duration::from_millis(150)));
        slow.rule(Rule::on("*/data/*").bytes_per_second(100_000));
        corrupt.rule(Rule::when(|request| is_file_object(&request.path)).flip_bit(9));
        away.set_network(Network::Refusing);
        // In a bad order, and one that the servers do not think right either.
        let all = [&corrupt, &away, &stale, &slow, &far, &near];
        for server in all {
            server.rule(Rule::on("*/api/v1.0/geo/*").body("6,5,4,3,2,1\n"));
        }
        let bases: Vec<_> = all.iter().map(|server| server.base(FQRN)).collect();
        let page = tempfile::tempdir().unwrap();
        let page = page.path().join("mirrors.html");
        let output = origin.command(&bases).args(["--json", "--html"]).arg(&page).output().unwrap();
        // It takes long enough to be told about, in lines since nobody watches.
        let told = text(&output.stderr);
        assert!(told.contains("received ") && told.contains("at a time"), "{told}");
        let survey = json(&output);
        let ranked = |server: &TestServer| mirror(&survey, &server.base(FQRN))["rank"].as_u64();
        let ranks: Vec<_> = [&near, &far, &slow, &stale, &corrupt, &away]
            .map(ranked)
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(ranks, [1, 2, 3, 4, 5, 6], "{survey:#}");
        for (server, expected) in [
            (&near, &[][..]),
            (&far, &[]),
            (&slow, &[]),
            (&stale, &[("stale", "problem")]),
            (&corrupt, &[("corrupt", "problem")]),
            (&away, &[("unreachable", "problem")]),
        ] {
            assert_faults(mirror(&survey, &server.base(FQRN)), expected);
        }
        // Unreachable 1, stale 2, corrupt 4.
        assert_eq!(output.status.code(), Some(64 + 7));
        let of = |server: &TestServer, pointer: &str| {
            let mirror = mirror(&survey, &server.base(FQRN));
            mirror.pointer(pointer).unwrap_or_else(|| panic!("{pointer} in {mirror:#}")).clone()
        };
        assert_eq!(survey["newest"]["revision"], 2);
        assert_eq!(of(&stale, "/letters/revision"), 1);
        assert_eq!(of(&stale, "/lag/revisions"), 1);
        let first_byte = "/ways/0/connection/first_byte_ms";
        assert!(of(&far, first_byte).as_f64() > Some(149.0));
        assert!(of(&near, first_byte).as_f64() < of(&far, first_byte).as_f64());
        assert!(of(&corrupt, "/ways/0/objects/corrupt").as_u64() > Some(5));
        assert!(!of(&corrupt, "/faults/0/message").as_str().unwrap().contains("caches"));
        // What was printed can be read back as what a harness has.
        let read: Survey = serde_json::from_value(survey.clone()).unwrap();
        assert_eq!(read.ranked()[0].server, near.base(FQRN));
        assert_eq!(of(&corrupt, "/ways/0/objects/root_catalog"), "verified");
        assert!(of(&near, "/ways/0/objects/verified").as_u64() > Some(20));
        let rates = of(&slow, "/ways/0/throughput");
        let alone = rates
            .as_array()
            .unwrap()
            .iter()
            .find(|figure| figure["class"] == "medium" && figure["parallel"] == 1);
        let rate = alone.and_then(|figure| figure["rate"].as_f64()).unwrap();
        assert!((30_000.0..110_000.0).contains(&rate), "{rate}");
        let told = &survey["geo"]["answers"][0]["order"];
        assert!(told.is_array() && survey["geo"]["pairs"] == 10, "{:#}", survey["geo"]);
        let measured = survey["geo"]["measured"].as_array().unwrap();
        assert_eq!(measured.last().unwrap(), 4, "far is the last one that answers");
        self::page::check(&page, &["corrupt", "stale", "unreachable"], 6);
    });
}

#[test]
fn table_and_csv_say_the_same() {
    deadline(LIMIT, || {
        let origin = Origin::new();
        let [good, bad] = [(); 2].map(|()| origin.serve());
        // Control characters of a server must not reach the terminal.
        bad.rule(Rule::on("*/.cvmfspublished").body(b"C\x1b[31mred\n".to_vec()));
        let servers = [good.base(FQRN), bad.base(FQRN)];
        let table = origin.command(&servers).output().unwrap();
        let shown = text(&table.stdout);
        assert_eq!(text(&table.stderr), "");
        assert_eq!(table.status.code(), Some(64 + 4), "{shown}");
        for part in [
            "revision 1",
            "2 mirrors asked",
            "1ST BYTE",
            "small x6",
            "Order of servers: none of them tells one",
            "PROBLEM",
            "untrusted",
        ] {
            assert!(shown.contains(part), "no {part:?} in {shown}");
        }
        assert!(!shown.contains('\u{1b}'), "{shown}");
        let csv = origin.command(&servers).args(["--csv", "--fail-on=stale"]).output().unwrap();
        assert_eq!(csv.status.code(), Some(0));
        let csv = text(&csv.stdout);
        let lines: Vec<Vec<&str>> =
            csv.trim_end().split("\r\n").map(|line| line.split(',').collect()).collect();
        assert_eq!(lines.len(), 3, "{csv}");
        let column = |name: &str| lines[0].iter().position(|other| *other == name).unwrap();
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{csv}");
        let of = |line: usize, name: &str| lines[line][column(name)];
        assert_eq!((of(1, "server"), of(1, "rank"), of(1, "faults")), (&*servers[0], "1", ""));
        assert_eq!((of(2, "server"), of(2, "faults")), (&*servers[1], "untrusted"));
        assert_eq!((of(1, "revision"), of(2, "revision")), ("1", ""));
        assert!(of(1, "small_x6").parse::<f64>().unwrap() > 0.0, "{csv}");
        assert!(of(1, "first_byte_ms").parse::<f64>().unwrap() > 0.0, "{csv}");
    });
}

#[test]
fn whitelists_and_missing_things() {
    deadline(LIMIT, || {
        let mut origin = Origin::new();
        let good = origin.serve();
        let mut snapshot_with = |expires: i64| {
            origin.repo.whitelist_expires(&in_seconds(expires));
            origin.published = origin.repo.publish_letters().unwrap();
            origin.snapshot()
        };
        let (_expired, expired) = snapshot_with(-7200);
        let (_expiring, expiring) = snapshot_with(3 * 3600);
        snapshot_with(30 * 86_400);
        let missing = origin.serve();
        missing.rule(Rule::when(|request| is_file_object(&request.path)).status(404));
        let rootless = origin.serve();
        rootless.rule(Rule::when(|request| request.path.ends_with('C')).status(404));
        let failing = origin.serve();
        failing.rule(Rule::when(|request| is_file_object(&request.path)).status(503));
        let absent = TestServer::empty();
        let closing = origin.serve();
        closing.rule(Rule::on("*").with_header("Connection", "close"));
        let late = origin.serve();
        late.rule(Rule::on("*").with_header("Date", "Wed, 01 Jan 2020 00:00:00 GMT"));
        let all =
            [&good, &expired, &expiring, &missing, &rootless, &failing, &absent, &closing, &late];
        let bases: Vec<_> = all.iter().map(|server| server.base(FQRN)).collect();
        let output = origin.command(&bases).args(["--json", "--light"]).output().unwrap();
        let survey = json(&output);
        for (server, expected) in [
            (&good, &[][..]),
            (&expired, &[("whitelist-expired", "problem")]),
            (&expiring, &[("whitelist-expiring", "problem")]),
            (&missing, &[("missing", "problem")]),
            (&rootless, &[("missing", "problem")]),
            (&failing, &[("failing", "problem")]),
            (&absent, &[("absent", "problem")]),
            (&closing, &[("no-keep-alive", "warning")]),
            (&late, &[("clock", "warning")]),
        ] {
            assert_faults(mirror(&survey, &server.base(FQRN)), expected);
        }
        assert_eq!(output.status.code(), Some(64 + 1 + 4 + 8));
        // Nothing is wrong with three of them.
        assert!(mirror(&survey, &good.base(FQRN))["rank"].as_u64() <= Some(3), "{survey:#}");
        assert_eq!(
            mirror(&survey, &good.base(FQRN))["ways"][0]["throughput"],
            serde_json::json!([])
        );
        // What is tolerated is no finding.
        let output = origin
            .command(&[expiring.base(FQRN), closing.base(FQRN)])
            .args(["--json", "--light", "--min-whitelist=1h"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{:#}", json(&output));
    });
}

#[test]
fn by_every_proxy_and_directly() {
    deadline(LIMIT, || {
        let origin = Origin::new();
        let server = origin.serve();
        let (good, broken, away) = (TestServer::empty(), TestServer::empty(), TestServer::empty());
        // As a cache with a damaged copy does, until it is asked for a fresh one.
        broken.rule(
            Rule::when(|request| {
                is_file_object(&request.path) && request.header("Cache-Control").is_none()
            })
            .flip_bit(3),
        );
        away.set_network(Network::Refusing);
        let proxies = format!("{}|{};{};DIRECT", good.url(), broken.url(), away.url());
        let output = origin
            .command(&[server.base(FQRN)])
            .args(["--json", "--light", "--proxy", &proxies])
            .output()
            .unwrap();
        let survey = json(&output);
        let mirror = mirror(&survey, &server.base(FQRN));
        let ways: Vec<_> = mirror["ways"].as_array().unwrap().iter().map(|w| &w["proxy"]).collect();
        assert_eq!(ways, [&*good.url(), &*broken.url(), &*away.url(), "DIRECT"]);
        assert_faults(mirror, &[("corrupt", "problem"), ("unreachable", "problem")]);
        assert_eq!(mirror["faults"][0]["way"], *broken.url());
        let message = mirror["faults"][0]["message"].as_str().unwrap();
        assert!(message.contains("one on the way has a damaged copy"), "{message}");
        assert_eq!(mirror["faults"][1]["way"], *away.url());
        let address = |way: usize| &mirror["ways"][way]["connection"]["address"];
        assert_eq!(*address(0), *good.address().to_string());
        assert_eq!(*address(3), *server.address().to_string());
        assert!(good.count("*/.cvmfspublished") >= 3 && broken.count("*/data/*") >= 3);
    });
}

#[test]
fn a_proxy_gets_its_password_and_nobody_else() {
    deadline(LIMIT, || {
        let origin = Origin::new();
        let (server, proxy) = (origin.serve(), TestServer::empty());
        let address = proxy.url().replace("http://", "http://user:sesame@");
        let page = origin.published.root().join("page.html");
        let output = origin
            .command(&[server.base(FQRN)])
            .args(["--json", "--light", "--proxy", &address, "--html"])
            .arg(&page)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let asked = proxy.requests();
        // user:sesame
        let is_known = |value: Option<&str>| value == Some("Basic dXNlcjpzZXNhbWU=");
        assert!(asked.iter().all(|request| is_known(request.header("Proxy-Authorization"))));
        assert!(asked.len() > 8, "{asked:?}");
        let told = server.requests();
        assert!(told.iter().all(|request| request.header("Proxy-Authorization").is_none()));
        let html = std::fs::read_to_string(&page).unwrap();
        for shown in [text(&output.stdout), text(&output.stderr), html] {
            assert!(!shown.contains("sesame"), "{shown}");
        }
    });
}

#[test]
fn names_take_time_or_are_not_known() {
    deadline(LIMIT, || {
        let origin = Origin::new();
        let (server, names) = (origin.serve(), NameServer::start());
        names.set("mirror.test", &["127.0.0.1"]);
        let base = |name: &str| format!("http://{name}:{}/{FQRN}", server.address().port());
        let servers = [base("mirror.test"), base("nowhere.test")];
        let output = origin
            .command(&servers)
            .args(["--json", "--light"])
            .arg(format!("--set=CVMFS_DNS_SERVER={}", names.address()))
            .output()
            .unwrap();
        let survey = json(&output);
        let known = mirror(&survey, &servers[0]);
        assert_faults(known, &[]);
        assert!(known["ways"][0]["connection"]["dns_ms"].as_f64() > Some(0.0), "{known:#}");
        let unknown = mirror(&survey, &servers[1]);
        assert_faults(unknown, &[("unreachable", "problem")]);
        let message = unknown["faults"][0]["message"].as_str().unwrap();
        assert!(message.contains("nowhere.test has no address"), "{message}");
        assert_eq!(output.status.code(), Some(64 + 1));
    });
}

#[test]
fn over_tls_with_http_2_also_through_a_proxy() {
    deadline(LIMIT, || {
        let origin = Origin::new();
        let authority = Authority::new();
        let nginx = Nginx::serving_tls(origin.published.root(), &authority).unwrap();
        let plain = Nginx::serving(origin.published.root()).unwrap();
        let squid = Squid::new().unwrap();
        let bundle = origin.published.root().join("bundle.pem");
        std::fs::write(&bundle, authority.pem()).unwrap();
        let servers = [nginx.base(FQRN), plain.base(FQRN)];
        let output = origin
            .command(&servers)
            .arg("--json")
            .arg(format!("--set=X509_CERT_BUNDLE={}", bundle.display()))
            .arg(format!("--proxy={};DIRECT", squid.url()))
            .output()
            .unwrap();
        let survey = json(&output);
        assert_eq!(output.status.code(), Some(0), "{survey:#}");
        let connection = |server: usize, way: usize| {
            &mirror(&survey, &servers[server])["ways"][way]["connection"]
        };
        for way in [0, 1] {
            assert_eq!(connection(0, way)["protocol"], "HTTP/2", "{survey:#}");
            assert!(connection(0, way)["tls_ms"].as_f64() > Some(0.0), "{survey:#}");
            assert_eq!(connection(1, way)["protocol"], "HTTP/1.1", "{survey:#}");
            assert!(connection(1, way)["tls_ms"].is_null(), "{survey:#}");
            assert_eq!(connection(0, way)["keep_alive"], true);
        }
        let asked = nginx.requests();
        assert!(asked.iter().all(|line| line.starts_with("HTTP/2.0 GET")), "{asked:?}");
        assert!(squid.requests().iter().any(|line| line.contains("CONNECT")));
        // Nobody vouches for it, or for anybody at all: plain HTTP needs nobody.
        let output = origin
            .command(&servers)
            .args(["--json", "--light"])
            .env("SSL_CERT_FILE", "/nonexistent")
            .env("SSL_CERT_DIR", "/nonexistent")
            .output()
            .unwrap();
        let survey = json(&output);
        assert_faults(mirror(&survey, &servers[0]), &[("unreachable", "problem")]);
        let message = mirror(&survey, &servers[0])["faults"][0]["message"].as_str().unwrap();
        assert!(message.to_lowercase().contains("certificate"), "{message}");
        assert_faults(mirror(&survey, &servers[1]), &[]);
    });
}

#[test]
fn servers_are_not_asked_for_more_than_was_allowed() {
    deadline(LIMIT, || {
        let origin = Origin::new();
        for (requests, bytes) in [(20, 200_000), (60, 1_500_000)] {
            let servers = [(); 2].map(|()| origin.serve());
            let bases = servers.each_ref().map(|server| server.base(FQRN));
            let output = origin
                .command(&bases)
                .arg("--json")
                .arg(format!("--max-requests={requests}"))
                .arg(format!("--max-bytes={bytes}"))
                .output()
                .unwrap();
            let survey = json(&output);
            for server in servers {
                let asked = server.requests().len();
                let sent = server.bytes_sent();
                let told = mirror(&survey, &server.base(FQRN));
                assert_eq!(told["requests"], asked, "{told:#}");
                assert!(asked <= requests && asked > 8, "{asked} of {requests}");
                // Heads of answers are not counted.
                let heads = 300 * u64::try_from(asked).unwrap();
                assert!(sent <= bytes + heads, "{sent} of {bytes}");
                assert_faults(told, &[]);
                assert!(told["ways"][0]["objects"]["verified"].as_u64() > Some(1), "{told:#}");
            }
        }
    });
}

#[test]
fn what_cannot_be_asked() {
    deadline(LIMIT, || {
        let origin = Origin::new();
        let run = |arguments: &[&str]| {
            let output = client!().command().arg("mirrors").args(arguments).output().unwrap();
            (output.status.code(), text(&output.stderr))
        };
        let key = origin.published.public_key();
        let key = format!("--public-key={}", key.display());
        for (arguments, code, part) in [
            (&["mirrors.test.repo"][..], 2, "no server is known"),
            (&["--server=http://a/x"], 2, "needs the name of a repository"),
            (&[FQRN, "--server=http://127.0.0.1:9", &key, "--watch=1s"], 2, "at least 5 s"),
            (&[FQRN, "--server=http://127.0.0.1:9", &key, "--max-bytes=many"], 2, "no size"),
            (
                &[FQRN, "--server=http://127.0.0.1:9", &key, "--html=/nonexistent/page"],
                1,
                "/nonexistent/page",
            ),
        ] {
            let (found, stderr) = run(arguments);
            assert_eq!(found, Some(code), "{arguments:?}: {stderr}");
            assert!(stderr.contains(part), "{arguments:?}: {stderr}");
        }
    });
}

#[test]
fn a_genuine_repository_also_from_a_directory() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let directory = format!("file://{}/@fqrn@", genuine.dir().display());
        let servers = [format!("{}/@fqrn@", server.url()), directory.clone()];
        let output = genuine_command(&genuine, &servers).output().unwrap();
        let survey = json(&output);
        assert_eq!(output.status.code(), Some(0), "{survey:#}");
        for base in [server.base(genuine.fqrn()), directory.replace("@fqrn@", genuine.fqrn())] {
            let mirror = mirror(&survey, &base);
            assert_faults(mirror, &[]);
            let objects = &mirror["ways"][0]["objects"];
            assert!(objects["verified"].as_u64() > Some(10), "{mirror:#}");
        }
        assert!(survey["mirrors"][1]["ways"][0]["connection"].is_null());
    });
}

#[test]
fn a_domain_stands_for_a_repository_that_its_servers_have() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new("cvmfs-config.cern.ch");
        repo.whitelist_expires(&in_seconds(30 * 86_400));
        repo.file("/etc/cvmfs/default.conf", b"CVMFS_X=y\n".to_vec());
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let output = client!()
            .command()
            .args(["mirrors", "cern.ch", "cvmfs-config.cern.ch", "--json", "--light"])
            .arg(format!("--server={}/@fqrn@", server.url()))
            .arg("--public-key")
            .arg(published.public_key())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let shown = text(&output.stdout);
        let surveys: Vec<Value> =
            shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let names: Vec<_> = surveys.iter().map(|survey| &survey["fqrn"]).collect();
        assert_eq!(names, ["cvmfs-config.cern.ch"; 2]);
    });
}

#[test]
fn a_user_without_a_home_and_a_cache() {
    deadline(LIMIT, || {
        let origin = Origin::new();
        let server = origin.serve();
        let stage = tempfile::tempdir().unwrap();
        let script = "chmod 755 . && cp \"$CLIENT\" client && cp \"$KEY\" key && \
            exec setpriv --reuid 65534 --regid 65534 --clear-groups env -i TMPDIR=/nonexistent \
            timeout 60 ./client mirrors \"$FQRN\" --server \"$SERVER\" --public-key key --light --json";
        let output = Command::new("sh")
            .args(["-c", script])
            .current_dir(stage.path())
            .env("CLIENT", client!().command().get_program())
            .env("KEY", origin.published.public_key())
            .env("FQRN", FQRN)
            .env("SERVER", server.base(FQRN))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert_faults(mirror(&json(&output), &server.base(FQRN)), &[]);
    });
}
