//! What a successor needs to go on with a mount, and who keeps it: the supervisor.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::letters::{Line, MAX_DESCRIPTORS, Received, Word};
use crate::VERSION;
use crate::fuse::handover::Mount;

/// Longest name of a journal; names of repositories are shorter than file names.
const MAX_NAME_LEN: usize = 255;
/// Journals of one mount. Each is a descriptor of the supervisor, of which 1024 are usual.
const MAX_JOURNALS: usize = 512;
/// How long a successor waits for what is there already.
const PATIENCE: Duration = Duration::from_secs(5);

/// What outlives a server.
#[derive(Debug)]
pub struct Estate {
    /// The mount.
    pub mount: Mount,
    /// Which inodes the kernel holds ([`crate::fs::journal`]), by name of the repository.
    pub journals: BTreeMap<String, OwnedFd>,
    /// The server before was not replaced on purpose.
    pub died: bool,
}

/// What is kept of an estate, as it grows.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    pub(super) mount: Option<Mount>,
    pub(super) journals: BTreeMap<String, OwnedFd>,
    pub(super) died: bool,
}

impl Holdings {
    /// Takes what a server says; false if it makes no sense.
    pub(super) fn take(&mut self, word: Word, descriptors: Vec<OwnedFd>) -> bool {
        let mut descriptors = descriptors.into_iter();
        match word {
            Word::Mounted { greeting, mountpoint, device } => {
                let Some(connection) = descriptors.next() else { return false };
                self.mount = Some(Mount { connection, greeting, mountpoint, device });
                true
            }
            Word::Journals { names } => {
                let complete = names.len() == descriptors.len() && !names.is_empty();
                complete && names.into_iter().zip(descriptors).all(|one| self.take_journal(one))
            }
            Word::Died => {
                self.died = true;
                true
            }
            Word::Closed { name } => {
                self.journals.remove(&name);
                true
            }
            _ => false,
        }
    }

    fn take_journal(&mut self, (name, journal): (String, OwnedFd)) -> bool {
        let fits = self.journals.len() < MAX_JOURNALS || self.journals.contains_key(&name);
        let sensible = !name.is_empty() && name.len() <= MAX_NAME_LEN;
        if fits && sensible {
            self.journals.insert(name, journal);
        }
        fits && sensible
    }

    /// Says all of it.
    pub(super) fn send(&self, line: &Line) -> io::Result<()> {
        if let Some(mount) = &self.mount {
            line.say(&mounted(mount), &[mount.connection.as_fd()])?;
        }
        // Few messages, so that all of them fit into the buffer of a socket.
        let journals: Vec<_> = self.journals.iter().collect();
        for some in journals.chunks(MAX_DESCRIPTORS) {
            let names = some.iter().map(|(name, _)| (*name).clone()).collect();
            let descriptors: Vec<_> = some.iter().map(|(_, journal)| journal.as_fd()).collect();
            line.say(&Word::Journals { names }, &descriptors)?;
        }
        line.say(&Word::Present, &[])
    }
}

fn mounted(mount: &Mount) -> Word {
    let Mount { greeting, mountpoint, device, .. } = mount;
    let (greeting, mountpoint) = (greeting.clone(), mountpoint.clone());
    Word::Mounted { greeting, mountpoint, device: device.clone() }
}

/// What the supervisor has passed for clients of the mount.
#[derive(Debug)]
pub enum Passed {
    /// A socket that listens in the control directory.
    Listener(OwnedFd),
    /// There is no control directory; the supervisor has logged why.
    Nothing,
    /// The supervisor says nothing of that: it is of an older version, or is gone.
    Silent,
}

impl Passed {
    fn of(descriptors: Vec<OwnedFd>) -> Self {
        descriptors.into_iter().next().map_or(Self::Nothing, Self::Listener)
    }
}

/// What was passed before it is asked for.
type Kept = Arc<Mutex<Option<Passed>>>;

/// A process that will go on with a mount when the present server ends. Until then it prepares
/// what it can, from what there is.
#[derive(Debug)]
pub struct Candidate {
    line: Line,
    holdings: Holdings,
    passed: Kept,
}

impl Candidate {
    /// Receives what there is.
    pub fn receive(socket: OwnedFd) -> io::Result<Self> {
        let line = Line::patient(socket)?;
        let mut candidate = Self { line, holdings: Holdings::default(), passed: Kept::default() };
        candidate.listen(&Word::Present, Some(PATIENCE))?;
        Ok(candidate)
    }

    /// Returns the journal of a repository as it is now.
    pub fn journal(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.holdings.journals.get(name).map(OwnedFd::as_fd)
    }

