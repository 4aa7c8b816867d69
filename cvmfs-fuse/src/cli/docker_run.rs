//! `docker-run`: the command line that nobody can remember, with the reason for each flag.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use cvmfs_core::fqrn::Fqrn;

use super::exit::{ExitStatus, Failure};
use super::shell::{join, quote};
use crate::config::environment::absolute;
use crate::config::known::KnownDomain;
use crate::config::{parse_fqrn, read_bounded};

/// Image made by `packaging/Containerfile`.
const OUR_IMAGE: &str = "cvmfs-fuse";
/// Any image with a shell will do.
const USER_IMAGE: &str = "debian:12-slim";
/// Where containers find the keys that were given.
const KEYS: &str = "/keys";
/// Most bytes of a switch of the kernel.
const SWITCH_LEN: u64 = 16;

/// `docker-run FQRN... [-- COMMAND...]`.
#[derive(Debug, Args)]
pub struct DockerRunArgs {
    /// Repositories
    #[arg(required = true, value_name = "FQRN")]
    pub repositories: Vec<OsString>,

    /// Who runs containers
    #[arg(long, value_name = "ENGINE", default_value = "docker")]
    pub engine: Engine,

    /// Where the mount is made
    #[arg(long, value_name = "MODE", default_value = "service")]
    pub mode: Mode,

    /// Image [default: cvmfs-fuse for a service, otherwise debian:12-slim]
    #[arg(long)]
    pub image: Option<String>,

    /// Servers of the repositories, as for 'mount'
    #[arg(long, value_name = "URLS")]
    pub server: Option<String>,

    /// File or directory with master keys on the host, as for 'mount'
    #[arg(long, value_name = "PATH")]
    pub public_key: Option<PathBuf>,

    /// Proxies, as for 'mount'
    #[arg(long, value_name = "PROXIES")]
    pub proxy: Option<String>,

    /// What runs in the container of the user [default: sh]
    #[arg(last = true)]
    pub command: Vec<String>,
}

/// Who runs containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// Docker
    Docker,
    /// Podman
    Podman,
}

/// Where the mount is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// In a container of its own; the host and other containers see it
    Service,
    /// In the container of the user
    Inside,
    /// In the container of the user, without privileges on the host
    Rootless,
}

/// What of the host decides about flags.
#[derive(Debug, Clone, Copy, Default)]
struct Host {
    has_apparmor: bool,
    has_selinux: bool,
}

impl Host {
    fn find() -> Self {
        let switch = |path: &str| read_bounded(Path::new(path), SWITCH_LEN).unwrap_or_default();
        Self {
            has_apparmor: switch("/sys/module/apparmor/parameters/enabled").starts_with(b"Y"),
            has_selinux: switch("/sys/fs/selinux/enforce").starts_with(b"1"),
        }
    }
}

/// Prints the command line; runs nothing.
pub(super) fn run(args: &DockerRunArgs) -> Result<ExitStatus, Failure> {
    let repositories = args.repositories.iter().map(|name| parse_fqrn(name));
    let repositories = repositories.collect::<Result<Vec<_>, _>>()?;
    let text = command_lines(args, &repositories, Host::find());
    let written = std::io::stdout().lock().write_all(text.as_bytes());
    written.map_err(|error| Failure::caused(ExitStatus::Unknown, "cannot write", &error))?;
    Ok(ExitStatus::Ok)
}

fn command_lines(args: &DockerRunArgs, repositories: &[Fqrn], host: Host) -> String {
    let mut text = String::new();
    for fqrn in repositories {
        let is_known = KnownDomain::find(fqrn.domain()).is_some();
        if !is_known && (args.server.is_none() || args.public_key.is_none()) {
            text.push_str(&format!(
                "# {fqrn}: no server is built in. Give it: --server URL --public-key FILE\n"
            ));
        }
    }
    match args.mode {
        Mode::Service => {
            text.push_str(&service(args, repositories, host));
            text.push_str(&consumer(args, host));
        }
        Mode::Inside | Mode::Rootless => text.push_str(&inside(args, repositories, host)),
    }
    text
}

/// A command in the making: flags, and why they are there.
struct Line {
    reasons: String,
    words: Vec<String>,
}

impl Line {
    fn new(args: &DockerRunArgs, flags: &str) -> Self {
        let engine = match args.engine {
            Engine::Docker => "docker",
            Engine::Podman => "podman",
        };
        Self { reasons: String::new(), words: vec![format!("{engine} run {flags}")] }
    }

    fn flag(&mut self, flag: &str, reason: &str) {
        self.reasons.push_str(&format!("# {flag}: {reason}\n"));
        self.words.push(flag.to_owned());
    }

    fn device(&mut self) {
        self.flag(
            "--device /dev/fuse",
            "the mount is a FUSE connection; nothing else of /dev is needed",
        );
    }

