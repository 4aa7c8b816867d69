//! Who may mount: capabilities, seccomp, user namespaces, the setuid helper.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

use super::surroundings::{Grant, Surroundings};
use super::{Finding, kernel_text};
use crate::fuse::mount::HELPERS;

/// Bit of CAP_SYS_ADMIN (capability.h).
const SYS_ADMIN: u32 = 21;
/// Files that forbid user namespaces, and the value that does.
const SWITCHES: [(&str, &str); 3] = [
    ("user.max_user_namespaces", "0"),
    ("kernel.unprivileged_userns_clone", "0"),
    // The namespace can be made, but has no capabilities that are of use.
    ("kernel.apparmor_restrict_unprivileged_userns", "1"),
];

/// What `/proc/self/status` says about privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Status {
    effective: u64,
    bounding: u64,
    no_new_privileges: bool,
    /// 0: off, 1: strict, 2: filter.
    seccomp: u32,
}

impl Status {
    /// Fields that an old kernel does not have count as the ordinary ones.
    fn parse(text: &str) -> Self {
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let hex = |name| field(name).and_then(|value| u64::from_str_radix(value, 16).ok());
        Self {
            effective: hex("CapEff").unwrap_or(0),
            bounding: hex("CapBnd").unwrap_or(0),
            no_new_privileges: field("NoNewPrivs") == Some("1"),
            seccomp: field("Seccomp").and_then(|value| value.parse().ok()).unwrap_or(0),
        }
    }

    fn may_mount(self) -> bool {
        self.effective >> SYS_ADMIN & 1 == 1
    }
}

/// Looks at this process and tries what a mount would do.
pub(super) fn check(here: Surroundings) -> Vec<Finding> {
    let status = Status::parse(&kernel_text("/proc/self/status").unwrap_or_default());
    let switches: Vec<_> = SWITCHES
        .iter()
        .filter(|(name, forbidding)| {
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            kernel_text(path).as_deref() == Some(*forbidding)
        })
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let namespaces = try_user_namespace();
    // The helper is setuid, which no_new_privs switches off.
    let helper = find_helper().filter(|_| !status.no_new_privileges);
    vec![
        who_may_mount(status, namespaces.is_ok() && switches.is_empty(), helper, here),
        user_namespaces(status, &namespaces, &switches, here),
        seccomp(status),
    ]
}

fn who_may_mount(
    status: Status,
    namespaces: bool,
    helper: Option<&str>,
    here: Surroundings,
) -> Finding {
    if status.may_mount() {
        return Finding::ok("mounting", "this process has CAP_SYS_ADMIN");
    }
    let without = match status.bounding >> SYS_ADMIN & 1 {
        1 => "no CAP_SYS_ADMIN here",
        _ => "CAP_SYS_ADMIN was taken away from this container",
    };
    match (helper, namespaces) {
        (Some(helper), _) => Finding::ok("mounting", format!("{without}, but {helper} mounts")),
        (None, true) => Finding::warning(
            "mounting",
            format!("{without}: only programs started in a user namespace will see the mount"),
        )
        .fix(format!(
            "cvmfs-fuse run --repo FQRN -- COMMAND, which makes one; or {}",
            here.how_to(Grant::Mount)
        )),
        (None, false) => Finding::problem(
            "mounting",
            format!("{without}, no user namespaces, and no fusermount3"),
        )
        .fix(here.how_to(Grant::Mount)),
    }
}

fn user_namespaces(
    status: Status,
    tried: &io::Result<()>,
    switches: &[String],
    here: Surroundings,
) -> Finding {
    let is_needed = !status.may_mount();
    let found = match tried {
        Ok(()) if switches.is_empty() => {
            return Finding::ok("user-namespaces", "can be made");
        }
        Ok(()) => format!("can be made, but not used for mounts: {}", switches.join(", ")),
        Err(error) if switches.is_empty() => {
            let filter = if status.seccomp == 2 { " (a seccomp filter is active)" } else { "" };
            format!("cannot be made: {error}{filter}")
        }
        Err(error) => format!("cannot be made: {error}; {}", switches.join(", ")),
    };
    if !is_needed {
        return Finding::ok("user-namespaces", format!("{found}; not needed with CAP_SYS_ADMIN"));
    }
    let fix = match switches.is_empty() {
        true => here.how_to(Grant::UserNamespaces),
        // Switches of the kernel are the host's wherever we are.
        false => Surroundings::Host.how_to(Grant::UserNamespaces),
    };
    Finding::warning("user-namespaces", found).fix(fix)
}

