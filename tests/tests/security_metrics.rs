//! Attacks on the endpoint for monitoring: pages of other sites, peers without a token, prepared sockets.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, lchown, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tests::site::shown;
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(100);

/// An endpoint; it ends with this value.
struct Endpoint {
    process: Child,
    address: String,
}

impl Endpoint {
    fn start(words: &[&str]) -> Self {
        Self::of(client!().command(), words)
    }

    fn of(mut command: Command, words: &[&str]) -> Self {
        command.args(["metrics", "--listen"]).args(words).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap();
        Self {
            address: address.trim_start_matches("http://").trim_end_matches('/').to_owned(),
            process,
        }
    }

    /// Sends a head, and returns what comes back.
    fn send(&self, head: &str) -> String {
        let mut peer = TcpStream::connect(&self.address).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(peer, "{head}\r\nConnection: close\r\n\r\n").unwrap();
        let mut reply = String::new();
        peer.read_to_string(&mut reply).unwrap();
        reply
    }

    fn status(&self, head: &str) -> String {
        self.send(head).split(' ').nth(1).unwrap_or_default().to_owned()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn low_metrics_answers_no_other_host() {
    deadline(LIMIT, || {
        let endpoint = Endpoint::start(&["127.0.0.1:0", "--host", "node7.example.org"]);
        let port = endpoint.address.rsplit_once(':').unwrap().1;
        for path in ["/", "/metrics", "/status.json", "/nothing"] {
            for host in ["evil.example.org", "evil.example.org:80", "localhost.example.org", "x"] {
                let reply = endpoint.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}"));
                assert!(reply.starts_with("HTTP/1.1 421 "), "{path} {host}: {reply}");
                assert!(!reply.contains("cvmfs_fuse_up"), "{reply}");
            }
        }
        let is_served =
            |host: &str| endpoint.status(&format!("GET /metrics HTTP/1.1\r\nHost: {host}"));
        for host in ["localhost", "127.0.0.1", "[::1]", "NODE7.example.org"] {
            assert_eq!(is_served(host), "200", "{host}");
            assert_eq!(is_served(&format!("{host}:{port}")), "200", "{host}");
        }
        assert_eq!(
            endpoint.status("GET http://evil.org/metrics HTTP/1.1\r\nHost: localhost"),
            "421"
        );
        assert_ne!(endpoint.status("GET /metrics HTTP/1.0\r\nAccept: */*"), "200");
    });
}

#[test]
fn low_metrics_listens_on_this_machine_and_asks_for_a_token() {
    deadline(LIMIT, || {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("token");
        fs::write(&file, "correct horse\n").unwrap();
        let endpoint = Endpoint::start(&["0", "--token-file", file.to_str().unwrap()]);
        assert!(endpoint.address.starts_with("127.0.0.1:"), "{}", endpoint.address);
        let with =
            |more: &str| endpoint.send(&format!("GET /metrics HTTP/1.1\r\nHost: localhost{more}"));
        let refused = with("");
        assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
        assert!(refused.to_lowercase().contains("www-authenticate: bearer"), "{refused}");
        for wrong in ["Bearer correct", "Bearer correct horses", "Basic correct horse", "Bearer"] {
            let reply = with(&format!("\r\nAuthorization: {wrong}"));
            assert!(reply.starts_with("HTTP/1.1 401 "), "{wrong}: {reply}");
        }
        let reply = with("\r\nAuthorization: Bearer correct horse");
        assert!(reply.starts_with("HTTP/1.1 200 ") && reply.contains("# EOF"), "{reply}");
        fs::write(&file, "\n").unwrap();
        let mut command = client!().command();
        command.args(["metrics", "--listen", "0", "--token-file"]).arg(&file);
        let output = command.output().unwrap();
        assert!(!output.status.success() && shown(&output).contains("it is empty"));
    });
}

#[test]
fn pages_run_no_script_but_their_own() {
    deadline(LIMIT, || {
        let endpoint = Endpoint::start(&["127.0.0.1:0"]);
        for (path, kind) in [
            ("/", "text/html; charset=utf-8"),
            ("/metrics", "application/openmetrics-text"),
            ("/status.json", "application/json"),
            ("/nothing", "text/plain"),
        ] {
            let reply = endpoint.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost"));
            let head = reply.split("\r\n\r\n").next().unwrap().to_lowercase();
            assert!(head.contains(&format!("content-type: {kind}")), "{path}: {head}");
            for line in [
                "x-content-type-options: nosniff",
                "content-security-policy: default-src 'none'",
                "script-src 'sha256-",
                "frame-ancestors 'none'",
                "cross-origin-resource-policy: same-origin",
                "cache-control: no-store",
            ] {
                assert!(head.contains(line), "{path}: {line}: {head}");
            }
            assert!(!head.contains("script-src 'unsafe-inline'"), "{head}");
        }
    });
}

fn bits(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn h3_the_socket_of_metrics_has_its_mode_and_replaces_sockets_only() {
    deadline(LIMIT, || {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("socket");
        let listen = format!("unix:{}", path.display());
        let mut command = client!().command();
        // SAFETY: umask(2) is async-signal-safe and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| {
                libc::umask(0o777);
                Ok(())
            });
        }
        let first = Endpoint::of(command, &[&listen]);
        assert_eq!(bits(&path), 0o666);
        let mut peer = UnixStream::connect(&path).unwrap();
        // No page of a browser gets here, so that any name will do.
        write!(peer, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut reply = String::new();
        peer.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        // Killed: the next one takes its place.
        drop(first);
        assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
        drop(Endpoint::start(&[&listen]));
        // What is no socket stays, and so does what a link of somebody else leads to.
        let refused = |path: &Path| {
            let mut command = client!().command();
            command.args(["metrics", "--listen", &format!("unix:{}", path.display())]);
            let output = command.output().unwrap();
            assert!(!output.status.success(), "{}", shown(&output));
        };
        let precious = scratch.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        refused(&precious);
        fs::remove_file(&path).unwrap();
        symlink(&precious, &path).unwrap();
        refused(&path);
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
        let (outside, link) = (scratch.path().join("outside"), scratch.path().join("link"));
        fs::create_dir(&outside).unwrap();
        symlink(&outside, &link).unwrap();
        lchown(&link, Some(1002), None).unwrap();
        refused(&link.join("socket"));
        assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
    });
}
