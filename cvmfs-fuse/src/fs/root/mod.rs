//! All repositories as one filesystem: each is opened when its name is first looked up, and closed
//! when nobody has used it for a while.
//!
//! | module | what it holds |
//! |---|---|
//! | [`slot`] | the place of a repository in inode numbers |
//! | `members` | repositories with a slot, open or not, and what the kernel holds of them |
//! | `former` | what is left of one that was closed |
//! | `attempts`, `opening` | openings under way, and what is remembered of failed ones |
//! | `vfs`, `outward` | requests and listings, with numbers turned inward and outward |
//!
//! Requests are passed on to the [`RepoFs`] of their slot; nothing here waits but for an opening,
//! and an opening keeps nobody waiting but those who asked for that repository.
//!
//! A repository may be closed while the kernel holds inodes of it: names it keeps, working
//! directories. What is left then is what a successor would get ([`Former`]), and the next request
//! opens it again in the same way. The kernel need not be told, nothing of it is taken from
//! anybody, and numbers are the same. It keeps names for half of the time after which a repository
//! counts as unused; so one that is in use is heard of in time.

use std::sync::Arc;
use std::time::Duration;

use cvmfs_core::cache::CacheUsage;
use cvmfs_core::catalog::EntryKind;
use cvmfs_core::fqrn::Fqrn;
use cvmfs_core::path::MAX_NAME_LEN;
use cvmfs_core::share::Shares;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;

use super::exposure::Exposure;
use super::{
    Attributes, DirectoryReplier, Entry, FsError, Gate, Ino, ListedEntry, ROOT_INO, RepoFs, Vfs,
};

mod attempts;
mod former;
mod members;
mod opening;
mod outward;
pub mod slot;
mod vfs;

pub use slot::Slot;

pub use former::Former;

use members::{Member, Members, Open};
use opening::{MAX_ATTEMPTS, Shared};

/// How long it may keep the attributes of the root, which never change.
const ROOT_TTL: Duration = Duration::from_secs(3600);
/// Offset behind `.` and `..` in a listing; then come slots.
const DOTS: u64 = 2;

/// Opens repositories for a [`RootFs`].
pub trait Opener: Send + Sync + 'static {
    /// Tells whether a name may be that of a repository, as far as that is known without asking
    /// anybody: servers and keys are known.
    fn is_plausible(&self, fqrn: &Fqrn) -> bool;
    /// Opens a repository.
    fn open(&self, wanted: Wanted) -> BoxFuture<'static, Result<Opened, OpenError>>;
    /// The kernel holds nothing of a repository that was open, and its slot goes to another one.
    fn dismissed(&self, fqrn: &Fqrn);
    /// Tells how full the cache is.
    fn usage(&self) -> CacheUsage;
}

/// A repository that an [`Opener`] shall open.
pub struct Wanted {
    /// Its name.
    pub fqrn: Fqrn,
    /// Its place in inode numbers.
    pub slot: Slot,
    /// The gate of the mount.
    pub gate: Arc<Gate>,
    /// What is left of an earlier opening, by us or a predecessor.
    pub former: Option<Arc<Former>>,
}

/// A repository that an [`Opener`] opened.
pub struct Opened {
    /// The repository.
    pub fs: Arc<RepoFs>,
    /// Lives as long as it is open.
    pub attendant: Box<dyn Send + Sync>,
}

/// Why a repository was not opened.
#[derive(Debug)]
pub enum OpenError {
    /// All servers say that there is none.
    Unknown,
    /// Nobody knows; for people.
    Failed(String),
}

/// How repositories are shown together.
#[derive(Debug, Clone, Default)]
pub struct RootFsOptions {
    /// Repositories that are listed whether they are open or not.
    pub listed: Vec<Fqrn>,
    /// There are no others.
    pub only_listed: bool,
    /// Repositories open at a time.
    pub most: usize,
    /// Owner of the root.
    pub owner: (u32, u32),
    /// Time of the root, Unix seconds.
    pub mtime: i64,
    /// Who sees which attributes of the root; repositories have their own.
    pub exposure: Exposure,
}

/// A [`Vfs`] over all repositories.
pub struct RootFs {
    shared: Arc<Shared>,
    gate: Arc<Gate>,
}

/// Where a request goes.
struct Seat {
    member: Arc<Member>,
    open: Arc<Open>,
    ino: Ino,
}

impl RootFs {
    /// Shows the repositories that `opener` can open. `inherited` are those that a predecessor had
    /// open.
    pub fn new(
        opener: Arc<dyn Opener>,
        options: RootFsOptions,
        inherited: Vec<(Fqrn, Slot, Former)>,
    ) -> Self {
        let gate = Arc::<Gate>::default();
        let mut members = Members::default();
        // Before any other, so that a successor gives the same ones.
        for (fqrn, slot, former) in inherited {
            members.inherit(&fqrn, options.listed.contains(&fqrn), slot, former);
        }
        for fqrn in &options.listed {
            members.admit(fqrn, true);
        }
        let shared = Shared {
            opener,
            gate: Arc::clone(&gate),
            members: RwLock::new(members),
            attempts: Mutex::default(),
            turns: Shares::new(MAX_ATTEMPTS),
            places: Arc::new(Semaphore::new(options.most)),
            options,
        };
        Self { shared: Arc::new(shared), gate }
    }

    /// Returns the open repositories that nobody has used for this long, the longest first.
    pub fn unused(&self, limit: Duration) -> Vec<Fqrn> {
        self.shared.unused(limit)
    }