fn seccomp(status: Status) -> Finding {
    let mode = match status.seccomp {
        0 => "no filter",
        1 => "strict",
        2 => "a filter is active",
        _ => "unknown mode",
    };
    let privileges = if status.no_new_privileges { ", no new privileges" } else { "" };
    Finding::ok("seccomp", format!("{mode}{privileges}"))
}

/// Asks the kernel itself, in a child: of sysctl, seccomp and security modules each can refuse.
fn try_user_namespace() -> io::Result<()> {
    let mut child = Command::new("/proc/self/exe");
    child.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: unshare(2) is async-signal-safe and touches no memory of the parent.
    unsafe {
        child.pre_exec(|| {
            let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS;
            unshare(flags).map_err(io::Error::from)
        });
    }
    child.status().map(drop)
}

fn find_helper() -> Option<&'static str> {
    HELPERS.into_iter().find(|helper| {
        let mut command = Command::new(helper);
        command.arg("--version");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    const ROOT: &str = "Name:\tx\nCapInh:\t0\nCapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\n\
        NoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0";
    const DOCKER: &str = "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nNoNewPrivs:\t0\n\
        Seccomp:\t2\n";
    const USER: &str = "CapEff:\t0000000000000000\nCapBnd:\t000001ffffffffff\nNoNewPrivs:\t1\n\
        Seccomp:\t0\n";

    #[test]
    fn texts_of_the_kernel() {
        assert!(Status::parse(ROOT).may_mount());
        let docker = Status::parse(DOCKER);
        assert!(!docker.may_mount() && docker.seccomp == 2 && !docker.no_new_privileges);
        let user = Status::parse(USER);
        assert!(!user.may_mount() && user.no_new_privileges && user.bounding != 0);
        for garbage in ["", "CapEff:", "CapEff:\tzz\nSeccomp:\t-1"] {
            assert!(!Status::parse(garbage).may_mount());
        }
    }

    #[test]
    fn who_may_mount_and_what_to_do() {
        let (docker, podman) = (Surroundings::Docker, Surroundings::Podman);
        for (status, namespaces, helper, here, severity, part) in [
            (ROOT, false, None, docker, Severity::Ok, "has CAP_SYS_ADMIN"),
            (DOCKER, false, None, docker, Severity::Problem, "taken away"),
            (DOCKER, true, None, podman, Severity::Warning, "only programs"),
            (USER, false, Some("fusermount3"), docker, Severity::Ok, "fusermount3 mounts"),
        ] {
            let found = who_may_mount(Status::parse(status), namespaces, helper, here);
            assert_eq!(found.severity, severity, "{found:?}");
            assert!(found.message.contains(part), "{found:?}");
            let has_flag = found.fix.is_some_and(|fix| fix.contains("--cap-add SYS_ADMIN"));
            assert_eq!(has_flag, severity != Severity::Ok);
        }
    }

    #[test]
    fn user_namespaces_matter_only_without_the_capability() {
        let refused = || Err(io::Error::from_raw_os_error(libc::EPERM));
        let switch = ["kernel.apparmor_restrict_unprivileged_userns=1".to_owned()];
        for (status, tried, switches, severity, part) in [
            (ROOT, refused(), &[][..], Severity::Ok, ""),
            (DOCKER, refused(), &[], Severity::Warning, "seccomp=unconfined"),
            (USER, Ok(()), &switch, Severity::Warning, "sysctl"),
            (USER, Ok(()), &[], Severity::Ok, ""),
        ] {
            let status = Status::parse(status);
            let found = user_namespaces(status, &tried, switches, Surroundings::Docker);
            assert_eq!(found.severity, severity, "{found:?}");
            assert!(found.fix.clone().unwrap_or_default().contains(part), "{found:?}");
        }
    }
}
