//! All repositories on one directory: opened when they are used, closed when they are not, and each
//! on its own when something is wrong.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::publish::{Published, TestRepo};
use fixtures::server::{Rule, TestServer};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::walk::{assert_equal, get_xattr};
use tests::{MountSpec, TestMount, client, deadline};

const LIMIT: Duration = Duration::from_secs(200);
/// Longest wait for what is about to happen.
const SOON: Duration = Duration::from_secs(30);
/// Longer than a life of a server that counts as short.
const LIFE: Duration = Duration::from_millis(1050);

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    tests::wait_until(SOON, what, condition).unwrap();
}

/// Two genuine repositories behind one server.
struct Two {
    small: Genuine,
    shake: Genuine,
    server: TestServer,
}

impl Two {
    fn new() -> Self {
        let (small, shake) = (Genuine::small(), Genuine::shake());
        let server = TestServer::serving(small.dir());
        server.add_root(shake.dir());
        Self { small, shake, server }
    }

    fn spec(&self) -> MountSpec {
        let servers = format!("{}/@fqrn@", self.server.url());
        let keys = [self.small.public_key(), self.shake.public_key()];
        MountSpec::automount(&client!(), &servers, &[&keys[0], &keys[1]]).impatient()
    }

    fn assert_equal(&self, root: &Path) {
        for genuine in [&self.small, &self.shake] {
            assert_equal(&genuine.truth(), &root.join(genuine.fqrn()));
        }
    }
}

fn listed(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

fn count_open(mount: &TestMount) -> usize {
    mount.attribute("user.automount").unwrap().parse().unwrap()
}

fn published(server: &TestServer, repos: &[&Published]) -> MountSpec {
    for repo in repos {
        server.add_root(repo.root());
    }
    let keys: Vec<_> = repos.iter().map(|repo| repo.public_key()).collect();
    let keys: Vec<_> = keys.iter().map(PathBuf::as_path).collect();
    let servers = format!("{}/@fqrn@", server.url());
    MountSpec::automount(&client!(), &servers, &keys).impatient()
}

#[test]
fn genuine_repositories_are_shown_beside_each_other() {
    deadline(LIMIT, || {
        let two = Two::new();
        let mount = two.spec().start();
        assert!(listed(mount.root()).is_empty());
        assert_eq!(two.server.count("*"), 0, "nothing is asked for before it is used");
        two.assert_equal(mount.root());
        assert_eq!(listed(mount.root()), ["shake.test.repo", "small.test.repo"]);

        for (name, genuine) in [("small.test.repo", &two.small), ("shake.test.repo", &two.shake)] {
            let root = mount.path(name);
            let attribute = |name: &str| get_xattr(&root, name.as_bytes()).unwrap();
            assert_eq!(attribute("user.fqrn"), name.as_bytes());
            assert_eq!(attribute("user.revision"), genuine.revision().to_string().as_bytes());
            assert_eq!(attribute("user.pid"), mount.attribute("user.pid").unwrap().as_bytes());
            let files = nix::sys::statvfs::statvfs(&root).unwrap().files();
            assert!(files >= genuine.truth().len() as u64 / 2, "{files}");
        }
        assert_eq!(mount.attribute("user.repositories").unwrap(), listed(mount.root()).join("\n"));
        assert_eq!(mount.attribute("user.fqrn"), None);
        assert!(nix::sys::statvfs::statvfs(mount.root()).unwrap().blocks() > 0);

        // One file system: tools that stay on one see all of it, each entry once.
        let mut find = Command::new("find");
        let found = find.arg(mount.root()).args(["-xdev", "-printf", "x"]).output().unwrap();
        assert!(found.stderr.is_empty(), "{}", String::from_utf8_lossy(&found.stderr));
        let all = 1 + two.small.truth().len() + two.shake.truth().len();
        assert_eq!(found.stdout.len(), all);
        let long = Command::new("ls").arg("-la").arg(mount.root()).output().unwrap();
        let long = String::from_utf8(long.stdout).unwrap();
        assert_eq!(long.matches(".test.repo\n").count(), 2, "{long}");
        assert_eq!(long.lines().count(), 5, "{long}");
        let ino = |path: PathBuf| fs::metadata(path).unwrap().ino();
        let up = ino(mount.path("small.test.repo/.."));
        assert_eq!(up, ino(mount.root().to_owned()));
        assert_eq!(ino(mount.path("small.test.repo/many/..")), ino(mount.path("small.test.repo")));
        assert!(mount.unmount().success());
    });
}

#[test]
fn names_that_are_no_repositories_cost_one_attempt_at_most_and_leave_nothing() {
    deadline(LIMIT, || {
        let two = Two::new();
        let mount = two.spec().start();
        let impossible: [&[u8]; 7] = [
            b".git",
            b"lib",
            b"a b.test.repo",
            b"\xff.test.repo",
            b".x.test.repo",
            b"x.",
            b"autorun",
        ];
        for name in impossible {
            let path = mount.root().join(OsStr::from_bytes(name));
            assert_eq!(errno(fs::metadata(&path)), Some(libc::ENOENT), "{path:?}");
        }
        assert_eq!(two.server.count("*"), 0);
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    for path in ["none.test.repo", "none.test.repo/x"] {
                        assert_eq!(errno(fs::metadata(mount.path(path))), Some(libc::ENOENT));
                    }
                });
            }
        });
        assert_eq!(two.server.count("/none.test.repo/.cvmfspublished"), 1);
        assert!(listed(mount.root()).is_empty());
        // An outage is not absence.
        two.server.rule(Rule::on("/dark.test.repo/*").status(503));
        assert_eq!(errno(fs::metadata(mount.path("dark.test.repo"))), Some(libc::EIO));
        let asked = two.server.count("/dark.test.repo/*");
        assert_eq!(errno(fs::metadata(mount.path("dark.test.repo"))), Some(libc::EIO));
        assert_eq!(two.server.count("/dark.test.repo/*"), asked, "remembered");
        let traces = Command::new("find").arg(mount.cache_dir()).output().unwrap();
        let traces = String::from_utf8(traces.stdout).unwrap();
        for name in ["none.test.repo", "dark.test.repo"] {
            assert!(!traces.contains(name), "{traces}");
        }
    });
}

