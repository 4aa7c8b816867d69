//! The processes below us: started, watched, reaped, ended. We may be process 1.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid, fork, getpgid, getpid};
use rustix::process::{WaitOptions, wait};

use super::servers::Server;
use super::signals::{Arrived, Signals};
use crate::daemon::background::{PATIENCE, START_LIMIT};
use crate::daemon::mountpoint::{self, Answer};

/// How long servers may take to end. They give users of their mounts 5 s; container engines kill
/// after 10 s.
const STOP_LIMIT: Duration = Duration::from_secs(8);
/// How long a killed process may take to end.
const KILL_LIMIT: Duration = Duration::from_secs(1);
/// The process that a container begins with.
const INIT: Pid = Pid::from_raw(1);
/// What shells add to the number of a signal.
const SIGNAL_BASE: i32 = 128;

/// All children, and what the world tells us.
pub(super) struct Household {
    signals: Signals,
    /// The servers of the mounts.
    pub(super) servers: Vec<Server>,
    command: Option<Pid>,
    ended: Option<u8>,
}

impl Household {
    /// Nobody yet.
    pub(super) fn new(signals: Signals) -> Self {
        Self { signals, servers: Vec::new(), command: None, ended: None }
    }

    /// Leaves process 1 where the engine put it, and goes on in a child. Returns the exit code of
    /// the child in process 1, `None` in the child and in any other process. The process must have
    /// one thread.
    pub(super) fn stay_outside(&mut self) -> io::Result<Option<u8>> {
        if getpid() != INIT {
            return Ok(None);
        }
        // SAFETY: this process has one thread, so the child finds no lock held by another one.
        match unsafe { fork() }? {
            ForkResult::Child => Ok(None),
            ForkResult::Parent { child } => self.wait_for_command(child).map(Some),
        }
    }

    /// Waits until every server has told how its mount went. Returns the exit code if a signal
    /// ended that.
    pub(super) fn wait_for_mounts(&mut self) -> io::Result<Option<u8>> {
        let start = Instant::now();
        let deadline = start + START_LIMIT;
        let mut told = false;
        while self.servers.iter().any(|server| server.outcome.is_none()) {
            if !told && start.elapsed() >= PATIENCE {
                told = true;
                for server in self.servers.iter().filter(|server| server.outcome.is_none()) {
                    // Nobody may be listening.
                    let _ = writeln!(
                        io::stderr(),
                        "cvmfs-fuse: {}",
                        crate::escape::one_line(&server.progress)
                    );
                }
            }
            if Instant::now() >= deadline {
                for server in &mut self.servers {
                    if server.outcome.is_none() {
                        server.overdue();
                    }
                }
                break;
            }
            let until = if told { deadline } else { start + PATIENCE };
            if let Some(end) = self.turn(Some(until))?.iter().find(|arrived| arrived.ends()) {
                return Ok(Some(exit_code(SIGNAL_BASE + end.number)));
            }
        }
        Ok(None)
    }

    /// Waits for the end of the command, and returns the exit code.
    pub(super) fn wait_for_command(&mut self, command: Pid) -> io::Result<u8> {
        self.command = Some(command);
        loop {
            for arrived in self.turn(None)? {
                self.forward(command, arrived);
            }
            if let Some(code) = self.ended {
                return Ok(code);
            }
        }
    }

    /// What a terminal sends goes to its whole foreground group; the command must not get it twice.
    fn forward(&self, command: Pid, arrived: Arrived) {
        if self.ended.is_some() || arrived.number == Signal::SIGCHLD as i32 {
            return;
        }
        if arrived.from_terminal && getpgid(Some(command)) == getpgid(None) {
            return;
        }
        // SAFETY: kill(2) takes numbers only; nix has no names for real-time signals.
        if unsafe { libc::kill(command.as_raw(), arrived.number) } == -1 {
            tracing::debug!(error = %io::Error::last_os_error(), "cannot forward a signal");
        }
    }

