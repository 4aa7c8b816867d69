//! `cvmfs-fuse run` as the entry point of a container.

use std::time::{Duration, Instant};

use fixtures::server::{Network, TestServer};
use tests::engines::{Checks, Docker, Podman, Said, Shell, alone};

use crate::LIMIT;

/// Starts a container `box` in the background and waits until its command runs.
const START: &str = r#"
start() {
    $ENGINE rm -f box >/dev/null 2>&1 || true
    $ENGINE run -d --name box "$@" >/dev/null
    until $ENGINE logs box 2>&1 | grep -q ready; do
        [ "$($ENGINE inspect -f '{{.State.Running}}' box)" = true ] || { $ENGINE logs box >&2; exit 1; }
        sleep 0.1
    done
}
"#;

#[track_caller]
fn fails(said: &Said, code: i32, parts: &[&str]) {
    assert_eq!(said.code, code, "{said:?}");
    for part in parts {
        assert!(said.err.contains(part), "no {part:?} in {said:?}");
    }
}

/// Without a way to mount, the message names what is missing.
fn refusals(checks: &mut Checks, sh: &Shell, engine: &str) {
    checks.check("without the device, the message names its flag", || {
        let said = sh.run("$ENGINE run --rm $NET --cap-add SYS_ADMIN img $RUN -- cat $R/hello.txt");
        fails(&said, 4, &["/dev/fuse is missing", &format!("{engine} run: --device /dev/fuse")]);
    });
    checks.check("--optional runs the command all the same, and says why it is without", || {
        let said = sh.run("$ENGINE run --rm $NET img $RUN --optional -- sh -c 'ls $R; exit 7'");
        fails(&said, 7, &["--device /dev/fuse", "(--optional)", "No such file or directory"]);
    });
}

/// A daemon that dies, and a network that goes away.
fn troubles(checks: &mut Checks, sh: &Shell, server: &TestServer) {
    checks.check("its server is killed three times, and the command does not notice", || {
        let script = r#"
start $NET $GRANT img $RUN -- sh -c 'exec 3<$R/hello.txt; echo ready
while [ ! -e /tmp/end ]; do cat $R/hello.txt >/dev/null && ls $R/bin >/dev/null || exit 1; done; cat <&3; exit 5'
servers() { $ENGINE exec box sh -c 'grep -la "[-]-caller" /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3 | tr "\n" " "'; }
for i in 1 2 3; do
    old=$(servers)
    $ENGINE exec box sh -c "kill -9 $old"
    until now=$(servers) && [ -n "$now" ] && [ "$now" != "$old" ]; do sleep 0.05; done
done
$ENGINE exec box touch /tmp/end
$ENGINE wait box
$ENGINE logs box
"#;
        assert_eq!(sh.ok(&[START, script].concat()), "5\nready\nhello cvmfs");
    });
    checks.check("the network goes away and comes back", || {
        sh.ok(&[START, "start $NET $GRANT img $RUN --set CVMFS_MAX_RETRIES=0 -- sh -c 'cat $R/hello.txt; echo ready; exec sleep 1000'"].concat());
        let read = |file: &str| {
            sh.run(&format!("$ENGINE exec box cvmfs-fuse enter -- cat $R/{file} | md5sum"))
        };
        let known = read("hello.txt");
        assert_eq!(known.code, 0, "{known:?}");
        server.set_network(Network::Refusing);
        assert_eq!(read("hello.txt").out, known.out, "what is there is served");
        fails(&read("random.bin"), 1, &["Input/output error"]);
        server.set_network(Network::Up);
        let end = Instant::now() + Duration::from_secs(30);
        while read("random.bin").code != 0 {
            assert!(Instant::now() < end, "{:?}", read("random.bin"));
        }
    });
}

