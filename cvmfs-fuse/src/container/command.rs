//! The user's command: started without privileges as the user who called.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpid, getppid};

use super::diagnosis::Step;
use super::namespaces::{Identity, Maps, ROOT, Refusal};
use super::privileges;
use crate::cli::exit::{ExitStatus, Failure};
use crate::inherited;

/// What shells return for a command that is not there, and for one that cannot be executed.
pub(super) const NOT_FOUND: u8 = 127;
pub(super) const NOT_EXECUTABLE: u8 = 126;

/// Why a command was not started.
#[derive(Debug)]
pub(super) enum NotStarted {
    /// There is no such program, or it cannot be executed.
    Program(u8, String),
    /// The identity of the caller could not be given back.
    Identity(Refusal),
    /// Something else.
    Other(Failure),
}

/// How a command is started.
#[derive(Debug)]
pub(super) struct Launch {
    /// Program and arguments.
    pub(super) line: Vec<OsString>,
    /// Who called, if this process is root of a user namespace instead.
    pub(super) caller: Option<Identity>,
    /// Where.
    pub(super) directory: Option<PathBuf>,
    /// Which signals are blocked in it.
    pub(super) mask: SigSet,
    /// It is killed when this process ends.
    pub(super) dies_with_us: bool,
}

/// What failed between fork and exec, in one byte through a pipe: the error of spawn() has only
/// the number, which an exec may have failed with as well.
const AT_NAMESPACE: u8 = 1;
const AT_IDENTITY: u8 = 2;
const AT_PRIVILEGES: u8 = 3;

impl Launch {
    /// Prepares the command; what it does between fork and exec reports on `report`.
    fn command(self, report: io::PipeWriter) -> Option<Command> {
        let (program, arguments) = self.line.split_first()?;
        let mut command = Command::new(program);
        command.args(arguments);
        if let Some(directory) = self.directory {
            command.current_dir(directory);
        }
        // Back to who called, from the root that we are in the namespace.
        let maps = self.caller.map(|caller| Maps::new(caller, ROOT));
        let (mask, parent) = (self.mask, self.dies_with_us.then(getpid));
        let prepare = move || {
            let fail = |at: u8, error: io::Error| {
                // The reader then takes it for the program's.
                let _ = (&report).write_all(&[at]);
                error
            };
            if let Some(maps) = &maps {
                maps.unshare(CloneFlags::empty()).map_err(|refusal| {
                    let at = match refusal.step {
                        Step::Namespace => AT_NAMESPACE,
                        _ => AT_IDENTITY,
                    };
                    fail(at, refusal.errno.into())
                })?;
            }
            privileges::drop_all().map_err(|error| fail(AT_PRIVILEGES, error))?;
            if let Some(parent) = parent {
                die_with(parent, Signal::SIGKILL).map_err(|error| fail(AT_PRIVILEGES, error))?;
            }
            mask.thread_set_mask().map_err(|errno| fail(AT_PRIVILEGES, errno.into()))?;
            inherited::restore().map_err(|error| fail(AT_PRIVILEGES, error))
        };
        // SAFETY: between fork and exec only system calls are made (unshare, prctl, capset, open,
        // write, close, pthread_sigmask, sigaction, setrlimit, umask), on memory that was prepared before; none is allocated.
        unsafe { command.pre_exec(prepare) };
        Some(command)
    }

    /// Starts the command and returns its process.
    pub(super) fn start(self) -> Result<Pid, NotStarted> {
        self.go(|command| command.spawn().map(|child| Pid::from_raw(child.id().cast_signed())))
    }

    /// Becomes the command.
    pub(super) fn exec(self) -> NotStarted {
        match self.go(|command| Err::<(), _>(command.exec())) {
            Err(not_started) => not_started,
            Ok(()) => unreachable_exec(),
        }
    }

    fn go<T>(self, how: impl FnOnce(&mut Command) -> io::Result<T>) -> Result<T, NotStarted> {
        let other = |what: &str, error: &io::Error| {
            NotStarted::Other(Failure::caused(ExitStatus::Unknown, what, error))
        };
        let (mut reader, writer) =
            io::pipe().map_err(|error| other("cannot make a pipe", &error))?;
        let program = self.line.first().cloned().unwrap_or_default();
        let Some(mut command) = self.command(writer) else {
            return Err(NotStarted::Program(NOT_FOUND, "no command was given".to_owned()));
        };
        how(&mut command).map_err(|error| {
            // Closes the writing end.
            drop(command);
            let mut at = Vec::new();
            // Without a report it was the exec.
            let _ = reader.read_to_end(&mut at);
            let errno = super::diagnosis::errno_of(&error);
            match at.first() {
                Some(&AT_NAMESPACE) => {
                    NotStarted::Identity(Refusal { step: Step::Namespace, errno })
                }
                Some(&AT_IDENTITY) => NotStarted::Identity(Refusal { step: Step::Identity, errno }),
                Some(_) => other("cannot give up privileges", &error),
                None => {
                    let code = match error.kind() {
                        io::ErrorKind::NotFound => NOT_FOUND,
                        _ => NOT_EXECUTABLE,
                    };
                    let message = format!("cannot run {}: {error}", program.to_string_lossy());
                    NotStarted::Program(code, message)
                }
            }
        })
    }
}

/// exec(3) returns only to say why it failed.
fn unreachable_exec() -> NotStarted {
    NotStarted::Other(Failure::new(ExitStatus::Unknown, "exec returned without an error"))
}

/// Has this process sent `signal` when `parent` ends. To be called last before exec: the kernel
/// forgets it when privileges change.
pub(super) fn die_with(parent: Pid, signal: Signal) -> io::Result<()> {
    set_pdeathsig(signal)?;
    // It may have ended before.
    if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
}
