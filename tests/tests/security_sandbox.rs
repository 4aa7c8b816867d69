//! What a server could do if somebody took it over: the capabilities, privileges and system calls that it has,
//! however its mount was started. The filter itself is attacked in `cvmfs_fuse::sandbox::tests`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cvmfs_fuse::sandbox::capabilities::{STARTED_WITH, SUPERVISOR};
use fixtures::genuine::Genuine;
use fixtures::server::TestServer;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::apart::private_mounts;
use tests::site::Site;
use tests::walk::get_xattr;
use tests::{MountSpec, TestMount, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(180);
const SOON: Duration = Duration::from_secs(30);
const SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
/// Programs that the kernel runs for each system call of a server.
const FILTERS: u64 = 3;
const NONE: [u64; 5] = [0; 5];
/// The only one that a server may have, to register backing files.
const SYS_ADMIN: u64 = 1 << 21;
/// Any user without a place in the tests.
const DAEMON: u32 = 1;

/// What the kernel says of one thread.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rights {
    capabilities: [u64; 5],
    no_new_privileges: bool,
    filters: u64,
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

/// Returns the rights of all threads of a process: one, if it is as it should be.
fn rights(process: Pid) -> BTreeSet<Rights> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    // A thread may end meanwhile.
    let all = tasks.filter_map(|task| {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).ok()?;
        let mode = field(&status, "Seccomp");
        let filters: u64 = field(&status, "Seccomp_filters").parse().unwrap();
        assert!((mode == "2") == (filters > 0), "{status}");
        Some(Rights {
            capabilities: SETS.map(|set| u64::from_str_radix(field(&status, set), 16).unwrap()),
            no_new_privileges: field(&status, "NoNewPrivs") == "1",
            filters,
        })
    });
    all.collect()
}

fn only(capabilities: [u64; 5]) -> BTreeSet<Rights> {
    BTreeSet::from([Rights { capabilities, no_new_privileges: true, filters: FILTERS }])
}

#[track_caller]
fn assert_harmless(server: Pid) {
    assert_eq!(rights(server), only(NONE));
}

fn parent(process: Pid) -> Pid {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    Pid::from_raw(field(&status, "PPid").parse().unwrap())
}

/// A supervisor has what the table says, as far as this test has it.
#[track_caller]
fn assert_bounded(supervisor: Pid) {
    let own = rights(nix::unistd::getpid());
    let own = own.first().unwrap().capabilities;
    let (effective, started) = (SUPERVISOR.bits(), STARTED_WITH.bits());
    let expected = [0, own[1] & started, own[2] & effective, own[3] & started, 0];
    let found = rights(supervisor);
    assert_eq!(found.iter().map(|one| one.capabilities).collect::<Vec<_>>(), [expected]);
}

fn server_of(root: &Path) -> Pid {
    let text = String::from_utf8(get_xattr(root, b"user.pid").unwrap()).unwrap();
    Pid::from_raw(text.parse().unwrap())
}

fn genuine() -> (Genuine, TestServer) {
    let genuine = Genuine::small();
    let server = TestServer::serving(genuine.dir());
    (genuine, server)
}

fn assert_works(mount: &TestMount) {
    assert_eq!(std::fs::read(mount.path("hello.txt")).unwrap(), b"hello cvmfs\n");
}

#[test]
fn low_the_server_of_root_has_no_capability_and_neither_have_those_after_it() {
    deadline(LIMIT, || {
        let (genuine, server) = genuine();
        let mount = MountSpec::genuine(&client!(), &genuine, &server)
            .arg("--set=CVMFS_FUSE_SECCOMP=yes")
            .start();
        assert_works(&mount);
        let first = mount.server();
        assert_harmless(first);
        assert_bounded(mount.pid());
        kill(first, Signal::SIGKILL).unwrap();
        assert_works(&mount);
        let second = mount.server();
        assert_ne!(first, second);
        assert_harmless(second);
        let output = client!().command().arg("upgrade").arg(mount.root()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_works(&mount);
        let third = mount.server();
        assert_ne!(second, third);
        assert_harmless(third);
        // Killed for a call that only an intruder makes, it would have died of SIGSYS.
        assert!(!mount.log().contains("SIGSYS"), "{}", mount.log());
        assert!(mount.unmount().success());
    });
}

#[test]
fn low_stopped_the_mount_is_detached_by_who_still_may() {
    deadline(LIMIT, || {
        let (genuine, server) = genuine();
        let mut mount = MountSpec::genuine(&client!(), &genuine, &server).start();
        assert_works(&mount);
        kill(mount.server(), Signal::SIGTERM).unwrap();
        assert!(mount.wait_exit().success(), "{}", mount.log());
        assert!(tests::mountinfo::MountInfo::of(mount.root()).is_none());
    });
}

#[test]
fn low_the_server_of_an_automount_has_no_capability() {
    deadline(LIMIT, || {
        let (genuine, server) = genuine();
        let template = format!("{}/@fqrn@", server.url());
        let key = genuine.public_key();
        let mount = MountSpec::automount(&client!(), &template, &[&key]).start();
        let file = mount.path(format!("{}/hello.txt", genuine.fqrn()));
        assert_eq!(std::fs::read(&file).unwrap(), b"hello cvmfs\n");
        let first = mount.server();
        assert_harmless(first);
        kill(first, Signal::SIGKILL).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"hello cvmfs\n");
        assert_harmless(mount.server());
    });
}

