//! The control socket of live mounts, and the commands that use it.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Rule, TestServer};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use tests::{MountSpec, TestMount, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(180);
const FQRN: &str = "control.test.repo";
const CONDITION: Duration = Duration::from_secs(30);

fn repo() -> TestRepo {
    let mut repo = TestRepo::new(FQRN);
    repo.ttl(3600);
    repo.file("/a file", b"content".to_vec());
    repo.file("/cold", b"cold content".to_vec());
    repo
}

fn spec(published: &Published, servers: &[&TestServer]) -> MountSpec {
    MountSpec::published(&client!(), published, servers).impatient().without_prefetch()
}

/// Runs the program; returns its exit code and all that it wrote.
fn run(arguments: &[&str]) -> (i32, String) {
    let output = client!().command().args(arguments).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap(), said)
}

fn talk(mount: &TestMount, command: &str) -> String {
    let root = mount.root().to_str().unwrap();
    let words: Vec<_> = ["talk", "-i", root].into_iter().chain(command.split(' ')).collect();
    let (code, said) = run(&words);
    assert_eq!(code, 0, "{command}: {said}");
    said.trim_end().to_owned()
}

fn socket(mount: &TestMount, fqrn: &str) -> PathBuf {
    mount.cache_dir().join(format!("cvmfs_io.{fqrn}"))
}

/// As programs do it that were made for upstream's client.
fn raw(socket: &Path, bytes: &[u8]) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(CONDITION))?;
    stream.write_all(bytes)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

fn wait_for_socket(path: &Path) {
    wait_until(CONDITION, "control socket", || UnixStream::connect(path).is_ok()).unwrap();
}

#[test]
fn every_command_answers_as_scripts_expect() {
    deadline(LIMIT, || {
        let published = repo().publish();
        let (first, second) =
            (TestServer::serving(published.root()), TestServer::serving(published.root()));
        let mount = spec(&published, &[&first, &second]).start();
        let (one, two) = (first.base(FQRN), second.base(FQRN));
        assert_eq!(std::fs::read(mount.path("a file")).unwrap(), b"content");
        let device = format!("0:{}", mount.info().connection);
        let root = mount.root().display().to_string();
        let server = mount.server().to_string();
        let hash = mount.attribute("user.root_hash").unwrap();
        let exact = [
            ("tracebuffer flush", "OK".to_owned()),
            ("mountpoint", root.clone()),
            ("device id", device),
            ("revision", "1".to_owned()),
            ("root hash", hash.clone()),
            ("pid", server),
            ("pid watchdog", mount.pid().to_string()),
            ("version patchlevel", "0".to_owned()),
            ("remount", "Catalog up to date".to_owned()),
            ("remount sync", "Catalog up to date".to_owned()),
            ("max ttl info", "unset".to_owned()),
            ("max ttl set 3", "OK".to_owned()),
            ("max ttl info", "3 minutes".to_owned()),
            ("max ttl set x", "Usage: max ttl set MINUTES".to_owned()),
            (
                "host info",
                format!("  [0] {one} (unprobed)\n  [1] {two} (unprobed)\nActive host 0: {one}"),
            ),
            ("host switch", "OK".to_owned()),
            (
                "host info",
                format!("  [0] {one} (unprobed)\n  [1] {two} (unprobed)\nActive host 1: {two}"),
            ),
            ("host probe", "OK".to_owned()),
            ("proxy info", "No proxies defined".to_owned()),
            ("proxy set nonsense://x", "Failed, no valid proxies".to_owned()),
            ("proxy rebalance", "OK".to_owned()),
            ("proxy group switch", "OK".to_owned()),
            ("external host info", "No hosts defined".to_owned()),
            ("external proxy info", "No proxies defined".to_owned()),
            ("timeout info", "Timeout with proxy: 2s\nTimeout without proxy: 2s".to_owned()),
            ("timeout set 3 4", "OK".to_owned()),
            ("timeout info", "Timeout with proxy: 3s\nTimeout without proxy: 4s".to_owned()),
            ("timeout set 0 1", "Usage: timeout set PROXY DIRECT".to_owned()),
            ("nameserver get", "DNS server not set.".to_owned()),
            ("open catalogs", format!("/ ({hash})")),
            ("detach nested catalogs", "OK".to_owned()),
            ("cache limit set 1500", "OK".to_owned()),
            ("cache limit get", "1500".to_owned()),
            ("cache limit set 7", "Failed: the limit must be at least 1000 MB".to_owned()),
            ("evict /a file", "OK".to_owned()),
            ("evict /missing", "No such regular file".to_owned()),
            ("pin /cold", "OK".to_owned()),
            ("pin /", "No such regular file or pinning failed".to_owned()),
            ("reset error counters", "OK".to_owned()),
            ("no such thing", "unknown command".to_owned()),
            ("tear down to read-only", "not supported".to_owned()),
        ];
        for (command, expected) in exact {
            assert_eq!(talk(&mount, command), expected, "{command}");
        }
        // The index of the cache is written once a second.
        wait_until(CONDITION, "entry in the index", || {
            talk(&mount, "cache list").contains("/cold")
        })
        .unwrap();
        for (command, parts) in [
            ("version", &["(CernVM-FS Fuse Module)", "(Loader)"][..]),
            ("cache size", &["Current cache size is 0MB (", " Bytes), pinned: 0MB ("]),
            ("cache instance", &[mount.cache_dir().to_str().unwrap()]),
            ("cache list", &["/cold"]),
            ("cache list pinned", &["/cold"]),
            ("host info", &[" ms)"]),
            ("parameters", &["# CernVM-FS parameters:", "CVMFS_TIMEOUT=3 "]),
            ("internal affairs", &["Name|Value|Description", "download.n_downloads|"]),
            ("hotpatch history", &["("]),
            ("vfs inodes", &[""]),
            ("vfs entries", &["/a file"]),
        ] {
            let said = talk(&mount, command);
            assert!(parts.iter().all(|part| said.contains(part)), "{command}: {said}");
        }
        assert!(!talk(&mount, "cache list").contains("/a file"), "it was evicted");
        assert!(mount.unmount().success());
    });
}

