//! Where messages go, in which form, and what is not in them.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::publish::TestRepo;
use fixtures::server::TestServer;
use nix::mount::{MsFlags, mount as bind};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use tests::apart::{Mounted, private_mounts};
use tests::{MountSpec, TestMount, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(120);
const CONDITION: Duration = Duration::from_secs(30);
/// What an incomplete telemetry is told about.
const WARNING: &str = "no telemetry is sent";

/// A mount that warns once when it begins.
fn warned(genuine: &Genuine, server: &TestServer) -> MountSpec {
    MountSpec::genuine(&client!(), genuine, server).arg("--set=CVMFS_TELEMETRY_SEND=yes")
}

fn objects(log: &str) -> Vec<Value> {
    let lines = log.lines().filter(|line| !line.starts_with("CernVM-FS: mounted"));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

fn end(mount: TestMount) {
    assert!(mount.unmount().success());
}

#[test]
fn each_line_is_an_object() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        for spec in [
            warned(&genuine, &server).arg("--log-format=json").arg("-v"),
            warned(&genuine, &server).arg("--set=CVMFS_FUSE_LOG_FORMAT=json"),
        ] {
            let mount = spec.start();
            wait_until(CONDITION, "mount", || mount.log().contains("CernVM-FS: mounted")).unwrap();
            let objects = objects(&mount.log());
            let text = |object: &Value, name: &str| object[name].as_str().unwrap().to_owned();
            let warning =
                objects.iter().find(|object| text(object, "message").contains(WARNING)).unwrap();
            assert_eq!(text(warning, "level"), "WARN");
            assert_eq!(text(warning, "repository"), "small.test.repo");
            assert!(text(warning, "time").ends_with('Z'), "{warning}");
            end(mount);
        }
        // The last word, too.
        let command = || {
            let mut command = client!().command();
            command.args(["mount", "no.such.repo", "/nonexistent", "--foreground"]);
            command.args(["--log-format", "json", "--server", "file:///nonexistent"]);
            command
        };
        let output = command().output().unwrap();
        let said = objects(&String::from_utf8(output.stderr).unwrap());
        assert_eq!(said.last().unwrap()["level"], "ERROR", "{said:?}");
    });
}

#[test]
fn no_log_has_a_password() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let directory = tempfile::tempdir().unwrap();
        let debug = directory.path().join("debug");
        let failure = MountSpec::genuine(&client!(), &genuine, &server)
            .impatient()
            .arg("-vv")
            .arg(format!("--set=CVMFS_DEBUGLOG={}", debug.display()))
            .arg(format!("--proxy=http://someone:sesame@127.0.0.1:{port}"))
            .try_start()
            .unwrap_err();
        for log in [failure.stderr, fs::read_to_string(&debug).unwrap()] {
            assert!(log.contains("someone:***@127.0.0.1"), "the proxy is told of: {log}");
            assert!(!log.contains("sesame"), "{log}");
            // As in `Authorization: Basic ...`.
            assert!(!log.contains("c29tZW9uZTpzZXNhbWU"), "{log}");
        }
        let output = client!()
            .command()
            .args(["mount", "a.b.c", "/nonexistent", "--proxy", "nonsense://u:sesame@h"])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && !said.contains("sesame"), "{said}");
    });
}

#[test]
fn a_file_in_place_of_syslog_is_rotated_and_a_debug_log_has_all() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let directory = tempfile::tempdir().unwrap();
        let (log, debug) = (directory.path().join("log"), directory.path().join("debug"));
        // As full as upstream lets it be.
        fs::write(&log, vec![b'x'; 500 << 10]).unwrap();
        let mount = warned(&genuine, &server)
            .arg(format!("--set=CVMFS_USYSLOG={}", log.display()))
            .arg(format!("--set=CVMFS_DEBUGLOG={}", debug.display()))
            .start();
        let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        wait_until(CONDITION, "message", || text(&log).contains(WARNING)).unwrap();
        let line = text(&log).lines().find(|line| line.contains(WARNING)).unwrap().to_owned();
        assert!(line.contains("(small.test.repo) no telemetry"), "{line}");
        assert_eq!(fs::metadata(directory.path().join("log.1")).unwrap().len(), 500 << 10);
        assert!(!text(&log).contains("DEBUG"), "warnings are the default");
        fs::read(mount.root().join("hello.txt")).unwrap();
        wait_until(CONDITION, "requests", || text(&debug).contains("DEBUG")).unwrap();
        assert!(text(&debug).contains(WARNING));
        assert!(!mount.log().contains("DEBUG"), "{}", mount.log());
        end(mount);
        let verbose = warned(&genuine, &server)
            .arg(format!("--set=CVMFS_USYSLOG={}", log.display()))
            .arg("--set=CVMFS_SYSLOG_LEVEL=1")
            .arg("--set=CVMFS_SYSLOG_PREFIX=node 7")
            .start();
        fs::read(verbose.root().join("hello.txt")).unwrap();
        wait_until(CONDITION, "debugging", || {
            text(&log).lines().any(|line| line.contains("DEBUG") && line.contains("(node 7)"))
        })
        .unwrap();
        end(verbose);
    });
}

