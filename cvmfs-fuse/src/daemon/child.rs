//! A server as its supervisor sees it: a process, and what it said.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cvmfs_core::chain::chain;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::estate::Wrong;
use super::letters::{Line, Received, Word};
use super::pace::Pace;

/// Messages of a server that are read in one go, so that signals are not kept waiting.
const MESSAGES_AT_ONCE: usize = 64;
/// A server that said so many things without sense is not listened to any more.
const MAX_NONSENSE: usize = 100;
/// Messages of a server at once: two or three for each repository of an automount, and the same again.
const MAX_BURST: u32 = 1024;
/// Time for each message of a server beyond that. It waits in the socket, and then the server waits.
const MESSAGE_INTERVAL: Duration = Duration::from_millis(4);

/// A program file that can be started again when its name leads elsewhere or nowhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// The one that we are.
    Own,
    /// One that was put in its place; open.
    File(PathBuf, RawFd),
}

impl Program {
    /// Opens the program that has a name now. Such a descriptor stays: one for each upgrade.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
        Ok(Self::File(path.to_owned(), std::os::fd::IntoRawFd::into_raw_fd(file)))
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::Own => "/proc/self/exe".into(),
            Self::File(_, descriptor) => format!("/proc/self/fd/{descriptor}").into(),
        }
    }
}

impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own => f.write_str("the program that was started"),
            Self::File(path, _) => write!(f, "{}", path.display()),
        }
    }
}

/// Makes the command of a server, from the program and the arguments to be added.
pub(crate) type Launcher = Box<dyn Fn(&Path, Vec<OsString>, Order) -> io::Result<Command>>;

/// Which server is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// The first of this supervisor, which tells whoever waits how the mount went.
    First,
    /// A later one.
    Later,
}

/// Why a server was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The next program waits for its end.
    Upgrade,
    /// It did not do in time what it should.
    Overdue,
    /// It does not take what the present server says as quickly as that says it.
    Crowded,
    /// The mount is left to somebody else.
    Left,
}

/// One server.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: Pid,
    pub(super) line: Line,
    pub(super) program: Rc<Program>,
    pub(super) started: Instant,
    /// Since when the mount is its own.
    pub(super) heir_since: Option<Instant>,
    /// It waits for the end of the one before.
    pub(super) ready: bool,
    /// It answers requests.
    pub(super) serving: bool,
    /// As it says.
    pub(super) version: Option<String>,
    pub(super) killed: Option<(Instant, Reason)>,
    /// It can be heard; false once its end is closed, or it has said too much without sense.
    pub(super) listens: bool,
    /// It takes the place of another one.
    succeeds: bool,
    nonsense: usize,
    pace: Pace,
}

impl Child {
    /// Starts one; a successor is told so.
    pub(super) fn start(
        launcher: &Launcher,
        program: &Rc<Program>,
        order: Order,
        succeeds: bool,
    ) -> io::Result<Self> {
        let (line, theirs) = Line::pair()?;
        let descriptor = theirs.as_raw_fd();
        let mut extra: Vec<OsString> = vec!["--server-fd".into(), descriptor.to_string().into()];
        if succeeds {
            extra.push("--take-over".into());
        }
        let mut command = launcher(&program.path(), extra, order)?;
        inherit(&mut command, descriptor);
        let child = command.spawn()?;
        drop(theirs);
        Ok(Self {
            // Reaped by whoever drives us; a process id fits.
            pid: Pid::from_raw(child.id().cast_signed()),
            line,
            program: Rc::clone(program),
            started: Instant::now(),
            heir_since: None,
            ready: false,
            serving: false,
            version: None,
            killed: None,
            listens: true,
            succeeds,
            nonsense: 0,
            pace: Pace::new(MAX_BURST, MESSAGE_INTERVAL),
        })
    }

    /// Sends it a signal; to be called only until it was reaped.
    pub(super) fn signal(&self, signal: Signal) {
        if let Err(errno) = kill(self.pid, signal) {
            tracing::debug!(%errno, pid = self.pid.as_raw(), "cannot signal a server");
        }
    }

    /// Kills it.
    pub(super) fn kill(&mut self, reason: Reason) {
        if self.killed.is_none() {
            self.killed = Some((Instant::now(), reason));
            self.signal(Signal::SIGKILL);
        }
    }

    /// Tells whether it is worth while to wait for what it says.
    pub(super) fn is_heard(&self, now: Instant) -> bool {
        self.listens && self.pace.due(now).is_none()
    }

    /// Returns when it is heard again that has said much lately.
    pub(super) fn heard_again(&self, now: Instant) -> Option<Instant> {
        self.pace.due(now).filter(|_| self.listens)
    }

    /// Takes what it says, at most a part at a time; true if there may be more that is heard now. `take` refuses
    /// what makes no sense.
    pub(super) fn listen(
        &mut self,
        mut take: impl FnMut(Word, Vec<OwnedFd>) -> Result<(), Wrong>,
    ) -> bool {
        for _ in 0..MESSAGES_AT_ONCE {
            if !self.listens || self.pace.due(Instant::now()).is_some() {
                return false;
            }
            let heard = self.line.hear();
            if !matches!(heard, Ok(Received::Nothing | Received::End)) {
                self.pace.take(Instant::now());
            }
            let is_successor = self.succeeds && !self.ready;
            let may_serve = !self.succeeds || self.heir_since.is_some();
            let understood = match heard {
                Ok(Received::Word(Word::Ready { version }, none))
                    if is_successor && none.is_empty() =>
                {
                    (self.ready, self.version) = (true, Some(version));
                    Ok(())
                }
                Ok(Received::Word(Word::Serving { version }, none))
                    if may_serve && none.is_empty() =>
                {
                    (self.serving, self.version) = (true, Some(version));
                    Ok(())
                }
                Ok(Received::Word(word, descriptors)) => take(word, descriptors),
                Ok(Received::Nothing) => return false,
                Ok(Received::End) => {
                    self.listens = false;
                    return false;
                }
                Ok(Received::Hostile) => {
                    self.listens = false;
                    tracing::warn!(
                        "the server sends descriptors of other things; it is not heard any more"
                    );
                    return false;
                }
                Ok(Received::Nonsense) | Err(_) => Err(Wrong::Word),
            };
            if let Err(wrong) = understood {
                self.nonsense += 1;
                let why = chain(&wrong);
                tracing::warn!(why, "a message of the server is not understood");
                self.listens = self.nonsense <= MAX_NONSENSE;
            }
        }
        true
    }
}

/// Lets a child have a descriptor under its number.
fn inherit(command: &mut Command, descriptor: RawFd) {
    // SAFETY: between fork and exec only fcntl is called, which is async-signal-safe; no memory is
    // allocated, no lock taken.
    unsafe {
        command.pre_exec(move || match libc::fcntl(descriptor, libc::F_SETFD, 0) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        })
    };
}
