//! A mount survives its server: killed again and again under load, it goes on without an error.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fixtures::genuine::Genuine;
use fixtures::publish::TestRepo;
use fixtures::server::TestServer;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::walk::{assert_equal, get_xattr};
use tests::{Client, MountSpec, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(220);
/// Longer than a life that counts as short; a server that dies at once is not what is tested here.
const LIFE: Duration = Duration::from_millis(1050);

/// A mount in the background, as users have it.
struct Background {
    client: Client,
    mountpoint: PathBuf,
    scratch: tempfile::TempDir,
}

impl Background {
    fn start(spec: &MountSpec) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mountpoint = scratch.path().join("mount");
        std::fs::create_dir(&mountpoint).unwrap();
        let mut command = spec.command(&mountpoint, &scratch.path().join("cache"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { client: client!(), mountpoint, scratch }
    }

    /// The server that answers now.
    fn server(&self) -> Pid {
        let text = get_xattr(&self.mountpoint, b"user.pid").unwrap();
        Pid::from_raw(String::from_utf8(text).unwrap().parse().unwrap())
    }

    fn supervisor(&self) -> Pid {
        parent_of(self.server())
    }

    fn log(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.scratch.path().join("cache/log")).into_iter().flatten()
        {
            text.push_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default());
        }
        text
    }

    fn unmount(&self) {
        let status = self.client.command().arg("umount").arg(&self.mountpoint).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.client.command().args(["umount", "--lazy"]).arg(&self.mountpoint).output();
    }
}

fn parent_of(pid: Pid) -> Pid {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("PPid:")).unwrap();
    Pid::from_raw(line.split_whitespace().nth(1).unwrap().parse().unwrap())
}

fn is_alive(pid: Pid) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Kills a server and waits for the next one; returns how long a call took meanwhile.
fn kill_and_wait(mount: &Background) -> Duration {
    let old = mount.server();
    kill(old, Signal::SIGKILL).unwrap();
    let start = Instant::now();
    // This very call waits for the successor.
    assert_ne!(mount.server(), old);
    start.elapsed()
}

/// 100 for a full run; each takes a second.
#[expect(clippy::disallowed_methods, reason = "how long a test runs is no setting of the program")]
fn kills() -> usize {
    std::env::var("CVMFS_FUSE_TEST_TAKEOVERS").map_or(15, |text| text.parse().unwrap())
}

/// 20 for a full run.
#[expect(clippy::disallowed_methods, reason = "how long a test runs is no setting of the program")]
fn upgrades() -> usize {
    std::env::var("CVMFS_FUSE_TEST_UPGRADES").map_or(5, |text| text.parse().unwrap())
}

/// A file mapped into memory.
struct Mapping {
    file: File,
    start: *mut libc::c_void,
    len: usize,
}

// SAFETY: the mapping is read-only, and stays until it is dropped.
unsafe impl Send for Mapping {}

impl Mapping {
    fn of(file: File, len: usize) -> Self {
        let (read, private) = (libc::PROT_READ, libc::MAP_PRIVATE);
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&file);
        // SAFETY: a new mapping at a place that the kernel chooses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, read, private, descriptor, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        Self { file, start, len }
    }

    /// Compares some bytes with what they should be. The kernel forgets the pages before, so that
    /// the server is asked.
    fn compare(&self, expected: &[u8], offset: usize, len: usize) {
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&self.file);
        // SAFETY: both only drop clean pages, which come back when they are touched.
        unsafe {
            libc::madvise(self.start, self.len, libc::MADV_DONTNEED);
            libc::posix_fadvise(descriptor, 0, 0, libc::POSIX_FADV_DONTNEED);
        }
        assert!(offset + len <= self.len);
        // SAFETY: within the mapping, which nobody writes to.
        let bytes = unsafe { std::slice::from_raw_parts(self.start.cast::<u8>().add(offset), len) };
        assert!(bytes == &expected[offset..offset + len], "wrong bytes in a mapping");
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by mmap with this length; nobody has a reference.
        unsafe { libc::munmap(self.start, self.len) };
    }
}

