//! The command line. Names of subcommands and flags are a contract.

mod cache;
mod profile;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use super::control::bugreport::BugreportArgs;
use super::control::probe::ProbeArgs;
use super::control::status::StatusArgs;
use super::control::talk::TalkArgs;
use super::control::top::TopArgs;
use super::control::trace::TraceArgs;
use super::control::why::WhyArgs;
use super::docker_run::DockerRunArgs;
use super::exit::{ExitStatus, Failure};
use super::help;
use super::hold::HoldArgs;
use super::manual::{CompletionsArgs, ManArgs};
use super::mirrors::MirrorsArgs;
use super::run::{EnterArgs, RunArgs};
use super::site::SiteCommand;
use super::upgrade::UpgradeArgs;
use crate::config::environment::absolute;
use crate::config::parameters::logging::LogFormat;
use crate::config::{AutomountFlags, ProcessSettings, RepositoryFlags};
use crate::daemon::holder::check_socket_path;
use crate::doctor::DoctorArgs;

pub use cache::{
    CacheBrokerArgs, CacheCheckArgs, CacheCleanArgs, CacheCommand, CacheDirectory, CacheEvictArgs,
    CacheInfoArgs, CacheLsArgs,
};
pub use profile::{
    ProfileCommand, ProfileExportArgs, ProfileImportArgs, ProfilePlace, ProfileRecordArgs,
    ProfileShowArgs,
};

/// `cvmfs-fuse [FLAGS] SUBCOMMAND`.
#[derive(Debug, Parser)]
#[command(
    name = "cvmfs-fuse",
    version,
    about = "Mounts CernVM-FS repositories",
    long_about = help::ABOUT,
    after_long_help = help::AFTER,
    after_help = "Try 'cvmfs-fuse demo'. Examples and exit codes: cvmfs-fuse --help",
    max_term_width = 100
)]
pub struct Cli {
    /// Say more on stderr; twice: everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// How messages are written
    #[arg(long, global = true, value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a repository on a directory
    #[command(after_long_help = help::mount())]
    Mount(Box<MountArgs>),
    /// Mount all repositories on one directory, each at its first use
    #[command(after_long_help = help::automount())]
    Automount(Box<AutomountArgs>),
    /// Unmount a repository and end its server
    #[command(visible_alias = "unmount", after_long_help = help::UMOUNT)]
    Umount(UmountArgs),
    /// Let the program that is installed now go on with live mounts
    #[command(after_long_help = help::UPGRADE)]
    Upgrade(UpgradeArgs),
    /// Keep mounts while the container that serves them is replaced
    #[command(after_long_help = help::HOLD)]
    Hold(HoldArgs),
    /// Run a command with repositories mounted for it, in a container or on a bare node
    #[command(after_long_help = help::RUN)]
    Run(Box<RunArgs>),
    /// Run a command where 'run' has its mounts, e.g. from docker exec
    #[command(after_long_help = help::ENTER)]
    Enter(EnterArgs),
    /// List directories of a repository, without mounting it
    #[command(after_long_help = help::LS)]
    Ls(LsArgs),
    /// Print files of a repository, without mounting it
    #[command(after_long_help = help::CAT)]
    Cat(CatArgs),
    /// Show all that is known about entries of a repository, without mounting it
    #[command(after_long_help = help::STAT)]
    Stat(StatArgs),
    /// Show and check the files of /etc/cvmfs
    #[command(subcommand, after_long_help = help::CONFIG)]
    Config(super::config::ConfigCommand),
    /// Look after the directory of downloaded objects
    #[command(subcommand, after_long_help = help::CACHE)]
    Cache(CacheCommand),
    /// Download a repository or parts of it ahead of use
    #[command(after_long_help = help::PRELOAD)]
    Preload(Box<PreloadArgs>),
    /// Show, export and import what is known about the starts of programs, to fetch it ahead
    #[command(subcommand, after_long_help = help::PROFILE)]
    Profile(ProfileCommand),
    /// Show all mounts: revision, server, proxy, cache, errors
    #[command(after_long_help = help::STATUS)]
    Status(StatusArgs),
    /// Tell monitoring about all mounts, once or over HTTP
    #[command(after_long_help = help::METRICS)]
    Metrics(super::control::metrics::MetricsArgs),
    /// Show what mounts are doing, as it happens
    #[command(after_long_help = help::TOP)]
    Top(TopArgs),
    /// Show who asks a mount for what, and how long that takes
    #[command(after_long_help = help::TRACE)]
    Trace(TraceArgs),
    /// Say why something could not be read: which object, which servers, when
    #[command(after_long_help = help::WHY)]
    Why(WhyArgs),
    /// Look whether repositories can be used
    #[command(after_long_help = help::PROBE)]
    Probe(ProbeArgs),
    /// Ask a live mount, or tell it to do something: the commands of cvmfs_talk
    #[command(after_long_help = help::TALK)]
    Talk(TalkArgs),
    /// Collect what is needed to find out what is wrong, without secrets
    #[command(after_long_help = help::BUGREPORT)]
    Bugreport(BugreportArgs),
    /// Look for what stands in the way of a mount, and say what to do about it
    #[command(after_long_help = help::DOCTOR)]
    Doctor(Box<DoctorArgs>),
    /// Compare the servers of a repository: reachable, fast, new, right
    #[command(after_long_help = help::MIRRORS)]
    Mirrors(Box<MirrorsArgs>),
    /// Print the docker or podman command line for containers that use repositories
    #[command(after_long_help = help::DOCKER_RUN)]
    DockerRun(DockerRunArgs),
    /// Print what a shell needs to complete our command lines
    #[command(after_long_help = help::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Write the manual pages
    #[command(after_long_help = help::MAN)]
    Man(ManArgs),
    /// For the program itself: mounts for a server that is not root
    #[command(hide = true, name = crate::fuse::mounter::COMMAND)]
    Mounter {
        /// The options, as JSON
        options: String,
        /// Resolved
        mountpoint: PathBuf,
    },
    /// For the program itself: drops what the kernel knows of a mount and nobody uses
    #[command(hide = true, name = crate::daemon::shrinker::COMMAND)]
    Shrinker {
        /// As in /proc/self/mountinfo
        device: String,
        /// Resolved
        mountpoint: PathBuf,
    },
    /// For 'cvmfs_config': what is not one of the others
    #[command(hide = true, name = "cvmfs_config", subcommand)]
    Site(SiteCommand),
    /// Mount a small genuine repository that is inside the program
    #[command(after_long_help = help::DEMO)]
    Demo(DemoArgs),
}

