//! How a server comes by its mount: it makes one, or goes on with that of another.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cvmfs_core::repository::Repository;
use tokio::runtime::Handle;

use super::estate::{Bequest, Candidate, Estate};
use super::serve::StopSignals;
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::{MountOptions, MountSettings, RepositorySettings};
use crate::fs::journal::{Inheritance, Journal};
use crate::fs::suspects::Suspects;
use crate::fs::{RepoFs, RepoFsOptions, Vfs, journal};
use crate::fuse::activity::Activity;
use crate::fuse::adapter::Adapter;
use crate::fuse::backing::{self, Backings};
use crate::fuse::device::Device;
use crate::fuse::dispatch::REQUEST_DEADLINE;
use crate::fuse::handover::Mount;
use crate::fuse::mount::MountError;
use crate::fuse::mounter::{Ground, Mounter};
use crate::fuse::mountinfo::show;
use crate::fuse::session::{MountedSession, mount_supervised, take_over};

/// Behind the name of a repository: its page of what is under way.
pub(super) const UNDER_WAY: &str = "/under-way";

/// Behind the name of a repository: how its open files are read.
const BACKINGS: &str = "/backing-files";

/// A mount whose requests are not answered yet.
pub(super) struct Begun<V: Vfs> {
    pub(super) session: MountedSession<V>,
    pub(super) bequest: Bequest,
    /// Resolved.
    pub(super) mountpoint: PathBuf,
    /// Its device, where that is known.
    pub(super) device: Option<Device>,
    /// It was another server's.
    pub(super) is_successor: bool,
}

/// What a mount of one repository shows.
pub(super) struct Shown {
    pub(super) repository: Arc<Repository>,
    pub(super) fs: Arc<RepoFs>,
    pub(super) activity: Arc<Activity>,
}

/// Mounts on a resolved directory.
pub(super) fn make<V: Vfs>(
    adapter: Adapter<V>,
    ground: Ground,
    options: &MountOptions,
    bequest: Bequest,
) -> Result<Begun<V>, Failure> {
    let resolved = ground.mountpoint.clone();
    let (session, mount) = mount_supervised(adapter, ground, options)
        .map_err(|error| mount_failed(&resolved, &error))?;
    bequest.mounted(&mount);
    let Mount { mountpoint, device, .. } = mount;
    Ok(Begun { session, bequest, mountpoint, device, is_successor: false })
}

/// Waits for the end of the server before.
pub(super) async fn await_estate(
    candidate: Candidate,
    stop: &mut StopSignals,
) -> Result<(Estate, Bequest), Failure> {
    let waiting = tokio::task::spawn_blocking(|| candidate.succeed());
    let estate = tokio::select! {
        signal = stop.next() => return Err(interrupted(signal)),
        estate = waiting => estate,
    };
    estate
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
        .map_err(|error| Failure::caused(ExitStatus::RestoreState, "nothing to take over", &error))
}

/// Goes on with the mount of another server.
pub(super) fn go_on<V: Vfs>(
    adapter: Adapter<V>,
    options: &MountOptions,
    mount: &Mount,
    remover: Option<Mounter>,
    bequest: Bequest,
) -> Result<Begun<V>, Failure> {
    // fuser has its own descriptor of the connection.
    let session = take_over(adapter, options, mount, remover)
        .map_err(|error| mount_failed(&mount.mountpoint, &error))?;
    let (mountpoint, device) = (mount.mountpoint.clone(), mount.device);
    Ok(Begun { session, bequest, mountpoint, device, is_successor: true })
}

/// Opens the repository and mounts it on a resolved directory.
pub(super) async fn first(
    settings: &MountSettings,
    bequest: Bequest,
    ground: Ground,
    handle: Handle,
    stop: &mut StopSignals,
) -> Result<(Shown, Begun<RepoFs>), Failure> {
    let repository = tokio::select! {
        signal = stop.next() => return Err(interrupted(signal)),
        repository = settings.repository.open(settings.auto_update) => repository?,
    };
    let journal = Journal::new()
        .map_err(|error| Failure::caused(ExitStatus::SaveState, "cannot keep a journal", &error))?;
    let suspects = Suspects::new().map_err(|error| {
        Failure::caused(ExitStatus::SaveState, "cannot note what is under way", &error)
    })?;
    let fs = show_with(
        &repository,
        (journal, Inheritance::default()),
        suspects,
        &bequest,
        &settings.repository,
    );
    let parameters = &settings.repository.parameters;
    let backings = parameters.pass_through.then(|| pass_through(&settings.repository)).flatten();
    let backings = backings.map(|backings| keep_backings(backings, settings, &bequest));
    let deadline = request_deadline(parameters.wait_for_network);
    let activity = Arc::<Activity>::default();
    let (vfs, noted) = (Arc::clone(&fs), Arc::clone(&activity));
    let adapter = Adapter::new(vfs, handle, deadline, noted).passing_through(backings);
    let adapter = adapter.enforcing_acls(parameters.enforce_acls);
    let begun = make(adapter, ground, &settings.options, bequest)?;
    Ok((Shown { repository, fs, activity }, begun))
}

