//! The process that keeps mounts when all processes of a mount die, with the container they are
//! in: it has duplicates of the estates, and gives one to the next supervisor of that mount.
//!
//! It needs no privilege, no network and no writable directory but that of its socket. It opens
//! nothing and looks into nothing that it keeps.
//!
//! | module | what it holds |
//! |---|---|
//! | `deposit` | a supervisor's connection with its holder |
//! | here | the holder |

mod deposit;
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
use super::estate::Holdings;
use super::letters::{Line, Received, Word};
use super::supervisor;
use crate::cli::exit::{ExitStatus, Failure};
use crate::fuse::mountinfo::show;

pub(super) use deposit::Deposit;
pub use deposit::Place;

/// Longest path of a socket (sun_path of unix(7), with its NUL).
pub const MAX_SOCKET_PATH: usize = 107;
/// Mounts that are held.
const MAX_ESTATES: usize = 64;
/// Connections: one for each mount, and some that come and go.
const MAX_GUESTS: usize = 2 * MAX_ESTATES;
/// Messages of one guest that are read in one go.
const MESSAGES_AT_ONCE: usize = 64;
/// Messages without sense after which a guest is shown out.
const MAX_NONSENSE: usize = 100;

/// Which mount: name and mountpoint.
type Key = (String, PathBuf);

/// Somebody connected.
#[derive(Debug)]
struct Guest {
    line: Line,
    uid: u32,
    key: Option<Key>,
    nonsense: usize,
}

/// A mount that is kept.
#[derive(Debug)]
struct Held {
    holdings: Holdings,
    /// Whose it is.
    uid: u32,
    /// Since when nobody looks after it.
    orphan_since: Option<Instant>,
}

/// The holder.
#[derive(Debug)]
struct Holder {
    peers: Peers,
    deadline: Duration,
    guests: Vec<Guest>,
    estates: BTreeMap<Key, Held>,
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
    say(&format!("holding mounts for {}", show(socket)));
    let mut holder = Holder::new(peers, deadline);
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

/// What happened, for the log of the container; nobody may be reading it.
fn say(what: &str) {
    let _ = writeln!(io::stdout(), "{}", crate::escape::one_line(what));
}

fn named((name, mountpoint): &Key) -> String {
    format!("{name} on {}", show(mountpoint))
}

impl Holder {
    fn new(peers: Peers, deadline: Duration) -> Self {
        Self { peers, deadline, guests: Vec::new(), estates: BTreeMap::new() }
    }

    /// Waits until something happens, and does what follows; false if it is to end.
    fn turn(&mut self, listener: &OwnedFd, signals: &SignalFd) -> io::Result<bool> {
        let due = self.estates.values().filter_map(|held| held.orphan_since).min();
        let timeout = due.map_or(PollTimeout::NONE, |since| {
            let left = (since + self.deadline).saturating_duration_since(Instant::now());
            PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX)
        });
        let mut polled = vec![
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        let lines = self.guests.iter().map(|guest| guest.line.socket().as_fd());
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
        while let Ok(peer) = rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            let Ok((uid, gid)) = peer_of(&peer) else { continue };
            if !self.peers.allow(uid, gid) {
                say(&format!("user {uid} may not use this holder (--allow)"));
            } else if self.guests.len() < MAX_GUESTS {
                let line = Line::hurried(peer);
                self.guests.push(Guest { line, uid, key: None, nonsense: 0 });
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
            let understood = match guest.line.hear() {
                Ok(Received::Nothing) => return true,
                Ok(Received::End) => return false,
                Ok(Received::Nonsense) | Err(_) => false,
                Ok(Received::Word(Word::Deposit { name, mountpoint, claim }, _)) => {
                    self.greet(guest, (name, mountpoint), claim)
                }
                Ok(Received::Word(Word::Released, _)) => match guest.key.take() {
                    Some(key) => {
                        self.estates.remove(&key);
                        say(&format!("{}: ended", named(&key)));
                        true
                    }
                    None => false,
                },
                Ok(Received::Word(word, descriptors)) => {
                    let held = guest.key.as_ref().and_then(|key| self.estates.get_mut(key));
                    held.is_some_and(|held| held.holdings.take(word, descriptors))
                }
            };
            guest.nonsense += usize::from(!understood);
            if guest.nonsense > MAX_NONSENSE {
                return false;
            }
        }
        true
    }

    /// Lets a guest look after a mount; false if it is not its first word.
    fn greet(&mut self, guest: &mut Guest, key: Key, claim: bool) -> bool {
        if guest.key.is_some() {
            return false;
        }
        if let Err(reason) = self.may_have(guest, &key) {
            let _ = guest.line.say(&Word::Refused { reason: reason.to_owned() }, &[]);
            return true;
        }
        let nobody = || Held { holdings: Holdings::default(), uid: guest.uid, orphan_since: None };
        let held = self.estates.entry(key.clone()).or_insert_with(nobody);
        held.orphan_since = None;
        if !claim {
            held.holdings = Holdings::default();
        }
        let is_there = held.holdings.mount.is_some();
        // If it does not get it, it ends, and the mount waits for the next one.
        if held.holdings.send(&guest.line).is_ok() {
            let what = if is_there { "taken over" } else { "held from now on" };
            say(&format!("{}: {what}", named(&key)));
        }
        guest.key = Some(key);
        true
    }

    fn may_have(&self, guest: &Guest, key: &Key) -> Result<(), &'static str> {
        // Of those that were heard before in this round, too.
        match self.estates.get(key) {
            Some(held) if held.orphan_since.is_none() => Err("another process has this mount"),
            Some(held) if guest.uid != 0 && guest.uid != held.uid => {
                Err("it is the mount of another user")
            }
            Some(_) => Ok(()),
            None if self.estates.len() >= MAX_ESTATES => Err("it holds too many mounts already"),
            None => Ok(()),
        }
    }

    /// A supervisor is gone.
    fn left(&mut self, key: Key) {
        match self.estates.get_mut(&key) {
            Some(held) if held.holdings.mount.is_some() => {
                held.orphan_since = Some(Instant::now());
                let limit = self.deadline.as_secs();
                say(&format!("{}: left alone; kept for {limit} s", named(&key)));
            }
            // It never had a mount.
            Some(_) => drop(self.estates.remove(&key)),
            None => {}
        }
    }

    /// Lets go what has ended, and what nobody came for.
    fn let_go(&mut self) {
        let deadline = self.deadline;
        self.estates.retain(|key, held| {
            let over = |mount: &crate::fuse::handover::Mount| abort::is_over(&mount.connection);
            if held.holdings.mount.as_ref().is_some_and(over) && held.orphan_since.is_some() {
                say(&format!("{}: unmounted", named(key)));
                return false;
            }
            let late = held.orphan_since.is_some_and(|since| since.elapsed() >= deadline);
            if late {
                let limit = deadline.as_secs();
                say(&format!("{}: nobody came within {limit} s; its users get errors", named(key)));
            }
            !late
        });
    }
}
