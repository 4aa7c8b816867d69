//! The process that outlives servers: it holds what a successor needs, and drives the
//! [`Succession`].
//!
//! It does nothing else, opens nothing and parses nothing from outside, so that it has no reason
//! to die itself. The server is this program with the same arguments, as its child.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpid, getppid};
use rustix::process::{WaitOptions, wait};

use super::background::{self, insert_arguments};
use super::child::{Launcher, Order};
use super::estate::Holdings;
use super::holder::Deposit;
use super::own_mount::OwnMount;
use super::succession::{Outcome, Succession, shown};
use crate::cli::exit::{ExitStatus, Failure};
use crate::sandbox::capabilities;

/// `SI_KERNEL` of sigaction(2): a terminal sent it, to all processes of the group.
const FROM_KERNEL: i32 = 0x80;

/// Where a supervisor is.
#[derive(Debug)]
pub enum Place {
    /// In the background: the first server tells on this pipe how the mount went.
    Background(OwnedFd),
    /// In the foreground: servers do not outlive it.
    Foreground,
}

/// Supervises servers until one ends orderly, and returns how.
pub(super) fn run(
    place: Place,
    own: OwnMount,
    claimed: Option<(Deposit, Holdings)>,
    cache: &Path,
) -> Result<ExitStatus, Failure> {
    let trouble = |what: &str, error: io::Error| Failure::caused(ExitStatus::Unknown, what, &error);
    if let Err(error) = capabilities::supervise() {
        tracing::warn!(%error, "the supervisor keeps capabilities that it does not need");
    }
    let (signals, mask) = listen().map_err(|error| trouble("cannot listen to signals", error))?;
    let ready = match place {
        Place::Background(ready) => Some(ready),
        Place::Foreground => None,
    };
    // Two servers must not share a connection: when we are gone, the holder's next one takes it.
    let dies_with_us = ready.is_none() || claimed.is_some();
    let launcher = launcher(ready.as_ref().map(|pipe| pipe.as_raw_fd()), mask, dies_with_us);
    let started = match claimed {
        Some((deposit, holdings)) => Succession::go_on(launcher, own, holdings, Some(deposit)),
        None => Succession::start(launcher, own),
    };
    let mut succession =
        started.map_err(|error| trouble("cannot start the server", error))?.caching_in(cache);
    let mut has_terminal = ready.is_some();
    // The one who waits must see it when the server ends without a word.
    drop(ready);
    loop {
        turn(&mut succession, &signals)
            .map_err(|error| trouble("cannot watch the server", error))?;
        if has_terminal && succession.is_serving() {
            has_terminal = false;
            background::leave_session();
        }
        match succession.outcome() {
            None => {}
            Some(Outcome::Unmounted | Outcome::Left) => return Ok(ExitStatus::Ok),
            Some(Outcome::GivenUp(failure)) => return Err(failure),
            Some(Outcome::Ended(status)) => {
                // It has told why.
                let code = status.exit_status().and_then(|code| u8::try_from(code).ok());
                return code.and_then(ExitStatus::of_code).ok_or_else(|| {
                    let message = format!("the server died: {}", shown(status));
                    Failure::new(ExitStatus::FuseLoop, message)
                });
            }
        }
    }
}

/// Reads signals from a descriptor from now on; also returns which were blocked before.
pub(super) fn listen() -> io::Result<(SignalFd, SigSet)> {
    let mut wanted = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
        wanted.add(signal);
    }
    let before = wanted.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    Ok((SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?, before))
}

/// This program with the same arguments.
fn launcher(ready: Option<RawFd>, mask: SigSet, dies_with_us: bool) -> Launcher {
    let parent = getpid();
    let own = without_ready_fd(crate::cli::own_command_line().into_iter().skip(1));
    Box::new(move |program: &Path, extra, order| {
        let mut arguments = own.clone();
        insert_arguments(&mut arguments, extra);
        let told = ready.filter(|_| order == Order::First);
        if let Some(descriptor) = told {
            let extra = ["--ready-fd".into(), descriptor.to_string().into()];
            insert_arguments(&mut arguments, extra);
        }
        let mut command = Command::new(program);
        command.arg0("cvmfs-fuse").args(arguments).stdin(Stdio::null());
        if order == Order::Later {
            command.stdout(Stdio::null());
        }
        // SAFETY: between fork and exec only system calls are made: sigprocmask, prctl, getppid,
        // fcntl. No memory is allocated, no lock taken.
        unsafe {
            command.pre_exec(move || {
                mask.thread_set_mask()?;
                if dies_with_us {
                    // At once, as when there was one process.
                    set_pdeathsig(Signal::SIGKILL)?;
                    if getppid() != parent {
                        return Err(io::Error::from_raw_os_error(libc::ESRCH));
                    }
                }
                if let Some(descriptor) = told
                    && libc::fcntl(descriptor, libc::F_SETFD, 0) == -1
                {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            })
        };
        Ok(command)
    })
}

/// The pipe is for the first server only.
fn without_ready_fd(line: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut own = Vec::new();
    let mut line = line;
    while let Some(word) = line.next() {
        if word == "--ready-fd" {
            line.next();
            continue;
        }
        let is_last = word == "--";
        own.push(word);
        if is_last {
            break;
        }
    }
    own.extend(line);
    own
}

/// Waits until something happens, and lets it follow.
fn turn(succession: &mut Succession, signals: &SignalFd) -> io::Result<()> {
    let timeout = succession.due().map_or(PollTimeout::NONE, |due| {
        // Rounded up, so that it is due then.
        let left = due.saturating_duration_since(Instant::now()).as_millis().saturating_add(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    });
    let mut polled = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    polled
        .extend(succession.descriptors().into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
    match poll(&mut polled, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    drop(polled);
    while let Some(signal) = signals.read_signal()? {
        let from_terminal = signal.ssi_code == FROM_KERNEL;
        match i32::try_from(signal.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())
        {
            // The server has it already.
            Some(signal @ (Signal::SIGTERM | Signal::SIGINT)) => {
                succession.stop((!from_terminal).then_some(signal));
            }
            // Not when a terminal is closed: a mount outlives it.
            Some(Signal::SIGHUP) if !from_terminal => succession.upgrade(),
            _ => {}
        }
    }
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                succession.ended(Pid::from_raw(pid.as_raw_nonzero().get()), status);
            }
            Ok(None) | Err(rustix::io::Errno::CHILD) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    succession.turn();
    Ok(())
}

/// Takes over the descriptor of the command line.
pub fn adopt(descriptor: RawFd) -> Result<OwnedFd, Failure> {
    let refused = |error: io::Error| {
        Failure::caused(ExitStatus::Options, "--server-fd is for the program itself", &error)
    };
    // A socket cannot be opened anew; a duplicate is only made of what is open.
    // SAFETY: F_DUPFD_CLOEXEC takes a number, open or not, and touches no memory.
    let own = unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 3) };
    if own < 0 {
        return Err(refused(io::Error::last_os_error()));
    }
    nix::unistd::close(descriptor).map_err(|error| refused(error.into()))?;
    // SAFETY: fcntl just made this descriptor, and nobody else knows it.
    let own: File = unsafe { std::os::fd::FromRawFd::from_raw_fd(own) };
    Ok(own.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_server_is_told_of_the_pipe() {
        let line = "mount --ready-fd 5 -o ro -- a.b.c --ready-fd".split(' ').map(OsString::from);
        let expected: Vec<_> = "mount -o ro -- a.b.c --ready-fd".split(' ').collect();
        assert_eq!(without_ready_fd(line), expected);
    }
}
