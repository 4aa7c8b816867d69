//! Docker: a daemon of our own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::alone::control_group;
use super::image::{ENVIRONMENT, Rootfs};
use super::shell::Shell;
use super::stage::Stage;
use super::user;
use crate::wait::wait_until;

/// Longest time that the daemon may take to answer.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A daemon with the image `img` (see [`Rootfs::make`]), a repository that its containers can
/// reach, and a shell to talk to it. It ends with its namespaces.
#[derive(Debug)]
pub struct Docker {
    /// Scripts here may say `docker`.
    pub shell: Shell,
    /// What containers mount.
    pub stage: Stage,
    /// Scratch space.
    pub scratch: PathBuf,
}

impl Docker {
    /// Starts the daemon in the present namespaces (see [`alone`](super::alone())).
    ///
    /// # Panics
    /// If it cannot be started, with what it said.
    pub fn start(scratch: &Path) -> Self {
        Self::start_with(scratch, &[])
    }

    /// As [`Self::start`]; root of the containers is an ordinary user outside.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_remapped(scratch: &Path) -> Self {
        user::make(scratch);
        Self::start_with(scratch, &["--userns-remap", user::NAME])
    }

    fn start_with(scratch: &Path, flags: &[&str]) -> Self {
        let mut shell = Shell::default();
        let socket = format!("unix://{}", scratch.join("docker.sock").display());
        shell.set("DOCKER_HOST", &socket);
        shell.set("HOME", scratch);
        shell.set("W", scratch);
        start_daemon(scratch, &socket, flags, &shell);
        let bridge = shell.ok("ip -4 -o address show docker0 | sed 's/.* inet //; s/\\/.*//'");
        let stage = Stage::serving_at(bridge.parse().expect("the bridge has an address"));
        stage.describe(&mut shell);
        build_image(scratch, &stage, &shell);
        Self { shell, stage, scratch: scratch.to_owned() }
    }
}

fn start_daemon(scratch: &Path, socket: &str, flags: &[&str], shell: &Shell) {
    let log = scratch.join("dockerd.log");
    let output = File::create(&log).expect("scratch space is ours");
    let mut daemon = Command::new("dockerd")
        .args(["--cgroup-parent", &control_group(scratch), "--host", socket])
        .arg("--data-root")
        .arg(scratch.join("docker"))
        .args(["--exec-root", "/run/docker", "--pidfile", "/run/docker.pid"])
        .args(flags)
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a descriptor is left"))
        .stderr(output)
        .spawn()
        .unwrap_or_else(|error| panic!("dockerd: {error}; apt-get install docker.io"));
    let mut ended = None;
    let answers = wait_until(START_LIMIT, "answer of dockerd", || {
        ended = daemon.try_wait().ok().flatten();
        ended.is_some() || shell.run("docker info").code == 0
    });
    let log = || fs::read_to_string(&log).unwrap_or_default();
    answers.unwrap_or_else(|timeout| panic!("{timeout}; it says:\n{}", log()));
    assert!(ended.is_none(), "dockerd does not work here: {ended:?}; it says:\n{}", log());
}

fn build_image(scratch: &Path, stage: &Stage, shell: &Shell) {
    let context = scratch.join("img");
    let root = Rootfs::make(&context.join("rootfs"), &stage.genuine.public_key());
    let environment = ENVIRONMENT.map(|line| format!("ENV {line}\n")).concat();
    let file = format!("FROM scratch\nCOPY rootfs/ /\n{environment}CMD [\"/bin/sh\"]\n");
    fs::write(context.join("Dockerfile"), file).expect("scratch space is ours");
    shell.ok("docker build -q -t img $W/img");
    fs::remove_dir_all(root.path()).expect("scratch space is ours");
}
