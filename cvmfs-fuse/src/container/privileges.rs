//! Giving up every privilege, between fork and exec.

use std::io;

use rustix::thread::CapabilitySet;

use crate::sandbox::capabilities;

/// Number of the capability to mount (linux/capability.h).
pub(super) const CAP_SYS_ADMIN: u32 = 21;

/// Empties all sets of capabilities, the bounding set as well, and forbids to gain any by exec.
/// Only system calls are made: it may be called between fork and exec.
pub(super) fn drop_all() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    capabilities::restrict(CapabilitySet::empty(), CapabilitySet::empty())
}
