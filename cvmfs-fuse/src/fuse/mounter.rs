//! A process that mounts for a server which is not root any more.
//!
//! The server opens the repository first, and that is when it first hears of the network. So it starts
//! this program as root, says once and for all what is to be mounted where, becomes another user,
//! and has nothing left to ask for but "now". The process mounts once and ends; it also ends with the server.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use rustix::fs::{Mode, OFlags};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::mount::{MountError, mount_now, open_device};
use super::session::raise_readahead;
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::{Account, MountOptions};

/// The subcommand by which it is started.
pub const COMMAND: &str = "cvmfs_mounter";
/// mount(2) of FUSE waits for nobody.
const LIMIT: Duration = Duration::from_secs(30);
const NOW: &[u8] = b"now";
const DONE: &[u8] = b"done";
/// Longest thing said: a word and a number.
const MAX_LEN: usize = 64;

/// Where a server mounts, and by whom.
#[derive(Debug)]
pub struct Ground {
    /// Resolved.
    pub mountpoint: PathBuf,
    /// Who mounts, if not the server itself.
    pub mounter: Option<Mounter>,
}

/// The process, as who started it sees it.
#[derive(Debug)]
pub struct Mounter {
    process: Child,
    line: OwnedFd,
}

impl Mounter {
    /// Starts it, as root, for a directory whose name is resolved.
    pub fn start(mountpoint: &Path, options: &MountOptions, account: &Account) -> io::Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&ours, Timeout::Recv, Some(LIMIT))?;
        let options = MountOptions {
            uid: Some(account.uid),
            gid: Some(account.gid),
            use_helper: false,
            ..options.clone()
        };
        let process = Command::new("/proc/self/exe")
            .arg0("cvmfs-fuse")
            .arg(COMMAND)
            .arg(serde_json::to_string(&options)?)
            .arg(mountpoint)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { process, line: ours })
    }

    /// Lets it mount, and returns the connection.
    pub fn mount(mut self) -> Result<OwnedFd, MountError> {
        let outcome = ask(self.line.as_fd());
        // It ends by itself after its answer; one that gave none in time is not waited for.
        drop(self.line);
        if outcome.is_err()
            && let Err(error) = self.process.kill()
        {
            tracing::debug!(%error, "cannot end the process that mounts");
        }
        if let Err(error) = self.process.wait() {
            tracing::debug!(%error, "the process that mounted is not ours any more");
        }
        outcome
    }
}

fn ask(line: BorrowedFd<'_>) -> Result<OwnedFd, MountError> {
    rustix::net::send(line, NOW, SendFlags::NOSIGNAL).map_err(|e| MountError::Refused(e.into()))?;
    let mut said = [0; MAX_LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let length = rustix::io::retry_on_intr(|| {
        recvmsg(line, &mut [IoSliceMut::new(&mut said)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })
    .map_err(|error| MountError::Refused(error.into()))?
    .bytes;
    let connection = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    match (&said[..length], connection) {
        (DONE, Some(connection)) => Ok(connection),
        (said, _) => Err(refusal(said)),
    }
}

/// Returns what a refusal means: its place, and the number of an error.
fn refusal(said: &[u8]) -> MountError {
    let text = String::from_utf8_lossy(said);
    let (place, number) = text.split_once(' ').unwrap_or_default();
    let cause = number.parse().map(io::Error::from_raw_os_error);
    let cause = cause.unwrap_or_else(|_| io::Error::other("the process that mounts ended"));
    match place {
        "device" => MountError::NoDevice(cause),
        _ => MountError::Refused(cause),
    }
}

/// The other side: the subcommand. Its standard input is the socket.
pub fn serve(options: &str, mountpoint: &Path) -> Result<ExitStatus, Failure> {
    let refused = |error: &dyn std::fmt::Display| {
        let message = format!("{COMMAND} is for the program itself: {error}");
        Failure::new(ExitStatus::Options, message)
    };
    let options: MountOptions = serde_json::from_str(options).map_err(|error| refused(&error))?;
    // Before the server is another user, who might lead the path elsewhere.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::open(mountpoint, flags, Mode::empty());
    let stdin = io::stdin();
    let line = stdin.as_fd();
    let mut word = [0; MAX_LEN];
    // For as long as the server opens the repository, which has a deadline; the end of it is heard.
    let (length, _) =
        rustix::io::retry_on_intr(|| rustix::net::recv(line, &mut word[..], RecvFlags::empty()))
            .map_err(|error| refused(&error))?;
    if word.get(..length) != Some(NOW) {
        return Ok(ExitStatus::Ok);
    }
    let number = |error: &io::Error| error.raw_os_error().unwrap_or(Errno::EIO as i32);
    let answer = match open_device() {
        Err(error) => Err(format!("device {}", number(&error))),
        Ok(device) => place
            .map_err(|error| Errno::from_raw(error.raw_os_error()))
            .and_then(|place| {
                let link = format!("/proc/self/fd/{}", place.as_raw_fd());
                mount_now(&device, Path::new(&link), &options)
            })
            .map(|()| device)
            .map_err(|errno| format!("mount {}", errno as i32)),
    };
    let sent = match &answer {
        Ok(device) => {
            raise_readahead(mountpoint);
            say(line, DONE, Some(device.as_fd()))
        }
        Err(refusal) => say(line, refusal.as_bytes(), None),
    };
    sent.map_err(|error| refused(&error))?;
    Ok(ExitStatus::Ok)
}

fn say(line: BorrowedFd<'_>, text: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    sendmsg(line, &[IoSlice::new(text)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_keep_their_cause() {
        let device = refusal(b"device 2");
        assert!(matches!(&device, MountError::NoDevice(e) if e.raw_os_error() == Some(2)));
        let mount = refusal(b"mount 1");
        assert!(matches!(&mount, MountError::Refused(e) if e.raw_os_error() == Some(1)));
        // It died.
        assert!(matches!(refusal(b""), MountError::Refused(e) if e.raw_os_error().is_none()));
    }
}
