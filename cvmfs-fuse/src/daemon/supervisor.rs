//! The process that outlives servers: it holds what a successor needs, and starts one when the
//! server dies without having been asked to.
//!
//! It does nothing else, opens nothing and parses nothing from outside, so that it has no reason
//! to die itself. The server is this program with the same arguments, as its child.
//!
//! | what happens | what it does |
//! |---|---|
//! | the server ends with code 0 (unmounted, stopped) | ends, too |
//! | the server dies before there is a mount | ends; the server has told why |
//! | the server dies later | starts a successor at once, or after a pause if that happens often |
//! | SIGTERM, SIGINT | passes it on, and starts none |
//! | SIGHUP | replaces the server by the program as it is on disk now |
//! | no successor gets far | detaches the mount: its users get an error instead of waiting |

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::estate::{self, Holdings, Received};
use crate::cli::exit::{ExitStatus, Failure};
use crate::fuse::mount;

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
/// How long the last words of a server that was asked to stop may take.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// Messages of a server that are read in one go.
const MESSAGES_AT_ONCE: usize = 64;
/// A server that said so many things without sense is not listened to any more.
const MAX_NONSENSE: usize = 100;

/// Supervises servers until one ends orderly.
///
/// `ready` is the descriptor on which the first server tells how the mount went.
pub fn run(arguments: Vec<OsString>, ready: RawFd) -> Result<(), Failure> {
    let trouble = |what: &str, error: io::Error| Failure::caused(ExitStatus::Unknown, what, &error);
    let signals = listen().map_err(|error| trouble("cannot listen to signals", error))?;
    // As it is on disk, for an upgrade; the running one if that is gone.
    let on_disk = std::env::current_exe().ok();
    let mut supervisor = Supervisor {
        arguments,
        on_disk,
        holdings: Holdings::default(),
        short_lives: 0,
        stopping: None,
        upgrading: false,
    };
    let mut server =
        supervisor.start().map_err(|error| trouble("cannot start the server", error))?;
    // The one who waits must see it when the server ends without a word.
    nix::unistd::close(ready).map_err(|error| trouble("cannot close a pipe", error.into()))?;
    loop {
        let ended = supervisor
            .watch(&mut server, &signals)
            .map_err(|error| trouble("cannot watch the server", error))?;
        let Some(status) = ended else { continue };
        if status.success() || supervisor.stopping.is_some() {
            return Ok(());
        }
        if supervisor.holdings.mount.is_none() {
            // It told the one who waits for the mount.
            let message = format!("the server ended before there was a mount: {status}");
            return Err(Failure::new(ExitStatus::Mount, message));
        }
        let upgraded = std::mem::take(&mut supervisor.upgrading);
        if !upgraded {
            tracing::warn!(%status, "the server died; a successor takes over");
            supervisor.count_death(server.started)?;
        }
        server = supervisor.succeed()?;
    }
}

struct Server {
    child: Child,
    /// Our end of the connection with it.
    socket: OwnedFd,
    /// It may still say something.
    listens: bool,
    /// Messages that made no sense.
    nonsense: usize,
    started: Instant,
}

struct Supervisor {
    arguments: Vec<OsString>,
    on_disk: Option<PathBuf>,
    holdings: Holdings,
    /// Servers in a row that lived shortly.
    short_lives: u32,
    stopping: Option<Instant>,
    upgrading: bool,
}