    fn sys_admin(&mut self, host: Host) {
        self.flag("--cap-add SYS_ADMIN", "mount(2) needs it; --privileged does not need to be");
        if host.has_apparmor {
            let reason = "this host has AppArmor, whose default profile refuses mount(2)";
            self.flag("--security-opt apparmor=unconfined", reason);
        }
    }

    fn selinux(&mut self, host: Host) {
        if host.has_selinux {
            let reason = "this host enforces SELinux, which refuses /dev/fuse and foreign volumes";
            self.flag("--security-opt label=disable", reason);
        }
    }

    fn cache(&mut self) {
        let reason = "the cache outlives the container and is shared with others";
        self.flag("-v cvmfs-cache:/var/lib/cvmfs-fuse", reason);
    }

    /// Keys are given by the host.
    fn keys(&mut self, args: &DockerRunArgs) {
        if let Some(path) = &args.public_key {
            let path = absolute(path).unwrap_or_else(|_| path.clone());
            let flag = format!("-v {}:{KEYS}:ro", quote(&path.display().to_string()));
            self.flag(&flag, "the master keys that decide whom to trust");
        }
    }

    fn end(self, tail: &str) -> String {
        format!("{}{} \\\n    {tail}\n", self.reasons, self.words.join(" \\\n    "))
    }
}

/// One container mounts all repositories, each when it is used.
fn service(args: &DockerRunArgs, repositories: &[Fqrn], host: Host) -> String {
    let mut line = Line::new(args, "-d --name cvmfs --restart on-failure");
    line.sys_admin(host);
    line.device();
    line.selinux(host);
    line.flag(
        "-v /cvmfs:/cvmfs:rshared",
        "what is mounted there appears on the host, and in all who have /cvmfs with rslave",
    );
    line.cache();
    line.keys(args);
    let image = args.image.as_deref().unwrap_or(OUR_IMAGE);
    let preparation = "\
        # On the host, as root, once; the second command only where / is not shared (with systemd it is).\n\
        mkdir -p /cvmfs\n\
        mountpoint -q /cvmfs || { mount --bind /cvmfs /cvmfs && mount --make-shared /cvmfs; }\n";
    let names: Vec<_> = repositories.iter().map(Fqrn::as_str).collect();
    let note = "# A server that dies is replaced inside, and nobody notices. If the container is killed as a \
                whole,\n# containers with rslave go on when it has been started again.\n\
                # --repo: these are listed before they are used; others are there as well, unless \
                --only-listed is added\n";
    let tail = format!(
        "{} automount --foreground --repo {}{}",
        quote(image),
        names.join(","),
        flags(args)
    );
    format!("{preparation}\n{note}{}\n", line.end(&tail))
}

/// How other containers see what a service mounts.
fn consumer(args: &DockerRunArgs, host: Host) -> String {
    let mut line = Line::new(args, "--rm -it");
    line.flag(
        "-v /cvmfs:/cvmfs:rslave",
        "repositories appear while it runs, also those that are mounted later; no privilege is needed",
    );
    line.selinux(host);
    format!(
        "# Programs, in any container:\n{}",
        line.end(&format!("{USER_IMAGE} {}", command(args)))
    )
}

fn inside(args: &DockerRunArgs, repositories: &[Fqrn], host: Host) -> String {
    let mut line = Line::new(args, "--rm -it");
    line.device();
    let in_namespace = args.mode == Mode::Rootless && args.engine == Engine::Docker;
    if in_namespace {
        line.flag(
            "--security-opt seccomp=unconfined",
            "Docker's default filter forbids user namespaces, in which the mount is made",
        );
        if host.has_apparmor {
            let reason = "this host has AppArmor, whose default profile refuses mount(2)";
            line.flag("--security-opt apparmor=unconfined", reason);
        }
    } else {
        line.sys_admin(host);
    }
    line.selinux(host);
    line.flag(
        "-v /usr/local/bin/cvmfs-fuse:/usr/bin/cvmfs-fuse:ro",
        "the static program (.ci/dist); not needed if the image has it",
    );
    line.cache();
    line.keys(args);
    let image = quote(args.image.as_deref().unwrap_or(USER_IMAGE));
    let names: Vec<_> = repositories.iter().map(Fqrn::as_str).collect();
    let mut note = String::new();
    if args.mode == Mode::Rootless && args.engine == Engine::Podman {
        note.push_str(
            "# As an ordinary user: root and SYS_ADMIN are those of your user namespace, not the host's.\n",
        );
    }
    if in_namespace {
        note.push_str(
            "# 'docker exec' does not see the mount, which is made in a user namespace:\n\
             # docker exec CONTAINER cvmfs-fuse enter -- COMMAND\n",
        );
    }
    let run = format!("cvmfs-fuse run --repo {}{}", names.join(","), flags(args));
    note + &line.end(&format!("{image} {run} -- {}", command(args)))
}

