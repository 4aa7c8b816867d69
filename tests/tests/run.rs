//! `cvmfs-fuse run` and `enter`: with CAP_SYS_ADMIN, and as a user in namespaces that it makes.
//!
//! Each test is a shell script in a mount namespace of its own, with a device node that users may
//! open (this machine's may be root's alone).
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::process::Command;
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::server::TestServer;
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(110);

/// Sets the stage: `$U` runs a command as nobody, `$RUN` is the program with all its flags. `$R` is
/// where the repository is mounted; below that root, which is not the user's, is a file of the host.
const STAGE: &str = r#"
set -eu
# Copies of the mounts of other tests, which could not end while they are here.
umount -alt fuse 2>/dev/null || true
mount -t tmpfs -o mode=755,dev tmpfs "$STAGE"
device() {
    mknod -m "$1" "$STAGE/fuse.$1" c 10 229
    mount --bind "$STAGE/fuse.$1" /dev/fuse
}
device 666
cd "$STAGE"
mkdir -p root/host cache tmp
echo other >root/host/file
chmod 700 cache
chmod 777 tmp
cp "$CLIENT" client
cp "$KEY" key
U="setpriv --reuid 65534 --regid 65534 --clear-groups"
RUN="$STAGE/client run --repo small.test.repo --mount-root $STAGE/root --server $SERVER --public-key $STAGE/key --cache-dir $STAGE/cache"
R="$STAGE/root/small.test.repo"
export R STAGE
as_user() { chown 65534:65534 cache; AS="$U"; }
AS=
mounted() { grep -q " $R fuse " /proc/mounts; }
processes() { pgrep -f "^$STAGE/client" >/dev/null; }
# Bounded by the test's own limit.
wait_for() { while ! "$@"; do sleep 0.05; done; }
wait_until_not() { while "$@"; do sleep 0.05; done; }
nothing_left() {
    if mounted; then echo "still mounted" >&2; exit 1; fi
    if processes; then pgrep -af "^$STAGE/client" >&2; exit 1; fi
}
# Prints the exit code of a command.
code() { local code=0; "$@" || code=$?; echo "code $code"; }
SHOW='cat $R/hello.txt; grep -E "^(Uid|Gid|Cap...|NoNewPrivs):" /proc/self/status'
trap 'kill -9 $(jobs -p) 2>/dev/null || true; umount -l "$R" 2>/dev/null || true' EXIT
"#;

/// Runs a script behind [`STAGE`]; returns what it printed on stdout and stderr.
fn run(script: &str) -> (String, String) {
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
            .env("KEY", genuine.public_key())
            .env("SERVER", server.base(genuine.fqrn()))
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}\n{shown}\n{errors}", output.status);
        (shown, errors)
    })
}

/// What `$SHOW` prints without any privilege.
fn unprivileged(uid: u32) -> String {
    let ids = format!("{uid}\t{uid}\t{uid}\t{uid}");
    let none = "0000000000000000";
    format!(
        "hello cvmfs\nUid:\t{ids}\nGid:\t{ids}\nCapInh:\t{none}\nCapPrm:\t{none}\nCapEff:\t{none}\n\
         CapBnd:\t{none}\nCapAmb:\t{none}\nNoNewPrivs:\t1\n"
    )
}

