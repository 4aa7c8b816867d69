//! The processes that serve the mounts: children that end when we do.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::getpid;

use super::command::die_with;
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::MountSettings;
use crate::daemon::Service as _;
use crate::daemon::abort::detach;
use crate::daemon::background::{self, Session};
use crate::daemon::child::{Launcher, Order};
use crate::daemon::log;
use crate::daemon::own_mount::OwnMount;
use crate::daemon::serve::Usable;
use crate::daemon::succession::Succession;
use crate::fuse::mount::UnmountError;

/// Longest report; a failure has one line of text.
const MAX_REPORT: usize = 64 << 10;
/// Length of the log excerpt in a message.
const MAX_TAIL: usize = 1000;

/// A mount and its servers, one after the other.
pub(super) struct Server {
    /// Its repository.
    pub(super) fqrn: String,
    /// Where it mounts.
    pub(super) mountpoint: PathBuf,
    /// What the user is told who waits for it.
    pub(super) progress: String,
    pub(super) succession: Succession,
    reader: PipeReader,
    line: Vec<u8>,
    log_path: PathBuf,
    log_start: u64,
    /// How the mount went, once it is known.
    pub(super) outcome: Option<Result<Usable, Failure>>,
    /// There is no process of it any more.
    pub(super) ended: bool,
}

impl Server {
    /// Starts this program with a command line that makes it serve `settings`.
    pub(super) fn start(
        settings: &MountSettings,
        line: Vec<OsString>,
        mask: SigSet,
    ) -> Result<Self, Failure> {
        let trouble = |error: io::Error| {
            Failure::caused(ExitStatus::Unknown, "cannot start a server", &error)
        };
        let (log_path, log_file) = background::open_log(settings)?;
        let log_start = log_file.metadata().map_or(0, |metadata| metadata.len());
        let (reader, writer) = io::pipe().map_err(trouble)?;
        let log = (log_path.clone(), log_file);
        let own = OwnMount::at(&settings.mountpoint);
        let succession = Succession::start(launcher(line, writer.as_raw_fd(), log, mask), own)
            .map_err(trouble)?
            .caching_in(&settings.repository.cache.directory);
        Ok(Self {
            fqrn: settings.repository.fqrn.to_string(),
            mountpoint: settings.mountpoint.clone(),
            progress: settings.progress(),
            succession,
            reader,
            line: Vec::new(),
            log_path,
            log_start,
            outcome: None,
            ended: false,
        })
    }

    /// Returns the descriptor on which it tells how the mount went.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    /// Reads what it told; to be called when the descriptor is readable.
    pub(super) fn listen(&mut self) {
        let mut piece = [0; 4096];
        let length = self.reader.read(&mut piece).unwrap_or(0);
        self.line.extend_from_slice(piece.get(..length).unwrap_or_default());
        if length == 0 || self.line.contains(&b'\n') || self.line.len() > MAX_REPORT {
            let outcome = background::outcome_of(&self.line).unwrap_or_else(|| Err(self.lost()));
            self.outcome = Some(outcome);
        }
    }

    /// Gives up waiting for it.
    pub(super) fn overdue(&mut self) {
        let seconds = background::START_LIMIT.as_secs();
        let message =
            format!("not usable after {seconds} s; see the log {}", self.log_path.display());
        self.outcome = Some(Err(Failure::new(ExitStatus::Mount, message)));
    }

    fn lost(&self) -> Failure {
        let tail = log::tail(&self.log_path, self.log_start, MAX_TAIL);
        let said = if tail.is_empty() { "nothing".to_owned() } else { tail };
        let message = format!(
            "the server ended without a word; its log {} says: {said}",
            self.log_path.display()
        );
        Failure::new(ExitStatus::Mount, message)
    }

    /// Detaches its mount, if that is there and on top.
    pub(super) fn remove_mount(&self) -> Result<(), UnmountError> {
        detach(&self.mountpoint, self.succession.device())
    }

    /// Whether its mount was usable and its process should be there.
    pub(super) fn is_serving(&self) -> bool {
        matches!(self.outcome, Some(Ok(Usable::Mounted)))
    }
}

fn launcher(
    line: Vec<OsString>,
    ready: RawFd,
    (log_path, log_file): (PathBuf, File),
    mask: SigSet,
) -> Launcher {
    let parent = getpid();
    Box::new(move |program: &Path, extra, order| {
        let mut line = line.clone();
        background::insert_arguments(&mut line, extra);
        // A full log was put aside.
        let log = File::options().append(true).open(&log_path).or_else(|_| log_file.try_clone());
        let ready = (order == Order::First).then_some(ready);
        let mut command = background::command(program, line, ready, None, log?, Session::Own);
        // SAFETY: only system calls are made: prctl, getppid, pthread_sigmask.
        unsafe {
            command.pre_exec(move || {
                // Politely: where the mount namespace outlives us it has to unmount.
                die_with(parent, Signal::SIGTERM)?;
                Ok(mask.thread_set_mask()?)
            })
        };
        Ok(command)
    })
}
