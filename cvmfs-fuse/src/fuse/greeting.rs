//! What we ask of the kernel when a connection begins (INIT).
//!
//! A successor asks for what its predecessor got, also where this program would ask for something else by
//! now, so that programs can be upgraded under a live mount.

use fuser::{InitFlags, KernelConfig};

/// Read-ahead and largest read request, measured best in facts/fuse.md. The kernel's own limit
/// may be lower; `session` raises it where it may.
pub(super) const MAX_READAHEAD: u32 = 1 << 20;
/// Read-ahead requests the kernel may have under way, of all users of a mount together; 16, the
/// default, leaves a fast server idle. The kernel's queue is not fair: where one user's slow reads
/// fill it, those of all others wait. So it is long; the daemon shares out what is scarce.
const MAX_BACKGROUND: u16 = 1024;
/// Above this number the kernel stops starting new read-ahead: three quarters, as libfuse does.
const CONGESTION_THRESHOLD: u16 = 768;
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

/// What this program can serve with, though it does not ask for it: earlier versions did, or a setting
/// does.
const ACCEPTED: InitFlags = InitFlags::FUSE_READDIRPLUS_AUTO
    .union(InitFlags::FUSE_PASSTHROUGH)
    .union(InitFlags::FUSE_POSIX_ACL);

/// Backing files may not be on a stacked file system, so that others can be stacked on ours.
const STACK_DEPTH: u32 = 1;

/// What was agreed on with the kernel when a connection began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    max_readahead: u32,
    flags: InitFlags,
    max_background: u16,
    congestion_threshold: u16,
    max_write: u32,
}

impl Terms {
    /// Reads an answer to INIT: `struct fuse_out_header` and `struct fuse_init_out`.
    pub(super) fn of(reply: &[u8]) -> Option<Self> {
        let long = |at: usize| Some(u32::from_le_bytes(*reply.get(at..)?.first_chunk()?));
        let short = |at: usize| Some(u16::from_le_bytes(*reply.get(at..)?.first_chunk()?));
        let flags = u64::from(long(28)?) | u64::from(long(48)?) << 32;
        Some(Self {
            max_readahead: long(24)?,
            flags: InitFlags::from_bits_retain(flags),
            max_background: short(32)?,
            congestion_threshold: short(34)?,
            max_write: long(36)?,
        })
    }

    /// Tells whether the kernel reads files without us.
    pub(super) fn pass_through(&self) -> bool {
        self.flags.contains(InitFlags::FUSE_PASSTHROUGH)
    }
}

/// Asks for what a predecessor got. What this program cannot serve with is left out, and its answer is then
/// not that of the predecessor.
pub(super) fn repeat(config: &mut KernelConfig, terms: &Terms) {
    let known = CAPABILITIES.iter().fold(ACCEPTED, |all, flag| all.union(*flag));
    let _ = config.add_capabilities(terms.flags & known & config.capabilities());
    if terms.pass_through() {
        let _ = config.set_max_stack_depth(STACK_DEPTH);
    }
    let _ = config.set_max_readahead(terms.max_readahead);
    let _ = config.set_max_write(terms.max_write);
    let _ = config.set_max_background(terms.max_background);
    let _ = config.set_congestion_threshold(terms.congestion_threshold);
}

/// Lets the kernel enforce the ACLs that are stored with files, which it then asks for once for each inode.
pub(super) fn enforce_acls(config: &mut KernelConfig) -> std::io::Result<()> {
    config.add_capabilities(InitFlags::FUSE_POSIX_ACL).map_err(|_| {
        let why = "CVMFS_ENFORCE_ACLS: this kernel enforces no ACLs for FUSE (4.9 does)";
        std::io::Error::new(std::io::ErrorKind::Unsupported, why)
    })
}

/// Asks for all that this kernel has of it; returns whether it will read files without us, if that is
/// wished for.
pub(super) fn negotiate(config: &mut KernelConfig, pass_through: bool) -> bool {
    let passes_through =
        pass_through && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
    if passes_through {
        let _ = config.set_max_stack_depth(STACK_DEPTH);
    }
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
    passes_through
}
