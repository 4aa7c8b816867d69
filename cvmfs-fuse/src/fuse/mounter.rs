//! A process that mounts for a server, which may not.
//!
//! The server opens the repository first, and that is when it first hears of the network. So it starts
//! this program before, says once and for all what is to be mounted where, gives up what it does not need
//! ([`crate::sandbox`]), and has nothing left to ask for but "now". The process mounts once, removes the mount
//! again if the server does not keep it, and ends; it also ends with the server.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
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

use super::mount::{self, HELPERS, MountError};
use super::mountinfo::{self, MountEntry};
use super::session::raise_readahead;
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::{Account, MountOptions};

/// The subcommand by which it is started.
pub const COMMAND: &str = "cvmfs_mounter";
/// mount(2) of FUSE waits for nobody, and fusermount only for it.
const LIMIT: Duration = Duration::from_secs(30);
const NOW: &[u8] = b"now";
const DONE: &[u8] = b"done";
/// The server keeps the mount.
const KEPT: &[u8] = b"kept";
/// The server ends, and the mount is to be removed.
const OVER: &[u8] = b"over";
/// Longest message: a word, a number, and what fusermount wrote.
const MAX_LEN: usize = 4096;

/// Where a server mounts, and by whom.
#[derive(Debug)]
pub struct Ground {
    /// Resolved.
    pub mountpoint: PathBuf,
    /// Who mounts, or only removes the mount of a predecessor; `None` if there is nothing to do.
    pub mounter: Option<Mounter>,
    /// It stays as long as the server, and removes the mount at the end if the supervisor is gone.
    pub stays: bool,
}

/// The process, as who started it sees it.
#[derive(Debug)]
pub struct Mounter {
    process: Child,
    line: OwnedFd,
}

/// A mount that is removed again if this value is dropped without [`Fresh::keep`].
#[derive(Debug)]
pub struct Fresh(Mounter);

impl Mounter {
    /// Starts it, with the rights of this process, for a directory whose name is resolved. Where the server
    /// becomes another user, the mount belongs to that one.
    pub fn start(
        mountpoint: &Path,
        options: &MountOptions,
        account: Option<&Account>,
    ) -> io::Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&ours, Timeout::Recv, Some(LIMIT))?;
        let options = MountOptions {
            uid: account.map(|account| account.uid),
            gid: account.map(|account| account.gid),
            use_helper: options.use_helper && account.is_none(),
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
    pub fn mount(self) -> Result<(OwnedFd, Fresh), MountError> {
        // If it is dropped, the process ends by itself: nobody is at the other end of its line.
        let fresh = Fresh(self);
        ask(fresh.0.line.as_fd()).map(|connection| (connection, fresh))
    }

    /// Lets it remove the mount; tells whether it hears that.
    pub fn remove(&self) -> bool {
        rustix::net::send(&self.line, OVER, SendFlags::NOSIGNAL).is_ok()
    }
}

impl Fresh {
    /// Leaves the mount where it is; returns who can remove it, if that one `stays`.
    pub fn keep(mut self, stays: bool) -> io::Result<Option<Mounter>> {
        rustix::net::send(&self.0.line, KEPT, SendFlags::NOSIGNAL)?;
        if stays {
            return Ok(Some(self.0));
        }
        drop(self.0.line);
        self.0.process.wait()?;
        Ok(None)
    }
}

fn ask(line: BorrowedFd<'_>) -> Result<OwnedFd, MountError> {
    rustix::net::send(line, NOW, SendFlags::NOSIGNAL).map_err(|e| MountError::Refused(e.into()))?;
    let mut said = vec![0; MAX_LEN];
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
    said.truncate(length);
    match connection {
        Some(connection) if said == DONE => Ok(connection),
        _ => Err(refusal(&said)),
    }
}

/// Puts a refusal into words: its place, and the number of an error; of a helper, which one, and what it wrote.
fn refused(error: &MountError) -> String {
    let number = |error: &io::Error| error.raw_os_error().unwrap_or(Errno::EIO as i32);
    let place = |helper: &str| HELPERS.iter().position(|known| *known == helper).unwrap_or(0);
    match error {
        MountError::NoDevice(error) => format!("device {}", number(error)),
        MountError::NotAllowed(error) => format!("alone {}", number(error)),
        MountError::Helper { helper, message } => {
            let shown: String = message.chars().take(MAX_LEN / 8).collect();
            format!("helper {} {shown}", place(helper))
        }
        MountError::HelperSocket { helper, source } => {
            format!("socket {} {}", place(helper), number(source))
        }
        MountError::Refused(error) | MountError::Handshake(error) | MountError::Threads(error) => {
            format!("mount {}", number(error))
        }
    }
}

