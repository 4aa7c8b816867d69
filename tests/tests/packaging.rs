//! What `packaging/` and `docker-run` promise, as far as it can be tried without a registry.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::server::TestServer;
use tests::{client, deadline};

const LIMIT: Duration = Duration::from_secs(100);

fn packaging(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(file)
}

/// The helper of mount(8), through an /etc/fstab of its own.
#[test]
fn a_line_of_fstab_mounts_a_repository() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let stage = tempfile::tempdir().unwrap();
        let script = r#"
set -eu
# Copies of the mounts of other tests, which could not end while they are here.
umount -alt fuse 2>/dev/null || true
mount -t tmpfs tmpfs "$STAGE"
cd "$STAGE"
mkdir upper work bin m cache
mount -t overlay overlay -o "lowerdir=/usr/sbin,upperdir=$STAGE/upper,workdir=$STAGE/work" /usr/sbin
cp "$HELPER" /usr/sbin/mount.cvmfs-fuse
cp "$CLIENT" bin/cvmfs-fuse
mount --bind bin /usr/local/bin
echo "small.test.repo $STAGE/m cvmfs-fuse noexec,_netdev,nofail,server=$SERVER,public-key=$KEY,cache-dir=$STAGE/cache,set=CVMFS_TIMEOUT=5 0 0" >fstab
mount --bind fstab /etc/fstab
trap 'umount -l "$STAGE/m" 2>/dev/null || true' EXIT
timeout 40 mount "$STAGE/m"
grep " $STAGE/m " /proc/mounts
cat m/hello.txt
timeout 20 umount "$STAGE/m"
! timeout 20 mount -t cvmfs-fuse small.test.repo "$STAGE/m" -o nonsense 2>err
cat err
"#;
        let output = Command::new("timeout")
            .args(["--kill-after=5", "90", "unshare", "--mount", "bash", "-c", script])
            .env("STAGE", stage.path())
            .env("CLIENT", client!().command().get_program())
            .env("HELPER", packaging("mount.cvmfs-fuse"))
            .env("KEY", genuine.public_key())
            .env("SERVER", server.base(genuine.fqrn()))
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{shown}\n{errors}");
        assert!(shown.contains(" fuse ro,nosuid,nodev,noexec"), "{shown}");
        assert!(shown.contains("hello cvmfs"), "{shown}");
        assert!(shown.contains("unknown mount option \"nonsense\""), "{shown}");
    });
}

/// The output is given to a shell, with an engine that tells what it was called with.
#[test]
fn what_docker_run_prints_is_a_script() {
    deadline(LIMIT, || {
        let stage = tempfile::tempdir().unwrap();
        let engine = "#!/bin/sh\nfor word; do printf '<%s>' \"$word\"; done; echo\n";
        for name in ["docker", "podman"] {
            let path = stage.path().join(name);
            fs::write(&path, engine).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        for (mode, engine) in [("inside", "docker"), ("rootless", "docker"), ("rootless", "podman")]
        {
            let printed = client!()
                .command()
                .args(["docker-run", "--mode", mode, "--engine", engine, "cms.cern.ch"])
                .args(["--", "python3", "-c", "print('it''s')"])
                .output()
                .unwrap();
            assert!(printed.status.success(), "{printed:?}");
            let script = String::from_utf8(printed.stdout).unwrap();
            let path = format!("{}:/usr/bin:/bin", stage.path().display());
            let ran =
                Command::new("sh").args(["-euc", &script]).env("PATH", path).output().unwrap();
            let called = String::from_utf8_lossy(&ran.stdout).into_owned();
            assert!(ran.status.success() && ran.stderr.is_empty(), "{script}\n{ran:?}");
            assert_eq!(called.lines().count(), 1, "{called}");
            for part in [
                "<run><--rm><-it>",
                "<--device></dev/fuse>",
                "<debian:12-slim>",
                "<sh><-c><mkdir -p /cvmfs/cms.cern.ch && cvmfs-fuse mount cms.cern.ch \
                 /cvmfs/cms.cern.ch && exec python3 -c ",
            ] {
                assert!(called.contains(part), "no {part} in {called}");
            }
        }
    });
}