/// `mount FQRN MOUNTPOINT`.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// Name of the repository, e.g. cms.cern.ch
    pub fqrn: OsString,

    /// Directory to mount on; must exist. Or /dev/fd/N: a descriptor of /dev/fuse that is mounted already
    pub mountpoint: PathBuf,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub repository: RepositoryFlags,

    /// Mount options, as for mount(8): noexec, allow_other, fsname=NAME and the like
    #[arg(short = 'o', value_name = "OPT[,OPT...]", help_heading = "Mount")]
    pub options: Vec<String>,

    /// Keep the revision of the mount; do not follow new ones
    #[arg(long, help_heading = "Mount")]
    pub no_auto_update: bool,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub process: ProcessArgs,
}

/// `automount [DIR]`.
#[derive(Debug, Args)]
pub struct AutomountArgs {
    /// Directory to mount on; must exist
    #[arg(default_value = "/cvmfs", value_name = "DIR")]
    pub mountpoint: PathBuf,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub repositories: AutomountFlags,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub repository: RepositoryFlags,

    /// Mount options, as for mount(8): noexec, allow_other, fsname=NAME and the like
    #[arg(short = 'o', value_name = "OPT[,OPT...]", help_heading = "Mount")]
    pub options: Vec<String>,

    /// Keep the revision that a repository has when it is opened; do not follow new ones
    #[arg(long, help_heading = "Mount")]
    pub no_auto_update: bool,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub process: ProcessArgs,
}

/// Which of the processes of a mount is started.
#[derive(Debug, Args)]
pub struct ProcessArgs {
    /// Stay in the foreground until unmounted; log to stderr
    #[arg(short = 'f', long, help_heading = "Mount")]
    pub foreground: bool,