#[test]
fn updates_and_earlier_revisions_on_demand() {
    deadline(LIMIT, || {
        let mut repo = repo();
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &[&server]).start();
        let old = mount.attribute("user.root_hash").unwrap();
        repo.file("/new", b"new".to_vec());
        repo.publish();
        assert!(!mount.path("new").exists());
        assert_eq!(talk(&mount, "remount sync"), "New revision applied");
        assert_eq!(std::fs::read(mount.path("new")).unwrap(), b"new");
        assert_eq!(talk(&mount, "revision"), "2");
        assert_eq!(talk(&mount, &format!("chroot {old}")), "OK");
        assert!(!mount.path("new").exists());
        assert_eq!(talk(&mount, "revision"), "1");
        assert_eq!(talk(&mount, "chroot 12"), "Failed");
        assert!(mount.unmount().success());
    });
}

#[test]
fn the_socket_of_upstream_takes_commands_in_every_shape() {
    deadline(LIMIT, || {
        let published = repo().publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &[&server]).start();
        let socket = socket(&mount, FQRN);
        wait_for_socket(&socket);
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        // Upstream's tool sends no end, and does not shut down.
        for shape in [&b"revision"[..], b"revision\0", b"revision\n", b" revision \r\n"] {
            assert_eq!(raw(&socket, shape).unwrap(), "1\n");
        }
        let said = raw(&socket, b"{\"command\":\"revision\"}\n").unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&said).unwrap(),
            json!({"ok": true, "text": "1", "data": 1})
        );
        let said =
            raw(&socket, b"{\"command\":\"revision\",\"repository\":\"no.such.repo\"}\n").unwrap();
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["ok"], json!(false), "{said}");
        assert!(raw(&socket, b"{nonsense\n").unwrap().starts_with("cannot understand that"));
        assert!(raw(&socket, b"\xff\xfe\n").unwrap().starts_with("cannot understand that"));
        let (code, said) = run(&["talk", "-p", socket.to_str().unwrap(), "revision"]);
        assert_eq!((code, said.as_str()), (0, "1\n"));
        // The file goes with the mount; then scripts find the words that they look for.
        let cache = mount.cache_dir().to_owned();
        let held = published.root().join("socket");
        std::fs::hard_link(&socket, &held).unwrap();
        assert!(mount.unmount().success());
        assert!(!socket.exists(), "{}", cache.display());
        let missing = cache.join("cvmfs_io.none");
        let (code, said) = run(&["talk", "-p", missing.to_str().unwrap(), "mountpoint"]);
        let expected = format!(
            "Seems like CernVM-FS is not running in {} (not found: {})\n",
            cache.display(),
            missing.display()
        );
        assert_eq!((code, said), (1, expected));
        let (code, said) = run(&["talk", "-p", held.to_str().unwrap(), "mountpoint"]);
        assert!(said.starts_with("Could not access instance '"), "{said}");
        assert!(said.ends_with(" (111 - Connection refused)\n"), "{said}");
        assert_eq!(code, 1);
    });
}

