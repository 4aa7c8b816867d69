//! Called `cvmfs_config`: what upstream's tool does, in the shapes that scripts of sites read
//! (spec/config.md section 8).
//!
//! Where we have the same command under another name, [`super::called`] translates the line.
//!
//! | module | what it holds |
//! |---|---|
//! | `below` | repositories below a mount that shows several |
//! | `look` | what a mount tells to everybody, asked so that none that hangs keeps us |
//! | `stat` | `stat`, `status` |
//! | `live` | `reload`, `wipecache`, `umount`, `killall` |
//! | `users` | `fuser` |
//! | `setup` | `setup` |
//! | `flavours` | words with underscores that `cvmfs2` takes |

pub(super) mod below;
mod flavours;
mod live;
mod look;
mod setup;
mod stat;
mod users;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use super::exit::Failure;
use crate::config::{Configuration, Environment, RepositoryFlags};
use crate::fuse::mountinfo::{self, MountEntry};
use crate::talk::mounts::{self, FS_NAME};

/// The commands.
#[derive(Debug, Subcommand)]
pub enum SiteCommand {
    /// Figures of mounts, a table each
    Stat {
        /// As lines for people
        #[arg(long)]
        lines: bool,
        /// Repository or directory; without it, all that are mounted here
        repository: Option<PathBuf>,
    },
    /// What is mounted where, by which process
    Status,
    /// Let mounts go on with the configuration and the program that are installed now
    Reload {
        /// Empty the cache, too
        #[arg(short = 'c')]
        wipe: bool,
        /// Only these
        repositories: Vec<PathBuf>,
    },
    /// Unmount
    Umount {
        /// Only these
        repositories: Vec<PathBuf>,
    },
    /// End all mounts, whether they answer or not
    Killall,
    /// Processes that use a mount
    Fuser {
        /// Repository or directory
        repository: PathBuf,
    },
    /// Make directories, an account, and the files of autofs
    Setup {
        /// nouser, nocfgmod, nostart, noautofs: what is to be left out
        #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
        without: Vec<OsString>,
    },
    /// Which proxies are meant by 'auto'
    Wpad {
        /// As CVMFS_HTTP_PROXY
        proxies: String,
        /// As CVMFS_SERVER_URL
        servers: String,
    },
    /// Make an alien cache for a user and a group
    MkAlienCache {
        /// The directory
        directory: PathBuf,
        /// Number of the user
        uid: u32,
        /// Number of the group
        gid: u32,
    },
    /// For the program itself: look at a directory
    Look {
        /// The directory
        directory: PathBuf,
    },
}

pub(super) fn run(command: &SiteCommand, environment: &Environment) -> Result<ExitCode, Failure> {
    match command {
        SiteCommand::Stat { lines, repository } => {
            stat::stat(repository.as_deref(), *lines, environment)
        }
        SiteCommand::Status => stat::status(),
        SiteCommand::Reload { wipe, repositories } => {
            live::reload(repositories, *wipe, environment)
        }
        SiteCommand::Umount { repositories } => live::umount(repositories, environment),
        SiteCommand::Killall => live::kill_all(),
        SiteCommand::Fuser { repository } => users::fuser(repository, environment),
        SiteCommand::Setup { without } => setup::run(without, environment),
        SiteCommand::Wpad { proxies, servers } => flavours::wpad(proxies, servers, environment),
        SiteCommand::MkAlienCache { directory, uid, gid } => {
            flavours::make_alien_cache(directory, *uid, *gid)
        }
        SiteCommand::Look { directory } => look::tell(directory),
    }
}

fn all_mounts() -> Result<Vec<MountEntry>, Failure> {
    mountinfo::all().map_err(|error| unreadable(&error))
}

fn unreadable(error: &std::io::Error) -> Failure {
    let what = "cannot read /proc/self/mountinfo";
    Failure::caused(super::exit::ExitStatus::Unknown, what, error)
}

/// Mounts of this program, and of upstream's, each once.
fn ours() -> Result<Vec<MountEntry>, Failure> {
    let mut mounts = all_mounts()?;
    mounts.retain(|mount| mount.is_fuse() && mount.source == FS_NAME);
    let mut seen = std::collections::HashSet::new();
    mounts.retain(|mount| seen.insert(mount.device));
    Ok(mounts)
}

/// Where a repository is, or should be, that is given by its name, short or full, or by a path.
fn place(named: &Path, environment: &Environment) -> Result<PathBuf, Failure> {
    if named.components().count() != 1 || named.is_absolute() {
        return Ok(named.to_owned());
    }
    let configuration = Configuration::of(&RepositoryFlags::default(), environment, None)?;
    let name = configuration.full_name(named.as_os_str());
    let shown =
        name.to_str().map(mounts::showing).transpose().map_err(|error| unreadable(&error))?;
    let status = shown.flatten().and_then(|found| found.status.ok());
    let of_it = |status: Vec<crate::talk::report::RepositoryStatus>| {
        status.into_iter().find(|status| *status.repository == *name)
    };
    if let Some(status) = status.and_then(of_it) {
        return Ok(status.mountpoint);
    }
    // Those of other users do not tell us, nor of what is not open.
    if let Some(place) = below::find(&name)? {
        return Ok(place);
    }
    let root = configuration.text("CVMFS_MOUNT_DIR").unwrap_or("/cvmfs");
    Ok(Path::new(root).join(name))
}
