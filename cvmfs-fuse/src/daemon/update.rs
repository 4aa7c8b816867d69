//! Follows new revisions under a live mount.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use cvmfs_core::format::blocklist::Blocklist;
use cvmfs_core::repository::Repository;
use fuser::{INodeNo, Notifier};

use crate::config::RepositorySettings;
use crate::fs::RepoFs;
use crate::fs::switch::Notice;

/// Shortest time between two looks, whatever the repository says: servers are shared.
const MIN_TTL: Duration = Duration::from_secs(1);
/// Longest time between two looks, whatever the repository says.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);
/// Time to the next look after letters were refused (spec/network.md section 11).
const RETRY_REFUSED: Duration = Duration::from_secs(180);
/// Time to the next look while no server answers. A success of any other request ends it early.
const RETRY_OFFLINE: Duration = Duration::from_secs(30);

/// Looks for new revisions and switches to them, until the task is dropped.
pub(super) async fn follow(
    repository: Arc<Repository>,
    fs: Arc<RepoFs>,
    kernel: Arc<Notifier>,
    settings: RepositorySettings,
) {
    let mut blocklist = settings.blocklist.clone();
    loop {
        wait(&repository, settings.parameters.max_ttl).await;
        // The administrators may have changed the file.
        if let Ok(present) = settings.present_blocklist() {
            blocklist = present;
        }
        if let Ok(Some(update)) = repository.check(&blocklist).await {
            switch(&fs, &kernel, update, &blocklist).await;
        }
    }
}

async fn switch(
    fs: &RepoFs,
    kernel: &Arc<Notifier>,
    update: cvmfs_core::repository::Update,
    blocklist: &Blocklist,
) {
    let notices = fs.switch(update, blocklist).await;
    let count = notices.len();
    let kernel = Arc::clone(kernel);
    // The kernel may make us wait until a lookup in the same directory has its answer.
    let told = tokio::task::spawn_blocking(move || tell(&kernel, notices)).await;
    tracing::debug!(count, ok = told.is_ok(), "took back what the kernel knew");
}

/// Names first: a directory that is asked for its new listing must not find old names.
fn tell(kernel: &Notifier, notices: Vec<Notice>) {
    let (names, directories): (Vec<_>, Vec<_>) =
        notices.into_iter().partition(|notice| matches!(notice, Notice::Name { .. }));
    for notice in names.into_iter().chain(directories) {
        let told = match &notice {
            Notice::Name { parent, name } => {
                kernel.inval_entry(INodeNo(*parent), OsStr::from_bytes(name))
            }
            Notice::Directory(ino) => kernel.inval_inode(INodeNo(*ino), 0, 0),
        };
        // ENOENT: the kernel does not know it, which is as good.
        if let Err(error) = told
            && error.raw_os_error() != Some(libc::ENOENT)
        {
            tracing::warn!(?notice, %error, "the kernel did not take a notice");
        }
    }
}

async fn wait(repository: &Repository, max_ttl: Option<Duration>) {
    let ttl = Duration::from_secs(repository.current().properties().ttl);
    let ttl = ttl.min(max_ttl.unwrap_or(MAX_TTL)).clamp(MIN_TTL, MAX_TTL);
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
