//! The process that keeps mounts when all processes of a mount die, with the container they are
//! in: it has duplicates of the estates, and gives one to the next supervisor of that mount.
//!
//! It needs no privilege, no network and no writable directory but that of its socket. It opens
//! nothing and looks into nothing that it keeps.
//!
//! Its guests may be users who do not trust each other. What one deposits is given to that user only: a mount is known by
//! user, name and mountpoint, so that nobody can take the place of another one's. Seats, mounts, journals and
//! lines of the log are shared out ([`shares`]).
//!
//! | module | what it holds |
//! |---|---|
//! | `deposit` | a supervisor's connection with its holder |
//! | `shares` | how much each user may have of what there is |
//! | here | the holder |

mod deposit;
mod shares;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cvmfs_cache::{Peers, peer_of};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use rustix::net::SocketFlags;

use super::abort;
use super::estate::{Holdings, Trust};
use super::letters::{Line, Received, Word};
use super::log::printable;
use super::pace::{Lines, Pace};
use super::supervisor;
use crate::cli::exit::{ExitStatus, Failure};
use crate::fuse::mountinfo::show;
use shares::Shares;

pub(super) use deposit::Deposit;
pub use deposit::Place;

/// Longest path of a socket (sun_path of unix(7), with its NUL).
pub const MAX_SOCKET_PATH: usize = 107;
/// Connections that are accepted in one go, so that signals are not kept waiting.
const ACCEPTED_AT_ONCE: usize = 64;
/// Pause before the next look for connections after one that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Messages of one guest that are read in one go.
const MESSAGES_AT_ONCE: usize = 64;
/// Messages of one guest at once: all that a mount can have, twice.
const MAX_BURST: u32 = 1024;
/// Time for each message of a guest beyond that.
const MESSAGE_INTERVAL: Duration = Duration::from_millis(4);
/// Messages without sense after which a guest is shown out.
const MAX_NONSENSE: usize = 100;
/// Longest name of a mount, and of its mountpoint, in bytes (PATH_MAX).
const MAX_NAME: usize = 255;
const MAX_MOUNTPOINT: usize = 4096;
/// Longest name and path in a line of the log.
const MAX_SHOWN: usize = 512;

/// Which mount.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// The user who deposited it.
    uid: u32,
    name: String,
    mountpoint: PathBuf,
}

/// Somebody connected.
#[derive(Debug)]
struct Guest {
    line: Line,
    uid: u32,
    key: Option<Key>,
    nonsense: usize,
    pace: Pace,
}

/// A mount that is kept.
#[derive(Debug, Default)]
struct Held {
    holdings: Holdings,
    /// Since when nobody looks after it.
    orphan_since: Option<Instant>,
}

/// The holder.
#[derive(Debug)]
struct Holder {
    peers: Peers,
    shares: Shares,
    deadline: Duration,
    guests: Vec<Guest>,
    estates: BTreeMap<Key, Held>,
    /// Nobody is let in until then: there are no descriptors.
    closed_until: Option<Instant>,
    log: Log,
}

/// What happened, for the log of the container; nobody may be reading it. Others cause the lines, so their number is
/// bounded, apart for root and ourselves, for other users, and for those who are not let in.
#[derive(Debug)]
struct Log {
    privileged: Lines,
    others: Lines,
    refused: Lines,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            privileged: Lines::new(1000, Duration::from_secs(1)),
            others: Lines::new(100, Duration::from_secs(10)),
            refused: Lines::new(10, Duration::from_secs(60)),
        }
    }
}

impl Log {
    /// Writes what became of a mount.
    fn tell(&mut self, shares: &Shares, key: &Key, what: &str) {
        let is_privileged = shares.is_privileged(key.uid);
        let lines = if is_privileged { &mut self.privileged } else { &mut self.others };
        let (name, mountpoint) = (printable(&key.name, MAX_SHOWN), show(&key.mountpoint));
        let mountpoint = printable(&mountpoint, MAX_SHOWN);
        if let Some(left_out) = lines.take(Instant::now()) {
            say(&format!("{name} on {mountpoint}: {what}"), left_out);
        }
    }

    /// Writes that somebody is not let in.
    fn refuse(&mut self, why: &str) {
        if let Some(left_out) = self.refused.take(Instant::now()) {
            say(why, left_out);
        }
    }
}

fn say(what: &str, left_out: u64) {
    let mut out = io::stdout();
    let _ = match left_out {
        0 => writeln!(out, "{what}"),
        _ => writeln!(out, "{what} ({left_out} lines of this kind were left out before)"),
    };
}

/// Refuses a path that is too long for the address of a socket.
pub fn check_socket_path(path: &Path) -> Result<(), Failure> {
    let len = path.as_os_str().len();
    if len <= MAX_SOCKET_PATH {
        return Ok(());
    }
    let message =
        format!("{}: {len} bytes are too long for a socket: {MAX_SOCKET_PATH}", show(path));
    Err(Failure::new(ExitStatus::Options, message).advise("give a shorter path, or a link to it"))
}