    /// Waits for the end of the server before, and returns what it left. There is no deadline: who
    /// is held ready may be so for weeks, and ends with its supervisor.
    pub fn succeed(mut self) -> io::Result<(Estate, Bequest)> {
        self.line.say(&Word::Ready { version: VERSION.to_owned() }, &[])?;
        self.listen(&Word::Complete, None)?;
        let Holdings { mount, journals, died } = self.holdings;
        let mount = mount.ok_or_else(|| io::Error::other("there is no mount to take over"))?;
        Ok((Estate { mount, journals, died }, Bequest(Some(Arc::new(self.line)), self.passed)))
    }

    fn listen(&mut self, last: &Word, limit: Option<Duration>) -> io::Result<()> {
        loop {
            match self.line.wait(limit)? {
                Received::Word(word, _) if word == *last => return Ok(()),
                Received::Word(Word::Control, descriptors) => {
                    *self.passed.lock() = Some(Passed::of(descriptors));
                }
                Received::Word(word, descriptors) => {
                    if !self.holdings.take(word, descriptors) {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                }
                // Of another version.
                Received::Nonsense => {}
                Received::Nothing if limit.is_none() => {}
                Received::Nothing => return Err(io::ErrorKind::TimedOut.into()),
                Received::End => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

/// The server's way to leave something to its successor. Without a supervisor it does nothing.
#[derive(Debug, Clone, Default)]
pub struct Bequest(Option<Arc<Line>>, Kept);

impl Bequest {
    /// Speaks to the supervisor at the other end of a socket.
    pub fn to(supervisor: OwnedFd) -> io::Result<Self> {
        Line::patient(supervisor).map(|line| Self(Some(Arc::new(line)), Kept::default()))
    }

    /// Whether there is a supervisor.
    pub fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Leaves a mount.
    pub fn mounted(&self, mount: &Mount) {
        self.leave(&mounted(mount), &[mount.connection.as_fd()]);
    }

    /// Leaves the journal of a repository, in place of an earlier one of that name; tells whether
    /// that is with the supervisor now.
    pub fn journal(&self, name: &str, journal: BorrowedFd<'_>) -> bool {
        self.leave(&Word::Journals { names: vec![name.to_owned()] }, &[journal])
    }

    /// Takes a journal back: the kernel knows nothing of that repository any more.
    pub fn closed(&self, name: &str) {
        self.leave(&Word::Closed { name: name.to_owned() }, &[]);
    }

    /// Says that requests are answered.
    pub fn serving(&self) {
        self.leave(&Word::Serving { version: VERSION.to_owned() }, &[]);
    }

    /// Returns what the supervisor passes for clients of the mount; waits for that, at most for `limit`.
    pub(super) fn control(&self, limit: Duration) -> Passed {
        if let Some(passed) = self.1.lock().take() {
            return passed;
        }
        let Some(line) = &self.0 else { return Passed::Silent };
        let start = Instant::now();
        loop {
            match line.wait(Some(limit.saturating_sub(start.elapsed()))) {
                Ok(Received::Word(Word::Control, descriptors)) => return Passed::of(descriptors),
                // Of another version.
                Ok(Received::Word(..) | Received::Nonsense) => {}
                Ok(Received::Nothing) if start.elapsed() < limit => {}
                Ok(Received::Nothing | Received::End) | Err(_) => return Passed::Silent,
            }
        }
    }

    /// Asks the supervisor to detach the mount, which this server may not; tells whether it hears that.
    pub fn detach(&self) -> bool {
        self.leave(&Word::Detach, &[])
    }

    /// Asks the supervisor to make the kernel drop what it knows of the mount and nobody uses; tells whether it
    /// hears that.
    pub fn shrink(&self) -> bool {
        self.leave(&Word::Shrink, &[])
    }

    /// Without its supervisor a mount works and dies with its server.
    fn leave(&self, word: &Word, descriptors: &[BorrowedFd<'_>]) -> bool {
        let Some(line) = &self.0 else { return false };
        let said = line.say(word, descriptors);
        if let Err(error) = &said {
            tracing::warn!(%error, "the supervisor does not listen; the mount dies with its server");
        }
        said.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::letters::MAX_LEN;

    fn file(text: &str) -> OwnedFd {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = rustix::fs::memfd_create("test", flags).unwrap();
        rustix::io::write(&file, text.as_bytes()).unwrap();
        file
    }

    fn text(file: BorrowedFd<'_>) -> String {
        let mut bytes = [0; 64];
        let len = rustix::io::pread(file, &mut bytes[..], 0).unwrap();
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }

    fn mount() -> Mount {
        let greeting = serde_json::from_str(r#"{"request":[1],"reply":[2]}"#).unwrap();
        let device = Some("0:5".to_owned());
        Mount { connection: file("connection"), greeting, mountpoint: "/m".into(), device }
    }

    /// Takes all that was said; returns how much of it made no sense.
    fn listen(holdings: &mut Holdings, line: &Line) -> usize {
        let mut wrong = 0;
        loop {
            match line.hear().unwrap() {
                Received::Word(word, file) => wrong += usize::from(!holdings.take(word, file)),
                Received::Nonsense => wrong += 1,
                Received::Nothing | Received::End => return wrong,
            }
        }
    }

    #[test]
    fn a_successor_gets_what_was_left_last() {
        let (supervisor, server) = Line::pair().unwrap();
        let bequest = Bequest::to(server).unwrap();
        bequest.journal("a.b.c", file("old").as_fd());
        bequest.mounted(&mount());
        bequest.journal("gone", file("gone").as_fd());
        let mut holdings = Holdings::default();
        assert_eq!(listen(&mut holdings, &supervisor), 0);
        let (ours, theirs) = Line::pair().unwrap();
        holdings.send(&ours).unwrap();
        let candidate = Candidate::receive(theirs).unwrap();
        assert_eq!(text(candidate.journal("a.b.c").unwrap()), "old");
        // It is told what comes later, and of what a dead server said last.
        bequest.journal("d.e.f", file("other").as_fd());
        bequest.closed("gone");
        bequest.journal("a.b.c", file("new").as_fd());
        drop(bequest);
        while let Received::Word(word, files) = supervisor.hear().unwrap() {
            let files: Vec<_> = files.iter().map(OwnedFd::as_fd).collect();
            ours.say(&word, &files).unwrap();
        }
        ours.say(&Word::Complete, &[]).unwrap();
        let (estate, _) = candidate.succeed().unwrap();
        assert!(matches!(ours.hear().unwrap(), Received::Word(Word::Ready { .. }, _)));
        assert_eq!(text(estate.mount.connection.as_fd()), "connection");
        let journals = estate.journals.iter();
        let journals: Vec<_> = journals.map(|(name, f)| (name.as_str(), text(f.as_fd()))).collect();
        assert_eq!(journals, [("a.b.c", "new".to_owned()), ("d.e.f", "other".to_owned())]);
    }

    #[test]
    fn nonsense_and_floods_change_nothing() {
        let (supervisor, server) = Line::pair().unwrap();
        let mut holdings = Holdings::default();
        for letter in [&b"nonsense"[..], b"{\"Journals\":{}}", &[b'x'; MAX_LEN + 1]] {
            rustix::net::send(&server, letter, rustix::net::SendFlags::NOSIGNAL).unwrap();
        }
        let server = Line::patient(server).unwrap();
        let name = |text: &str| Word::Journals { names: vec![text.to_owned()] };
        server.say(&name("without"), &[]).unwrap();
        server.say(&name(&"n".repeat(MAX_NAME_LEN + 1)), &[file("").as_fd()]).unwrap();
        server.say(&Word::Complete, &[]).unwrap();
        assert_eq!(listen(&mut holdings, &supervisor), 6);
        for number in 0..MAX_JOURNALS + 2 {
            server.say(&name(&number.to_string()), &[file("x").as_fd()]).unwrap();
            assert_eq!(listen(&mut holdings, &supervisor), usize::from(number >= MAX_JOURNALS));
        }
        server.say(&name("7"), &[file("replaced").as_fd()]).unwrap();
        assert_eq!(listen(&mut holdings, &supervisor), 0);
        assert_eq!((holdings.journals.len(), holdings.mount.is_none()), (MAX_JOURNALS, true));
        assert_eq!(text(holdings.journals["7"].as_fd()), "replaced");
        // As many as there may be arrive before anybody reads.
        let (ours, theirs) = Line::pair().unwrap();
        holdings.mount = Some(mount());
        holdings.send(&ours).unwrap();
        let candidate = Candidate::receive(theirs).unwrap();
        assert_eq!(candidate.holdings.journals.len(), MAX_JOURNALS);
    }

    #[test]
    fn an_estate_without_a_mount_or_an_end_is_none() {
        let (ours, theirs) = Line::pair().unwrap();
        let holdings = Holdings { mount: Some(mount()), ..Holdings::default() };
        holdings.send(&ours).unwrap();
        let candidate = Candidate::receive(theirs).unwrap();
        drop(ours);
        assert!(candidate.succeed().is_err());
        let (ours, theirs) = Line::pair().unwrap();
        Holdings::default().send(&ours).unwrap();
        ours.say(&Word::Complete, &[]).unwrap();
        assert!(Candidate::receive(theirs).unwrap().succeed().is_err());
    }
}
