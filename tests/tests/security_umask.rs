//! A private cache is private whatever the umask of whoever calls, and is shared only on purpose (row H4).
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::server::TestServer;
use tests::site::shown;
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(170);

/// `$U` runs a command as a user; `make MASK WORDS` runs one with that umask, and tells which directories
/// and files of the cache others may use afterwards.
const STAGE: &str = r#"
set -eu
umount -alt fuse 2>/dev/null || true
mount -t tmpfs -o mode=755,dev tmpfs "$STAGE"
mknod -m 666 "$STAGE/fuse" c 10 229
mount --bind "$STAGE/fuse" /dev/fuse
cd "$STAGE"
mkdir m home
mkdir sockets
chown 65534:100 m home sockets
cp "$CLIENT" client
cp "$KEY" key
trap 'umount -l "$STAGE/m" 2>/dev/null || true' EXIT
R="--server $SERVER --public-key $STAGE/key --proxy DIRECT"
# fusermount3 wants an account with a name.
U="setpriv --reuid 65534 --regid 100 --clear-groups env -u XDG_CACHE_HOME -u XDG_RUNTIME_DIR HOME=$STAGE/home TMPDIR=$STAGE/home"
make() {
    mask=$1; shift
    rm -rf home/* home/.cache
    (umask $mask; $U timeout 60 "$@" >out 2>&1) || { echo "$mask $*: failed"; cat out; }
    seen=$(find home/.cache -printf x 2>/dev/null | wc -c)
    [ "$seen" -gt 3 ] || echo "$mask $*: no cache"
    find home -mindepth 1 -perm /077 ! -type l ! -type s -printf "$mask $2 %m %P\n"
}
for mask in 0000 0002 0022 0077 0777; do
"#;

fn with_each_umask(command: &str) {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let stage = tempfile::tempdir().unwrap();
        let output = Command::new("timeout")
            .args([
                "--kill-after=5",
                "160",
                "unshare",
                "--mount",
                "sh",
                "-c",
                tests::apart::WITHOUT_COPIES,
                "sh",
                "bash",
                "-c",
            ])
            .arg(format!("{STAGE}{command}\ndone\n"))
            .env("STAGE", stage.path())
            .env("CLIENT", client!().command().get_program())
            .env("KEY", genuine.public_key())
            .env("SERVER", server.base("@fqrn@"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", shown(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{}", shown(&output));
    });
}

#[test]
fn h4_mount() {
    with_each_umask(
        "make $mask ./client mount small.test.repo $STAGE/m $R; ./client umount $STAGE/m || $U ./client umount $STAGE/m",
    );
}

#[test]
fn h4_automount() {
    with_each_umask(
        "make $mask ./client automount $STAGE/m $R; $U ls m/small.test.repo >/dev/null; $U ./client umount $STAGE/m
         find home -mindepth 1 -perm /077 ! -type l ! -type s -printf \"$mask automount %m %P\\n\"",
    );
}

#[test]
fn h4_cat() {
    with_each_umask("make $mask ./client cat small.test.repo:/hello.txt $R");
}

#[test]
fn h4_preload() {
    with_each_umask("make $mask ./client preload small.test.repo $R");
}

#[test]
fn h4_cache_commands() {
    with_each_umask(
        "make $mask sh -c \"./client preload small.test.repo $R && ./client cache info && ./client cache check\"",
    );
}

#[test]
fn h4_broker() {
    with_each_umask(
        "make $mask sh -c 'timeout 10 ./client cache broker --socket $STAGE/sockets/$$.sock & \
         for i in $(seq 100); do [ -S $STAGE/sockets/$$.sock ] && break; sleep 0.05; done; kill $!; wait $! || true'",
    );
}

#[test]
fn h4_run() {
    with_each_umask(
        "make $mask ./client run --repo small.test.repo --mount-root $STAGE/m $R -- true",
    );
}

/// The command line of a user, on a cache that is there.
fn cat(genuine: &Genuine, server: &TestServer, cache: &Path) -> Output {
    let mut command = client!().command();
    command
        .args(["cat", &format!("{}:/hello.txt", genuine.fqrn())])
        .args(["--server", &server.base(genuine.fqrn()), "--proxy", "DIRECT"])
        .arg("--public-key")
        .arg(genuine.public_key())
        .arg("--cache-dir")
        .arg(cache);
    command.output().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn h4_a_group_shares_a_cache_only_on_purpose() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let scratch = tempfile::tempdir().unwrap();
        let cache = |name: &str, bits: u32| {
            let path = scratch.path().join(name);
            fs::create_dir(&path).unwrap();
            chown(&path, None, Some(5001)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
            path
        };
        for (bits, v2, words) in [
            (0o700, 0o700, ""),
            (0o755, 0o700, ""),
            // What a umask of 0002 or 0007 makes of mkdir.
            (0o775, 0o700, "chmod 700"),
            (0o770, 0o700, "chmod 2770"),
            (0o2770, 0o2770, ""),
            (0o2775, 0o2770, ""),
        ] {
            let path = cache(&format!("{bits:o}"), bits);
            let output = cat(&genuine, &server, &path);
            assert!(output.status.success(), "{bits:o}: {}", shown(&output));
            assert_eq!(mode(&path.join("v2")), v2, "{bits:o}");
            assert_eq!(mode(&path.join("v2/objects")), v2, "{bits:o}");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                said.contains(words) && (words.is_empty() == said.is_empty()),
                "{bits:o}: {said}"
            );
            assert_eq!(mode(&path), bits, "what somebody made stays as it is");
        }
        let all = cat(&genuine, &server, &cache("777", 0o777));
        assert!(shown(&all).contains("lets other users write"), "{}", shown(&all));
        assert!(!scratch.path().join("777/v2").exists());
        // One that was shared, and is not any more: nobody knows what is in it.
        let path = scratch.path().join("2770");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
        let refused = cat(&genuine, &server, &path);
        for words in ["chmod 2770 DIR", "cache wipe --cache-dir DIR"] {
            assert!(shown(&refused).contains(words), "{}", shown(&refused));
        }
    });
}

/// The neighbour of the review: a library of the victim replaced by another one.
#[test]
fn h4_a_neighbour_of_the_same_group_puts_nothing_into_a_cache() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let scratch = tempfile::tempdir().unwrap();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = scratch.path().join("cache");
        fs::create_dir(&path).unwrap();
        chown(&path, None, Some(100)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o775)).unwrap();
        let output = cat(&genuine, &server, &path);
        assert!(output.status.success(), "{}", shown(&output));
        let objects = path.join("v2/objects");
        tests::apart::as_user(1003, 100, || {
            assert!(fs::read_dir(&objects).is_err(), "a neighbour reads the cache");
            // All that is left is to take it away.
            fs::rename(path.join("v2"), path.join("away")).unwrap();
            fs::create_dir_all(path.join("v2/objects")).unwrap();
        });
        let refused = cat(&genuine, &server, &path);
        assert!(shown(&refused).contains("belongs to user 1003"), "{}", shown(&refused));
    });
}
