//! How a supervisor is asked to replace its server, also when no server lives: at the socket `control` in the
//! control directory of the mount ([`crate::talk::directory`]).
//!
//! One packet asks, one answers. The supervisor takes it from root and its own user, if they prove that they
//! see the mount ([`crate::talk::proof`]); the command believes root and the user of the mount.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cvmfs_cache::peer_of;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType, recv};
use serde::{Deserialize, Serialize};

use crate::talk::address::SeenMount;
use crate::talk::directory::{CONTROL, ControlDirectory, DirectoryError, Record, TALK};
use crate::talk::finding;
use crate::talk::proof::{self, Descriptors, Peer};
use crate::talk::wire::{REFUSAL, UNSEEN};

/// What is asked; there is one thing.
const UPGRADE: &[u8] = b"upgrade";
/// Who waits for an answer at a time.
const MAX_ASKING: usize = 8;
/// Longest answer: two versions, or one line of reasons.
const MAX_ANSWER: usize = 4096;
/// How long the address of a mount that has just begun is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two looks.
const RETRY: Duration = Duration::from_millis(20);
/// How long the queue of a supervisor may be full.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// What came of an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Another server answers.
    Upgraded {
        /// Version and process before.
        from: String,
        /// And after.
        to: String,
    },
    /// It is as before.
    Failed(String),
    /// The peer has not proved that it sees the mount.
    Unseen,
}

/// Why nothing can be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no supervisor of this mount can be reached from here")]
    Nobody(#[source] io::Error),
    /// Somebody does who is not to be trusted.
    #[error("user {0} listens in place of the supervisor")]
    Stranger(u32),
    /// It does not let us.
    #[error("{REFUSAL}")]
    NotAllowed,
    /// It lets those who see the mount.
    #[error("{UNSEEN}")]
    Unseen,
    /// No answer.
    #[error("no answer after {} s", .0.as_secs())]
    Silence(Duration),
    /// Something else.
    #[error("cannot talk to the supervisor")]
    Broken(#[source] io::Error),
}

/// The supervisor's end: the control directory of its mount, with both sockets.
#[derive(Debug)]
pub(super) struct Control {
    listener: OwnedFd,
    /// Where the server answers; never accepted from here.
    talk: OwnedFd,
    device: String,
    /// Connected, and not asked yet.
    silent: Vec<(OwnedFd, Peer)>,
    asking: Vec<OwnedFd>,
    /// Removed with its value.
    _directory: ControlDirectory,
}

impl Control {
    /// Makes the control directory of the mount with this device number, and listens in it.
    pub(super) fn listen(
        device: &str,
        mountpoint: &Path,
        caches: &[PathBuf],
    ) -> Result<Self, DirectoryError> {
        let mut directory = ControlDirectory::make(device, caches)?;
        let listener = directory.listen(CONTROL, SocketType::SEQPACKET)?;
        let talk = directory.listen(TALK, SocketType::STREAM)?;
        // Last: a directory counts from its record on.
        directory.write(&Record::of(device, mountpoint, std::process::id()))?;
        tracing::debug!(path = %directory.path().display(), "control directory");
        let (silent, asking, device) = (Vec::new(), Vec::new(), device.to_owned());
        Ok(Self { listener, talk, device, silent, asking, _directory: directory })
    }

    /// Returns the socket that the server accepts clients from.
    pub(super) fn talk(&self) -> BorrowedFd<'_> {
        self.talk.as_fd()
    }

    /// Returns what is to be polled.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let silent = self.silent.iter().map(|(peer, _)| peer);
        [&self.listener].into_iter().chain(silent).map(OwnedFd::as_fd)
    }

    /// Tells whether somebody new asks for an upgrade.
    pub(super) fn is_asked(&mut self) -> bool {
        while let Ok(socket) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
            let Ok(peer) = Peer::of(&socket) else { continue };
            let is_allowed = peer.uid == 0 || peer.uid == nix::unistd::geteuid().as_raw();
            if is_allowed {
                // Who says nothing makes room for who may.
                if self.silent.len() >= MAX_ASKING {
                    drop(self.silent.remove(0));
                }
                self.silent.push((socket, peer));
            }
        }
        let before = self.asking.len();
        for (socket, peer) in std::mem::take(&mut self.silent) {
            let (mut request, mut sent) = ([0; 64], Descriptors::default());
            match proof::receive(&socket, &mut request, RecvFlags::DONTWAIT, &mut sent) {
                Ok(len) if request.get(..len) == Some(UPGRADE) => {
                    if !peer.has_proved(&sent, &self.device) {
                        send(&socket, &Answer::Unseen);
                    } else if self.asking.len() < MAX_ASKING {
                        self.asking.push(socket);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.silent.push((socket, peer));
                }
                // Nonsense, or gone.
                _ => {}
            }
        }
        self.asking.len() > before
    }

    /// Answers all who asked.
    pub(super) fn answer(&mut self, answer: &Answer) {
        for peer in self.asking.drain(..) {
            send(&peer, answer);
        }
    }
}

