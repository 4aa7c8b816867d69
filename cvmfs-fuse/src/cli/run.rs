//! `run` and `enter`: the command line of [`crate::container`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use cvmfs_core::fqrn::Fqrn;
use nix::unistd::{AccessFlags, access};

use super::exit::{ExitStatus, Failure};
use crate::config::environment::absolute;
use crate::config::{
    Environment, MountOptions, MountSettings, ProcessSettings, RepositoryFlags, RepositorySettings,
    parse_fqrn,
};
use crate::container::{self, MountsIn, Request};

/// `run --repo FQRN -- CMD`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Repository to mount; may be repeated, or several separated by ','
    #[arg(long = "repo", value_name = "FQRN", required = true, value_delimiter = ',')]
    pub repositories: Vec<OsString>,

    /// Directory in which each is mounted under its name
    #[arg(long, value_name = "DIR", default_value = "/cvmfs")]
    pub mount_root: PathBuf,

    /// Run the command even if a repository cannot be mounted
    #[arg(long)]
    pub optional: bool,

    /// With CAP_SYS_ADMIN: mount where every process of this mount namespace sees it
    ///
    /// The default in a container (process 1, or a pid namespace of its own), so that docker exec
    /// sees the mounts. Needed only with --pid host.
    #[arg(long, conflicts_with = "private_mounts")]
    pub shared_mounts: bool,

    /// With CAP_SYS_ADMIN: mount where only the command sees it; the default outside containers
    #[arg(long)]
    pub private_mounts: bool,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub repository: RepositoryFlags,

    /// Keep the revision of the mounts; do not follow new ones
    #[arg(long, help_heading = "Mount")]
    pub no_auto_update: bool,

    /// This process is the server of one of the repositories
    #[arg(long, value_name = "FQRN", hide = true, requires_all = ["caller", "server_fd"])]
    pub serve: Option<OsString>,

    /// Who called, as the server may be root of a user namespace
    #[arg(long, value_name = "UID", hide = true)]
    pub caller: Option<u32>,

    /// Descriptor on which the server tells how the mount went
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(i32).range(3..))]
    pub ready_fd: Option<i32>,

    /// Descriptor on which the server and its supervisor talk
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(i32).range(3..))]
    pub server_fd: Option<i32>,

    /// This server goes on with the mount of a dead one
    #[arg(long, hide = true, requires = "server_fd")]
    pub take_over: bool,

    /// Program to run, and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `enter -- CMD`.
#[derive(Debug, Args)]
pub struct EnterArgs {
    /// Process of 'cvmfs-fuse run'
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: i32,