/// Runs a shell as another user, in which $S is the socket and $P the program.
fn as_stranger(socket: &Path, script: &str) -> String {
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", script])
        .env("S", socket)
        .env("P", client!().command().get_program())
        .output()
        .unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn strangers_floods_and_silence_are_harmless() {
    deadline(LIMIT, || {
        let published = repo().publish();
        let server = TestServer::serving(published.root());
        // Where strangers get at files, so that credentials decide and not modes.
        let open = tempfile::tempdir().unwrap();
        std::fs::set_permissions(open.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let socket = open.path().join("talk");
        let argument = format!("--set=CVMFS_TALK_SOCKET={}", socket.display());
        let mount = spec(&published, &[&server]).arg(argument).start();
        wait_for_socket(&socket);
        std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o777)).unwrap();
        let program = PathBuf::from(client!().command().get_program());
        let copy = open.path().join("client");
        std::fs::copy(program, &copy).unwrap();
        let script = format!(
            "{0} talk -p $S revision; {0} talk -p $S host set http://evil.example.org; {0} talk -i {1} revision",
            copy.display(),
            mount.root().display()
        );
        let said = as_stranger(&socket, &script);
        let refusals = said.matches("only root and the user who mounted").count();
        assert!(refusals >= 2, "{said}");
        assert!(!said.lines().any(|line| line == "1"), "{said}");
        assert!(!talk(&mount, "host info").contains("evil"));

        // More silent peers than there are seats; those who ask after them get their turn.
        let silent: Vec<_> = (0..200).filter_map(|_| UnixStream::connect(&socket).ok()).collect();
        assert!(silent.len() > 16);
        assert_eq!(std::fs::read(mount.path("cold")).unwrap(), b"cold content");
        drop(silent);
        assert_eq!(raw(&socket, b"revision\n").unwrap(), "1\n");
        // A command without an end is cut.
        let mut endless = UnixStream::connect(&socket).unwrap();
        endless.set_write_timeout(Some(CONDITION)).unwrap();
        let sent = (0..100_000).try_for_each(|_| endless.write_all(&[b'x'; 1024]));
        assert!(sent.is_err(), "100 MB were taken");
        // Somebody who never reads a long answer.
        let mut deaf = UnixStream::connect(&socket).unwrap();
        deaf.write_all(b"internal affairs\n").unwrap();
        let answers: Vec<_> = std::thread::scope(|scope| {
            let asking: Vec<_> =
                (0..40).map(|_| scope.spawn(|| raw(&socket, b"revision\n"))).collect();
            asking.into_iter().map(|asking| asking.join().unwrap().unwrap()).collect()
        });
        assert!(answers.iter().all(|answer| answer == "1\n"), "{answers:?}");
        assert!(mount.unmount().success());
    });
}