/// Answers a peer, which may not be waiting any more.
fn send(peer: &OwnedFd, answer: &Answer) {
    let letter = serde_json::to_vec(answer).unwrap_or_default();
    let _ = rustix::net::send(peer, &letter, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

/// Asks the supervisor of a mount for an upgrade.
///
/// # Errors
/// If no supervisor is found that speaks for the mount, or it does not answer.
pub fn ask(mount: &SeenMount, limit: Duration) -> Result<Answer, AskError> {
    let broken = |error: rustix::io::Errno| AskError::Broken(error.into());
    let socket = connect(mount, limit.min(CONNECT_LIMIT))?;
    let proof: Vec<_> = mount.proof().into_iter().collect();
    proof::send(&socket, UPGRADE, &proof).map_err(AskError::Broken)?;
    let timeout = Timespec::try_from(limit).ok();
    let mut polled = [PollFd::new(&socket, PollFlags::IN)];
    if poll(&mut polled, timeout.as_ref()).map_err(broken)? == 0 {
        return Err(AskError::Silence(limit));
    }
    let mut letter = vec![0; MAX_ANSWER];
    match recv(&socket, &mut letter[..], RecvFlags::empty()) {
        Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => Err(AskError::NotAllowed),
        Ok((len, _)) => match serde_json::from_slice(&letter[..len]) {
            Ok(Answer::Unseen) => Err(AskError::Unseen),
            Ok(answer) => Ok(answer),
            Err(error) => Err(AskError::Broken(error.into())),
        },
        Err(error) => Err(broken(error)),
    }
}

/// Returns the process id of the supervisor of a mount, without asking it anything.
pub fn supervisor_of(mount: &SeenMount) -> Option<i32> {
    let socket = attempt(mount, CONNECT_LIMIT).ok()?;
    Peer::of(&socket).ok()?.pid()?.try_into().ok()
}

/// Connects to the supervisor. A mount of this program that has just begun gets its address in a moment.
fn connect(mount: &SeenMount, limit: Duration) -> Result<OwnedFd, AskError> {
    let start = Instant::now();
    loop {
        let error = match attempt(mount, limit) {
            Ok(socket) => return Ok(socket),
            Err(AskError::Nobody(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(AskError::NotAllowed);
            }
            Err(AskError::Nobody(error)) => error,
            Err(error) => return Err(error),
        };
        let is_full = error.kind() == io::ErrorKind::TimedOut;
        if is_full || !mount.looks_ours || start.elapsed() >= PATIENCE {
            return Err(AskError::Nobody(error));
        }
        #[expect(clippy::disallowed_methods, reason = "a short pause of a command")]
        std::thread::sleep(RETRY);
    }
}

/// Connects to who listens in a control directory of the mount: the owner of that directory, or nobody.
fn attempt(mount: &SeenMount, limit: Duration) -> Result<OwnedFd, AskError> {
    let mut last = AskError::Nobody(io::ErrorKind::NotFound.into());
    for place in finding::find(mount).map_err(AskError::Nobody)? {
        let socket = match place.connect(CONTROL, SocketType::SEQPACKET, limit) {
            Ok(socket) => socket,
            Err(error) => {
                last = AskError::Nobody(error);
                continue;
            }
        };
        match peer_of(&socket).map_err(AskError::Broken)? {
            (uid, _) if uid == place.owner => return Ok(socket),
            (uid, _) => last = AskError::Stranger(uid),
        }
    }
    Err(last)
}
