//! Which system calls a server may make once its mount is prepared, in groups with a reason each.
//!
//! Left out on purpose, beside [`fatal`] and [`avoided`]: `tkill` and `rt_sigqueueinfo` (they reach other processes of the same user),
//! `io_uring_*` (its calls pass no filter), `vmsplice`, `userfaultfd`, `pidfd_*`, `open_by_handle_at`.

use libc::c_long;

/// One call, for arguments that pass all tests; without tests for any.
#[derive(Debug, Clone)]
pub struct Call {
    pub(super) number: c_long,
    pub(super) arguments: Vec<Argument>,
}

/// A test of one argument.
#[derive(Debug, Clone, Copy)]
pub(super) struct Argument {
    pub(super) index: u8,
    pub(super) test: Test,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Test {
    /// The lower 32 bits are this number.
    Is(u32),
    /// The bits of the mask are these.
    Masked(u64, u64),
}

/// Memory, threads and time: the C library and the runtime.
const PROCESS: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_futex,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_restart_syscall,
    // The session of the caller is left when the mount is usable.
    libc::SYS_setsid,
    // The process that mounted is waited for.
    libc::SYS_wait4,
    libc::SYS_waitid,
];

/// Who and where we are, and how much we use: the log, metrics, status.
const KNOWLEDGE: &[c_long] = &[
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    // As whom a thread touches files: without capabilities only ids that the process has can be set.
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_getpgid,
    libc::SYS_getsid,
    libc::SYS_getrusage,
    libc::SYS_times,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getcwd,
    libc::SYS_getpriority,
];

/// Handlers of our own signals.
const SIGNALS: &[c_long] = &[
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigsuspend,
    libc::SYS_sigaltstack,
];

/// Open descriptors: the kernel's requests, objects, the index, connections.
const DESCRIPTORS: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_msync,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_fadvise64,
    libc::SYS_readahead,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    libc::SYS_memfd_create,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
];

/// Files by name: cache, log, workspace, configuration, /proc.
const FILES: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_truncate,
    libc::SYS_umask,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_fgetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_fremovexattr,
];

/// Connections of the families of [`FAMILIES`].
const NETWORK: &[c_long] = &[
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
];

/// The older names of the same calls, which only this architecture has.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_getdents,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_pipe,
    libc::SYS_eventfd,
    libc::SYS_dup2,
    libc::SYS_pause,
    libc::SYS_time,
    libc::SYS_utimes,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[RENAMEAT];
/// Only in some of libc's tables, and what the C library's rename(3) calls.
#[cfg(not(target_arch = "x86_64"))]
const RENAMEAT: c_long = 38;

/// Control sockets, servers and proxies, names and telemetry; no raw packets, no kernel interfaces.
const FAMILIES: [libc::c_int; 3] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
const KINDS: [libc::c_int; 3] = [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET];
/// The kind of a socket without its flags.
const KIND: u64 = 0xf;

/// Properties of descriptors: blocking, close-on-exec, waiting bytes, whether it is a terminal (the log's colours).
const DESCRIPTOR_REQUESTS: [u32; 5] = [0x5421, 0x5451, 0x5450, 0x541b, 0x5401];
/// Commands of fcntl(2): copies, flags, locks, pipes and seals. Not among them are those by which a descriptor sends signals
/// to a process that its owner chooses (`F_SETOWN`, `F_SETSIG`, `F_NOTIFY`, `F_SETLEASE`).
const DESCRIPTOR_COMMANDS: [libc::c_int; 15] = [
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_GETLK,
    libc::F_SETLK,
    libc::F_SETLKW,
    libc::F_OFD_GETLK,
    libc::F_OFD_SETLK,
    libc::F_OFD_SETLKW,
    libc::F_GETPIPE_SZ,
    libc::F_SETPIPE_SZ,
    libc::F_ADD_SEALS,
    libc::F_GET_SEALS,
];
/// FUSE_DEV_IOC_BACKING_OPEN and FUSE_DEV_IOC_BACKING_CLOSE (include/uapi/linux/fuse.h).
const BACKING_REQUESTS: [u32; 2] = [0x4010_e501, 0x4004_e502];

/// Names of threads, and of memory (the allocator of the C library).
const PROCESS_OPTIONS: [libc::c_int; 5] =
    [libc::PR_SET_NAME, libc::PR_GET_NAME, PR_SET_VMA, PR_GET_AUXV, libc::PR_GET_DUMPABLE];
