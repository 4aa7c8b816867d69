//! A supervisor's connection with its holder.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cvmfs_cache::peer_of;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::super::estate::{Change, Holdings, Trust, Wrong};
use super::super::letters::{Line, Received, Word};
use super::super::own_mount::{NotOurs, OwnMount, Teller};
use crate::cli::exit::{ExitStatus, Failure};

/// How long a holder may let us wait with what it has.
const PATIENCE: Duration = Duration::from_secs(10);
/// So long it is tried to get a mount that another process has: it may just be dying.
const CLAIM_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two attempts to do so, or to connect to a holder that is gone.
const PAUSE: Duration = Duration::from_millis(100);
/// The same when that fails for long.
const LONG_PAUSE: Duration = Duration::from_secs(5);
/// Messages of a holder until it must have said all that it has of a mount.
const MAX_WORDS: usize = 1024;
/// Messages that are read of one that has nothing to say.
const MESSAGES_AT_ONCE: usize = 64;

/// Which mount, and who holds it.
#[derive(Debug, Clone)]
pub struct Place {
    /// The socket of the holder.
    pub socket: PathBuf,
    /// User as whom it may run, besides root and our own.
    pub user: Option<u32>,
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
    /// Connects, and takes over what the holder has of this mount, as far as it is ours.
    pub(in crate::daemon) fn claim(
        place: Place,
        own: &OwnMount,
    ) -> Result<(Self, Holdings), Failure> {
        let failed = |error: io::Error| {
            let what = format!("cannot use the holder at {}", place.socket.display());
            Failure::caused(ExitStatus::SaveState, &what, &error)
                .advise("start it with: cvmfs-fuse hold --socket PATH")
        };
        let start = Instant::now();
        loop {
            let line = connect(&place).map_err(failed)?;
            match greet(&line, &place, true, own).map_err(failed)? {
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

    /// Passes on what has changed.
    pub(in crate::daemon) fn pass_on(&mut self, change: &Change, holdings: &Holdings) {
        if let Some(line) = &self.line
            && let Err(error) = holdings.pass_on(change, line)
        {
            self.lost(&error);
        }
    }

    /// Says that there is no mount any more.
    pub(in crate::daemon) fn release(&mut self) {
        if let Some(line) = &self.line
            && let Err(error) = line.say(&Word::Released, &[])
        {
            self.lost(&error);
        }
    }

    /// Notices that the holder is gone, and connects again to one that is back.
    pub(in crate::daemon) fn turn(&mut self, own: &OwnMount, holdings: &Holdings) {
        if let Some(line) = &self.line {
            // It has nothing to say any more, and is not let say it for ever.
            for _ in 0..MESSAGES_AT_ONCE {
                match line.hear() {
                    Ok(Received::Nothing) => return,
                    Ok(Received::Word(..) | Received::Nonsense | Received::Hostile) => {}
                    Ok(Received::End) => return self.lost(&io::ErrorKind::ConnectionReset.into()),
                    Err(error) => return self.lost(&error),
                }
            }
            self.lost(&io::Error::other("it talks without being asked"));
        } else if self.retry <= Instant::now() {
            let again = connect(&self.place).and_then(|line| {
                greet(&line, &self.place, false, own)?.map_err(io::Error::other)?;
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

/// Connects to a holder that is to be believed: it has our connection to the kernel, and gives us one.
fn connect(place: &Place) -> io::Result<Line> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(&place.socket)?)?;
    let (uid, _) = peer_of(&socket)?;
    let ours = nix::unistd::geteuid().as_raw();
    if ![Some(0), Some(ours), place.user].contains(&Some(uid)) {
        let reason = format!(
            "it runs as user {uid}; root and user {} are believed (--holder-user)",
            place.user.unwrap_or(ours)
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    Ok(Line::hurried(socket))
}

/// Says who we are, and returns what the holder has, or why it refuses.
fn greet(
    line: &Line,
    place: &Place,
    claim: bool,
    own: &OwnMount,
) -> io::Result<Result<Holdings, String>> {
    let (name, mountpoint) = (place.name.clone(), place.mountpoint.clone());
    line.say(&Word::Deposit { name, mountpoint, claim }, &[])?;
    let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
    let mut holdings = Holdings::default();
    let mut is_own = false;
    for _ in 0..MAX_WORDS {
        match line.wait(Some(PATIENCE))? {
            Received::Word(Word::Present, _) => {
                let is_there = holdings.mount.is_some();
                return Ok(Ok(if is_there { holdings } else { Holdings::default() }));
            }
            Received::Word(Word::Refused { reason }, _) => return Ok(Err(reason)),
            Received::Word(Word::Own, _) => is_own = true,
            // Of an earlier version, which gives root what any user has deposited.
            Received::Word(..) if !is_own && nix::unistd::geteuid().is_root() => {
                return Err(invalid(
                    "it does not say whose mount it has; restart it with this version, and mount again",
                ));
            }
            Received::Word(word, descriptors) => {
                let trust = Trust::Supervised(own, Teller::Holder);
                match holdings.take(word, descriptors, trust) {
                    // Nobody serves it, and nobody can.
                    Ok(_) | Err(Wrong::Mount(NotOurs::Over)) => {}
                    Err(wrong) => return Err(io::Error::new(io::ErrorKind::InvalidData, wrong)),
                }
            }
            Received::Nonsense => {}
            Received::Hostile => return Err(invalid("it sends descriptors of other things")),
            Received::Nothing => return Err(io::ErrorKind::TimedOut.into()),
            Received::End => {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "it does not let this user in (hold --allow)",
                ));
            }
        }
    }
    Err(invalid("it does not come to an end with what it has"))
}
