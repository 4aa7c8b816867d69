//! Why a mount is not possible here, and what to add to the command line of the container.
//!
//! The kernel says EPERM to everything: a missing capability, a seccomp filter, AppArmor, SELinux,
//! a chroot. What distinguishes them are files in /proc, /sys and the image. They are read into
//! [`Surroundings`] once; the judgement in [`Surroundings::missing`] is a pure function of them.

use std::fmt;
use std::io;
use std::path::Path;

use nix::errno::Errno;

use super::privileges::CAP_SYS_ADMIN;
use crate::fuse::mount::{DEVICE, open_device};

/// What made this container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Docker, or what looks like it.
    Docker,
    /// Podman, also CRI-O, which leaves the same file.
    Podman,
    /// Apptainer or Singularity.
    Apptainer,
    /// A pod.
    Kubernetes,
}

/// All engines, in the order in which messages name them.
const ENGINES: [Engine; 4] =
    [Engine::Docker, Engine::Podman, Engine::Apptainer, Engine::Kubernetes];

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker run",
            Self::Podman => "podman run",
            Self::Apptainer => "apptainer exec",
            Self::Kubernetes => "Kubernetes",
        }
    }

    /// Recognises the engine by what it leaves in every container. A pod first: below it is one
    /// of the others.
    fn detect(root: &Path) -> Option<Self> {
        [
            (Self::Kubernetes, "var/run/secrets/kubernetes.io"),
            (Self::Podman, "run/.containerenv"),
            (Self::Docker, ".dockerenv"),
            (Self::Apptainer, ".singularity.d"),
        ]
        .into_iter()
        .find_map(|(engine, mark)| root.join(mark).exists().then_some(engine))
    }
}

/// What a refused step was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// unshare(2) of a user namespace.
    Namespace,
    /// Becoming root of the new user namespace.
    Identity,
    /// mount(2).
    Mount,
}

/// What stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// No `/dev/fuse`.
    Device,
    /// `/dev/fuse` is there, but the device cgroup of the container, or its mode, refuses it.
    DeviceAccess(Errno),
    /// Neither CAP_SYS_ADMIN, nor are user namespaces allowed: a limit of 0, or a kernel without.
    Namespaces,
    /// A sysctl of Debian or Ubuntu keeps user namespaces from users.
    NamespacesOfUsers(&'static str),
    /// A seccomp filter.
    Seccomp,
    /// A profile of AppArmor.
    AppArmor,
    /// SELinux.
    SeLinux,
    /// Nothing that we know; a chroot is refused like this.
    Unknown(Errno),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device => write!(f, "the device {DEVICE} is missing"),
            Self::DeviceAccess(errno) => {
                write!(f, "the device {DEVICE} may not be opened ({})", errno.desc())
            }
            Self::Namespaces => f.write_str(
                "the capability CAP_SYS_ADMIN is missing, and no user namespace can be made \
                 (/proc/sys/user/max_user_namespaces)",
            ),
            Self::NamespacesOfUsers(sysctl) => write!(
                f,
                "the capability CAP_SYS_ADMIN is missing, and the host keeps user namespaces from \
                 users ({sysctl})"
            ),
            Self::Seccomp => f.write_str(
                "the capability CAP_SYS_ADMIN is missing, and a seccomp filter refuses user \
                 namespaces",
            ),
            Self::AppArmor => f.write_str("AppArmor forbids to mount"),
            Self::SeLinux => f.write_str("SELinux may forbid to mount"),
            Self::Unknown(errno) => {
                write!(f, "the kernel refuses to mount ({}); maybe this is a chroot", errno.desc())
            }
        }
    }
}

impl Missing {
    /// Returns what to add to the command line or, for Kubernetes, to the container of the pod.
    fn flag(self, engine: Engine) -> &'static str {
        use Engine::{Apptainer, Docker, Kubernetes, Podman};
        match (self, engine) {
            (Self::Device | Self::DeviceAccess(_), Docker | Podman) => "--device /dev/fuse",
            (Self::Device | Self::DeviceAccess(_), Apptainer) => "--bind /dev/fuse",
            (Self::Device | Self::DeviceAccess(_), Kubernetes) => {
                "resources.limits of a device plugin for /dev/fuse, or securityContext.privileged: \
                 true"
            }
            (Self::AppArmor, Docker | Podman) => "--security-opt apparmor=unconfined",
            (Self::AppArmor, Kubernetes) => "securityContext.appArmorProfile.type: Unconfined",
            (Self::SeLinux, Docker | Podman) => "--security-opt label=disable",
            (Self::SeLinux, Kubernetes) => "securityContext.seLinuxOptions.type: spc_t",
            (Self::Seccomp, Docker | Podman) => {
                "--cap-add SYS_ADMIN (or --security-opt seccomp=unconfined)"
            }
            (Self::Seccomp, Kubernetes) => {
                "securityContext.capabilities.add: [SYS_ADMIN] (or \
                 securityContext.seccompProfile.type: Unconfined)"
            }
            (Self::Namespaces | Self::NamespacesOfUsers(_) | Self::Unknown(_), Docker | Podman) => {
                "--cap-add SYS_ADMIN"
            }
            (Self::Namespaces | Self::NamespacesOfUsers(_) | Self::Unknown(_), Kubernetes) => {
                "securityContext.capabilities.add: [SYS_ADMIN]"
            }
            (_, Apptainer) => {
                "no flag of a user helps: the host must allow user namespaces (sysctl \
                 user.max_user_namespaces=15000 kernel.apparmor_restrict_unprivileged_userns=0)"
            }
        }
    }

    /// Returns what helps without a container.
    fn on_a_host(self) -> &'static str {
        match self {
            Self::Device => "modprobe fuse",
            Self::DeviceAccess(_) => "chmod 666 /dev/fuse",
            Self::Namespaces => "sysctl user.max_user_namespaces=15000, or run it as root",
            Self::NamespacesOfUsers(_) => "sysctl to allow it, or run it as root",
            Self::AppArmor => "an AppArmor profile for this program with 'userns,'",
            Self::SeLinux => "a policy that allows it",
            Self::Seccomp | Self::Unknown(_) => "run it as root",
        }
    }
}

