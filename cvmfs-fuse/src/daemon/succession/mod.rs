//! Who serves a mount, one after the other.
//!
//! A state machine over child processes that waits for nothing by itself: whoever drives it polls
//! its descriptors until [`Succession::due`], calls [`Succession::turn`], and tells it of children
//! that were reaped. So one process can look after one mount ([`super::supervisor`]) or several
//! ([`crate::container`]).
//!
//! | what happens | what follows |
//! |---|---|
//! | the server ends with code 0 (unmounted, stopped) | the end |
//! | the server dies before there is a mount | the end; the server has told why |
//! | the server dies later | the next one, at once, or after a pause if that happens often |
//! | it was to stop | passed on; there is no next one |
//! | an upgrade | the next one is started from the program on disk, and takes over when it is ready |
//! | the next one fails, or does not serve in time | killed; then once more the program before |
//! | none gets far | the connection is aborted: users get an error instead of waiting |

mod ending;
mod limits;
mod upgrade;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::process::WaitStatus;

use super::abort;
use super::child::{Child, Launcher, Order, Program, Reason};
use super::control::Control;
use super::estate::{Holdings, Trust, Wrong};
use super::holder::Deposit;
use super::letters::Word;
use super::own_mount::{OwnMount, Teller};
use super::shrinker::Shrinker;
use crate::cli::exit::Failure;
use crate::fuse::device::Device;
use limits::{Limits, Next};
use upgrade::Upgrade;

/// How it ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The last server ended as it should, or before there was a mount.
    Ended(WaitStatus),
    /// The mount was unmounted while no server lived.
    Unmounted,
    /// It was to stop, and the mount is left to whoever asks the holder for it.
    Left,
    /// No server could go on.
    GivenUp(Failure),
}

/// The servers of one mount.
pub(crate) struct Succession {
    launcher: Launcher,
    limits: Limits,
    /// Where an upgrade finds the program.
    on_disk: Option<PathBuf>,
    /// The program of the next server.
    program: Rc<Program>,
    /// What to go back to, until the program has served.
    trusted: Rc<Program>,
    own: OwnMount,
    /// The mounted device, also after the end of the mount.
    device: Option<Device>,
    holdings: Holdings,
    server: Option<Child>,
    /// Prepares to be the next one.
    candidate: Option<Child>,
    upgrade: Option<Upgrade>,
    control: Option<Control>,
    /// Cache directories that may hold the control directory.
    caches: Vec<PathBuf>,
    /// A control directory was made, or cannot be made.
    control_is_decided: bool,
    /// Somebody else who holds the mount.
    deposit: Option<Deposit>,
    /// Drops for the server what the kernel knows and nobody uses.
    shrinker: Shrinker,
    /// When the next one is started.
    pausing: Option<Instant>,
    /// The last server died without having been asked to.
    died: bool,
    /// Servers in a row that lived shortly.
    short_lives: u32,
    /// Since when nobody serves.
    silent_since: Option<Instant>,
    stopping: Option<Instant>,
    outcome: Option<Outcome>,
}

impl Succession {
    /// Starts the first server, or one that goes on with what is held.
    pub(crate) fn start(launcher: Launcher, own: OwnMount) -> io::Result<Self> {
        Self::go_on(launcher, own, Holdings::default(), None)
    }

    /// The same with a mount that others served before.
    pub(super) fn go_on(
        launcher: Launcher,
        own: OwnMount,
        holdings: Holdings,
        deposit: Option<Deposit>,
    ) -> io::Result<Self> {
        let program = Rc::new(Program::Own);
        let mut succession = Self {
            launcher,
            limits: Limits::default(),
            on_disk: std::env::current_exe().ok(),
            program: Rc::clone(&program),
            trusted: program,
            own,
            device: holdings.mount.as_ref().and_then(|mount| mount.device),
            holdings,
            server: None,
            candidate: None,
            upgrade: None,
            control: None,
            caches: Vec::new(),
            control_is_decided: false,
            deposit,
            shrinker: Shrinker::default(),
            pausing: None,
            died: false,
            short_lives: 0,
            silent_since: None,
            stopping: None,
            outcome: None,
        };
        if succession.holdings.mount.is_some() {
            succession.candidate = Some(succession.prepare(Order::First)?);
            succession.silent_since = Some(Instant::now());
            succession.promote();
        } else {
            let (launcher, program) = (&succession.launcher, &succession.program);
            succession.server = Some(Child::start(launcher, program, Order::First, false)?);
        }
        Ok(succession)
    }

    /// Says where the control directory may be if there is no runtime directory.
    #[must_use]
    pub(crate) fn caching_in(mut self, cache: &Path) -> Self {
        self.caches.push(cache.to_owned());
        self
    }

