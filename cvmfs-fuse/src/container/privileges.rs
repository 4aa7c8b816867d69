//! Giving up every privilege, between fork and exec.

use std::io;

use nix::errno::Errno;

/// Number of the capability to mount (linux/capability.h).
pub(super) const CAP_SYS_ADMIN: u32 = 21;
/// One after the highest number that the kernel's sets have room for.
const CAPABILITY_BITS: libc::c_ulong = 64;
/// `_LINUX_CAPABILITY_VERSION_3`: two words for each set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Empties all sets of capabilities, the bounding set as well, and forbids to gain any by exec.
/// Only system calls are made: it may be called between fork and exec.
pub(super) fn drop_all() -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    for capability in 0..CAPABILITY_BITS {
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(()) => {}
            // There are no more.
            Err(Errno::EINVAL) => break,
            // Not ours to change. Then no_new_privs alone keeps exec from giving any.
            Err(Errno::EPERM) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    match prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong) {
        // Kernels before 4.3 have no such set.
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(errno) => return Err(errno.into()),
    }
    let header = Header { version: CAPABILITY_VERSION, pid: 0 };
    let none = [Sets { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: both structures are those of capset(2) for this version, which only reads them.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> Result<(), Errno> {
    let zero: libc::c_ulong = 0;
    // SAFETY: these options take numbers only.
    Errno::result(unsafe { libc::prctl(option, argument, zero, zero, zero) }).map(drop)
}
