//! State that a process inherits from whoever starts it, and that a server of mounts cannot work with.
//!
//! | inherited | fault without this module | here |
//! |---|---|---|
//! | `SIGCHLD` ignored | a supervisor is not told that its server died | default |
//! | other signals ignored | a request to stop is lost | default, but for those that are ignored on purpose: [`KEPT`] |
//! | signals blocked | only SIGKILL ends the process | unblocked |
//! | `RLIMIT_FSIZE` | SIGXFSZ kills the server | raised as far as allowed; beyond, a write fails with EFBIG, as on a full disk |
//! | `RLIMIT_STACK` | the first thread overflows its stack | raised to 8 MiB, as far as allowed |
//! | other limits | memory, processor time or threads run out | raised as far as allowed |
//! | umask 0 | others can write to what is made | at least 022 |
//! | umask 0777 | this program cannot read what it made | the owner's bits are cleared |
//!
//! Closed standard descriptors are opened on `/dev/null` by the start code of Rust. A command of the user
//! (`run`, `enter`, `profile record`) gets back what was inherited, but for an ignored SIGPIPE, which the start code of
//! Rust has overwritten: [`restore`].

use std::io;
use std::sync::OnceLock;

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal};
use nix::sys::stat::{Mode, umask};

/// Signals that stay ignored: `nohup` and shells without job control ignore them for a reason, and writes to
/// closed pipes are errors in Rust.
const KEPT: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGPIPE,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// Limits that are raised from the soft to the hard one. Open files are left to the settings of a server.
const RAISED: [Resource; 5] = [
    Resource::RLIMIT_FSIZE,
    Resource::RLIMIT_CPU,
    Resource::RLIMIT_AS,
    Resource::RLIMIT_DATA,
    Resource::RLIMIT_NPROC,
];

/// Stack of the first thread: the usual limit. Without any limit the kernel would lay out the memory of what is
/// started differently.
const STACK: rlim_t = 8 << 20;

/// Bits that nobody but the owner gets on what is made without a mode of its own.
const WRITE_BY_OTHERS: u32 = 0o022;
/// Bits of the owner.
const OWNER: u32 = 0o700;

/// State of this process before [`adjust`].
#[derive(Debug)]
struct Inherited {
    ignored: Vec<Signal>,
    mask: SigSet,
    umask: Mode,
    limits: Vec<(Resource, rlim_t, rlim_t)>,
}

static INHERITED: OnceLock<Inherited> = OnceLock::new();

/// Puts signals, limits and umask of this process right. To be called first, before there are threads.
pub fn adjust() {
    // What cannot be asked or set is left as it is: none of it is needed in the usual case.
    let inherited = Inherited {
        ignored: Signal::iterator().filter(|signal| is_ignored(*signal)).collect(),
        mask: SigSet::empty().thread_swap_mask(SigmaskHow::SIG_SETMASK).unwrap_or(SigSet::empty()),
        umask: umask(Mode::empty()),
        limits: RAISED
            .into_iter()
            .chain([Resource::RLIMIT_STACK])
            .filter_map(|limit| getrlimit(limit).ok().map(|(soft, hard)| (limit, soft, hard)))
            .collect(),
    };
    let bits = inherited.umask.bits() & !OWNER | WRITE_BY_OTHERS;
    umask(Mode::from_bits_truncate(bits));
    for &(limit, soft, hard) in &inherited.limits {
        let wanted = if limit == Resource::RLIMIT_STACK { hard.min(STACK) } else { hard };
        if soft < wanted {
            let _ = setrlimit(limit, wanted, hard);
        }
    }
    for &ignored in inherited.ignored.iter().filter(|signal| !KEPT.contains(signal)) {
        set(ignored, SigHandler::SigDfl);
    }
    // So that a write beyond the limit is an error of that write.
    set(Signal::SIGXFSZ, SigHandler::SigIgn);
    let _ = INHERITED.set(inherited);
}

/// Gives a process between fork and exec what this one inherited.
///
/// Makes system calls only, so it may be called from `pre_exec`.
pub(crate) fn restore() -> io::Result<()> {
    let Some(inherited) = INHERITED.get() else { return Ok(()) };
    set(Signal::SIGXFSZ, SigHandler::SigDfl);
    for &ignored in inherited.ignored.iter().filter(|signal| **signal != Signal::SIGPIPE) {
        set(ignored, SigHandler::SigIgn);
    }
    for &(limit, soft, hard) in &inherited.limits {
        setrlimit(limit, soft, hard)?;
    }
    umask(inherited.umask);
    inherited.mask.thread_set_mask()?;
    Ok(())
}

/// Sets how a signal is handled: never by code of ours.
fn set(which: Signal, handler: SigHandler) {
    // SAFETY: neither of the two handlers used here runs any code.
    let _ = unsafe { signal(which, handler) };
}

fn is_ignored(signal: Signal) -> bool {
    let mut present = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action sigaction(2) only writes the present one to the place given, which is
    // large enough; zero bytes are a valid value of that plain structure.
    let present = unsafe {
        if libc::sigaction(signal as libc::c_int, std::ptr::null(), present.as_mut_ptr()) != 0 {
            return false;
        }
        present.assume_init()
    };
    present.sa_sigaction == libc::SIG_IGN
}