    /// Program to run, and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

pub(super) fn run(args: &RunArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    if let (Some(fqrn), Some(caller)) = (&args.serve, args.caller) {
        // Default directories are those of who called.
        let environment = Environment { is_root: caller == 0, ..environment.clone() };
        let status = crate::daemon::mount(&settings(args, &parse_fqrn(fqrn)?, &environment)?)?;
        return Ok(status.into());
    }
    let mut names =
        args.repositories.iter().map(|name| parse_fqrn(name)).collect::<Result<Vec<_>, _>>()?;
    names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    let mounts = names.iter().map(|fqrn| settings(args, fqrn, environment));
    let mounts_in = match (args.shared_mounts, args.private_mounts) {
        (true, _) => Some(MountsIn::Present),
        (_, true) => Some(MountsIn::Own),
        _ => None,
    };
    let request = Request {
        mounts: mounts.collect::<Result<_, _>>()?,
        mount_root: mount_root(args)?,
        optional: args.optional,
        mounts_in,
        command: args.command.clone(),
    };
    container::run(request).map(ExitCode::from)
}

pub(super) fn enter(args: &EnterArgs) -> Result<ExitCode, Failure> {
    container::enter(args.pid, args.command.clone()).map(ExitCode::from)
}

fn mount_root(args: &RunArgs) -> Result<PathBuf, Failure> {
    absolute(&args.mount_root).map_err(|error| {
        let what = format!("cannot use --mount-root {:?}", args.mount_root);
        Failure::caused(ExitStatus::Permission, &what, &error)
    })
}

fn settings(
    args: &RunArgs,
    fqrn: &Fqrn,
    environment: &Environment,
) -> Result<MountSettings, Failure> {
    let caller = args.caller.unwrap_or_else(|| nix::unistd::geteuid().as_raw());
    let flags = with_a_cache(&args.repository, environment, caller)?;
    let repository = RepositorySettings::resolve(fqrn.clone(), &flags, environment)?;
    Ok(MountSettings {
        mountpoint: mount_root(args)?.join(fqrn.as_str()),
        // Whoever may mount here is root of the namespace. No other program is started.
        options: MountOptions { use_helper: false, uid: Some(0), ..MountOptions::defaults(true) },
        auto_update: !args.no_auto_update && repository.parameters.auto_update != Some(false),
        repository,
        process: ProcessSettings {
            foreground: false,
            ready_fd: args.ready_fd,
            server_fd: args.server_fd,
            take_over: args.take_over,
            holder: None,
            holder_user: None,
        },
    })
}

/// Containers run as users whose home does not exist or is read-only: for them the default is a
/// directory among the temporary ones.
fn with_a_cache(
    flags: &RepositoryFlags,
    environment: &Environment,
    caller: u32,
) -> Result<RepositoryFlags, Failure> {
    let can_be_made = |directory: &Path| {
        let existing = directory.ancestors().find(|above| above.exists());
        existing.is_some_and(|above| access(above, AccessFlags::W_OK).is_ok())
    };
    let mut flags = flags.clone();
    if flags.cache.cache_dir.is_none()
        && !environment.default_cache_dir().is_some_and(|directory| can_be_made(&directory))
    {
        let scratch = environment.own_scratch_dir(caller).map_err(|error| {
            let what = "there is no place for a cache";
            Failure::caused(ExitStatus::CacheDirectory, what, &error).advise("give --cache-dir DIR")
        })?;
        flags.cache.cache_dir = Some(scratch);
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::args::{Cli, Command};
    use super::*;

    #[test]
    fn h4_a_temporary_cache_is_ours_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let environment = Environment::of_process();
        // A user who is not us: the name is free, and belongs to us once it was made.
        let uid = 4_000_000_000 + std::process::id() % 1_000_000;
        let made = environment.own_scratch_dir(uid).unwrap();
        let mode = |mode| {
            std::fs::set_permissions(&made, std::fs::Permissions::from_mode(mode)).unwrap();
            environment.own_scratch_dir(uid).is_ok()
        };
        assert!(mode(0o700));
        for shared in [0o2770, 0o2700, 0o755, 0o710, 0o1777] {
            assert!(!mode(shared), "{shared:o}");
        }
        std::fs::remove_dir(&made).unwrap();
        std::os::unix::fs::symlink("/", &made).unwrap();
        assert!(environment.own_scratch_dir(uid).is_err());
        std::fs::remove_file(&made).unwrap();
    }

    fn parse(line: &str) -> Result<Command, clap::Error> {
        let words = ["cvmfs-fuse"].into_iter().chain(line.split(' '));
        Cli::try_parse_from(words).map(|cli| cli.command)
    }

    #[test]
    fn lines() {
        let line = "run --repo a.b.c,d.e.f --repo g.h.i --optional --mount-root /m --server \
                    http://h -- sh -c --repo";
        let Ok(Command::Run(args)) = parse(line) else { panic!("not a run") };
        assert_eq!(args.repositories.len(), 3);
        assert_eq!(args.command, ["sh", "-c", "--repo"]);
        assert!(args.optional && args.serve.is_none());
        assert_eq!(mount_root(&args).unwrap(), PathBuf::from("/m"));
        let Ok(Command::Enter(args)) = parse("enter -- ls -l") else { panic!("not an enter") };
        assert_eq!((args.pid, args.command.len()), (1, 2));
        for line in [
            "run --repo a.b.c",
            "run -- ls",
            "run --repo a.b.c ls",
            "run --repo a.b.c --shared-mounts --private-mounts -- ls",
            "run --repo a.b.c --serve a.b.c -- ls",
            "enter",
            "enter --pid 0 -- ls",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
