//! What users without root see, and what they are told; `as_a_user.rs` has the plain mount.
//!
//! Each test is a shell script in a mount namespace of its own, with a device node that users may
//! open (this machine's may be root's alone). Trees are compared by this test program itself,
//! started again inside as that user.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fixtures::genuine::{EntryType, Genuine, TruthEntry};
use fixtures::server::TestServer;
use tests::walk::{self, Walk, walk};
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(110);
/// Debian's nobody and nogroup; also what the kernel shows for owners without a number here.
const NOBODY: u32 = 65534;

/// Sets the stage: `$U` runs a command as nobody, `$MOUNT` mounts on `$STAGE/m`.
const STAGE: &str = r#"
set -eu
# Copies of the mounts of other tests, which could not end while they are here.
umount -alt fuse 2>/dev/null || true
command -v fusermount3 >/dev/null || { echo "fusermount3 is missing: apt-get install fuse3" >&2; exit 9; }
mount -t tmpfs -o mode=755,dev tmpfs "$STAGE"
device() {
    mknod -m "$1" "$STAGE/fuse.$1" c 10 229
    mount --bind "$STAGE/fuse.$1" /dev/fuse
}
device 666
# The machine's own may allow more to users.
: >"$STAGE/fuse.conf"
mount --bind "$STAGE/fuse.conf" /etc/fuse.conf
cd "$STAGE"
mkdir m cache tmp
chown 65534:65534 m cache tmp
chmod 700 cache
cp "$CLIENT" client
cp "$TESTS" compare
cp "$KEY" key
export TMPDIR="$STAGE/tmp"
U="setpriv --reuid 65534 --regid 65534 --clear-groups"
MOUNT="timeout 30 $STAGE/client mount small.test.repo $STAGE/m --server $SERVER --public-key $STAGE/key --cache-dir $STAGE/cache"
COMPARE="timeout 60 $STAGE/compare --ignored --nocapture --exact"
trap 'umount -l "$STAGE/m" 2>/dev/null || true' EXIT
mounted() { grep -q " $STAGE/m " /proc/mounts; }
# Not "! mounted", whose failure does not end a script.
not_mounted() { if mounted; then echo "still mounted" >&2; exit 1; fi; }
"#;

/// Runs a script behind [`STAGE`]; returns what it printed.
fn run(script: &str) -> String {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
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
            .env("TESTS", std::env::current_exe().unwrap())
            .env("KEY", genuine.public_key())
            .env("SERVER", server.base(genuine.fqrn()))
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}\n{shown}\n{errors}", output.status);
        shown
    })
}

/// Whether the mode lets a stranger do all of `bits` (4 read, 1 search).
fn stranger_may(entry: &TruthEntry, bits: u32) -> bool {
    entry.mode & bits == bits
}

/// What of the truth a user sees who owns nothing: what is in directories that others may enter
/// and list, without the content that others may not read.
fn visible_to_a_stranger(truth: &[TruthEntry]) -> (Vec<TruthEntry>, Vec<Vec<u8>>) {
    let by_path: BTreeMap<_, _> =
        truth.iter().map(|entry| (entry.path.as_slice(), entry)).collect();
    let reachable = |entry: &&TruthEntry| {
        let mut path = entry.path.as_slice();
        while let Some(at) = path.iter().rposition(|&byte| byte == b'/') {
            path = &path[..at];
            if !stranger_may(by_path[path], 5) {
                return false;
            }
        }
        true
    };
    let closed = |entry: &TruthEntry| match entry.entry_type {
        EntryType::File => !stranger_may(entry, 4),
        EntryType::Directory => !stranger_may(entry, 5),
        _ => false,
    };
    let (closed, open): (Vec<_>, Vec<_>) =
        truth.iter().filter(reachable).cloned().partition(closed);
    (open, closed.into_iter().map(|entry| entry.path).collect())
}

/// Where the stage has the mount, for the two tests below, which are started there.
const MOUNTPOINT: &str = "m";

#[track_caller]
fn assert_no_differences(truth: &[TruthEntry], walked: &Walk) {
    let differences = walk::compare(truth, walked);
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}

