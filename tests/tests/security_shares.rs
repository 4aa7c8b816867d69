//! What one user of a shared mount does leaves others their share of servers and of attempts.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fixtures::publish::TestRepo;
use fixtures::server::{Gate, Rule, TestServer};
use tests::apart::private_mounts;
use tests::{MountSpec, TestMount, client, deadline, wait_until};

const LIMIT: Duration = Duration::from_secs(240);
/// Longest wait for what is about to happen.
const SOON: Duration = Duration::from_secs(60);
/// Shorter than a request waits for its turn.
const AT_ONCE: Duration = Duration::from_secs(25);
/// Every Debian has them, with these numbers: daemon and bin.
const GREEDY: u32 = 1;
const MODEST: u32 = 2;

/// Lets all users get to a mount.
fn open_to_all(mount: &TestMount) {
    let above = mount.root().ancestors().skip(1);
    for directory in above.take_while(|path| *path != std::env::temp_dir()) {
        std::fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    }
}

fn run(user: u32, program: &str, path: &Path) -> Child {
    let mut command = Command::new(program);
    command.arg(path).uid(user).gid(user);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Waits for the end of a program; tells whether it succeeded in time.
fn succeeds(mut child: Child, limit: Duration) -> bool {
    let mut status = None;
    let ended = wait_until(limit, "the end of a program", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    if ended.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    status.is_some_and(|status| status.success())
}

/// A hundred reads of one user hang; another one reads.
#[test]
fn m5_slow_reads_of_one_user_leave_turns_to_others() {
    deadline(LIMIT, || {
        private_mounts();
        let mut repo = TestRepo::new("shares.test.repo");
        for number in 0..100 {
            repo.file(format!("/f{number}"), format!("content {number}").into_bytes());
        }
        repo.file("/modest", b"modest".to_vec());
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let mount =
            MountSpec::published(&client!(), &published, &[&server]).without_prefetch().start();
        open_to_all(&mount);
        assert_eq!(std::fs::read_dir(mount.root()).unwrap().count(), 101);
        let gate = Gate::new();
        server.rule(Rule::on("*/data/*").gate(&gate));
        // Not held.
        let object = published.file_object("/modest").unwrap();
        let path = published.object_path(&object);
        let path = path.strip_prefix(published.root()).unwrap().to_str().unwrap().to_owned();
        server.rule(Rule::on(format!("*{path}")));

        let reads: Vec<_> =
            (0..100).map(|n| run(GREEDY, "cat", &mount.path(format!("f{n}")))).collect();
        assert!(gate.wait_held(48, SOON), "{} reads came through", gate.held());
        let is_read = succeeds(run(MODEST, "cat", &mount.path("modest")), AT_ONCE);
        let held = gate.held();
        gate.release();
        let all = reads.into_iter().map(|read| succeeds(read, SOON));
        let all: Vec<_> = all.collect();
        assert!(is_read, "another user was starved while {held} reads were held");
        assert!(held <= 48, "one user had {held} transfers");
        assert!(all.iter().all(|succeeded| *succeeded), "patience is rewarded");
    });
}

/// Names that no server answers for, below the automount.
#[test]
fn m5_absent_names_of_one_user_leave_attempts_to_others() {
    deadline(LIMIT, || {
        private_mounts();
        let mut repo = TestRepo::new("modest.test.repo");
        repo.file("/f", b"x".to_vec());
        let published = repo.publish();
        let server = TestServer::serving(published.root());
        let gate = Gate::new();
        server.rule(Rule::on("/absent*").gate(&gate));
        let servers = format!("{}/@fqrn@", server.url());
        let key = published.public_key();
        let spec = MountSpec::automount(&client!(), &servers, &[&key]);
        let mount = spec.arg("--set=CVMFS_TIMEOUT_DIRECT=120").start();
        open_to_all(&mount);

        let names: Vec<_> = (0..64)
            .map(|n| run(GREEDY, "stat", &mount.path(format!("absent{n}.test.repo"))))
            .collect();
        assert!(gate.wait_held(6, SOON), "{} requests came through", gate.held());
        let is_read = succeeds(run(MODEST, "cat", &mount.path("modest.test.repo/f")), AT_ONCE);
        gate.release();
        for mut name in names {
            let _ = name.kill();
            let _ = name.wait();
        }
        assert!(is_read, "another user's repository could not be opened");
    });
}
