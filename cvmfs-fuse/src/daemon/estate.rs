//! What a successor needs to go on with a mount, and how it travels: from a server to its
//! supervisor as soon as the mount is there, and from the supervisor to each successor.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use crate::fuse::handover::Greeting;

/// Longest message: a path, and a greeting of some hundred bytes as numbers in text.
const MAX_LEN: usize = 64 * 1024;

/// What outlives a server.
#[derive(Debug)]
pub struct Estate {
    /// The connection to the kernel.
    pub connection: OwnedFd,
    /// Which inodes the kernel holds ([`crate::fs::journal`]).
    pub journal: OwnedFd,
    /// The words by which the connection began.
    pub greeting: Greeting,
    /// Where it is mounted; resolved.
    pub mountpoint: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Letter {
    greeting: Greeting,
    mountpoint: PathBuf,
}

impl Estate {
    /// Sends it in one message.
    pub fn send(&self, socket: &OwnedFd) -> io::Result<()> {
        let (greeting, mountpoint) = (self.greeting.clone(), self.mountpoint.clone());
        let letter = serde_json::to_vec(&Letter { greeting, mountpoint })?;
        let descriptors = [self.connection.as_fd(), self.journal.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let pieces = [IoSlice::new(&letter)];
        rustix::net::sendmsg(socket, &pieces, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Receives it; `None` if the other side is gone.
    pub fn receive(socket: &OwnedFd) -> io::Result<Option<Self>> {
        let mut letter = vec![0; MAX_LEN];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            let pieces = &mut [IoSliceMut::new(&mut letter)];
            rustix::net::recvmsg(socket, pieces, &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sent) = message {
                descriptors.extend(sent);
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        let Letter { greeting, mountpoint } = serde_json::from_slice(&letter[..received.bytes])?;
        let mut descriptors = descriptors.into_iter();
        let (Some(connection), Some(journal)) = (descriptors.next(), descriptors.next()) else {
            return Err(io::Error::other("the descriptors of the mount are missing"));
        };
        Ok(Some(Self { connection, journal, greeting, mountpoint }))
    }
}
