//! What a successor needs to go on with a mount, and how it travels: from a server to its
//! supervisor while the server lives, and from the supervisor to each successor.
//!
//! Each message is one packet with at most one descriptor:
//!
//! | word | descriptor | meaning |
//! |---|---|---|
//! | `Mounted` | connection to the kernel | there is a mount |
//! | `Journal` | journal | of this name; takes the place of an earlier one |
//! | `Closed` | | the journal of this name is needed no more |
//! | `Complete` | | to a successor: that was all |

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};

use crate::fuse::handover::{Greeting, Mount};

/// Longest message: a path, and a greeting of some hundred bytes as numbers in text.
const MAX_LEN: usize = 64 * 1024;
/// Longest name of a journal; names of repositories are shorter than file names.
const MAX_NAME_LEN: usize = 255;
/// Journals of one mount. Each is a descriptor of the supervisor, of which 1024 are usual.
const MAX_JOURNALS: usize = 512;
/// How long the other side may let us wait with a message. It does nothing but read them.
const PATIENCE: Duration = Duration::from_secs(5);

/// What servers and supervisors tell each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Word {
    /// There is a mount; comes with its connection.
    Mounted { greeting: Greeting, mountpoint: PathBuf },
    /// Comes with a journal.
    Journal { name: String },
    /// The journal is needed no more.
    Closed { name: String },
    /// To a successor: it has all.
    Complete,
}

/// What arrived.
#[derive(Debug)]
pub(super) enum Received {
    /// A message.
    Word(Word, Option<OwnedFd>),
    /// Something that is no message.
    Nonsense,
    /// Nothing now.
    Nothing,
    /// The other side is gone.
    End,
}

/// What outlives a server.
#[derive(Debug)]
pub struct Estate {
    /// The mount.
    pub mount: Mount,
    /// Which inodes the kernel holds ([`crate::fs::journal`]), by name of the repository.
    pub journals: BTreeMap<String, OwnedFd>,
}

/// What a supervisor has of an estate.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    pub(super) mount: Option<Mount>,
    journals: BTreeMap<String, OwnedFd>,
}

/// The server's way to leave something to its successor. Without a supervisor it does nothing.
#[derive(Debug, Clone, Default)]
pub struct Bequest(Option<std::sync::Arc<OwnedFd>>);

/// Makes a connection between a supervisor and a server.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    for end in [&ours, &theirs] {
        set_socket_timeout(end, Timeout::Send, Some(PATIENCE))?;
        set_socket_timeout(end, Timeout::Recv, Some(PATIENCE))?;
    }
    Ok((ours, theirs))
}

