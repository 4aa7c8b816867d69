//! The version of the kernel, and what comes with it.

use super::{Finding, kernel_text};

/// Mounts of FUSE in user namespaces.
const USER_NAMESPACES: (u32, u32) = (4, 18);
/// FUSE passthrough: the kernel reads cached files without us.
const PASSTHROUGH: (u32, u32) = (6, 9);
/// FUSE_NOTIFY_RESEND: requests that a dead server had taken are sent to the next one.
const RESEND: (u32, u32) = (6, 9);

/// Looks at the running kernel.
pub(super) fn check() -> [Finding; 1] {
    [assess(&kernel_text("/proc/sys/kernel/osrelease").unwrap_or_default())]
}

fn assess(release: &str) -> Finding {
    let Some(version) = parse(release) else {
        return Finding::warning("kernel", format!("version {release:?} is not understood"))
            .fix("mount /proc (mount -t proc proc /proc) and run doctor again");
    };
    let gives =
        |what: &str, since| format!("{what}: {}", if version >= since { "yes" } else { "no" });
    let message = format!(
        "Linux {release}; {}, {}, {}",
        gives("FUSE in user namespaces", USER_NAMESPACES),
        gives("FUSE passthrough", PASSTHROUGH),
        gives("resending after the death of a server", RESEND)
    );
    if version < USER_NAMESPACES {
        return Finding::warning("kernel", message)
            .fix("use Linux 4.18 or newer, or mount as root or with fusermount3");
    }
    Finding::ok("kernel", message)
}

/// The first two numbers.
fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn versions_and_what_they_give() {
        for (release, severity, part) in [
            ("6.18.5-cloud", Severity::Ok, "passthrough: yes"),
            ("6.9.0-rc1", Severity::Ok, "server: yes"),
            ("6.1.0-18-amd64", Severity::Ok, "passthrough: no"),
            ("5.14.0-427.el9.x86_64", Severity::Ok, "user namespaces: yes"),
            ("3.10.0-1160.el7", Severity::Warning, "user namespaces: no"),
            ("", Severity::Warning, "not understood"),
            ("99999999999999.1", Severity::Warning, "not understood"),
        ] {
            let found = assess(release);
            assert_eq!(found.severity, severity, "{found:?}");
            assert!(found.message.contains(part), "{found:?}");
        }
    }
}