#[test]
fn a_strict_list_is_shown_and_nothing_else_is_asked_for() {
    deadline(LIMIT, || {
        let two = Two::new();
        let spec = two.spec().arg("--repo=small.test.repo,rmd.test.repo").arg("--only-listed");
        let mount = spec.start();
        assert_eq!(listed(mount.root()), ["rmd.test.repo", "small.test.repo"]);
        assert_eq!(errno(fs::metadata(mount.path("shake.test.repo"))), Some(libc::ENOENT));
        assert_eq!(two.server.count("*"), 0);
        assert_equal(&two.small.truth(), &mount.path("small.test.repo"));
        // It is listed, and the server says that it does not have it, which nobody has signed.
        assert_eq!(errno(fs::metadata(mount.path("rmd.test.repo"))), Some(libc::EIO));
        assert_eq!(listed(mount.root()), ["rmd.test.repo", "small.test.repo"]);
    });
}

#[test]
fn first_lookups_at_once_open_a_repository_once() {
    deadline(LIMIT, || {
        let two = Two::new();
        let mount = two.spec().start();
        std::thread::scope(|scope| {
            for reader in 0..16 {
                let (mount, name) = (&mount, ["small.test.repo", "shake.test.repo"][reader % 2]);
                scope.spawn(move || assert!(fs::read_dir(mount.path(name)).unwrap().count() > 0));
            }
        });
        for name in ["small", "shake"] {
            assert_eq!(two.server.count(&format!("/{name}.test.repo/.cvmfspublished")), 1);
        }
    });
}

/// A shell with its working directory inside.
fn shell_in(directory: &Path, line: &str) -> Child {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("read go; {line}")).current_dir(directory);
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn let_go(shell: Child) -> String {
    let mut shell = shell;
    io::Write::write_all(shell.stdin.as_mut().unwrap(), b"go\n").unwrap();
    let said = shell.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    assert!(said.status.success(), "{}{}", text(said.stdout), text(said.stderr));
    text(said.stdout)
}

