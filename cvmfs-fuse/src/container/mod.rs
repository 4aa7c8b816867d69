//! A command with repositories mounted for it: `cvmfs-fuse run`, the entry point of a container or
//! a step before a program on a bare node, and `cvmfs-fuse enter`.
//!
//! | module | what it holds |
//! |---|---|
//! | [`diagnosis`] | why a mount is not possible here, and which flag is missing |
//! | [`trial`] | an attempt to mount that leaves nothing |
//! | `namespaces` | user and mount namespaces, made and joined |
//! | `privileges` | giving up all of them |
//! | `mountroot` | the directories below `/cvmfs` |
//! | `servers` | the processes that serve the mounts |
//! | `command` | the user's command |
//! | `signals`, `household` | process 1: signals, children, the end |
//!
//! ```text
//! run (process 1)             where the engine put it; passes signals on; only where U1 is made
//! run                         root of the user namespace U1, or with CAP_SYS_ADMIN where it is
//!  ├─ server of repository a  the same; ends when run ends, however that happens
//!  ├─ server of repository b
//!  └─ command                 the caller's uid, in a user namespace U2 below U1; no capabilities
//! ```
//!
//! FUSE lets those in who are in the user namespace of the mount or in one below it. So the command
//! has to be below U1, and U2 is there to give it the caller's uid back.
//!
//! Engines `exec` in the namespaces of process 1, and not all of them can get into one that it has
//! made: crun joins U1 first, and then has no right to the others.

mod command;
pub mod diagnosis;
mod household;
mod mountroot;
mod namespaces;
mod privileges;
mod servers;
mod signals;
pub mod trial;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;

use nix::sys::signal::SigSet;

use crate::cli::exit::{ExitStatus, Failure};
use crate::config::MountSettings;
use crate::daemon::background;
use command::{Launch, NotStarted};
use diagnosis::Surroundings;
use household::Household;
use mountroot::MountRoot;
use namespaces::Joined;
use servers::Server;
use signals::Signals;
use trial::Way;

pub use namespaces::{Identity, Refusal};

/// Where mounts are made by somebody with CAP_SYS_ADMIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountsIn {
    /// In the namespace that we are in.
    Present,
    /// In one of our own.
    Own,
}

/// What `run` is asked for.
#[derive(Debug)]
pub struct Request {
    /// The repositories, each with its directory below `mount_root`.
    pub mounts: Vec<MountSettings>,
    /// Where they are mounted.
    pub mount_root: PathBuf,
    /// The command runs also without mounts.
    pub optional: bool,
    /// `None`: in the present namespace if this is a container, else in one of our own.
    pub mounts_in: Option<MountsIn>,
    /// Program and arguments.
    pub command: Vec<OsString>,
}

fn trouble(what: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::caused(ExitStatus::Unknown, what, &error)
}

/// Mounts, runs the command, cleans up; returns the exit code.
pub fn run(request: Request) -> Result<u8, Failure> {
    let signals = Signals::block().map_err(trouble("cannot wait for signals"))?;
    let mask = signals.before;
    let caller = Identity::of_process();
    let directory = std::env::current_dir().ok();
    let mut household = Household::new(signals);
    let mut root = MountRoot::default();
    let mut way = None;
    let mounted = (|| {
        way = Some(find_way(&request, caller)?);
        if way == Some(Way::OwnUser) {
            let outside = household.stay_outside().map_err(trouble("cannot fork"))?;
            if outside.is_some() {
                return Ok(outside);
            }
            namespaces::own_user_namespace(caller).map_err(|refusal| explained(&refusal))?;
        } else if way == Some(Way::OwnMounts) {
            namespaces::own_mount_namespace().map_err(|refusal| explained(&refusal))?;
        }
        let names: Vec<_> = request.mounts.iter().map(|one| one.repository.fqrn.clone()).collect();
        root.prepare(&request.mount_root, &names)?;
        for settings in &request.mounts {
            let line = server_line(settings.repository.fqrn.as_str(), caller);
            household.servers.push(Server::start(settings, line, mask)?);
        }
        household.wait_for_mounts().map_err(trouble("cannot wait for the servers"))
    })();
    let outcome = match mounted {
        Ok(Some(code)) => Ok(code),
        Err(failure) if !request.optional => Err(failure),
        mounted => {
            let failures = mounted.err().into_iter().chain(failures(&household.servers));
            match tell(failures, request.optional) {
                Some(failure) => Err(failure),
                None => go(
                    &mut household,
                    Launch {
                        line: request.command,
                        caller: (way == Some(Way::OwnUser)).then_some(caller),
                        directory,
                        mask,
                        dies_with_us: true,
                    },
                ),
            }
        }
    };
    household.stop();
    root.remove();
    outcome
}

fn go(household: &mut Household, launch: Launch) -> Result<u8, Failure> {
    match launch.start() {
        Ok(pid) => household.wait_for_command(pid).map_err(trouble("cannot wait for the command")),
        Err(not_started) => told(not_started),
    }
}

