//! Follows new revisions under a live mount.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Arc, Weak};
use std::time::Duration;

use cvmfs_core::chain::chain;
use cvmfs_core::format::blocklist::Blocklist;
use cvmfs_core::repository::Repository;
use tokio::sync::mpsc;

use crate::config::RepositorySettings;
use crate::fs::inode::InodeTable;
use crate::fs::root::Slot;
use crate::fs::switch::Notice;
use crate::fs::{Ino, RepoFs};
use crate::fuse::notify::Notifier;
use crate::talk::{Ask, TtlLimit};

/// Shortest time between two looks, whatever the repository says: servers are shared.
const MIN_TTL: Duration = Duration::from_secs(1);
/// Longest time between two looks, whatever the repository says.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);
/// Time to the next look after letters were refused (spec/network.md section 11).
const RETRY_REFUSED: Duration = Duration::from_secs(180);
/// Time to the next look while no server answers. A success of any other request ends it early.
const RETRY_OFFLINE: Duration = Duration::from_secs(30);

/// The kernel, as a repository tells it what to forget.
#[derive(Clone)]
pub(super) struct Kernel {
    notifier: Arc<Notifier>,
    /// Where the numbers of the repository are, if the mount has several.
    slot: Option<Slot>,
}

/// How the updates of a repository are asked for.
pub(super) struct Orders {
    /// Whether to look for new revisions unasked.
    pub(super) follows: bool,
    /// How long not to look at most, as it is now.
    pub(super) max_ttl: TtlLimit,
    /// What people ask for.
    pub(super) asks: mpsc::Receiver<Ask>,
}

/// Looks for new revisions and switches to them, by itself and when it is asked to, until the task
/// is dropped or the filesystem is.
pub(super) async fn follow(
    repository: Arc<Repository>,
    fs: Weak<RepoFs>,
    kernel: Kernel,
    settings: RepositorySettings,
    orders: Orders,
) {
    let Orders { follows, max_ttl, mut asks } = orders;
    let mut blocklist = settings.blocklist.clone();
    let mut is_known = true;
    loop {
        // A mount that did not wait for slow servers looks at once.
        let ask = if follows && repository.take_unconfirmed() {
            None
        } else {
            tokio::select! {
                () = wait(&repository, &max_ttl), if follows => None,
                Some(ask) = asks.recv() => Some(ask),
                else => return,
            }
        };
        // The administrators may have changed the file, or those of the configuration repository theirs,
        // which may have to be fetched.
        let now = settings.clone();
        match tokio::task::spawn_blocking(move || now.present_blocklist()).await {
            Ok(Ok(present)) => (blocklist, is_known) = (present, true),
            Ok(Err(failure)) => {
                // Said once, not at each look.
                if std::mem::take(&mut is_known) {
                    tracing::warn!(
                        reason = failure.message,
                        "what was blocked before stays blocked"
                    );
                }
            }
            Err(_) => {}
        }
        let found = match &ask {
            None | Some(Ask::Update(_)) => repository.check(&blocklist).await,
            Some(Ask::Show(root, _)) => repository.prepare(*root).await.map(Some),
        };
        let outcome = match found {
            Ok(Some(update)) => {
                let Some(fs) = fs.upgrade() else { return };
                let notices = fs.switch(update, &blocklist).await;
                drop(fs);
                kernel.take_back(notices).await;
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => Err(chain(&error)),
        };
        if let Some(Ask::Update(answer) | Ask::Show(_, answer)) = ask {
            // Who asked may have gone.
            let _ = answer.send(outcome);
        }
    }
}

/// Returns what is blocked now, or what was when the settings were made.
pub(super) async fn blocklist_now(settings: &RepositorySettings) -> Blocklist {
    let now = settings.clone();
    match tokio::task::spawn_blocking(move || now.present_blocklist()).await {
        Ok(Ok(present)) => present,
        Ok(Err(failure)) => {
            tracing::warn!(reason = failure.message, "what was blocked before stays blocked");
            settings.blocklist.clone()
        }
        Err(_) => settings.blocklist.clone(),
    }
}

impl Kernel {
    /// For the only repository of a mount.
    pub(super) fn new(notifier: Arc<Notifier>) -> Self {
        Self { notifier, slot: None }
    }

    /// For one of several.
    pub(super) fn of_slot(notifier: Arc<Notifier>, slot: Slot) -> Self {
        Self { notifier, slot: Some(slot) }
    }

    /// Makes the kernel forget what changed.
    pub(super) async fn take_back(&self, notices: Vec<Notice>) {
        let count = notices.len();
        let kernel = self.clone();
        // The kernel may make us wait until a lookup in the same directory has its answer.
        let told = tokio::task::spawn_blocking(move || kernel.tell(notices)).await;
        tracing::debug!(count, ok = told.is_ok(), "took back what the kernel knew");
    }

    /// Names first: a directory that is asked for its new listing must not find old names.
    fn tell(&self, notices: Vec<Notice>) {
        let (names, directories): (Vec<_>, Vec<_>) =
            notices.into_iter().partition(|notice| matches!(notice, Notice::Name { .. }));
        for notice in names.into_iter().chain(directories) {
            let told = match &notice {
                Notice::Name { parent, name } => {
                    let name = OsStr::from_bytes(name);
                    self.notifier.inval_entry(self.number(*parent), name)
                }
                Notice::Directory(ino) => self.notifier.inval_inode(self.number(*ino)),
            };
            // ENOENT: the kernel does not know it, which is as good.
            if let Err(error) = told
                && error.raw_os_error() != Some(libc::ENOENT)
            {
                tracing::warn!(?notice, %error, "the kernel did not take a notice");
            }
        }
    }

    /// Makes the kernel let go of what is too much in a table; waits until that is done.
    pub(super) fn prune(&self, inodes: &InodeTable) {
        let mut surplus = inodes.surplus();
        surplus.iter_mut().for_each(|ino| *ino = self.number(*ino));
        let pruned = self.notifier.prune(&surplus);
        inodes.asked();
        match pruned {
            Ok(()) => tracing::debug!(asked = surplus.len(), left = inodes.len(), "pruned"),
            // The mount is going.
            Err(error) => tracing::debug!(%error, "the kernel did not take a notice"),
        }
    }

    fn number(&self, ino: Ino) -> Ino {
        self.slot.map_or(ino, |slot| slot.outward(ino))
    }
}

async fn wait(repository: &Repository, max_ttl: &TtlLimit) {
    let ttl = Duration::from_secs(repository.current().properties().ttl);
    let ttl = ttl.min(max_ttl.get().unwrap_or(MAX_TTL)).clamp(MIN_TTL, MAX_TTL);
    if repository.stale().is_none() {
        return tokio::time::sleep(ttl).await;
    }
    let downloader = repository.fetcher().downloader();
    if !downloader.is_failing() {
        return tokio::time::sleep(ttl.min(RETRY_REFUSED)).await;
    }
    tokio::time::sleep(MIN_TTL).await;
    let rest = ttl.min(RETRY_OFFLINE).saturating_sub(MIN_TTL);
    tokio::select! {
        () = downloader.recovered() => {}
        () = tokio::time::sleep(rest) => {}
    }
}
