//! The background process, and what it tells its parent.
//!
//! The parent starts this program again with the same arguments and `--ready-fd N`: the writing
//! end of a pipe, on which the child writes one line of JSON when the mount is usable or has
//! failed. Starting anew, instead of forking, means that no thread or lock of the parent is
//! inherited half way. The child's stderr is a log file. Until the mount is usable, it stays in the
//! process group of its parent: automount(8) lets only processes of its own group pass through a
//! directory that it is about to mount, and would wait for itself otherwise. Then supervisor and
//! server each begin a session of their own, without a terminal.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};
use serde::{Deserialize, Serialize};

use super::Service;
use super::crash;
use super::estate::{Bequest, Candidate};
use super::holder::Deposit;
use super::identity;
use super::log;
use super::own_mount::OwnMount;
use super::serve::{Origin, Usable};
use super::supervisor;
use crate::cli::exit::{ExitStatus, Failure};
use crate::escape::one_line;
use crate::fuse::premounted;
use crate::sandbox::capabilities;

/// Start of the mount until it is usable. The network has tighter limits for each attempt; this
/// one covers a long list of servers that are all slow.
const READY_DEADLINE: Duration = Duration::from_secs(5 * 60);
/// After this time the user is told what we wait for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// How long a child that has reported a failure may take to end.
const END_DEADLINE: Duration = Duration::from_secs(5);
/// Longest report; a failure has one line of text.
const MAX_REPORT: usize = 64 << 10;
/// Length of the log excerpt in a message.
const MAX_TAIL: usize = 1000;

/// What the child tells.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Report {
    Usable(Usable),
    Failed(Failure),
}

/// Longest time from the start of a mount until it is usable, for others who wait for a child.
pub(crate) const START_LIMIT: Duration = READY_DEADLINE;

/// Understands what a child wrote; `None` if it ended without a word.
pub(crate) fn outcome_of(line: &[u8]) -> Option<Result<Usable, Failure>> {
    match serde_json::from_slice(line).ok()? {
        Report::Usable(usable) => Some(Ok(usable)),
        // It may be the word of another user's server, and is shown on root's terminal.
        Report::Failed(Failure { status, message }) => {
            Some(Err(Failure::new(status, log::printable(&message, MAX_REPORT))))
        }
    }
}

/// Starts the background process and waits until its mount is usable.
pub fn start(service: &impl Service) -> Result<Usable, Failure> {
    let (log_path, log_file) = open_log(service)?;
    let log_start = log_file.metadata().map_or(0, |metadata| metadata.len());
    let trouble = |what: &str, error: &io::Error| Failure::caused(ExitStatus::Unknown, what, error);
    let (reader, writer) = io::pipe().map_err(|error| trouble("cannot make a pipe", &error))?;
    let own = crate::cli::own_command_line();
    // Not current_exe(): the file may have been replaced by an upgrade.
    let program = Path::new("/proc/self/exe");
    let mounted = premounted::number_of(service.mountpoint());
    let ready = Some(writer.as_raw_fd());
    let child = command(program, own, ready, mounted, log_file, Session::OfCaller)
        .spawn()
        .map_err(|error| trouble("cannot start the background process", &error))?;
    drop(writer);
    let waiting = Waiting { child, reader, log_path, log_start };
    waiting.outcome(service)
}

/// Opens the log of a background mount, and says which file that is.
pub(crate) fn open_log(service: &impl Service) -> Result<(PathBuf, File), Failure> {
    let cache = &service.model().cache;
    let account = identity::account_of(service);
    let (owner, places) = match &account {
        // Its own place among the temporary ones, and never root's.
        Some(account) => {
            let scratch = std::env::temp_dir().join(format!("cvmfs-fuse-{}", account.uid));
            (account.uid, &vec![cache.directory.clone(), scratch])
        }
        None => (nix::unistd::geteuid().as_raw(), &cache.log_directories),
    };
    // As the account, so that it can go on with it, and cannot lead root elsewhere.
    identity::as_account(account.as_ref(), || log::open_background(places, owner, service.name()))
        .or_else(|error| {
            // A read-only machine is no reason not to mount.
            tracing::warn!(%error, ?places, "no log can be written in any of these directories");
            let nowhere = PathBuf::from("/dev/null");
            File::options().append(true).open(&nowhere).map(|file| (nowhere, file))
        })
        .map_err(|error| Failure::caused(ExitStatus::CacheDirectory, "cannot open a log", &error))
}

