//! `doctor` where something is wrong: each trouble is provoked in a mount namespace of its own, and
//! must be found, named and given its fix.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use fixtures::peers::Nginx;
use fixtures::publish::{Published, TestRepo};
use serde_json::Value;
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(110);
const FQRN: &str = "doctor.test.repo";

/// `$DOCTOR` is the command with a repository; what it says goes to stdout, then its exit code.
const STAGE: &str = r#"
set -eu
# Mounts of other tests, which may be dead just now; the machine's own stay.
while read -r _ path kind _; do
    case $kind in fuse | fuse.*) umount -l "$path" || true ;; esac
done </proc/mounts
mount -t tmpfs -o mode=755,dev tmpfs "$STAGE"
cd "$STAGE"
mkdir m m2 cache dev
mknod -m 666 dev/null c 1 3
mknod -m 444 dev/urandom c 1 9
REPO="$FQRN --server $SERVER --public-key $KEY --cache-dir $STAGE/cache"
DOCTOR="timeout 60 $CLIENT doctor --json --mountpoint $STAGE/m2 $REPO"
MOUNT="timeout 30 $CLIENT mount $REPO"
trap 'umount -l "$STAGE/m" 2>/dev/null || true' EXIT
say() { code=0; "$@" || code=$?; echo "exit $code"; }
"#;

struct Site {
    published: Published,
    nginx: Nginx,
}

impl Site {
    fn new() -> Self {
        let expiry = Command::new("date").args(["-u", "-d", "+30days", "+%Y%m%d%H%M%S"]).output();
        let expiry = String::from_utf8(expiry.unwrap().stdout).unwrap();
        let mut repo = TestRepo::new(FQRN);
        repo.whitelist_expires(expiry.trim());
        repo.file("/f", b"content".to_vec());
        let published = repo.publish();
        // It tells the time, as real servers do.
        let nginx = Nginx::serving(published.root()).unwrap();
        Self { published, nginx }
    }

    /// Runs a script behind [`STAGE`]; returns the reports and exit codes that it printed.
    fn run(&self, script: &str) -> Vec<(Value, i64)> {
        let stage = tempfile::tempdir().unwrap();
        let output = Command::new("timeout")
            .args([
                "--kill-after=5",
                "100",
                "unshare",
                "--mount",
                "sh",
                "-c",
                tests::apart::WITHOUT_COPIES,
                "sh",
                "bash",
                "-c",
            ])
            .arg([STAGE, script].concat())
            .env("STAGE", stage.path())
            .env("CLIENT", client!().command().get_program())
            .env("KEY", self.published.public_key())
            .env("SERVER", self.nginx.base(FQRN))
            .env("FQRN", FQRN)
            .env("FAKETIME_LIBRARY", faketime())
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}\n{shown}\n{errors}", output.status);
        let lines: Vec<_> = shown.lines().collect();
        let report = |pair: &[&str]| {
            let report = serde_json::from_str(pair[0]).unwrap_or_else(|e| panic!("{e}: {shown}"));
            let code = pair[1].strip_prefix("exit ").unwrap().parse().unwrap();
            (report, code)
        };
        lines.chunks(2).map(report).collect()
    }
}

