//! What a mount tells to everybody who may look at it: its attributes.
//!
//! The control socket tells more, but only to root and the user who mounted; checks of sites run as
//! somebody else. A child looks, since a mount that hangs lets nobody go, and is left behind then.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cli::cache::print;
use crate::cli::exit::{ExitStatus, Failure};
use crate::fuse::mountinfo::show;

/// How long all mounts together may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Longest value that is read; lists of hosts are the longest.
const MAX_VALUE: usize = 64 * 1024;
/// Longest answer of a child.
const MAX_ANSWER: u64 = 1 << 20;

/// What is seen of one repository. Values are those of the attributes, as text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Look {
    pub(super) fqrn: String,
    pub(super) version: String,
    pub(super) pid: String,
    pub(super) uptime: String,
    pub(super) revision: String,
    pub(super) root_hash: String,
    pub(super) expires: String,
    pub(super) nclg: String,
    pub(super) usedfd: String,
    pub(super) maxfd: String,
    pub(super) nioerr: String,
    pub(super) nopen: String,
    pub(super) ndiropen: String,
    pub(super) useddirp: String,
    pub(super) hitrate: String,
    pub(super) rx: String,
    pub(super) speed: String,
    pub(super) host: String,
    pub(super) proxy: String,
    /// Not empty if the newest revision is not known.
    pub(super) stale_since: String,
    /// Not empty if all repositories are below it.
    pub(super) automount: String,
    /// KiB of the cache, used and in all.
    pub(super) cache: Option<(u64, u64)>,
}

/// Why nothing is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blind {
    /// It does not let us in, is dead, or is not there.
    Refused,
    /// It did not answer in time.
    Hangs,
}

/// Looks at directories, all at once.
pub(super) fn look(directories: &[PathBuf], patience: Duration) -> Vec<Result<Look, Blind>> {
    let deadline = Instant::now() + patience;
    let started: Vec<_> = directories.iter().map(|directory| start(directory)).collect();
    started
        .into_iter()
        .map(|child| child.map_or(Err(Blind::Refused), |c| c.hear(deadline)))
        .collect()
}

struct Looking {
    child: Child,
    answer: mpsc::Receiver<Option<Look>>,
}

fn start(directory: &Path) -> Option<Looking> {
    let mut child = Command::new("/proc/self/exe")
        // Called by another name, the program is another one.
        .arg0("cvmfs-fuse")
        .args(["cvmfs_config", "look"])
        .arg(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let pipe = child.stdout.take()?;
    let (tell, answer) = mpsc::channel();
    // Ends with the child, or with us.
    std::thread::spawn(move || {
        let mut said = Vec::new();
        let heard = pipe.take(MAX_ANSWER).read_to_end(&mut said).ok();
        let _ = tell.send(heard.and_then(|_| serde_json::from_slice(&said).ok()));
    });
    Some(Looking { child, answer })
}

impl Looking {
    fn hear(mut self, deadline: Instant) -> Result<Look, Blind> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.answer.recv_timeout(left) {
            Ok(look) => {
                // It has closed its output, so it ends.
                let _ = self.child.wait();
                look.ok_or(Blind::Refused)
            }
            Err(_) => {
                // In vain if it hangs in the kernel, so it is not waited for.
                let _ = self.child.kill();
                Err(Blind::Hangs)
            }
        }
    }
}

/// What the child does.
pub(super) fn tell(directory: &Path) -> Result<ExitCode, Failure> {
    // What mounts on demand does so for this.
    let refused =
        |error: std::io::Error| Failure::caused(ExitStatus::Unknown, &show(directory), &error);
    std::fs::read_dir(directory).map_err(refused)?;
    let text = |name: &str| {
        let mut value = vec![0; MAX_VALUE];
        let name = format!("user.{name}");
        let length = rustix::fs::getxattr(directory, name.as_str(), &mut value[..]).unwrap_or(0);
        value.truncate(length);
        String::from_utf8(value).unwrap_or_default()
    };
    let cache = rustix::fs::statvfs(directory).ok().map(|found| {
        let kilobytes = |blocks: u64| blocks.saturating_mul(found.f_frsize) / 1024;
        (kilobytes(found.f_blocks.saturating_sub(found.f_bfree)), kilobytes(found.f_blocks))
    });
    let look = Look {
        fqrn: text("fqrn"),
        version: text("version"),
        pid: text("pid"),
        uptime: text("uptime"),
        revision: text("revision"),
        root_hash: text("root_hash"),
        expires: text("expires"),
        nclg: text("nclg"),
        usedfd: text("usedfd"),
        maxfd: text("maxfd"),
        nioerr: text("nioerr"),
        nopen: text("nopen"),
        ndiropen: text("ndiropen"),
        useddirp: text("useddirp"),
        hitrate: text("hitrate"),
        rx: text("rx"),
        speed: text("speed"),
        host: text("host"),
        proxy: text("proxy"),
        stale_since: text("stale_since"),
        automount: text("automount"),
        cache,
    };
    let said = serde_json::to_string(&look)
        .map_err(|error| Failure::caused(ExitStatus::Unknown, "cannot print", &error))?;
    print(&said)?;
    Ok(ExitCode::SUCCESS)
}
