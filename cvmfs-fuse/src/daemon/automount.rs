//! Serves all repositories on one directory, in this process: one connection to the kernel, one
//! cache, one pool of connections to servers.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use cvmfs_core::cache::CacheUsage;
use cvmfs_core::fqrn::Fqrn;
use cvmfs_core::repository::Repository;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::begin::{
    UNDER_WAY, await_estate, go_on, keep_suspects, make, request_deadline, under_way,
};
use super::confinement::{self, Shows};
use super::estate::{Bequest, Estate};
use super::identity;
use super::mountpoint::Expected;
use super::prune::keep_bounded;
use super::serve::{
    AbortOnDrop, Origin, StopSignals, Usable, attend, in_runtime, leave_directory, place, tend,
    told,
};
use super::talking;
use super::update::{self, Kernel};
use crate::cli::exit::Failure;
use crate::config::open::{OpenFailure, Resources, descriptor_budgets};
use crate::config::{AutomountSettings, RepositorySettings};
use crate::fs::journal::Journal;
use crate::fs::root::{Former, OpenError, Opened, Opener, RootFsOptions, Slot, Wanted};
use crate::fs::suspects::Suspects;
use crate::fs::{RepoFs, RepoFsOptions, RootFs};
use crate::fuse::activity::Activity;
use crate::fuse::adapter::Adapter;
use crate::fuse::mounter::Ground;
use crate::fuse::notify::Notifier;
use crate::talk::Desk;

/// Repositories open at a time, if descriptors allow it: sites use some twenty. Each has its share
/// of descriptors, whether it needs it or not.
const MAX_OPEN: usize = 64;
/// Longest time between two looks for repositories that nobody uses.
const MAX_PAUSE: Duration = Duration::from_secs(15);
/// How long a repository that comes back may look for what was published meanwhile, before it
/// answers from what it knows.
const FRESHEN_LIMIT: Duration = Duration::from_secs(10);
/// A successor that is asked this soon need not look: its predecessor did.
const FRESH: Duration = Duration::from_secs(60);

/// Mounts and serves until the directory is unmounted, or SIGTERM or SIGINT ask to stop; see
/// [`super::serve::serve`].
pub fn serve(
    settings: &AutomountSettings,
    origin: Origin,
    ready: impl FnOnce(Usable) -> io::Result<()>,
) -> Result<(), Failure> {
    let Some(resolved) = place(&origin, &settings.mountpoint, Expected::Automount)? else {
        return told(ready(Usable::AlreadyMounted));
    };
    let account = identity::account_of(settings);
    let ground = identity::ground(settings, &origin, resolved, account.as_ref())?;
    let confinement = confinement::of(&settings.model, Shows::All);
    in_runtime(&settings.model.parameters.process, account.as_ref(), confinement, |handle| {
        run(settings, origin, ground, handle, ready)
    })
}

async fn run(
    settings: &AutomountSettings,
    origin: Origin,
    ground: Ground,
    handle: Handle,
    ready: impl FnOnce(Usable) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut stop = StopSignals::listen()?;
    let (most, descriptors) = descriptor_budgets(MAX_OPEN);
    let resources = settings.model.resources(settings.model.cache.open()?, descriptors);
    leave_directory(&settings.process);
    let mut pages = Pages::default();
    let (taken_over, bequest, inherited) = match origin {
        Origin::First(bequest) => (None, bequest, Vec::new()),
        Origin::Successor(candidate) => {
            let (Estate { mount, journals, died }, bequest) =
                await_estate(candidate, &mut stop).await?;
            let is_page = |(name, _): &(String, OwnedFd)| name.ends_with(UNDER_WAY);
            let (under_way, journals): (BTreeMap<_, _>, _) =
                journals.into_iter().partition(is_page);
            pages = Pages { died, under_way };
            let inherited = read(journals, &bequest);
            (Some(mount), bequest, inherited)
        }
    };
    let (notifier, notified) = watch::channel(None);
    let activity = Arc::<Activity>::default();
    let (seated, desk) = watch::channel(None);
    let (bequeathed, settings_of_each) = (bequest.clone(), settings.clone());
    let doorman = Doorman {
        settings: settings_of_each,
        resources,
        bequest: bequeathed,
        notified,
        desk,
        pages: Mutex::new(pages),
    };
    let options = RootFsOptions {
        listed: settings.listed.clone(),
        only_listed: settings.only_listed,
        most,
        owner: (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()),
        mtime: jiff::Timestamp::now().as_second(),
        exposure: settings.model.exposure.clone(),
    };
    let fs = Arc::new(RootFs::new(Arc::new(doorman), options, inherited));
    if settings.model.parameters.pass_through {
        tracing::warn!("files are not passed through to the kernel: not with automount");
    }
    let patient = settings.model.parameters.wait_for_network;
    let (vfs, noted) = (Arc::clone(&fs), Arc::clone(&activity));
    let adapter = Adapter::new(vfs, handle, request_deadline(patient), noted)
        .enforcing_acls(settings.model.parameters.enforce_acls);
    let begun = match &taken_over {
        Some(mount) => go_on(adapter, &settings.options, mount, ground.mounter, bequest)?,
        None => make(adapter, ground, &settings.options, bequest)?,
    };
    drop(taken_over);
    let limit = settings.idle_timeout;
    let passing = begun.bequest.clone();
    let desk = talking::desk_of(&begun, true, &settings.model, activity);
    seated.send_replace(Some(Arc::clone(&desk)));
    let accompany = |kernel| {
        // Requests that need it wait for it.
        notifier.send_replace(Some(kernel));
        let closing = AbortOnDrop(tokio::spawn(close_unused(Arc::downgrade(&fs), limit)));
        (closing, talking::in_control_directory(&desk, &passing, &settings.model))
    };
    attend(begun, &mut stop, ready, accompany).await
}

