//! `cvmfs-fuse doctor` inside containers: it names the flag that is missing.

use serde_json::Value;
use tests::engines::{Checks, Docker, Podman, Shell, alone};

use crate::LIMIT;

/// Runs the doctor in a container with these flags.
#[track_caller]
fn report(sh: &Shell, flags: &str) -> Value {
    let said = sh.run(&format!(
        "$ENGINE run --rm $NET {flags} img cvmfs-fuse doctor --json $F $FLAGS --proxy \"$PROXY;DIRECT\""
    ));
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// All that a check says with this severity, messages and fixes.
#[track_caller]
fn said(report: &Value, check: &str, severity: &str) -> String {
    let found: Vec<_> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["check"] == check && one["severity"] == severity)
        .map(|one| format!("{} FIX {}", one["message"], one["fix"]))
        .collect();
    assert!(!found.is_empty(), "no {severity} of {check} in {report:#}");
    found.join("\n")
}

#[track_caller]
fn says(report: &Value, check: &str, severity: &str, parts: &[&str]) {
    let text = said(report, check, severity);
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

/// What the doctor looks at, wherever it is.
const CHECKS: [&str; 15] = [
    "surroundings",
    "kernel",
    "device",
    "mounting",
    "user-namespaces",
    "seccomp",
    "propagation",
    "mounts",
    "cache",
    "proxy",
    "server",
    "clock",
    "whitelist",
    "keys",
    "blocklist",
];

fn everywhere(checks: &mut Checks, sh: &Shell, engine: &str) {
    checks.check("all that it should look at is looked at; each problem has its fix", || {
        let report = report(sh, "");
        for check in CHECKS {
            let findings = report["findings"].as_array().unwrap();
            assert!(findings.iter().any(|one| one["check"] == check), "no {check}: {report:#}");
        }
        for finding in report["findings"].as_array().unwrap() {
            if finding["severity"] == "problem" {
                assert!(finding["fix"].is_string(), "{finding}");
            }
        }
        says(&report, "surroundings", "ok", &[engine]);
    });
    checks.check("without the device", || {
        let report = report(sh, "--cap-add SYS_ADMIN");
        says(&report, "device", "problem", &["start the container with --device /dev/fuse"]);
    });
    checks.check("what containers with this volume will see", || {
        let report = report(sh, "--cap-add SYS_ADMIN --device /dev/fuse -v $W/shared:/cvmfs");
        says(&report, "propagation", "warning", &["-v /cvmfs:/cvmfs:rshared", "rslave"]);
    });
    checks.check("with all that is needed but a cache that lasts", || {
        let report = report(sh, "--cap-add SYS_ADMIN --device /dev/fuse");
        assert_eq!(report["problems"], 0, "{report:#}");
        says(&report, "mounting", "ok", &["CAP_SYS_ADMIN"]);
        says(&report, "cache", "warning", &["-v cvmfs-cache:/var/lib/cvmfs-fuse"]);
    });
    checks.check("with all that is needed", || {
        let flags = "--cap-add SYS_ADMIN --device /dev/fuse -v cvmfs-cache:/var/lib/cvmfs-fuse";
        let report = report(sh, flags);
        assert_eq!(report["problems"], 0, "{report:#}");
        let cache = said(&report, "cache", "ok");
        assert!(!cache.contains("part of this container"), "{cache}");
    });
    checks.check("a cache volume that cannot be written", || {
        let flags = "--cap-add SYS_ADMIN --device /dev/fuse -v cvmfs-cache:/var/lib/cvmfs-fuse:ro";
        let report = report(sh, flags);
        let shown = format!("{report:#}");
        assert!(
            shown.contains("can only be read") || shown.contains("cannot be written"),
            "{shown}"
        );
    });
}

#[test]
fn docker() {
    alone("doctor::docker", LIMIT, |scratch| {
        let docker = Docker::start(scratch);
        let (mut sh, server) = (docker.shell.clone(), &docker.stage.server);
        // It is its own proxy.
        server.map_host(&server.address().to_string(), server);
        sh.set("PROXY", docker.stage.server.url());
        sh.set("ENGINE", "docker");
        sh.set("NET", "");
        sh.ok("mkdir $W/shared");
        Checks::run(|checks| {
            everywhere(checks, &sh, "a Docker container");
            checks.check("without a capability, under the default filter", || {
                let report = report(&sh, "--device /dev/fuse");
                says(
                    &report,
                    "mounting",
                    "problem",
                    &["start the container with --cap-add SYS_ADMIN"],
                );
                says(&report, "user-namespaces", "warning", &["--security-opt seccomp=unconfined"]);
            });
            checks.check("without a capability and without a filter", || {
                let report = report(&sh, "--device /dev/fuse --security-opt seccomp=unconfined");
                says(&report, "user-namespaces", "ok", &[]);
            });
        });
    });
}

#[test]
fn podman() {
    alone("doctor::podman", LIMIT, |scratch| {
        let podman = Podman::start(scratch);
        let mut sh = podman.shell.clone();
        sh.set("PROXY", podman.stage.server.url());
        sh.set("ENGINE", "podman");
        sh.set("NET", "--network host");
        sh.ok("mkdir $W/shared");
        Checks::run(|checks| {
            everywhere(checks, &sh, "a Podman container");
            checks.check("without a capability", || {
                let report = report(&sh, "--device /dev/fuse");
                says(&report, "user-namespaces", "ok", &[]);
                says(&report, "mounting", "warning", &["--cap-add SYS_ADMIN"]);
            });
        });
    });
}
