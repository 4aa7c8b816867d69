//! Serves one mount in this process, from the first check to the orderly stop.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{self, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::begin::{self, Begun, Shown};
use super::confinement::{self, Shows};
use super::estate::{Bequest, Candidate};
use super::identity;
use super::log;
use super::mountpoint::{self, Answer, Expected, Place};
use super::process;
use super::prune::keep_bounded;
use super::talking;
use super::update::{self, Kernel};
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::parameters::ProcessLimits;
use crate::config::{Account, MountSettings, ProcessSettings};
use crate::fs::{RepoFs, Vfs, journal};
use crate::fuse::mounter::{Ground, Mounter};
use crate::fuse::mountinfo::show;
use crate::fuse::notify::Notifier;
use crate::fuse::premounted;
use crate::fuse::session::ServedMount;
use crate::sandbox::Confinement;

/// How long users of a mount that is being stopped may go on; after that they get errors.
/// Below the 10 s after which container engines and systemd units are killed.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// How long the runtime's threads may take to end; a stalled download must not keep the process.
const RUNTIME_DEADLINE: Duration = Duration::from_secs(1);
/// Threads for inflating, hashing and writing; each keeps some memory of its own.
const MAX_BLOCKING_THREADS: usize = 8;
/// How long the number of repeated messages may be overdue.
const LOG_PACE: Duration = Duration::from_secs(5);

/// How a server came to serve.
#[derive(Debug)]
pub enum Origin {
    /// It makes the mount.
    First(Bequest),
    /// It goes on with the mount of another one.
    Successor(Candidate),
}

/// How a mount became usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Usable {
    /// We mounted it and serve it.
    Mounted,
    /// Another process serves the repository on the same directory; there is nothing to do.
    AlreadyMounted,
}

/// Mounts a repository and serves it until the directory is unmounted, or SIGTERM or SIGINT ask to
/// stop.
///
/// `ready` is called once, when the mount is usable; an error from it ends the mount.
pub fn serve(
    settings: &MountSettings,
    origin: Origin,
    ready: impl FnOnce(Usable) -> io::Result<()>,
) -> Result<(), Failure> {
    let expected = Expected::Repository(&settings.repository.fqrn);
    let Some(resolved) = place(&origin, &settings.mountpoint, expected)? else {
        return told(ready(Usable::AlreadyMounted));
    };
    let account = identity::account_of(settings);
    let ground = identity::ground(settings, &origin, resolved, account.as_ref())?;
    let confinement = confinement::of(&settings.repository, Shows::One(&origin));
    in_runtime(&settings.repository.parameters.process, account.as_ref(), confinement, |handle| {
        run(settings, origin, ground, handle, ready)
    })
}

/// Returns where to mount, which a successor will be told; `None` if what is expected there is
/// mounted already.
pub(super) fn place(
    origin: &Origin,
    mountpoint: &Path,
    expected: Expected<'_>,
) -> Result<Option<PathBuf>, Failure> {
    if matches!(origin, Origin::Successor(_)) {
        return Ok(Some(PathBuf::new()));
    }
    Ok(match mountpoint::prepare(mountpoint, expected)? {
        Place::Free(resolved) => Some(resolved),
        Place::Served => None,
    })
}

/// Does the work of a server, as the account if there is one, with no more rights than it needs.
pub(super) fn in_runtime<F: Future<Output = Result<(), Failure>>>(
    limits: &ProcessLimits,
    account: Option<&Account>,
    confinement: Confinement,
    work: impl FnOnce(Handle) -> F,
) -> Result<(), Failure> {
    process::prepare(limits);
    let refused = |error| {
        Failure::caused(ExitStatus::Permission, "cannot give up what is not needed", &error)
    };
    confinement.begin().map_err(refused)?;
    account.map_or(Ok(()), identity::assume)?;
    // Before the filter of system calls.
    process::keep_memory_private(limits);
    confinement.enter().map_err(refused)?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4)))
        // Blocking tasks work and never wait for the network, so a few threads are enough.
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_name("cvmfs-runtime")
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::caused(ExitStatus::Unknown, "cannot start the runtime", &error)
        })?;
    let settling = runtime.spawn(async {
        loop {
            tokio::time::sleep(LOG_PACE).await;
            // Writes to files.
            let _ = tokio::task::spawn_blocking(|| log::settle(false)).await;
        }
    });
    let outcome = runtime.block_on(work(runtime.handle().clone()));
    settling.abort();
    runtime.shutdown_timeout(RUNTIME_DEADLINE);
    outcome
}

