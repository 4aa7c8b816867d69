//! Serves one mount in this process, from the first check to the orderly stop.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::Notifier;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::{self, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::estate::{Bequest, Estate};
use super::mountpoint::{self, Answer, Expected, Place};
use super::update::{self, Kernel};
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::{MountOptions, MountSettings, ProcessSettings};
use crate::fs::journal::{Inheritance, Journal};
use crate::fs::{RepoFs, RepoFsOptions, Vfs};
use crate::fuse::adapter::Adapter;
use crate::fuse::dispatch::REQUEST_DEADLINE;
use crate::fuse::handover::Mount;
use crate::fuse::mount::{self, MountError, UnmountError};
use crate::fuse::mountinfo::show;
use crate::fuse::session::{ServedMount, mount_session, mount_supervised, take_over};

/// How long users of a mount that is being stopped may go on; after that they get errors.
/// Below the 10 s after which container engines and systemd units are killed.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// How long the runtime's threads may take to end; a stalled download must not keep the process.
const RUNTIME_DEADLINE: Duration = Duration::from_secs(1);
/// Threads for inflating, hashing and writing; each keeps some memory of its own.
const MAX_BLOCKING_THREADS: usize = 8;
/// Open files we ask for, as upstream's default CVMFS_NFILES; each file in use holds one.
const OPEN_FILES: u64 = 131_072;
/// What `ps` shows, and by which `umount` knows us; background processes start as /proc/self/exe.
const PROCESS_NAME: &CStr = c"cvmfs-fuse";

/// How a server came to serve.
#[derive(Debug)]
pub enum Origin {
    /// By itself; the mount ends with it.
    Alone,
    /// Under a supervisor, which is told of the mount.
    First(Bequest),
    /// It goes on with the mount of a dead server, under the same supervisor.
    Successor(Box<Estate>, Bequest),
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
    in_runtime(|handle| run(settings, origin, resolved, handle, ready))
}

/// Returns where to mount; `None` if what is expected there is mounted already.
pub(super) fn place(
    origin: &Origin,
    mountpoint: &Path,
    expected: Expected<'_>,
) -> Result<Option<PathBuf>, Failure> {
    if let Origin::Successor(estate, _) = origin {
        return Ok(Some(estate.mount.mountpoint.clone()));
    }
    Ok(match mountpoint::prepare(mountpoint, expected)? {
        Place::Free(resolved) => Some(resolved),
        Place::Served => None,
    })
}

/// Does the work of a server.
pub(super) fn in_runtime<F: Future<Output = Result<(), Failure>>>(
    work: impl FnOnce(Handle) -> F,
) -> Result<(), Failure> {
    prepare_process();
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
    let outcome = runtime.block_on(work(runtime.handle().clone()));
    runtime.shutdown_timeout(RUNTIME_DEADLINE);
    outcome
}

pub(super) fn told(report: io::Result<()>) -> Result<(), Failure> {
    report.map_err(|error| {
        Failure::caused(ExitStatus::Unknown, "nobody waits for this mount any more", &error)
    })
}

/// Settings of the whole process; what is refused is not needed.
fn prepare_process() {
    if let Err(error) = nix::sys::prctl::set_name(PROCESS_NAME) {
        tracing::debug!(%error, "cannot set the process name");
    }
    // fuser's workers each have a 16 MiB buffer of which they touch the first page; a huge page
    // would make 2 MiB of that resident.
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "huge pages stay enabled");
    }
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard.min(OPEN_FILES)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard.min(OPEN_FILES), hard)
    {
        tracing::warn!(%error, soft, "cannot raise the limit of open files");
    }
}

/// What a mount begins with.
pub(super) struct Beginning {
    /// The mount of a dead server.
    pub(super) taken_over: Option<Mount>,
    /// Journals that it kept.
    pub(super) journals: BTreeMap<String, OwnedFd>,
    /// The way to the supervisor.
    pub(super) bequest: Bequest,
}

impl From<Origin> for Beginning {
    fn from(origin: Origin) -> Self {
        let nothing = BTreeMap::new();
        match origin {
            Origin::Alone => {
                Self { taken_over: None, journals: nothing, bequest: Bequest::default() }
            }
            Origin::First(bequest) => Self { taken_over: None, journals: nothing, bequest },
            Origin::Successor(estate, bequest) => {
                let Estate { mount, journals } = *estate;
                Self { taken_over: Some(mount), journals, bequest }
            }
        }
    }
}

