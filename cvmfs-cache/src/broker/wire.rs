//! Messages between a broker and its clients: one packet each way, small, with at most one
//! descriptor.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Changes when the two sides could misunderstand each other.
pub(super) const PROTOCOL: u32 = 1;
/// Longest message: a label is at most 4 KiB, everything else is short.
const MAX_MESSAGE_LEN: usize = 16 * 1024;
/// Largest body of an object that a client may hand over: beyond, it keeps it to itself.
pub(super) const MAX_BODY_LEN: u64 = 256 << 20;
/// Longest record.
pub(super) const MAX_RECORD_LEN: u64 = 4 << 20;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// First of all.
    Hello { protocol: u32 },
    /// An object, by its name in the cache.
    Open { name: String },
    /// Check and keep these stored bytes; comes with a descriptor.
    Store { name: String, size: Option<u64>, cap: u64, label: String, volatile: bool },
    /// This one looks damaged.
    Suspect { name: String },
    /// Do not evict while this connection lives.
    Pin { name: String },
    /// Enough.
    Unpin { name: String },
    /// A record of this user.
    LoadRecord { name: String },
    /// Replace it; comes with a descriptor.
    StoreRecord { name: String },
    /// How full is it?
    Usage,
}

/// What the broker answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// Comes with a descriptor.
    Object { size: u64 },
    /// Comes with a descriptor.
    Record,
    /// There is none.
    Absent,
    /// Done.
    Done,
    /// How full it is.
    Usage { used: u64, limit: u64 },
    /// Not done, and why.
    Refused { reason: String },
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Connection(OwnedFd);

impl Connection {
    /// Wraps a connected socket; no send and no receive takes longer than `limit`.
    pub(super) fn new(socket: OwnedFd, limit: Duration) -> io::Result<Self> {
        set_socket_timeout(&socket, Timeout::Recv, Some(limit))?;
        set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
        Ok(Self(socket))
    }

    /// Connects to a broker.
    pub(super) fn open(path: &Path, limit: Duration) -> io::Result<Self> {
        let socket = socket()?;
        set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::new(socket, limit)
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Changes how long a receive may take.
    pub(super) fn patience(&self, limit: Duration) -> io::Result<()> {
        Ok(set_socket_timeout(&self.0, Timeout::Recv, Some(limit))?)
    }

    /// Sends one message.
    pub(super) fn send<T: Serialize>(
        &self,
        message: &T,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MAX_MESSAGE_LEN {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.as_slice();
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        // A peer that is gone is an error here, not a signal.
        let flags = SendFlags::NOSIGNAL;
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, flags)?;
        Ok(())
    }

    /// Receives one message; `None` at the end. Descriptors beyond the first are closed.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let mut bytes = [0; MAX_MESSAGE_LEN];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let mut descriptor = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                descriptor = descriptor.or(descriptors.into_iter().next());
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        let message = serde_json::from_slice(&bytes[..received.bytes])?;
        Ok(Some((message, descriptor)))
    }
}

/// Input of the fuzz target `cache`: what was understood is said and understood again as the same.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(data: &[u8]) {
    fn again<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
        if let Ok(message) = serde_json::from_slice::<T>(data) {
            let text = serde_json::to_vec(&message).expect("text");
            assert_eq!(serde_json::from_slice::<T>(&text).ok(), Some(message));
        }
    }
    again::<Request>(data);
    again::<Reply>(data);
}

/// Makes a socket that keeps packets apart and in order.
pub(super) fn socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Bytes on their way to the other side: in memory, and unchangeable once they are sent.
#[derive(Debug)]
pub(super) struct Parcel(std::fs::File);

impl Parcel {
    pub(super) fn new() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        Ok(Self(rustix::fs::memfd_create("cvmfs-fuse", flags)?.into()))
    }

    pub(super) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.0.write_all(piece)
    }

    /// Makes it unchangeable.
    pub(super) fn seal(self) -> io::Result<OwnedFd> {
        rustix::fs::fcntl_add_seals(&self.0, seals())?;
        Ok(self.0.into())
    }

    /// Takes one from the other side, which may send anything: only a sealed memory file can be
    /// read without waiting for anybody, and stays as it is meanwhile.
    pub(super) fn accept(descriptor: OwnedFd, limit: u64) -> io::Result<(std::fs::File, u64)> {
        let wrong = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
        let found =
            rustix::fs::fcntl_get_seals(&descriptor).map_err(|_| wrong("not a memory file"))?;
        if !found.contains(seals()) {
            return Err(wrong("not sealed"));
        }
        let file = std::fs::File::from(descriptor);
        let len = file.metadata()?.len();
        if len > limit {
            return Err(wrong("too large"));
        }
        Ok((file, len))
    }

    /// Reads all of one from the other side.
    pub(super) fn read(descriptor: OwnedFd, limit: u64) -> io::Result<Vec<u8>> {
        let (file, len) = Self::accept(descriptor, limit)?;
        let mut bytes = Vec::new();
        io::Seek::seek(&mut &file, io::SeekFrom::Start(0))?;
        (&file).take(len).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

fn seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Connection, Connection) {
        let flags = SocketFlags::CLOEXEC;
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .unwrap();
        let limit = Duration::from_millis(50);
        (Connection::new(a, limit).unwrap(), Connection::new(b, limit).unwrap())
    }

    #[test]
    fn messages_and_descriptors_arrive() {
        let (a, b) = pair();
        let mut parcel = Parcel::new().unwrap();
        parcel.write(b"body").unwrap();
        let sealed = parcel.seal().unwrap();
        let request = Request::StoreRecord { name: "a.b".to_owned() };
        a.send(&request, Some(sealed.as_fd())).unwrap();
        a.send(&Request::Usage, None).unwrap();
        let (first, descriptor) = b.receive::<Request>().unwrap().unwrap();
        assert_eq!(first, request);
        assert_eq!(Parcel::read(descriptor.unwrap(), 10).unwrap(), b"body");
        assert!(matches!(b.receive().unwrap(), Some((Request::Usage, None))));
        // Silence ends, and so does a connection.
        assert!(b.receive::<Request>().is_err());
        drop(a);
        assert!(b.receive::<Request>().unwrap().is_none());
    }

    #[test]
    fn only_sealed_memory_of_bounded_size_is_accepted() {
        let open = || {
            let mut parcel = Parcel::new().unwrap();
            parcel.write(b"12345").unwrap();
            parcel
        };
        assert!(Parcel::read(open().0.into(), 10).is_err(), "not sealed");
        assert!(Parcel::read(open().seal().unwrap(), 4).is_err(), "too large");
        let (reader, _writer) = io::pipe().unwrap();
        assert!(Parcel::read(reader.into(), 10).is_err(), "a pipe would keep us waiting");
        let file = std::fs::File::open("/etc/passwd").unwrap();
        assert!(Parcel::read(file.into(), 1 << 20).is_err());
    }
}
