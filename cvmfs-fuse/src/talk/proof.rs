//! Proof that a peer sees a mount: without it, a user number alone gives no authority.
//!
//! User 0 of a container without any capability is user 0 for a socket, too. What such a process does not
//! have is the mount. So its process is found to have the mount in its own table of mounts; only where that
//! table cannot be read, a descriptor of the mountpoint that came with the request counts instead, since
//! a descriptor can be borrowed from another process:
//!
//! | proof | how it is checked | who has it |
//! |---|---|---|
//! | an `O_PATH` descriptor (SCM_RIGHTS) | its device is that of the mount | commands of this program |
//! | the process that connected (SO_PEERPIDFD) | its /proc/PID/mountinfo names the device | scripts made for upstream |
//!
//! The server never asks itself: statx of an `O_PATH` descriptor with an empty mask and
//! `AT_STATX_DONT_SYNC` is answered by the kernel alone. /proc/PID/mountinfo can be read without any right
//! over the process, so a server that gave root up can check root. The process is held by its pidfd from
//! before the table is read, and must still live afterwards: its number cannot have been given to
//! another one in between.

use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::directory::device_number;
use crate::fuse::device::Device;
use crate::fuse::mountinfo;

/// Descriptors that one request may carry; a client that does not know which mount answers passes several.
pub(crate) const MAX_DESCRIPTORS: usize = 32;
/// Descriptors that are no `O_PATH` and whose closing has not ended: it may wait for another file server.
const MAX_CLOSING: usize = 16;
/// Longest table of mounts that is read.
const MAX_TABLE: u64 = 64 << 20;

static CLOSING: AtomicUsize = AtomicUsize::new(0);

/// A peer of a socket.
#[derive(Debug)]
pub(crate) struct Peer {
    /// User of the process that connected.
    pub(crate) uid: u32,
    process: Option<OwnedFd>,
    /// It had ended before it could be held.
    has_ended: bool,
}

/// What is known of whether a peer sees a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Its table of mounts has it.
    Seen,
    /// Its table has not, or it has ended.
    NotSeen,
    /// Its table cannot be read: it is of a pid namespace that is not seen here, or hidden.
    Unknown,
}

impl Peer {
    /// Looks at who connected.
    ///
    /// # Errors
    /// If the socket does not know.
    pub(crate) fn of(socket: &impl AsFd) -> io::Result<Self> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials)?;
        let mut has_ended = false;
        let process = match getsockopt(socket, sockopt::PeerPidfd) {
            Ok(process) => Some(process),
            // Before Linux 6.5. The process is looked up by its number as soon as it is accepted.
            Err(nix::errno::Errno::ENOPROTOOPT) => {
                match Pid::from_raw(credentials.pid())
                    .map(|pid| pidfd_open(pid, PidfdFlags::empty()))
                {
                    Some(Ok(process)) => Some(process),
                    Some(Err(Errno::SRCH | Errno::INVAL)) => {
                        has_ended = true;
                        None
                    }
                    Some(Err(error)) if is_shortage(error) => return Err(error.into()),
                    _ => None,
                }
            }
            Err(nix::errno::Errno::ESRCH | nix::errno::Errno::EINVAL) => {
                has_ended = true;
                None
            }
            Err(error) if is_shortage(Errno::from_raw_os_error(error as i32)) => {
                return Err(error.into());
            }
            Err(_) => None,
        };
        Ok(Self { uid: credentials.uid(), process, has_ended })
    }

    /// Returns the id of the process that connected, or listens; `None` if it has ended or is not seen here.
    pub(crate) fn pid(&self) -> Option<u32> {
        match number_of(self.process.as_ref()?) {
            Number::Is(pid) => Some(pid),
            Number::Ended | Number::Unseen => None,
        }
    }

    /// Tells whether the process that connected has the mount with this device in its table of mounts.
    pub(crate) fn sees(&self, device: &str) -> Sight {
        let Some(process) = &self.process else {
            return if self.has_ended { Sight::NotSeen } else { Sight::Unknown };
        };
        let pid = match number_of(process) {
            Number::Is(pid) => pid,
            Number::Ended => return Sight::NotSeen,
            Number::Unseen => return Sight::Unknown,
        };
        let Ok(device) = device.parse::<Device>() else { return Sight::NotSeen };
        let mut table = Vec::new();
        let read = std::fs::File::open(format!("/proc/{pid}/mountinfo"))
            .and_then(|file| file.take(MAX_TABLE).read_to_end(&mut table));
        if !is_alive(process) {
            return Sight::NotSeen;
        }
        match read.map_err(|error| error.kind()) {
            Ok(_) => {}
            // The second where /proc hides processes of others.
            Err(io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) => {
                return Sight::Unknown;
            }
            Err(_) => return Sight::NotSeen,
        }
        let has_it =
            mountinfo::parse(&table).iter().any(|mount| mount.is_fuse() && mount.device == device);
        if has_it { Sight::Seen } else { Sight::NotSeen }
    }

    /// Tells whether the peer has proved that it sees the mount with this device. Its own table decides where it can
    /// be read: a descriptor may be borrowed.
    pub(crate) fn has_proved(&self, sent: &Descriptors, device: &str) -> bool {
        match self.sees(device) {
            Sight::Seen => true,
            Sight::NotSeen => false,
            Sight::Unknown => sent.show(device),
        }
    }
}