/// Reads what a predecessor left of each repository.
fn read(journals: BTreeMap<String, OwnedFd>, bequest: &Bequest) -> Vec<(Fqrn, Slot, Former)> {
    let mut inherited = Vec::new();
    for (name, journal) in journals {
        match (name.parse(), Former::read(journal)) {
            (Ok(fqrn), Ok((Some(slot), former))) => inherited.push((fqrn, slot, former)),
            // Killed before the kernel heard of it.
            (_, Ok((None, _))) => bequest.closed(&name),
            (_, Err(error)) => tracing::warn!(name, %error, "a repository is lost"),
            (Err(error), _) => tracing::warn!(name, %error, "a repository is lost"),
        }
    }
    inherited
}

/// Closes what nobody uses, for as long as the mount lives.
async fn close_unused(fs: Weak<RootFs>, limit: Duration) {
    let pause = (limit / 4).min(MAX_PAUSE);
    loop {
        tokio::time::sleep(pause).await;
        let Some(fs) = fs.upgrade() else { return };
        // Closes files, and waits for nobody.
        let closing = move || fs.unused(limit).iter().filter(|fqrn| fs.close(fqrn)).count();
        let _ = tokio::task::spawn_blocking(closing).await;
    }
}

/// Opens repositories.
struct Doorman {
    settings: AutomountSettings,
    resources: Resources,
    bequest: Bequest,
    notified: watch::Receiver<Option<Arc<Notifier>>>,
    desk: watch::Receiver<Option<Arc<Desk>>>,
    pages: Mutex<Pages>,
}

/// What a predecessor left of what was under way, by repository.
#[derive(Default)]
struct Pages {
    died: bool,
    under_way: BTreeMap<String, OwnedFd>,
}

impl Opener for Doorman {
    fn is_plausible(&self, fqrn: &Fqrn) -> bool {
        self.settings.is_plausible(fqrn)
    }

    fn open(&self, wanted: Wanted) -> BoxFuture<'static, Result<Opened, OpenError>> {
        let failed = |failure: Failure| OpenError::Failed(failure.message);
        let settings = match self.settings.repository(&wanted.fqrn) {
            Ok(settings) => settings,
            Err(failure) => return Box::pin(async move { Err(failed(failure)) }),
        };
        let opening = Opening {
            settings,
            follows: self.settings.auto_update,
            // Half of the time, so that a repository in use is heard of before it is over.
            ttl: (self.settings.idle_timeout / 2).min(RepoFsOptions::default().ttl),
            resources: self.resources.clone(),
            bequest: self.bequest.clone(),
            notified: self.notified.clone(),
            desk: self.desk.clone(),
            left_under_way: {
                let mut pages = self.pages.lock();
                let died = pages.died;
                pages.under_way.remove(&under_way(wanted.fqrn.as_str())).map(|page| (page, died))
            },
        };
        Box::pin(opening.open(wanted))
    }

    fn dismissed(&self, fqrn: &Fqrn) {
        self.bequest.closed(fqrn.as_str());
        self.bequest.closed(&under_way(fqrn.as_str()));
    }

    fn usage(&self) -> CacheUsage {
        self.resources.cache.usage()
    }
}

/// The opening of one repository.
struct Opening {
    settings: RepositorySettings,
    follows: bool,
    ttl: Duration,
    resources: Resources,
    bequest: Bequest,
    notified: watch::Receiver<Option<Arc<Notifier>>>,
    desk: watch::Receiver<Option<Arc<Desk>>>,
    /// The page of a predecessor, and whether that died.
    left_under_way: Option<(OwnedFd, bool)>,
}