#[test]
fn repositories_that_nobody_uses_are_closed_and_come_back_the_same() {
    deadline(LIMIT, || {
        let two = Two::new();
        let mount = two.spec().arg("--idle-timeout=1").start();
        two.assert_equal(mount.root());
        let ino = |path: &str| mount.lstat(path).ino();
        let paths = ["small.test.repo", "small.test.repo/many", "small.test.repo/many/f7"];
        let before = paths.map(ino);
        let shells = [
            shell_in(&mount.path("small.test.repo"), "pwd -P && cat many/f7 && ls | wc -l"),
            shell_in(&mount.path("small.test.repo/many"), "pwd -P && cat f7 && ls .. | wc -l"),
        ];
        // The kernel opens files by itself: one that is held and not read counts as unused, too.
        let file = two
            .shake
            .truth()
            .into_iter()
            .find(|e| {
                e.size.is_some_and(|size| size > 0)
                    && e.entry_type == fixtures::genuine::EntryType::File
            })
            .unwrap();
        let path = mount.path("shake.test.repo").join(OsStr::from_bytes(&file.path));
        // Reads of it are not answered from the page cache.
        let held = File::options().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
        wait_until("both are closed", || count_open(&mount) == 0);
        assert_eq!(listed(mount.root()), [""; 0]);
        two.server.reset_log();
        let [root, many] = shells.map(let_go);
        let expected = mount.path("small.test.repo").display().to_string();
        assert!(root.starts_with(&format!("{expected}\n")), "{root}");
        assert!(many.starts_with(&format!("{expected}/many\nfile 7")), "{many}");
        assert_eq!(two.server.count("/small.test.repo/.cvmfspublished"), 1, "opened again");
        assert_eq!(paths.map(ino), before);
        two.assert_equal(mount.root());
        assert!(held.read_at(&mut [0; 9], 0).unwrap() > 0);
        drop(held);
        wait_until("both are closed", || count_open(&mount) == 0);
        // Even without network.
        two.server.set_network(fixtures::server::Network::Refusing);
        assert_equal(&two.small.truth(), &mount.path("small.test.repo"));
        assert_eq!(paths.map(ino), before);
    });
}

#[test]
fn what_is_wrong_with_one_repository_is_not_seen_in_another() {
    deadline(LIMIT, || {
        let two = Two::new();
        let mount = two.spec().start();
        let forged = two.server.rule(Rule::on("/shake.test.repo/.cvmfspublished").flip_bit(3000));
        let silent = fixtures::server::Gate::new();
        let slow = two.server.rule(Rule::on("/slow.test.repo/*").gate(&silent));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| fs::metadata(mount.path("slow.test.repo")));
            assert!(silent.wait_held(1, SOON));
            assert_eq!(errno(fs::metadata(mount.path("shake.test.repo"))), Some(libc::EIO));
            assert_equal(&two.small.truth(), &mount.path("small.test.repo"));
            silent.release();
            assert!(errno(waiting.join().unwrap()).is_some());
        });
        assert!(mount.log().contains("shake.test.repo"), "{}", mount.log());
        two.server.remove(forged);
        two.server.remove(slow);
        // Tried again, some seconds later.
        wait_until("it is there", || fs::metadata(mount.path("shake.test.repo")).is_ok());
        two.assert_equal(mount.root());
    });
}

fn versioned(name: &str) -> (TestRepo, Published) {
    let mut repo = TestRepo::new(name);
    repo.ttl(1);
    repo.file("/d/version", b"1".to_vec());
    repo.file("/d/same", b"same".to_vec());
    let published = repo.publish();
    (repo, published)
}

fn publish(repo: &mut TestRepo, version: &str) {
    repo.file("/d/version", version.as_bytes().to_vec());
    repo.publish();
}