const PR_SET_VMA: libc::c_int = 0x5356_4d41;
/// The page size and the like, which rustix asks the kernel for; where it is refused it reads `/proc/self/auxv`, and
/// the refusal would be a line in the audit log for each server.
const PR_GET_AUXV: libc::c_int = 0x4155_5856;

/// What only an intruder asks for. The process is killed, and the supervisor starts the next one.
const FATAL: &[c_long] = &[
    // Other programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_writev,
    // Mounts.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    // Namespaces.
    libc::SYS_unshare,
    libc::SYS_setns,
    // Users.
    libc::SYS_setuid,
    libc::SYS_setreuid,
    libc::SYS_setresuid,
    // The kernel.
    libc::SYS_bpf,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_mknodat,
    // Keys of the kernel.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
];

#[cfg(target_arch = "x86_64")]
const FATAL_HERE: &[c_long] = &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_mknod];
#[cfg(not(target_arch = "x86_64"))]
const FATAL_HERE: &[c_long] = &[];

/// Returns the calls for which the process is killed.
pub fn fatal() -> Vec<Call> {
    plain(FATAL).chain(plain(FATAL_HERE)).collect()
}

/// Returns the calls that the C library tries first and does without. The flags of `clone3` are in memory, where no
/// filter sees them; those of `clone`, which is used instead, are not.
pub fn avoided() -> Vec<Call> {
    plain(&[libc::SYS_clone3]).collect()
}

/// Returns the calls that the process with this number may make; with `passes_through` it may register backing
/// files with the kernel.
pub fn allowed(process: u32, passes_through: bool) -> Vec<Call> {
    let groups = [PROCESS, KNOWLEDGE, SIGNALS, DESCRIPTORS, FILES, NETWORK, OLDER];
    let mut list: Vec<Call> = groups.into_iter().flat_map(plain).collect();
    // Refused, but not worth a line in the log for each thread.
    list.extend(avoided());
    // No code is made at run time, and none is loaded.
    let prot_exec = u64::from(libc::PROT_EXEC.cast_unsigned());
    for number in [libc::SYS_mmap, libc::SYS_mprotect] {
        list.push(call(number, &[(2, Test::Masked(prot_exec, 0))]));
    }
    // Threads of this process, without namespaces of their own.
    let thread = flags(libc::CLONE_THREAD);
    let namespaces = flags(
        libc::CLONE_NEWNS
            | libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP,
    );
    list.push(call(libc::SYS_clone, &[(0, Test::Masked(thread | namespaces, thread))]));
    for family in FAMILIES {
        for kind in KINDS {
            let tests = [is(0, family), (1, Test::Masked(KIND, u64::from(kind.cast_unsigned())))];
            list.push(call(libc::SYS_socket, &tests));
        }
    }
    list.push(call(libc::SYS_socketpair, &[is(0, libc::AF_UNIX)]));
    let backing = BACKING_REQUESTS.iter().filter(|_| passes_through);
    for request in DESCRIPTOR_REQUESTS.iter().chain(backing) {
        list.push(call(libc::SYS_ioctl, &[(1, Test::Is(*request))]));
    }
    for command in DESCRIPTOR_COMMANDS {
        list.push(call(libc::SYS_fcntl, &[is(1, command)]));
    }
    let signalling = u64::from(libc::O_ASYNC.cast_unsigned());
    let quiet = [is(1, libc::F_SETFL), (2, Test::Masked(signalling, 0))];
    list.push(call(libc::SYS_fcntl, &quiet));
    for option in PROCESS_OPTIONS {
        list.push(call(libc::SYS_prctl, &[is(0, option)]));
    }
    // Ourselves: signals for abort and when whoever waited for the mount is gone, and our own stack after a crash.
    for number in [libc::SYS_kill, libc::SYS_tgkill, libc::SYS_process_vm_readv] {
        list.push(call(number, &[(0, Test::Is(process))]));
    }
    // Limits of ourselves.
    list.push(call(libc::SYS_prlimit64, &[(0, Test::Is(0))]));
    list
}

fn plain(numbers: &'static [c_long]) -> impl Iterator<Item = Call> {
    numbers.iter().map(|number| call(*number, &[]))
}

fn call(number: c_long, tests: &[(u8, Test)]) -> Call {
    let arguments = tests.iter().map(|&(index, test)| Argument { index, test }).collect();
    Call { number, arguments }
}

fn is(index: u8, value: libc::c_int) -> (u8, Test) {
    (index, Test::Is(value.cast_unsigned()))
}

fn flags(flags: libc::c_int) -> u64 {
    u64::from(flags.cast_unsigned())
}