/// Returns what a refusal means.
fn refusal(said: &[u8]) -> MountError {
    let text = String::from_utf8_lossy(said);
    let (place, rest) = text.split_once(' ').unwrap_or_default();
    let cause = |number: &str| match number.parse() {
        Ok(number) => io::Error::from_raw_os_error(number),
        Err(_) => io::Error::other("the process that mounts ended"),
    };
    let (which, message) = rest.split_once(' ').unwrap_or((rest, ""));
    let helper = which.parse().ok().and_then(|which: usize| HELPERS.get(which).copied());
    match (place, helper) {
        ("device", _) => MountError::NoDevice(cause(rest)),
        ("alone", _) => MountError::NotAllowed(cause(rest)),
        ("helper", Some(helper)) => MountError::Helper { helper, message: message.to_owned() },
        ("socket", Some(helper)) => MountError::HelperSocket { helper, source: cause(message) },
        _ => MountError::Refused(cause(rest)),
    }
}

/// The other side: the subcommand. Its standard input is the socket.
pub fn serve(options: &str, mountpoint: &Path) -> Result<ExitStatus, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        let message = format!("{COMMAND} is for the program itself: {error}");
        Failure::new(ExitStatus::Options, message)
    };
    let options: MountOptions = serde_json::from_str(options).map_err(|error| failed(&error))?;
    // Before the server is another user, who might lead the path elsewhere.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::open(mountpoint, flags, Mode::empty());
    let stdin = io::stdin();
    let line = stdin.as_fd();
    // For as long as the server opens the repository, which has a deadline; the end of it is heard.
    match hear(line).map_err(|error| failed(&error))? {
        word if word == NOW => {}
        word if word == OVER => {
            remove(mountpoint, None);
            return Ok(ExitStatus::Ok);
        }
        _ => return Ok(ExitStatus::Ok),
    }
    let mounted = match place {
        Ok(place) => mount::mount(Some(place.as_fd()), mountpoint, &options),
        Err(error) if options.uid.is_some() => Err(MountError::Refused(error.into())),
        // A helper may get where this user may not.
        Err(_) => mount::mount(None, mountpoint, &options),
    };
    let device = match mounted {
        Ok(device) => device,
        Err(error) => {
            say(line, refused(&error).as_bytes(), None).map_err(|error| failed(&error))?;
            return Ok(ExitStatus::Ok);
        }
    };
    raise_readahead(mountpoint);
    let mounted = mountinfo::topmost_at(mountpoint).ok().flatten();
    let sent = say(line, DONE, Some(device.as_fd()));
    // The kernel ends the mount with the last descriptor, and that must not be ours.
    drop(device);
    let is_kept = sent.is_ok() && hear(line).is_ok_and(|word| word == KEPT);
    if !is_kept || hear(line).is_ok_and(|word| word == OVER) {
        remove(mountpoint, mounted.as_ref());
    }
    Ok(ExitStatus::Ok)
}

/// Removes a mount of FUSE: this one, if it is known which, and nothing that somebody mounted over it.
fn remove(mountpoint: &Path, ours: Option<&MountEntry>) {
    let top = mountinfo::topmost_at(mountpoint).ok().flatten();
    let is_ours = |top: MountEntry| match ours {
        Some(ours) => top.device == ours.device,
        None => top.is_fuse(),
    };
    if top.is_some_and(is_ours)
        && let Err(error) = mount::unmount(mountpoint, true)
    {
        tracing::warn!(%error, "cannot remove the mount");
    }
}

fn hear(line: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut word = vec![0; KEPT.len()];
    let (length, _) =
        rustix::io::retry_on_intr(|| rustix::net::recv(line, &mut word[..], RecvFlags::empty()))?;
    word.truncate(length);
    Ok(word)
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
        let helper = MountError::Helper { helper: HELPERS[1], message: "no such user: x y".into() };
        assert!(matches!(
            refusal(refused(&helper).as_bytes()),
            MountError::Helper { helper: "fusermount", message } if message == "no such user: x y"
        ));
        let alone = MountError::NotAllowed(io::Error::from_raw_os_error(1));
        assert!(matches!(refusal(refused(&alone).as_bytes()), MountError::NotAllowed(_)));
        // It died.
        assert!(matches!(refusal(b""), MountError::Refused(e) if e.raw_os_error().is_none()));
    }
}