#[test]
fn each_repository_follows_its_own_revisions() {
    deadline(LIMIT, || {
        let (mut first, one) = versioned("one.test.repo");
        let (_second, other) = versioned("other.test.repo");
        let server = TestServer::empty();
        let mount = published(&server, &[&one, &other]).start();
        let read = |repo: &str, name: &str| {
            fs::read_to_string(mount.path(format!("{repo}/d/{name}"))).unwrap()
        };
        let ino = |path: &str| mount.lstat(path).ino();
        let same = ["one.test.repo/d/same", "other.test.repo/d/version"];
        let before = same.map(ino);
        assert_eq!(
            (read("one.test.repo", "version"), read("other.test.repo", "version")),
            ("1".into(), "1".into())
        );
        let held = File::open(mount.path("one.test.repo/d/version")).unwrap();
        publish(&mut first, "2");
        wait_until("the new revision", || read("one.test.repo", "version") == "2");
        assert_eq!(same.map(ino), before);
        assert_eq!(read("other.test.repo", "version"), "1");
        let mut old = [0; 1];
        held.read_exact_at(&mut old, 0).unwrap();
        assert_eq!(&old, b"1");
    });
}

#[test]
fn a_repository_that_comes_back_shows_what_was_published_meanwhile() {
    deadline(LIMIT, || {
        let (mut repo, one) = versioned("one.test.repo");
        let server = TestServer::empty();
        let mount = published(&server, &[&one]).arg("--idle-timeout=1").start();
        let version = mount.path("one.test.repo/d/version");
        for number in 2..5_u32 {
            let before = fs::read_to_string(&version).unwrap();
            assert_eq!(before, (number - 1).to_string());
            // By a name that the kernel knew, and from inside.
            let shell = number % 2 == 1;
            let inside = mount.path("one.test.repo/d");
            let shell = shell.then(|| shell_in(&inside, "cat version"));
            let same = mount.lstat("one.test.repo/d/same").ino();
            wait_until("it is closed", || count_open(&mount) == 0);
            publish(&mut repo, &number.to_string());
            // The very first answer.
            let first = match shell {
                Some(shell) => let_go(shell),
                None => fs::read_to_string(&version).unwrap(),
            };
            assert_eq!(first, number.to_string());
            assert_eq!(mount.lstat("one.test.repo/d/same").ino(), same);
        }
    });
}

/// An automount in the background, as users have it.
struct Background {
    mountpoint: PathBuf,
    scratch: tempfile::TempDir,
}

impl Background {
    fn start(spec: &MountSpec) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mountpoint = scratch.path().join("mount");
        fs::create_dir(&mountpoint).unwrap();
        let this = Self { mountpoint, scratch };
        let said = this.again(spec);
        assert!(said.contains("mounted cvmfs on"), "{said}");
        this
    }

    /// Runs the same command once more.
    fn again(&self, spec: &MountSpec) -> String {
        let output = spec.command(&self.mountpoint, &self.scratch.path().join("cache")).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The server that answers now.
    fn server(&self) -> Pid {
        let text = get_xattr(&self.mountpoint, b"user.pid").unwrap();
        Pid::from_raw(String::from_utf8(text).unwrap().parse().unwrap())
    }

    fn umount(&self, flags: &[&str]) -> bool {
        let mut command = client!().command();
        command.arg("umount").args(flags).arg(&self.mountpoint).status().unwrap().success()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let mut command = client!().command();
        let _ = command.args(["umount", "--lazy"]).arg(&self.mountpoint).output();
    }
}

