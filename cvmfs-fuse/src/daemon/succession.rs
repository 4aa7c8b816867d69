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

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::process::WaitStatus;

use super::abort;
use super::child::{Child, Launcher, Order, Program, Reason};
use super::control::{Answer, Control};
use super::estate::Holdings;
use super::letters::Word;
use crate::cli::exit::{ExitStatus, Failure};

/// A server that lived longer did not die of what it took over.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// So many short lives in a row, and there is no point in going on: some 20 s of trying.
const MAX_SHORT_LIVES: u32 = 12;
/// Short lives after which there is a pause before the next start.
const QUICK_STARTS: u32 = 3;
/// The first pause; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How long a successor may take until it serves. It asks nobody if the cache has what was shown;
/// else it has to download a catalog.
const SERVE_DEADLINE: Duration = Duration::from_secs(60);
/// The same for all successors in a row: so long users wait at most before they get errors.
const GIVE_UP_AFTER: Duration = Duration::from_secs(180);
/// How long a killed server may take to end; it does not when it waits for its own mount.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// How long the last words of a server that was asked to stop may take.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// How it ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The last server ended as it should, or before there was a mount.
    Ended(WaitStatus),
    /// The mount was unmounted while no server lived.
    Unmounted,
    /// No server could go on.
    GivenUp(Failure),
}

/// An upgrade under way.
#[derive(Debug)]
struct Upgrade {
    from: String,
}

/// The servers of one mount.
pub(crate) struct Succession {
    launcher: Launcher,
    /// Where an upgrade finds the program.
    on_disk: Option<PathBuf>,
    /// The program of the next server.
    program: Rc<Program>,
    /// What to go back to, until the program has served.
    trusted: Rc<Program>,
    holdings: Holdings,
    server: Option<Child>,
    /// Prepares to be the next one.
    candidate: Option<Child>,
    upgrade: Option<Upgrade>,
    control: Option<Control>,
    /// When the next one is started.
    pausing: Option<Instant>,
    /// Servers in a row that lived shortly.
    short_lives: u32,
    /// Since when nobody serves.
    silent_since: Option<Instant>,
    stopping: Option<Instant>,
    outcome: Option<Outcome>,
}

impl Succession {
    /// Starts the first server, or one that goes on with what is held.
    pub(crate) fn start(launcher: Launcher) -> io::Result<Self> {
        Self::go_on(launcher, Holdings::default())
    }