async fn run(
    settings: &MountSettings,
    origin: Origin,
    resolved: PathBuf,
    handle: Handle,
    ready: impl FnOnce(Usable) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut stop = StopSignals::listen()?;
    let name = settings.repository.fqrn.as_str();
    let Beginning { taken_over, mut journals, bequest } = origin.into();
    let is_successor = taken_over.is_some();
    let legacy = journals.remove(name).map(inherit).transpose()?;
    let shown = legacy.as_ref().and_then(|(_, inheritance)| inheritance.current);
    let open = async {
        match shown {
            Some(root) => settings.repository.resume(root).await,
            None => settings.repository.open().await,
        }
    };
    let repository = tokio::select! {
        signal = stop.next() => return Err(interrupted(signal)),
        repository = open => repository?,
    };
    leave_directory(&settings.process);
    let shown = Arc::clone(&repository);
    let (journal, inheritance) = match legacy {
        Some((journal, inheritance)) => (Some(journal), inheritance),
        None if !bequest.is_kept() => (None, Inheritance::default()),
        None => (Some(new_journal()?), Inheritance::default()),
    };
    let journal = journal.map(Arc::new);
    let fs = Arc::new(RepoFs::inheriting(shown, RepoFsOptions::default(), journal, inheritance));
    leave_journal(&bequest, name, &fs);
    let patient = settings.repository.parameters.wait_for_network;
    let adapter = Adapter::new(Arc::clone(&fs), handle, request_deadline(patient));
    let mounting = Mounting { adapter, taken_over, bequest, resolved, options: &settings.options };
    let follows = settings.auto_update && repository.follows_updates();
    let follow = |notifier| {
        let settings = settings.repository.clone();
        let follow = async move {
            // Before any switch: what belongs to the present revision must be known.
            fs.adopt_all().await;
            if follows {
                let fs = Arc::downgrade(&fs);
                update::follow(repository, fs, Kernel::new(notifier), settings).await;
            }
        };
        // A task of its own, so that a defect in it does not end the mount.
        (follows || is_successor).then(|| AbortOnDrop(tokio::spawn(follow)))
    };
    mounting.attend(&mut stop, ready, follow).await
}

/// A filesystem that is to be mounted, or goes on with a mount.
pub(super) struct Mounting<'a, V: Vfs> {
    pub(super) adapter: Adapter<V>,
    pub(super) taken_over: Option<Mount>,
    pub(super) bequest: Bequest,
    pub(super) resolved: PathBuf,
    pub(super) options: &'a MountOptions,
}

impl<V: Vfs> Mounting<'_, V> {
    /// Mounts and serves until the end. `accompany` starts what goes on beside it.
    pub(super) async fn attend(
        self,
        stop: &mut StopSignals,
        ready: impl FnOnce(Usable) -> io::Result<()>,
        accompany: impl FnOnce(Arc<Notifier>) -> Option<AbortOnDrop>,
    ) -> Result<(), Failure> {
        let Self { adapter, taken_over, bequest, resolved, options } = self;
        let is_successor = taken_over.is_some();
        let session = match &taken_over {
            Some(mount) => take_over(adapter, options, mount),
            None if bequest.is_kept() => {
                mount_supervised(adapter, &resolved, options).map(|(session, mount)| {
                    bequest.mounted(&mount);
                    session
                })
            }
            None => mount_session(adapter, &resolved, options),
        };
        let session = session.map_err(|error| mount_failed(&resolved, &error))?;
        // fuser has its own descriptor of it.
        drop(taken_over);
        let mut mount = session.serve().map_err(|error| mount_failed(&resolved, &error))?;
        let company = accompany(Arc::clone(&mount.notifier));

        let probed = resolved.clone();
        let answer = tokio::select! {
            signal = stop.next() => {
                detach(&mount).await;
                return Err(interrupted(signal));
            }
            answer = tokio::task::spawn_blocking(move || match is_successor {
                true => Answer::Alive,
                false => mountpoint::answer(&probed),
            }) => answer,
        };
        if !matches!(answer, Ok(Answer::Alive)) {
            detach(&mount).await;
            let place = show(&resolved);
            let message = format!("mounted on {place}, but it does not answer: {answer:?}");
            return Err(Failure::new(ExitStatus::FuseLoop, message));
        }
        tracing::info!(mountpoint = show(&resolved), "mounted");
        if let Err(failure) = told(ready(Usable::Mounted)) {
            detach(&mount).await;
            return Err(failure);
        }
        let ended = tokio::select! {
            ended = mount.ended() => ended,
            signal = stop.next() => {
                tracing::info!(signal, "stopping");
                drop(company);
                return stop_orderly(mount, stop).await;
            }
        };
        finish(mount, ended).await
    }
}

