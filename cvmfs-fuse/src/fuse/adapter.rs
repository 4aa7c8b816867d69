//! fuser's calls turned into calls of [`Vfs`].
//!
//! Each method names the request, calls one method of the filesystem through
//! [`Dispatcher`] and turns the result into a reply. No decision about content is made here.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use tokio::runtime::Handle;

use super::activity::{Activity, program_of};
use super::attributes::{file_attr, negative_attr};
use super::backing::{Backings, Way};
use super::directory::{PlainListing, PlusListing};
use super::dispatch::{Dispatcher, Operation};
use super::failure::Failures;
use super::greeting::{self, Terms};
use super::request::{Shared, UnderWay};
use crate::fs::{FsError, Vfs};

/// An attribute of ours: how many requests the kernel has made. What it answers by itself is seen by
/// this standing still.
const REQUESTS: &str = "user.requests";

/// Most bytes of an answer to a read. The kernel asks for 1 MiB at most, and could not be sent more than this.
const MAX_READ: u32 = 16 << 20;

/// A filesystem, as fuser wants it.
#[derive(Debug)]
pub struct Adapter<V> {
    shared: Arc<Shared<V>>,
    dispatcher: Dispatcher,
    /// What the connection began with, if a predecessor did.
    terms: Option<Terms>,
    /// The kernel does without opens of files and directories once they were refused.
    opens_itself: bool,
    opens_directories_itself: bool,
    /// It reads files without us, where it can.
    passes_through: bool,
    /// It enforces ACLs.
    enforces_acls: bool,
    /// Requests of the kernel, except those that take references back.
    requests: AtomicU64,
}

impl<V: Vfs> Adapter<V> {
    /// Serves `vfs`; requests that must wait do so on `runtime`, for at most `deadline`.
    ///
    /// What is asked for and what fails is noted in `activity`.
    pub fn new(vfs: Arc<V>, runtime: Handle, deadline: Duration, activity: Arc<Activity>) -> Self {
        let failures = Failures::noting(Arc::clone(&activity.recent));
        Self {
            shared: Arc::new(Shared { vfs, failures, activity, backings: None }),
            dispatcher: Dispatcher::new(runtime, deadline),
            terms: None,
            opens_itself: false,
            opens_directories_itself: false,
            passes_through: false,
            enforces_acls: false,
            requests: AtomicU64::new(0),
        }
    }

    /// Lets the kernel read files without us, if it can. Then it says when it opens one.
    pub fn passing_through(self, backings: Option<Arc<Backings>>) -> Self {
        let Shared { vfs, failures, activity, .. } = match Arc::try_unwrap(self.shared) {
            Ok(shared) => shared,
            // Nothing is served yet, so nobody else has it.
            Err(shared) => return Self { shared, ..self },
        };
        Self { shared: Arc::new(Shared { vfs, failures, activity, backings }), ..self }
    }

    /// Lets the kernel enforce stored ACLs, or fails to mount.
    pub fn enforcing_acls(self, enforces_acls: bool) -> Self {
        Self { enforces_acls, ..self }
    }

    /// Goes on with what a predecessor agreed on with the kernel.
    pub(super) fn going_on(self, terms: Option<Terms>) -> Self {
        Self { terms, ..self }
    }

    /// Returns how open files are read, where the kernel may do so without us.
    pub(super) fn backings(&self) -> Option<Arc<Backings>> {
        self.shared.backings.clone()
    }

    fn begin(&self, name: &'static str, req: &Request, ino: INodeNo) -> (Operation, UnderWay<V>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let operation = Operation { name, ino: ino.0, pid: req.pid(), uid: req.uid() };
        let (shared, begun) = (Arc::clone(&self.shared), Instant::now());
        let program = shared.activity.is_watched().then(|| program_of(operation.pid)).flatten();
        (operation, UnderWay { shared, operation, begun, program, name: None })
    }
}