/// Another container: a mount namespace with private propagation, with its working directory and an
/// open file inside, that reads until its input ends, and fails if anything fails.
fn container_in(directory: &Path) -> Child {
    const SCRIPT: &str = r#"
exec 3<f7; n=0
while ! read -t 0.01 line; do
    [ "$(cat f$((n % 190 + 2)))" = "file $((n % 190 + 2))" ] || exit 9
    [ $(ls | wc -l) -ge 3000 ] || exit 8
    n=$((n + 1))
done
cat <&3; pwd -P"#;
    Command::new("unshare")
        .args(["--mount", "--propagation", "private", "bash", "-c"])
        .arg(format!("cd '{}' && {{ {SCRIPT}\n}}", directory.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn say_go(child: Child) -> (bool, String) {
    let mut child = child;
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
    let said = child.wait_with_output().unwrap();
    (said.status.success(), String::from_utf8(said.stdout).unwrap())
}

/// A shell with its working directory inside.
fn shell_in(directory: &Path) -> Child {
    Command::new("sh")
        .arg("-c")
        .arg("read line; cat f7 && ls | wc -l && pwd -P")
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn no_call_fails_and_no_byte_is_wrong_while_servers_are_killed() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let mount = Background::start(&MountSpec::genuine(&client!(), &genuine, &server));
        let supervisor = mount.supervisor();
        let truth = genuine.truth();
        assert_equal(&truth, &mount.mountpoint);
        let at = |name: &str| mount.mountpoint.join(name);
        let expected: Vec<Vec<u8>> =
            (2..=201).map(|n| std::fs::read(at(&format!("many/f{n}"))).unwrap()).collect();
        let large = std::fs::read(at("big-chunked.bin")).unwrap();
        let held = File::open(at("big-chunked.bin")).unwrap();
        let shell = shell_in(&at("many"));
        let container = container_in(&at("many"));
        let (stop, calls, worst) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        let (mut pauses, mut upgraded) = (Vec::new(), Vec::new());
        std::thread::scope(|scope| {
            for reader in 0..32 {
                let (expected, large, held, stop, calls, worst) =
                    (&expected, &large, &held, &stop, &calls, &worst);
                let root = mount.mountpoint.clone();
                let mapping =
                    Mapping::of(File::open(root.join("big-chunked.bin")).unwrap(), large.len());
                scope.spawn(move || {
                    let mapping = mapping;
                    let mut round = reader;
                    while !stop.load(Ordering::Relaxed) {
                        let start = Instant::now();
                        match reader % 5 {
                            0 => {
                                let n = round % expected.len();
                                let path = root.join(format!("many/f{}", n + 2));
                                assert_eq!(std::fs::read(path).unwrap(), expected[n]);
                            }
                            1 => {
                                // Past the page cache: the file is larger than what is kept hot.
                                let offset = (round * 7919) % (large.len() - 5000);
                                let mut piece = vec![0; 5000];
                                held.read_exact_at(&mut piece, offset as u64).unwrap();
                                assert_eq!(piece, large[offset..offset + 5000]);
                            }
                            2 => {
                                let offset = (round * 7919) % (large.len() - 5000);
                                mapping.compare(large, offset, 5000);
                            }
                            3 => {
                                let names = std::fs::read_dir(root.join("many")).unwrap();
                                let names = names.map(Result::unwrap).count();
                                assert!(names >= 3000, "{names}");
                            }
                            _ => {
                                let path = root.join(format!("many/f{}", round % 2990 + 2));
                                // Asks the server: names of attributes are not kept.
                                let revision = get_xattr(&path, b"user.revision").unwrap();
                                assert!(!revision.is_empty());
                            }
                        }
                        let took = u64::try_from(start.elapsed().as_millis()).unwrap();
                        worst.fetch_max(took, Ordering::Relaxed);
                        calls.fetch_add(1, Ordering::Relaxed);
                        round += 32;
                    }
                });
            }
            for _ in 0..kills() {
                #[expect(clippy::disallowed_methods, reason = "the life of a server is the load")]
                std::thread::sleep(LIFE);
                pauses.push(kill_and_wait(&mount));
            }
            for _ in 0..upgrades() {
                let old = mount.server();
                let start = Instant::now();
                let output = mount.client.command().arg("upgrade").arg(&mount.mountpoint).output();
                let output = output.unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                upgraded.push(start.elapsed());
                assert_ne!(mount.server(), old);
            }
            stop.store(true, Ordering::Relaxed);
        });
        pauses.sort();
        upgraded.sort();
        #[allow(clippy::print_stdout, reason = "figures for the reader of the log")]
        {
            println!(
                "{} kills, {} calls without an error; pause median {:?}, longest {:?}; slowest call {} ms; \
                 {} upgrades, command median {:?}",
                pauses.len(),
                calls.load(Ordering::Relaxed),
                pauses[pauses.len() / 2],
                pauses[pauses.len() - 1],
                worst.load(Ordering::Relaxed),
                upgraded.len(),
                upgraded.get(upgraded.len() / 2)
            );
        }
        for user in [shell, container] {
            let (success, said) = say_go(user);
            assert!(success && said.contains("/mount/many"), "{said}");
            assert!(said.starts_with("file 7"), "{said}");
        }
        assert_equal(&truth, &mount.mountpoint);
        assert_eq!(mount.supervisor(), supervisor);
        drop(held);
        mount.unmount();
        wait_until(Duration::from_secs(10), "the supervisor ends", || !is_alive(supervisor))
            .unwrap();
    });
}

#[test]
fn a_request_that_waits_for_the_network_is_answered_by_the_successor() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new("takeover.test.repo");
        repo.file("/slow", vec![7; 100_000]);
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount = Background::start(&MountSpec::published(&client!(), &published, &[&server]));
        let gate = fixtures::server::Gate::new();
        let object = published.object_path(&published.file_object("/slow").unwrap());
        let pattern = format!("*/{}", object.file_name().unwrap().to_str().unwrap());
        let rule = server.rule(fixtures::server::Rule::on(pattern).gate(&gate));
        std::thread::scope(|scope| {
            let path = mount.mountpoint.join("slow");
            let reader = scope.spawn(move || std::fs::read(path));
            assert!(gate.wait_held(1, Duration::from_secs(20)));
            kill_and_wait(&mount);
            server.remove(rule);
            gate.release();
            assert_eq!(reader.join().unwrap().unwrap(), vec![7; 100_000]);
        });
        mount.unmount();
    });
}