/// What does not depend on how the mount is made.
fn behaviour(checks: &mut Checks, sh: &Shell, used: &str) {
    checks.check("lists and runs software", || {
        assert_eq!(sh.ok("$ENGINE run --rm $NET $GRANT img $RUN -- sh -c \"$USE\""), used);
    });
    checks.check("a file, as in the documentation", || {
        let line = "$ENGINE run --rm $NET $GRANT img $RUN -- sh -c \
                    'cat /cvmfs/small.test.repo/hello.txt'";
        assert_eq!(sh.ok(line), "hello cvmfs");
    });
    checks.check("exit codes are those of the command", || {
        for (command, code) in [("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
            let said =
                sh.run(&format!("$ENGINE run --rm $NET $GRANT img $RUN -- sh -c '{command}'"));
            assert_eq!(said.code, code, "{command}: {said:?}");
        }
        let said = sh.run("$ENGINE run --rm $NET $GRANT img $RUN -- /nonexistent/program");
        fails(&said, 127, &["cannot run /nonexistent/program"]);
    });
    checks.check("a stop reaches the command, and ends the container at once", || {
        let start = Instant::now();
        let said = sh.ok(&[START, r#"
start $NET $GRANT img $RUN -- sh -c 'trap "echo stopped; exit 9" TERM; echo ready; while :; do sleep 0.1; done'
$ENGINE stop -t 50 box >/dev/null
$ENGINE logs box
$ENGINE inspect -f '{{.State.ExitCode}}' box
$ENGINE rm -f box >/dev/null
"#]
        .concat());
        assert_eq!(said, "ready\nstopped\n9");
        assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    });
    checks.check("a command that does not care for signals is stopped, too", || {
        let said = sh.ok(&[
            START,
            r#"
start $NET $GRANT img $RUN -- sh -c 'echo ready; exec sleep 1000'
$ENGINE stop -t 50 box >/dev/null
$ENGINE inspect -f '{{.State.ExitCode}}' box
$ENGINE rm -f box >/dev/null
"#,
        ]
        .concat());
        assert_eq!(said, "143");
    });
    checks.check("a read-only root file system", || {
        let said = sh
            .ok("$ENGINE run --rm $NET $GRANT --read-only --tmpfs /tmp img $RUN -- sh -c \"$USE\"");
        assert_eq!(said, used);
    });
    checks.check("the command has no capability, and can gain none", || {
        let script = "grep -E \"^(Cap(Prm|Eff|Bnd)|NoNewPrivs):\" /proc/self/status";
        let said = sh.ok(&format!("$ENGINE run --rm $NET $GRANT img $RUN -- sh -c '{script}'"));
        let none = "0000000000000000";
        let expected = format!("CapPrm:\t{none}\nCapEff:\t{none}\nCapBnd:\t{none}\nNoNewPrivs:\t1");
        assert_eq!(said, expected);
    });
}

/// Whoever comes into a running container sees the mount, by `exec` alone or with `enter`.
fn visible(checks: &mut Checks, sh: &Shell, used: &str, how: &str, exec: &str) {
    checks.check(&format!("others who come into the container see it, with {how}"), || {
        let script = format!(
            "start $NET $GRANT img $RUN -- sh -c 'echo ready; exec sleep 1000'\n\
             $ENGINE exec box {exec} sh -c \"$USE\"\n\
             $ENGINE exec box {exec} sh -c 'exit 6' || echo code $?\n\
             $ENGINE rm -f box >/dev/null\n"
        );
        assert_eq!(sh.ok(&[START, &script].concat()), format!("{used}\ncode 6"));
    });
}

#[test]
fn docker_with_a_capability() {
    alone("entry_point::docker_with_a_capability", LIMIT, |scratch| {
        let docker = Docker::start(scratch);
        let used = docker.stage.used();
        let mut sh = docker.shell.clone();
        sh.set("ENGINE", "docker");
        sh.set("NET", "");
        sh.set("GRANT", "--cap-add SYS_ADMIN --device /dev/fuse");
        Checks::run(|checks| {
            behaviour(checks, &sh, &used);
            visible(checks, &sh, &used, "docker exec", "");
            visible(checks, &sh, &used, "docker exec and enter", "cvmfs-fuse enter --");
            troubles(checks, &sh, &docker.stage.server);
            refusals(checks, &sh, "docker");
            checks.check("without the capability, the message names its flag", || {
                let said =
                    sh.run("docker run --rm --device /dev/fuse img $RUN -- cat $R/hello.txt");
                fails(&said, 4, &["CAP_SYS_ADMIN is missing", "docker run: --cap-add SYS_ADMIN"]);
            });
            checks.check("without any place for a cache, it says so", || {
                let said =
                    sh.run("docker run --rm $GRANT --read-only img $RUN -- cat $R/hello.txt");
                fails(&said, 9, &["Read-only file system", "--cache-dir"]);
            });
            checks.check("below an init", || {
                let line = "docker run --rm $GRANT --init img $RUN -- sh -c \"$USE\"";
                assert_eq!(sh.ok(line), used);
            });
            checks.check("privileges cannot be gained, by order of the engine", || {
                let line = "docker run --rm $GRANT --security-opt no-new-privileges img $RUN -- sh -c \"$USE\"";
                assert_eq!(sh.ok(line), used);
            });
        });
    });
}

#[test]
fn docker_without_capability() {
    alone("entry_point::docker_without_capability", LIMIT, |scratch| {
        let docker = Docker::start(scratch);
        let used = docker.stage.used();
        let mut sh = docker.shell.clone();
        sh.set("ENGINE", "docker");
        sh.set("NET", "");
        sh.set("GRANT", "--device /dev/fuse --security-opt seccomp=unconfined");
        Checks::run(|checks| {
            behaviour(checks, &sh, &used);
            visible(checks, &sh, &used, "docker exec and enter", "cvmfs-fuse enter --");
            troubles(checks, &sh, &docker.stage.server);
            let mut user = sh.clone();
            user.set("GRANT", "--device /dev/fuse --security-opt seccomp=unconfined --user 1001");
            checks.check("an ordinary user is that user in the command", || {
                let line = "docker run --rm $GRANT img $RUN -- sh -c \"id -u; $USE\"";
                assert_eq!(user.ok(line), format!("1001\n{used}"));
            });
            visible(checks, &user, &used, "enter, as that user", "cvmfs-fuse enter --");
            user.set("GRANT", "--device /dev/fuse --cap-add SYS_ADMIN --user 1001");
            checks.check("an ordinary user, with a capability that does not reach it", || {
                let line = "docker run --rm $GRANT img $RUN -- sh -c \"id -u; $USE\"";
                assert_eq!(user.ok(line), format!("1001\n{used}"));
            });
        });
    });
}

#[test]
fn docker_with_remapped_users() {
    alone("entry_point::docker_with_remapped_users", LIMIT, |scratch| {
        let docker = Docker::start_remapped(scratch);
        let used = docker.stage.used();
        let mut sh = docker.shell.clone();
        sh.set("ENGINE", "docker");
        sh.set("NET", "");
        sh.set("GRANT", "--cap-add SYS_ADMIN --device /dev/fuse");
        Checks::run(|checks| {
            checks.check("root of the container is somebody else outside", || {
                let map = sh.ok("docker run --rm img cat /proc/self/uid_map");
                assert!(!map.split_whitespace().eq(["0", "0", "4294967295"]), "{map}");
            });
            checks.check("lists and runs software", || {
                let line = "docker run --rm $GRANT img $RUN -- sh -c \"$USE\"";
                assert_eq!(sh.ok(line), used);
            });
            visible(checks, &sh, &used, "docker exec", "");
        });
    });
}

#[test]
fn podman_rootless() {
    alone("entry_point::podman_rootless", LIMIT, |scratch| {
        let podman = Podman::start(scratch);
        let used = podman.stage.used();
        let mut sh = podman.shell.clone();
        sh.set("ENGINE", "podman");
        sh.set("NET", "--network host");
        sh.set("GRANT", "--device /dev/fuse");
        let mut capable = sh.clone();
        capable.set("GRANT", "--device /dev/fuse --cap-add SYS_ADMIN");
        Checks::run(|checks| {
            behaviour(checks, &sh, &used);
            visible(checks, &sh, &used, "podman exec and enter", "cvmfs-fuse enter --");
            visible(checks, &capable, &used, "podman exec", "");
            troubles(checks, &sh, &podman.stage.server);
            refusals(checks, &sh, "podman");
            checks.check("an ordinary user is that user in the command", || {
                let line =
                    "podman run --rm $NET $GRANT --user 1001 img $RUN -- sh -c \"id -u; $USE\"";
                assert_eq!(sh.ok(line), format!("1001\n{used}"));
            });
        });
    });
}
