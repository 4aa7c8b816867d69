//! The kernel is asked to let go of what it does not use, so that a server need not remember all that
//! was ever looked up; what is in use is not touched.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use cvmfs_fuse::fuse::mountinfo::topmost_at;
use cvmfs_fuse::fuse::notify::shrink;
use fixtures::publish::{Published, TestRepo};
use fixtures::server::TestServer;
use nix::mount::{MntFlags, MsFlags, mount as bind_mount, umount2};
use nix::sys::signal::{Signal, kill};
use tests::apart::private_mounts;
use tests::{MountSpec, TestMount, client, deadline, wait_until};

const FQRN: &str = "known.test.repo";
const LIMIT: Duration = Duration::from_secs(180);
const SOON: Duration = Duration::from_secs(60);
const FILES: usize = 30_000;
const OF_DIRECTORY: usize = 500;
const MOST: usize = 4000;

fn file(number: usize) -> String {
    format!("d{:02}/f{:03}", number / OF_DIRECTORY, number % OF_DIRECTORY)
}

fn content(number: usize) -> Vec<u8> {
    format!("content {} of many\n", number % 50).into_bytes()
}

fn repository() -> Published {
    let mut repo = TestRepo::new(FQRN);
    repo.ttl(3600);
    for number in 0..FILES {
        repo.file(format!("/{}", file(number)), content(number));
    }
    repo.nested("/d07");
    repo.hardlinks(&["/linked/one", "/linked/two"], b"linked".to_vec());
    repo.file("/deep/er/and/deeper/leaf", b"leaf".to_vec());
    repo.file("/deep/er/other", b"other".to_vec());
    repo.file("/covered/directory/below", b"below".to_vec());
    repo.file("/covered/file", b"below".to_vec());
    repo.file("/bin/sh", fs::read("/bin/sh").unwrap()).mode(0o755);
    repo.publish()
}

/// Inodes that the kernel knows, as the server says.
fn known(root: &Path, repository: &str) -> usize {
    let mut talk = client!().command();
    let output = talk.arg("talk").arg("-i").arg(root.join(repository)).args(["vfs", "inodes"]);
    let output = output.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    said.trim().parse().unwrap_or_else(|_| panic!("{said} {:?}", output.stderr))
}

/// Lists everything with attributes; returns the inode number of each path.
fn walk(root: &Path) -> HashMap<PathBuf, u64> {
    let (mut directories, mut numbers) = (vec![root.to_owned()], HashMap::new());
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                directories.push(path.clone());
            }
            numbers.insert(path, metadata.ino());
        }
    }
    numbers
}

fn bounded(root: &Path, repository: &str) {
    let within = || known(root, repository) <= MOST;
    wait_until(SOON, "the kernel lets go", within).unwrap_or_else(|timeout| {
        panic!("{timeout}: {} are known", known(root, repository));
    });
}

fn check(mount: &TestMount, step: usize) {
    for number in (0..FILES).step_by(step) {
        assert_eq!(fs::read(mount.path(file(number))).unwrap(), content(number), "{number}");
    }
}

/// A shell out of the repository that stands in a directory of it.
struct Shell {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Shell {
    fn start(mount: &TestMount, directory: &str) -> Self {
        let mut shell = Command::new(mount.path("bin/sh"));
        shell.current_dir(mount.path(directory)).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut shell = Self { child, said };
        assert_eq!(shell.answer("echo here"), "here");
        shell
    }

