//! Tries to mount, in a child that leaves nothing: there is no way back from a user namespace, and
//! what forbids it shows in the attempt only.

use std::ffi::CString;
use std::io::{self, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

use super::diagnosis::{Step, errno_of};
use super::namespaces::{Identity, Refusal, own_mount_namespace, own_user_namespace};
use crate::fuse::mount::open_device;

/// How this program comes to its mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It has CAP_SYS_ADMIN, and mounts where it is.
    Here,
    /// It has CAP_SYS_ADMIN, and mounts in a mount namespace of its own.
    OwnMounts,
    /// It is root of a user namespace of its own.
    OwnUser,
}

/// How long the attempt may take; it takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// The steps, in the order of their numbers on the pipe.
const STEPS: [Step; 3] = [Step::Namespace, Step::Identity, Step::Mount];

/// Tries a way; the process must have one thread.
///
/// # Errors
/// If no attempt can be made.
pub fn attempt(way: Way, caller: Identity) -> io::Result<Result<(), Refusal>> {
    let (mut reader, writer) = io::pipe()?;
    // SAFETY: this process has one thread, so the child finds no lock held by another one.
    let child = match unsafe { fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            report(writer, mount_once(way, caller));
            // SAFETY: ends the child at once; destructors are the parent's business.
            unsafe { libc::_exit(0) }
        }
    };
    drop(writer);
    let mut descriptors = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(DEADLINE).unwrap_or(PollTimeout::MAX);
    let ready = poll(&mut descriptors, timeout);
    let mut told = [0; 2];
    let read = match ready {
        Ok(1..) => reader.read_exact(&mut told),
        _ => kill(child, Signal::SIGKILL).map_err(io::Error::from),
    };
    waitpid(child, None)?;
    read?;
    let [step, errno] = told.map(usize::from);
    Ok(match step.checked_sub(1).and_then(|at| STEPS.get(at)) {
        None => Ok(()),
        Some(&step) => {
            let errno = Errno::from_raw(i32::try_from(errno).unwrap_or(0));
            Err(Refusal { step, errno })
        }
    })
}

fn report(mut pipe: PipeWriter, outcome: Result<(), Refusal>) {
    let bytes = outcome.err().map_or([0, 0], |refusal| {
        let step = STEPS.iter().position(|&step| step == refusal.step).unwrap_or(0);
        [step + 1, usize::try_from(refusal.errno as i32).unwrap_or(0)]
    });
    // A parent that is gone needs no answer.
    let _ = pipe.write_all(&bytes.map(|number| u8::try_from(number).unwrap_or(u8::MAX)));
}

/// Mounts FUSE over the root of a namespace that goes with this process. Nobody answers there, and
/// nobody asks: the connection ends with the descriptor.
fn mount_once(way: Way, caller: Identity) -> Result<(), Refusal> {
    match way {
        Way::Here | Way::OwnMounts => own_mount_namespace()?,
        Way::OwnUser => own_user_namespace(caller)?,
    }
    let refused = |errno| Refusal { step: Step::Mount, errno };
    let device = open_device().map_err(|error| refused(errno_of(&error)))?;
    let user = nix::unistd::geteuid();
    let group = nix::unistd::getegid();
    let fd = device.as_raw_fd();
    let data = format!("fd={fd},rootmode=40000,user_id={user},group_id={group}");
    let data = CString::new(data).map_err(|_| refused(Errno::EINVAL))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    nix::mount::mount(Some("cvmfs-fuse"), "/", Some("fuse"), flags, Some(data.as_c_str()))
        .map_err(refused)
}