#[test]
fn readers_of_several_repositories_notice_nothing_when_the_server_is_killed() {
    deadline(LIMIT, || {
        let two = Two::new();
        let spec = two.spec();
        let mount = Background::start(&spec);
        assert!(mount.again(&spec).contains("already mounted on"));
        two.assert_equal(&mount.mountpoint);
        let genuine = MountSpec::genuine(&client!(), &two.small, &two.server);
        let place = mount.mountpoint.join("small.test.repo");
        let again = genuine.command(&place, &mount.scratch.path().join("other")).output().unwrap();
        assert!(String::from_utf8_lossy(&again.stdout).contains("already mounted"), "{again:?}");
        let at = |path: &str| mount.mountpoint.join(path);
        let ino = |path: &str| fs::symlink_metadata(at(path)).unwrap().ino();
        let before =
            [ino("small.test.repo"), ino("shake.test.repo"), ino("small.test.repo/many/f9")];
        let large = fs::read(at("small.test.repo/big-chunked.bin")).unwrap();
        let held = File::open(at("small.test.repo/big-chunked.bin")).unwrap();
        let shell = shell_in(&at("shake.test.repo"), "pwd -P && ls | wc -l");
        let (stop, calls) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for reader in 0..8_usize {
                let (stop, calls, held, large, at) = (&stop, &calls, &held, &large, &at);
                scope.spawn(move || {
                    let mut round = reader;
                    while !stop.load(Ordering::Relaxed) {
                        match round % 4 {
                            0 => {
                                let n = round % 2990 + 2;
                                let read =
                                    fs::read(at(&format!("small.test.repo/many/f{n}"))).unwrap();
                                assert!(read.starts_with(format!("file {n}").as_bytes()));
                            }
                            1 => {
                                let offset = (round * 7919) % (large.len() - 5000);
                                let mut piece = vec![0; 5000];
                                held.read_exact_at(&mut piece, offset as u64).unwrap();
                                assert_eq!(piece, large[offset..offset + 5000]);
                            }
                            2 => {
                                // Asks the server: values of attributes are not kept.
                                let name = ["small.test.repo", "shake.test.repo"][round / 4 % 2];
                                let fqrn = get_xattr(&at(name), b"user.fqrn").unwrap();
                                assert_eq!(fqrn, name.as_bytes());
                            }
                            _ => assert_eq!(listed(&at("")).len(), 2),
                        }
                        calls.fetch_add(1, Ordering::Relaxed);
                        round += 8;
                    }
                });
            }
            for _ in 0..6 {
                #[expect(clippy::disallowed_methods, reason = "the life of a server is the load")]
                std::thread::sleep(LIFE);
                let old = mount.server();
                kill(old, Signal::SIGKILL).unwrap();
                // This very call waits for the successor.
                assert_ne!(mount.server(), old);
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(calls.load(Ordering::Relaxed) > 100);
        let said = let_go(shell);
        assert!(said.starts_with(&format!("{}\n", at("shake.test.repo").display())), "{said}");
        two.assert_equal(&mount.mountpoint);
        let after =
            [ino("small.test.repo"), ino("shake.test.repo"), ino("small.test.repo/many/f9")];
        assert_eq!(before, after);
        let mut upgrade = client!().command();
        let upgraded = upgrade.arg("upgrade").arg(&mount.mountpoint).output().unwrap();
        assert!(upgraded.status.success(), "{}", String::from_utf8_lossy(&upgraded.stderr));
        two.assert_equal(&mount.mountpoint);
        held.read_exact_at(&mut [0; 9], 0).unwrap();
        drop(held);
        let last = mount.server();
        assert!(mount.umount(&[]));
        wait_until("the server ends", || !Path::new(&format!("/proc/{last}")).exists());
    });
}

/// What containers do with `-v DIR:DIR:rshared` and `rslave`, in namespaces of their own.
#[test]
fn other_containers_see_all_repositories_through_a_shared_directory() {
    deadline(LIMIT, || {
        let two = Two::new();
        let script = r#"
set -eu
# Copies of the mounts of other tests, which could not end while they are here.
umount -alt fuse 2>/dev/null || true
mount -t tmpfs tmpfs "$STAGE"
mount --make-rshared "$STAGE"
cd "$STAGE"
mkdir cvmfs before after
mount --bind cvmfs cvmfs
keep='sleep 1000 & echo $! > "$0.pid"; wait'
bind='mount --rbind cvmfs "$0"; mount --make-rslave "$0"; touch "$0.ready"; '
until_there() { for _ in $(seq 300); do [ -e "$1" ] && return; sleep 0.1; done; exit 9; }
unshare --mount --propagation unchanged sh -c "$bind$keep" before &
until_there before.ready
# The service: nothing but the mount is made in its namespace.
unshare --mount --propagation unchanged "$CLIENT" automount "$STAGE/cvmfs" --foreground \
    --server "$SERVER" --public-key "$KEYS" --cache-dir "$STAGE/cache" -o allow_other >log 2>&1 &
service=$!
for _ in $(seq 300); do grep -q 'mounted cvmfs on' log && break; sleep 0.1; done
unshare --mount --propagation unchanged sh -c "$bind$keep" after &
until_there after.ready
look() {
    for user in before after; do
        [ "$(nsenter -t "$(cat $user.pid)" -m cat "$STAGE/$user/small.test.repo/hello.txt")" = "hello cvmfs" ]
        nsenter -t "$(cat $user.pid)" -m setpriv --reuid 1234 --clear-groups ls "$STAGE/$user/shake.test.repo" >/dev/null
    done
    [ "$(cat cvmfs/small.test.repo/hello.txt)" = "hello cvmfs" ]
}
look
# Its server is killed; the service goes on.
server=$(getfattr --only-values --absolute-names -n user.pid cvmfs 2>/dev/null || cat "/proc/$service/task/$service/children")
kill -9 $server
look
kill -TERM $service
wait $service
[ "$(nsenter -t "$(cat before.pid)" -m ls "$STAGE/before" | wc -l)" = 0 ]
echo done
"#;
        let stage = tempfile::tempdir().unwrap();
        let keys = [two.small.public_key(), two.shake.public_key()];
        let output = Command::new("timeout")
            .args(["--kill-after=5", "120", "unshare", "--mount", "--pid", "--fork"])
            .args(["--mount-proc", "--kill-child", "--propagation", "private"])
            .args(["sh", "-c", tests::apart::WITHOUT_COPIES, "sh", "bash", "-c", script])
            .env("STAGE", stage.path())
            .env("CLIENT", client!().command().get_program())
            .env("SERVER", format!("{}/@fqrn@", two.server.url()))
            .env("KEYS", keys.map(|key| key.into_os_string()).join(OsStr::new(":")))
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && shown.ends_with("done\n"), "{shown}\n{errors}");
    });
}