/// Mounts in the background, as mount(8) does.
fn in_the_background(user: Option<u32>) {
    private_mounts();
    let site = Site::new(client!());
    if user.is_some() {
        use std::os::unix::fs::PermissionsExt as _;
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(site.path(""), open).unwrap();
        site.write("etc/default.d/50-user.conf", "CVMFS_USER=daemon\n");
    }
    let (fqrn, m, root) = (site.genuine.fqrn().to_owned(), site.m(), site.path("m"));
    site.assert_mounted(&site.tool("mount.cvmfs", &[&fqrn, &m]));
    let server = server_of(&root);
    // The thread that watched who waits for the mount has ended.
    wait_until(SOON, "one kind of threads", || rights(server) == only(NONE))
        .unwrap_or_else(|timeout| panic!("{timeout}: {:?}", rights(server)));
    assert_bounded(parent(server));
    let status = std::fs::read_to_string(format!("/proc/{server}/status")).unwrap();
    let uid = user.unwrap_or(0).to_string();
    assert_eq!(field(&status, "Uid").split_whitespace().collect::<Vec<_>>(), [uid.as_str(); 4]);
    kill(server, Signal::SIGKILL).unwrap();
    assert!(root.join("bin").is_dir());
    assert_harmless(server_of(&root));
    site.umount();
}

#[test]
fn low_in_the_background_the_server_has_no_capability() {
    deadline(LIMIT, || in_the_background(None));
}

#[test]
fn low_the_server_of_cvmfs_user_has_no_capability() {
    deadline(LIMIT, || in_the_background(Some(DAEMON)));
}

#[test]
fn low_passthrough_keeps_the_one_capability_that_it_needs() {
    deadline(LIMIT, || {
        let (genuine, server) = genuine();
        let spec = MountSpec::genuine(&client!(), &genuine, &server);
        let mount = spec.arg("--set=CVMFS_FUSE_PASSTHROUGH=yes").start();
        assert_works(&mount);
        let kept = only([0, SYS_ADMIN, SYS_ADMIN, 0, 0]);
        let first = mount.server();
        assert_eq!(rights(first), kept);
        kill(first, Signal::SIGKILL).unwrap();
        assert_works(&mount);
        assert_eq!(rights(mount.server()), kept);
    });
}