    /// Let 'cvmfs-fuse hold' keep the mount when all its processes die; go on with what it keeps
    #[arg(long, value_name = "SOCKET", help_heading = "Mount")]
    pub holder: Option<PathBuf>,

    /// Number of the user as whom the holder runs, besides root and this user
    #[arg(long, value_name = "UID", requires = "holder", help_heading = "Mount")]
    pub holder_user: Option<u32>,

    /// Descriptor on which the background process tells its parent how the mount went
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(i32).range(3..))]
    pub ready_fd: Option<i32>,

    /// Descriptor on which the server and its supervisor talk
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(i32).range(3..))]
    pub server_fd: Option<i32>,

    /// This server goes on with the mount of a dead one
    #[arg(long, hide = true, requires = "server_fd")]
    pub take_over: bool,
}

impl ProcessArgs {
    /// Returns them as settings.
    pub fn settings(&self) -> Result<ProcessSettings, Failure> {
        let holder = |path: &PathBuf| {
            check_socket_path(path)?;
            // The background process is in another directory.
            absolute(path).map_err(|error| Failure::caused(ExitStatus::Options, "--holder", &error))
        };
        Ok(ProcessSettings {
            foreground: self.foreground,
            ready_fd: self.ready_fd,
            server_fd: self.server_fd,
            take_over: self.take_over,
            holder: self.holder.as_ref().map(holder).transpose()?,
            holder_user: self.holder_user,
        })
    }
}

/// `umount MOUNTPOINT`.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// Where the repository is mounted
    pub mountpoint: PathBuf,

    /// Detach now, even if files are open; they stay readable until they are closed
    #[arg(long)]
    pub lazy: bool,
}

/// `ls FQRN:/PATH...`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// What to list
    #[arg(required = true, value_name = "FQRN:/PATH")]
    pub targets: Vec<OsString>,

    /// Also show mode, links, owner, size and time (UTC)
    #[arg(short, long)]
    pub long: bool,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub repository: RepositoryFlags,
}

/// `cat FQRN:/PATH...`.
#[derive(Debug, Args)]
pub struct CatArgs {
    /// What to print
    #[arg(required = true, value_name = "FQRN:/PATH")]
    pub targets: Vec<OsString>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub repository: RepositoryFlags,
}

/// `stat FQRN:/PATH...`.
#[derive(Debug, Args)]
pub struct StatArgs {
    /// What to show
    #[arg(required = true, value_name = "FQRN:/PATH")]
    pub targets: Vec<OsString>,

    /// One JSON object a line
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub repository: RepositoryFlags,
}

/// `demo [DIR]`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where to mount [default: a fresh temporary directory]
    pub dir: Option<PathBuf>,

    /// Show the listing and end, instead of waiting for Ctrl-C
    #[arg(long)]
    pub once: bool,
}

/// `preload FQRN[:/PATH]...`.
#[derive(Debug, Args)]
pub struct PreloadArgs {
    /// What to download: repositories, or directories and files in them
    #[arg(required = true, value_name = "FQRN[:/PATH]")]
    pub targets: Vec<OsString>,

    /// File with paths, one a line; '*' in a name stands for anything, '!' before a path excludes
    #[arg(long, value_name = "FILE")]
    pub list: Option<PathBuf>,

    /// Downloads at a time
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    pub parallel: usize,

