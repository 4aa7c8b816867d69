//! How a live connection passes from one server to the next (facts/fuse.md).
//!
//! The kernel greets a connection once, with INIT, and fuser wants to be greeted. So the greeting
//! and its answer are kept, and a successor's fuser is greeted through a socket with the same
//! words; if it answers the same, the real connection is put in the place of the socket, and the
//! kernel is asked to send again what the dead server had read and not answered.
//!
//! Workers of such a server share one descriptor. With descriptors of their own (`clone_fd`) the
//! kernel would end with an error what a dying worker had read, instead of keeping it.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use super::device::Device;
use super::greeting::Terms;

/// The kernel refuses reads into less than this (FUSE_MIN_READ_BUFFER); INIT is far shorter.
const READ_LEN: usize = 8192;
/// Bytes of `struct fuse_in_header`.
const REQUEST_HEAD: usize = 40;
/// Code of the first request (FUSE_INIT).
const OPCODE_INIT: u32 = 26;
/// Code of the notification that asks for requests to be sent again (FUSE_NOTIFY_RESEND, 6.9).
const NOTIFY_RESEND: i32 = 7;

/// The kernel's first message and our answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    request: Vec<u8>,
    reply: Vec<u8>,
}

/// Code of INIT (include/uapi/linux/fuse.h).
const INIT: u32 = 26;
/// Major version of the kernel's protocol; there has been no other since 2006.
const MAJOR: u32 = 7;
/// Length of `struct fuse_in_header`, and of `struct fuse_init_in` in its oldest form.
const REQUEST: (usize, usize) = (40, 16);
/// Length of `struct fuse_out_header`, and of `struct fuse_init_out` in its oldest form.
const REPLY: (usize, usize) = (16, 24);
/// Longest of both; today they have 104 and 80 bytes.
const MAX_GREETING: usize = 512;

impl Greeting {
    /// Makes a greeting of what both sides said; for tests.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        let mut request = vec![0; 104];
        let mut reply = vec![0; 80];
        request[0] = 104;
        request[4] = INIT.to_le_bytes()[0];
        request[8] = 1;
        request[40] = MAJOR.to_le_bytes()[0];
        reply[0] = 80;
        reply[8] = 1;
        reply[16] = MAJOR.to_le_bytes()[0];
        Self { request, reply }
    }

    /// Tells whether these are an INIT of the kernel and the answer to it. Whoever keeps a greeting for a successor
    /// has it from a server that may have been compromised.
    pub fn is_sound(&self) -> bool {
        let (request, reply) = (&self.request, &self.reply);
        let long = |bytes: &[u8], at: usize| {
            bytes.get(at..).and_then(<[u8]>::first_chunk).map(|bytes| u32::from_ne_bytes(*bytes))
        };
        let fits = |bytes: &[u8], (header, body): (usize, usize)| {
            (header + body..=MAX_GREETING).contains(&bytes.len())
                && long(bytes, 0).and_then(|len| usize::try_from(len).ok()) == Some(bytes.len())
                && long(bytes, header) == Some(MAJOR)
        };
        let is_answer = request.get(8..16) == reply.get(8..16) && long(reply, 4) == Some(0);
        fits(request, REQUEST) && fits(reply, REPLY) && long(request, 4) == Some(INIT) && is_answer
    }

    /// Tells whether the kernel was promised to be given files that it reads by itself.
    pub fn passes_through(&self) -> bool {
        self.terms().is_some_and(|terms| terms.pass_through())
    }

    /// Tells whether the request is one message that says its own length, and INIT: fuser trusts that.
    fn is_sensible(&self) -> bool {
        let number = |at: usize| Some(u32::from_le_bytes(*self.request.get(at..)?.first_chunk()?));
        let len = number(0).and_then(|len| usize::try_from(len).ok());
        let fits = (REQUEST_HEAD..=READ_LEN).contains(&self.request.len());
        fits && len == Some(self.request.len()) && number(4) == Some(OPCODE_INIT)
    }

    pub(super) fn terms(&self) -> Option<Terms> {
        Terms::of(&self.reply)
    }
}

/// A mount that can change hands, apart from what the kernel knows of its inodes.
#[derive(Debug)]
pub struct Mount {
    /// The connection to the kernel.
    pub connection: OwnedFd,
    /// The words by which it began.
    pub greeting: Greeting,
    /// Where it is mounted; resolved.
    pub mountpoint: PathBuf,
    /// Its device, where that is known.
    pub device: Option<Device>,
}

/// Greets a filesystem in the kernel's name, and connects it.
///
/// The first server of a connection passes on the kernel's greeting; a successor gets the one
/// that was kept.
pub fn connect<F: fuser::Filesystem>(
    filesystem: F,
    connection: &OwnedFd,
    kept: Option<&Greeting>,
    acl: fuser::SessionACL,
    config: fuser::Config,
) -> io::Result<(fuser::Session<F>, Greeting)> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let request = match kept {
        Some(kept) if !kept.is_sensible() => return Err(io::ErrorKind::InvalidData.into()),
        Some(kept) => kept.request.clone(),
        None => receive(connection.as_fd())?,
    };
    rustix::io::write(&ours, &request)?;
    let session = fuser::Session::from_fd(filesystem, theirs, acl, config)?;
    let reply = receive(ours.as_fd())?;
    match kept {
        None => {
            rustix::io::write(connection, &reply)?;
        }
        // Who believes in other flags misreads requests.
        Some(kept) if kept.reply != reply => {
            return Err(io::Error::other("this program wants other features of the connection"));
        }
        Some(_) => {}
    }
    replace(session.as_fd(), connection.as_fd())?;
    Ok((session, Greeting { request, reply }))
}

/// Asks the kernel to send again what a dead server had read.
pub fn resend(connection: BorrowedFd<'_>) -> io::Result<()> {
    let mut notification = [0; 16];
    notification[..4].copy_from_slice(&16_u32.to_le_bytes());
    notification[4..8].copy_from_slice(&NOTIFY_RESEND.to_le_bytes());
    rustix::io::write(connection, &notification)?;
    Ok(())
}

fn receive(from: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; READ_LEN];
    let len = rustix::io::retry_on_intr(|| rustix::io::read(from, &mut bytes[..]))?;
    bytes.truncate(len);
    Ok(bytes)
}

/// Puts `new` under the number of `place`.
fn replace(place: BorrowedFd<'_>, new: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: dup3 takes two open descriptors and touches no memory. fuser owns the number, reads
    // and writes it with plain system calls, and nobody does so before the session runs.
    let done = unsafe { libc::dup3(new.as_raw_fd(), place.as_raw_fd(), libc::O_CLOEXEC) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_greeting_of_the_kernel_is_repeated() {
        let greeting = |len: u32, opcode: u32, bytes: usize| {
            let mut request = [len.to_le_bytes(), opcode.to_le_bytes()].concat();
            request.resize(bytes, 0);
            Greeting { request, reply: Vec::new() }.is_sensible()
        };
        assert!(greeting(104, OPCODE_INIT, 104));
        for (len, opcode, bytes) in [
            (104, OPCODE_INIT, 103),
            (0, OPCODE_INIT, 104),
            (u32::MAX, OPCODE_INIT, 104),
            (39, OPCODE_INIT, 39),
            (8, OPCODE_INIT, 8),
            (104, 1, 104),
            (60_000, OPCODE_INIT, 60_000),
        ] {
            assert!(!greeting(len, opcode, bytes), "{len} {opcode} {bytes}");
        }
    }
}
