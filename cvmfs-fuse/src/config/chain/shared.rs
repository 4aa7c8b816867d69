//! The blocklist that a configuration repository has for all machines that read it (spec/format.md section 8).
//!
//! It can only forbid, so it is read like that of the machine, and put to it. It is read again before each
//! update, as that is: where the repository is mounted then, or as a copy of our own.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use cvmfs_core::format::blocklist::Blocklist;

use super::tree::Tree;
use super::{distant, reachable};
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::Environment;

/// Beside the other files.
const NAME: &str = "blacklist";
/// Largest blocklist: a line has under 100 bytes.
const MAX_SIZE: u64 = 1 << 20;

/// Where the blocklist of a configuration repository is.
#[derive(Debug, Clone)]
pub struct SharedBlocklist {
    /// The repository.
    pub(super) name: String,
    /// Where it is mounted, if it is.
    pub(super) repository: PathBuf,
    /// Where its files are there.
    pub(super) place: PathBuf,
    pub(super) environment: Environment,
}

impl SharedBlocklist {
    /// Reads it as it is now. May wait for the network for as long as a mount of the repository would be
    /// waited for.
    pub fn read(&self) -> Result<Blocklist, Failure> {
        let mounted = self.environment.reads_config_repository;
        let mounted = mounted.then(|| reachable(&self.repository, &self.place)).flatten();
        match mounted {
            Some(tree) => self.read_in(&tree),
            None => match distant::tree(&self.name, self.place.clone(), &self.environment) {
                Ok(tree) => self.read_in(&Arc::new(tree)),
                Err(why) => Err(self.failed(&why)),
            },
        }
    }

    /// Reads it among the files of the repository; without a file nothing is blocked.
    pub(super) fn read_in(&self, tree: &Arc<Tree>) -> Result<Blocklist, Failure> {
        let list = self.place.join(NAME);
        match tree.read(&list, MAX_SIZE) {
            Ok(text) => Ok(Blocklist::parse(&text)),
            // A link that leads nowhere may hide a list.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match tree.kind(&list, false) {
                    Err(_) => Ok(Blocklist::default()),
                    Ok(_) => Err(self.failed(&error)),
                }
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn failed(&self, why: &dyn std::fmt::Display) -> Failure {
        let what = format!("cannot read the blocklist {}/{NAME}: {why}", self.place.display());
        Failure::new(ExitStatus::Signature, what)
            .advise("tell those who keep the configuration repository")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn h7_only_files_of_the_repository_are_read_as_its_blocklist() {
        let scratch = tempfile::tempdir().unwrap();
        let repository = scratch.path().canonicalize().unwrap();
        let root = repository.join("etc/cvmfs");
        std::fs::create_dir_all(&root).unwrap();
        let tree = Arc::new(Tree::mounted(&repository, root.clone()).unwrap());
        let shared = SharedBlocklist {
            name: "config.example.org".to_owned(),
            repository: repository.clone(),
            place: root.clone(),
            environment: Environment::of_process(),
        };
        let fqrn = "x.example.org".parse().unwrap();
        let read = || shared.read_in(&tree).map(|list| list.blocks_revision(&fqrn, 6));
        assert_eq!(read().unwrap(), None);
        std::fs::write(root.join("common"), "<x.example.org 7\n").unwrap();
        symlink("common", root.join(NAME)).unwrap();
        assert_eq!(read().unwrap(), Some(7));
        std::fs::write(repository.join("outside"), "<x.example.org 8\n").unwrap();
        nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        for target in ["../../outside", "/dev/zero", ".", "fifo", "none", "../none"] {
            std::fs::remove_file(root.join(NAME)).unwrap();
            symlink(target, root.join(NAME)).unwrap();
            let failure = read().unwrap_err();
            assert_eq!(failure.status, ExitStatus::Signature, "{target}");
        }
    }
}