/// Answers a question about an attribute or a list of names, xattr(7): the length if asked with
/// an empty buffer, ERANGE if the buffer is too small.
fn reply_xattr(reply: ReplyXattr, value: &[u8], size: u32) {
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

/// Tells whether an open could lead to a write. The kernel refuses these on a read-only mount;
/// a mount made writable by `mount -o remount,rw` still gets here.
fn asks_to_write(flags: OpenFlags) -> bool {
    flags.0 & libc::O_ACCMODE != libc::O_RDONLY || flags.0 & libc::O_TRUNC != 0
}

/// Methods that answer with the same error whatever they are asked.
macro_rules! refuse {
    ($($(#[$doc:meta])* $errno:ident: $name:ident($($argument:ty),*) $reply:ty;)*) => {$(
        $(#[$doc])*
        fn $name(&self, $(_: $argument),*, reply: $reply) {
            reply.error(Errno::$errno);
        }
    )*};
}

impl<V: Vfs> Filesystem for Adapter<V> {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wishes = self.shared.backings.is_some();
        let passes_through = match &self.terms {
            Some(terms) => {
                greeting::repeat(config, terms);
                terms.pass_through()
            }
            None => {
                if self.enforces_acls {
                    greeting::enforce_acls(config)?;
                }
                greeting::negotiate(config, wishes)
            }
        };
        if wishes && !passes_through {
            tracing::warn!(
                "files are not passed through to the kernel: it does not know how (6.9 does)"
            );
        }
        // An inode number stands for one version of one content, so there is nothing to say at an
        // open: the kernel may keep all pages. It asks once, and never again (facts: 14 times
        // faster than opens with a message).
        let known = config.capabilities();
        self.opens_itself = known.contains(InitFlags::FUSE_NO_OPEN_SUPPORT) && !passes_through;
        self.passes_through = passes_through;
        self.opens_directories_itself = known.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT)
            && self.shared.vfs.keeps_all_listings();
        tracing::debug!(abi = %config.kernel_abi(), "connected to the kernel");
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (operation, mut shared) = self.begin("lookup", req, parent);
        let name = name.as_bytes().to_vec();
        shared.looks_up(&name);
        self.dispatcher.run(operation, async move {
            let begun = shared.vfs.gate().epoch();
            let (ttl, attr) =
                match operation.unless_interrupted(shared.vfs.lookup(parent.0, &name)).await {
                    Ok(entry) => (entry.ttl, file_attr(&entry.attributes)),
                    Err(FsError::NotFound) if !shared.vfs.negative_ttl(parent.0).is_zero() => {
                        (shared.vfs.negative_ttl(parent.0), negative_attr())
                    }
                    Err(error) => return reply.error(shared.failed(operation, &error)),
                };
            shared.vfs.gate().reply(begun, |is_current| {
                let ttl = if is_current { ttl } else { Duration::ZERO };
                reply.entry(&ttl, &attr, Generation(0));
            });
        });
    }

    // The default batch_forget calls this for each inode.
    fn forget(&self, req: &Request, ino: INodeNo, nlookup: u64) {
        // Comes when the kernel likes, and is nobody's wait: not counted.
        let operation = Operation { name: "forget", ino: ino.0, pid: req.pid(), uid: req.uid() };
        let shared = &self.shared;
        self.dispatcher.now(operation, || {
            shared.vfs.forget(ino.0, nlookup);
            if let Some(backings) = &shared.backings {
                backings.forget(ino.0);
            }
        });
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let (operation, shared) = self.begin("getattr", req, ino);
        self.dispatcher.run(operation, async move {
            let begun = shared.vfs.gate().epoch();
            match operation.unless_interrupted(shared.vfs.getattr(ino.0)).await {
                Ok(entry) => shared.vfs.gate().reply(begun, |is_current| {
                    let ttl = if is_current { entry.ttl } else { Duration::ZERO };
                    reply.attr(&ttl, &file_attr(&entry.attributes));
                }),
                Err(error) => reply.error(shared.failed(operation, &error)),
            }
        });
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let (operation, shared) = self.begin("readlink", req, ino);
        self.dispatcher.run(operation, async move {
            match operation.unless_interrupted(shared.vfs.readlink(ino.0)).await {
                Ok(target) => reply.data(&target),
                Err(error) => reply.error(shared.failed(operation, &error)),
            }
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if asks_to_write(flags) {
            return reply.error(Errno::EROFS);
        }
        if self.opens_itself {
            return reply.error(Errno::ENOSYS);
        }
        let (operation, shared) = self.begin("open", req, ino);
        let passes_through = self.passes_through;
        self.dispatcher.run(operation, async move {
            match operation.unless_interrupted(shared.vfs.open(ino.0, operation.pid)).await {
                Ok(opened) => {
                    // Nothing is ever written: close needs no message.
                    let mut flags = FopenFlags::FOPEN_NOFLUSH;
                    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
                    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct_io);
                    let backings = shared.backings.as_ref();
                    // Reads past the page cache are one way by themselves.
                    let backings = backings.filter(|_| passes_through && !opened.direct_io);
                    let Some(backings) = backings else {
                        return reply.opened(FileHandle(opened.handle), flags);
                    };
                    match backings.open(ino.0, opened.whole.as_ref()) {
                        (handle, Way::Pages) => reply.opened(FileHandle(handle), flags),
                        (handle, Way::File(number)) => {
                            // SAFETY: registered with this connection, and not closed before the
                            // handle that is given here is taken back.
                            let backing = unsafe { reply.wrap_backing(number) };
                            let flags = FopenFlags::FOPEN_NOFLUSH;
                            reply.opened_passthrough(FileHandle(handle), flags, &backing);
                            // `backings` closes it.
                            backing.into_raw();
                        }
                    }
                }
                Err(error) => reply.error(shared.failed(operation, &error)),
            }
        });
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (operation, shared) = self.begin("read", req, ino);
        let size = size.min(MAX_READ);
        self.dispatcher.run(operation, async move {
            match operation
                .unless_interrupted(shared.vfs.read(ino.0, operation.pid, offset, size))
                .await
            {
                Ok(data) => reply.data(&data),
                Err(error) => reply.error(shared.failed(operation, &error)),
            }
        });
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // As with forget.
        let operation = Operation { name: "release", ino: ino.0, pid: req.pid(), uid: req.uid() };
        let shared = &self.shared;
        self.dispatcher.now(operation, || {
            shared.vfs.release(ino.0, fh.0);
            if let Some(backings) = &shared.backings {
                backings.close(ino.0, fh.0);
            }
        });
        reply.ok();
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.opens_directories_itself {
            return reply.error(Errno::ENOSYS);
        }
        let (operation, shared) = self.begin("opendir", req, ino);
        self.dispatcher.run(operation, async move {
            match operation.unless_interrupted(shared.vfs.opendir(ino.0)).await {
                // The kernel keeps the listing as long as the inode: it must be told when a
                // directory changes (`inval_inode`), as it must for entries and attributes.
                Ok(handle) => {
                    let keeps = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
                    let mut flags = FopenFlags::empty();
                    flags.set(keeps, shared.vfs.keeps_listing(ino.0));
                    reply.opened(FileHandle(handle), flags);
                }
                Err(error) => reply.error(shared.failed(operation, &error)),
            }
        });
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let (operation, shared) = self.begin("readdir", req, ino);
        self.dispatcher.run(operation, async move {
            let mut listing = PlainListing(Some(reply));
            let listed = operation
                .unless_interrupted(shared.vfs.readdir(ino.0, fh.0, offset, &mut listing))
                .await;
            if let (Err(error), Some(reply)) = (listed, listing.0.take()) {
                reply.error(shared.failed(operation, &error));
            }
        });
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let (operation, shared) = self.begin("readdirplus", req, ino);
        self.dispatcher.run(operation, async move {
            let mut listing = PlusListing(Some(reply));
            let listed = operation
                .unless_interrupted(shared.vfs.readdir(ino.0, fh.0, offset, &mut listing))
                .await;
            if let (Err(error), Some(reply)) = (listed, listing.0.take()) {
                reply.error(shared.failed(operation, &error));
            }
        });
    }

    fn releasedir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let (operation, shared) = self.begin("releasedir", req, ino);
        self.dispatcher.now(operation, || shared.vfs.releasedir(ino.0, fh.0));
        reply.ok();
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let (operation, shared) = self.begin("statfs", req, ino);
        self.dispatcher.run(operation, async move {
            match operation.unless_interrupted(shared.vfs.statfs(ino.0)).await {
                Ok(s) => reply.statfs(
                    s.blocks,
                    s.free_blocks,
                    s.free_blocks,
                    s.files,
                    s.free_files,
                    s.block_size,
                    s.name_len,
                    s.block_size,
                ),
                Err(error) => reply.error(shared.failed(operation, &error)),
            }
        });
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (operation, shared) = self.begin("getxattr", req, ino);
        let group = req.gid();
        if !shared.vfs.allows_attribute(ino.0, name.as_bytes(), group) {
            return reply.error(shared.failed(operation, &FsError::NoSuchAttribute));
        }
        if name == REQUESTS {
            let count = self.requests.load(Ordering::Relaxed).to_string();
            return reply_xattr(reply, count.as_bytes(), size);
        }
        let of_failures = || shared.failures.attribute(name.as_bytes());
        let known = shared.vfs.server_attribute(ino.0, name.as_bytes()).or_else(of_failures);
        if let Some(value) = known {
            return reply_xattr(reply, &value, size);
        }
        let name = name.as_bytes().to_vec();
        self.dispatcher.run(operation, async move {
            match operation.unless_interrupted(shared.vfs.getxattr(ino.0, &name, group)).await {
                Ok(value) => reply_xattr(reply, &value, size),
                Err(error) => reply.error(shared.failed(operation, &error)),
            }
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (operation, shared) = self.begin("listxattr", req, ino);
        let group = req.gid();
        self.dispatcher.run(operation, async move {
            match operation.unless_interrupted(shared.vfs.listxattr(ino.0, group)).await {
                Ok(names) => reply_xattr(reply, &names, size),
                Err(error) => reply.error(shared.failed(operation, &error)),
            }
        });
    }

    // ENOSYS is an answer for the whole mount: the kernel does not ask again and does what is right
    // for a read-only tree by itself. Writes it refuses on a read-only mount before it asks; a
    // mount that root made writable with `mount -o remount,rw` comes here.
    refuse! {
        /// The kernel checks mode bits (`default_permissions`).
        ENOSYS: access(&Request, INodeNo, AccessFlags) ReplyEmpty;
        /// Nothing to flush; close(2) succeeds.
        ENOSYS: flush(&Request, INodeNo, FileHandle, LockOwner) ReplyEmpty;
        /// Nothing to write; fsync(2) succeeds.
        ENOSYS: fsync(&Request, INodeNo, FileHandle, bool) ReplyEmpty;
        /// As [`Self::fsync`].
        ENOSYS: fsyncdir(&Request, INodeNo, FileHandle, bool) ReplyEmpty;
        /// The kernel answers SEEK_DATA and SEEK_HOLE for a file without holes.
        ENOSYS: lseek(&Request, INodeNo, FileHandle, i64, i32) ReplyLseek;
        /// No file here is a terminal or a device.
        ENOTTY: ioctl(&Request, INodeNo, FileHandle, IoctlFlags, u32, &[u8], u32) ReplyIoctl;
        /// A write.
        EROFS: setattr(
            &Request, INodeNo, Option<u32>, Option<u32>, Option<u32>, Option<u64>,
            Option<TimeOrNow>, Option<TimeOrNow>, Option<SystemTime>, Option<FileHandle>,
            Option<SystemTime>, Option<SystemTime>, Option<SystemTime>, Option<BsdFileFlags>
        ) ReplyAttr;
        /// A write.
        EROFS: mknod(&Request, INodeNo, &OsStr, u32, u32, u32) ReplyEntry;
        /// A write.
        EROFS: mkdir(&Request, INodeNo, &OsStr, u32, u32) ReplyEntry;
        /// A write.
        EROFS: unlink(&Request, INodeNo, &OsStr) ReplyEmpty;
        /// A write.
        EROFS: rmdir(&Request, INodeNo, &OsStr) ReplyEmpty;
        /// A write.
        EROFS: symlink(&Request, INodeNo, &OsStr, &Path) ReplyEntry;
        /// A write.
        EROFS: rename(&Request, INodeNo, &OsStr, INodeNo, &OsStr, RenameFlags) ReplyEmpty;
        /// A write.
        EROFS: link(&Request, INodeNo, INodeNo, &OsStr) ReplyEntry;
        /// A write.
        EROFS: write(
            &Request, INodeNo, FileHandle, u64, &[u8], WriteFlags, OpenFlags, Option<LockOwner>
        ) ReplyWrite;
        /// A write.
        EROFS: setxattr(&Request, INodeNo, &OsStr, &[u8], i32, u32) ReplyEmpty;
        /// A write.
        EROFS: removexattr(&Request, INodeNo, &OsStr) ReplyEmpty;
        /// A write.
        EROFS: create(&Request, INodeNo, &OsStr, u32, u32, i32) ReplyCreate;
        /// A write.
        EROFS: fallocate(&Request, INodeNo, FileHandle, u64, u64, i32) ReplyEmpty;
        /// A write.
        EROFS: copy_file_range(
            &Request, INodeNo, FileHandle, u64, INodeNo, FileHandle, u64, u64, CopyFileRangeFlags
        ) ReplyWrite;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_that_could_write() {
        for (flags, refused) in [
            (libc::O_RDONLY, false),
            (libc::O_RDONLY | libc::O_EXCL | libc::O_NONBLOCK | libc::O_NOATIME, false),
            (libc::O_RDONLY | libc::O_DIRECT | libc::O_CLOEXEC, false),
            (libc::O_WRONLY, true),
            (libc::O_RDWR, true),
            (libc::O_ACCMODE, true),
            (libc::O_RDONLY | libc::O_TRUNC, true),
            (-1, true),
        ] {
            assert_eq!(asks_to_write(OpenFlags(flags)), refused, "{flags:#o}");
        }
    }
}