    /// One JSON object about what was done
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub repository: RepositoryFlags,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn contract_lines_parse() {
        for line in [
            "mount a.b.c /mnt",
            "mount a.b.c /mnt --server http://a/@fqrn@;http://b --public-key k:l --proxy DIRECT \
             --cache-dir /c --quota 4000M --tag t -o ro,nodev -o noexec --foreground",
            "mount a.b.c /mnt --root-hash x",
            "mount a.b.c /dev/fd/3 -f",
            "mount a.b.c /mnt --date 2026-01-01T00:00:00Z --ready-fd 3 -vv",
            "mount --symlink-variable A=b --symlink-variable C=d a.b.c /mnt",
            "automount",
            "automount /c --repo a.b.c,d.e.f --repo g.h.i --only-listed --idle-timeout 60 \
             --server http://a/@fqrn@ --public-key k -o noexec --foreground",
            "umount /mnt",
            "umount --lazy /mnt",
            "upgrade /mnt /mnt2",
            "upgrade --all",
            "mount a.b.c /mnt --holder /run/h",
            "mount a.b.c /mnt --holder /run/h --holder-user 1001",
            "hold --socket /run/h --deadline 60 --allow 5 --allow @7",
            "ls a.b.c:/ a.b.c:/x --server http://a",
            "-v ls -l a.b.c:/",
            "cat --public-key k -- a.b.c:/-x",
            "stat --json a.b.c:/x",
            "demo",
            "demo /tmp/x --once",
            "cache info --json --cache-dir /c",
            "cache ls -n 10",
            "cache check --repair --threads 3",
            "cache evict a.b.c:/x 0123456789abcdef0123456789abcdef01234567C --cache-dir /c",
            "cache clean --to 5G",
            "cache wipe",
            "cache broker --allow 1000 --allow @50 --socket /run/b --quota 20G",
            "doctor",
            "docker-run a.b.c d.e.f --engine podman --mode rootless --image i -- ls -l",
            "doctor --json --mountpoint /m a.b.c --proxy http://p:1 --cache-dir /c",
            "mirrors",
            "mirrors cern.ch a.b.c --json --html /f --servers http://a;http://b --proxy http://p",
            "mirrors a.b.c --watch 5m --rounds 3 --full --csv --parallel 1,4 --max-requests 9",
            "mirrors a.b.c --max-bytes 1M --max-time 5s --max-lag 1h --fail-on stale,corrupt",
            "profile show a.b.c --json --cache-dir /c",
            "profile export a.b.c -o f --alien-cache /a",
            "profile import a.b.c f",
            "profile record a.b.c --mount /m -o f --cache-dir /c -- python3 -c x",
            "preload a.b.c:/x a.b.c:/y --list f --alien-cache /a --parallel 4",
            "mount a.b.c /mnt --cache-mode broker --cache-broker /run/b --cache-broker-user 5",
            "run --repo a.b.c,d.e.f --repo g.h.i --optional --server http://a -- sh -c x",
            "enter --pid 5 -- sh",
            "mount a.b.c /mnt --lower-cache /l --lower-cache-write --streaming-cache",
        ] {
            let parsed = Cli::try_parse_from(["cvmfs-fuse"].into_iter().chain(line.split(' ')));
            if let Err(error) = parsed {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn wrong_lines_end_with_code_2() {
        for line in [
            "",
            "mount",
            "mount a.b.c",
            "mount a.b.c /mnt extra",
            "mount a.b.c /mnt --tag a --date b",
            "mount a.b.c /mnt --tag a --root-hash b",
            "mount a.b.c /mnt --ready-fd 0",
            "automount /a /b",
            "automount --idle-timeout 0",
            "automount --only-listed",
            "ls",
            "cat",
            "docker-run",
            "docker-run a.b.c --engine lxc",
            "stat --xml a.b.c:/",
            "unknown",
            "upgrade",
            "upgrade --all /mnt",
            "hold",
            "hold --socket /s --deadline 0",
            "cache",
            "cache clean",
            "preload",
            "profile record a.b.c -o f",
            "mirrors --json --csv",
            "mirrors --rounds 3",
            "mirrors --parallel 0",
            "mirrors --watch soon",
            "mirrors --fail-on weather",
            "profile import a.b.c",
            "mount a.b.c /mnt --alien-cache /a --quota 5G",
            "mount a.b.c /mnt --lower-cache-write",
        ] {
            let words = ["cvmfs-fuse"].into_iter().chain(line.split(' ').filter(|w| !w.is_empty()));
            assert_eq!(Cli::try_parse_from(words).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn help_teaches() {
        let mut command = Cli::command();
        let top = command.render_long_help().to_string();
        for name in ["mount", "umount", "ls", "cat", "stat", "demo", "Exit codes", "16", "25"] {
            assert!(top.contains(name), "{name} missing in {top}");
        }
        for subcommand in command.get_subcommands_mut() {
            let name = subcommand.get_name().to_owned();
            if name == "help" || subcommand.is_hide_set() {
                continue;
            }
            let help = subcommand.render_long_help().to_string();
            assert!(help.contains(&format!("cvmfs-fuse {name}")), "no example in {help}");
            assert!(!help.contains("ready-fd"));
        }
    }
}
