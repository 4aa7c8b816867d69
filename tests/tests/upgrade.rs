//! `cvmfs-fuse upgrade`: another program goes on with a live mount, or the old one does.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::server::TestServer;
use nix::sys::signal::{Signal, kill};
use tests::walk::assert_equal;
use tests::{Client, MountSpec, TestMount, client, deadline};

const LIMIT: Duration = Duration::from_secs(180);

/// A copy of the program, which can be replaced.
struct Installed {
    directory: tempfile::TempDir,
}

impl Installed {
    fn new() -> Self {
        let installed = Self { directory: tempfile::tempdir().unwrap() };
        installed.install(Path::new(client!().command().get_program()));
        installed
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("cvmfs-fuse")
    }

    /// As package managers do it.
    fn install(&self, program: &Path) {
        let new = self.directory.path().join("new");
        std::fs::copy(program, &new).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    fn mount(&self, genuine: &Genuine, server: &TestServer) -> TestMount {
        MountSpec::genuine(&Client::at(self.path()), genuine, server).start()
    }
}

fn upgrade(argument: &Path) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } =
        client!().command().arg("upgrade").arg(argument).output().unwrap();
    let said = [stdout, stderr].concat();
    (status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn another_program_goes_on_with_a_mount() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let installed = Installed::new();
        let mount = installed.mount(&genuine, &server);
        let held = File::open(mount.path("many/f3")).unwrap();
        let old = mount.server();
        let version = mount.attribute("user.version").unwrap();
        installed.install(Path::new(client!().command().get_program()));

        let (code, said) = upgrade(mount.root());
        let new = mount.server();
        let root = mount.root().display();
        let expected = format!("{root}: {version} (process {old}) -> {version} (process {new})\n");
        assert_eq!((code, said), (Some(0), expected));
        assert_ne!(old, new);
        // It is the file that has the name now, not the one that was started.
        let running = std::fs::read_link(format!("/proc/{new}/exe")).unwrap();
        assert_eq!(running, installed.path());
        assert_equal(&genuine.truth(), mount.root());
        let mut piece = [0; 4];
        held.read_exact_at(&mut piece, 0).unwrap();
        assert_eq!(&piece, b"file");
        drop(held);
        assert!(!mount.log().contains("the server died"), "{}", mount.log());
        // A successor of it is the same program.
        kill(new, Signal::SIGKILL).unwrap();
        let last = mount.server();
        let running = std::fs::read_link(format!("/proc/{last}/exe")).unwrap();
        assert_eq!(running, installed.path());
        assert!(mount.unmount().success());
    });
}

#[test]
fn a_program_that_fails_leaves_the_mount_as_it_is() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let installed = Installed::new();
        let mount = installed.mount(&genuine, &server);
        let old = mount.server();
        installed.install(Path::new("/bin/false"));
        let (code, said) = upgrade(mount.root());
        assert_eq!(code, Some(19), "{said}");
        assert!(said.contains("exit code 1; the mount goes on with the old program"), "{said}");
        assert_eq!(mount.server(), old);
        // No program at all.
        std::fs::remove_file(installed.path()).unwrap();
        let (code, said) = upgrade(mount.root());
        assert_eq!(code, Some(19), "{said}");
        assert!(said.contains("cannot start the new program"), "{said}");
        // The old one still has successors.
        kill(old, Signal::SIGKILL).unwrap();
        assert_ne!(mount.server(), old);
        assert_equal(&genuine.truth(), mount.root());
        assert!(mount.unmount().success());
    });
}

#[test]
fn what_cannot_be_upgraded() {
    deadline(LIMIT, || {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in [
            (directory.path(), "no repository is mounted"),
            (&directory.path().join("missing"), "No such file"),
            (Path::new("/proc"), "no repository is mounted"),
        ] {
            let (code, said) = upgrade(path);
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains(text), "{said}");
        }
    });
}
