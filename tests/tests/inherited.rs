//! Mounts and commands that are started by processes in an unusual state: limits, signals, umask,
//! descriptors, directory, environment.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::server::TestServer;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::apart::private_mounts;
use tests::mountinfo::MountInfo;
use tests::site::shown;
use tests::{client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(200);
const CONDITION: Duration = Duration::from_secs(30);
/// A file that is larger than the limits of files below.
const LARGE: &str = "big-chunked.bin";

struct Place {
    genuine: Genuine,
    server: TestServer,
    scratch: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        private_mounts();
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("m")).unwrap();
        Self { genuine, server, scratch }
    }

    fn mountpoint(&self) -> String {
        self.scratch.path().join("m").to_str().unwrap().to_owned()
    }

    /// Runs the program by a command line that puts the words of the program at its end.
    fn run(&self, before: &[&str], words: &[&str]) -> Output {
        let program = client!().command().get_program().to_owned();
        let (first, rest) = before.split_first().unwrap();
        let mut command = Command::new(first);
        command.args(rest).arg(program).args(words);
        // As the client of other tests: no files of this machine.
        command.env("CVMFS_FUSE_CONFIG_DIR", self.scratch.path().join("etc"));
        command.current_dir(self.scratch.path()).output().unwrap()
    }

    fn mount(&self, before: &[&str], cache: &str) -> Output {
        let base = self.server.base(self.genuine.fqrn());
        let key = self.genuine.public_key().to_str().unwrap().to_owned();
        let cache = self.scratch.path().join(cache).to_str().unwrap().to_owned();
        let words = ["mount", self.genuine.fqrn(), &self.mountpoint(), "--server", &base];
        let rest = ["--public-key", &key, "--proxy", "DIRECT", "--cache-dir", &cache];
        self.run(before, &[&words[..], &rest[..]].concat())
    }

    fn attribute(&self, name: &[u8]) -> String {
        let value = tests::walk::get_xattr(self.mountpoint().as_ref(), name).unwrap();
        String::from_utf8(value).unwrap()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.attribute(b"user.pid").parse().unwrap())
    }

    /// Reads, lets the server be replaced twice, reads again, and lets the mount end by a signal.
    fn assert_survives(&self, state: &str) {
        let at = |name: &str| self.scratch.path().join("m").join(name);
        let expected = std::fs::read(at(LARGE)).unwrap();
        assert!(expected.len() > 2 << 20, "{state}");
        let supervisor = parent_of(self.pid());
        for _ in 0..2 {
            let server = self.pid();
            kill(server, Signal::SIGKILL).unwrap();
            assert_ne!(self.pid(), server, "{state}");
            assert_eq!(std::fs::read(at("hello.txt")).unwrap(), b"hello cvmfs\n", "{state}");
        }
        assert_eq!(std::fs::read(at(LARGE)).unwrap(), expected, "{state}");
        kill(supervisor, Signal::SIGTERM).unwrap();
        let ended = || !std::path::Path::new(&format!("/proc/{supervisor}")).exists();
        wait_until(CONDITION, "the end of the supervisor", ended).unwrap();
        assert!(MountInfo::of(self.mountpoint().as_ref()).is_none(), "{state}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while MountInfo::of(self.mountpoint().as_ref()).is_some() {
            let _ = nix::mount::umount2(&*self.mountpoint(), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

fn parent_of(pid: Pid) -> Pid {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    Pid::from_raw(line.trim().parse().unwrap())
}

/// Mounts in each state, and expects that nothing is different.
fn assert_each(states: &[&[&str]]) {
    deadline(LIMIT, || {
        let place = Place::new();
        for (number, state) in states.iter().enumerate() {
            let output = place.mount(state, &format!("cache-{number}"));
            assert!(output.status.success(), "{state:?}: {}", shown(&output));
            place.assert_survives(&format!("{state:?}"));
        }
    });
}

#[test]
fn low_limits() {
    assert_each(&[
        &["prlimit", "--fsize=1000000:unlimited"],
        // Not to be raised: what cannot be kept in the cache is served all the same.
        &["prlimit", "--fsize=1000000"],
        &["prlimit", "--cpu=1:unlimited", "--as=60000000:unlimited", "--data=60000000:unlimited"],
        &["prlimit", "--core=0", "--memlock=0", "--sigpending=10", "--msgqueue=0", "--nofile=256"],
        &["prlimit", "--stack=262144:unlimited"],
    ]);
}

#[test]
fn signals_ignored_or_blocked() {
    assert_each(&[
        &["env", "--ignore-signal=CHLD"],
        &["env", "--ignore-signal"],
        &["env", "--block-signal"],
        &["env", "--ignore-signal", "--block-signal"],
        &["nohup"],
    ]);
}

#[test]
fn descriptors_directory_environment_and_priority() {
    assert_each(&[
        &["sh", "-c", "exec \"$0\" \"$@\" <&- >&- 2>&-"],
        &["sh", "-c", "mkdir gone && cd gone && rmdir ../gone && exec \"$0\" \"$@\""],
        &["sh", "-c", "exec env -i CVMFS_FUSE_CONFIG_DIR=\"$CVMFS_FUSE_CONFIG_DIR\" \"$0\" \"$@\""],
        &["nice", "-n", "19"],
    ]);
}

#[test]
fn any_umask() {
    deadline(LIMIT, || {
        let place = Place::new();
        for umask in ["0", "0002", "0777"] {
            let shell = format!("umask {umask}; exec \"$0\" \"$@\"");
            let cache = format!("cache-{umask}");
            let output = place.mount(&["sh", "-c", &shell], &cache);
            assert!(output.status.success(), "{umask}: {}", shown(&output));
            place.assert_survives(umask);
            let log = place.scratch.path().join(&cache).join("log").read_dir().unwrap().find_map(
                |entry| {
                    let entry = entry.unwrap();
                    entry.file_name().to_str().unwrap().ends_with(".log").then(|| entry.path())
                },
            );
            let mode = log.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o622, 0o600, "{umask}: {mode:o}");
        }
    });
}

/// What is run gets what its caller had, not what servers need.
#[test]
fn a_command_of_run_has_the_state_of_its_caller() {
    deadline(LIMIT, || {
        let place = Place::new();
        let base = place.server.base(place.genuine.fqrn());
        let key = place.genuine.public_key().to_str().unwrap().to_owned();
        let cache = place.scratch.path().join("cache").to_str().unwrap().to_owned();
        let show = "umask; ulimit -f; ulimit -t; grep -E '^Sig(Ign|Blk)' /proc/self/status";
        let state = ["prlimit", "--fsize=1024000:unlimited", "--cpu=77:88", "env"];
        let signals = ["--ignore-signal=CHLD", "--block-signal=USR1"];
        let umask = ["sh", "-c", "umask 0027; exec \"$0\" \"$@\""];
        let before = [&state[..], &signals[..], &umask[..]].concat();
        let plain = {
            let mut command = Command::new(before[0]);
            command.args(&before[1..]).args(["sh", "-c", show]).output().unwrap()
        };
        let words = ["run", "--repo", place.genuine.fqrn(), "--server", &base];
        let rest = ["--public-key", &key, "--proxy", "DIRECT", "--cache-dir", &cache];
        let root = ["--mount-root", &place.mountpoint(), "--", "sh", "-c", show].map(str::to_owned);
        let root: Vec<_> = root.iter().map(String::as_str).collect();
        let output = place.run(&before, &[&words[..], &rest[..], &root[..]].concat());
        assert!(output.status.success(), "{}", shown(&output));
        let text = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
        assert_eq!(text(&output), text(&plain));
    });
}
