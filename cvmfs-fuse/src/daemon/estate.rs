//! What a successor needs to go on with a mount, and who keeps it: the supervisor.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::abort;
use super::letters::{Line, MAX_DESCRIPTORS, Received, Word};
use super::own_mount::{NotOurs, OwnMount, Teller};
use crate::VERSION;
use crate::fuse::handover::Mount;
use crate::fuse::received::{Kind, kind_of};

/// Longest name of a journal; names of repositories are shorter than file names.
const MAX_NAME_LEN: usize = 255;
/// Journals of one mount. Each is a descriptor of the supervisor, of which 1024 are usual.
pub(super) const MAX_JOURNALS: usize = 512;
/// Longest journal that is kept, in bytes: twice what a successor reads.
const MAX_JOURNAL_LEN: u64 = 512 << 20;
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

/// Whose words are taken, and what is believed of them.
#[derive(Clone, Copy)]
pub(super) enum Trust<'a> {
    /// Our own supervisor, which has looked at everything.
    Supervisor,
    /// Whoever tells a supervisor of its mount.
    Supervised(&'a OwnMount, Teller),
    /// A depositor at a holder, which knows nothing of mounts and looks at the kinds of descriptors. It may keep so
    /// many more journals.
    Depositor { journals_left: usize },
}

/// What a word changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// There is a mount.
    Mounted,
    /// Journals of these names came, or took the place of earlier ones.
    Journals(Vec<String>),
    /// The journal of this name is gone.
    Closed(String),
    /// Nothing that others are told.
    Nothing,
}

/// Why a word changes nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Wrong {
    /// Nobody says that here.
    #[error("a word that is not for its sender")]
    Word,
    /// There is a mount already.
    #[error("a second mount")]
    Again,
    /// Names and descriptors that do not belong together.
    #[error("descriptors that do not fit the word")]
    Descriptors,
    /// A name that no repository has.
    #[error("a name that none of its kind has")]
    Name,
    /// A descriptor of something else than memory of bounded size.
    #[error("a journal that is none")]
    Journal,
    /// More journals than there may be.
    #[error("too many journals")]
    TooMany,
    /// A mount that is not ours.
    #[error("a mount that is not ours")]
    Mount(#[from] NotOurs),
}

impl Holdings {
    /// Takes what somebody says; what makes no sense changes nothing.
    pub(super) fn take(
        &mut self,
        word: Word,
        descriptors: Vec<OwnedFd>,
        trust: Trust<'_>,
    ) -> Result<Change, Wrong> {
        match word {
            Word::Mounted { greeting, mountpoint, device } => {
                let [connection] =
                    <[OwnedFd; 1]>::try_from(descriptors).map_err(|_| Wrong::Descriptors)?;
                let said = Mount { connection, greeting, mountpoint, device };
                self.take_mount(said, trust)?;
                Ok(Change::Mounted)
            }
            Word::Journals { names } => {
                self.check_journals(&names, &descriptors, trust)?;
                self.journals.extend(names.iter().cloned().zip(descriptors));
                Ok(Change::Journals(names))
            }
            _ if !descriptors.is_empty() => Err(Wrong::Descriptors),
            Word::Closed { name } => match self.journals.remove(&name) {
                Some(_) => Ok(Change::Closed(name)),
                None => Ok(Change::Nothing),
            },
            Word::Died if matches!(trust, Trust::Supervisor) => {
                self.died = true;
                Ok(Change::Nothing)
            }
            _ => Err(Wrong::Word),
        }
    }

    fn take_mount(&mut self, said: Mount, trust: Trust<'_>) -> Result<(), Wrong> {
        // A holder may hear of the next mount before it has noticed the end of the one before.
        let is_replaced = matches!(trust, Trust::Depositor { .. })
            && self.mount.as_ref().is_some_and(|mount| abort::is_over(&mount.connection));
        if self.mount.is_some() && !is_replaced {
            return Err(Wrong::Again);
        }
        let Mount { connection, greeting, mountpoint, device } = said;
        self.mount = Some(match trust {
            Trust::Supervised(own, teller) => own.verify(connection, greeting, device, teller)?,
            Trust::Supervisor => Mount { connection, greeting, mountpoint, device },
            Trust::Depositor { .. } => {
                let kind = kind_of(connection.as_fd());
                // In tests a socket stands for it.
                if kind != Kind::Fuse && !(cfg!(test) && kind == Kind::Local) {
                    return Err(NotOurs::NotFuse.into());
                }
                Mount { connection, greeting, mountpoint, device }
            }
        });
        Ok(())
    }

    fn check_journals(
        &self,
        names: &[String],
        descriptors: &[OwnedFd],
        trust: Trust<'_>,
    ) -> Result<(), Wrong> {
        if names.len() != descriptors.len() || names.is_empty() {
            return Err(Wrong::Descriptors);
        }
        let is_sensible = |name: &String| {
            (1..=MAX_NAME_LEN).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if !names.iter().all(is_sensible) {
            return Err(Wrong::Name);
        }
        let fresh: BTreeSet<_> =
            names.iter().filter(|name| !self.journals.contains_key(*name)).collect();
        let limit = match trust {
            Trust::Depositor { journals_left } => self.journals.len() + journals_left,
            _ => MAX_JOURNALS,
        };
        if self.journals.len() + fresh.len() > limit.min(MAX_JOURNALS) {
            return Err(Wrong::TooMany);
        }
        let is_journal = |descriptor: &OwnedFd| matches!(kind_of(descriptor.as_fd()), Kind::Memory(len) if len <= MAX_JOURNAL_LEN);
        if !matches!(trust, Trust::Supervisor) && !descriptors.iter().all(is_journal) {
            return Err(Wrong::Journal);
        }
        Ok(())
    }

    /// Says all of it.
    pub(super) fn send(&self, line: &Line) -> io::Result<()> {
        self.pass_on(&Change::Mounted, line)?;
        // Few messages, so that all of them fit into the buffer of a socket.
        let names: Vec<_> = self.journals.keys().cloned().collect();
        for some in names.chunks(MAX_DESCRIPTORS) {
            self.pass_on(&Change::Journals(some.to_vec()), line)?;
        }
        line.say(&Word::Present, &[])
    }

    /// Says what has changed, as it is here: not in the words of who changed it.
    pub(super) fn pass_on(&self, change: &Change, line: &Line) -> io::Result<()> {
        match change {
            Change::Mounted => match &self.mount {
                Some(mount) => line.say(&mounted(mount), &[mount.connection.as_fd()]),
                None => Ok(()),
            },
            Change::Journals(names) => {
                let known = names.iter().filter_map(|name| self.journals.get_key_value(name));
                let (names, journals): (Vec<_>, Vec<_>) =
                    known.map(|(name, journal)| (name.clone(), journal.as_fd())).unzip();
                line.say(&Word::Journals { names }, &journals)
            }
            Change::Closed(name) => line.say(&Word::Closed { name: name.clone() }, &[]),
            Change::Nothing => Ok(()),
        }
    }
}

fn mounted(mount: &Mount) -> Word {
    let Mount { greeting, mountpoint, device, .. } = mount;
    let (greeting, mountpoint) = (greeting.clone(), mountpoint.clone());
    Word::Mounted { greeting, mountpoint, device: *device }
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
                    self.holdings
                        .take(word, descriptors, Trust::Supervisor)
                        .map_err(|wrong| io::Error::new(io::ErrorKind::InvalidData, wrong))?;
                }
                // Of another version.
                Received::Nonsense | Received::Hostile => {}
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
                Ok(Received::Word(..) | Received::Nonsense | Received::Hostile) => {}
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
mod tests;
