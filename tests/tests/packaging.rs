//! What `packaging/` and `docker-run` promise, as far as it can be tried without an engine;
//! `containers.rs` has the rest.
#![allow(clippy::unwrap_used, reason = "helpers of tests may die, too")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use clap::Parser as _;
use cvmfs_fuse::cli::args::Cli;
use fixtures::genuine::Genuine;
use fixtures::server::TestServer;
use serde_json::Value;
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
cp "$CLIENT" bin/cvmfs-fuse
mount --bind bin /usr/local/bin
ln -s /usr/local/bin/cvmfs-fuse /usr/sbin/mount.cvmfs-fuse
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
            .args([
                "--kill-after=5",
                "90",
                "unshare",
                "--mount",
                "sh",
                "-c",
                tests::apart::WITHOUT_COPIES,
                "sh",
                "bash",
                "-c",
                script,
            ])
            .env("STAGE", stage.path())
            .env("CLIENT", client!().command().get_program())
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
                .args(["--", "python3", "-c", "print('its')"])
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
                "<cvmfs-fuse><run><--repo><cms.cern.ch><--><python3><-c><print('its')>",
            ] {
                assert!(called.contains(part), "no {part} in {called}");
            }
        }
    });
}

/// Runs a script in a mount namespace of its own, and returns what it printed.
#[track_caller]
fn in_private_mounts(script: &str) -> String {
    let stage = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .args([
            "--kill-after=5",
            "90",
            "unshare",
            "--mount",
            "sh",
            "-c",
            tests::apart::WITHOUT_COPIES,
            "sh",
            "bash",
            "-euc",
            script,
        ])
        .env("STAGE", stage.path())
        .env("PROJECT", tests::engines::project())
        .env("CLIENT", tests::engines::program())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (shown, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{shown}\n{errors}", output.status);
    shown + &errors
}

/// The package is installed into a root of its own, where its program runs.
#[test]
fn a_debian_package_is_made_and_installed() {
    deadline(LIMIT, || {
        let shown = in_private_mounts(
            r#"
mount -t tmpfs tmpfs "$STAGE"
deb=$("$PROJECT/.ci/deb" "$STAGE")
dpkg-deb --contents "$deb"
dpkg-deb --field "$deb" Package Version Depends Recommends
mkdir -p "$STAGE/root/var/lib/dpkg/info" "$STAGE/root/var/lib/dpkg/updates"
touch "$STAGE/root/var/lib/dpkg/status"
dpkg --root="$STAGE/root" --install "$deb"
chroot "$STAGE/root" /usr/bin/cvmfs-fuse --version
dpkg --root="$STAGE/root" --remove cvmfs-fuse
[ ! -e "$STAGE/root/usr/bin" ]
"#,
        );
        for part in [
            "-rwxr-xr-x root/root ",
            "./usr/bin/cvmfs-fuse\n",
            "./usr/sbin/mount.cvmfs-fuse -> ../bin/cvmfs-fuse\n",
            "./lib/systemd/system/cvmfs-fuse@.service\n",
            "./usr/share/doc/cvmfs-fuse/copyright\n",
            "./usr/share/bash-completion/completions/cvmfs-fuse\n",
            "./usr/share/man/man1/cvmfs-fuse-mount.1\n",
            "Package: cvmfs-fuse\n",
            "Recommends: fuse3, ca-certificates\n",
            concat!("\ncvmfs-fuse ", env!("CARGO_PKG_VERSION"), "\n"),
        ] {
            assert!(shown.contains(part), "no {part:?} in {shown}");
        }
        // One static program: nothing has to be there before.
        assert!(!shown.contains("Depends:"), "{shown}");
    });
}

/// systemd understands the unit, and finds in it what is installed.
#[test]
fn systemd_accepts_the_unit() {
    deadline(LIMIT, || {
        in_private_mounts(
            r#"
command -v systemd-analyze >/dev/null || { echo "apt-get install systemd" >&2; exit 1; }
mount -t tmpfs tmpfs "$STAGE"
mkdir "$STAGE/upper" "$STAGE/work"
mount -t overlay overlay -o "lowerdir=/usr/bin,upperdir=$STAGE/upper,workdir=$STAGE/work" /usr/bin
cp "$CLIENT" /usr/bin/cvmfs-fuse
systemd-analyze verify --man=no "$PROJECT/packaging/systemd/"*.service
"#,
        );
    });
}

/// The documents of a YAML file.
fn yaml(file: &str) -> Vec<Value> {
    let script =
        "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let output = Command::new("/usr/bin/python3")
        .args(["-c", script])
        .arg(packaging(file))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{file}: {errors} (apt-get install python3-yaml)");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// Kubernetes is not here to be asked. What it would refuse, or what would not mount, is looked for.
#[test]
fn manifests_of_kubernetes_fit_together() {
    let mut images = 0;
    for entry in fs::read_dir(packaging("kubernetes")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        for document in yaml(&format!("kubernetes/{name}")) {
            let spec = match document["kind"].as_str() {
                Some("Pod") => {
                    assert_eq!(document["apiVersion"], "v1", "{name}");
                    &document["spec"]
                }
                Some("DaemonSet") => {
                    assert_eq!(document["apiVersion"], "apps/v1", "{name}");
                    let (spec, labels) = (&document["spec"], "labels");
                    let template = &spec["template"];
                    assert_eq!(spec["selector"]["matchLabels"], template["metadata"][labels]);
                    &template["spec"]
                }
                other => panic!("{name}: {other:?}"),
            };
            let volumes: Vec<_> =
                spec["volumes"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
            let lists = ["initContainers", "containers"].map(|list| spec[list].as_array());
            for container in lists.into_iter().flatten().flatten() {
                let of = format!("{name}, container {}", container["name"]);
                let mounts: Vec<_> =
                    container["volumeMounts"].as_array().into_iter().flatten().collect();
                for mount in &mounts {
                    assert!(volumes.contains(&&mount["name"]), "{of}: {mount}");
                    if mount["mountPropagation"] == "Bidirectional" {
                        let privileged = &container["securityContext"]["privileged"];
                        assert_eq!(privileged, true, "{of}: Kubernetes refuses it");
                    }
                }
                let line = [words(&container["command"]), words(&container["args"])].concat();
                let is_ours = container["image"].as_str().unwrap().starts_with("cvmfs-fuse");
                let line = match (is_ours, line.first().map(String::as_str)) {
                    // The entry point of packaging/Containerfile.
                    (true, first) if first != Some("cvmfs-fuse") => {
                        [vec!["cvmfs-fuse".to_owned()], line].concat()
                    }
                    (_, Some("cvmfs-fuse")) => line,
                    _ => continue,
                };
                images += 1;
                let parsed = Cli::try_parse_from(&line);
                assert!(parsed.is_ok(), "{of}: {line:?}: {}", parsed.unwrap_err());
                if line.get(1).is_some_and(|word| word == "hold") {
                    continue;
                }
                let context = &container["securityContext"];
                let capable = words(&context["capabilities"]["add"]).contains(&"SYS_ADMIN".into());
                assert!(capable || context["privileged"] == true, "{of} may not mount");
                let device = container["resources"]["limits"]["squat.ai/fuse"] == 1;
                assert!(device || context["privileged"] == true, "{of} has no device");
                let cache = mounts.iter().any(|one| one["mountPath"] == "/var/lib/cvmfs-fuse");
                assert!(cache, "{of}: its cache goes with it");
            }
        }
    }
    assert!(images >= 4, "only {images} containers of ours");
}