    /// The same with a mount that others served before.
    pub(super) fn go_on(launcher: Launcher, holdings: Holdings) -> io::Result<Self> {
        let own = Rc::new(Program::Own);
        let mut succession = Self {
            launcher,
            on_disk: std::env::current_exe().ok(),
            program: Rc::clone(&own),
            trusted: own,
            holdings,
            server: None,
            candidate: None,
            upgrade: None,
            control: None,
            pausing: None,
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

    /// Returns what is to be polled.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let children = self.server.iter().chain(&self.candidate);
        let lines = children.filter(|child| child.listens).map(|child| child.line.socket().as_fd());
        lines.chain(self.control.iter().flat_map(Control::descriptors)).collect()
    }

    /// Returns when [`Succession::turn`] is to be called even if nothing happens.
    pub(crate) fn due(&self) -> Option<Instant> {
        let server = self.server.as_ref();
        let serve = server.filter(|server| !server.serving).and_then(|server| server.heir_since);
        let candidate = self.candidate.as_ref().filter(|candidate| !candidate.ready);
        let killed = server.and_then(|server| server.killed).map(|(at, _)| at + KILL_DEADLINE);
        let overdue = match killed {
            Some(_) => None,
            None => serve.map(|since| since + SERVE_DEADLINE),
        };
        [
            self.pausing,
            killed,
            overdue,
            candidate.map(|candidate| candidate.started + SERVE_DEADLINE),
            self.stopping.filter(|_| killed.is_none()).map(|since| since + STOP_DEADLINE),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Takes out how it ended, once it did.
    pub(crate) fn outcome(&mut self) -> Option<Outcome> {
        self.outcome.take()
    }

    /// Whether a server lives that has a mount.
    pub(crate) fn has_mount(&self) -> bool {
        self.holdings.mount.is_some()
    }

    /// Asks the server to stop; without a signal it was asked already.
    pub(crate) fn stop(&mut self, signal: Option<Signal>) {
        self.stopping.get_or_insert_with(Instant::now);
        if let Some(candidate) = &mut self.candidate {
            candidate.kill(Reason::Overdue);
        }
        match &self.server {
            Some(server) => {
                if let Some(signal) = signal {
                    server.signal(signal);
                }
            }
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

    /// Replaces the server by the program that is on disk now.
    pub(crate) fn upgrade(&mut self) {
        let Some(server) = self.server.as_ref().filter(|_| self.has_mount()) else {
            return self.answer(Answer::Failed("no server is there to be replaced".to_owned()));
        };
        if self.upgrade.is_some() || self.stopping.is_some() {
            return;
        }
        let from = name_of(server);
        let started = match &self.on_disk {
            Some(path) => Program::at(path).map_err(|error| format!("{}: {error}", path.display())),
            None => Err("it is not known where the program is".to_owned()),
        }
        .and_then(|program| {
            if let Some(mut spare) = self.candidate.take() {
                spare.kill(Reason::Overdue);
            }
            self.program = Rc::new(program);
            self.prepare(Order::Later).map_err(|error| error.to_string())
        });
        match started {
            Ok(candidate) => {
                self.candidate = Some(candidate);
                self.upgrade = Some(Upgrade { from });
            }
            Err(reason) => {
                self.program = Rc::clone(&self.trusted);
                tracing::warn!(reason, "the new program cannot be started");
                self.answer(Answer::Failed(format!("cannot start the new program: {reason}")));
            }
        }
    }

    /// Does what is to be done now.
    pub(crate) fn turn(&mut self) {
        let now = Instant::now();
        self.listen();
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
        // What it said last counts.
        while self.listen() {}
        if let Some(candidate) = self.candidate.take_if(|candidate| candidate.pid == pid) {
            self.candidate_ended(&candidate, status);
            return true;
        }
        let Some(server) = self.server.take_if(|server| server.pid == pid) else { return false };
        if status.exit_status() == Some(0) || self.stopping.is_some() || !self.has_mount() {
            self.end(Outcome::Ended(status));
            return true;
        }
        self.silent_since.get_or_insert_with(Instant::now);
        if server.killed.is_some_and(|(_, reason)| reason == Reason::Upgrade) {
            self.succeed();
            return true;
        }
        tracing::warn!(status = shown(status), "the server died; a successor takes over");
        if server.program != self.trusted && !server.serving {
            self.fall_back(&format!("it did not serve: {}", shown(status)));
        }
        let since = server.heir_since.unwrap_or(server.started);
        if server.serving && since.elapsed() >= SHORT_LIFE {
            self.short_lives = 0;
        } else {
            self.short_lives += 1;
        }
        if self.short_lives > MAX_SHORT_LIVES {
            self.give_up(&format!("{} servers in a row died at once", self.short_lives));
        } else if let Some(more) = self.short_lives.checked_sub(QUICK_STARTS + 1) {
            let pause = FIRST_PAUSE.saturating_mul(1 << more.min(16)).min(MAX_PAUSE);
            self.pausing = Some(Instant::now() + pause);
        } else {
            self.succeed();
        }
        true
    }

    fn candidate_ended(&mut self, candidate: &Child, status: WaitStatus) {
        if candidate.program != self.trusted {
            self.fall_back(&format!("it ended before it was ready: {}", shown(status)));
        }
    }

    /// Takes what the children say; true if there may be more.
    fn listen(&mut self) -> bool {
        let mut more = false;
        if let Some(candidate) = &mut self.candidate {
            more |= candidate.listen(|_, _| false);
        }
        let Self { server, candidate, holdings, .. } = self;
        let Some(server) = server else { return more };
        let served = server.serving;
        more |= server.listen(|word, descriptor| {
            if let Some(candidate) = candidate {
                let descriptor = descriptor.as_ref().map(OwnedFd::as_fd);
                if let Err(error) = candidate.line.say(&word, descriptor) {
                    tracing::warn!(%error, "a successor does not listen");
                    candidate.kill(Reason::Overdue);
                }
            }
            holdings.take(word, descriptor)
        });
        if server.serving && !served {
            self.silent_since = None;
            self.trusted = Rc::clone(&server.program);
            let to = name_of(server);
            if let Some(Upgrade { from }) = self.upgrade.take() {
                tracing::info!(from, to, "upgraded");
                self.answer(Answer::Upgraded { from, to });
            }
        }
        if self.control.is_none()
            && let Some(device) = self.holdings.mount.as_ref().and_then(|m| m.device.as_deref())
        {
            self.control = Control::listen(device)
                .inspect_err(|error| tracing::debug!(%error, "upgrades cannot be asked for"))
                .ok();
        }
        more
    }

    /// Starts a process that prepares to be the next server.
    fn prepare(&self, order: Order) -> io::Result<Child> {
        let child = Child::start(&self.launcher, &self.program, order, true)?;
        if let Err(error) = self.holdings.send(&child.line) {
            // It will end, or be found not to serve.
            tracing::warn!(%error, "a successor did not take what it needs");
        }
        Ok(child)
    }

    /// Lets the next server go on with the mount.
    fn succeed(&mut self) {
        if self.is_unmounted() {
            return self.end(Outcome::Unmounted);
        }
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
            if let Err(error) = candidate.line.say(&Word::Complete, None) {
                tracing::warn!(%error, "a successor does not listen");
            }
            candidate.heir_since = Some(Instant::now());
            self.server = Some(candidate);
        }
    }

    /// Goes back to the program that served before.
    fn fall_back(&mut self, why: &str) {
        if self.program == self.trusted {
            return;
        }
        tracing::warn!(program = %self.program, why, "upgrade failed; going on with the old program");
        self.program = Rc::clone(&self.trusted);
        self.upgrade = None;
        self.answer(Answer::Failed(format!("{why}; the mount goes on with the old program")));
    }

    fn answer(&mut self, answer: Answer) {
        if let Some(control) = &mut self.control {
            control.answer(&answer);
        }
    }

    fn keep_deadlines(&mut self, now: Instant) {
        let late = |since: Option<Instant>, limit| {
            since.is_some_and(|since| now.saturating_duration_since(since) >= limit)
        };
        if let Some(candidate) = &mut self.candidate
            && !candidate.ready
            && late(Some(candidate.started), SERVE_DEADLINE)
        {
            tracing::warn!("a successor was not ready in time");
            candidate.kill(Reason::Overdue);
        }
        let Some(server) = &mut self.server else { return };
        if let Some((at, _)) = server.killed {
            if late(Some(at), KILL_DEADLINE) {
                self.give_up("a killed server does not end");
            }
            return;
        }
        if late(self.stopping, STOP_DEADLINE) {
            server.kill(Reason::Overdue);
        }
        if !server.serving && late(server.heir_since, SERVE_DEADLINE) {
            let limit = SERVE_DEADLINE.as_secs();
            tracing::warn!(limit, "a successor does not serve in time; it is killed");
            server.kill(Reason::Overdue);
            if late(self.silent_since, GIVE_UP_AFTER) {
                self.give_up("no successor serves");
            }
        }
    }

    fn is_unmounted(&self) -> bool {
        self.holdings.mount.as_ref().is_some_and(|mount| abort::is_over(&mount.connection))
    }

    /// Asked to stop while there is a pause between two servers.
    fn end_without_server(&mut self) {
        if let Some(mount) = self.holdings.mount.take() {
            abort::end(mount, false);
        }
        self.end(Outcome::Unmounted);
    }

    /// Ends the mount, so that its users get an error instead of waiting for ever.
    fn give_up(&mut self, reason: &str) {
        if let Some(mount) = self.holdings.mount.take() {
            abort::end(mount, true);
        }
        if let Some(server) = &mut self.server {
            server.kill(Reason::Overdue);
        }
        let message = format!("the mount is given up: {reason}; see the messages before");
        let failure = Failure::new(ExitStatus::FuseLoop, message).advise("mount it again");
        self.end(Outcome::GivenUp(failure));
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(candidate) = &mut self.candidate {
            candidate.kill(Reason::Overdue);
        }
        self.pausing = None;
        self.answer(Answer::Failed("the mount has ended".to_owned()));
        self.outcome.get_or_insert(outcome);
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
