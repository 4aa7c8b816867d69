//! A site with its files below `/etc/cvmfs`, and the program under the names of upstream's tools.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "helpers of tests may die, too")]

use std::path::PathBuf;
use std::process::{Command, Output};

use fixtures::genuine::Genuine;
use fixtures::server::TestServer;

use crate::Client;
use crate::mountinfo::MountInfo;

/// A repository on a server, the files that lead there, a directory to mount on, and the program as
/// `bin/cvmfs_config` and the like.
#[derive(Debug)]
pub struct Site {
    /// The repository.
    pub genuine: Genuine,
    /// Who has it.
    pub server: TestServer,
    client: Client,
    scratch: tempfile::TempDir,
}

impl Site {
    /// Makes one.
    pub fn new(client: Client) -> Self {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let scratch = tempfile::tempdir().unwrap();
        let site = Self { genuine, server, client, scratch };
        let base = site.server.base(site.genuine.fqrn()).replace(site.genuine.fqrn(), "@fqrn@");
        site.write("etc/default.conf", "CVMFS_TIMEOUT=5\nCVMFS_QUOTA_LIMIT=4000\nNO_CVMFS=1\n");
        site.write(
            "etc/default.local",
            &format!("CVMFS_HTTP_PROXY=DIRECT\nCVMFS_CACHE_BASE={}\n", site.path("var").display()),
        );
        site.write(
            "etc/domain.d/test.repo.conf",
            &format!(
                "if [ -z \"$CVMFS_SERVER_URL\" ]; then\n  CVMFS_SERVER_URL='{base}'\nfi\n\
                 CVMFS_PUBLIC_KEY={}\n",
                site.genuine.public_key().display()
            ),
        );
        for name in ["m", "bin", "var"] {
            std::fs::create_dir(site.path(name)).unwrap();
        }
        for name in ["cvmfs2", "mount.cvmfs", "cvmfs_config", "cvmfs_talk", "auto.cvmfs"] {
            let program = site.client.command().get_program().to_owned();
            std::os::unix::fs::symlink(program, site.path("bin").join(name)).unwrap();
        }
        site
    }

    /// A place of its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn with_files(&self, mut command: Command, words: &[&str]) -> Output {
        command.env("CVMFS_FUSE_CONFIG_DIR", self.path("etc")).args(words).output().unwrap()
    }

    /// The program under its own name.
    pub fn command(&self) -> Command {
        let mut command = self.client.command();
        command.env("CVMFS_FUSE_CONFIG_DIR", self.path("etc"));
        command
    }

    /// Runs the program under its own name.
    pub fn client(&self, words: &[&str]) -> Output {
        self.with_files(self.client.command(), words)
    }

    /// Runs the program under one of upstream's names.
    pub fn tool(&self, name: &str, words: &[&str]) -> Output {
        self.with_files(Command::new(self.path("bin").join(name)), words)
    }

    /// Where the repository is mounted.
    pub fn m(&self) -> String {
        self.path("m").to_str().unwrap().to_owned()
    }

    /// Looks whether it is, after a command.
    pub fn assert_mounted(&self, output: &Output) {
        assert!(output.status.success(), "{}", shown(output));
        assert!(MountInfo::of(&self.path("m")).is_some());
        assert!(std::fs::read_dir(self.path("m")).unwrap().count() > 3);
    }

    /// Unmounts it.
    pub fn umount(&self) {
        let output = self.client.command().arg("umount").arg(self.path("m")).output().unwrap();
        assert!(output.status.success(), "{}", shown(&output));
    }
}

/// A failed test leaves nothing mounted.
impl Drop for Site {
    fn drop(&mut self) {
        if MountInfo::of(&self.path("m")).is_some() {
            let _ = self.client.command().args(["umount", "--lazy"]).arg(self.path("m")).output();
        }
    }
}

/// An exit code, and all that was said.
pub fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{} {} {}", output.status, text(&output.stdout), text(&output.stderr))
}

/// What was said, after success.
pub fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", shown(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}
