//! Signals as events: none of them interrupts anything, each is read from a descriptor.

use std::io;

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Not for forwarding: they concern this process itself, or cannot be caught.
const LEFT_ALONE: [Signal; 10] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGSYS,
    Signal::SIGABRT,
    // Job control: the shell that started us stops and continues all of the job.
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// `SI_KERNEL` of sigaction(2).
const FROM_KERNEL: i32 = 0x80;

/// One signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrived {
    /// Its number; real-time signals have no name.
    pub(super) number: i32,
    /// The terminal sent it, to all processes of the foreground group at once.
    pub(super) from_terminal: bool,
}

impl Arrived {
    /// Whether it asks a process without a command to end.
    pub(super) fn ends(self) -> bool {
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT]
            .iter()
            .any(|&signal| signal as i32 == self.number)
    }
}

/// All signals of this process from now on.
#[derive(Debug)]
pub(super) struct Signals {
    descriptor: SignalFd,
    /// What was blocked before; children start with it.
    pub(super) before: SigSet,
}

impl Signals {
    /// Blocks all signals. The process must have one thread.
    pub(super) fn block() -> io::Result<Self> {
        // Somebody may have had his children reaped by the kernel; we need to know how they end.
        // SAFETY: the default action is no code of ours.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
        let mut all = SigSet::all();
        for left in LEFT_ALONE {
            all.remove(left);
        }
        let before = all.thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self { descriptor: SignalFd::with_flags(&all, flags)?, before })
    }

    /// Returns the descriptor that is readable when one has arrived.
    pub(super) fn descriptor(&self) -> &SignalFd {
        &self.descriptor
    }

    /// Returns the next one, if one is there.
    pub(super) fn next(&self) -> io::Result<Option<Arrived>> {
        let Some(info) = self.descriptor.read_signal()? else { return Ok(None) };
        let number = i32::try_from(info.ssi_signo).unwrap_or(0);
        Ok(Some(Arrived { number, from_terminal: info.ssi_code == FROM_KERNEL }))
    }
}
