//! A request while it is answered, and what all of them share.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use fuser::Errno;

use super::activity::Activity;
use super::backing::Backings;
use super::dispatch::Operation;
use super::failure::Failures;
use crate::fs::{FsError, Vfs};

/// What requests take along when they move to the runtime.
#[derive(Debug)]
pub(super) struct Shared<V> {
    pub(super) vfs: Arc<V>,
    pub(super) failures: Failures,
    /// Where the kernel shall read files without us.
    pub(super) backings: Option<Arc<Backings>>,
    pub(super) activity: Arc<Activity>,
}

impl<V: Vfs> Shared<V> {
    pub(super) fn failed(&self, operation: Operation, error: &FsError) -> Errno {
        let errno = self.failures.record(operation, error);
        if errno.code() == libc::EIO {
            self.activity.failed(operation.name);
        }
        errno
    }
}

/// A request that is being answered; its end is noted.
pub(super) struct UnderWay<V: Vfs> {
    pub(super) shared: Arc<Shared<V>>,
    pub(super) operation: Operation,
    pub(super) begun: Instant,
    /// Who asks, if somebody looks; after its answer it may be gone.
    pub(super) program: Option<String>,
    /// Asked for in the directory of the operation, if somebody looks.
    pub(super) name: Option<Box<[u8]>>,
}

impl<V: Vfs> UnderWay<V> {
    pub(super) fn looks_up(&mut self, name: &[u8]) {
        if self.shared.activity.is_watched() {
            self.name = Some(name.into());
        }
    }
}

impl<V: Vfs> Deref for UnderWay<V> {
    type Target = Shared<V>;

    fn deref(&self) -> &Shared<V> {
        &self.shared
    }
}

impl<V: Vfs> Drop for UnderWay<V> {
    fn drop(&mut self) {
        let Operation { name, ino, pid, .. } = self.operation;
        let Shared { activity, vfs, .. } = &*self.shared;
        let took = self.begun.elapsed();
        activity.answered(name, took);
        if activity.is_watched() {
            let path = vfs.shown_path(ino).map(|mut path| {
                if let Some(name) = &self.name {
                    path.push('/');
                    path.push_str(&String::from_utf8_lossy(name));
                }
                path
            });
            activity.note(name, path, (pid, self.program.take()), took);
        }
    }
}
