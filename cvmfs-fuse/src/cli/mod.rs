//! The subcommands, their arguments, and how they end.
//!
//! | module | what it holds |
//! |---|---|
//! | [`args`] | the command line as clap reads it |
//! | `help` | the long texts of `--help` |
//! | [`exit`] | exit codes, and the one line that explains a failure |
//! | `read` | `ls`, `cat`, `stat` |
//! | `cache` | `cache info`, `ls`, `check`, `evict`, `clean`, `wipe`, `broker` |
//! | `config` | `config show`, `check` |
//! | `preload` | `preload` |
//! | `profile` | `profile show`, `export`, `import`, `record` |
//! | `called` | the names of upstream's tools |
//! | [`site`] | what `cvmfs_config` does that is not one of our commands |
//! | [`control`] | `status`, `top`, `trace`, `why`, `probe`, `talk`, `bugreport` |
//! | [`docker_run`] | `docker-run` |
//! | `shell` | words that a shell takes as they are |
//! | `progress` | how far a long command is |
//! | [`run`](mod@run) | `run`, `enter` |
//! | [`upgrade`] | `upgrade` |
//! | [`hold`] | `hold` |
//! | [`manual`] | `completions`, `man` |
//! | [`mirrors`] | `mirrors` |
//!
//! `mount` and `umount` are [`crate::daemon`], `demo` is [`crate::demo`], `doctor` is
//! [`crate::doctor`].

pub mod args;
mod cache;
mod called;
mod config;
pub mod control;
pub mod docker_run;
pub mod exit;
mod help;
pub mod hold;
pub mod manual;
pub mod mirrors;
mod preload;
mod profile;
mod progress;
mod read;
pub mod run;
pub(crate) mod shell;
pub mod site;
pub mod upgrade;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::config::environment::absolute;
use crate::config::parameters::logging::LogFormat;
use crate::config::{
    AutomountSettings, Configuration, Environment, MountOptions, MountSettings, RepositorySettings,
    parse_fqrn,
};
use crate::daemon::log;
use args::{AutomountArgs, Cli, Command, DemoArgs, MountArgs, UmountArgs};
use called::Called;
use exit::{ExitStatus, Failure};

pub use crate::escape::for_terminal;

/// Threads that wait for the network in commands without a mount.
const RUNTIME_THREADS: usize = 2;

/// Parses the arguments of the process and runs one subcommand.
pub fn main() -> ExitCode {
    crate::inherited::adjust();
    let line = match called::command_line(std::env::args_os()) {
        Called::Line(line) => line,
        Called::Say(text, code) => {
            let _ = match code {
                0 => std::io::stdout().write_all(text.as_bytes()),
                _ => std::io::stderr().write_all(text.as_bytes()),
            };
            return ExitCode::from(code);
        }
    };
    let is_mount_helper = called::is_mount_helper(std::env::args_os());
    let cli = match Cli::try_parse_from(line) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, and go to stdout; nobody listening is no error.
            let _ = error.print();
            let code = u8::try_from(error.exit_code()).unwrap_or(ExitStatus::Unknown.code());
            // Clap's code for a wrong line is 2, the one of mount(8) is 1.
            return ExitCode::from(if is_mount_helper { code.min(1) } else { code });
        }
    };
    let environment = Environment::of_process();
    start_log(cli.verbose, cli.log_format, &environment);
    let code = match execute(&cli.command, &environment) {
        Ok(code) => code,
        Err(failure) => {
            complain(&failure);
            match is_mount_helper {
                true => ExitCode::from(failure.status.mount_helper_code()),
                false => failure.status.into(),
            }
        }
    };
    log::settle(true);
    code
}

/// Returns the command line of this process, whatever name it was called by, for processes that
/// are to do the same.
pub(crate) fn own_command_line() -> Vec<std::ffi::OsString> {
    match called::command_line(std::env::args_os()) {
        Called::Line(line) => line,
        // Such a process starts no others.
        Called::Say(..) => Vec::new(),
    }
}