/// Nothing relative is needed any more, and a daemon should not keep its start directory busy.
pub(super) fn leave_directory(process: &ProcessSettings) {
    if process.ready_fd.is_some()
        && let Err(error) = std::env::set_current_dir("/")
    {
        tracing::debug!(%error, "cannot leave the current directory");
    }
}

fn new_journal() -> Result<Journal, Failure> {
    Journal::new()
        .map_err(|error| Failure::caused(ExitStatus::SaveState, "cannot keep a journal", &error))
}

/// Reads what a predecessor left.
fn inherit(journal: OwnedFd) -> Result<(Journal, Inheritance), Failure> {
    Journal::inherit(journal).map_err(|error| {
        Failure::caused(ExitStatus::RestoreState, "cannot read what the predecessor left", &error)
    })
}

/// Gives the supervisor what a successor must know of a repository.
pub(super) fn leave_journal(bequest: &Bequest, name: &str, fs: &RepoFs) {
    match fs.journal().map(|journal| journal.descriptor()) {
        Some(Ok(journal)) => bequest.journal(name, journal.as_fd()),
        Some(Err(error)) => tracing::warn!(%error, "a successor will know nothing"),
        None => {}
    }
}

/// Where reads may wait for the network, only an interruption ends them.
pub(super) fn request_deadline(patient: bool) -> Duration {
    if patient { Duration::from_secs(u64::from(u32::MAX)) } else { REQUEST_DEADLINE }
}

/// A task that ends with its owner.
pub(super) struct AbortOnDrop(pub(super) tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn interrupted(signal: &str) -> Failure {
    Failure::new(ExitStatus::Unknown, format!("stopped by {signal} before the mount was usable"))
}

fn mount_failed(mountpoint: &Path, error: &MountError) -> Failure {
    let what = format!("cannot mount on {}", show(mountpoint));
    let failure = Failure::caused(ExitStatus::Mount, &what, error);
    match error.advice() {
        Some(advice) => failure.advise(advice),
        None => failure,
    }
}

/// After the kernel ended the connection.
async fn finish(mount: ServedMount, ended: io::Result<()>) -> Result<(), Failure> {
    // Unmounted: nothing is left there, or somebody else's mount. Aborted through
    // /sys/fs/fuse/connections, or a defect of ours: a dead mount is left, to be removed.
    let path = mount.mountpoint.clone();
    let left = tokio::task::spawn_blocking(move || mountpoint::answer(&path)).await;
    let dead = matches!(left, Ok(Answer::Dead));
    if dead {
        tracing::warn!("the connection was aborted");
        detach(&mount).await;
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
async fn stop_orderly(mut mount: ServedMount, stop: &mut StopSignals) -> Result<(), Failure> {
    detach(&mount).await;
    let deadline = tokio::time::sleep(STOP_DEADLINE);
    tokio::pin!(deadline);
    tokio::select! {
        ended = mount.ended() => return finish(mount, ended).await,
        () = &mut deadline => tracing::warn!("stopped while files are in use"),
        signal = stop.next() => tracing::warn!(signal, "stopped at once"),
    }
    // The threads end with the process, and the kernel then aborts what is under way.
    Ok(())
}

async fn detach(mount: &ServedMount) {
    let path = mount.mountpoint.clone();
    let device = mount.device.clone();
    let result = tokio::task::spawn_blocking(move || {
        // Somebody may have mounted over ours; that is not ours to remove.
        match (crate::fuse::mountinfo::topmost_at(&path), device) {
            (Ok(top), Some(ours)) if top.as_ref().is_none_or(|top| top.device != ours) => Ok(()),
            _ => mount::unmount(&path, true),
        }
    })
    .await;
    match result {
        Ok(Ok(()) | Err(UnmountError::NotMounted)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "cannot unmount"),
        Err(error) => tracing::warn!(%error, "cannot unmount"),
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
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