    /// Returns what is to be polled.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let children = self.server.iter().chain(&self.candidate);
        let now = Instant::now();
        let heard = children.filter(|child| child.is_heard(now));
        let lines = heard.map(|child| child.line.socket().as_fd());
        let holder = self.deposit.iter().filter_map(Deposit::descriptor).map(OwnedFd::as_fd);
        lines.chain(self.control.iter().flat_map(Control::descriptors)).chain(holder).collect()
    }

    /// Returns when [`Succession::turn`] is to be called even if nothing happens.
    pub(crate) fn due(&self) -> Option<Instant> {
        let server = self.server.as_ref();
        let serve = server.filter(|server| !server.serving).and_then(|server| server.heir_since);
        let candidate = self.candidate.as_ref().filter(|candidate| !candidate.ready);
        let children = self.server.iter().chain(&self.candidate);
        let heard = children.filter_map(|child| child.heard_again(Instant::now())).min();
        let killed = server.and_then(|server| server.killed).map(|(at, _)| at + self.limits.kill);
        let overdue = match killed {
            Some(_) => None,
            None => serve.map(|since| since + self.limits.serve),
        };
        [
            heard,
            self.pausing,
            self.deposit.as_ref().and_then(Deposit::due),
            killed,
            overdue,
            candidate.map(|candidate| candidate.started + self.limits.serve),
            self.stopping.filter(|_| killed.is_none()).map(|since| since + self.limits.stop),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Takes out how it ended, once it did.
    pub(crate) fn outcome(&mut self) -> Option<Outcome> {
        // It was killed then, and nobody else takes leave of it.
        if self.candidate.is_some() {
            return None;
        }
        self.outcome.take()
    }

    /// Whether a server lives that has a mount.
    pub(crate) fn has_mount(&self) -> bool {
        self.holdings.mount.is_some()
    }

    /// Tells whether a server answers the requests of the mount.
    pub(crate) fn is_serving(&self) -> bool {
        self.server.as_ref().is_some_and(|server| server.serving)
    }

    /// Returns the device of the mount, or of the one that has ended.
    pub(crate) fn device(&self) -> Option<Device> {
        self.device
    }

    /// Asks the server to stop; without a signal it was asked already.
    pub(crate) fn stop(&mut self, signal: Option<Signal>) {
        self.stopping.get_or_insert_with(Instant::now);
        if let Some(candidate) = &mut self.candidate {
            candidate.kill(Reason::Overdue);
        }
        let is_held = self.has_mount() && self.deposit.as_ref().is_some_and(Deposit::is_held);
        match &mut self.server {
            // A container is stopped; its mount is not to end for that.
            Some(server) if is_held && signal == Some(Signal::SIGTERM) => {
                server.kill(Reason::Left);
            }
            Some(server) => {
                if let Some(signal) = signal {
                    server.signal(signal);
                }
            }
            None if is_held && signal == Some(Signal::SIGTERM) => self.end(Outcome::Left),
            None => self.end_without_server(),
        }
    }

    /// Kills the server, as the last means to stop it.
    pub(crate) fn kill(&mut self) {
        self.stopping.get_or_insert_with(Instant::now);
        for child in self.server.iter_mut().chain(&mut self.candidate) {
            child.kill(Reason::Overdue);
        }
    }

    /// Does what is to be done now.
    pub(crate) fn turn(&mut self) {
        let now = Instant::now();
        self.listen();
        if let Some(deposit) = &mut self.deposit {
            deposit.turn(&self.own, &self.holdings);
        }
        if self.control.as_mut().is_some_and(Control::is_asked) {
            self.upgrade();
        }
        if self.pausing.is_some_and(|until| until <= now) {
            self.pausing = None;
            self.succeed();
        }
        let is_ready = self.candidate.as_ref().is_some_and(|candidate| candidate.ready);
        if let Some(server) = self.server.as_mut().filter(|_| self.upgrade.is_some() && is_ready) {
            // What it has read and not answered is sent again to the next one.
            server.kill(Reason::Upgrade);
        }
        self.keep_deadlines(now);
    }

    /// Tells that a child was reaped; false if it is none of these.
    pub(crate) fn ended(&mut self, pid: Pid, status: WaitStatus) -> bool {
        // What it said last counts, as far as it was allowed to say it: its own children may still speak.
        while self.listen() {}
        if self.shrinker.ended(pid) {
            return true;
        }
        if let Some(candidate) = self.candidate.take_if(|candidate| candidate.pid == pid) {
            self.candidate_ended(&candidate, status);
            return true;
        }
        let Some(server) = self.server.take_if(|server| server.pid == pid) else { return false };
        if server.killed.is_some_and(|(_, reason)| reason == Reason::Left) {
            self.end(Outcome::Left);
            return true;
        }
        if status.exit_status() == Some(0) || self.stopping.is_some() || !self.has_mount() {
            self.end(Outcome::Ended(status));
            return true;
        }
        self.silent_since.get_or_insert_with(Instant::now);
        self.died = server.killed.is_none();
        if server.killed.is_some_and(|(_, reason)| reason == Reason::Upgrade) {
            self.succeed();
            return true;
        }
        tracing::warn!(status = shown(status), "the server died; a successor takes over");
        if server.program != self.trusted && !server.serving {
            self.fall_back(&format!("it did not serve: {}", shown(status)));
        }
        let since = server.heir_since.unwrap_or(server.started);
        if server.serving && since.elapsed() >= self.limits.short_life {
            self.short_lives = 0;
        } else {
            self.short_lives += 1;
        }
        match limits::after(self.short_lives) {
            Next::Now => self.succeed(),
            Next::After(pause) => self.pausing = Some(Instant::now() + pause),
            Next::GiveUp(lives) => self.give_up(&format!("{lives} servers in a row died at once")),
        }
        true
    }

    /// Takes what the children say; true if there may be more.
    fn listen(&mut self) -> bool {
        let mut more = false;
        if let Some(candidate) = &mut self.candidate {
            more |= candidate.listen(|_, _| Err(Wrong::Word));
        }
        let Self { server, candidate, holdings, deposit, own, shrinker, .. } = self;
        let Some(server) = server else { return more };
        let served = server.serving;
        more |= server.listen(|word, descriptors| {
            if word == Word::Detach {
                if let Some(mount) = &holdings.mount
                    && let Err(error) = abort::detach(&mount.mountpoint, mount.device)
                {
                    tracing::warn!(%error, "cannot unmount");
                }
                return Ok(());
            }
            if word == Word::Shrink {
                if let Some(mount) = &holdings.mount {
                    shrinker.shrink(&mount.mountpoint, mount.device);
                }
                return Ok(());
            }
            let trust = Trust::Supervised(own, Teller::Server);
            let change = holdings.take(word, descriptors, trust)?;
            if let Some(candidate) = candidate
                && let Err(error) = holdings.pass_on(&change, &candidate.line)
            {
                tracing::warn!(%error, "a successor does not listen");
                candidate.kill(Reason::Crowded);
            }
            if let Some(deposit) = deposit {
                deposit.pass_on(&change, holdings);
            }
            Ok(())
        });
        if server.serving && !served {
            self.silent_since = None;
            self.trusted = Rc::clone(&server.program);
            let (pid, to) = (server.pid, name_of(server));
            self.upgraded(pid, to);
        }
        self.device = self.device.or(self.holdings.mount.as_ref().and_then(|mount| mount.device));
        self.decide_control();
        more
    }

    /// Makes the control directory of the mount, once, and passes what it holds to the servers.
    fn decide_control(&mut self) {
        let Some(mount) = self.holdings.mount.as_ref().filter(|_| !self.control_is_decided) else {
            return;
        };
        let Some(device) = mount.device else { return };
        self.control_is_decided = true;
        self.control = Control::listen(&device.to_string(), &mount.mountpoint, &self.caches)
            .inspect_err(|error| {
                tracing::warn!(
                    "no control address for the mount: {error}; SIGHUP to the supervisor (process {}) still upgrades",
                    std::process::id()
                );
            })
            .ok();
        for child in self.server.iter().chain(&self.candidate) {
            self.pass_control(child);
        }
    }

    fn pass_control(&self, child: &Child) {
        if !self.control_is_decided {
            return;
        }
        let listener: Vec<_> = self.control.iter().map(Control::talk).collect();
        if let Err(error) = child.line.say(&Word::Control, &listener) {
            tracing::warn!(%error, "a server was not told where clients are answered");
        }
    }

    /// Starts a process that prepares to be the next server.
    fn prepare(&self, order: Order) -> io::Result<Child> {
        let child = Child::start(&self.launcher, &self.program, order, true)?;
        if let Err(error) = self.holdings.send(&child.line) {
            // It will end, or be found not to serve.
            tracing::warn!(%error, "a successor did not take what it needs");
        }
        self.pass_control(&child);
        Ok(child)
    }

    /// Lets the next server go on with the mount.
    fn succeed(&mut self) {
        if self.is_unmounted() {
            return self.end(Outcome::Unmounted);
        }
        // One that was killed is only not reaped yet.
        drop(self.candidate.take_if(|candidate| candidate.killed.is_some()));
        if self.candidate.is_none() {
            match self.prepare(Order::Later) {
                Ok(candidate) => self.candidate = Some(candidate),
                Err(error) => {
                    return self.give_up(&format!("no successor can be started: {error}"));
                }
            }
        }
        self.promote();
    }

    fn promote(&mut self) {
        if let Some(mut candidate) = self.candidate.take() {
            let died = self.died.then(|| candidate.line.say(&Word::Died, &[]));
            let complete = candidate.line.say(&Word::Complete, &[]);
            if let Err(error) = died.unwrap_or(Ok(())).and(complete) {
                tracing::warn!(%error, "a successor does not listen");
            }
            candidate.heir_since = Some(Instant::now());
            self.server = Some(candidate);
        }
    }
}

fn name_of(server: &Child) -> String {
    let version = server.version.as_deref().unwrap_or("an unknown version");
    format!("{version} (process {})", server.pid)
}

/// A status as people read it.
pub(crate) fn shown(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        _ => format!("{status:?}"),
    }
}

#[cfg(test)]
mod tests;