#[test]
fn a_named_user_may_talk() {
    deadline(LIMIT, || {
        let published = repo().publish();
        let server = TestServer::serving(published.root());
        let open = tempfile::tempdir().unwrap();
        std::fs::set_permissions(open.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let socket = open.path().join("talk");
        let place = format!("--set=CVMFS_TALK_SOCKET={}", socket.display());
        let mount =
            spec(&published, &[&server]).arg(place).arg("--set=CVMFS_TALK_OWNER=nobody").start();
        wait_for_socket(&socket);
        let copy = open.path().join("client");
        std::fs::copy(client!().command().get_program(), &copy).unwrap();
        let said = as_stranger(&socket, &format!("{} talk -p $S revision", copy.display()));
        assert_eq!(said, "1\n");
        assert!(mount.unmount().success());
    });
}

#[test]
fn a_successor_answers_in_the_same_places() {
    deadline(LIMIT, || {
        let published = repo().publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &[&server]).start();
        let socket = socket(&mount, FQRN);
        wait_for_socket(&socket);
        for _ in 0..3 {
            let old = mount.server();
            kill(old, Signal::SIGKILL).unwrap();
            assert_eq!(std::fs::read(mount.path("a file")).unwrap(), b"content");
            let new = mount.server();
            assert_ne!(old, new);
            // The commands wait for it by themselves.
            assert_eq!(talk(&mount, "pid"), new.to_string());
            wait_until(CONDITION, "answer of the successor", || {
                raw(&socket, b"pid\n").is_ok_and(|said| said == format!("{new}\n"))
            })
            .unwrap();
        }
        let root = mount.root().to_str().unwrap();
        let (code, said) = run(&["upgrade", root]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(talk(&mount, "pid"), mount.server().to_string());
        assert!(mount.unmount().success());
        assert!(!socket.exists());
    });
}

#[test]
fn each_repository_of_an_automount_is_asked_by_name() {
    deadline(LIMIT, || {
        let small = Genuine::small();
        let shake = Genuine::shake();
        let server = TestServer::serving(small.dir());
        server.add_root(shake.dir());
        let servers = format!("{}/@fqrn@", server.url());
        let keys = [small.public_key(), shake.public_key()];
        let mount = MountSpec::automount(&client!(), &servers, &[&keys[0], &keys[1]]).start();
        assert_eq!(talk(&mount, "repositories"), "");
        assert_eq!(talk(&mount, "revision"), "no repository is open in this mount");
        for fqrn in [small.fqrn(), shake.fqrn()] {
            assert!(std::fs::read_dir(mount.path(fqrn)).unwrap().next().is_some());
        }
        assert_eq!(talk(&mount, "repositories").lines().count(), 2);
        assert!(talk(&mount, "revision").starts_with("which repository? open are "));
        for fqrn in [small.fqrn(), shake.fqrn()] {
            let at = mount.path(fqrn);
            let revision = tests::walk::get_xattr(&at, b"user.revision").unwrap();
            let revision = String::from_utf8(revision).unwrap();
            let (code, said) = run(&["talk", "-i", at.to_str().unwrap(), "revision"]);
            assert_eq!((code, said.trim_end()), (0, revision.as_str()));
            let socket = socket(&mount, fqrn);
            wait_for_socket(&socket);
            assert_eq!(raw(&socket, b"revision").unwrap().trim_end(), revision);
            assert_eq!(raw(&socket, b"mountpoint").unwrap().trim_end(), at.to_str().unwrap());
        }
        assert!(mount.unmount().success());
    });
}

#[test]
fn what_stands_behind_an_error_and_what_is_not_known() {
    deadline(LIMIT, || {
        let published = repo().publish();
        let (first, second) =
            (TestServer::serving(published.root()), TestServer::serving(published.root()));
        let mount = spec(&published, &[&first, &second]).start();
        let path = mount.path("cold");
        let path = path.to_str().unwrap();
        let (code, said) = run(&["why", path]);
        assert_eq!(code, 1);
        assert!(said.contains("nothing known; no call has failed by the server of ("), "{said}");
        first.rule(Rule::on("*/data/*").status(404));
        second.rule(Rule::on("*/data/*").status(503));
        for _ in 0..2 {
            assert_eq!(std::fs::read(path).unwrap_err().raw_os_error(), Some(libc::EIO));
        }
        for asked in [path, mount.root().to_str().unwrap()] {
            let (code, said) = run(&["why", asked]);
            assert_eq!(code, 0, "{said}");
            let parts = ["/cold: read failed with EIO, ", "  object ", "(HTTP 404)", "(HTTP 503)"];
            for part in
                parts.into_iter().map(str::to_owned).chain([first.base(FQRN), second.base(FQRN)])
            {
                assert!(said.contains(&part), "{part} missing in {said}");
            }
        }
        let (_, said) = run(&["why", "--json", path]);
        let failure: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
        assert_eq!((&failure["path"], &failure["errno"]), (&json!("/cold"), &json!(libc::EIO)));
        let other = mount.path("a file");
        let (code, said) = run(&["why", other.to_str().unwrap()]);
        assert_eq!(code, 1);
        assert!(said.contains("1 failure of another path is remembered"), "{said}");
        let (code, said) = run(&["why", "/proc/self"]);
        assert_eq!(code, 1);
        assert!(said.contains("not in a mounted repository"), "{said}");
        assert!(mount.unmount().success());
    });
}

#[test]
fn mounts_at_a_glance() {
    deadline(LIMIT, || {
        let published = repo().publish();
        let server = TestServer::serving(published.root());
        let proxy = "--proxy=http://somebody:secret@127.0.0.1:1|DIRECT";
        let mount = spec(&published, &[&server]).arg(proxy).start();
        assert_eq!(std::fs::read(mount.path("a file")).unwrap(), b"content");
        let root = mount.root().to_str().unwrap();
        let (_, said) = run(&["status", FQRN]);
        let line =
            said.lines().find(|line| line.contains(root)).unwrap_or_else(|| panic!("{said}"));
        assert!(line.starts_with(FQRN) && line.contains(&server.base(FQRN)), "{said}");
        assert!(line.trim_end().ends_with("ok"), "{said}");
        let (_, said) = run(&["status", "--json"]);
        let status = said
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .find(|status| status["mountpoint"] == json!(root))
            .unwrap_or_else(|| panic!("{said}"));
        assert_eq!((&status["revision"], &status["repository"]), (&json!(1), &json!(FQRN)));
        assert!(status["cache_used"].as_u64().unwrap() > 0, "{status}");
        assert!(!said.contains("secret"), "{said}");
        let (code, said) = run(&["status", "no.such.repo"]);
        assert_eq!(code, 1);
        assert!(said.contains("no.such.repo is not mounted here"), "{said}");

        let (code, said) = run(&["probe", root]);
        assert_eq!((code, said), (0, format!("Probing {root}... OK\n")));
        let (code, said) = run(&["probe", root, "/proc", "/nonexistent"]);
        assert_eq!(code, 1);
        assert!(
            said.contains("OK\nProbing /proc... Failed!\nProbing /nonexistent... Failed!\n"),
            "{said}"
        );

        let (code, said) = run(&["top", "--once", "--delay", "1"]);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("OBJECTS/s") && said.contains(FQRN), "{said}");
        assert!(!said.contains('\u{1b}'), "{said}");

        let report = published.root().join("report");
        let (code, said) = run(&["bugreport", "-o", report.to_str().unwrap()]);
        assert_eq!((code, said.trim_end()), (0, report.to_str().unwrap()));
        let text = std::fs::read_to_string(&report).unwrap();
        for part in [root, "--- proxy info", "===== system", "download.n_downloads"] {
            assert!(text.contains(part), "{part} missing in {text}");
        }
        assert!(!text.contains("secret"), "{text}");
        assert_eq!(std::fs::metadata(&report).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(mount.unmount().success());
    });
}

#[test]
fn a_mount_that_does_not_answer_keeps_nobody() {
    deadline(LIMIT, || {
        let published = repo().publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &[&server]).start();
        let root = mount.root().to_str().unwrap();
        assert_eq!(talk(&mount, "revision"), "1");
        let stopped = mount.server();
        kill(stopped, Signal::SIGSTOP).unwrap();
        let (code, said) = run(&["status"]);
        let (probed, probe) = run(&["probe", "--timeout", "2", root]);
        kill(stopped, Signal::SIGCONT).unwrap();
        assert_eq!(code, 1, "{said}");
        assert!(
            said.lines().any(|line| line.starts_with(root) && line.contains("no answer")),
            "{said}"
        );
        assert_eq!((probed, probe), (1, format!("Probing {root}... Failed!\n")));
        assert_eq!(talk(&mount, "revision"), "1");
        assert!(mount.unmount().success());
    });
}

