//! `/dev/fuse`: there, a device, and ours to open.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use super::Finding;
use super::surroundings::{Grant, Surroundings};
use crate::fuse::mount::{DEVICE, open_device};

/// What the kernel calls it: character device 10:229.
const NUMBER: (u32, u32) = (10, 229);

/// What the children of this program read from and write to.
const NOWHERE: &str = "/dev/null";

/// Looks at the devices. Opening the one of FUSE makes no connection yet.
pub fn check(here: Surroundings) -> Vec<Finding> {
    let mut findings = fuse(here).to_vec();
    if !Path::new(NOWHERE).exists() {
        let message = format!("{NOWHERE} is missing: no mount can go to the background");
        findings.push(
            Finding::warning("device", message)
                .fix("mount with --foreground, or: mknod -m 666 /dev/null c 1 3"),
        );
    }
    findings
}

fn fuse(here: Surroundings) -> [Finding; 1] {
    let metadata = match std::fs::metadata(DEVICE) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return [Finding::problem("device", format!("{DEVICE} is missing")).fix(missing(here))];
        }
        Err(error) => {
            return [Finding::problem("device", format!("cannot look at {DEVICE}: {error}"))];
        }
    };
    let device = metadata.rdev();
    let number = (rustix::fs::major(device), rustix::fs::minor(device));
    if !metadata.file_type().is_char_device() || number != NUMBER {
        let message = format!("{DEVICE} is not the character device 10:229");
        return [Finding::problem("device", message).fix(missing(here))];
    }
    [opened(open_device().map(drop), metadata.mode() & 0o777, here)]
}

/// On a host the module may be there, and only the node not.
fn missing(here: Surroundings) -> &'static str {
    match here {
        Surroundings::Host if Path::new("/sys/module/fuse").exists() => {
            "as root: mknod -m 666 /dev/fuse c 10 229"
        }
        _ => here.how_to(Grant::Device),
    }
}

fn opened(outcome: io::Result<()>, mode: u32, here: Surroundings) -> Finding {
    match outcome {
        Ok(()) => Finding::ok("device", format!("{DEVICE} can be opened")),
        Err(error) => match error.raw_os_error() {
            Some(libc::EACCES) => {
                let message = format!("this user may not open {DEVICE} (mode {mode:o})");
                Finding::problem("device", message).fix("as root: chmod 666 /dev/fuse")
            }
            // The node is there, but the device cgroup refuses it.
            Some(libc::EPERM) => {
                let message = format!("the container may not open {DEVICE}");
                Finding::problem("device", message).fix(match here {
                    Surroundings::Host => "start the container with --device /dev/fuse",
                    _ => here.how_to(Grant::Device),
                })
            }
            Some(libc::ENODEV | libc::ENXIO) => {
                Finding::problem("device", "the kernel has no FUSE").fix("as root: modprobe fuse")
            }
            _ => Finding::problem("device", format!("{DEVICE} cannot be opened: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn each_refusal_has_its_fix() {
        for (errno, here, part) in [
            (libc::EACCES, Surroundings::Host, "chmod 666"),
            (libc::EPERM, Surroundings::Host, "--device /dev/fuse"),
            (libc::EPERM, Surroundings::Kubernetes, "device plugin"),
            (libc::ENODEV, Surroundings::Docker, "modprobe fuse"),
        ] {
            let found = opened(Err(io::Error::from_raw_os_error(errno)), 0o600, here);
            assert_eq!(found.severity, Severity::Problem);
            assert!(found.fix.as_deref().unwrap().contains(part), "{found:?}");
        }
        assert_eq!(opened(Ok(()), 0o666, Surroundings::Host).severity, Severity::Ok);
    }
}