/// What this process may do, and what it lives in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// How opening `/dev/fuse` went.
    pub device: Result<(), Errno>,
    /// CAP_SYS_ADMIN is effective.
    pub sys_admin: bool,
    /// A seccomp filter is active.
    pub seccomp: bool,
    /// `user.max_user_namespaces`; `None` for a kernel without.
    pub max_user_namespaces: Option<u64>,
    /// The sysctl that keeps users from having namespaces, if one does.
    pub users_refused: Option<&'static str>,
    /// Profile of AppArmor that confines this process.
    pub apparmor: Option<String>,
    /// SELinux is enforcing.
    pub selinux: bool,
    /// The engine, if this looks like a container.
    pub engine: Option<Engine>,
}

impl Surroundings {
    /// Looks around. Nothing is changed.
    pub fn look() -> Self {
        let status = text("/proc/self/status");
        let number = |path: &str| text(path).trim().parse::<u64>().ok();
        let restricting = [
            ("kernel.unprivileged_userns_clone=0", "/proc/sys/kernel/unprivileged_userns_clone", 0),
            (
                "kernel.apparmor_restrict_unprivileged_userns=1",
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                1,
            ),
        ];
        Self {
            device: open_device().map(drop).map_err(|error| errno_of(&error)),
            sys_admin: effective(&status, CAP_SYS_ADMIN),
            seccomp: field(&status, "Seccomp").is_some_and(|mode| mode != "0"),
            max_user_namespaces: number("/proc/sys/user/max_user_namespaces"),
            users_refused: restricting
                .into_iter()
                .find_map(|(name, path, bad)| (number(path) == Some(bad)).then_some(name)),
            apparmor: confining_profile(&text("/proc/self/attr/apparmor/current")),
            selinux: number("/sys/fs/selinux/enforce") == Some(1),
            engine: Engine::detect(Path::new("/")),
        }
    }

    /// Returns what keeps a mount from being tried at all.
    pub fn missing_device(&self) -> Option<Missing> {
        match self.device {
            Ok(()) => None,
            Err(Errno::ENOENT | Errno::ENXIO | Errno::ENODEV | Errno::ENOTDIR) => {
                Some(Missing::Device)
            }
            Err(errno) => Some(Missing::DeviceAccess(errno)),
        }
    }

    /// Returns the likeliest reason why `step` was refused with `errno`.
    pub fn missing(&self, step: Step, errno: Errno) -> Missing {
        if let Some(missing) = self.missing_device() {
            return missing;
        }
        match (step, errno) {
            // ENOSPC is the limit, also that of a namespace above; EINVAL a kernel without them.
            (Step::Namespace, Errno::ENOSPC | Errno::EUSERS | Errno::EINVAL) => Missing::Namespaces,
            (Step::Namespace, _) if self.max_user_namespaces.unwrap_or(0) == 0 => {
                Missing::Namespaces
            }
            (Step::Namespace | Step::Identity, _) if self.users_refused.is_some() => {
                Missing::NamespacesOfUsers(self.users_refused.unwrap_or_default())
            }
            (Step::Namespace, _) if self.seccomp => Missing::Seccomp,
            (Step::Mount, _) if self.users_refused.is_some() && !self.sys_admin => {
                Missing::NamespacesOfUsers(self.users_refused.unwrap_or_default())
            }
            _ if self.apparmor.is_some() => Missing::AppArmor,
            _ if self.selinux => Missing::SeLinux,
            _ if self.seccomp => Missing::Seccomp,
            _ => Missing::Unknown(errno),
        }
    }

    /// Says in one line what is missing and what to add; without a known engine, for each.
    pub fn explain(&self, missing: Missing) -> String {
        let engines: &[Engine] = match &self.engine {
            Some(engine) => std::slice::from_ref(engine),
            None => &ENGINES,
        };
        let mut line = missing.to_string();
        if missing == Missing::DeviceAccess(Errno::EACCES) {
            line.push_str("; on the host: chmod 666 /dev/fuse");
        } else if self.engine.is_none() {
            line.push_str("; on a host: ");
            line.push_str(missing.on_a_host());
        }
        for engine in engines {
            let flag = missing.flag(*engine);
            line.push_str(&format!("; {}: {flag}", engine.name()));
        }
        line
    }
}

/// Returns a column of `/proc/PID/status`.
pub fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn effective(status: &str, capability: u32) -> bool {
    let set = field(status, "CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    set.is_some_and(|set| set >> capability & 1 == 1)
}

/// `NAME (enforce)`; "unconfined" is none, and so is a profile that only complains.
fn confining_profile(text: &str) -> Option<String> {
    let name = text.trim().trim_end_matches('\0').strip_suffix("(enforce)")?.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// A file that cannot be read says nothing.
fn text(path: &str) -> String {
    crate::config::read_bounded(Path::new(path), MAX_FILE)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// Longest of the files that are looked at.
const MAX_FILE: u64 = 64 << 10;

/// Returns the number of an error of the system.
pub fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

#[cfg(test)]
mod tests;
