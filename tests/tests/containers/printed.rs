//! The command lines that `cvmfs-fuse docker-run` prints, run as they are printed.

use tests::engines::{Checks, Docker, Podman, Shell, alone};

use crate::LIMIT;

/// Runs what is printed for `$1...` in a terminal, as it is printed; but the host's `/cvmfs`, which
/// is not ours, is somewhere else. The terminal shows that there is no more input as `^@`.
const PRINTED: &str = r#"
printed() {
    "$CLIENT" docker-run $F --server "$URL/@fqrn@" --public-key $KEY "$@" >$W/printed
    sed -i "s|-v /cvmfs:|-v $W/cvmfs:|; /^mkdir\|^mountpoint/s|/cvmfs|$W/cvmfs|g" $W/printed
    script -qec "bash -eu $W/printed" /dev/null | tr -d '\r' | sed 's/^\^@//'
}
"#;

fn printed(sh: &Shell, rest: &str) -> String {
    sh.ok(&[PRINTED, rest].concat())
}

/// The program of the host is where the printed lines look for it.
fn install(sh: &Shell) {
    sh.ok("mkdir $W/bin && cp $CLIENT $W/bin/cvmfs-fuse && mount --bind $W/bin /usr/local/bin");
}

#[test]
fn docker() {
    alone("printed::docker", LIMIT, |scratch| {
        let docker = Docker::start(scratch);
        let mut sh = docker.shell.clone();
        sh.set("URL", docker.stage.server.url());
        install(&sh);
        sh.ok("docker tag img debian:12-slim");
        sh.ok("docker build -q -f $PROJECT/packaging/Containerfile -t cvmfs-fuse $PROJECT");
        let used = docker.stage.used();
        Checks::run(|checks| {
            checks.check("--mode service", || {
                // The first container is in the background, the second one uses what it mounts.
                let wait = "until [ -e $R/hello.txt ]; do sleep 0.1; done";
                let said =
                    sh.ok(&[PRINTED, &format!("printed -- sh -c '{wait}; '\"$USE\" | tail -n 3")]
                        .concat());
                assert_eq!(said, used);
                sh.ok("docker stop -t 30 cvmfs");
            });
            for mode in ["inside", "rootless"] {
                checks.check(&format!("--mode {mode}"), || {
                    let said = printed(&sh, &format!("printed --mode {mode} -- sh -c \"$USE\""));
                    assert_eq!(said, used);
                });
            }
        });
    });
}

#[test]
fn podman() {
    alone("printed::podman", LIMIT, |scratch| {
        let podman = Podman::start(scratch);
        let mut root = Shell::default();
        podman.stage.describe(&mut root);
        root.set("W", &podman.scratch);
        install(&root);
        let mut sh = podman.shell.clone();
        sh.set("URL", podman.stage.server.url());
        sh.ok("podman tag img debian:12-slim");
        // The server of the test is on loopback; real ones are not.
        sh.ok("mkdir -p $W/.config/containers && printf '[containers]\\nnetns = \"host\"\\n' >$W/.config/containers/containers.conf");
        Checks::run(|checks| {
            for mode in ["inside", "rootless"] {
                checks.check(&format!("--mode {mode}"), || {
                    let line = format!("printed --engine podman --mode {mode} -- sh -c \"$USE\"");
                    assert_eq!(printed(&sh, &line), podman.stage.used());
                });
            }
        });
    });
}
