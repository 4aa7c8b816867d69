//! What a server gives up before it hears of the network: capabilities, new privileges, system calls.
//!
//! | module | what it holds |
//! |---|---|
//! | [`capabilities`] | which process keeps which capability, and why |
//! | [`calls`] | which system calls a server may make, and why |
//! | `filter` | the calls as programs of the kernel (seccomp) |
//!
//! A server enters the sandbox once, before its runtime has threads and before it opens a repository. What takes
//! more is done by others: [`crate::fuse::mounter`] mounts, the supervisor detaches the mount and ends its
//! connection, and limits of the process are set before.
//!
//! The sandbox is a second wall. It does not hide files: a server of uid 0 still owns what root owns. Where that
//! counts, `CVMFS_USER` lets another user serve.

pub mod calls;
pub mod capabilities;
mod filter;

use std::io;

use rustix::thread::CapabilitySet;

/// Which system calls of a server are refused: `CVMFS_FUSE_SECCOMP`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CallFilter {
    /// All that are not listed, if the kernel can; else the server warns.
    #[default]
    Default,
    /// All that are not listed; the mount fails unless all is given up that is not needed.
    Required,
    /// Those that nobody needs but an intruder. Others that are not listed are only logged by the kernel.
    Log,
    /// None.
    Off,
}

impl CallFilter {
    /// Reads the value of the parameter.
    pub fn parse(text: &str) -> Option<Self> {
        match crate::config::parameters::switch(text) {
            Some(true) => Some(Self::Required),
            Some(false) => Some(Self::Off),
            None => text.eq_ignore_ascii_case("log").then_some(Self::Log),
        }
    }
}

/// Why a process could not give up what it does not need.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel did not forbid to gain privileges.
    #[error("no_new_privs cannot be set")]
    NewPrivileges(#[source] io::Error),
    /// The kernel did not take capabilities away.
    #[error("capabilities cannot be dropped")]
    Capabilities(#[source] io::Error),
    /// The list of system calls is no valid filter.
    #[error("the filter of system calls cannot be made")]
    Program(#[source] seccompiler::BackendError),
    /// The kernel did not take the filter.
    #[error("the kernel does not take the filter of system calls (CVMFS_FUSE_SECCOMP)")]
    Filter(#[source] io::Error),
}

/// What a server keeps.
#[derive(Debug, Clone, Copy)]
pub struct Confinement {
    /// Its capabilities, as far as it has them.
    pub keep: CapabilitySet,
    /// Its system calls.
    pub calls: CallFilter,
}

impl Confinement {
    /// Does what takes root: another user cannot change what programs may gain.
    ///
    /// # Errors
    /// If the kernel refuses for another reason than that this process may not, and [`CallFilter::Required`] insists.
    pub fn begin(self) -> Result<(), SandboxError> {
        self.insist(capabilities::bound(CapabilitySet::empty()).map_err(SandboxError::Capabilities))
    }

    /// Gives up the rest, for this thread and all that it starts.
    ///
    /// Capabilities belong to threads: those that live already keep theirs, see
    /// [`capabilities::drop_in_this_thread`]. The filter is set for all of them.
    ///
    /// # Errors
    /// If something cannot be given up, and [`CallFilter::Required`] insists; otherwise that is a warning, because
    /// a container may forbid the call, and the mount matters more to who did not ask for this.
    pub fn enter(self) -> Result<(), SandboxError> {
        let privileges = rustix::thread::set_no_new_privs(true);
        self.insist(privileges.map_err(|error| SandboxError::NewPrivileges(error.into())))?;
        let dropped = capabilities::restrict(self.keep, CapabilitySet::empty());
        self.insist(dropped.map_err(SandboxError::Capabilities))?;
        let passes_through = self.keep.contains(CapabilitySet::SYS_ADMIN);
        self.insist(match self.calls {
            CallFilter::Off => Ok(()),
            CallFilter::Log => filter::install(passes_through, filter::Unlisted::Logged),
            CallFilter::Default | CallFilter::Required => {
                filter::install(passes_through, filter::Unlisted::Refused)
            }
        })
    }

    fn insist(self, given_up: Result<(), SandboxError>) -> Result<(), SandboxError> {
        match given_up {
            Err(error) if self.calls != CallFilter::Required => {
                let reason = cvmfs_core::chain::chain(&error);
                tracing::warn!(reason, "this server keeps rights that it does not need");
                Ok(())
            }
            given_up => given_up,
        }
    }
}

#[cfg(test)]
mod tests;
