//! Mounts over each kind of cache: through a broker, over a lower cache, streaming.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::server::{Network, TestServer};
use tests::walk::assert_equal;
use tests::{MountSpec, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(100);

/// A broker of our own, ended with the test.
struct Broker(Child);

impl Broker {
    fn start(cache: &Path, socket: &Path) -> Self {
        let mut command: Command = client!().command();
        command.args(["cache", "broker", "--allow", "all", "--cache-dir"]).arg(cache);
        command.arg("--socket").arg(socket).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("listens on"), "{line}");
        Self(child)
    }

    fn end(mut self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn site() -> (Genuine, TestServer, tempfile::TempDir) {
    let genuine = Genuine::small();
    let server = TestServer::serving(genuine.dir());
    (genuine, server, tempfile::tempdir().unwrap())
}

#[test]
fn mounts_behind_a_broker_share_and_survive_it() {
    deadline(LIMIT, || {
        let (genuine, server, scratch) = site();
        let (owned, socket) = (scratch.path().join("owned"), scratch.path().join("b.sock"));
        let broker = Broker::start(&owned, &socket);
        let spec = |name: &str| {
            MountSpec::genuine(&client!(), &genuine, &server)
                .impatient()
                .cache_dir(&scratch.path().join(name))
                .arg("--cache-mode")
                .arg("broker")
                .arg("--cache-broker")
                .arg(&socket)
        };
        let first = spec("first").start();
        assert_equal(&genuine.truth(), first.root());
        // What the first one read, the second one has.
        server.reset_log();
        let second = spec("second").start();
        assert_equal(&genuine.truth(), second.root());
        let asked: Vec<_> = server.requests().into_iter().map(|request| request.path).collect();
        assert!(asked.iter().all(|path| !path.contains("/data/")), "{asked:?}");
        assert!(!scratch.path().join("first/v2").exists(), "a client wrote a cache of its own");

        broker.end(nix::sys::signal::Signal::SIGKILL);
        assert_equal(&genuine.truth(), first.root());
        let third = spec("third").try_start();
        assert!(third.is_err_and(|failure| failure.stderr.contains("no broker answers")));
        let again = Broker::start(&owned, &socket);
        // A mount comes back to it when it next needs it.
        server.set_network(Network::Refusing);
        wait_until(Duration::from_secs(20), "the mount has its broker again", || {
            std::fs::read(second.path("many/f1000")).is_ok()
        })
        .unwrap();
        assert_equal(&genuine.truth(), second.root());
        second.unmount();
        first.unmount();
        again.end(nix::sys::signal::Signal::SIGTERM);
        assert!(!socket.exists());
    });
}

#[test]
fn auto_takes_the_broker_where_others_can_write_and_says_why() {
    deadline(LIMIT, || {
        let (genuine, server, scratch) = site();
        let (owned, socket) = (scratch.path().join("owned"), scratch.path().join("b.sock"));
        let open = scratch.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        let spec = || {
            MountSpec::genuine(&client!(), &genuine, &server)
                .cache_dir(&open)
                .arg("--cache-broker")
                .arg(&socket)
        };
        let refused = spec().try_start().err().unwrap();
        assert!(refused.stderr.contains("lets other users write"), "{refused:?}");
        assert!(refused.stderr.contains("use a broker"), "{refused:?}");

        let _broker = Broker::start(&owned, &socket);
        let mount = spec().env("CVMFS_FUSE_LOG", "info").start();
        assert_equal(&genuine.truth(), mount.root());
        let log = mount.log();
        assert!(log.contains("cache mode broker") && log.contains("a broker answers"), "{log}");
        mount.unmount();

        let direct = spec().arg("--cache-mode").arg("direct").env("CVMFS_FUSE_LOG", "info").start();
        assert_equal(&genuine.truth(), direct.root());
        assert!(direct.log().contains("every user of this machine is trusted"), "{}", direct.log());
        direct.unmount();
    });
}

#[test]
fn a_lower_cache_is_copied_up() {
    deadline(LIMIT, || {
        let (genuine, server, scratch) = site();
        let lower = scratch.path().join("lower");
        let (own, other) = (scratch.path().join("own"), scratch.path().join("other"));
        let filled = client!()
            .command()
            .arg("preload")
            .arg(genuine.fqrn())
            .args(["--server", &server.base("@fqrn@"), "--public-key"])
            .arg(genuine.public_key())
            .arg("--cache-dir")
            .arg(&other)
            .arg("--alien-cache")
            .arg(&lower)
            .status()
            .unwrap();
        assert!(filled.success());
        server.reset_log();
        let spec = MountSpec::genuine(&client!(), &genuine, &server).cache_dir(&own);
        let mount = spec.arg("--lower-cache").arg(&lower).start();
        assert_equal(&genuine.truth(), mount.root());
        assert_eq!(server.count("*/data/*"), 0);
        mount.unmount();
        // All of it is in the upper one now.
        std::fs::remove_dir_all(&lower).unwrap();
        let mount = MountSpec::genuine(&client!(), &genuine, &server).cache_dir(&own).start();
        assert_equal(&genuine.truth(), mount.root());
        assert_eq!(server.count("*/data/*"), 0);
        mount.unmount();
    });
}

#[test]
fn a_streaming_cache_keeps_catalogs_only() {
    deadline(LIMIT, || {
        let (genuine, server, scratch) = site();
        let own = scratch.path().join("own");
        let spec = MountSpec::genuine(&client!(), &genuine, &server).cache_dir(&own);
        let mount = spec.arg("--streaming-cache").start();
        assert_equal(&genuine.truth(), mount.root());
        let mut kept = Vec::new();
        for fan in std::fs::read_dir(own.join("v2/objects")).unwrap() {
            for object in std::fs::read_dir(fan.unwrap().path()).unwrap() {
                kept.push(object.unwrap().file_name().into_string().unwrap());
            }
        }
        assert!(
            !kept.is_empty() && kept.iter().all(|name| name.ends_with(['C', 'X', 'H', 'M'])),
            "{kept:?}"
        );
        mount.unmount();
    });
}

#[test]
fn ten_cold_mounts_on_one_cache_download_each_object_once() {
    deadline(LIMIT, || {
        let (genuine, server, scratch) = site();
        let own = scratch.path().join("own");
        let truth = genuine.truth();
        std::thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    let spec = MountSpec::genuine(&client!(), &genuine, &server);
                    let mount = spec.cache_dir(&own).start();
                    assert_equal(&truth, mount.root());
                    mount.unmount();
                });
            }
        });
        let mut asked = std::collections::BTreeMap::<String, usize>::new();
        for request in server.requests() {
            if request.path.contains("/data/") {
                *asked.entry(request.path).or_default() += 1;
            }
        }
        // Certificates are fetched before anything of a repository is stored.
        let twice: Vec<_> =
            asked.iter().filter(|(path, count)| **count > 1 && !path.ends_with('X')).collect();
        assert!(asked.len() > 3000 && twice.is_empty(), "{} {twice:?}", asked.len());
    });
}
