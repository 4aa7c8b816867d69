//! What we ask of the kernel when a connection begins (INIT).

use fuser::{InitFlags, KernelConfig};

/// Read-ahead and largest read request, measured best in facts/fuse.md. The kernel's own limit
/// may be lower; `session` raises it where it may.
pub(super) const MAX_READAHEAD: u32 = 1 << 20;
/// Read-ahead requests the kernel may have under way; 16, the default, leaves a fast server idle.
const MAX_BACKGROUND: u16 = 64;
/// Above this number the kernel stops starting new read-ahead: three quarters, as libfuse does.
const CONGESTION_THRESHOLD: u16 = 48;
/// Writes are refused; but the kernel has one limit of pages for requests of both directions, and
/// fuser asks for the larger of this and the read-ahead the kernel offered (128 KiB).
const MAX_WRITE: u32 = MAX_READAHEAD;

/// Wished for, taken as far as the kernel has them. Locks are not among them: the kernel then
/// keeps flock and fcntl locks itself, local to the machine.
const CAPABILITIES: [InitFlags; 5] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_PARALLEL_DIROPS,
    // Without FUSE_READDIRPLUS_AUTO, which lists what comes after the first 32 KiB of a directory by
    // names only until one of them is looked up. find, tar and ls -l list all of it before that, and
    // then ask for each.
    InitFlags::FUSE_DO_READDIRPLUS,
    // Safe, because an inode number stands for one version of one link.
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_MAX_PAGES,
];

/// Asks for all that this kernel has of it.
pub(super) fn negotiate(config: &mut KernelConfig) {
    for capability in CAPABILITIES {
        if config.add_capabilities(capability).is_err() {
            tracing::debug!(?capability, "not known to this kernel");
        }
    }
    // Each setter refuses what the kernel cannot, and names the nearest value it can.
    if let Err(nearest) = config.set_max_readahead(MAX_READAHEAD) {
        let _ = config.set_max_readahead(nearest);
    }
    if let Err(nearest) = config.set_max_write(MAX_WRITE) {
        let _ = config.set_max_write(nearest);
    }
    let _ = config.set_max_background(MAX_BACKGROUND);
    let _ = config.set_congestion_threshold(CONGESTION_THRESHOLD);
}