#[test]
fn who_asks_for_what() {
    deadline(LIMIT, || {
        let mut repo = repo();
        for number in 0..6 {
            repo.file(format!("/program/{number}"), format!("part {number}").into_bytes());
        }
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &[&server]).start();
        let root = mount.root().to_str().unwrap();
        let profile = published.root().join("profile");
        assert_eq!(talk(&mount, "revision"), "1");
        let said = published.root().join("traced");
        let mut tracing = client!()
            .command()
            .args(["trace", root, "--duration", "8", "--profile", profile.to_str().unwrap()])
            .stdout(std::fs::File::create(&said).unwrap())
            .spawn()
            .unwrap();
        let said = || std::fs::read_to_string(&said).unwrap();
        let mut number = 0;
        wait_until(CONDITION, "trace", || {
            // A name that is new each time, so that the kernel cannot answer.
            number += 1;
            let _ = std::fs::metadata(mount.path(format!("missing {number}")));
            said().contains("missing")
        })
        .unwrap();
        let script = format!("cat {root}/program/*");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(output.status.success());
        assert!(tracing.wait().unwrap().success());
        let said = said();
        let read = |line: &&str| line.contains(" read ") && line.contains("cat(");
        let read: Vec<_> = said.lines().filter(read).collect();
        let first = |line: &&&str| line.ends_with(" /program/0");
        assert!(read.len() >= 6 && read.iter().any(|line| first(&line)), "{said}");
        assert!(
            said.lines().any(|line| line.contains(" lookup ") && line.ends_with("/program")),
            "{said}"
        );
        for part in ["REQUEST", "p99", "PROGRAM", "FILE READ"] {
            assert!(said.contains(part), "{part} missing in {said}");
        }
        // What was read in this order is an access profile of the known form.
        let text = std::fs::read_to_string(&profile).unwrap();
        assert!(text.contains(FQRN), "{text}");
        let cache = mount.cache_dir().to_str().unwrap();
        let (code, said) =
            run(&["profile", "import", "--cache-dir", cache, FQRN, profile.to_str().unwrap()]);
        assert_eq!(code, 0, "{said}");
        let (_, said) = run(&["top", "--once", "--delay", "1"]);
        assert!(said.contains("OBJECTS/s"), "{said}");
        let said = talk(&mount, "latency");
        assert!(said.starts_with("Name|Count|") && said.contains("\nread|"), "{said}");
        assert!(mount.unmount().success());
    });
}

#[test]
fn called_as_cvmfs_talk() {
    deadline(LIMIT, || {
        let published = repo().publish();
        let server = TestServer::serving(published.root());
        let mount = spec(&published, &[&server]).start();
        let name = published.root().join("cvmfs_talk");
        std::os::unix::fs::symlink(client!().command().get_program(), &name).unwrap();
        assert_eq!(talk(&mount, "revision"), "1");
        for (arguments, expected) in [
            (&["-i", FQRN, "revision"][..], "1\n"),
            (&["-i", FQRN, "cleanup", "rate"], "Usage: cleanup rate MINUTES\n"),
            (
                &["-p", socket(&mount, FQRN).to_str().unwrap(), "mountpoint"],
                mount.root().to_str().unwrap(),
            ),
        ] {
            let output = Command::new(&name).args(arguments).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(said.trim_end(), expected.trim_end());
        }
        let output =
            Command::new(&name).args(["-i", "gone.test.repo", "mountpoint"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with("Seems like CernVM-FS is not running in "), "{said}");
        assert!(said.trim_end().ends_with("/cvmfs_io.gone.test.repo)"), "{said}");
        assert!(mount.unmount().success());
    });
}
