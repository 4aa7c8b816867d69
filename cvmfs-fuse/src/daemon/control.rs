//! How a supervisor is asked to replace its server, also when no server lives: an abstract socket
//! named after the device of the mount, which /proc/self/mountinfo tells to whoever sees the mount.
//!
//! One packet asks, one answers. Both sides look at who the other one is: root, or the same user.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use cvmfs_cache::peer_of;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

/// What is asked; there is one thing.
const UPGRADE: &[u8] = b"upgrade";
/// Who waits for an answer at a time.
const MAX_ASKING: usize = 8;
/// Longest answer: two versions, or one line of reasons.
const MAX_ANSWER: usize = 4096;

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
    #[error("only root and the user who mounted may ask for that")]
    NotAllowed,
    /// No answer.
    #[error("no answer after {} s", .0.as_secs())]
    Silence(Duration),
    /// Something else.
    #[error("cannot talk to the supervisor")]
    Broken(#[source] io::Error),
}

/// The supervisor's end.
#[derive(Debug)]
pub(super) struct Control {
    listener: OwnedFd,
    /// Connected, and not asked yet.
    silent: Vec<OwnedFd>,
    asking: Vec<OwnedFd>,
}

fn address(device: &str) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new_abstract_name(format!("cvmfs-fuse/{device}").as_bytes())?)
}

fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | flags;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

fn is_one_of_us(socket: &OwnedFd) -> io::Result<Result<(), u32>> {
    let (uid, _) = peer_of(socket)?;
    let ours = uid == 0 || uid == nix::unistd::geteuid().as_raw();
    Ok(if ours { Ok(()) } else { Err(uid) })
}

impl Control {
    /// Listens for the mount with this device number.
    pub(super) fn listen(device: &str) -> io::Result<Self> {
        let listener = socket(SocketFlags::NONBLOCK)?;
        rustix::net::bind(&listener, &address(device)?)?;
        rustix::net::listen(&listener, i32::try_from(MAX_ASKING).unwrap_or(1))?;
        Ok(Self { listener, silent: Vec::new(), asking: Vec::new() })
    }

    /// Returns what is to be polled.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.listener].into_iter().chain(&self.silent).map(OwnedFd::as_fd)
    }

    /// Tells whether somebody new asks for an upgrade.
    pub(super) fn is_asked(&mut self) -> bool {
        while let Ok(peer) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
            if self.silent.len() < MAX_ASKING && matches!(is_one_of_us(&peer), Ok(Ok(()))) {
                self.silent.push(peer);
            }
        }
        let before = self.asking.len();
        for peer in std::mem::take(&mut self.silent) {
            let mut request = [0; 64];
            match rustix::net::recv(&peer, &mut request[..], RecvFlags::DONTWAIT) {
                Ok((len, _)) if request[..len] == *UPGRADE && self.asking.len() < MAX_ASKING => {
                    self.asking.push(peer);
                }
                Err(rustix::io::Errno::AGAIN) => self.silent.push(peer),
                // Nonsense, or gone.
                _ => {}
            }
        }
        self.asking.len() > before
    }

    /// Answers all who asked.
    pub(super) fn answer(&mut self, answer: &Answer) {
        let letter = serde_json::to_vec(answer).unwrap_or_default();
        for peer in self.asking.drain(..) {
            // Nobody may be waiting any more.
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let _ = rustix::net::send(&peer, &letter, flags);
        }
    }
}

/// Asks the supervisor of the mount with this device number for an upgrade.
pub fn ask(device: &str, limit: Duration) -> Result<Answer, AskError> {
    let broken = |error: rustix::io::Errno| AskError::Broken(error.into());
    let socket = socket(SocketFlags::empty()).map_err(AskError::Broken)?;
    let address = address(device).map_err(AskError::Broken)?;
    rustix::net::connect(&socket, &address).map_err(|error| AskError::Nobody(error.into()))?;
    is_one_of_us(&socket).map_err(AskError::Broken)?.map_err(AskError::Stranger)?;
    rustix::net::send(&socket, UPGRADE, SendFlags::NOSIGNAL).map_err(broken)?;
    let timeout = Timespec::try_from(limit).ok();
    let mut polled = [PollFd::new(&socket, PollFlags::IN)];
    if poll(&mut polled, timeout.as_ref()).map_err(broken)? == 0 {
        return Err(AskError::Silence(limit));
    }
    let mut letter = vec![0; MAX_ANSWER];
    match rustix::net::recv(&socket, &mut letter[..], RecvFlags::empty()) {
        Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => Err(AskError::NotAllowed),
        Ok((len, _)) => {
            serde_json::from_slice(&letter[..len]).map_err(|error| AskError::Broken(error.into()))
        }
        Err(error) => Err(broken(error)),
    }
}