fn execute(command: &Command, environment: &Environment) -> Result<ExitCode, Failure> {
    let status = match command {
        // These end as another program ended.
        Command::Run(args) => return run::run(args, environment),
        Command::Enter(args) => return run::enter(args),
        // Its exit code says what is wrong with whom.
        Command::Mirrors(args) => return mirrors::run(args, environment),
        Command::Site(command) => return site::run(command, environment),
        Command::Profile(command) => return profile::run(command, environment),
        Command::Mount(args) => crate::daemon::mount(&mount_settings(args, environment)?),
        Command::Automount(args) => crate::daemon::mount(&automount_settings(args, environment)?),
        Command::Mounter { options, mountpoint } => {
            crate::fuse::mounter::serve(options, mountpoint)
        }
        Command::Shrinker { device, mountpoint } => {
            crate::daemon::shrinker::serve(device, mountpoint)
        }
        Command::Umount(args) => umount(args),
        Command::Upgrade(args) => upgrade::run(args),
        Command::Hold(args) => hold::run(args),
        Command::Ls(args) => read::ls(args, environment),
        Command::Cat(args) => read::cat(args, environment),
        Command::Stat(args) => read::stat(args, environment),
        Command::Config(command) => config::run(command, environment),
        Command::Cache(command) => cache::run(command, environment),
        Command::Preload(args) => preload::run(args, environment),
        Command::Status(args) => control::status::run(args),
        Command::Metrics(args) => control::metrics::run(args),
        Command::Top(args) => control::top::run(args),
        Command::Trace(args) => control::trace::run(args),
        Command::Why(args) => control::why::run(args),
        Command::Probe(args) => control::probe::run(args, environment),
        Command::Talk(args) => control::talk::run(args, environment),
        Command::Bugreport(args) => control::bugreport::run(args, environment),
        Command::Doctor(args) => crate::doctor::run(args, environment),
        Command::Completions(args) => manual::completions(args),
        Command::Man(args) => manual::pages(args),
        Command::DockerRun(args) => docker_run::run(args),
        Command::Demo(DemoArgs { dir, once }) => {
            crate::demo::run(dir.as_deref(), *once, environment)
        }
    };
    status.map(ExitCode::from)
}

fn mount_settings(args: &MountArgs, environment: &Environment) -> Result<MountSettings, Failure> {
    let whole = Configuration::of(&args.repository, environment, None)?;
    let fqrn = parse_fqrn(&whole.full_name(&args.fqrn))?;
    whole.allows(&fqrn)?;
    let options = MountOptions::parse(args.options.iter().map(String::as_str), environment.is_root)
        .map_err(|error| Failure::caused(ExitStatus::Options, "-o", &error))?;
    let mountpoint = absolute(&args.mountpoint).map_err(|error| {
        let what = format!("cannot use mountpoint {:?}", args.mountpoint);
        Failure::caused(ExitStatus::Permission, &what, &error)
    })?;
    let repository = RepositorySettings::resolve(fqrn, &args.repository, environment)?;
    Ok(MountSettings {
        mountpoint,
        options: options.as_stated(&repository.parameters),
        auto_update: !args.no_auto_update && repository.parameters.auto_update != Some(false),
        repository,
        process: args.process.settings()?,
    })
}

fn automount_settings(
    args: &AutomountArgs,
    environment: &Environment,
) -> Result<AutomountSettings, Failure> {
    let AutomountArgs { mountpoint, repositories, repository, process, .. } = args;
    let options = MountOptions::parse(args.options.iter().map(String::as_str), environment.is_root)
        .map_err(|error| Failure::caused(ExitStatus::Options, "-o", &error))?;
    let process = process.settings()?;
    let mut settings = AutomountSettings::resolve(
        mountpoint,
        options,
        repositories,
        repository,
        process,
        environment,
    )?;
    settings.auto_update &= !args.no_auto_update;
    settings.options = settings.options.as_stated(&settings.model.parameters);
    Ok(settings)
}

