//! `cvmfs-fuse hold`: a mount outlives the container that serves it, for those who use it from
//! other mount namespaces.
//!
//! Containers are pid and mount namespaces. Each test is a shell script in a mount namespace of its
//! own.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::process::Command;
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::server::TestServer;
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(110);

/// `$M` is where the repository is mounted, below a mount that containers share with us.
const STAGE: &str = r#"
set -eu
umount -alt fuse 2>/dev/null || true
mount -t tmpfs -o mode=755 tmpfs "$STAGE"
cd "$STAGE"
mkdir -p volume shared hold cache
chown 1001 hold
cp "$CLIENT" client
cp "$KEY" key
chmod 755 client
mount --bind shared shared
mount --make-shared shared
mkdir -p shared/m
M="$STAGE/shared/m"
export M STAGE
SOCKET="$STAGE/hold/s"
# Nobody, without anything, as in a container with --cap-drop ALL --network none.
hold() {
    unshare --net setpriv --reuid 1001 --regid 1001 --clear-groups --bounding-set=-all --no-new-privs \
        ./client hold --socket "$SOCKET" --deadline "$1" >hold.log 2>&1 &
    HOLDER=$!
    wait_for [ -e "$SOCKET" ]
}
MOUNT="$STAGE/client mount small.test.repo $M --server $SERVER --public-key $STAGE/key --cache-dir $STAGE/cache --holder $SOCKET --holder-user 1001"
# The mounts of this container are ours, too.
serve() { unshare --mount --propagation unchanged -pf --kill-child --mount-proc $MOUNT --foreground >>serve.log 2>&1 & }
# This one sees none of them, and may do nothing. The device is not there.
take_over() {
    unshare --mount --propagation private -pf --kill-child --mount-proc sh -c 'mount --bind /dev/null /dev/fuse; umount -l "$M"
        exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"' sh $MOUNT --foreground >>serve.log 2>&1 &
}
pid_1_of() { cat "/proc/$1/task/$1/children"; }
# Bounded by the test's own limit.
wait_for() { while ! "$@"; do sleep 0.05; done; }
mounted() { grep -q " $M fuse " /proc/mounts; }
said() { grep -q "$1" hold.log; }
# Another container, with private propagation, inside the mount.
user() {
    unshare --mount --propagation private bash -c '
        cd $M/many; exec 3<f7; n=0; touch $STAGE/reading
        while [ ! -e $STAGE/end ]; do
            [ "$(cat f$((n % 190 + 2)))" = "file $((n % 190 + 2))" ] || exit 9
            [ $(ls | wc -l) -ge 3000 ] || exit 8
            n=$((n + 1)); echo $n >$STAGE/count
        done
        cat <&3; pwd -P | sed "s|$STAGE||"' &
    USER=$!
    wait_for [ -e reading ]
}
goes_on() { local before; before=$(cat count 2>/dev/null || echo 0); while [ "$(cat count 2>/dev/null || echo 0)" -le $((before + 1)) ]; do sleep 0.05; done; }
trap 'kill -9 $(jobs -p) 2>/dev/null || true; umount -l "$M" 2>/dev/null || true' EXIT
"#;

fn run(script: &str) -> (String, String) {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let stage = tempfile::tempdir().unwrap();
        let output = Command::new("timeout")
            .args(["--kill-after=5", "100", "unshare", "--mount", "--propagation", "private"])
            .args(["sh", "-c", tests::apart::WITHOUT_COPIES, "sh", "bash", "-c"])
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

#[test]
fn the_next_container_goes_on_with_the_mount_of_a_killed_one() {
    let (shown, errors) = run(r#"
hold 60
serve
first=$!
wait_for mounted
user
goes_on
# Supervisor and server at once, with their namespaces.
kill -9 $(pid_1_of $first)
wait_for said "left alone"
take_over
goes_on
said "taken over"
# A container that is stopped leaves the mount, too.
kill -TERM $(pid_1_of $!)
wait $! || echo "code $?"
take_over
last=$!
goes_on
# A holder that is restarted is told again.
kill $HOLDER; wait $HOLDER || true
hold 60
wait_for said "held from now on"
kill -9 $(pid_1_of $last)
wait_for said "left alone"
take_over
last=$!
goes_on
touch end
wait $USER
# Nobody uses it any more.
umount "$M"
wait $last || echo "code $?"
wait_for said ended
"#);
    assert_eq!(shown, "file 7\n/shared/m/many\n", "{errors}");
}

#[test]
fn users_of_a_mount_that_nobody_comes_for_get_errors() {
    let (shown, _) = run(r#"
hold 1
serve
wait_for mounted
kill -9 $(pid_1_of $!)
# Until then the server may still answer.
wait $! || true
cat "$M/many/f150" 2>&1 | sed 's/.*: //'
said "nobody came within 1 s"
# From there on all begins again.
serve
served_twice() { [ "$(grep -c "CernVM-FS: mounted" serve.log)" = 2 ]; }
wait_for served_twice
kill -INT $(pid_1_of $!)
wait $! || echo "code $?"
if mounted; then echo "still mounted"; fi
"#);
    // Some versions of cat say it of the read and once more of the end.
    let errors = ["Transport endpoint is not connected", "Software caused connection abort"];
    let said: Vec<_> = shown.lines().collect();
    assert!(!said.is_empty() && said.iter().all(|line| errors.contains(line)), "{shown}");
}
