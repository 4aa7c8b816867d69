//! A supervisor's connection with its holder.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::super::estate::Holdings;
use super::super::letters::{Line, Received, Word};
use crate::cli::exit::{ExitStatus, Failure};

/// How long a holder may let us wait with what it has.
const PATIENCE: Duration = Duration::from_secs(10);
/// So long it is tried to get a mount that another process has: it may just be dying.
const CLAIM_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two attempts to do so, or to connect to a holder that is gone.
const PAUSE: Duration = Duration::from_millis(100);
/// The same when that fails for long.
const LONG_PAUSE: Duration = Duration::from_secs(5);

/// Which mount, and who holds it.
#[derive(Debug, Clone)]
pub struct Place {
    /// The socket of the holder.
    pub socket: PathBuf,
    /// The repository.
    pub name: String,
    /// Where it is mounted, as the command line has it.
    pub mountpoint: PathBuf,
}

/// The connection.
#[derive(Debug)]
pub(in crate::daemon) struct Deposit {
    place: Place,
    line: Option<Line>,
    retry: Instant,
    /// Attempts since it was lost.
    attempts: u32,
}

impl Deposit {
    /// Connects, and takes over what the holder has of this mount.
    pub(in crate::daemon) fn claim(place: Place) -> Result<(Self, Holdings), Failure> {
        let failed = |error: io::Error| {
            let what = format!("cannot use the holder at {}", place.socket.display());
            Failure::caused(ExitStatus::SaveState, &what, &error)
                .advise("start it with: cvmfs-fuse hold --socket PATH")
        };
        let start = Instant::now();
        loop {
            let line = connect(&place.socket).map_err(failed)?;
            match greet(&line, &place, true).map_err(failed)? {
                Ok(holdings) => {
                    let deposit =
                        Self { place, line: Some(line), retry: Instant::now(), attempts: 0 };
                    return Ok((deposit, holdings));
                }
                Err(reason) if start.elapsed() >= CLAIM_LIMIT => {
                    return Err(failed(io::Error::other(reason)));
                }
                #[expect(clippy::disallowed_methods, reason = "somebody else has to end first")]
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Returns what is to be polled.
    pub(in crate::daemon) fn descriptor(&self) -> Option<&OwnedFd> {
        self.line.as_ref().map(Line::socket)
    }

    /// Returns when it should be tried again to connect.
    pub(in crate::daemon) fn due(&self) -> Option<Instant> {
        self.line.is_none().then_some(self.retry)
    }

    /// Whether somebody holds the mount now.
    pub(in crate::daemon) fn is_held(&self) -> bool {
        self.line.is_some()
    }

    /// Passes on what a server said.
    pub(in crate::daemon) fn pass_on(&mut self, word: &Word, descriptors: &[BorrowedFd<'_>]) {
        if let Some(line) = &self.line
            && let Err(error) = line.say(word, descriptors)
        {
            self.lost(&error);
        }
    }

    /// Notices that the holder is gone, and connects again to one that is back.
    pub(in crate::daemon) fn turn(&mut self, holdings: &Holdings) {
        if let Some(line) = &self.line {
            match line.hear() {
                Ok(Received::End) => self.lost(&io::ErrorKind::ConnectionReset.into()),
                Err(error) => self.lost(&error),
                Ok(_) => {}
            }
        } else if self.retry <= Instant::now() {
            let again = connect(&self.place.socket).and_then(|line| {
                greet(&line, &self.place, false)?.map_err(io::Error::other)?;
                holdings.send(&line)?;
                Ok(line)
            });
            match again {
                Ok(line) => {
                    tracing::warn!("the holder is back");
                    (self.line, self.attempts) = (Some(line), 0);
                }
                Err(error) => {
                    tracing::debug!(%error, "no holder");
                    self.attempts += 1;
                    let pause = if self.attempts < 20 { PAUSE } else { LONG_PAUSE };
                    self.retry = Instant::now() + pause;
                }
            }
        }
    }

    fn lost(&mut self, error: &io::Error) {
        tracing::warn!(%error, "the holder is gone; the mount ends with its processes until it is back");
        self.line = None;
        self.retry = Instant::now() + PAUSE;
    }
}

fn connect(path: &Path) -> io::Result<Line> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(Line::hurried(socket))
}

/// Says who we are, and returns what the holder has, or why it refuses.
fn greet(line: &Line, place: &Place, claim: bool) -> io::Result<Result<Holdings, String>> {
    let (name, mountpoint) = (place.name.clone(), place.mountpoint.clone());
    line.say(&Word::Deposit { name, mountpoint, claim }, &[])?;
    let mut holdings = Holdings::default();
    loop {
        match line.wait(Some(PATIENCE))? {
            Received::Word(Word::Present, _) => return Ok(Ok(holdings)),
            Received::Word(Word::Refused { reason }, _) => return Ok(Err(reason)),
            Received::Word(word, descriptors) => {
                if !holdings.take(word, descriptors) {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
            Received::Nonsense => {}
            Received::Nothing => return Err(io::ErrorKind::TimedOut.into()),
            Received::End => {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "it does not let this user in (hold --allow)",
                ));
            }
        }
    }
}
