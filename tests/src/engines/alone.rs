//! One test in namespaces of its own, with all that it starts.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::Signal;

use crate::watchdog::deadline;

/// Tells the test that it is in its namespaces, and where its scratch space is.
const INSIDE: &str = "CVMFS_FUSE_TEST_STAGE";

/// What is done before the test goes on: nothing of the machine is in the way, the root is shared
/// as on a host with systemd, users may open the device, and there is an empty `/run`.
///
/// The shell stays and is process 1: it takes leave of what daemons leave behind.
const PREPARE: &str = r#"
set -e
# Copies of the mounts of other tests, which could not end while they are here.
umount -alt fuse 2>/dev/null || true
mount --make-rshared /
mount -t tmpfs -o mode=755,dev tmpfs "$CVMFS_FUSE_TEST_STAGE"
mkdir -m 1777 "$TMPDIR"
mknod -m 666 "$CVMFS_FUSE_TEST_STAGE/fuse" c 10 229
mount --bind "$CVMFS_FUSE_TEST_STAGE/fuse" /dev/fuse
mount -t tmpfs -o mode=755 tmpfs /run
ip link set lo up
"$@"
exit $?
"#;

/// Runs `body` in mount, pid and network namespaces that end with it. `name` is that of the calling
/// test, with its modules; `body` is given the scratch space, and may take as long as `limit`.
///
/// # Panics
/// If `body` does, or if the namespaces cannot be made.
pub fn alone(name: &str, limit: Duration, body: impl FnOnce(&Path) + Send + 'static) {
    #[allow(clippy::disallowed_methods, reason = "no configuration: this program tells itself")]
    if let Ok(stage) = std::env::var(INSIDE) {
        deadline(limit, move || body(Path::new(&stage)));
        return;
    }
    let scratch = tempfile::Builder::new().prefix("alone.").tempdir().expect("tmp is writable");
    let stage = scratch.path().to_owned();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--net", "--fork", "--mount-proc", "--kill-child"]);
    command.args(["--propagation", "private", "sh", "-c", PREPARE, "sh"]);
    command.arg(std::env::current_exe().expect("the kernel tells"));
    command.args(["--exact", name, "--nocapture"]);
    command.env(INSIDE, &stage).env("TMPDIR", stage.join("tmp")).env("PATH", path());
    command.stdin(Stdio::null());
    // SAFETY: prctl(2) is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
    let status = command.status().expect("unshare(1) is there");
    remove_control_groups(&stage);
    assert!(status.success(), "{name}, in its namespaces: {status}");
}

/// Where Debian has its engines: other ones of the machine are not what is tested.
fn path() -> OsString {
    "/usr/sbin:/usr/bin:/sbin:/bin".into()
}

/// The control group that the engines on this stage put their containers into.
pub(super) fn control_group(stage: &Path) -> String {
    let name = stage.file_name().unwrap_or_default().to_string_lossy();
    format!("/cvmfs-fuse-test-{}", name.trim_start_matches("alone."))
}

/// Nothing is in them any more, but the kernel keeps them.
fn remove_control_groups(stage: &Path) {
    let root = Path::new("/sys/fs/cgroup");
    let name = control_group(stage);
    let group = name.trim_start_matches('/');
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten();
    for directory in hierarchies.map(|entry| entry.path()).chain([root.to_owned()]) {
        remove_tree(&directory.join(group));
    }
}

/// Control groups have files that cannot be removed, and go without.
fn remove_tree(directory: &PathBuf) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    // Not there in most hierarchies.
    let _ = std::fs::remove_dir(directory);
}