#[test]
fn root_mounts_for_the_command_alone() {
    let (shown, errors) = run(r#"
code $RUN --private-mounts -- sh -c "$SHOW; exit 7"
nothing_left
[ ! -e "$R" ]
$RUN --private-mounts -- sh -c 'touch tmp/ready; while [ ! -e tmp/end ]; do sleep 0.05; done' &
wait_for [ -e tmp/ready ]
if mounted; then echo "seen from outside"; fi
touch tmp/end
wait $!
nothing_left
"#);
    assert_eq!(shown, unprivileged(0) + "code 7\n", "{errors}");
    assert_eq!(errors, "");
}

#[test]
fn root_mounts_for_everybody_in_a_container() {
    let (shown, errors) = run(r#"
code $RUN --shared-mounts -- sh -c "$SHOW"
nothing_left
unshare -pf --kill-child --mount-proc $RUN -- sh -c 'echo $PPID; touch tmp/ready; while [ ! -e tmp/end ]; do sleep 0.05; done' &
wait_for [ -e tmp/ready ]
pid=$(cat /proc/$!/task/$!/children)
nsenter -t $pid -m -p setpriv --reuid 65534 --regid 65534 --clear-groups cat "$R/hello.txt"
touch tmp/end
wait $!
nothing_left
"#);
    assert_eq!(shown, unprivileged(0) + "code 0\n1\nhello cvmfs\n", "{errors}");
}

#[test]
fn a_user_mounts_in_namespaces_of_its_own() {
    let (shown, errors) = run(r#"
as_user
code $AS $RUN -- sh -c "$SHOW; cat $STAGE/root/host/file; id -u; pwd; exit 7"
nothing_left
[ ! -e "$R" ]
# Neither fusermount nor any other program is needed.
code $AS env -i PATH=/nonexistent $RUN -- /bin/cat "$R/hello.txt"
nothing_left
"#);
    let (first, rest) = shown.split_at(unprivileged(65534).len());
    assert_eq!(first, unprivileged(65534), "{errors}");
    let rest: Vec<_> = rest.lines().collect();
    assert_eq!((rest[0], rest[1]), ("other", "65534"), "{errors}");
    assert_eq!(rest[3..], ["code 7", "hello cvmfs", "code 0"], "{errors}");
    assert_eq!(errors, "");
}

#[test]
fn exit_codes_are_those_of_the_command() {
    for who in ["", "as_user"] {
        let (shown, errors) = run(&format!(
            r#"{who}
for command in 'exit 0' 'exit 255' 'kill -TERM $$' 'kill -KILL $$' 'kill -40 $$'; do
    code $AS $RUN -- bash -c "$command"
done
code $AS $RUN -- /nonexistent/program
code $AS $RUN -- "$STAGE/key"
nothing_left
"#
        ));
        let codes: Vec<_> = shown.lines().map(|line| line.trim_start_matches("code ")).collect();
        assert_eq!(codes, ["0", "255", "143", "137", "168", "127", "126"], "{errors}");
        assert!(errors.contains("cannot run /nonexistent/program"), "{errors}");
    }
}

#[test]
fn signals_reach_the_command() {
    for who in ["", "as_user"] {
        let (shown, errors) = run(&format!(
            r#"{who}
cat >command <<'END'
for name in INT HUP QUIT USR1 USR2 WINCH CONT RTMIN+2; do trap "echo $name >>tmp/got" $name; done
trap 'echo TERM >>tmp/got; exit 9' TERM
touch tmp/ready
while :; do sleep 0.05; done
END
env --default-signal $AS $RUN -- bash command &
wait_for [ -e tmp/ready ]
touch tmp/got
chmod 666 tmp/got
for name in INT HUP QUIT USR1 USR2 WINCH CONT RTMIN+2 TERM; do
    kill -s "$name" $!
    wait_for grep -qFx "$name" tmp/got
done
code wait $!
cat tmp/got
nothing_left
"#
        ));
        let expected = "code 9\nINT\nHUP\nQUIT\nUSR1\nUSR2\nWINCH\nCONT\nRTMIN+2\nTERM\n";
        assert_eq!(shown, expected, "{errors}");
    }
}

/// Nothing is left when `run` is killed: no mount, no server, no command.
#[test]
fn killed_without_a_chance_to_clean_up() {
    for who in ["", "RUN=\"$RUN --shared-mounts\"", "as_user"] {
        run(&format!(
            r#"{who}
$AS $RUN -- sh -c 'echo $$ >tmp/ready; exec sleep 1000' &
wait_for [ -s tmp/ready ]
case "$RUN" in *shared*) mounted ;; esac
kill -9 $!
wait_until_not processes
wait_until_not mounted
wait_until_not [ -e "/proc/$(cat tmp/ready)/exe" ]
nothing_left
"#
        ));
    }
}

/// Kills the servers of `$!`, a `run`.
const KILL_SERVERS: &str = r#"
kill_servers() {
    for child in $(cat "/proc/$1/task/$1/children"); do
        if tr '\0' ' ' <"/proc/$child/cmdline" | grep -q -e --serve; then kill -9 "$child"; fi
    done
}
"#;

/// A server that is killed has a successor: the command sees no error.
#[test]
fn a_server_that_is_killed_has_a_successor() {
    for who in ["RUN=\"$RUN --shared-mounts\"", "RUN=\"$RUN --private-mounts\"", "as_user"] {
        let (shown, errors) = run(&format!(
            r#"{KILL_SERVERS}{who}
$AS $RUN -- sh -c '
  cd $R/many; exec 3<f7; touch $STAGE/tmp/ready; n=0
  while [ ! -e $STAGE/tmp/end ]; do ls | wc -l >/dev/null || exit 9; cat f$((n % 200 + 2)) >/dev/null || exit 8; n=$((n + 1)); done
  cat f9 <&3; ls -d $PWD/f9 >/dev/null || exit 7; exit 5' &
run=$!
wait_for [ -e tmp/ready ]
for death in 1 2 3; do kill_servers $run; sleep 0.4; done
touch tmp/end
code wait $run
nothing_left
"#
        ));
        assert_eq!(shown, "file 9\ncode 5\n", "{who}: {errors}");
    }
}

/// If no successor lives, the mount ends, and the command does not.
#[test]
fn servers_that_all_die() {
    let (shown, errors) = run(&format!(
        r#"{KILL_SERVERS}
$RUN --shared-mounts -- sh -c 'touch tmp/ready; while [ ! -e tmp/end ]; do sleep 0.05; done; ls $R; exit 5' &
run=$!
wait_for [ -e tmp/ready ]
while mounted; do kill_servers $run; sleep 0.02; done
touch tmp/end
code wait $run
nothing_left
"#
    ));
    assert_eq!(shown, "code 5\n", "{errors}");
    assert!(errors.contains("servers in a row died at once"), "{errors}");
}

#[test]
fn process_1_takes_leave_of_the_dead() {
    for who in ["", "as_user"] {
        run(&format!(
            r#"{who}
unshare -pf --kill-child --mount-proc $AS $RUN -- sh -c '
  (sh -c "echo \$\$ >tmp/orphan" &)
  while [ ! -s tmp/orphan ] || [ -e /proc/$(cat tmp/orphan) ]; do sleep 0.05; done
  cat $R/hello.txt'
nothing_left
"#
        ));
    }
}

#[test]
fn without_a_device() {
    let (shown, errors) = run(r#"
mkdir dev
mknod -m 666 dev/null c 1 3
mount --bind dev /dev
code $RUN -- true
code $RUN --optional -- sh -c "cat $STAGE/root/host/file; grep CapEff /proc/self/status; exit 3"
as_user
code $AS $RUN --optional -- id -u
nothing_left
"#);
    let expected = "code 4\nother\nCapEff:\t0000000000000000\ncode 3\n65534\ncode 0\n";
    assert_eq!(shown, expected, "{errors}");
    let lines: Vec<_> = errors.lines().collect();
    assert_eq!(lines.len(), 3, "{errors}");
    for line in &lines {
        assert!(line.starts_with("cvmfs-fuse: the device /dev/fuse is missing; "), "{line}");
        assert!(line.contains("--device /dev/fuse"), "{line}");
        assert!(line.ends_with("(4 - failed to mount)"), "{line}");
    }
    assert!(!lines[0].contains("--optional") && lines[1].contains("(--optional)"), "{errors}");
}

#[test]
fn without_the_right_to_mount() {
    let (shown, errors) = run(r#"
as_user
device 600
code $AS $RUN -- true
device 660
mount --bind "$STAGE/fuse.666" /dev/fuse
code unshare -Ur sh -c "echo 0 >/proc/sys/user/max_user_namespaces; exec setpriv --bounding-set -sys_admin $RUN -- true"
code $AS $RUN --shared-mounts -- true
code $AS $STAGE/client run --repo small.test.repo --mount-root /nonexistent/x --server $SERVER --public-key $STAGE/key --cache-dir $STAGE/cache -- true
nothing_left
"#);
    assert_eq!(shown, "code 4\ncode 4\ncode 4\ncode 3\n", "{errors}");
    let lines: Vec<_> = errors.lines().collect();
    for (line, parts) in lines.iter().zip([
        ["may not be opened", "chmod 666 /dev/fuse"],
        ["CAP_SYS_ADMIN is missing, and no user namespace", "docker run: --cap-add SYS_ADMIN"],
        ["--shared-mounts", "CAP_SYS_ADMIN"],
        ["/nonexistent/x", "RUN mkdir /cvmfs"],
    ]) {
        assert!(parts.iter().all(|part| line.contains(part)), "{parts:?} not in {line}");
    }
}

#[test]
fn a_repository_that_is_not_there() {
    let (shown, errors) = run(r#"
RUN="$STAGE/client run --repo small.test.repo,none.test.repo --mount-root $STAGE/root --server ${SERVER%/*}/@fqrn@ --public-key $STAGE/key --cache-dir $STAGE/cache"
code $RUN -- cat "$R/hello.txt"
nothing_left
code $RUN --optional -- cat "$R/hello.txt"
nothing_left
"#);
    assert_eq!(shown, "code 16\nhello cvmfs\ncode 0\n", "{errors}");
    assert_eq!(errors.matches("cvmfs-fuse: none.test.repo: ").count(), 2, "{errors}");
}

#[test]
fn others_enter_the_namespaces() {
    let (shown, errors) = run(&r#"
as_user
$AS $RUN -- sh -c 'touch tmp/ready; while [ ! -e tmp/end ]; do sleep 0.05; done' &
wait_for [ -e tmp/ready ]
if $AS ls "$R" 2>/dev/null; then echo "seen from outside"; fi
cd tmp
code $AS ../client enter --pid $! -- sh -c "$SHOW; cat ../root/host/file; exit 6"
code ../client enter --pid $! -- sh -c "$SHOW"
code $AS ../client enter --pid $! -- /nonexistent/program
code setpriv --reuid 1 --regid 1 --clear-groups ../client enter --pid $! -- true
code ../client enter --pid 999999999 -- true
touch end
wait $!
nothing_left
"#
    .replace("code ../client enter --pid 9", "cd ..\ncode $STAGE/client enter --pid 9")
    .replace("touch end", "touch tmp/end"));
    let user = unprivileged(65534);
    let expected = format!("{user}other\ncode 6\n{user}code 0\ncode 127\ncode 3\ncode 3\n");
    assert_eq!(shown, expected, "{errors}");
    assert!(errors.contains("only user 65534 may"), "{errors}");
    assert!(errors.contains("--pid N"), "{errors}");
}

/// Ctrl-C goes to all of the foreground group; the command gets it once, and the servers not at all.
#[test]
fn a_terminal_interrupts_the_command_once() {
    let (shown, errors) = run(r#"
# Traps only take note: what bash returns from an exit inside of one depends on what else it
# was doing.
cat >command <<'END'
got=
ended=
trap 'got="${got}INT "' INT
trap 'ended=1' USR1
echo $$ >tmp/ready
until [ "$ended" ]; do
    sleep 0.05 || true
    [ -z "$got" ] || echo "$got" >tmp/got
done
cat $R/hello.txt
exit 4
END
input() {
    wait_for [ -s tmp/ready ]
    printf '\003'
    wait_for [ -s tmp/got ]
    # Goes the same way as a forwarded one would, and so arrives behind it.
    kill -s USR1 "$(cat /proc/"$(cat tmp/ready)"/stat | cut -d' ' -f4)"
}
# `exec`: a shell in between (script takes $SHELL or dash, by what is set) is in the foreground, too,
# and would end with 130 by itself.
input | { code script -qec "exec $RUN -- bash command" /dev/null; } | tr -d '\r'
cat tmp/got
nothing_left
"#);
    assert!(shown.ends_with("hello cvmfs\ncode 4\nINT \n"), "{shown:?} {errors}");
}

#[test]
fn root_enters_its_own_mount_namespace() {
    let (shown, errors) = run(r#"
COMMAND='touch tmp/ready; while [ ! -e tmp/end ]; do sleep 0.05; done'
$RUN --private-mounts -- sh -c "$COMMAND" &
wait_for [ -e tmp/ready ]
code $STAGE/client enter --pid $! -- sh -c "$SHOW"
touch tmp/end
wait $!
rm tmp/*
# As docker exec does it: process 1 is the default.
unshare -pf --kill-child --mount-proc $RUN -- sh -c "$COMMAND" &
wait_for [ -e tmp/ready ]
pid=$(cat /proc/$!/task/$!/children)
code nsenter -t $pid -m -p $STAGE/client enter -- sh -c "$SHOW"
touch tmp/end
wait $!
nothing_left
"#);
    let expected = (unprivileged(0) + "code 0\n").repeat(2);
    assert_eq!(shown, expected, "{errors}");
}

/// Containers run as users whose home does not exist, or is read-only.
#[test]
fn without_a_home_the_cache_is_a_temporary_directory() {
    let (shown, errors) = run(r#"
RUN="${RUN%--cache-dir *}"
chmod 1777 tmp
mkdir home
for home in "$STAGE/home" "$STAGE/home/none" ""; do
    code $U env -u XDG_CACHE_HOME HOME="$home" TMPDIR="$STAGE/tmp" $RUN -- cat "$R/hello.txt"
done
stat -c '%u %n' tmp/*
ls -A home
nothing_left
"#);
    let expected = "hello cvmfs\ncode 0\n".repeat(3) + "65534 tmp/cvmfs-fuse-65534\n";
    assert_eq!(shown, expected, "{errors}");
}