/// Tells whether something failed for want of descriptors or memory, which says nothing of the peer.
fn is_shortage(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
}

/// What is known of the number of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Is(u32),
    Ended,
    /// Of a pid namespace that is not seen from here.
    Unseen,
}

/// Returns the number of the process behind a pidfd, in the pid namespace of /proc.
fn number_of(process: &OwnedFd) -> Number {
    let facts = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd()));
    let facts = facts.unwrap_or_default();
    let number = facts.lines().find_map(|line| line.strip_prefix("Pid:"));
    // -1: it has ended; 0: it is not seen from here.
    match number.and_then(|number| number.trim().parse::<i64>().ok()) {
        Some(-1) => Number::Ended,
        Some(number) => match u32::try_from(number) {
            Ok(number) if number > 0 => Number::Is(number),
            _ => Number::Unseen,
        },
        None => Number::Unseen,
    }
}

fn is_alive(process: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut ended = [PollFd::new(process, PollFlags::IN)];
    matches!(poll(&mut ended, Some(&now)), Ok(0))
}

/// Tells whether a descriptor is of the file system with a device number. Asks no file server.
pub(crate) fn is_of(descriptor: BorrowedFd<'_>, (major, minor): (u32, u32)) -> bool {
    if !is_path(descriptor) {
        return false;
    }
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(descriptor, "", flags, StatxFlags::empty())
        .is_ok_and(|found| (found.stx_dev_major, found.stx_dev_minor) == (major, minor))
}

fn is_path(descriptor: BorrowedFd<'_>) -> bool {
    rustix::fs::fcntl_getfl(descriptor).is_ok_and(|flags| flags.contains(OFlags::PATH))
}

/// Descriptors that a peer has sent.
///
/// Closing an `O_PATH` descriptor asks nobody; any other may wait for its file server for ever, so that is left
/// to a thread.
#[derive(Debug, Default)]
pub(crate) struct Descriptors(Vec<OwnedFd>);

impl Descriptors {
    /// Tells whether one of them is of the mount with this device.
    pub(crate) fn show(&self, device: &str) -> bool {
        let Some(number) = device_number(device) else { return false };
        self.0.iter().any(|descriptor| is_of(descriptor.as_fd(), number))
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        let (harmless, others): (Vec<_>, Vec<_>) =
            self.0.drain(..).partition(|descriptor| is_path(descriptor.as_fd()));
        drop(harmless);
        if others.is_empty() {
            return;
        }
        let count = others.len();
        CLOSING.fetch_add(count, Ordering::Relaxed);
        // Without a thread they are closed here: there is no other way.
        let _ = std::thread::Builder::new().name("cvmfs-close".to_owned()).spawn(move || {
            drop(others);
            CLOSING.fetch_sub(count, Ordering::Relaxed);
        });
    }
}