    /// Closes a repository, unless somebody could notice: false then.
    pub fn close(&self, fqrn: &Fqrn) -> bool {
        self.shared.close(fqrn)
    }

    /// Returns how many repositories are open or being opened, and how many may be.
    pub fn fullness(&self) -> (usize, usize) {
        let most = self.shared.options.most;
        (most.saturating_sub(self.shared.places.available_permits()), most)
    }

    /// Returns the names of the open repositories.
    pub fn open_repositories(&self) -> Vec<Fqrn> {
        let members = self.shared.members.read();
        members.all().filter(|member| member.is_open()).map(|m| m.fqrn.clone()).collect()
    }

    /// Finds the repository that an inode belongs to, open; `None` for the root of the mount.
    async fn at(&self, ino: Ino) -> Result<Option<Seat>, FsError> {
        let (slot, inner) = Slot::split(ino);
        let Some(slot) = slot else {
            return if ino == ROOT_INO { Ok(None) } else { Err(FsError::StaleInode(ino)) };
        };
        let member = self.shared.members.read().at(slot).ok_or(FsError::StaleInode(ino))?;
        let open = match member.open() {
            Some(open) => open,
            // It was closed, or the kernel has it from a listing.
            None => self.shared.opened(&member.fqrn).await?.1,
        };
        Ok(Some(Seat { member, open, ino: inner }))
    }

    /// The same for what only makes sense in a repository.
    async fn inside(&self, ino: Ino) -> Result<Seat, FsError> {
        self.at(ino).await?.ok_or(FsError::IsADirectory(cvmfs_core::path::RepoPath::root()))
    }

    fn root(&self) -> Entry {
        let (uid, gid) = self.shared.options.owner;
        let mtime = self.shared.options.mtime;
        Entry { attributes: directory(ROOT_INO, uid, gid, mtime), ttl: ROOT_TTL }
    }

    /// Tells what a name in the root may be; without a network.
    fn candidate(&self, name: &[u8]) -> Option<Fqrn> {
        let fqrn: Fqrn = std::str::from_utf8(name).ok()?.parse().ok()?;
        let options = &self.shared.options;
        let listed = || options.listed.contains(&fqrn);
        let plausible = || !options.only_listed && self.shared.opener.is_plausible(&fqrn);
        (listed() || plausible()).then_some(fqrn)
    }

    async fn lookup_repository(&self, name: &[u8]) -> Result<Entry, FsError> {
        if name.len() > MAX_NAME_LEN {
            return Err(FsError::NameTooLong(name.len()));
        }
        let fqrn = self.candidate(name).ok_or(FsError::NotFound)?;
        let (member, open) = self.shared.opened(&fqrn).await?;
        let entry = open.fs.getattr(ROOT_INO).await.map_err(|error| error.within(&fqrn))?;
        member.refer();
        Ok(member.slot.entry(entry))
    }

    /// Hands out the names of repositories from `offset`, which counts slots.
    async fn list<R: DirectoryReplier>(&self, offset: u64, replier: &mut R) {
        let begun = self.gate.epoch();
        let after = offset.saturating_sub(DOTS);
        let members = self.shared.members.read().shown_after(after);
        let mut shown = Vec::with_capacity(members.len());
        for member in members {
            let open = if replier.wants_attributes() { member.peek() } else { None };
            let known = match &open {
                Some(open) => open.fs.getattr(ROOT_INO).await.ok(),
                None => None,
            };
            shown.push((member, known));
        }
        self.gate.reply(begun, |is_current| {
            let kind = EntryKind::Directory;
            for (at, name) in [b".".as_slice(), b".."]
                .into_iter()
                .enumerate()
                .skip(usize::try_from(offset).unwrap_or(usize::MAX))
            {
                let next = at as u64 + 1;
                if replier.add(ListedEntry { name, offset: next, ino: ROOT_INO, kind, entry: None })
                {
                    return replier.finish();
                }
            }
            for (member, known) in &shown {
                let ino = member.slot.outward(ROOT_INO);
                let name = member.fqrn.as_str().as_bytes();
                let offset = DOTS + u64::from(member.slot.number());
                // One that is not open is asked for again before anybody sees its attributes.
                let mut entry = match known {
                    Some(known) => member.slot.entry(*known),
                    None => Entry {
                        attributes: Attributes { ino, ..self.root().attributes },
                        ttl: Duration::ZERO,
                    },
                };
                if !is_current {
                    entry.ttl = Duration::ZERO;
                }
                let wanted = replier.wants_attributes();
                if wanted {
                    member.refer();
                }
                let entry = wanted.then_some(&entry);
                if replier.add(ListedEntry { name, offset, ino, kind, entry }) {
                    if wanted {
                        // Not taken, so the kernel will not give this reference back.
                        member.forget_root(1);
                    }
                    break;
                }
            }
            replier.finish();
        });
    }
}

fn directory(ino: Ino, uid: u32, gid: u32, mtime: i64) -> Attributes {
    Attributes {
        ino,
        kind: EntryKind::Directory,
        perm: 0o755,
        nlink: 2,
        uid,
        gid,
        rdev: 0,
        size: 4096,
        blocks: 8,
        blksize: 4096,
        mtime,
        mtime_ns: 0,
    }
}

impl Seat {
    fn failed(&self) -> impl FnOnce(FsError) -> FsError + use<> {
        let fqrn = self.member.fqrn.clone();
        move |error| error.within(&fqrn)
    }
}

#[cfg(test)]
mod tests;