impl Opening {
    async fn open(mut self, wanted: Wanted) -> Result<Opened, OpenError> {
        let Wanted { fqrn, slot, gate, former } = wanted;
        let mut left = former.as_ref().map(|former| former.inheritance()).unwrap_or_default();
        let repository = match left.current {
            Some(root) => match self.settings.open_among(&self.resources, Some(root)).await {
                Ok(repository) => repository,
                Err(OpenFailure { failure, .. }) => {
                    // What did not change is found all the same.
                    tracing::warn!(%fqrn, reason = failure.message, "opens as it is now");
                    left.current = None;
                    self.newest().await?
                }
            },
            None => self.newest().await?,
        };
        let resumed = left.current.is_some();
        let journal = match &former {
            Some(former) => former.journal(),
            None => self.journal(&fqrn)?,
        };
        let options = RepoFsOptions {
            ttl: self.ttl,
            negative_ttl: self.ttl,
            ownership: self.settings.ownership.as_served(),
            exposure: self.settings.exposure.clone(),
            most_inodes: self.settings.parameters.most_inodes.0,
        };
        let suspects = self.suspects(&fqrn)?;
        let shown = Arc::clone(&repository);
        let fs = RepoFs::inheriting(shown, options, journal, left, suspects).behind(gate);
        let fs = Arc::new(fs);
        let kernel = self.kernel(slot).await?;
        let follows = self.follows && repository.follows_updates();
        if let (true, true, Some(former)) = (follows, resumed, &former) {
            self.freshen(&repository, &fs, &kernel, former).await;
        }
        let mut settings = self.settings;
        // One socket cannot stand for all; each has its own in the workspace.
        settings.parameters.talk_socket = None;
        let desk = self.desk.borrow().clone();
        let desk = desk.ok_or_else(|| OpenError::Failed("the mount begins".to_owned()))?;
        let (orders, talk) = talking::begin(&desk, &fs, &settings, follows);
        let bounded = keep_bounded(&fs, kernel.clone());
        let weak = Arc::downgrade(&fs);
        let follow = async move {
            // Before any switch: what belongs to the present revision must be known.
            if let Some(fs) = weak.upgrade() {
                fs.adopt_all().await;
            }
            update::follow(repository, weak, kernel, settings, orders).await;
        };
        let bequest = self.bequest;
        let keep = move |journal: BorrowedFd<'_>| bequest.journal(fqrn.as_str(), journal);
        let tended = tend(&fs, keep);
        let attendant = Box::new((tended, bounded, AbortOnDrop(tokio::spawn(follow)), talk));
        Ok(Opened { fs, attendant })
    }

    async fn newest(&self) -> Result<Arc<Repository>, OpenError> {
        self.settings.open_among(&self.resources, None).await.map_err(|failure| match failure {
            OpenFailure { is_unknown: true, .. } => OpenError::Unknown,
            OpenFailure { failure, .. } => OpenError::Failed(failure.message),
        })
    }

    /// Makes a journal, if there is a supervisor to keep it.
    fn journal(&self, fqrn: &Fqrn) -> Result<Option<Arc<Journal>>, OpenError> {
        if !self.bequest.is_kept() {
            return Ok(None);
        }
        let failed =
            |error: io::Error| OpenError::Failed(format!("cannot keep a journal: {error}"));
        let journal = Journal::new().map_err(failed)?;
        self.bequest.journal(fqrn.as_str(), journal.descriptor().map_err(failed)?.as_fd());
        Ok(Some(Arc::new(journal)))
    }

    /// Goes on with the page of what is under way, or makes one, if there is a supervisor to keep it.
    fn suspects(&mut self, fqrn: &Fqrn) -> Result<Option<Suspects>, OpenError> {
        if !self.bequest.is_kept() {
            return Ok(None);
        }
        let suspects = match self.left_under_way.take() {
            Some((page, died)) => Suspects::inherit(page, died),
            None => Suspects::new(),
        };
        let suspects = suspects.map_err(|error| {
            OpenError::Failed(format!("cannot note what is under way: {error}"))
        })?;
        keep_suspects(&suspects, fqrn.as_str(), &self.bequest);
        Ok(Some(suspects))
    }

    async fn kernel(&mut self, slot: Slot) -> Result<Kernel, OpenError> {
        let there = self.notified.wait_for(Option::is_some).await;
        let notifier = there.ok().and_then(|there| there.clone());
        let ended = || OpenError::Failed("the mount ends".to_owned());
        Ok(Kernel::of_slot(notifier.ok_or_else(ended)?, slot))
    }

    /// Switches to what was published while the repository was closed. Without network it shows
    /// what it showed before, and goes on looking.
    async fn freshen(
        &self,
        repository: &Arc<Repository>,
        fs: &Arc<RepoFs>,
        kernel: &Kernel,
        former: &Former,
    ) {
        if former.is_of_predecessor() && former.since().elapsed() < FRESH {
            return;
        }
        let checked = tokio::time::timeout(FRESHEN_LIMIT, async {
            let blocklist = update::blocklist_now(&self.settings).await;
            (repository.check(&blocklist).await, blocklist)
        });
        let Ok((Ok(Some(update)), blocklist)) = checked.await else { return };
        fs.adopt_all().await;
        let notices = fs.switch(update, &blocklist).await;
        // Not waited for: the request that waits for us may hold what a notice needs.
        let kernel = kernel.clone();
        drop(tokio::spawn(async move { kernel.take_back(notices).await }));
    }
}
