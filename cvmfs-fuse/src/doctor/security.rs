//! AppArmor and SELinux: which of them watches this process.

use super::surroundings::{Grant, Surroundings};
use super::{Finding, kernel_text};

/// What the kernel says.
#[derive(Debug, Default)]
struct Texts {
    /// `/proc/self/attr/current`: profile or context of this process.
    current: String,
    /// `/sys/module/apparmor/parameters/enabled`.
    apparmor: Option<String>,
    /// `/sys/fs/selinux/enforce`.
    selinux: Option<String>,
}

/// Looks at both.
pub(super) fn check(here: Surroundings) -> [Finding; 2] {
    let texts = Texts {
        current: kernel_text("/proc/self/attr/current").unwrap_or_default(),
        apparmor: kernel_text("/sys/module/apparmor/parameters/enabled"),
        selinux: kernel_text("/sys/fs/selinux/enforce"),
    };
    [apparmor(&texts, here), selinux(&texts, here)]
}

fn apparmor(texts: &Texts, here: Surroundings) -> Finding {
    // Containers often do not see /sys/module, but the profile always tells.
    let profile = texts.current.trim_matches(['\0', '\n']);
    let enforced = profile.strip_suffix(" (enforce)");
    match (texts.apparmor.as_deref(), enforced) {
        // What docker-default refuses is mount(2), whatever the capabilities are.
        (_, Some(name)) => Finding::warning(
            "apparmor",
            format!("profile {name} is enforced; docker-default and its like refuse mounts"),
        )
        .fix(here.how_to(Grant::AppArmor)),
        (Some("Y"), None) => Finding::ok("apparmor", "on, and does not confine this process"),
        _ => Finding::ok("apparmor", "off"),
    }
}

fn selinux(texts: &Texts, here: Surroundings) -> Finding {
    let context = texts.current.trim_matches(['\0', '\n']);
    match texts.selinux.as_deref() {
        Some("1") if context.contains(":container_t:") => Finding::warning(
            "selinux",
            format!(
                "enforcing, and this process is confined ({context}): /dev/fuse and volumes \
                     may be refused"
            ),
        )
        .fix(here.how_to(Grant::SeLinux)),
        Some("1") => Finding::ok("selinux", format!("enforcing; this process is {context}")),
        Some(_) => Finding::ok("selinux", "permissive"),
        // A container without /sys/fs/selinux still shows its context.
        None if context.contains(":container_t:") => {
            Finding::warning("selinux", format!("this process is confined ({context})"))
                .fix(here.how_to(Grant::SeLinux))
        }
        None => Finding::ok("selinux", "off"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn texts_of_both_modules() {
        const CONTAINER: &str = "system_u:system_r:container_t:s0:c1,c2\0";
        let table = [
            ("", None, None, Severity::Ok, Severity::Ok),
            ("unconfined\n", Some("Y"), None, Severity::Ok, Severity::Ok),
            ("docker-default (enforce)", Some("Y"), None, Severity::Warning, Severity::Ok),
            ("docker-default (enforce)", None, None, Severity::Warning, Severity::Ok),
            ("x (complain)", Some("Y"), None, Severity::Ok, Severity::Ok),
            (CONTAINER, None, Some("1"), Severity::Ok, Severity::Warning),
            (CONTAINER, None, Some("0"), Severity::Ok, Severity::Ok),
            (CONTAINER, None, None, Severity::Ok, Severity::Warning),
            (
                "unconfined_u:unconfined_r:unconfined_t:s0",
                None,
                Some("1"),
                Severity::Ok,
                Severity::Ok,
            ),
        ];
        for (current, enabled, enforce, first, second) in table {
            let texts = Texts {
                current: current.to_owned(),
                apparmor: enabled.map(str::to_owned),
                selinux: enforce.map(str::to_owned),
            };
            let here = Surroundings::Docker;
            let found = (apparmor(&texts, here), selinux(&texts, here));
            assert_eq!((found.0.severity, found.1.severity), (first, second), "{found:?}");
            for (found, flag) in [(found.0, "apparmor=unconfined"), (found.1, "label=disable")] {
                let fix = found.fix.unwrap_or_default();
                assert_eq!(fix.contains(flag), found.severity == Severity::Warning, "{fix}");
            }
        }
    }
}