/// Returns who owns the log besides this user.
fn partner_of(service: &impl Service) -> Option<u32> {
    identity::account_of(service).map(|account| account.uid)
}

/// Adds to a command line what is for a child only; before `--`, after which all is positional.
pub(crate) fn insert_arguments(
    line: &mut Vec<OsString>,
    added: impl IntoIterator<Item = OsString>,
) {
    let at = line.iter().position(|word| word == "--").unwrap_or(line.len());
    line.splice(at..at, added);
}

/// Session in which a background process starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    /// The session and the process group of the caller, until the mount is usable.
    OfCaller,
    /// A new session, out of reach of the signals of a terminal.
    Own,
}

/// Returns a program with a command line (its own name first), as a process in the background that
/// tells on the descriptor how its mount went. It also gets one that is mounted already.
pub(crate) fn command(
    program: &Path,
    mut line: Vec<OsString>,
    descriptor: Option<RawFd>,
    mounted: Option<RawFd>,
    log_file: File,
    session: Session,
) -> Command {
    if let Some(descriptor) = descriptor {
        insert_arguments(&mut line, ["--ready-fd".into(), descriptor.to_string().into()]);
    }
    let mut own = line.into_iter();
    let mut command = Command::new(program);
    if let Some(name) = own.next() {
        command.arg0(name);
    }
    command.args(own).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file);
    // SAFETY: between fork and exec only async-signal-safe system calls are made: setsid,
    // close_range and fcntl. No memory is allocated, no lock taken.
    unsafe {
        command.pre_exec(move || {
            if session == Session::Own {
                nix::unistd::setsid()?;
            }
            // A daemon must not hold pipes and files that happened to be open in the shell. Fails
            // on kernels before 5.11, where these then stay open.
            libc::syscall(
                libc::SYS_close_range,
                libc::STDERR_FILENO + 1,
                libc::c_int::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            );
            for kept in [descriptor, mounted].into_iter().flatten() {
                if libc::fcntl(kept, libc::F_SETFD, 0) == -1 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        })
    };
    command
}

struct Waiting {
    child: Child,
    reader: PipeReader,
    log_path: PathBuf,
    log_start: u64,
}

impl Waiting {
    fn outcome(mut self, service: &impl Service) -> Result<Usable, Failure> {
        let start = Instant::now();
        let mut line = Vec::new();
        let mut told = false;
        loop {
            let limit = if told { READY_DEADLINE } else { PATIENCE };
            let readable = self
                .readable(limit.saturating_sub(start.elapsed()))
                .map_err(|error| self.lost(&error.to_string()))?;
            if readable {
                let mut piece = [0; 4096];
                let length = match self.reader.read(&mut piece) {
                    Ok(length) => length,
                    Err(error) => return Err(self.lost(&error.to_string())),
                };
                line.extend_from_slice(&piece[..length]);
                if length == 0 || line.contains(&b'\n') || line.len() > MAX_REPORT {
                    break;
                }
            } else if start.elapsed() >= READY_DEADLINE {
                return Err(self.overdue());
            } else if !told && start.elapsed() >= PATIENCE {
                told = true;
                // Nobody may be listening.
                let _ = writeln!(io::stderr(), "cvmfs-fuse: {}", one_line(&service.progress()));
            }
        }
        match outcome_of(&line) {
            Some(Ok(usable)) => Ok(usable),
            Some(Err(failure)) => {
                // Let it end first, so that the user can try again at once.
                let _ = self.readable(END_DEADLINE);
                let _ = self.child.try_wait();
                Err(failure)
            }
            None => {
                let status = self.child.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
                Err(self.lost(&status))
            }
        }
    }