/// Holds mounts until SIGTERM or SIGINT.
pub fn run(socket: &Path, peers: Peers, deadline: Duration) -> Result<(), Failure> {
    check_socket_path(socket)?;
    let trouble = |what: &str, error: io::Error| Failure::caused(ExitStatus::Unknown, what, &error);
    // Process 1 of a container gets no signal that it does not ask for.
    let (signals, _) =
        supervisor::listen().map_err(|error| trouble("cannot listen to signals", error))?;
    let (listener, _lock) = cvmfs_cache::listen_alone(socket)
        .map_err(|error| Failure::caused(ExitStatus::SaveState, "cannot listen", &error))?;
    rustix::io::ioctl_fionbio(&listener, true)
        .map_err(|error| trouble("cannot listen", error.into()))?;
    say(&format!("holding mounts for {}", show(socket)), 0);
    let mut holder = Holder::new(peers, Shares::of_process(), deadline);
    let outcome = loop {
        match holder.turn(&listener, &signals) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(trouble("cannot wait", error)),
        }
    };
    // Nobody may connect to what nobody listens to.
    let _ = std::fs::remove_file(socket);
    outcome
}

impl Holder {
    fn new(peers: Peers, shares: Shares, deadline: Duration) -> Self {
        Self {
            peers,
            shares,
            deadline,
            guests: Vec::new(),
            estates: BTreeMap::new(),
            closed_until: None,
            log: Log::default(),
        }
    }

    /// Waits until something happens, and does what follows; false if it is to end.
    fn turn(&mut self, listener: &OwnedFd, signals: &SignalFd) -> io::Result<bool> {
        let now = Instant::now();
        self.closed_until = self.closed_until.filter(|until| *until > now);
        let orphans = self.estates.values().filter_map(|held| held.orphan_since);
        let due = orphans
            .map(|since| since + self.deadline)
            .chain(self.guests.iter().filter_map(|guest| guest.pace.due(now)))
            .chain(self.closed_until)
            .min();
        let timeout = due.map_or(PollTimeout::NONE, |due| {
            let left = due.saturating_duration_since(now);
            PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX)
        });
        let mut polled = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if self.closed_until.is_none() {
            polled.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        }
        let heard = self.guests.iter().filter(|guest| guest.pace.due(now).is_none());
        let lines = heard.map(|guest| guest.line.socket().as_fd());
        polled.extend(lines.map(|line| PollFd::new(line, PollFlags::POLLIN)));
        let mounts = self.estates.values().filter_map(|held| held.holdings.mount.as_ref());
        // Nothing is asked of these: it is reported when they end.
        let ends = mounts.map(|mount| PollFd::new(mount.connection.as_fd(), PollFlags::empty()));
        polled.extend(ends);
        match poll(&mut polled, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        drop(polled);
        while let Some(signal) = signals.read_signal()? {
            let ends = [Signal::SIGTERM, Signal::SIGINT];
            if ends.iter().any(|&one| u32::try_from(one as i32) == Ok(signal.ssi_signo)) {
                return Ok(false);
            }
        }
        self.admit(listener);
        self.listen();
        self.let_go();
        Ok(true)
    }

    fn admit(&mut self, listener: &OwnedFd) {
        if self.closed_until.is_some() {
            return;
        }
        for _ in 0..ACCEPTED_AT_ONCE {
            let peer = match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
                Ok(peer) => peer,
                Err(rustix::io::Errno::AGAIN) => return,
                // Gone again.
                Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => continue,
                Err(_) => {
                    self.closed_until = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            };
            let Ok((uid, gid)) = peer_of(&peer) else { continue };
            if self.shares.is_banned(uid) {
                self.log.refuse(&format!("user {uid} has sent descriptors of other things"));
            } else if self.shares.is_unknown(uid) {
                self.log.refuse(
                    "a user whom this user namespace does not know may not use this holder",
                );
            } else if !self.peers.allow(uid, gid) {
                self.log.refuse(&format!("user {uid} may not use this holder (--allow)"));
            } else if !self.shares.has_seat(uid, self.guests.iter().map(|guest| guest.uid)) {
                self.log.refuse(&format!("user {uid} has too many connections"));
            } else {
                let line = Line::hurried(peer);
                let pace = Pace::new(MAX_BURST, MESSAGE_INTERVAL);
                self.guests.push(Guest { line, uid, key: None, nonsense: 0, pace });
            }
        }
    }

    fn listen(&mut self) {
        for mut guest in std::mem::take(&mut self.guests) {
            if self.hear(&mut guest) {
                self.guests.push(guest);
            } else if let Some(key) = guest.key {
                self.left(key);
            }
        }
    }