#[test]
#[ignore = "needs a mount of another process"]
fn compare_as_a_stranger() {
    let mut walked = walk(Path::new(MOUNTPOINT));
    let (open, closed) = visible_to_a_stranger(&Genuine::small().truth());
    assert!(open.len() > 1000 && !closed.is_empty(), "{} {closed:?}", open.len());
    for path in closed {
        let found = walked.remove(&path).expect("names are no secret");
        let error = found.expect_err("others may not read it");
        assert!(error.contains("Permission denied"), "{}: {error}", path.escape_ascii());
    }
    assert_no_differences(&open, &walked);
}

#[test]
#[ignore = "needs a mount of another process"]
fn compare_as_root_of_a_namespace() {
    let mut truth = Genuine::small().truth();
    // Root inside is nobody outside; everybody else has no number here.
    for entry in &mut truth {
        for id in [&mut entry.uid, &mut entry.gid] {
            *id = if *id == 0 { 0 } else { NOBODY };
        }
    }
    assert_no_differences(&truth, &walk(Path::new(MOUNTPOINT)));
}

#[test]
fn a_user_sees_the_truth_through_fusermount3() {
    let shown = run(r#"
$U $MOUNT
grep " $STAGE/m " /proc/mounts
$U $COMPARE compare_as_a_stranger
$U timeout 20 fusermount3 -u "$STAGE/m"
not_mounted
"#);
    assert!(shown.contains(" fuse ro,nosuid,nodev,"), "{shown}");
    assert!(shown.contains("1 passed"), "{shown}");
}

#[test]
fn root_of_a_user_namespace_sees_the_truth() {
    let shown = run(r#"
$U unshare -Urm sh -euc "
  $MOUNT
  grep ' $STAGE/m ' /proc/mounts
  $COMPARE compare_as_root_of_a_namespace
  umount $STAGE/m
  if grep ' $STAGE/m ' /proc/mounts; then exit 1; fi
"
"#);
    assert!(shown.contains(" fuse ro,nosuid,nodev,"), "{shown}");
    assert!(shown.contains("1 passed"), "{shown}");
}

/// A client of a user that was killed, and one that is asked to stop.
#[test]
fn a_user_mends_and_ends_a_mount_without_root() {
    run(r#"
$U $MOUNT
pid=$($U getfattr --only-values -n user.pid "$STAGE/m")
supervisor=$(awk '/^PPid:/ { print $2 }' "/proc/$pid/status")
kill -9 "$supervisor" "$pid"
# Bounded by the test's own limit.
while $U stat "$STAGE/m" >/dev/null 2>&1; do sleep 0.05; done
$U $MOUNT
[ "$($U cat m/hello.txt)" = "hello cvmfs" ]
pid=$($U getfattr --only-values -n user.pid "$STAGE/m")
kill -TERM "$pid"
while mounted; do sleep 0.05; done
"#);
}

/// Every way in which a user may not mount: exit code 4, one message, nothing mounted.
#[test]
fn users_who_may_not_mount_are_told_why() {
    let shown = run(r#"
refused() {
    name=$1 code=0
    shift
    "$@" >out 2>err || code=$?
    not_mounted
    echo "$name: $code $(wc -l <err) $(cat out err)"
}
: >out >err
refused allow_other $U $MOUNT -o allow_other
chown root m
refused not-theirs $U $MOUNT
chown 65534 m
refused no-fusermount3 env PATH=/nonexistent /usr/bin/setpriv --reuid 65534 --regid 65534 --clear-groups "$STAGE/client" mount small.test.repo "$STAGE/m" --server "$SERVER" --public-key "$STAGE/key" --cache-dir "$STAGE/cache"
device 600
refused no-device $U $MOUNT
refused no-device-in-a-namespace $U unshare -Urm $MOUNT
"#);
    for (name, part) in [
        ("allow_other", "user_allow_other"),
        ("not-theirs", "fusermount3"),
        ("no-fusermount3", "fuse3"),
        ("no-device", "/dev/fuse"),
        ("no-device-in-a-namespace", "/dev/fuse"),
    ] {
        let start = format!("{name}: 4 1 cvmfs-fuse: ");
        let line = shown.lines().find(|line| line.starts_with(&start));
        let line = line.unwrap_or_else(|| panic!("no {start:?} in\n{shown}"));
        assert!(line.contains(part), "no {part:?} in {line}");
        assert!(line.ends_with("(4 - failed to mount)"), "{line}");
    }
}