    fn readable(&self, wait: Duration) -> io::Result<bool> {
        let mut descriptors = [PollFd::new(self.reader.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        match poll(&mut descriptors, timeout) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn lost(&self, how: &str) -> Failure {
        let tail = log::tail(&self.log_path, self.log_start, MAX_TAIL);
        let said = if tail.is_empty() { "nothing".to_owned() } else { tail };
        let message = format!(
            "the background process ended without a word ({how}); its log {} says: {said}",
            self.log_path.display()
        );
        Failure::new(ExitStatus::Mount, message)
    }

    fn overdue(&mut self) -> Failure {
        // Its mount, if there is one, must not appear later behind the user's back.
        if let Ok(process) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(process), Signal::SIGTERM);
        }
        if !matches!(self.readable(END_DEADLINE), Ok(true)) {
            let _ = self.child.kill();
        }
        let message = format!(
            "not usable after {} s; see the log {}",
            READY_DEADLINE.as_secs(),
            self.log_path.display()
        );
        Failure::new(ExitStatus::Mount, message)
    }
}

/// The child: supervises the server, which tells the parent.
pub fn run(service: &impl Service, descriptor: RawFd) -> Result<ExitStatus, Failure> {
    let parent = Parent::adopt(descriptor)?;
    if let Some(path) = log::path_of_stderr() {
        log::bound_stderr(&path, partner_of(service));
    }
    let place = supervisor::Place::Background(
        parent
            .pipe
            .try_clone()
            .map_err(|error| Failure::caused(ExitStatus::Unknown, "cannot pass on a pipe", &error))?
            .into(),
    );
    let own = OwnMount::at(service.mountpoint());
    let claimed = super::held_at(service).map(|place| Deposit::claim(place, &own));
    let claimed = match claimed.transpose() {
        Ok(claimed) => claimed,
        Err(failure) => {
            // Nobody else tells.
            if let Err(error) = parent.tell(&Report::Failed(failure.clone())) {
                tracing::warn!(%error, "cannot tell the parent");
            }
            return Err(failure);
        }
    };
    drop(parent);
    supervisor::run(place, own, claimed, &service.model().cache.directory)
}

/// The server: serves the mount, and tells whoever waits for it how that went.
pub fn serve_supervised(service: &impl Service, socket: RawFd) -> Result<(), Failure> {
    let refused = |error: io::Error| {
        Failure::caused(ExitStatus::Options, "--server-fd is for the program itself", &error)
    };
    let socket = supervisor::adopt(socket)?;
    crash::watch();
    let process = service.process();
    if !process.foreground
        && let Some(path) = log::path_of_stderr()
    {
        log::bound_stderr(&path, partner_of(service));
    }
    let origin = if process.take_over {
        Origin::Successor(Candidate::receive(socket).map_err(|error| {
            Failure::caused(ExitStatus::RestoreState, "nothing to take over", &error)
        })?)
    } else {
        Origin::First(Bequest::to(socket).map_err(refused)?)
    };
    let mut parent = process.ready_fd.map(Parent::adopt).transpose()?;
    let drops = identity::account_of(service).is_none();
    if let Some(Err(error)) = parent.as_ref().map(|parent| parent.stop_with_it(drops)) {
        tracing::warn!(%error, "cannot watch the parent");
    }
    let outcome = service.serve(origin, |usable| match parent.take() {
        Some(parent) => {
            leave_session();
            parent.tell(&Report::Usable(usable))
        }
        None => {
            if process.foreground {
                super::announce(service.mountpoint(), usable);
            }
            Ok(())
        }
    });
    match (outcome, parent) {
        (Err(failure), Some(parent)) => {
            if let Err(error) = parent.tell(&Report::Failed(failure.clone())) {
                tracing::warn!(%error, "cannot tell the parent");
            }
            Err(failure)
        }
        (outcome, _) => outcome,
    }
}

/// Begins a session of this process: no terminal, and none of the signals that its user types.
///
/// Does nothing where this process leads a group already, as in a session that was begun before.
pub(super) fn leave_session() {
    if let Err(errno) = nix::unistd::setsid() {
        tracing::debug!(%errno, "no session of its own");
    }
}

/// The writing end of the pipe.
#[derive(Debug)]
struct Parent {
    pipe: File,
    /// Set when the parent has got its report and may leave.
    told: Arc<AtomicBool>,
}

impl Parent {
    /// Takes over the descriptor of the command line.
    fn adopt(descriptor: RawFd) -> Result<Self, Failure> {
        let refused = |error: &io::Error| {
            Failure::caused(ExitStatus::Options, "--ready-fd is for the program itself", error)
        };
        // Opened anew, so that the number, which anybody can type, is only looked up.
        let path = Path::new("/proc/self/fd").join(descriptor.to_string());
        let own = OpenOptions::new().write(true).open(path).map_err(|error| refused(&error))?;
        nix::unistd::close(descriptor).map_err(|errno| refused(&errno.into()))?;
        Ok(Self { pipe: own, told: Arc::default() })
    }

