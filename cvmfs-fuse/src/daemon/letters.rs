//! The supervisor protocol: what supervisors, servers and holders tell each other, one packet a word.
//!
//! | word | from | descriptors | meaning |
//! |---|---|---|---|
//! | `Mounted` | server | connection to the kernel | there is a mount |
//! | `Journals` | server | journals | of these names; take the place of earlier ones |
//! | `Closed` | server | | the journal of this name is needed no more |
//! | `Present` | supervisor | | to a successor: that is all so far |
//! | `Ready` | successor | | it waits for the end of the one before |
//! | `Died` | supervisor | | to a successor: the one before was not replaced on purpose |
//! | `Complete` | supervisor | | to a successor: now it is the server |
//! | `Serving` | server | | it answers requests |
//! | `Detach` | server | | nobody new is to find the mount; it may not do that itself |
//! | `Shrink` | server | | the kernel is to drop what it knows and nobody uses; it may not do that itself |
//! | `Control` | supervisor | listening socket | to a server: where clients are answered; without a socket, nowhere |
//! | `Deposit` | supervisor | | to a holder: I look after this mount; is there an estate? |
//! | `Own` | holder | | what follows was deposited by the user that you are |
//! | `Refused` | holder | | not that one, not now |
//! | `Released` | supervisor | | to a holder: the mount has ended |
//!
//! A holder passes on and is told the same words as a successor and a supervisor.
//!
//! A supervisor outlives upgrades, so the two sides may be of different versions: words that one
//! does not know are passed over, and the present ones keep their meaning.
//!
//! # What the worst server can say
//!
//! With `CVMFS_USER` a supervisor is root and its server is not; a holder serves users who do not trust each other.
//! So the other side is an enemy that may say anything, in any order, at any rate:
//!
//! | word | field | worst value | what it does |
//! |---|---|---|---|
//! | any | length, text | 64 KiB and more, no JSON, deep nesting | counts as nonsense; after 100 the server is not heard any more |
//! | any | rate | a flood | a burst of 1,024, then 256 each second: the rest waits in the socket; 64 between two looks at signals |
//! | any | descriptors | a pipe, a socket, a file that answers nobody, more than 64 | it is not heard any more (at a holder: its user is not let in again); they are closed in a thread of its own, because closing may wait ([`crate::fuse::received`]) |
//! | `Mounted` | descriptor | not /dev/fuse, ended, another mount's | refused ([`super::own_mount`]) |
//! | | `greeting` | any bytes | refused if it is no INIT of protocol 7 with its answer; a successor of the same user is greeted by it |
//! | | `mountpoint` | any path | not used: the supervisor's own command line says where |
//! | | `device` | `0:../../x`, another mount's | no number: nonsense. A number is not used where the kernel tells the connection, and else only if /proc/self/mountinfo has it at the mountpoint |
//! | | | a second one | refused |
//! | `Journals` | `names` | empty, 256 bytes, control characters, more or fewer than descriptors | refused, all of them |
//! | | | the 513th | refused |
//! | | descriptors | anything but memory, over 512 MiB | refused. The content is not looked at; a successor of the same user parses it as hostile |
//! | `Closed` | `name` | any | an own journal is forgotten, or nothing happens |
//! | `Ready`, `Serving` | `version` | 64 KiB of escape sequences | cut at 64 bytes, control characters escaped |
//! | | | not its turn | nonsense |
//! | `Detach` | | at any time, again and again | the own mount is detached, if it is on top |
//! | `Shrink` | | at any time, again and again | one short process for the own mount, every 2 s at most ([`super::shrinker`]) |
//! | `Died`, `Present`, `Complete`, `Control`, `Deposit`, `Own`, `Refused`, `Released` | | from a server | nonsense |
//!
//! Nothing else is taken from a server: which program is started next, and when, the supervisor decides alone.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};

use super::log::printable;
use crate::fuse::device::Device;
use crate::fuse::handover::Greeting;
use crate::fuse::received::{Kind, discard, kind_of};

/// Longest message: a path, and a greeting of some hundred bytes as numbers in text.
pub(super) const MAX_LEN: usize = 64 * 1024;
/// Descriptors in one message; the kernel takes 253.
pub(super) const MAX_DESCRIPTORS: usize = 64;
/// Longest version that is shown.
const MAX_VERSION: usize = 64;
/// Longest reason of a refusal that is shown.
const MAX_REASON: usize = 256;
/// How long the other side may let us wait with a message. It does nothing but read them.
const PATIENCE: Duration = Duration::from_secs(5);