pub(super) fn told(report: io::Result<()>) -> Result<(), Failure> {
    report.map_err(|error| {
        Failure::caused(ExitStatus::Unknown, "nobody waits for this mount any more", &error)
    })
}

async fn run(
    settings: &MountSettings,
    origin: Origin,
    ground: Ground,
    handle: Handle,
    ready: impl FnOnce(Usable) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut stop = StopSignals::listen()?;
    leave_directory(&settings.process);
    let (Shown { repository, fs, activity }, begun) = match origin {
        Origin::First(bequest) => {
            begin::first(settings, bequest, ground, handle, &mut stop).await?
        }
        Origin::Successor(candidate) => {
            begin::successor(settings, candidate, ground.mounter, handle, &mut stop).await?
        }
    };
    let follows = settings.auto_update && repository.follows_updates();
    let desk = talking::desk_of(&begun, false, &settings.repository, activity);
    let (name, bequest) = (settings.repository.fqrn.to_string(), begun.bequest.clone());
    let passing = begun.bequest.clone();
    let follow = |notifier| {
        let keep = move |journal: BorrowedFd<'_>| bequest.journal(&name, journal);
        let tended = tend(&fs, keep);
        let settings = settings.repository.clone();
        let (orders, talk) = talking::begin(&desk, &fs, &settings, follows);
        let control = talking::in_control_directory(&desk, &passing, &settings);
        let kernel = Kernel::new(notifier);
        let bounded = keep_bounded(&fs, kernel.clone());
        let follow = async move {
            // Before any switch: what belongs to the present revision must be known.
            fs.adopt_all().await;
            let fs = Arc::downgrade(&fs);
            update::follow(repository, fs, kernel, settings, orders).await;
        };
        // A task of its own, so that a defect in it does not end the mount.
        (tended, bounded, AbortOnDrop(tokio::spawn(follow)), control, talk)
    };
    attend(begun, &mut stop, ready, follow).await
}