#[test]
fn a_crash_leaves_a_trace_and_no_hole() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let mount = MountSpec::genuine(&client!(), &genuine, &server).start();
        for (signal, number) in [(Signal::SIGSEGV, 11), (Signal::SIGABRT, 6)] {
            let before = mount.server();
            kill(before, signal).unwrap();
            wait_until(CONDITION, "successor", || mount.server() != before).unwrap();
            let log = mount.log();
            let line = log.lines().find(|line| line.contains(&format!("crashed: signal {number}")));
            let line = line.unwrap_or_else(|| panic!("{log}"));
            assert!(line.matches(" +0x").count() >= 5, "{line}");
            assert!(log.contains(&format!("signal {number}\"")), "what the supervisor saw: {log}");
            assert!(!fs::read(mount.root().join("hello.txt")).unwrap().is_empty());
        }
        end(mount);
    });
}

/// Receives datagrams until one has a text.
fn received(socket: &UnixDatagram, part: &str) -> String {
    socket.set_read_timeout(Some(CONDITION)).unwrap();
    let mut buffer = vec![0; 65536];
    loop {
        let length = socket.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if text.contains(part) {
            return text;
        }
    }
}

#[test]
fn journal_and_syslog_are_told() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        private_mounts();
        let run = Path::new("/run");
        let _run = Mounted::tmpfs(run, "size=1m,mode=755");
        fs::create_dir_all("/run/systemd/journal").unwrap();
        let journal = UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
        // A /dev of our own, with what a client needs of it.
        let devices = tempfile::tempdir().unwrap();
        let own = Mounted::tmpfs(devices.path(), "size=1m,mode=755");
        for name in ["fuse", "null", "zero", "random", "urandom"] {
            let (from, to) = (Path::new("/dev").join(name), devices.path().join(name));
            fs::write(&to, "").unwrap();
            bind(Some(&from), &to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        bind(Some(devices.path()), "/dev", None::<&str>, flags, None::<&str>).unwrap();
        let syslog = UnixDatagram::bind("/dev/log").unwrap();

        let mount = warned(&genuine, &server)
            .arg("--log-format=journald")
            .arg("--set=CVMFS_SYSLOG_FACILITY=2")
            .start();
        let fields = received(&journal, WARNING);
        for line in
            ["PRIORITY=4", "SYSLOG_IDENTIFIER=cvmfs-fuse", "CVMFS_REPOSITORY=small.test.repo"]
        {
            assert!(fields.lines().any(|found| found == line), "{line} in {fields}");
        }
        assert!(!mount.log().contains(WARNING), "it is in the journal: {}", mount.log());
        let line = received(&syslog, WARNING);
        // local2 and warning.
        assert!(line.starts_with("<148>"), "{line}");
        assert!(line.contains("]: (small.test.repo) no telemetry is sent"), "{line}");
        // A journal that is gone costs nothing but the place.
        drop((journal, syslog));
        fs::read(mount.root().join("hello.txt")).unwrap();
        end(mount);
        drop(own);
    });
}

#[test]
fn a_flood_is_one_line_and_a_number() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new("flood.test.repo");
        repo.file("/lost", b"content".to_vec());
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = MountSpec::published(&client!(), &published, &[&server])
            .impatient()
            .without_prefetch()
            .arg("--log-format=json")
            .start();
        fs::metadata(mount.path("lost")).unwrap();
        drop(server);
        for _ in 0..20 {
            fs::read(mount.path("lost")).unwrap_err();
        }
        let repeated = |object: &Value| object["repeated"].as_u64().unwrap_or(0);
        wait_until(CONDITION, "the number", || {
            objects(&mount.log()).iter().any(|o| repeated(o) > 0)
        })
        .unwrap_or_else(|error| panic!("{error}: {}", mount.log()));
        let objects = objects(&mount.log());
        let numbered = objects.iter().find(|object| repeated(object) > 0).unwrap();
        let equal = |object: &&Value| {
            ["level", "message", "fields"].iter().all(|name| object[name] == numbered[name])
        };
        assert_eq!(objects.iter().filter(equal).count(), 2, "{objects:?}");
        end(mount);
    });
}