#[test]
fn a_holder_keeps_all_repositories_when_every_process_of_the_mount_dies() {
    deadline(LIMIT, || {
        let two = Two::new();
        let hold = tempfile::tempdir().unwrap();
        let socket = hold.path().join("socket");
        let mut holder = client!().command();
        let mut holder = holder.arg("hold").arg("--socket").arg(&socket).spawn().unwrap();
        wait_until("the holder listens", || socket.exists());
        let spec = two.spec().arg("--holder").arg(&socket);
        let mount = Background::start(&spec);
        two.assert_equal(&mount.mountpoint);
        let at = |path: &str| mount.mountpoint.join(path);
        let held = File::open(at("small.test.repo/many/f7")).unwrap();
        let shell = shell_in(&at("shake.test.repo"), "pwd -P && ls | wc -l");
        let ino = |path: &str| fs::symlink_metadata(at(path)).unwrap().ino();
        let before = ["small.test.repo/many/f7", "shake.test.repo"].map(ino);
        let server = mount.server();
        let status = fs::read_to_string(format!("/proc/{server}/status")).unwrap();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
        let supervisor = Pid::from_raw(parent.trim().parse().unwrap());
        kill(supervisor, Signal::SIGKILL).unwrap();
        wait_until("nothing is left", || !Path::new(&format!("/proc/{server}")).exists());
        assert!(mount.again(&spec).contains("mounted cvmfs on"));
        assert_ne!(mount.server(), server);
        assert_eq!(["small.test.repo/many/f7", "shake.test.repo"].map(ino), before);
        let mut text = [0; 6];
        held.read_exact_at(&mut text, 0).unwrap();
        assert_eq!(&text, b"file 7");
        let said = let_go(shell);
        assert!(said.starts_with(&format!("{}\n", at("shake.test.repo").display())), "{said}");
        two.assert_equal(&mount.mountpoint);
        drop(held);
        assert!(mount.umount(&[]));
        kill(Pid::from_raw(i32::try_from(holder.id()).unwrap()), Signal::SIGTERM).unwrap();
        holder.wait().unwrap();
    });
}
