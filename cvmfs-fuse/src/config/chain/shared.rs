//! The blocklist that a configuration repository has for all machines that read it (spec/format.md section 8).
//!
//! It can only forbid, so it is read like that of the machine, and put to it. It is read again before each
//! update, as that is: where the repository is mounted then, or as a copy of our own.

use std::io;
use std::path::{Path, PathBuf};

use cvmfs_core::format::blocklist::Blocklist;

use super::{distant, reachable};
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::{Environment, trust};

/// Beside the other files.
const NAME: &str = "blacklist";

/// Where the blocklist of a configuration repository is.
#[derive(Debug, Clone)]
pub struct SharedBlocklist {
    /// The repository.
    pub(super) name: String,
    /// Where its files are, if it is mounted.
    pub(super) place: PathBuf,
    pub(super) environment: Environment,
}

impl SharedBlocklist {
    /// Reads it as it is now. May wait for the network for as long as a mount of the repository would be
    /// waited for.
    pub fn read(&self) -> Result<Blocklist, Failure> {
        let mounted = Some(&*self.place).filter(|_| self.environment.reads_config_repository);
        if let Some(root) = mounted.and_then(reachable) {
            return self.read_in(&root);
        }
        match distant::copy(&self.name, self.place.clone(), &self.environment) {
            Ok(copy) => self.read_in(copy.root()),
            Err(why) => Err(self.failed(&why)),
        }
    }

    /// Reads it where the files of the repository are; without a file nothing is blocked.
    pub(super) fn read_in(&self, root: &Path) -> Result<Blocklist, Failure> {
        // A link may lead to anything on this machine, also to what is never read to its end.
        match root.join(NAME).canonicalize() {
            Ok(file) if file.starts_with(root) && file.is_file() => trust::blocklist(&file),
            Ok(_) => Err(self.failed(&"it is no file of the repository")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Blocklist::default()),
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
    fn only_files_of_the_repository_are_read() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap().join("etc");
        std::fs::create_dir(&root).unwrap();
        let shared = SharedBlocklist {
            name: "config.example.org".to_owned(),
            place: root.clone(),
            environment: Environment::of_process(),
        };
        let fqrn = "x.example.org".parse().unwrap();
        let read = || shared.read_in(&root).map(|list| list.blocks_revision(&fqrn, 6));
        assert_eq!(read().unwrap(), None);
        std::fs::write(root.join("common"), "<x.example.org 7\n").unwrap();
        symlink("common", root.join(NAME)).unwrap();
        assert_eq!(read().unwrap(), Some(7));
        std::fs::write(scratch.path().join("outside"), "<x.example.org 8\n").unwrap();
        for target in ["../outside", "/dev/zero", "."] {
            std::fs::remove_file(root.join(NAME)).unwrap();
            symlink(target, root.join(NAME)).unwrap();
            let failure = read().unwrap_err();
            assert_eq!(failure.status, ExitStatus::Signature, "{target}");
            assert!(failure.message.contains("no file of the repository"), "{failure}");
        }
    }
}