    /// Ends all servers and removes their mounts.
    pub(super) fn stop(&mut self) {
        for (signal, limit) in [(Signal::SIGTERM, STOP_LIMIT), (Signal::SIGKILL, KILL_LIMIT)] {
            let deadline = Instant::now() + limit;
            for server in &mut self.servers {
                match signal {
                    Signal::SIGKILL => server.succession.kill(),
                    signal => server.succession.stop(Some(signal)),
                }
            }
            self.look_at_servers();
            while self.servers.iter().any(|server| !server.ended) && Instant::now() < deadline {
                if let Err(error) = self.turn(Some(deadline)) {
                    tracing::warn!(%error, "cannot wait for the servers");
                    break;
                }
            }
        }
        for server in &self.servers {
            remove_dead_mount(server);
        }
    }

    /// Waits for a signal, a child or a word of a server, and returns the signals.
    fn turn(&mut self, deadline: Option<Instant>) -> io::Result<Vec<Arrived>> {
        let silent = |server: &&mut Server| server.outcome.is_none();
        let mut descriptors =
            vec![PollFd::new(self.signals.descriptor().as_fd(), PollFlags::POLLIN)];
        let waiting = self.servers.iter().filter(|server| server.outcome.is_none());
        descriptors.extend(waiting.map(|one| PollFd::new(one.descriptor(), PollFlags::POLLIN)));
        let silent_count = descriptors.len() - 1;
        let others = self.servers.iter().flat_map(|server| server.succession.descriptors());
        descriptors.extend(others.map(|one| PollFd::new(one, PollFlags::POLLIN)));
        let dues = self.servers.iter().filter(|server| !server.ended);
        let due = dues.filter_map(|server| server.succession.due()).chain(deadline).min();
        let timeout = due.map_or(PollTimeout::NONE, |due| {
            // Rounded up, so that it is due then.
            let left = due.saturating_duration_since(Instant::now()).as_millis().saturating_add(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut descriptors, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let told = descriptors.iter().skip(1).take(silent_count);
        let told: Vec<bool> = told.map(|one| one.any().unwrap_or(false)).collect();
        drop(descriptors);
        for (server, told) in self.servers.iter_mut().filter(silent).zip(told) {
            if told {
                server.listen();
            }
        }
        let mut arrived = Vec::new();
        while let Some(one) = self.signals.next()? {
            arrived.push(one);
        }
        if arrived.iter().any(|one| one.number == Signal::SIGCHLD as i32) {
            self.reap()?;
        }
        self.look_at_servers();
        Ok(arrived)
    }

    /// Lets follow what happened to the servers, and notices mounts that came to an end.
    fn look_at_servers(&mut self) {
        for server in self.servers.iter_mut().filter(|server| !server.ended) {
            server.succession.turn();
            let Some(outcome) = server.succession.outcome() else { continue };
            server.ended = true;
            if server.is_serving() && self.command.is_some() && self.ended.is_none() {
                tracing::warn!(fqrn = server.fqrn, ?outcome, "a mount has ended");
                remove_dead_mount(server);
            }
        }
    }

    /// Takes leave of all children that have ended, also of those that were left to process 1.
    fn reap(&mut self) -> io::Result<()> {
        loop {
            let (pid, status) = match wait(WaitOptions::NOHANG) {
                Ok(Some(one)) => one,
                Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let pid = Pid::from_raw(pid.as_raw_nonzero().get());
            if self.command == Some(pid) {
                let signal = status.terminating_signal().map(|number| SIGNAL_BASE + number);
                self.ended = status.exit_status().or(signal).map(exit_code);
            } else {
                // Or somebody's who was left to process 1.
                let _ = self.servers.iter_mut().any(|one| one.succession.ended(pid, status));
            }
        }
    }
}

fn exit_code(number: i32) -> u8 {
    u8::try_from(number & 0xff).unwrap_or(u8::MAX)
}

/// What a server leaves that was killed; otherwise it has unmounted.
fn remove_dead_mount(server: &Server) {
    if server.is_serving()
        && matches!(mountpoint::answer(&server.mountpoint), Answer::Dead)
        && let Err(error) = server.remove_mount()
    {
        tracing::warn!(%error, mountpoint = %server.mountpoint.display(), "cannot unmount");
    }
}
