//! Proxies and servers that lie, as a user of the program meets them.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Rule, TestServer};
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(150);
const FQRN: &str = "network.test.repo";

fn cat(published: &Published, server: &TestServer, cache: &Path, more: &[&str]) -> Output {
    client!()
        .command()
        .args(["cat", &format!("{FQRN}:/f"), "--server", &server.base(FQRN), "--public-key"])
        .arg(published.public_key())
        .arg("--cache-dir")
        .arg(cache)
        .args(more)
        .output()
        .unwrap()
}

fn published() -> Published {
    let mut repo = TestRepo::new(FQRN);
    repo.file("/f", b"content".to_vec());
    repo.publish()
}

/// A captive portal, a proxy that knows nothing, one that changes what it passes on.
#[test]
fn low_a_proxy_that_answers_for_servers_is_left_for_another_route() {
    deadline(LIMIT, || {
        let published = published();
        let server = TestServer::serving(published.root());
        let lies: [fn() -> Rule; 3] = [
            || Rule::on("*").body(b"<html>Please log in</html>".to_vec()),
            || Rule::on("*").status(404),
            || Rule::on("*/data/*").flip_bit(20),
        ];
        for lie in lies {
            for has_honest in [false, true] {
                let (lying, honest) = (TestServer::empty(), TestServer::empty());
                lying.rule(lie());
                let rest = match has_honest {
                    true => format!("|{}", honest.url()),
                    false => ";DIRECT".to_owned(),
                };
                let proxy = format!("{}{rest}", lying.url());
                let cache = tempfile::tempdir().unwrap();
                let output = cat(&published, &server, cache.path(), &["--proxy", &proxy]);
                let message = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(output.stdout, b"content", "{rest}: {message}");
            }
        }
    });
}

/// Redirects are followed only where that is set, and not to files of this machine.
#[test]
fn low_a_server_cannot_send_the_client_to_local_files() {
    deadline(LIMIT, || {
        let published = published();
        let server = TestServer::serving(published.root());
        let object = published.object_path(&published.file_object("/f").unwrap());
        server.rule(Rule::on("*/data/*").redirect(&format!("file://{}", object.display())));
        let cache = tempfile::tempdir().unwrap();
        let set = ["--set=CVMFS_FOLLOW_REDIRECTS=yes", "--set=CVMFS_MAX_RETRIES=0"];
        let output = cat(&published, &server, cache.path(), &set);
        assert!(!output.status.success() && output.stdout.is_empty());
    });
}
