//! Mounts without root: with fusermount3, and in a user namespace. Everything happens in a mount
//! namespace of its own, with a device node that users may open; this machine's is root's.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::process::Command;
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::server::TestServer;
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(100);

/// Sets the stage and leaves the program at ./client; `$U` runs a command as nobody.
const STAGE: &str = r#"
set -eu
# Copies of the mounts of other tests, which could not end while they are here.
umount -alt fuse 2>/dev/null || true
mount -t tmpfs -o mode=755,dev tmpfs "$STAGE"
mknod -m 666 "$STAGE/fuse" c 10 229
mount --bind "$STAGE/fuse" /dev/fuse
cd "$STAGE"
mkdir m cache
chown 65534:65534 m cache
chmod 700 cache
cp "$CLIENT" client
cp "$KEY" key
U="setpriv --reuid 65534 --regid 65534 --clear-groups"
trap 'umount -l "$STAGE/m" 2>/dev/null || true' EXIT
MOUNT="timeout 30 ./client mount small.test.repo $STAGE/m --server $SERVER --public-key key --cache-dir $STAGE/cache"
"#;

const WITH_FUSERMOUNT: &str = r#"
command -v fusermount3 >/dev/null || { echo "fusermount3 is missing: apt-get install fuse3"; exit 9; }
$U $MOUNT
grep " $STAGE/m " /proc/mounts
$U cat m/hello.txt
if $U cat m/modes/f0600 2>/dev/null; then echo "a user reads a file of root"; fi
if cat m/hello.txt 2>/dev/null; then echo "others, even root, see the mount of a user"; fi
$U timeout 20 ./client umount "$STAGE/m"
if grep " $STAGE/m " /proc/mounts; then echo "still mounted"; fi
"#;

const IN_A_NAMESPACE: &str = r#"
$U unshare -Urm sh -euc "
  $MOUNT
  grep ' $STAGE/m ' /proc/mounts
  cat m/hello.txt
  timeout 20 ./client umount $STAGE/m
  if grep ' $STAGE/m ' /proc/mounts; then echo 'still mounted'; fi
"
"#;

fn run(script: &str, expected_options: &str) {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let stage = tempfile::tempdir().unwrap();
        let path = stage.path().to_str().unwrap();
        let output = Command::new("timeout")
            .args([
                "--kill-after=5",
                "80",
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
            .env("STAGE", path)
            .env("CLIENT", client!().command().get_program())
            .env("KEY", genuine.public_key())
            .env("SERVER", server.base(genuine.fqrn()))
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{shown}{errors}");
        let expected = format!(
            "CernVM-FS: mounted cvmfs on {path}/m\n\
             cvmfs2 {path}/m fuse ro,nosuid,nodev,relatime,{expected_options} 0 0\n\
             hello cvmfs\n"
        );
        assert_eq!(shown, expected, "{errors}");
    });
}

#[test]
fn with_fusermount3() {
    run(WITH_FUSERMOUNT, "user_id=65534,group_id=65534,default_permissions");
}

#[test]
fn in_a_user_namespace() {
    run(IN_A_NAMESPACE, "user_id=0,group_id=0,default_permissions,allow_other");
}
