//! `probe`: can repositories be used, as upstream's `cvmfs_config probe` asks it.

use std::fmt::Write as _;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;

use super::mounts;
use crate::cli::cache::print;
use crate::cli::exit::{ExitStatus, Failure};
use crate::cli::site::below;
use crate::config::{Configuration, Environment, RepositoryFlags};
use crate::fuse::mountinfo::show;
use crate::talk::mounts::Found;

/// Where repositories are that are not mounted yet: asking for one mounts it, where something does.
const ROOT: &str = "/cvmfs";
/// How often children are looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// `probe [FQRN...]`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// Repositories or directories; without any, all that are mounted here
    pub repositories: Vec<PathBuf>,

    /// Longest time for all of them together
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,

    /// For 'cvmfs_config probe': without any, those of CVMFS_REPOSITORIES
    #[arg(long, hide = true)]
    pub stated: bool,

    /// For the program itself: look at this directory.
    #[arg(long, hide = true, value_name = "DIR")]
    pub at: Option<PathBuf>,
}

pub(in crate::cli) fn run(
    args: &ProbeArgs,
    environment: &Environment,
) -> Result<ExitStatus, Failure> {
    if let Some(directory) = &args.at {
        return Ok(look(directory));
    }
    let mut named = args.repositories.clone();
    let mut root = PathBuf::from(ROOT);
    if args.stated {
        let configuration = Configuration::of(&RepositoryFlags::default(), environment, None)?;
        root = configuration.text("CVMFS_MOUNT_DIR").map_or(root, PathBuf::from);
        if named.is_empty() {
            named = configuration.repositories().into_iter().map(PathBuf::from).collect();
        }
        for name in named.iter_mut().filter(|name| is_name(name)) {
            *name = configuration.full_name(name.as_os_str()).into();
        }
    }
    let places = places(&named, &root)?;
    if places.is_empty() {
        return Err(Failure::new(ExitStatus::Unknown, "nothing is mounted here"));
    }
    let children: Vec<_> = places.iter().map(|place| start(place)).collect();
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let mut outcome = ExitStatus::Ok;
    let mut text = String::new();
    for (place, child) in places.iter().zip(children) {
        let is_good = child.is_ok_and(|child| ends_well(child, deadline)) && is_repository(place);
        let word = if is_good { "OK" } else { "Failed!" };
        // Upstream's shape, which checks of sites look for.
        let _ = writeln!(text, "Probing {}... {word}", show(place));
        if !is_good {
            outcome = ExitStatus::Unknown;
        }
    }
    print(&text)?;
    Ok(outcome)
}

/// Tells a name from a path.
fn is_name(named: &Path) -> bool {
    named.components().count() == 1 && !named.is_absolute()
}

fn places(named: &[PathBuf], root: &Path) -> Result<Vec<PathBuf>, Failure> {
    let found = mounts()?;
    let known: Vec<_> = found
        .iter()
        .flat_map(|found| found.status.iter().flatten())
        .map(|status| (Path::new(&status.repository), status.mountpoint.clone()))
        .collect();
    if named.is_empty() {
        // Who does not tell us, or has nothing open, is looked at.
        let untold = |found: &&Found| found.status.as_ref().map_or(true, Vec::is_empty);
        let mut silent: Vec<_> =
            found.iter().filter(untold).map(|found| found.mount.mountpoint.clone()).collect();
        let mut places: Vec<_> = known.iter().map(|(_, at)| at.clone()).collect();
        for root in below::of(&silent) {
            let listed = below::listed(&root);
            if !listed.is_empty() {
                silent.retain(|place| *place != root);
            }
            places.extend(listed);
        }
        places.extend(silent);
        return Ok(places);
    }
    let place = |name: &PathBuf| match known.iter().find(|(repository, _)| *repository == name) {
        Some((_, at)) => Ok(at.clone()),
        None if is_name(name) => {
            Ok(below::find(name.as_os_str())?.unwrap_or_else(|| root.join(name)))
        }
        None => Ok(name.clone()),
    };
    named.iter().map(place).collect()
}

/// A directory that hangs must not keep us: a child looks, and is left behind.
fn start(place: &Path) -> io::Result<Child> {
    Command::new("/proc/self/exe")
        // Called by another name, the program is another one.
        .arg0("cvmfs-fuse")
        .args(["probe", "--at"])
        .arg(place)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

fn ends_well(mut child: Child, deadline: Instant) -> bool {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if Instant::now() < deadline => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "waits for a child, with a deadline"
                )]
                std::thread::sleep(PAUSE);
            }
            _ => {
                // In vain if it hangs in the kernel.
                let _ = child.kill();
                return false;
            }
        }
    }
}

/// After it was looked at: something that mounts on demand has done so.
fn is_repository(place: &Path) -> bool {
    let found = crate::talk::mounts::of_path(place);
    // The root of a container may be FUSE as well.
    found.is_ok_and(|found| found.is_some_and(|(mount, _)| mount.mountpoint != Path::new("/")))
}

/// What the child does.
fn look(directory: &Path) -> ExitStatus {
    let listed =
        std::fs::read_dir(directory).and_then(|mut entries| entries.try_for_each(|e| e.map(drop)));
    let counted = rustix::fs::statvfs(directory);
    match (listed, counted) {
        (Ok(()), Ok(_)) => ExitStatus::Ok,
        _ => ExitStatus::Unknown,
    }
}
