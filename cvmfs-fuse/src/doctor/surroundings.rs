//! Host or which container engine: a fix is a command on the host and a flag in a container.

use std::path::Path;

use super::{Finding, kernel_text};

/// Where this process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surroundings {
    /// No container that we know of.
    Host,
    /// A container of Docker.
    Docker,
    /// A container of Podman.
    Podman,
    /// A pod.
    Kubernetes,
    /// Apptainer or Singularity.
    Apptainer,
}

/// What stands in the way of a mount, and is granted from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// The device `/dev/fuse`.
    Device,
    /// Mounting, as root of the container.
    Mount,
    /// Making user namespaces.
    UserNamespaces,
    /// Mounting, where AppArmor refuses it.
    AppArmor,
    /// `/dev/fuse` and the cache, where SELinux refuses them.
    SeLinux,
    /// Seeing mounts of others, and showing them ours.
    Propagation,
    /// A directory that outlives the container.
    Volume,
}

impl Surroundings {
    /// Looks for the marks that engines leave.
    pub fn find() -> Self {
        let cgroup = kernel_text("/proc/self/cgroup").unwrap_or_default();
        Self::of(&|path| Path::new(path).exists(), &cgroup)
    }

    fn of(exists: &dyn Fn(&str) -> bool, cgroup: &str) -> Self {
        if exists("/.singularity.d") {
            Self::Apptainer
        } else if exists("/var/run/secrets/kubernetes.io") || cgroup.contains("kubepods") {
            Self::Kubernetes
        } else if exists("/run/.containerenv") || cgroup.contains("/libpod") {
            Self::Podman
        } else if exists("/.dockerenv") || cgroup.contains("/docker") {
            Self::Docker
        } else {
            Self::Host
        }
    }

    /// Says it.
    pub fn finding(self) -> Finding {
        Finding::ok(
            "surroundings",
            match self {
                Self::Host => "no container",
                Self::Docker => "a Docker container",
                Self::Podman => "a Podman container",
                Self::Kubernetes => "a Kubernetes pod",
                Self::Apptainer => "an Apptainer container",
            },
        )
    }

    /// Returns the command or the flag that grants something.
    pub fn how_to(self, grant: Grant) -> &'static str {
        match (self, grant) {
            (Self::Host, Grant::Device) => "modprobe fuse",
            (Self::Docker | Self::Podman, Grant::Device) => {
                "start the container with --device /dev/fuse"
            }
            (Self::Kubernetes, Grant::Device) => {
                "give the pod /dev/fuse by a device plugin (resources.limits), or set \
                 securityContext.privileged: true"
            }
            (Self::Apptainer, _) => {
                "mount on the host, then start with: apptainer exec --bind /cvmfs IMAGE COMMAND"
            }
            (Self::Host, Grant::Mount) => "run as root, or: apt-get install fuse3 (fusermount3)",
            (Self::Docker, Grant::Mount) => {
                "start the container with --cap-add SYS_ADMIN --device /dev/fuse"
            }
            (Self::Podman, Grant::Mount) => {
                "start the container with --cap-add SYS_ADMIN --device /dev/fuse (rootless, too)"
            }
            (Self::Kubernetes, Grant::Mount) => {
                "securityContext: {capabilities: {add: [SYS_ADMIN]}}"
            }
            (Self::Host, Grant::UserNamespaces) => {
                "as root: sysctl user.max_user_namespaces=15000, and where they exist \
                 kernel.unprivileged_userns_clone=1 and \
                 kernel.apparmor_restrict_unprivileged_userns=0"
            }
            (Self::Docker, Grant::UserNamespaces) => {
                "start the container with --security-opt seccomp=unconfined, or with \
                 --security-opt seccomp=/usr/share/containers/seccomp.json"
            }
            (Self::Podman, Grant::UserNamespaces) => {
                "start the container without a seccomp profile of your own, or with \
                 --security-opt seccomp=unconfined"
            }
            (Self::Kubernetes, Grant::UserNamespaces) => {
                "securityContext: {seccompProfile: {type: Unconfined}}"
            }
            (Self::Host, Grant::AppArmor) => "as root: aa-complain the profile of this program",
            (Self::Docker | Self::Podman, Grant::AppArmor) => {
                "start the container with --security-opt apparmor=unconfined"
            }
            (Self::Kubernetes, Grant::AppArmor) => {
                "securityContext: {appArmorProfile: {type: Unconfined}}"
            }
            (Self::Host, Grant::SeLinux) => "ausearch -m AVC -ts recent tells what was refused",
            (Self::Docker | Self::Podman, Grant::SeLinux) => {
                "start the container with --security-opt label=disable; for volumes alone: -v \
                 DIR:DIR:z"
            }
            (Self::Kubernetes, Grant::SeLinux) => {
                "securityContext: {seLinuxOptions: {type: spc_t}}"
            }
            (Self::Host, Grant::Volume) => "mount with --cache-dir DIR",
            (Self::Docker | Self::Podman, Grant::Volume) => {
                "start the container with -v cvmfs-cache:DIR, or with a directory of the host"
            }
            (Self::Kubernetes, Grant::Volume) => {
                "volumeMounts: mountPath: DIR, of a volume with a hostPath or a claim"
            }
            (Self::Host, Grant::Propagation) => {
                "as root, before mounting: mount --bind DIR DIR && mount --make-shared DIR"
            }
            (Self::Docker | Self::Podman, Grant::Propagation) => {
                "start the container that mounts with -v DIR:DIR:rshared, those that read with -v \
                 DIR:DIR:rslave"
            }
            (Self::Kubernetes, Grant::Propagation) => {
                "volumeMounts: mountPropagation: Bidirectional where it mounts (privileged), \
                 HostToContainer where it reads"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_engines() {
        for (file, cgroup, expected) in [
            ("", "0::/user.slice", Surroundings::Host),
            ("/.dockerenv", "0::/", Surroundings::Docker),
            ("", "12:pids:/docker/0123", Surroundings::Docker),
            ("/run/.containerenv", "0::/", Surroundings::Podman),
            ("/.dockerenv", "1:cpu:/kubepods/burstable/pod1", Surroundings::Kubernetes),
            ("/var/run/secrets/kubernetes.io", "0::/", Surroundings::Kubernetes),
            ("/.singularity.d", "0::/", Surroundings::Apptainer),
        ] {
            assert_eq!(Surroundings::of(&|path| path == file, cgroup), expected, "{file} {cgroup}");
        }
    }
}