fn umount(args: &UmountArgs) -> Result<ExitStatus, Failure> {
    let mountpoint = absolute(&args.mountpoint).map_err(|error| {
        let what = format!("cannot use mountpoint {:?}", args.mountpoint);
        Failure::caused(ExitStatus::Permission, &what, &error)
    })?;
    crate::daemon::unmount(&mountpoint, args.lazy)?;
    Ok(ExitStatus::Ok)
}

/// Says why something failed, as the last line on stderr.
fn complain(failure: &Failure) {
    log::fail(&failure.to_string());
}

/// Makes the runtime of a command that waits for the network.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .thread_name("cvmfs-network")
        .enable_all()
        .build()
        .map_err(|error| Failure::caused(ExitStatus::Unknown, "cannot start threads", &error))
}

/// Logs to stderr: warnings; with `-v` what this program does; with `-vv` everything.
fn start_log(verbose: u8, format: Option<LogFormat>, environment: &Environment) {
    let flags = match verbose {
        0 => "warn",
        1 => "warn,cvmfs_core=debug,cvmfs_cache=debug,cvmfs_fuse=debug",
        _ => "trace",
    };
    let directives = environment.log.as_deref().filter(|_| verbose == 0).unwrap_or(flags);
    let filter = EnvFilter::builder().parse(directives);
    let is_understood = filter.is_ok();
    log::start(filter.unwrap_or_else(|_| EnvFilter::new(flags)), format);
    if !is_understood {
        tracing::warn!(directives, "log filter not understood, using the default");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(line: &str) -> Result<MountSettings, Failure> {
        let environment = Environment {
            is_root: false,
            home: Some("/home/u".into()),
            cache_home: None,
            config_home: None,
            log: None,
            http_proxy: None,
            configuration: "/nonexistent".into(),
            reads_config_repository: true,
        };
        let words = ["cvmfs-fuse", "mount"].into_iter().chain(line.split(' '));
        let Command::Mount(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("{line}: not a mount")
        };
        mount_settings(&args, &environment)
    }

    #[test]
    fn mount_lines_become_settings() {
        let plain = settings("/cvmfs/cms.cern.ch /mnt/x").unwrap();
        assert_eq!(plain.repository.fqrn.as_str(), "cms.cern.ch");
        assert_eq!(plain.mountpoint, std::path::Path::new("/mnt/x"));
        assert_eq!(plain.options, MountOptions::defaults(false));
        assert!(!plain.process.foreground && plain.process.ready_fd.is_none());

        let child = settings("cms.cern.ch rel -o noexec -o fsname=x --foreground --ready-fd 7");
        let child = child.unwrap();
        assert!(child.mountpoint.is_absolute() && child.mountpoint.ends_with("rel"));
        assert!(child.options.noexec && child.options.fs_name == "x");
        assert_eq!((child.process.foreground, child.process.ready_fd), (true, Some(7)));
    }

    #[test]
    fn wrong_lines_have_their_codes() {
        for (line, code, part) in [
            ("atlas /mnt", 2, "\"atlas\" is not fully qualified"),
            ("x.example.org /mnt", 2, "give --server URL and --public-key FILE"),
            ("cms.cern.ch /mnt -o rw", 2, "known are ro"),
            ("cms.cern.ch /mnt --proxy auto|p", 23, "a whole group"),
            ("cms.cern.ch /mnt --quota much", 2, "\"much\" is no quota"),
            ("cms.cern.ch /mnt --date today", 2, "--date"),
            ("cms.cern.ch /mnt --root-hash 12", 2, "--root-hash"),
            ("cms.cern.ch /mnt --public-key /nonexistent/k", 15, "/nonexistent/k"),
        ] {
            let failure = settings(line).unwrap_err();
            assert_eq!(failure.status.code(), code, "{failure}");
            assert!(failure.message.contains(part), "{failure}");
        }
    }
}