/// What the client is told in the container.
fn flags(args: &DockerRunArgs) -> String {
    let given = [
        ("--server", args.server.as_deref()),
        ("--public-key", args.public_key.as_ref().map(|_| KEYS)),
        ("--proxy", args.proxy.as_deref()),
    ];
    let given = given.into_iter().filter_map(|(name, value)| Some((name, value?)));
    given.map(|(name, value)| format!(" {name} {}", quote(value))).collect()
}

fn command(args: &DockerRunArgs) -> String {
    match args.command.is_empty() {
        true => "sh".to_owned(),
        false => join(&args.command),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::args::{Cli, Command};
    use super::*;

    fn lines(line: &str, host: Host) -> String {
        let words = ["cvmfs-fuse", "docker-run"].into_iter().chain(line.split(' '));
        let Command::DockerRun(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("{line}")
        };
        let fqrns: Vec<_> =
            args.repositories.iter().map(|name| parse_fqrn(name).unwrap()).collect();
        command_lines(&args, &fqrns, host)
    }

    /// What a shell would run: without comments and line continuations.
    fn commands(text: &str) -> String {
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        lines.join("\n").replace(" \\\n    ", " ")
    }

    #[test]
    fn each_mode_has_its_flags_and_no_others() {
        let plain = Host::default();
        let service = commands(&lines("cms.cern.ch sft.cern.ch", plain));
        for part in [
            "docker run -d --name cvmfs --restart on-failure --cap-add SYS_ADMIN \
             --device /dev/fuse -v /cvmfs:/cvmfs:rshared -v cvmfs-cache:/var/lib/cvmfs-fuse \
             cvmfs-fuse automount --foreground --repo cms.cern.ch,sft.cern.ch",
            "docker run --rm -it -v /cvmfs:/cvmfs:rslave debian:12-slim sh",
        ] {
            assert!(service.contains(part), "{part}\n{service}");
        }
        let inside =
            commands(&lines("--mode inside --image alpine cms.cern.ch -- ls -l a;b", plain));
        assert_eq!(
            inside,
            "docker run --rm -it --device /dev/fuse --cap-add SYS_ADMIN \
             -v /usr/local/bin/cvmfs-fuse:/usr/bin/cvmfs-fuse:ro \
             -v cvmfs-cache:/var/lib/cvmfs-fuse alpine \
             cvmfs-fuse run --repo cms.cern.ch -- ls -l 'a;b'"
        );
        let docker = commands(&lines("--mode rootless cms.cern.ch", plain));
        assert!(docker.contains("seccomp=unconfined") && docker.contains(" run --repo "));
        assert!(!docker.contains("SYS_ADMIN"), "{docker}");
        let podman = commands(&lines("--mode rootless --engine podman cms.cern.ch", plain));
        assert!(podman.starts_with("podman run --rm -it --device /dev/fuse --cap-add SYS_ADMIN"));
        assert!(!podman.contains("seccomp"), "{podman}");
    }

    #[test]
    fn security_modules_of_the_host_get_their_flags() {
        for (host, apparmor, selinux) in [
            (Host::default(), false, false),
            (Host { has_apparmor: true, has_selinux: false }, true, false),
            (Host { has_apparmor: false, has_selinux: true }, false, true),
        ] {
            for mode in ["service", "inside", "rootless"] {
                let text = lines(&format!("--mode {mode} cms.cern.ch"), host);
                assert_eq!(text.contains("apparmor=unconfined"), apparmor, "{text}");
                assert_eq!(text.contains("label=disable"), selinux, "{text}");
            }
        }
    }

    #[test]
    fn servers_and_keys_are_passed_on() {
        for mode in ["service", "inside", "rootless"] {
            let line =
                "--server http://h/@fqrn@;http://i --public-key /etc/keys --proxy DIRECT x.org";
            let text = commands(&lines(&format!("--mode {mode} {line}"), Host::default()));
            let flags = "--server 'http://h/@fqrn@;http://i' --public-key /keys --proxy DIRECT";
            assert!(text.contains(flags), "{text}");
            assert!(text.contains("-v /etc/keys:/keys:ro") && !text.contains('#'), "{text}");
        }
    }

    #[test]
    fn each_flag_has_its_reason() {
        for mode in ["service", "inside", "rootless"] {
            let text = lines(&format!("--mode {mode} x.example.org"), Host::default());
            assert!(text.starts_with("# x.example.org: no server is built in"), "{text}");
            let flags = text.lines().filter_map(|line| line.strip_prefix("    -"));
            for flag in flags {
                let reason = format!("# -{}:", flag.trim_end_matches(" \\"));
                assert!(text.contains(&reason), "no {reason} in {text}");
            }
        }
    }
}