#[test]
fn what_kills_its_server_twice_is_refused_until_an_upgrade() {
    deadline(LIMIT, || {
        let mut repo = TestRepo::new("deadly.test.repo");
        repo.file("/deadly", vec![7; 100_000]);
        repo.file("/slow", vec![8; 100_000]);
        repo.file("/other", vec![9; 100_000]);
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let spec = MountSpec::published(&client!(), &published, &[&server]);
        let mount = Background::start(&spec);
        let pattern = |path: &str| {
            let object = published.object_path(&published.file_object(path).unwrap());
            format!("*/{}", object.file_name().unwrap().to_str().unwrap())
        };
        let gate = fixtures::server::Gate::new();
        let deadly = pattern("/deadly");
        let rule = server.rule(fixtures::server::Rule::on(deadly.clone()).gate(&gate));
        let slow = server.rule(fixtures::server::Rule::on(pattern("/slow")).gate(&gate));
        let read = |name: &str| std::fs::read(mount.mountpoint.join(name));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| read("deadly"));
            assert!(server.wait_for(&deadly, 1, Duration::from_secs(20)));
            kill_and_wait(&mount);
            // Its successor meets the same.
            assert!(server.wait_for(&deadly, 2, Duration::from_secs(20)));
            // What is under way for the first time is not blamed.
            let innocent = scope.spawn(|| read("slow"));
            assert!(server.wait_for(&pattern("/slow"), 1, Duration::from_secs(20)));
            kill_and_wait(&mount);
            let error = reader.join().unwrap().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
            assert_eq!(read("other").unwrap(), vec![9; 100_000]);
            server.remove(slow);
            gate.release();
            assert_eq!(innocent.join().unwrap().unwrap(), vec![8; 100_000]);
        });
        server.remove(rule);
        assert_eq!(read("deadly").unwrap_err().raw_os_error(), Some(libc::EIO));
        assert!(mount.log().contains("this file was being opened"), "{}", mount.log());
        assert_eq!(server.count(&deadly), 2);
        let upgraded = mount.client.command().arg("upgrade").arg(&mount.mountpoint).output();
        assert!(upgraded.unwrap().status.success());
        assert_eq!(read("deadly").unwrap(), vec![7; 100_000]);
        mount.unmount();
    });
}

