//! `setup [nouser] [nocfgmod] [nostart] [noautofs]`: what scripts of sites and images call once, before
//! anything is mounted (spec/config.md, sections 8 and 10).
//!
//! None of it is needed by our own commands. It is there for who mounts by autofs, and for scripts that
//! rely on the directories and on the account. What is there already stays as it is, so that it may be
//! called any number of times; a line is printed for each thing that is done.
//!
//! | module | what it holds |
//! |---|---|
//! | `directory` | directories, and whose they are |
//! | `account` | the user and the group of `CVMFS_USER` |
//! | `autofs` | the files of autofs |
//! | `service` | autofs as a service of systemd |
//! | `program` | programs of the system that are called |
//! | `error` | what can go wrong |

mod account;
mod autofs;
mod directory;
mod error;
mod program;
mod service;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::cache::print;
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::chain::MOUNT_DIR;
use crate::config::{Configuration, Environment, RepositoryFlags};
use crate::fuse::mountinfo::show;
use error::SetupError;

/// Where systems keep what this writes. Autofs and systemd know no other place.
const ETC: &str = "/etc";
/// The account of packages of upstream.
const USER: &str = "cvmfs";
/// By this name mount(8) calls this program for autofs; packages bring it.
const HELPER: &str = "mount.cvmfs";

/// Functions for the shell, as the packages have them.
const LIBRARY: &str = include_str!("../../../../../packaging/config.sh");

/// What is not to be done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Without {
    user: bool,
    configuration: bool,
    start: bool,
    autofs: bool,
}

impl Without {
    fn parse(words: &[OsString]) -> Result<Self, SetupError> {
        let mut without = Self::default();
        for word in words {
            match word.to_str() {
                Some("nouser") => without.user = true,
                Some("nocfgmod") => without.configuration = true,
                Some("nostart") => without.start = true,
                Some("noautofs") => without.autofs = true,
                _ => return Err(SetupError::Option { word: word.to_string_lossy().into_owned() }),
            }
        }
        Ok(without)
    }
}

/// Tells what was done.
#[derive(Debug, Default)]
struct Said {
    any: bool,
}

impl Said {
    /// At once: what failed later does not hide it.
    fn done(&mut self, line: &str) -> Result<(), SetupError> {
        self.any = true;
        self.note(line)
    }

    /// What is to be known, and was not done.
    fn note(&self, line: &str) -> Result<(), SetupError> {
        print(&format!("{line}\n")).map(drop).map_err(|failure| SetupError::Print(failure.message))
    }
}

/// Prepares the machine. All failures end with 1, as upstream's do.
pub(super) fn run(words: &[OsString], environment: &Environment) -> Result<ExitCode, Failure> {
    let failed = |error: SetupError| Failure::caused(ExitStatus::Unknown, "setup", &error);
    let without = Without::parse(words).map_err(failed)?;
    if !environment.is_root {
        return Err(failed(SetupError::NotRoot));
    }
    let configuration = Configuration::of(&RepositoryFlags::default(), environment, None)
        .map_err(|failure| Failure { status: ExitStatus::Unknown, ..failure })?;
    prepare(without, &configuration, environment).map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

fn prepare(
    without: Without,
    configuration: &Configuration,
    environment: &Environment,
) -> Result<(), SetupError> {
    let mut said = Said::default();
    let mounts = configured(configuration, "CVMFS_MOUNT_DIR", Some(PathBuf::from(MOUNT_DIR)))?;
    let cache = configured(configuration, "CVMFS_CACHE_BASE", environment.default_cache_dir())?;
    let user = configuration.text("CVMFS_USER").unwrap_or(USER);
    // First, as a directory is given to it.
    let account = match without.user {
        true => account::find(user)?,
        false => Some(account::make(user, &cache, &mut said)?),
    };
    directory::for_mounts(&mounts, &mut said)?;
    // The base that others share with us: our cache is a folder of root's in it. Without one, the directory
    // is our cache itself, and a server trusts what is its own user's.
    let owner = account.filter(|_| configuration.text("CVMFS_CACHE_BASE").is_some());
    directory::for_caches(&cache, owner, &mut said)?;
    if !without.configuration {
        library(&Path::new(ETC).join("cvmfs"), &mut said)?;
    }
    if !without.autofs {
        by_autofs(without, &mounts, &mut said)?;
    }
    if !said.any {
        said.note("all is set up already")?;
    }
    Ok(())
}

/// The functions that checks and scripts of sites source, where they look for them.
fn library(place: &Path, said: &mut Said) -> Result<(), SetupError> {
    let path = place.join("config.sh");
    match directory::write_new(&path, LIBRARY)? {
        true => said.done(&format!("wrote {}: functions for scripts", show(&path))),
        false => Ok(()),
    }
}

fn by_autofs(without: Without, mounts: &Path, said: &mut Said) -> Result<(), SetupError> {
    let is_installed = program::find("automount").is_some();
    let etc = Path::new(ETC);
    let mut is_new = false;
    if !without.configuration && (is_installed || autofs::is_expected(etc)) {
        is_new = autofs::configure(etc, mounts, is_installed, said)?;
    }
    if !is_installed {
        return said.note(&format!(
            "autofs is not installed: 'cvmfs-fuse automount' shows all repositories below {} without it",
            show(mounts)
        ));
    }
    if program::find(HELPER).is_none() {
        said.note(&format!(
            "{HELPER} is missing, which autofs calls: 'ln -s /usr/bin/cvmfs-fuse /sbin/{HELPER}' makes it"
        ))?;
    }
    let has_unit = !without.configuration && service::keep_mounts(etc, said)?;
    if !without.start {
        service::start(is_new, has_unit, said)?;
    }
    Ok(())
}

/// A directory of the configuration.
fn configured(
    configuration: &Configuration,
    name: &'static str,
    otherwise: Option<PathBuf>,
) -> Result<PathBuf, SetupError> {
    let Some(value) = configuration.text(name).map(PathBuf::from).or(otherwise) else {
        return Err(SetupError::Unset { name });
    };
    match value.is_absolute() {
        true => Ok(value),
        false => Err(SetupError::Relative { name, value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_is_left_out() {
        let parsed = |line: &str| {
            Without::parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
        };
        assert_eq!(parsed("").unwrap(), Without::default());
        // As the driver for Kubernetes calls it.
        let csi = Without { user: false, configuration: true, start: true, autofs: true };
        assert_eq!(parsed("nocfgmod nostart noautofs").unwrap(), csi);
        assert!(parsed("nouser").unwrap().user);
        for wrong in ["nouser --force", "NOUSER", "nouser,nostart"] {
            assert!(matches!(parsed(wrong), Err(SetupError::Option { .. })), "{wrong}");
        }
    }
}