/// Keeps the journal of a filesystem short, for as long as what is returned lives.
pub(super) fn tend(
    fs: &RepoFs,
    keep: impl Fn(BorrowedFd<'_>) -> bool + Clone + Send + 'static,
) -> Option<AbortOnDrop> {
    let journal = Arc::clone(fs.journal()?);
    Some(AbortOnDrop(tokio::spawn(journal::tend(journal, keep))))
}

/// Nothing relative is needed any more, and a daemon should not keep its start directory busy.
pub(super) fn leave_directory(process: &ProcessSettings) {
    if !process.foreground
        && let Err(error) = std::env::set_current_dir("/")
    {
        tracing::debug!(%error, "cannot leave the current directory");
    }
}

/// Serves a mount until its end. `accompany` starts what goes on beside it.
pub(super) async fn attend<V: Vfs, C>(
    begun: Begun<V>,
    stop: &mut StopSignals,
    ready: impl FnOnce(Usable) -> io::Result<()>,
    accompany: impl FnOnce(Arc<Notifier>) -> C,
) -> Result<(), Failure> {
    let Begun { session, bequest, mountpoint: resolved, is_successor, .. } = begun;
    let mut mount = session.serve().map_err(|error| begin::mount_failed(&resolved, &error))?;
    let supervisor = bequest.clone();
    mount.notifier.shrinking_by(move || supervisor.shrink());
    let company = accompany(Arc::clone(&mount.notifier));
    bequest.serving();

    let probed = resolved.clone();
    // It may be seen elsewhere only.
    let is_mounted_by_others = premounted::number_of(&resolved).is_some();
    let answer = tokio::select! {
        signal = stop.next() => {
            detach(&mount, &bequest);
            return Err(begin::interrupted(signal));
        }
        answer = tokio::task::spawn_blocking(move || match is_successor || is_mounted_by_others {
            true => Answer::Alive,
            false => mountpoint::answer(&probed),
        }) => answer,
    };
    if !matches!(answer, Ok(Answer::Alive)) {
        detach(&mount, &bequest);
        let message = format!("mounted on {}, but it does not answer: {answer:?}", show(&resolved));
        return Err(Failure::new(ExitStatus::FuseLoop, message));
    }
    tracing::info!(mountpoint = show(&resolved), "mounted");
    if let Err(failure) = told(ready(Usable::Mounted)) {
        detach(&mount, &bequest);
        return Err(failure);
    }
    let ended = tokio::select! {
        ended = mount.ended() => ended,
        signal = stop.next() => {
            tracing::info!(signal, "stopping");
            drop(company);
            return stop_orderly(mount, stop, &bequest).await;
        }
    };
    finish(mount, ended, &bequest).await
}

/// A task that ends with its owner.
pub(super) struct AbortOnDrop(pub(super) tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// After the kernel ended the connection.
async fn finish(
    mount: ServedMount,
    ended: io::Result<()>,
    bequest: &Bequest,
) -> Result<(), Failure> {
    // Unmounted: nothing is left there, or somebody else's mount. Aborted through
    // /sys/fs/fuse/connections, or a defect of ours: a dead mount is left, to be removed.
    let path = mount.mountpoint.clone();
    let left = tokio::task::spawn_blocking(move || mountpoint::answer(&path)).await;
    let dead = matches!(left, Ok(Answer::Dead));
    if dead {
        tracing::warn!("the connection was aborted");
        detach(&mount, bequest);
    }
    mount.join();
    tracing::info!("unmounted");
    if let (false, Err(error)) = (dead, &ended) {
        // A worker may find its last request taken away while the mount goes: rare, and as good
        // an end as any, since nobody can ask any more.
        tracing::info!(%error, "a worker ended with an error while the mount went away");
        return Ok(());
    }
    ended.map_err(|error| {
        Failure::caused(ExitStatus::FuseLoop, "the FUSE requests cannot be served", &error)
    })
}

/// Detaches the mount, so that new users do not find it, and gives present ones a little time.
async fn stop_orderly(
    mut mount: ServedMount,
    stop: &mut StopSignals,
    bequest: &Bequest,
) -> Result<(), Failure> {
    detach(&mount, bequest);
    let deadline = tokio::time::sleep(STOP_DEADLINE);
    tokio::pin!(deadline);
    tokio::select! {
        ended = mount.ended() => return finish(mount, ended, bequest).await,
        () = &mut deadline => tracing::warn!("stopped while files are in use"),
        signal = stop.next() => tracing::warn!(signal, "stopped at once"),
    }
    // The threads end with the process, and the kernel then aborts what is under way.
    Ok(())
}

/// Has the mount detached by the supervisor; the sandbox of a server knows no umount.
fn detach(mount: &ServedMount, bequest: &Bequest) {
    let remover = mount.remover.as_ref();
    if premounted::number_of(&mount.mountpoint).is_none()
        && !bequest.detach()
        && !remover.is_some_and(Mounter::remove)
    {
        let mountpoint = show(&mount.mountpoint);
        tracing::warn!(mountpoint, "nobody is left who could unmount");
    }
}

/// SIGTERM and SIGINT; SIGHUP is ignored, so that a daemon outlives the terminal.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    _hang_up: Signal,
}

impl StopSignals {
    pub(super) fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::caused(ExitStatus::Unknown, "cannot listen to signals", &error)
            })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            _hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for the next request to stop and returns its name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
