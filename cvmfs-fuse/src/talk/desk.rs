//! What one process can be asked about: its mount, and the repositories that are open.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use cvmfs_core::cache::Pin;
use cvmfs_core::hash::ContentHash;
use cvmfs_core::path::RepoPath;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::commands;
use super::report::RepositoryStatus;
use super::wire::{Reply, Request};
use crate::config::RepositorySettings;
use crate::fs::RepoFs;
use crate::fuse::activity::Activity;

/// Asks of the one who updates a repository.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Look for a newer revision now; tells whether there was one.
    Update(oneshot::Sender<Result<bool, String>>),
    /// Show the revision with this root catalog.
    Show(ContentHash, oneshot::Sender<Result<bool, String>>),
}

/// Longest time between two looks for a new revision, as it may be changed under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct TtlLimit(Arc<Mutex<Option<Duration>>>);

impl TtlLimit {
    pub(crate) fn new(limit: Option<Duration>) -> Self {
        Self(Arc::new(Mutex::new(limit)))
    }

    pub(crate) fn get(&self) -> Option<Duration> {
        *self.0.lock()
    }

    pub(super) fn set(&self, limit: Option<Duration>) {
        *self.0.lock() = limit;
    }
}

/// A repository that can be asked about.
pub(crate) struct Served {
    /// Not held: one that nobody uses may be closed.
    pub(super) fs: Weak<RepoFs>,
    pub(super) settings: RepositorySettings,
    pub(super) updates: mpsc::Sender<Ask>,
    pub(super) max_ttl: TtlLimit,
    /// What people want to be kept in the cache.
    pub(super) pins: Mutex<HashMap<RepoPath, Vec<Pin>>>,
    /// What is known of the distance of servers, by URL.
    pub(super) distances: Mutex<HashMap<String, Distance>>,
}

/// What is known of the distance of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Distance {
    Down,
    Ordered,
    Measured(Duration),
}

impl Served {
    pub(crate) fn new(
        fs: &Arc<RepoFs>,
        settings: RepositorySettings,
        updates: mpsc::Sender<Ask>,
        max_ttl: TtlLimit,
    ) -> Self {
        Self {
            fs: Arc::downgrade(fs),
            settings,
            updates,
            max_ttl,
            pins: Mutex::default(),
            distances: Mutex::default(),
        }
    }
}

/// A mount that can be talked to.
pub(crate) struct Desk {
    pub(super) mountpoint: PathBuf,
    pub(super) device: Option<String>,
    /// Repositories are below the mountpoint, not at it.
    pub(super) has_several: bool,
    /// Who may ask besides root and ourselves.
    owner: Option<u32>,
    pub(super) activity: Arc<Activity>,
    pub(super) since: SystemTime,
    pub(super) begun: Instant,
    served: Mutex<BTreeMap<String, Arc<Served>>>,
}

impl Desk {
    pub(crate) fn new(
        mountpoint: PathBuf,
        device: Option<String>,
        has_several: bool,
        owner: Option<u32>,
        activity: Arc<Activity>,
    ) -> Self {
        Self {
            mountpoint,
            device,
            has_several,
            owner,
            activity,
            since: SystemTime::now(),
            begun: Instant::now(),
            served: Mutex::default(),
        }
    }

    /// Tells whether a user may ask and change things.
    pub(super) fn allows(&self, uid: u32) -> bool {
        uid == 0 || uid == nix::unistd::geteuid().as_raw() || Some(uid) == self.owner
    }

    pub(crate) fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    pub(crate) fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    pub(super) fn socket_owner(&self) -> Option<u32> {
        self.owner
    }

    /// Answers about a repository for as long as what is returned lives.
    pub(crate) fn open(self: &Arc<Self>, fqrn: &str, served: Served) -> Membership {
        let served = Arc::new(served);
        self.served.lock().insert(fqrn.to_owned(), Arc::clone(&served));
        Membership { desk: Arc::downgrade(self), fqrn: fqrn.to_owned(), served }
    }

    /// Returns the open repositories by name.
    pub(super) fn all(&self) -> Vec<(String, Arc<Served>, Arc<RepoFs>)> {
        let served = self.served.lock();
        let alive = |(fqrn, served): (&String, &Arc<Served>)| {
            Some((fqrn.clone(), Arc::clone(served), served.fs.upgrade()?))
        };
        served.iter().filter_map(alive).collect()
    }

    /// Returns what is known of an open repository.
    pub(crate) fn status(&self, fqrn: &str) -> Option<RepositoryStatus> {
        let served = Arc::clone(self.served.lock().get(fqrn)?);
        let fs = served.fs.upgrade()?;
        Some(RepositoryStatus::of(self, &served, &fs))
    }

    /// Answers one question.
    pub(crate) async fn answer(self: &Arc<Self>, request: &Request) -> Reply {
        tracing::debug!(command = request.command, "asked");
        commands::answer(self, request).await
    }
}

/// A repository at a desk.
pub(crate) struct Membership {
    desk: Weak<Desk>,
    fqrn: String,
    served: Arc<Served>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        let Some(desk) = self.desk.upgrade() else { return };
        let mut served = desk.served.lock();
        // It may have been opened again.
        if served.get(&self.fqrn).is_some_and(|now| Arc::ptr_eq(now, &self.served)) {
            served.remove(&self.fqrn);
        }
    }
}
