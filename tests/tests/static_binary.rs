//! The static program that `.ci/dist` builds, in a root without a single file of a system: what
//! `FROM scratch` means.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use fixtures::genuine::Genuine;
use fixtures::peers::{Authority, Nginx};
use fixtures::publish::{Published, TestRepo};
use fixtures::server::TestServer;
use tests::deadline;

const LIMIT: Duration = Duration::from_secs(110);
const FQRN: &str = "static.test.repo";
/// What `.ci/dist` allows.
const MAX_LEN: u64 = 20 << 20;

/// In the new root are the program, a key, and what `docker run --device /dev/fuse` adds.
/// `inside` runs the program there; it has no shell, so all else is done from outside.
const STAGE: &str = r#"
set -eu
# Copies of the mounts of other tests, which could not end while they are here.
umount -alt fuse 2>/dev/null || true
mount -t tmpfs -o mode=755,dev tmpfs "$STAGE"
cd "$STAGE"
mkdir root root/proc root/dev root/tmp root/cvmfs root/key
cp "$PROGRAM" root/cvmfs-fuse
cp "$KEY" root/key/key.pub
mknod -m 666 root/dev/fuse c 10 229
mknod -m 666 root/dev/null c 1 3
mount -t proc proc root/proc
inside() { env -i /usr/bin/timeout 40 /usr/sbin/chroot root /cvmfs-fuse "$@"; }
REPO="--server $SERVER --public-key /key/key.pub --cache-dir /cache"
trap 'umount -l root/cvmfs 2>/dev/null || true' EXIT
"#;

fn program() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/cvmfs-fuse");
    assert!(path.exists(), "dist/cvmfs-fuse is missing: run .ci/dist first (as .ci/test does)");
    path.canonicalize().unwrap()
}

fn run(script: &str, server: &str, key: &Path) -> Output {
    let stage = tempfile::tempdir().unwrap();
    Command::new("timeout")
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
        .env("PROGRAM", program())
        .env("KEY", key)
        .env("SERVER", server)
        .output()
        .unwrap()
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}\n{shown}\n{errors}", output.status);
    shown
}

fn published() -> Published {
    let mut repo = TestRepo::new(FQRN);
    repo.file("/f", b"content".to_vec());
    repo.publish()
}

#[test]
fn it_is_one_static_file_below_its_limit() {
    let program = program();
    let metadata = program.metadata().unwrap();
    assert!(metadata.len() <= MAX_LEN, "{} bytes", metadata.len());
    assert_eq!(metadata.permissions().mode() & 0o111, 0o111);
    let ldd = Command::new("ldd").arg(&program).output().unwrap();
    let said = [ldd.stdout, ldd.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("statically linked") || said.contains("not a dynamic"), "{said}");
}

#[test]
fn it_mounts_a_genuine_repository_in_an_empty_root() {
    deadline(LIMIT, || {
        let genuine = Genuine::small();
        let server = TestServer::serving(genuine.dir());
        let output = run(
            r#"
inside mount small.test.repo /cvmfs $REPO
grep " $STAGE/root/cvmfs " /proc/mounts
cat root/cvmfs/hello.txt
find root/cvmfs | wc -l
inside cat small.test.repo:/hello.txt $REPO
inside doctor --json small.test.repo $REPO >doctor || true
grep -o '"check":"server","severity":"[a-z]*"' doctor
inside umount /cvmfs
! grep " $STAGE/root/cvmfs " /proc/mounts
inside demo --once
"#,
            &server.base(genuine.fqrn()),
            &genuine.public_key(),
        );
        let shown = succeeded(&output);
        assert!(shown.matches("hello cvmfs").count() >= 2, "{shown}");
        assert!(shown.contains("\"severity\":\"ok\""), "{shown}");
    });
}

/// Names of hosts are resolved without the system's resolver, which cannot be linked statically.
#[test]
fn it_resolves_names_by_itself() {
    deadline(LIMIT, || {
        let published = published();
        let nginx = Nginx::serving(published.root()).unwrap();
        let named = nginx.base(FQRN).replace("127.0.0.1", "mirror.example");
        let script = r#"
mkdir root/etc
echo "127.0.0.1 mirror.example" >root/etc/hosts
inside cat static.test.repo:/f $REPO
"#;
        assert_eq!(succeeded(&run(script, &named, &published.public_key())), "content");
    });
}

/// Without certificates of authorities only HTTPS fails, and says what is missing.
#[test]
fn without_certificates_only_https_is_refused_and_told_why() {
    deadline(LIMIT, || {
        let published = published();
        let (plain, authority) = (Nginx::serving(published.root()).unwrap(), Authority::new());
        let secure = Nginx::serving_tls(published.root(), &authority).unwrap();
        let key = published.public_key();
        let read = "inside cat static.test.repo:/f $REPO\n";
        assert_eq!(succeeded(&run(read, &plain.base(FQRN), &key)), "content");

        let refused = run(read, &secure.base(FQRN), &key);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(16), "{said}");
        assert!(said.contains("X509_CERT_BUNDLE") && said.contains("no certificates of"), "{said}");

        // A server that can be had without them is used, whatever is before it.
        let both = format!("{};{}", secure.base(FQRN), plain.base(FQRN));
        let quoted = "inside cat static.test.repo:/f --server \"$SERVER\" --public-key \
                      /key/key.pub --cache-dir /cache\n";
        assert_eq!(succeeded(&run(quoted, &both, &key)), "content");

        let bundle = published.root().join("bundle.pem");
        std::fs::write(&bundle, authority.pem()).unwrap();
        let trusting = format!(
            "cp {} root/key/bundle.pem\ninside cat static.test.repo:/f $REPO \
             --set X509_CERT_BUNDLE=/key/bundle.pem\n",
            bundle.display()
        );
        assert_eq!(succeeded(&run(&trusting, &secure.base(FQRN), &key)), "content");
    });
}