    /// Takes what a guest says; false when it is gone.
    fn hear(&mut self, guest: &mut Guest) -> bool {
        for _ in 0..MESSAGES_AT_ONCE {
            if guest.pace.due(Instant::now()).is_some() {
                return true;
            }
            let heard = guest.line.hear();
            if !matches!(heard, Ok(Received::Nothing | Received::End)) {
                guest.pace.take(Instant::now());
            }
            let understood = match heard {
                Ok(Received::Nothing) => return true,
                Ok(Received::End) => return false,
                Ok(Received::Hostile) => {
                    self.shares.ban(guest.uid);
                    self.log
                        .refuse(&format!("user {} sends descriptors of other things", guest.uid));
                    return false;
                }
                Ok(Received::Nonsense) | Err(_) => false,
                Ok(Received::Word(Word::Deposit { name, mountpoint, claim }, _)) => {
                    self.greet(guest, Key { uid: guest.uid, name, mountpoint }, claim)
                }
                Ok(Received::Word(Word::Released, _)) => match guest.key.take() {
                    Some(key) => {
                        self.estates.remove(&key);
                        self.log.tell(&self.shares, &key, "ended");
                        true
                    }
                    None => false,
                },
                Ok(Received::Word(word, descriptors)) => {
                    let estates = self.estates.iter();
                    let kept = estates.map(|(key, held)| (key.uid, held.holdings.journals.len()));
                    let journals_left = self.shares.journals_left(guest.uid, kept);
                    let held = guest.key.as_ref().and_then(|key| self.estates.get_mut(key));
                    let trust = Trust::Depositor { journals_left };
                    held.is_some_and(|held| held.holdings.take(word, descriptors, trust).is_ok())
                }
            };
            guest.nonsense += usize::from(!understood);
            if guest.nonsense > MAX_NONSENSE {
                return false;
            }
        }
        true
    }

    /// Lets a guest look after a mount; false if it is not its first word, or makes no sense.
    fn greet(&mut self, guest: &mut Guest, key: Key, claim: bool) -> bool {
        let is_sensible = (1..=MAX_NAME).contains(&key.name.len())
            && key.name.bytes().all(|byte| byte.is_ascii_graphic())
            && key.mountpoint.is_absolute()
            && key.mountpoint.as_os_str().len() <= MAX_MOUNTPOINT;
        if guest.key.is_some() || !is_sensible {
            return false;
        }
        if let Err(reason) = self.may_have(&key) {
            let _ = guest.line.say(&Word::Refused { reason: reason.to_owned() }, &[]);
            return true;
        }
        let held = self.estates.entry(key.clone()).or_default();
        held.orphan_since = None;
        if !claim {
            held.holdings = Holdings::default();
        }
        let is_there = held.holdings.mount.is_some();
        // If it does not get it, it ends, and the mount waits for the next one.
        let told = guest.line.say(&Word::Own, &[]);
        if told.and_then(|()| held.holdings.send(&guest.line)).is_ok() {
            let what = if is_there { "taken over" } else { "held from now on" };
            self.log.tell(&self.shares, &key, what);
        }
        guest.key = Some(key);
        true
    }

    fn may_have(&self, key: &Key) -> Result<(), &'static str> {
        // Of those that were heard before in this round, too.
        match self.estates.get(key) {
            Some(held) if held.orphan_since.is_none() => Err("another process has this mount"),
            Some(_) => Ok(()),
            None if self.shares.has_room(key.uid, self.estates.keys().map(|key| key.uid)) => Ok(()),
            None => Err("it holds too many mounts already"),
        }
    }

    /// A supervisor is gone.
    fn left(&mut self, key: Key) {
        match self.estates.get_mut(&key) {
            Some(held) if held.holdings.mount.is_some() => {
                held.orphan_since = Some(Instant::now());
                let limit = self.deadline.as_secs();
                let what = format!("left alone; kept for {limit} s");
                self.log.tell(&self.shares, &key, &what);
            }
            // It never had a mount.
            Some(_) => drop(self.estates.remove(&key)),
            None => {}
        }
    }

    /// Lets go what has ended, and what nobody came for.
    fn let_go(&mut self) {
        let Self { estates, log, shares, deadline, .. } = self;
        estates.retain(|key, held| {
            let over = |mount: &crate::fuse::handover::Mount| abort::is_over(&mount.connection);
            if held.holdings.mount.as_ref().is_some_and(over) && held.orphan_since.is_some() {
                log.tell(shares, key, "unmounted");
                return false;
            }
            let late = held.orphan_since.is_some_and(|since| since.elapsed() >= *deadline);
            if late {
                let limit = deadline.as_secs();
                let what = format!("nobody came within {limit} s; its users get errors");
                log.tell(shares, key, &what);
            }
            !late
        });
    }
}