#[test]
fn an_upgrade_replaces_the_server_and_a_stop_ends_both() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let mount = Background::start(&MountSpec::genuine(&client!(), &genuine, &server));
        let (supervisor, old) = (mount.supervisor(), mount.server());
        let held = File::open(mount.mountpoint.join("many/f3")).unwrap();
        kill(supervisor, Signal::SIGHUP).unwrap();
        wait_until(Duration::from_secs(20), "another server", || mount.server() != old).unwrap();
        assert_equal(&genuine.truth(), &mount.mountpoint);
        let mut piece = [0; 4];
        held.read_exact_at(&mut piece, 0).unwrap();
        assert_eq!(&piece, b"file");
        assert!(!mount.log().contains("the server died"), "{}", mount.log());
        drop(held);
        let last = mount.server();
        kill(supervisor, Signal::SIGTERM).unwrap();
        wait_until(Duration::from_secs(20), "both end", || {
            !is_alive(supervisor) && !is_alive(last)
        })
        .unwrap();
        assert!(tests::mountinfo::MountInfo::of(&mount.mountpoint).is_none());
    });
}

#[test]
fn a_mount_in_the_foreground_survives_its_server_too() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let mut mount = MountSpec::genuine(&client!(), &genuine, &server).start();
        let old = mount.server();
        assert_eq!(parent_of(old), mount.pid());
        let held = File::open(mount.path("many/f3")).unwrap();
        kill(old, Signal::SIGKILL).unwrap();
        assert_equal(&genuine.truth(), mount.root());
        assert_ne!(mount.server(), old);
        let mut piece = [0; 4];
        held.read_exact_at(&mut piece, 0).unwrap();
        drop(held);
        // Messages of all of them are on its stderr, and the exit code is as before.
        assert!(mount.log().contains("the server died"), "{}", mount.log());
        kill(mount.pid(), Signal::SIGTERM).unwrap();
        let status = mount.wait_exit();
        assert!(status.success(), "{status}\n{}", mount.log());
        assert!(tests::mountinfo::MountInfo::of(mount.root()).is_none());
    });
}

#[test]
fn without_its_supervisor_a_mount_works_and_dies_with_its_server() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let spec = MountSpec::genuine(&client!(), &genuine, &server);
        let mount = Background::start(&spec);
        let (supervisor, served_by) = (mount.supervisor(), mount.server());
        kill(supervisor, Signal::SIGKILL).unwrap();
        wait_until(Duration::from_secs(10), "it is gone", || !is_alive(supervisor)).unwrap();
        assert_equal(&genuine.truth(), &mount.mountpoint);
        kill(served_by, Signal::SIGKILL).unwrap();
        wait_until(Duration::from_secs(10), "the mount is dead", || {
            get_xattr(&mount.mountpoint, b"user.pid").is_err()
        })
        .unwrap();
        // One command makes it whole again.
        let cache = mount.scratch.path().join("cache");
        let again = spec.command(&mount.mountpoint, &cache).output().unwrap();
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
        assert_equal(&genuine.truth(), &mount.mountpoint);
        mount.unmount();
    });
}