/// One thing said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Word {
    /// There is a mount; comes with its connection.
    Mounted {
        greeting: Greeting,
        mountpoint: PathBuf,
        /// As the teller sees it; see [`super::own_mount`] for what is believed.
        device: Option<Device>,
    },
    /// Comes with their journals, [`MAX_DESCRIPTORS`] at most.
    Journals { names: Vec<String> },
    /// The journal is needed no more.
    Closed { name: String },
    /// To a successor: it has all so far.
    Present,
    /// A successor has prepared what it can.
    Ready { version: String },
    /// To a successor: the server before was not replaced on purpose.
    Died,
    /// To a successor: it has all, and nobody else serves.
    Complete,
    /// The server answers requests.
    Serving { version: String },
    /// To a server: where clients of the mount are answered. Comes with a socket that listens, or without one
    /// if there can be none.
    Control,
    /// Nobody new is to find the mount, and the server, which is not root, may not detach it.
    Detach,
    /// The kernel is to drop the unused entries of the mount, for kernels that the server cannot tell which.
    Shrink,
    /// To a holder, first of all. With `claim` it says what it has of this mount; else what it has
    /// is outdated.
    Deposit { name: String, mountpoint: PathBuf, claim: bool },
    /// By a holder, before all that it has: the one who deposited it is of the same user as the one who asks. Earlier
    /// versions gave root what any user had deposited, and did not say so.
    Own,
    /// By a holder: another process has this mount.
    Refused { reason: String },
    /// To a holder: there is no mount any more.
    Released,
}

/// What arrived.
#[derive(Debug)]
pub(super) enum Received {
    /// A message.
    Word(Word, Vec<OwnedFd>),
    /// Something that is no message, or not of this version.
    Nonsense,
    /// Something that came with descriptors which nobody has a reason to send, and which may make whoever closes
    /// them wait. No version of ours does that.
    Hostile,
    /// Nothing now.
    Nothing,
    /// The other side is gone.
    End,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Line {
    socket: OwnedFd,
    /// Of a supervisor or a holder, which waits for nobody, and takes only descriptors that make nobody wait.
    hurried: bool,
}

impl Line {
    /// Makes a connection: the supervisor's end, and the one that the server is given.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self { socket: ours, hurried: true }, theirs))
    }

    /// Wraps the end of one that does wait a little.
    pub(super) fn patient(socket: OwnedFd) -> io::Result<Self> {
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        Ok(Self { socket, hurried: false })
    }

    /// Wraps the end of one that waits for nobody.
    pub(super) fn hurried(socket: OwnedFd) -> Self {
        Self { socket, hurried: true }
    }

    /// Returns the descriptor, to be polled.
    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Sends one message.
    pub(super) fn say(&self, word: &Word, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let letter = serde_json::to_vec(word)?;
        if letter.len() > MAX_LEN || descriptors.len() > MAX_DESCRIPTORS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let pieces = [IoSlice::new(&letter)];
        let mut flags = SendFlags::NOSIGNAL;
        flags.set(SendFlags::DONTWAIT, self.hurried);
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.socket, &pieces, &mut control, flags)
        })?;
        Ok(())
    }

    /// Receives one message, if one arrives in this time; `None`: however long that takes.
    pub(super) fn wait(&self, limit: Option<Duration>) -> io::Result<Received> {
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
        match rustix::event::poll(&mut polled, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => self.hear(),
            Err(error) => Err(error.into()),
        }
    }

    /// Receives one message, if one is there.
    pub(super) fn hear(&self) -> io::Result<Received> {
        let mut letter = vec![0; MAX_LEN];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = rustix::io::retry_on_intr(|| {
            let pieces = &mut [IoSliceMut::new(&mut letter)];
            rustix::net::recvmsg(&self.socket, pieces, &mut control, flags)
        });
        let received = match received {
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN) => return Ok(Received::Nothing),
            // Servers are killed.
            Err(rustix::io::Errno::CONNRESET) => return Ok(Received::End),
            Err(error) => return Err(error.into()),
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sent) = message {
                descriptors.extend(sent);
            }
        }
        if received.bytes == 0 && descriptors.is_empty() {
            return Ok(Received::End);
        }
        if !self.accepts(&descriptors) {
            discard(descriptors);
            return Ok(Received::Hostile);
        }
        let is_cut = received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
        let text = letter.get(..received.bytes).filter(|_| !is_cut);
        Ok(match text.and_then(decode) {
            Some(word) => Received::Word(word, descriptors),
            None => Received::Nonsense,
        })
    }

    /// Memory and connections to the kernel are all that servers and depositors have to send.
    fn accepts(&self, descriptors: &[OwnedFd]) -> bool {
        let is_harmless = |descriptor: &OwnedFd| match kind_of(descriptor.as_fd()) {
            Kind::Memory(_) | Kind::Fuse => true,
            // Stands for a connection to the kernel.
            Kind::Local => cfg!(test),
            Kind::Other => false,
        };
        !self.hurried || descriptors.iter().all(is_harmless)
    }
}

/// Parses a message; whatever the other side would have shown to people is fit for that afterwards.
pub(super) fn decode(text: &[u8]) -> Option<Word> {
    Some(match serde_json::from_slice(text).ok()? {
        Word::Ready { version } => Word::Ready { version: printable(&version, MAX_VERSION) },
        Word::Serving { version } => Word::Serving { version: printable(&version, MAX_VERSION) },
        Word::Refused { reason } => Word::Refused { reason: printable(&reason, MAX_REASON) },
        word => word,
    })
}