fn failures(servers: &[Server]) -> Vec<Failure> {
    let failed = |server: &Server| server.outcome.clone().and_then(Result::err);
    let named = |server| {
        let Failure { status, message } = failed(server)?;
        Some(Failure::new(status, format!("{}: {message}", server.fqrn)))
    };
    servers.iter().filter_map(named).collect()
}

/// Tells of all failures but the last, which is returned; of all, if they are to be lived with.
fn tell(failures: impl Iterator<Item = Failure>, optional: bool) -> Option<Failure> {
    let mut last: Option<Failure> = None;
    for failure in failures {
        if let Some(before) = last.replace(failure) {
            complain(&before);
        }
    }
    if !optional {
        return last;
    }
    if let Some(failure) = last {
        complain(&failure.advise("the command runs without it (--optional)"));
    }
    None
}

/// One line on stderr; nobody may be reading it.
fn complain(what: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "cvmfs-fuse: {}", crate::escape::lines(&what.to_string()));
}

/// The exit codes of shells for a command that cannot be run.
fn told(not_started: NotStarted) -> Result<u8, Failure> {
    match not_started {
        NotStarted::Program(code, message) => {
            complain(&message);
            Ok(code)
        }
        NotStarted::Identity(refusal) => Err(explained(&refusal)),
        NotStarted::Other(failure) => Err(failure),
    }
}

/// Returns the way on which a mount succeeded that was made to try it.
fn find_way(request: &Request, caller: Identity) -> Result<Way, Failure> {
    let around = Surroundings::look();
    tracing::debug!(?around);
    if let Some(missing) = around.missing_device() {
        return Err(Failure::new(ExitStatus::Mount, around.explain(missing)));
    }
    let mut ways = Vec::new();
    if around.sys_admin {
        let present = match request.mounts_in {
            Some(place) => place == MountsIn::Present,
            None => namespaces::in_a_container(),
        };
        ways.push(if present { Way::Here } else { Way::OwnMounts });
    }
    if request.mounts_in != Some(MountsIn::Present) {
        ways.push(Way::OwnUser);
    } else if !around.sys_admin {
        let message = "--shared-mounts needs the capability CAP_SYS_ADMIN";
        return Err(Failure::new(ExitStatus::Mount, message));
    }
    let mut refused = None;
    for way in ways {
        match trial::attempt(way, caller).map_err(trouble("cannot try to mount"))? {
            Ok(()) => return Ok(way),
            Err(refusal) => {
                tracing::debug!(?way, ?refusal, "refused");
                // With the capability the first one is what the user wants to know about.
                refused.get_or_insert(refusal);
            }
        }
    }
    match refused {
        Some(refusal) => {
            let missing = around.missing(refusal.step, refusal.errno);
            Err(Failure::new(ExitStatus::Mount, around.explain(missing)))
        }
        None => Err(Failure::new(ExitStatus::Mount, "there is no way to mount")),
    }
}

fn explained(refusal: &Refusal) -> Failure {
    let around = Surroundings::look();
    let missing = around.missing(refusal.step, refusal.errno);
    Failure::new(ExitStatus::Mount, around.explain(missing))
}

/// The command line of a server: that of this process, and what it is to serve.
fn server_line(fqrn: &str, caller: Identity) -> Vec<OsString> {
    let mut line: Vec<_> = std::env::args_os().collect();
    let added = ["--serve", fqrn, "--caller", &caller.uid.to_string()].map(OsString::from);
    background::insert_arguments(&mut line, added);
    line
}

/// Runs a command in the namespaces of a running `run`, without privileges and as its user; returns
/// only if that is not possible.
pub fn enter(pid: i32, line: Vec<OsString>) -> Result<u8, Failure> {
    let directory = std::env::current_dir().ok();
    let pid = namespaces::resident_of(pid);
    let user = namespaces::identity_of(pid);
    let joined = namespaces::join(pid).map_err(|error| {
        let what = format!("cannot enter the namespaces of process {pid}");
        let failure = Failure::caused(ExitStatus::Permission, &what, &error);
        match &user {
            Err(_) => failure.advise("give the process of 'cvmfs-fuse run' with --pid N"),
            Ok(user) if user.uid != Identity::of_process().uid => failure.advise(&format!(
                "only user {uid} may, e.g. docker exec --user {uid}",
                uid = user.uid
            )),
            Ok(_) => failure,
        }
    })?;
    let user = user.map_err(trouble("cannot tell whose process that is"))?;
    if joined == Joined::User {
        namespaces::become_root().map_err(trouble("cannot become the user"))?;
    }
    // The mount namespace came with its own root as the directory.
    let directory = directory.filter(|directory| directory.is_dir()).or(Some("/".into()));
    let mask = SigSet::thread_get_mask().map_err(|errno| errno.into());
    let launch = Launch {
        line,
        caller: (joined == Joined::User).then_some(user),
        directory,
        mask: mask.map_err(trouble("cannot read the signal mask"))?,
        dies_with_us: false,
    };
    told(launch.exec())
}