    /// Stops this process like SIGTERM if the parent ends first (Ctrl-C while it waits): nobody
    /// would know of the mount.
    ///
    /// The thread begins before the sandbox is entered, so it `drops` what it has; not where the whole process
    /// becomes another user, which all threads must be able to.
    fn stop_with_it(&self, drops: bool) -> io::Result<()> {
        let pipe = self.pipe.try_clone()?;
        let told = Arc::clone(&self.told);
        let (sent, dropped) = mpsc::channel();
        thread::Builder::new().name("parent-watch".to_owned()).spawn(move || {
            let _ = sent.send(match drops {
                true => capabilities::drop_in_this_thread(),
                false => Ok(()),
            });
            // No event is asked for: what remains is the error that the reader is gone.
            let mut descriptors = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
            while poll(&mut descriptors, PollTimeout::NONE) == Err(Errno::EINTR) {}
            if !told.load(Ordering::SeqCst) {
                // Our own process cannot be missing.
                let _ = kill(getpid(), Signal::SIGTERM);
            }
        })?;
        dropped.recv().unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    fn tell(mut self, report: &Report) -> io::Result<()> {
        self.told.store(true, Ordering::SeqCst);
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        self.pipe.write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd as _;

    use super::*;

    #[test]
    fn the_child_gets_the_same_command_line() {
        for (own, expected) in [
            ("mount a.b.c /mnt -v", "mount a.b.c /mnt -v --ready-fd 7"),
            ("mount -o ro -- a.b.c -mnt", "mount -o ro --ready-fd 7 -- a.b.c -mnt"),
        ] {
            let mut line: Vec<_> = own.split(' ').map(OsString::from).collect();
            insert_arguments(&mut line, ["--ready-fd".into(), "7".into()]);
            assert_eq!(line.join(" ".as_ref()), *expected);
        }
    }

    #[test]
    fn reports_travel_through_the_pipe() {
        for report in [
            Report::Usable(Usable::Mounted),
            Report::Usable(Usable::AlreadyMounted),
            Report::Failed(Failure::new(ExitStatus::Catalog, "line\nbreak")),
        ] {
            let (mut reader, writer) = io::pipe().unwrap();
            Parent::adopt(writer.into_raw_fd()).unwrap().tell(&report).unwrap();
            let mut line = String::new();
            reader.read_to_string(&mut line).unwrap();
            assert_eq!(line.matches('\n').count(), 1);
            assert_eq!(serde_json::from_str::<Report>(&line).unwrap(), report);
        }
    }

    #[test]
    fn h2_what_a_server_reports_is_shown_as_text() {
        let failure = Failure::new(ExitStatus::Catalog, "\u{1b}]0;owned\u{7}\nsecond line");
        let report = serde_json::to_vec(&Report::Failed(failure)).unwrap();
        let shown = outcome_of(&report).unwrap().unwrap_err();
        assert!(!shown.message.chars().any(char::is_control), "{shown}");
        assert_eq!(shown.status, ExitStatus::Catalog);
    }

    #[test]
    fn a_parent_that_left() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let parent = Parent::adopt(writer.into_raw_fd()).unwrap();
        let error = parent.tell(&Report::Usable(Usable::Mounted)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(Parent::adopt(987_654).unwrap_err().status, ExitStatus::Options);
    }
}