/// Prepares what it can, waits for the end of the server before, and goes on with its mount.
pub(super) async fn successor(
    settings: &MountSettings,
    candidate: Candidate,
    remover: Option<Mounter>,
    handle: Handle,
    stop: &mut StopSignals,
) -> Result<(Shown, Begun<RepoFs>), Failure> {
    let name = settings.repository.fqrn.as_str();
    let unreadable = |error: std::io::Error| {
        Failure::caused(ExitStatus::RestoreState, "cannot read what the predecessor left", &error)
    };
    let shown = candidate.journal(name).map(journal::shown).transpose().map_err(unreadable)?;
    let open = async {
        match shown.flatten() {
            Some(root) => settings.repository.resume(root).await,
            None => settings.repository.open(settings.auto_update).await,
        }
    };
    let prepared = tokio::select! {
        signal = stop.next() => return Err(interrupted(signal)),
        repository = open => repository?,
    };
    let (Estate { mount, mut journals, died }, bequest) = await_estate(candidate, stop).await?;
    let inherited: Option<OwnedFd> = journals.remove(name);
    let (journal, inheritance) = match inherited {
        Some(journal) => Journal::inherit(journal),
        None => Journal::new().map(|journal| (journal, Inheritance::default())),
    }
    .map_err(unreadable)?;
    let backings = journals.remove(&format!("{name}{BACKINGS}"));
    let suspects = match journals.remove(&under_way(name)) {
        Some(page) => Suspects::inherit(page, died),
        None => Suspects::new(),
    }
    .map_err(unreadable)?;
    let repository = match inheritance.current {
        // Updated since.
        Some(root) if root != prepared.current().root_hash() => {
            drop(prepared);
            settings.repository.resume(root).await?
        }
        _ => prepared,
    };
    let fs =
        show_with(&repository, (journal, inheritance), suspects, &bequest, &settings.repository);
    let patient = settings.repository.parameters.wait_for_network;
    // As the mount began, whatever the parameters say.
    let backings = match (mount.greeting.passes_through(), backings) {
        (false, _) => None,
        (true, Some(page)) => Some(Backings::inherit(page).map_err(unreadable)?),
        (true, None) => Some(Backings::new().map_err(unreadable)?),
    };
    let backings = backings.map(|backings| keep_backings(backings, settings, &bequest));
    let activity = Arc::<Activity>::default();
    let (vfs, noted) = (Arc::clone(&fs), Arc::clone(&activity));
    let adapter =
        Adapter::new(vfs, handle, request_deadline(patient), noted).passing_through(backings);
    let begun = go_on(adapter, &settings.options, &mount, remover, bequest)?;
    Ok((Shown { repository, fs, activity }, begun))
}

fn show_with(
    repository: &Arc<Repository>,
    (journal, inheritance): (Journal, Inheritance),
    suspects: Suspects,
    bequest: &Bequest,
    settings: &RepositorySettings,
) -> Arc<RepoFs> {
    let name = repository.fqrn().as_str();
    match journal.descriptor() {
        // It has said so if it did not arrive.
        Ok(journal) => drop(bequest.journal(name, journal.as_fd())),
        Err(error) => tracing::warn!(%error, "a successor will know nothing"),
    }
    keep_suspects(&suspects, name, bequest);
    let options = RepoFsOptions {
        ownership: settings.ownership.as_served(),
        exposure: settings.exposure.clone(),
        most_inodes: settings.parameters.most_inodes.0,
        ..RepoFsOptions::default()
    };
    let (repository, journal) = (Arc::clone(repository), Some(Arc::new(journal)));
    Arc::new(RepoFs::inheriting(repository, options, journal, inheritance, Some(suspects)))
}

/// Tells whether a predecessor gave the kernel files that it reads by itself.
pub(super) fn passed_through(candidate: &Candidate, name: &str) -> bool {
    candidate.journal(&format!("{name}{BACKINGS}")).is_some()
}

/// Makes the memory for files that the kernel reads without us, if it would and nobody else can change them.
fn pass_through(settings: &RepositorySettings) -> Option<Backings> {
    let backings = match backing::is_allowed() {
        _ if !settings.cache.is_only_ours() => {
            Err("others can write to the cache, and the kernel would not see that".to_owned())
        }
        Ok(()) => Backings::new().map_err(|error| error.to_string()),
        Err(reason) => Err(reason.to_owned()),
    };
    backings
        .inspect_err(|reason| {
            tracing::warn!("files are not passed through to the kernel: {reason}");
        })
        .ok()
}

/// Leaves to a successor how open files are read.
fn keep_backings(backings: Backings, settings: &MountSettings, bequest: &Bequest) -> Arc<Backings> {
    let name = format!("{}{BACKINGS}", settings.repository.fqrn);
    match backings.descriptor() {
        // It has said so if it did not arrive.
        Ok(page) => drop(bequest.journal(&name, page.as_fd())),
        Err(error) => tracing::warn!(%error, "a successor will not know how files are read"),
    }
    Arc::new(backings)
}

/// Leaves the page of what is under way to a successor.
pub(super) fn keep_suspects(suspects: &Suspects, name: &str, bequest: &Bequest) {
    match suspects.descriptor() {
        // It has said so if it did not arrive.
        Ok(page) => drop(bequest.journal(&under_way(name), page.as_fd())),
        Err(error) => tracing::warn!(%error, "a successor will not know what was under way"),
    }
}

/// The name of the page of what is under way, which is kept like a journal.
pub(super) fn under_way(name: &str) -> String {
    format!("{name}{UNDER_WAY}")
}

/// Where reads may wait for the network, only an interruption ends them.
pub(super) fn request_deadline(patient: bool) -> Duration {
    if patient { Duration::from_secs(u64::from(u32::MAX)) } else { REQUEST_DEADLINE }
}

pub(super) fn interrupted(signal: &str) -> Failure {
    Failure::new(ExitStatus::Unknown, format!("stopped by {signal} before the mount was usable"))
}

pub(super) fn mount_failed(mountpoint: &Path, error: &MountError) -> Failure {
    let what = format!("cannot mount on {}", show(mountpoint));
    let failure = Failure::caused(ExitStatus::Mount, &what, error);
    match error.advice() {
        Some(advice) => failure.advise(advice),
        None => failure,
    }
}