fn listen() -> io::Result<SignalFd> {
    let mut wanted = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
        wanted.add(signal);
    }
    wanted.thread_block()?;
    Ok(SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

impl Supervisor {
    /// Starts a server; a successor is told so, and gets the estate.
    fn start(&self) -> io::Result<Server> {
        let (ours, theirs) = estate::pair()?;
        let is_successor = self.holdings.mount.is_some();
        let program = match &self.on_disk {
            Some(program) if is_successor && program.is_file() => program.clone(),
            _ => PathBuf::from("/proc/self/exe"),
        };
        let descriptor = theirs.as_raw_fd();
        let mut command = Command::new(program);
        let mut extra: Vec<OsString> = vec!["--server-fd".into(), descriptor.to_string().into()];
        if is_successor {
            extra.push("--take-over".into());
        }
        let mut arguments = self.arguments.clone();
        // Before `--`, after which all is positional.
        let at = arguments.iter().position(|word| word == "--").unwrap_or(arguments.len());
        arguments.splice(at..at, extra);
        command.arg0("cvmfs-fuse").args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        inherit(&mut command, descriptor);
        let child = command.spawn()?;
        drop(theirs);
        if is_successor && let Err(error) = self.holdings.send(&ours) {
            // It will end, or be found not to serve.
            tracing::warn!(%error, "a successor did not take what it needs");
        }
        Ok(Server { child, socket: ours, listens: true, nonsense: 0, started: Instant::now() })
    }

    /// Waits until something happens; returns how the server ended, if that is it.
    fn watch(
        &mut self,
        server: &mut Server,
        signals: &SignalFd,
    ) -> io::Result<Option<std::process::ExitStatus>> {
        let limit = match self.stopping {
            None => PollTimeout::NONE,
            Some(since) => {
                let left = STOP_DEADLINE.saturating_sub(since.elapsed());
                if left.is_zero() {
                    server.child.kill()?;
                }
                PollTimeout::try_from(left.max(FIRST_PAUSE)).unwrap_or(PollTimeout::MAX)
            }
        };
        let listening = server.listens;
        let mut polled = vec![PollFd::new(std::os::fd::AsFd::as_fd(signals), PollFlags::POLLIN)];
        if listening {
            polled.push(PollFd::new(std::os::fd::AsFd::as_fd(&server.socket), PollFlags::POLLIN));
        }
        match poll(&mut polled, limit) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let has_news = listening
            && polled.get(1).and_then(PollFd::revents).is_some_and(|events| !events.is_empty());
        if has_news {
            self.listen(server);
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            self.react(i32::try_from(signal.ssi_signo).unwrap_or(0), server);
        }
        let ended = server.child.try_wait()?;
        while ended.is_some() && server.listens {
            // What it said last counts.
            self.listen(server);
        }
        Ok(ended)
    }

    /// Takes what a server says; a bounded part of it, so that signals are not kept waiting.
    fn listen(&mut self, server: &mut Server) {
        for _ in 0..MESSAGES_AT_ONCE {
            let understood = match estate::receive(&server.socket, false) {
                Ok(Received::Word(word, descriptor)) => self.holdings.take(word, descriptor),
                Ok(Received::Nothing) => return,
                Ok(Received::End) => {
                    server.listens = false;
                    return;
                }
                Ok(Received::Nonsense) | Err(_) => false,
            };
            if !understood {
                server.nonsense += 1;
                tracing::warn!("a message of the server is not understood");
                if server.nonsense > MAX_NONSENSE {
                    server.listens = false;
                    return;
                }
            }
        }
    }

    fn react(&mut self, signal: RawFd, server: &Server) {
        let Ok(signal) = Signal::try_from(signal) else { return };
        let pid = Pid::from_raw(i32::try_from(server.child.id()).unwrap_or(i32::MAX));
        match signal {
            Signal::SIGTERM | Signal::SIGINT => {
                self.stopping.get_or_insert_with(Instant::now);
                let _ = kill(pid, signal);
            }
            Signal::SIGHUP if self.holdings.mount.is_some() => {
                // What it has read and not answered is sent again to the next one.
                self.upgrading = true;
                let _ = kill(pid, Signal::SIGKILL);
            }
            _ => {}
        }
    }

    /// Waits a little if servers die often, and gives up if they do nothing else.
    fn count_death(&mut self, started: Instant) -> Result<(), Failure> {
        if started.elapsed() >= SHORT_LIFE {
            self.short_lives = 0;
            return Ok(());
        }
        self.short_lives += 1;
        if self.short_lives > MAX_SHORT_LIVES {
            let reason = format!("{} servers in a row died at once", self.short_lives);
            return Err(self.give_up(&reason));
        }
        if let Some(more) = self.short_lives.checked_sub(QUICK_STARTS + 1) {
            let pause = FIRST_PAUSE.saturating_mul(1 << more.min(16)).min(MAX_PAUSE);
            #[expect(clippy::disallowed_methods, reason = "nothing to wait for: a pause")]
            std::thread::sleep(pause);
        }
        Ok(())
    }

    fn succeed(&mut self) -> Result<Server, Failure> {
        self.start().map_err(|error| self.give_up(&format!("no successor can be started: {error}")))
    }

    /// Ends the mount, so that its users get an error instead of waiting for ever.
    fn give_up(&mut self, reason: &str) -> Failure {
        if let Some(estate) = self.holdings.mount.take() {
            if let Err(error) = mount::unmount(&estate.mountpoint, true) {
                tracing::warn!(%error, "cannot detach the mount");
            }
            // With the last descriptor the connection ends.
            drop(estate);
        }
        let message = format!("the mount is given up: {reason}; see the messages before");
        Failure::new(ExitStatus::FuseLoop, message).advise("mount it again")
    }
}

/// Lets a child have a descriptor under its number.
fn inherit(command: &mut Command, descriptor: RawFd) {
    // SAFETY: between fork and exec only fcntl and sigprocmask are called, which are
    // async-signal-safe; no memory is allocated, no lock taken.
    unsafe {
        command.pre_exec(move || {
            SigSet::empty().thread_set_mask()?;
            if libc::fcntl(descriptor, libc::F_SETFD, 0) == -1 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        })
    };
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