    fn answer(&mut self, command: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{command}").unwrap();
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn link(&self, name: &str) -> PathBuf {
        fs::read_link(format!("/proc/{}/{name}", self.child.id())).unwrap()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ended already, or ends by this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_walk_leaves_few_inodes_and_disturbs_nobody() {
    deadline(LIMIT, || {
        private_mounts();
        let published = repository();
        let server = TestServer::serving(published.root());
        let most = format!("--set=CVMFS_FUSE_MAX_INODES={MOST}");
        let mount = MountSpec::published(&client!(), &published, &[&server]).arg(most).start();

        // All of it is older than what the walk finds, so that it would go first.
        let held = File::open(mount.path(file(3))).unwrap();
        let mut shell = Shell::start(&mount, "deep/er/and/deeper");
        let in_use = (mount.path("deep/er/and/deeper"), mount.path("bin/sh"));
        let above = tempfile::tempdir().unwrap();
        fs::write(above.path().join("covering"), b"above").unwrap();
        for (over, by) in [("directory", above.path()), ("file", &above.path().join("covering"))] {
            let (over, no) = (mount.path(format!("covered/{over}")), None::<&Path>);
            bind_mount(Some(by), &over, no, MsFlags::MS_BIND, no).unwrap();
        }

        let numbers = walk(mount.root());
        assert!(numbers.len() > FILES);
        bounded(mount.root(), "");
        let disturbed = |shell: &mut Shell| {
            assert_eq!(shell.answer("read line < leaf || echo $line"), "leaf");
            assert_eq!(shell.answer("/bin/pwd"), in_use.0.to_str().unwrap());
            assert_eq!((&shell.link("cwd"), &shell.link("exe")), (&in_use.0, &in_use.1));
            assert_eq!(fs::read(mount.path("covered/file")).unwrap(), b"above");
            assert_eq!(fs::read(mount.path("covered/directory/covering")).unwrap(), b"above");
            let mut found = vec![0; 100];
            let len = held.read_at(&mut found, 0).unwrap();
            assert_eq!(found[..len], content(3));
        };
        disturbed(&mut shell);
        check(&mount, 97);
        let link = |name: &str| fs::metadata(mount.path(name)).unwrap();
        assert_eq!(link("linked/one").ino(), link("linked/two").ino());
        assert_eq!(link("linked/one").nlink(), 2);
        assert!(walk(mount.root()) == numbers, "numbers are not what they were");
        bounded(mount.root(), "");

        // A successor inherits what is known, and goes on in the same way.
        let dead = mount.server();
        kill(dead, Signal::SIGKILL).unwrap();
        wait_until(SOON, "a successor", || mount.server() != dead).unwrap();
        disturbed(&mut shell);
        check(&mount, 101);
        assert!(walk(mount.root()) == numbers, "numbers are not what they were");
        bounded(mount.root(), "");
        disturbed(&mut shell);
        drop(shell);
        for over in ["covered/directory", "covered/file"] {
            umount2(&mount.path(over), MntFlags::empty()).unwrap();
        }
        assert_eq!(fs::read(mount.path("covered/file")).unwrap(), b"below");
        assert_eq!(fs::read(mount.path("covered/directory/below")).unwrap(), b"below");
    });
}

/// Numbers of an automounter's repositories are others to the kernel than to the repository.
#[test]
fn the_same_for_a_repository_of_an_automounter() {
    deadline(LIMIT, || {
        let published = repository();
        let server = TestServer::serving(published.root());
        let servers = format!("{}/@fqrn@", server.url());
        let most = format!("--set=CVMFS_FUSE_MAX_INODES={MOST}");
        let spec = MountSpec::automount(&client!(), &servers, &[&published.public_key()]);
        let mount = spec.arg(most).start();
        let root = mount.root().join(FQRN);
        let numbers = walk(&root);
        bounded(mount.root(), FQRN);
        assert!(walk(&root) == numbers, "numbers are not what they were");
        bounded(mount.root(), FQRN);
    });
}

#[test]
fn without_a_limit_the_kernel_keeps_everything() {
    deadline(LIMIT, || {
        let published = repository();
        let server = TestServer::serving(published.root());
        let spec = MountSpec::published(&client!(), &published, &[&server]);
        let mount = spec.arg("--set=CVMFS_FUSE_MAX_INODES=0").start();
        walk(mount.root());
        assert!(known(mount.root(), "") > FILES);
    });
}

/// Kernels before Linux 6.18 cannot be asked for single inodes.
#[test]
fn an_older_kernel_lets_go_of_all_that_is_not_in_use() {
    deadline(LIMIT, || {
        let published = repository();
        let server = TestServer::serving(published.root());
        let spec = MountSpec::published(&client!(), &published, &[&server]);
        let mount = spec.arg("--set=CVMFS_FUSE_MAX_INODES=0").start();
        let held = File::open(mount.path(file(3))).unwrap();
        let mut shell = Shell::start(&mount, "deep/er/and/deeper");
        walk(mount.root());
        let device = topmost_at(mount.root()).unwrap().unwrap().device;
        // As the supervisor does it for its server, which may not.
        let named = device.to_string();
        let asked = client!().command().args(["cvmfs_shrink", &named]).arg(mount.root()).status();
        assert!(asked.unwrap().success());
        wait_until(SOON, "the kernel lets go", || known(mount.root(), "") < 20).unwrap();
        assert_eq!(shell.answer("read line < leaf || echo $line"), "leaf");
        assert_eq!(shell.answer("/bin/pwd"), mount.path("deep/er/and/deeper").to_str().unwrap());
        assert_eq!(shell.link("exe"), mount.path("bin/sh"));
        let mut found = vec![0; 100];
        let len = held.read_at(&mut found, 0).unwrap();
        assert_eq!(found[..len], content(3));
        // Another mount, or none: not touched.
        assert!(shrink(mount.root(), Some("0:0".parse().unwrap())).is_err());
        assert!(shrink(mount.cache_dir(), Some(device)).is_err());
        check(&mount, 499);
    });
}