#[test]
fn low_a_cache_of_another_user_is_the_reason_for_the_one_capability_kept() {
    deadline(LIMIT, || {
        let (genuine, server) = genuine();
        let cache = tempfile::tempdir().unwrap();
        let theirs = cache.path().join("theirs");
        std::fs::create_dir(&theirs).unwrap();
        std::fs::set_permissions(&theirs, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .unwrap();
        std::os::unix::fs::chown(&theirs, Some(DAEMON), Some(DAEMON)).unwrap();
        let spec = MountSpec::genuine(&client!(), &genuine, &server);
        let mount = spec.arg("--alien-cache").arg(&theirs).start();
        assert_works(&mount);
        let dac_override = 1 << 1;
        assert_eq!(rights(mount.server()), only([0, dac_override, dac_override, 0, 0]));
        drop(mount);
        // One of a group takes none: root joins it.
        let shared = cache.path().join("shared");
        std::fs::create_dir(&shared).unwrap();
        tests::apart::share_directory(&shared, 4711);
        let spec = MountSpec::genuine(&client!(), &genuine, &server);
        let mount = spec.cache_dir(&shared).start();
        assert_works(&mount);
        assert_harmless(mount.server());
    });
}

#[test]
fn low_a_site_in_trouble_can_switch_the_filter_off() {
    deadline(LIMIT, || {
        let (genuine, server) = genuine();
        for (value, filters) in [("no", 0), ("log", FILTERS)] {
            let spec = MountSpec::genuine(&client!(), &genuine, &server);
            let mount = spec.arg(format!("--set=CVMFS_FUSE_SECCOMP={value}")).start();
            assert_works(&mount);
            let expected = Rights { capabilities: NONE, no_new_privileges: true, filters };
            assert_eq!(rights(mount.server()), BTreeSet::from([expected]), "{value}");
        }
    });
}

#[test]
fn low_a_mount_of_somebody_else_is_served_without_capabilities() {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::process::CommandExt as _;
    deadline(LIMIT, || {
        let (genuine, server) = genuine();
        let (directory, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let device = std::fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("x"), directory.path(), Some("fuse"), flags, Some(data.as_str())).unwrap();
        let place = format!("/dev/fd/{}", device.as_raw_fd());
        let mut command = MountSpec::genuine(&client!(), &genuine, &server)
            .command(Path::new(&place), cache.path());
        command.arg("--foreground");
        // SAFETY: fcntl(2) is async-signal-safe and touches no memory of the parent; the descriptor lives as
        // long as the command, which owns it.
        unsafe {
            command.pre_exec(move || match libc::fcntl(device.as_raw_fd(), libc::F_SETFD, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let mut child = command.spawn().unwrap();
        drop(command);
        let file = std::fs::read(directory.path().join("hello.txt"));
        let found = file.is_ok().then(|| rights(server_of(directory.path())));
        umount2(directory.path(), MntFlags::MNT_DETACH).unwrap();
        child.wait().unwrap();
        assert_eq!(file.unwrap(), b"hello cvmfs\n");
        assert_eq!(found, Some(only(NONE)));
    });
}

/// A member of the group changes the stored file after it was verified. The kernel would read that: so it is not
/// given files that others can change.
#[test]
fn low_the_kernel_is_given_no_file_that_others_can_change() {
    deadline(LIMIT, || {
        let (genuine, server) = genuine();
        let shared = tempfile::tempdir().unwrap();
        let shared = shared.path().join("cache");
        tests::apart::share_directory(&shared, 4711);
        let spec = MountSpec::genuine(&client!(), &genuine, &server);
        let mount = spec.cache_dir(&shared).arg("--set=CVMFS_FUSE_PASSTHROUGH=yes").start();
        assert_works(&mount);
        let why = "files are not passed through to the kernel: others can write to the cache";
        assert!(mount.log().contains(why), "{}", mount.log());
        assert_harmless(mount.server());
    });
}

/// Sets the stage: `$U` runs a command as nobody. `rights` prints what the kernel says of servers, one line for
/// each kind of threads that they have.
const STAGE: &str = r#"
set -eu
# Copies of the mounts of other tests, which could not end while they are here.
umount -alt fuse 2>/dev/null || true
command -v fusermount3 >/dev/null || { echo "fusermount3 is missing: apt-get install fuse3" >&2; exit 9; }
mount -t tmpfs -o mode=755,dev tmpfs "$STAGE"
mknod -m 666 "$STAGE/fuse" c 10 229
mount --bind "$STAGE/fuse" /dev/fuse
cd "$STAGE"
mkdir -p m root cache tmp
chmod 700 cache
chmod 777 tmp
cp "$CLIENT" client
cp "$KEY" key
U="setpriv --reuid 65534 --regid 65534 --clear-groups"
FLAGS="--server $SERVER --public-key $STAGE/key --cache-dir $STAGE/cache"
trap 'kill -9 $(jobs -p) 2>/dev/null || true; umount -l "$STAGE/m" 2>/dev/null || true' EXIT
wait_for() { while ! "$@"; do sleep 0.05; done; }
rights() {
    for process in /proc/[0-9]*; do
        if [ "$(readlink "$process/exe")" = "$STAGE/client" ] && grep -q 'Seccomp:.*2' "$process/status"; then
            cat "$process"/task/*/status
        fi
    done 2>/dev/null | grep -E '^(CapPrm|CapEff|CapAmb|NoNewPrivs|Seccomp_filters):' | tr '\t' ' ' | sort -u
}
"#;

#[track_caller]
fn assert_harmless_in(script: &str) {
    deadline(LIMIT, || {
        let (genuine, server) = genuine();
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
            .env("KEY", genuine.public_key())
            .env("SERVER", server.base(genuine.fqrn()))
            .output()
            .unwrap();
        let (shown, errors) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
        let none = "0000000000000000";
        let expected = format!(
            "hello cvmfs\nCapAmb: {none}\nCapEff: {none}\nCapPrm: {none}\nNoNewPrivs: 1\nSeccomp_filters: {FILTERS}\n"
        );
        assert_eq!(String::from_utf8_lossy(shown), expected, "{errors}");
    });
}

#[test]
fn low_the_server_of_a_user_has_no_capability() {
    assert_harmless_in(
        r#"
chown 65534:65534 m cache
$U timeout 30 ./client mount small.test.repo $STAGE/m $FLAGS >/dev/null
$U cat m/hello.txt
rights
$U timeout 20 ./client umount "$STAGE/m"
"#,
    );
}

const RUN: &str = r#"
$AS ./client run --repo small.test.repo --mount-root $STAGE/root $FLAGS -- sh -c \
    "cat $STAGE/root/small.test.repo/hello.txt; touch tmp/ready; while [ ! -e tmp/end ]; do sleep 0.05; done" &
wait_for [ -e tmp/ready ]
rights
touch tmp/end
wait $!
"#;

#[test]
fn low_the_servers_of_a_run_of_root_have_no_capability() {
    assert_harmless_in(&["AS=", RUN].concat());
}

#[test]
fn low_the_servers_of_a_run_of_a_user_have_no_capability_in_its_namespace() {
    assert_harmless_in(&["chown 65534:65534 cache; AS=\"$U\"", RUN].concat());
}
