//! Keeps the number of inodes that the kernel knows in bounds.

use std::sync::Arc;
use std::thread;

use tokio::sync::oneshot;

use super::serve::AbortOnDrop;
use super::update::Kernel;
use crate::fs::RepoFs;

/// Asks the kernel to let go of inodes whenever it knows too many of a filesystem, for as long as
/// what is returned lives.
pub(super) fn keep_bounded(fs: &Arc<RepoFs>, kernel: Kernel) -> AbortOnDrop {
    let weak = Arc::downgrade(fs);
    let crowded = fs.inodes().crowded();
    AbortOnDrop(tokio::spawn(async move {
        loop {
            crowded.notified().await;
            let Some(fs) = weak.upgrade() else { return };
            let kernel = kernel.clone();
            let (done, ended) = oneshot::channel();
            // A thread of its own: to drop a file the kernel may wait until a read of it is answered,
            // and that may need all threads that we otherwise have.
            let begun = thread::Builder::new().name("cvmfs-prune".to_owned()).spawn(move || {
                kernel.prune(fs.inodes());
                drop(fs);
                // The task may have been ended.
                let _ = done.send(());
            });
            match begun {
                Ok(_) => drop(ended.await),
                Err(error) => {
                    tracing::warn!(%error, "the kernel is not asked to let go of entries")
                }
            }
        }
    }))
}
