//! What is set for a server as a process: its memory, its descriptors, and where it runs.

use std::ffi::CStr;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

use crate::config::parameters::ProcessLimits;

/// Open files we ask for, as upstream's default CVMFS_NFILES; each file in use holds one.
const OPEN_FILES: u64 = 131_072;
/// Parts of the heap: one for the workers, one for those that fetch. Small pieces are kept by each thread
/// anyway, so more of them were not faster.
const MAX_ARENAS: libc::c_int = 2;
/// Pieces above this are mapped, and given back at once. Above the buffers of reads, which are used again.
const MAPPED_ABOVE: libc::c_int = 2 << 20;
/// What the end of the heap may keep.
const MAX_FREE: libc::c_int = 512 << 10;
/// What `ps` shows, and by which `umount` knows us; background processes start as /proc/self/exe.
const PROCESS_NAME: &CStr = c"cvmfs-fuse";

/// Settings of the whole process, before it has threads and while it may be root; what is refused is not needed.
pub(super) fn prepare(limits: &ProcessLimits) {
    limit_heap();
    if let Err(error) = nix::sys::prctl::set_name(PROCESS_NAME) {
        tracing::debug!(%error, "cannot set the process name");
    }
    // fuser's workers each have a 16 MiB buffer of which they touch the first page; a huge page
    // would make 2 MiB of that resident.
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "huge pages stay enabled");
    }
    open_files(limits.open_files);
    if let Some(score) = limits.oom_score
        && let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string())
    {
        tracing::warn!(%error, score, "CVMFS_OOM_SCORE_ADJ has no effect");
    }
    if !limits.processors.is_empty()
        && let Err(error) = stay_on(&limits.processors)
    {
        tracing::warn!(%error, processors = ?limits.processors, "CVMFS_CPU_AFFINITY has no effect");
    }
}

/// Keeps what is in the memory of this process, such as passwords of proxies and content that others may not
/// read, from core dumps and from other processes of the same user. A site may ask for core dumps.
///
/// To be called when nothing below `/proc/self` is to be written any more: it belongs to root then.
pub(super) fn keep_memory_private(limits: &ProcessLimits) {
    if limits.core_dumps {
        // The kernel forbids it where a process changed its user.
        if let Err(error) = nix::sys::prctl::set_dumpable(true) {
            tracing::warn!(%error, "CVMFS_FUSE_CORE_DUMPS has no effect");
        }
        return;
    }
    // Each keeps the kernel from writing a file; a program that collects dumps heeds the second only.
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        tracing::debug!(%error, "the limit of core dumps stays");
    }
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "the memory of this process can be dumped");
    }
}

/// Lets the C library's allocator keep less. By default each thread has a part of its own, and none gives
/// back what is free once a buffer as large as those of fuser's workers (16 MiB) has come and gone.
#[cfg(target_env = "gnu")]
fn limit_heap() {
    // SAFETY: these only set numbers of the allocator, before this process has other threads.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, MAX_ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_ABOVE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, MAX_FREE);
    }
}

#[cfg(not(target_env = "gnu"))]
fn limit_heap() {}

/// As many as wanted, where the system allows it. Only what a site asks for raises root's own bound: whoever
/// starts a container may have set it on purpose.
fn open_files(stated: Option<u64>) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if let Some(stated) = stated.filter(|stated| *stated > hard)
        && setrlimit(Resource::RLIMIT_NOFILE, stated, stated).is_ok()
    {
        return;
    }
    let reachable = stated.unwrap_or(OPEN_FILES).min(hard);
    if soft < reachable
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, reachable, hard)
    {
        tracing::warn!(%error, soft, "cannot raise the limit of open files");
    }
}

fn stay_on(processors: &[usize]) -> nix::Result<()> {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)
}
