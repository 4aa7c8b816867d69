//! Rootless Podman: no daemon, no privilege on the host.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::image::{ENVIRONMENT, Rootfs};
use super::shell::Shell;
use super::stage::Stage;
use super::user::{self, USER};

/// What root does before: crun finds no half of a cgroup v2, and the user has its files.
const PREPARE: &str = r#"
umount -l /sys/fs/cgroup/unified 2>/dev/null || true
tar -C "$W/img" -cf "$W/img.tar" .
chown -R "$USER:$USER" "$W/home" "$W/runtime" "$W/img.tar"
"#;

/// An engine of an ordinary user with the image `img` (see [`Rootfs::make`]), a repository that
/// containers with `--network host` can reach, and a shell of that user.
#[derive(Debug)]
pub struct Podman {
    /// Scripts here are those of the user.
    pub shell: Shell,
    /// What containers mount.
    pub stage: Stage,
    /// Scratch space.
    pub scratch: PathBuf,
}

impl Podman {
    /// Prepares the engine in the present namespaces (see [`alone`](super::alone())).
    ///
    /// # Panics
    /// If it does not work, with what it said.
    pub fn start(scratch: &Path) -> Self {
        assert!(
            Command::new("podman").arg("--version").output().is_ok(),
            "podman is missing: apt-get install podman uidmap crun"
        );
        let stage = Stage::serving_at(Ipv4Addr::LOCALHOST);
        for name in ["home", "runtime"] {
            let directory = scratch.join(name);
            fs::create_dir(&directory).expect("scratch space is ours");
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).expect("ours");
        }
        Rootfs::make(&scratch.join("img"), &stage.genuine.public_key());
        user::make(scratch);
        let mut root = Shell::default();
        root.set("W", scratch);
        root.set("USER", USER.to_string());
        root.ok(PREPARE);
        let id = USER.to_string();
        let mut shell =
            Shell::behind(&["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
        stage.describe(&mut shell);
        let home = scratch.join("home");
        shell.set("W", &home);
        shell.set("HOME", &home);
        shell.set("XDG_RUNTIME_DIR", scratch.join("runtime"));
        // What is open to all, at a path that the user gets to.
        fs::set_permissions(stage.genuine.dir(), fs::Permissions::from_mode(0o755)).expect("ours");
        chown(stage.genuine.public_key(), Some(USER), None).expect("root may");
        let environment = ENVIRONMENT.map(|line| format!("-c 'ENV {line}' ")).concat();
        shell.ok(&format!("podman import -q {environment} {}/img.tar img", scratch.display()));
        Self { shell, stage, scratch: scratch.to_owned() }
    }
}
