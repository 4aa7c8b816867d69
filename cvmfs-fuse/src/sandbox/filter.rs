//! The list of system calls as programs of the kernel (seccomp(2)).
//!
//! | program | calls | answer |
//! |---|---|---|
//! | fatal | what only an intruder asks for | the process is killed |
//! | avoided | what the C library tries first and does without | ENOSYS |
//! | allowed | what is not listed | ENOSYS, and a line in the log of the kernel |
//!
//! The kernel runs all of them and takes the strictest answer. ENOSYS is what an old kernel says: the C library,
//! the runtime and SQLite answer it with an older call. The line (`type=1326`, in the kernel log or the audit log)
//! has the number of the call.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::SandboxError;
use super::calls::{self, Argument, Call, Test};

/// What happens to calls that are not listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unlisted {
    /// They fail with ENOSYS.
    Refused,
    /// They work, and the kernel logs them.
    Logged,
}

/// Bits of a flag of seccomp(2).
type Flags = libc::c_ulong;

/// Sets the programs for all threads of this process.
pub(super) fn install(passes_through: bool, unlisted: Unlisted) -> Result<(), SandboxError> {
    let process = std::process::id();
    let allowed = calls::allowed(process, passes_through);
    let action = match unlisted {
        Unlisted::Refused => SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
        Unlisted::Logged => SeccompAction::Log,
    };
    let unknown = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    // The last one forbids to set another one.
    for (program, log) in [
        (program(calls::fatal(), SeccompAction::Allow, SeccompAction::KillProcess)?, 0),
        (program(calls::avoided(), SeccompAction::Allow, unknown)?, 0),
        (program(allowed, action, SeccompAction::Allow)?, libc::SECCOMP_FILTER_FLAG_LOG),
    ] {
        set(&program, log).map_err(SandboxError::Filter)?;
    }
    Ok(())
}

/// Makes a program that answers `listed` to the calls of the list and `otherwise` to all others.
fn program(
    list: Vec<Call>,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, SandboxError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for Call { number, arguments } in list {
        let of_call = rules.entry(number).or_default();
        if !arguments.is_empty() {
            let tests = arguments.into_iter().map(condition).collect::<Result<_, _>>();
            let rule = tests.and_then(SeccompRule::new).map_err(SandboxError::Program)?;
            of_call.push(rule);
        }
    }
    let arch = std::env::consts::ARCH;
    let arch = TargetArch::try_from(arch).map_err(SandboxError::Program)?;
    SeccompFilter::new(rules, otherwise, listed, arch)
        .and_then(BpfProgram::try_from)
        .map_err(SandboxError::Program)
}

fn condition(
    Argument { index, test }: Argument,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    let (length, operator, value) = match test {
        Test::Is(value) => (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(value)),
        Test::Masked(mask, value) => (SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value),
    };
    SeccompCondition::new(index, length, operator, value)
}

/// Without SPEC_ALLOW, kernels before 5.16 make the whole process slower: they take a filter for a sign that it
/// runs code of strangers.
fn set(program: &BpfProgram, log: Flags) -> io::Result<()> {
    const FULL: Flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    match set_with(program, FULL | log) {
        // Linux before 4.17.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            set_with(program, libc::SECCOMP_FILTER_FLAG_TSYNC)
        }
        done => done,
    }
}

fn set_with(program: &BpfProgram, flags: Flags) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    // The two structures are the same by definition; the kernel only reads.
    let filter = program.as_ptr().cast::<libc::sock_filter>().cast_mut();
    let program = libc::sock_fprog { len: length, filter };
    // SAFETY: `program` points to `length` instructions, which live for the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::c_long::from(libc::SECCOMP_SET_MODE_FILTER),
            flags,
            &raw const program,
        )
    };
    match done {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        thread => Err(io::Error::other(format!("thread {thread} has a filter of its own"))),
    }
}
