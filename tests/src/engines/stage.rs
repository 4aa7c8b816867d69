//! What all tests with engines have: a genuine repository, a server for it, the static program.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use fixtures::genuine::Genuine;
use fixtures::server::TestServer;

use super::shell::Shell;

/// The repository that is served.
pub const FQRN: &str = "small.test.repo";

/// A listing of everything (names may have line breaks), a script, a program that needs a loader,
/// a file.
const USE: &str = "find $R -print0 | tr -dc '\\0' | wc -c && $R/bin/run.sh && $R/bin/true-elf && cat $R/hello.txt";

/// A repository and its server.
#[derive(Debug)]
pub struct Stage {
    /// What is served.
    pub genuine: Genuine,
    /// Who serves it.
    pub server: TestServer,
}

impl Stage {
    /// Serves small.test.repo on an address that containers can reach.
    pub fn serving_at(address: Ipv4Addr) -> Self {
        let genuine = Genuine::small();
        let server = TestServer::serving_at(address, genuine.dir());
        Self { genuine, server }
    }

    /// Tells scripts of the stage.
    ///
    /// | variable | what it is |
    /// |---|---|
    /// | `$F`, `$R` | the repository: its name, and where it is mounted in containers |
    /// | `$FLAGS`, `$HOST_FLAGS` | flags for it in an image (see [`Rootfs`](super::Rootfs)), and outside |
    /// | `$RUN` | `cvmfs-fuse run` with all flags, in an image |
    /// | `$USE` | a script that lists the repository and runs programs from it |
    /// | `$CLIENT`, `$KEY`, `$PROJECT` | the program, the key, the root of this project |
    pub fn describe(&self, shell: &mut Shell) {
        let server = format!("--server {}/@fqrn@", self.server.url());
        let flags = format!("{server} --public-key /key.pub");
        let key = self.genuine.public_key();
        shell.set("F", FQRN);
        shell.set("R", Path::new("/cvmfs").join(FQRN));
        shell.set("RUN", format!("cvmfs-fuse run --repo {FQRN} {flags}"));
        shell.set("FLAGS", flags);
        shell.set("HOST_FLAGS", format!("{server} --public-key {}", key.display()));
        shell.set("KEY", key);
        shell.set("CLIENT", program());
        shell.set("PROJECT", project());
        shell.set("USE", USE);
    }

    /// Returns what `$USE` prints where the repository is what was published.
    pub fn used(&self) -> String {
        format!("{}\nran from cvmfs\nhello cvmfs", self.genuine.truth().len())
    }
}

/// The root of this project.
pub fn project() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the tests are a member of the workspace").to_owned()
}

/// The static program that `.ci/dist` builds.
///
/// # Panics
/// If it was not built.
pub fn program() -> PathBuf {
    let path = project().join("dist/cvmfs-fuse");
    assert!(path.exists(), "dist/cvmfs-fuse is missing: run .ci/dist first (as .ci/test does)");
    path
}