/// The library that makes a program see another time.
fn faketime() -> PathBuf {
    std::fs::read_dir("/usr/lib")
        .unwrap()
        .map(|entry| entry.unwrap().path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
        .expect("libfaketime is missing: apt-get install faketime")
}

/// Finds what a check said with this severity: message and fix in one.
#[track_caller]
fn said(report: &Value, check: &str, severity: &str) -> String {
    let found = report["findings"].as_array().unwrap().iter();
    let found: Vec<_> = found
        .filter(|finding| finding["check"] == check && finding["severity"] == severity)
        .map(|finding| format!("{} FIX {}", finding["message"], finding["fix"]))
        .collect();
    assert!(!found.is_empty(), "no {severity} of {check} in {report:#}");
    found.join("\n")
}

#[track_caller]
fn assert_says(report: &Value, check: &str, severity: &str, parts: &[&str]) {
    let text = said(report, check, severity);
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn a_healthy_machine_has_no_problem() {
    deadline(LIMIT, || {
        let reports = Site::new().run("$MOUNT $STAGE/m >/dev/null\nsay $DOCTOR\n");
        let (report, code) = &reports[0];
        assert_eq!((*code, &report["problems"]), (0, &Value::from(0)), "{report:#}");
        for (check, part) in [
            ("device", "can be opened"),
            ("mounting", "CAP_SYS_ADMIN"),
            ("mounts", "all answer"),
            ("cache", "used by 1 other"),
            ("server", "signatures are right"),
            ("clock", "agrees"),
            ("whitelist", "29 days"),
        ] {
            assert_says(report, check, "ok", &[part]);
        }
    });
}

#[test]
fn many_troubles_at_once_are_all_named_with_their_fixes() {
    deadline(LIMIT, || {
        let reports = Site::new().run(
            r#"
$MOUNT "$STAGE/m" >/dev/null
pid=$(getfattr --only-values -n user.pid "$STAGE/m")
# Its supervisor, too, which would start another server.
kill -9 $(awk '/^PPid:/ { print $2 }' "/proc/$pid/status") "$pid"
# Bounded by the test's own limit.
while stat "$STAGE/m" >/dev/null 2>&1; do sleep 0.05; done
mount --bind "$STAGE/dev" /dev
export FAKETIME=+60d FAKETIME_DONT_FAKE_MONOTONIC=1
say env LD_PRELOAD=$FAKETIME_LIBRARY $DOCTOR --proxy "http://127.0.0.1:1;DIRECT"
rm dev/null
say $DOCTOR
"#,
        );
        let (report, code) = &reports[0];
        assert_eq!(*code, 1, "{report:#}");
        assert_says(report, "device", "problem", &["/dev/fuse is missing"]);
        assert_says(report, "mounts", "problem", &["/m: its server is dead", "umount --lazy"]);
        assert_says(report, "propagation", "warning", &["is private", "shared"]);
        assert_says(report, "clock", "problem", &["60 days ahead", "chronyc"]);
        assert_says(report, "server", "problem", &["expired whitelist", "check the clock"]);
        assert_says(report, "proxy", "problem", &["http://127.0.0.1:1", "refused", "DIRECT"]);
        let (report, _) = &reports[1];
        assert_says(report, "device", "warning", &["/dev/null is missing", "--foreground"]);
    });
}

#[test]
fn a_mount_that_hangs_does_not_hang_the_doctor() {
    deadline(LIMIT, || {
        let start = Instant::now();
        let reports = Site::new().run(
            r#"
$MOUNT "$STAGE/m" >/dev/null
pid=$(getfattr --only-values -n user.pid "$STAGE/m")
kill -STOP "$pid"
say timeout 30 $CLIENT doctor --json --mountpoint "$STAGE/m2" --cache-dir "$STAGE/none"
kill -CONT "$pid"
umount "$STAGE/m"
"#,
        );
        let (report, code) = &reports[0];
        assert_eq!(*code, 1, "{report:#}");
        assert_says(report, "mounts", "problem", &["did not answer", "/abort"]);
        assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    });
}

/// Users without privileges: what is refused to them is named, whatever the machine allows.
#[test]
fn a_user_without_device_helper_and_namespaces_is_told() {
    deadline(LIMIT, || {
        let reports = Site::new().run(
            r#"
mknod -m 600 "$STAGE/fuse" c 10 229
mount --bind "$STAGE/fuse" /dev/fuse
cp "$CLIENT" "$STAGE/client"
say timeout 60 /usr/bin/setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs \
    --bounding-set -sys_admin "$STAGE/client" doctor --json --mountpoint "$STAGE/none" \
    --cache-dir "$STAGE/none"
"#,
        );
        let (report, code) = &reports[0];
        assert_eq!(*code, 1, "{report:#}");
        assert_says(report, "device", "problem", &["may not open", "chmod 666 /dev/fuse"]);
        assert_says(report, "propagation", "warning", &["mkdir -p"]);
        assert_says(report, "cache", "problem", &["cannot be written", "--cache-dir"]);
        let found = report["findings"].as_array().unwrap().iter();
        let mounting: Vec<_> = found.filter(|f| f["check"] == "mounting").collect();
        assert_ne!(mounting[0]["severity"], "ok", "{report:#}");
    });
}
