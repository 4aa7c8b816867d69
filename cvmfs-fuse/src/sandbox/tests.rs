//! A child of the test enters the sandbox and tries what an intruder would.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};

use rustix::thread::CapabilitySet;

use super::{CallFilter, Confinement};

/// Names for the child what it shall try.
const ATTEMPT: &str = "CVMFS_FUSE_TEST_ATTEMPT";
/// How a child ends whose attempt succeeded, or failed in another way than it should.
const SUCCEEDED: i32 = 90;
const REFUSED: i32 = 91;
const OTHERWISE: i32 = 92;

/// What an intruder would do, and for which the process is killed.
const FATAL: [&str; 9] =
    ["execve", "ptrace", "mount", "umount", "unshare", "setns", "setresuid", "fsopen", "bpf"];
/// What is refused.
const REFUSED_CALLS: [&str; 11] = [
    "fork",
    "user namespace",
    "raw socket",
    "netlink",
    "io_uring",
    "code",
    "ioctl",
    "kill others",
    "read others",
    "own signals",
    "send signals",
];
/// What a server does.
const ALLOWED: [&str; 6] = ["thread", "file", "connection", "memory", "kill itself", "own limits"];

/// Makes a system call without libc's understanding of it, and ends as its outcome says.
fn attempt(number: libc::c_long, arguments: [libc::c_long; 5]) -> i32 {
    let [a, b, c, d, e] = arguments;
    // SAFETY: all calls made here are refused, or take numbers only: no pointer is given but null.
    match unsafe { libc::syscall(number, a, b, c, d, e) } {
        -1 if std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) => REFUSED,
        -1 => OTHERWISE,
        _ => SUCCEEDED,
    }
}

fn try_what(what: &str) -> i32 {
    let flag = |flag: libc::c_int| libc::c_long::from(flag);
    let plain = |number| attempt(number, [0; 5]);
    match what {
        "execve" => plain(libc::SYS_execve),
        "ptrace" => plain(libc::SYS_ptrace),
        "mount" => plain(libc::SYS_mount),
        "umount" => plain(libc::SYS_umount2),
        "unshare" => attempt(libc::SYS_unshare, [flag(libc::CLONE_NEWUSER), 0, 0, 0, 0]),
        "setns" => plain(libc::SYS_setns),
        "setresuid" => plain(libc::SYS_setresuid),
        "fsopen" => plain(libc::SYS_fsopen),
        "bpf" => plain(libc::SYS_bpf),
        "fork" => attempt(libc::SYS_clone, [flag(libc::SIGCHLD), 0, 0, 0, 0]),
        "user namespace" => {
            let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
            attempt(libc::SYS_clone, [flag(flags), 0, 0, 0, 0])
        }
        "raw socket" => {
            let (family, kind) = (flag(libc::AF_INET), flag(libc::SOCK_RAW));
            attempt(libc::SYS_socket, [family, kind, flag(libc::IPPROTO_ICMP), 0, 0])
        }
        "netlink" => {
            let (family, kind) = (flag(libc::AF_NETLINK), flag(libc::SOCK_DGRAM));
            attempt(libc::SYS_socket, [family, kind, 0, 0, 0])
        }
        "io_uring" => attempt(libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
        "code" => {
            let protection = flag(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC);
            let flags = flag(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            attempt(libc::SYS_mmap, [0, 4096, protection, flags, -1])
        }
        // TIOCSTI, which types into a terminal.
        "ioctl" => attempt(libc::SYS_ioctl, [0, 0x5412, 0, 0, 0]),
        "read others" => attempt(libc::SYS_process_vm_readv, [1, 0, 0, 0, 0]),
        // A descriptor that signals its owner, whoever that is, and one that does so when something arrives.
        "own signals" => attempt(libc::SYS_fcntl, [0, flag(libc::F_SETOWN), 1, 0, 0]),
        "send signals" => {
            attempt(libc::SYS_fcntl, [0, flag(libc::F_SETFL), flag(libc::O_ASYNC), 0, 0])
        }
        "kill others" => attempt(libc::SYS_kill, [1, 0, 0, 0, 0]),
        "thread" => match std::thread::spawn(|| 7).join() {
            Ok(7) => SUCCEEDED,
            _ => OTHERWISE,
        },
        "file" => match tempfile::tempdir().map(|dir| std::fs::write(dir.path().join("x"), "y")) {
            Ok(Ok(())) => SUCCEEDED,
            _ => OTHERWISE,
        },
        "connection" => match std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| std::net::TcpStream::connect(listener.local_addr()?))
        {
            Ok(_) => SUCCEEDED,
            Err(_) => OTHERWISE,
        },
        "memory" => {
            let many = vec![1_u8; 64 << 20];
            if many.iter().all(|one| *one == 1) { SUCCEEDED } else { OTHERWISE }
        }
        "kill itself" => {
            attempt(libc::SYS_kill, [libc::c_long::from(std::process::id()), 0, 0, 0, 0])
        }
        "own limits" => {
            match nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
                Ok(_) => SUCCEEDED,
                Err(_) => OTHERWISE,
            }
        }
        _ => OTHERWISE,
    }
}

/// The child.
#[test]
#[ignore = "started by others"]
#[allow(clippy::disallowed_methods, reason = "libtest leaves no other way to tell a child")]
fn inside() {
    let Ok(what) = std::env::var(ATTEMPT) else { return };
    Confinement { keep: CapabilitySet::empty(), calls: CallFilter::Required }.enter().unwrap();
    let outcome = try_what(&what);
    // SAFETY: ends the process at once; nothing of it is needed any more.
    unsafe { libc::_exit(outcome) };
}

fn outcome_of(what: &str) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sandbox::tests::inside", "--ignored", "--test-threads=1"])
        .env(ATTEMPT, what)
        .output()
        .unwrap()
        .status
}

#[test]
fn low_an_intruder_starts_no_program_mounts_nothing_and_traces_nobody() {
    for what in FATAL {
        let outcome = outcome_of(what);
        assert_eq!(outcome.signal(), Some(libc::SIGSYS), "{what}: {outcome}");
    }
    for what in REFUSED_CALLS {
        assert_eq!(outcome_of(what).code(), Some(REFUSED), "{what}");
    }
    for what in ALLOWED {
        assert_eq!(outcome_of(what).code(), Some(SUCCEEDED), "{what}");
    }
}

#[test]
fn the_parameter_says_what_is_asked_for() {
    for (text, expected) in [
        ("yes", Some(CallFilter::Required)),
        ("no", Some(CallFilter::Off)),
        ("LOG", Some(CallFilter::Log)),
        ("perhaps", None),
        ("", None),
    ] {
        assert_eq!(CallFilter::parse(text), expected, "{text}");
    }
}