/// Sends one message.
pub(super) fn send(
    socket: &OwnedFd,
    word: &Word,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let letter = serde_json::to_vec(word)?;
    if letter.len() > MAX_LEN {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.as_slice();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let pieces = [IoSlice::new(&letter)];
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &pieces, &mut control, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Receives one message; `wait` bounded by the patience of the socket.
pub(super) fn receive(socket: &OwnedFd, wait: bool) -> io::Result<Received> {
    let mut letter = vec![0; MAX_LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    flags.set(RecvFlags::DONTWAIT, !wait);
    let received = rustix::io::retry_on_intr(|| {
        let pieces = &mut [IoSliceMut::new(&mut letter)];
        rustix::net::recvmsg(socket, pieces, &mut control, flags)
    });
    let received = match received {
        Ok(received) => received,
        Err(rustix::io::Errno::AGAIN) => return Ok(Received::Nothing),
        // Servers are killed.
        Err(rustix::io::Errno::CONNRESET) => return Ok(Received::End),
        Err(error) => return Err(error.into()),
    };
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            descriptor = descriptor.or(sent.into_iter().next());
        }
    }
    if received.bytes == 0 {
        return Ok(Received::End);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Ok(Received::Nonsense);
    }
    Ok(match serde_json::from_slice(&letter[..received.bytes]) {
        Ok(word) => Received::Word(word, descriptor),
        Err(_) => Received::Nonsense,
    })
}

impl Holdings {
    /// Takes what a server says; false if it makes no sense.
    pub(super) fn take(&mut self, word: Word, descriptor: Option<OwnedFd>) -> bool {
        match (word, descriptor) {
            (Word::Mounted { greeting, mountpoint }, Some(connection)) => {
                self.mount = Some(Mount { connection, greeting, mountpoint });
                true
            }
            (Word::Journal { name }, Some(journal)) => {
                let fits = self.journals.len() < MAX_JOURNALS || self.journals.contains_key(&name);
                let sensible = !name.is_empty() && name.len() <= MAX_NAME_LEN;
                if fits && sensible {
                    self.journals.insert(name, journal);
                }
                fits && sensible
            }
            (Word::Closed { name }, None) => {
                self.journals.remove(&name);
                true
            }
            _ => false,
        }
    }

    /// Sends all of it to a successor.
    pub(super) fn send(&self, socket: &OwnedFd) -> io::Result<()> {
        if let Some(Mount { connection, greeting, mountpoint }) = &self.mount {
            let (greeting, mountpoint) = (greeting.clone(), mountpoint.clone());
            send(socket, &Word::Mounted { greeting, mountpoint }, Some(connection.as_fd()))?;
        }
        for (name, journal) in &self.journals {
            send(socket, &Word::Journal { name: name.clone() }, Some(journal.as_fd()))?;
        }
        send(socket, &Word::Complete, None)
    }
}

impl Estate {
    /// Receives all of it, in a successor.
    pub fn receive(socket: &OwnedFd) -> io::Result<Self> {
        let mut holdings = Holdings::default();
        // One word for each journal, and two.
        for _ in 0..MAX_JOURNALS + 2 {
            match receive(socket, true)? {
                Received::Word(Word::Complete, _) => {
                    let Holdings { mount, journals } = holdings;
                    let mount = mount.ok_or_else(|| io::Error::other("there is no mount in it"))?;
                    return Ok(Self { mount, journals });
                }
                Received::Word(word, descriptor) => {
                    if !holdings.take(word, descriptor) {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                }
                Received::Nothing => return Err(io::ErrorKind::TimedOut.into()),
                Received::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                Received::Nonsense => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        Err(io::Error::other("it has no end"))
    }
}

impl Bequest {
    /// Speaks to the supervisor at the other end of a socket.
    pub fn to(supervisor: OwnedFd) -> Self {
        Self(Some(supervisor.into()))
    }

    /// Whether there is a supervisor.
    pub fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Leaves a mount.
    pub fn mounted(&self, mount: &Mount) {
        let (greeting, mountpoint) = (mount.greeting.clone(), mount.mountpoint.clone());
        self.leave(&Word::Mounted { greeting, mountpoint }, Some(mount.connection.as_fd()));
    }

    /// Leaves the journal of a repository, in place of an earlier one of that name.
    pub fn journal(&self, name: &str, journal: BorrowedFd<'_>) {
        self.leave(&Word::Journal { name: name.to_owned() }, Some(journal));
    }

    /// Takes a journal back: the kernel knows nothing of that repository any more.
    pub fn closed(&self, name: &str) {
        self.leave(&Word::Closed { name: name.to_owned() }, None);
    }

    /// Without its supervisor a mount works and dies with its server.
    fn leave(&self, word: &Word, descriptor: Option<BorrowedFd<'_>>) {
        if let Some(socket) = &self.0
            && let Err(error) = send(socket, word, descriptor)
        {
            tracing::warn!(%error, "the supervisor does not listen; the mount may die with its server");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> OwnedFd {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = rustix::fs::memfd_create("test", flags).unwrap();
        rustix::io::write(&file, text.as_bytes()).unwrap();
        file
    }

    fn text(file: &OwnedFd) -> String {
        let mut bytes = [0; 64];
        let len = rustix::io::pread(file, &mut bytes[..], 0).unwrap();
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }

    fn mount() -> Mount {
        let greeting = serde_json::from_str(r#"{"request":[1],"reply":[2]}"#).unwrap();
        Mount { connection: file("connection"), greeting, mountpoint: "/m".into() }
    }

    fn listen(holdings: &mut Holdings, socket: &OwnedFd) -> usize {
        let mut wrong = 0;
        loop {
            match receive(socket, false).unwrap() {
                Received::Word(word, file) => wrong += usize::from(!holdings.take(word, file)),
                Received::Nonsense => wrong += 1,
                Received::Nothing | Received::End => return wrong,
            }
        }
    }

    #[test]
    fn a_successor_gets_what_was_left_last() {
        let (supervisor, server) = pair().unwrap();
        let bequest = Bequest::to(server);
        bequest.journal("a.b.c", file("old").as_fd());
        bequest.mounted(&mount());
        bequest.journal("d.e.f", file("other").as_fd());
        bequest.journal("gone", file("gone").as_fd());
        bequest.closed("gone");
        bequest.journal("a.b.c", file("new").as_fd());
        // What a dead server said last counts, too.
        drop(bequest);
        let mut holdings = Holdings::default();
        assert_eq!(listen(&mut holdings, &supervisor), 0);
        for _ in 0..2 {
            let (ours, theirs) = pair().unwrap();
            holdings.send(&ours).unwrap();
            let estate = Estate::receive(&theirs).unwrap();
            assert_eq!(estate.mount.mountpoint, PathBuf::from("/m"));
            assert_eq!(text(&estate.mount.connection), "connection");
            let journals: Vec<_> =
                estate.journals.iter().map(|(name, file)| (name.as_str(), text(file))).collect();
            assert_eq!(journals, [("a.b.c", "new".to_owned()), ("d.e.f", "other".to_owned())]);
        }
    }

    #[test]
    fn nonsense_and_floods_change_nothing() {
        let (supervisor, server) = pair().unwrap();
        let mut holdings = Holdings::default();
        for letter in [&b"nonsense"[..], b"{\"Journal\":{}}", &[b'x'; MAX_LEN + 1]] {
            rustix::net::send(&server, letter, SendFlags::NOSIGNAL).unwrap();
        }
        let name = |text: &str| Word::Journal { name: text.to_owned() };
        send(&server, &name("without"), None).unwrap();
        send(&server, &name(&"n".repeat(MAX_NAME_LEN + 1)), Some(file("").as_fd())).unwrap();
        send(&server, &Word::Complete, None).unwrap();
        assert_eq!(listen(&mut holdings, &supervisor), 6);
        for number in 0..MAX_JOURNALS + 2 {
            send(&server, &name(&number.to_string()), Some(file("x").as_fd())).unwrap();
            assert_eq!(listen(&mut holdings, &supervisor), usize::from(number >= MAX_JOURNALS));
        }
        send(&server, &name("7"), Some(file("replaced").as_fd())).unwrap();
        assert_eq!(listen(&mut holdings, &supervisor), 0);
        assert_eq!((holdings.journals.len(), holdings.mount.is_none()), (MAX_JOURNALS, true));
        assert_eq!(text(&holdings.journals["7"]), "replaced");
    }

    #[test]
    fn an_estate_without_an_end_is_none() {
        let (ours, theirs) = pair().unwrap();
        let holdings = Holdings { mount: Some(mount()), journals: BTreeMap::new() };
        holdings.send(&ours).unwrap();
        drop(ours);
        assert!(Estate::receive(&theirs).is_ok());
        assert!(Estate::receive(&theirs).is_err());
        let (ours, theirs) = pair().unwrap();
        Holdings::default().send(&ours).unwrap();
        assert!(Estate::receive(&theirs).is_err());
    }
}