/// Receives bytes and descriptors. While too many descriptors are not closed yet, the kernel drops those
/// that arrive.
///
/// # Errors
/// As recvmsg(2).
pub(crate) fn receive(
    socket: impl AsFd,
    into: &mut [u8],
    flags: RecvFlags,
    descriptors: &mut Descriptors,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let takes = CLOSING.load(Ordering::Relaxed) < MAX_CLOSING && descriptors.0.is_empty();
    let mut control = match takes {
        true => RecvAncillaryBuffer::new(&mut space),
        false => RecvAncillaryBuffer::default(),
    };
    let pieces = &mut [io::IoSliceMut::new(into)];
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, pieces, &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            descriptors.0.extend(sent);
        }
    }
    Ok(received.bytes)
}

/// Sends bytes, and descriptors with the first of them; returns how many bytes were sent.
///
/// # Errors
/// As sendmsg(2).
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<usize> {
    let borrowed: Vec<_> =
        descriptors.iter().take(MAX_DESCRIPTORS).map(|descriptor| descriptor.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&borrowed));
    }
    let pieces = [io::IoSlice::new(bytes)];
    Ok(rustix::net::sendmsg(socket, &pieces, &mut control, SendFlags::NOSIGNAL)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use rustix::fs::Mode;

    use super::*;

    fn device_of(path: &str) -> String {
        let found = rustix::fs::stat(path).unwrap();
        format!("{}:{}", rustix::fs::major(found.st_dev), rustix::fs::minor(found.st_dev))
    }

    #[test]
    fn h1_only_descriptors_of_the_device_prove_anything() {
        let open = |path: &str, flags| rustix::fs::open(path, flags, Mode::empty()).unwrap();
        let path = OFlags::PATH | OFlags::CLOEXEC;
        let device = device_of("/proc");
        let shows = |sent: Vec<OwnedFd>, device: &str| Descriptors(sent).show(device);
        assert!(shows(vec![open("/", path), open("/proc", path)], &device));
        assert!(!shows(vec![open("/", path)], &device));
        assert!(!shows(vec![], &device));
        // An open file may keep whoever closes it waiting, and proves nothing.
        assert!(!shows(vec![open("/proc/self/status", OFlags::CLOEXEC)], &device));
        assert!(!shows(vec![open("/proc", path)], "0:../../x"));
    }

    #[test]
    fn descriptors_travel_with_the_first_bytes() {
        let (one, other) = UnixStream::pair().unwrap();
        let path = rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let file = rustix::fs::open("/proc/self/status", OFlags::CLOEXEC, Mode::empty());
        assert_eq!(send(&one, b"status\n", &[path.unwrap(), file.unwrap()]).unwrap(), 7);
        let (mut bytes, mut sent) = ([0; 64], Descriptors::default());
        let len = receive(&other, &mut bytes, RecvFlags::empty(), &mut sent).unwrap();
        assert_eq!((&bytes[..len], sent.0.len()), (&b"status\n"[..], 2));
        assert!(sent.show(&device_of("/proc")));
    }

    #[test]
    fn a9_a_process_is_known_by_its_table_while_it_lives() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(&one).unwrap();
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(number_of(peer.process.as_ref().unwrap()), Number::Is(std::process::id()));
        // Not a FUSE mount, so it proves nothing.
        assert_eq!(peer.sees(&device_of("/proc")), Sight::NotSeen);
        // Nor does a descriptor, which may be borrowed, where the table can be read.
        let path = OFlags::PATH | OFlags::CLOEXEC;
        let borrowed = rustix::fs::open("/proc", path, Mode::empty()).unwrap();
        let sent = Descriptors(vec![borrowed]);
        assert!(!peer.has_proved(&sent, &device_of("/proc")));
        let unseen = Peer { uid: 0, process: None, has_ended: false };
        assert_eq!(unseen.sees(&device_of("/proc")), Sight::Unknown);
        assert!(unseen.has_proved(&sent, &device_of("/proc")));
        assert!(!unseen.has_proved(&Descriptors::default(), &device_of("/proc")));
        let ended = Peer { uid: 0, process: None, has_ended: true };
        assert!(!ended.has_proved(&sent, &device_of("/proc")));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        assert!(!is_alive(&process));
        assert_eq!(number_of(&process), Number::Ended);
    }
}
