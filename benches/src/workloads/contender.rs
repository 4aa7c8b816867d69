//! Those who are measured: each makes the tree appear somewhere.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::disk::{Disk, run};
use super::tree::FQRN;

/// Without a byte more for so long, nothing is on its way.
const SETTLED: Duration = Duration::from_millis(500);

/// Who shows the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Contender {
    /// The directory itself, on ext4.
    Native,
    /// `cvmfs-fuse`.
    Ours,
    /// Upstream's client.
    Cvmfs2,
}

impl Contender {
    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Ours => "ours",
            Self::Cvmfs2 => "cvmfs2",
        }
    }
}

/// Where everything is.
#[derive(Debug)]
pub struct Place {
    /// Holds native tree and caches.
    pub disk: Disk,
    /// Where repositories are mounted.
    pub mountpoint: PathBuf,
    /// The program that is measured.
    pub program: PathBuf,
    /// The master key.
    pub key: PathBuf,
    /// More flags of `mount`.
    pub flags: Vec<String>,
}

impl Place {
    /// Where the tree is native.
    pub fn native(&self) -> PathBuf {
        self.disk.root().join("native")
    }

    /// The cache of a contender.
    pub fn cache(&self, who: Contender) -> PathBuf {
        self.disk.root().join(format!("cache-{}", who.name()))
    }

    /// Removes a cache.
    pub fn wipe(&self, who: Contender) -> io::Result<()> {
        run(Command::new("rm").arg("-rf").arg(self.cache(who)))
    }

    /// Makes the tree appear and returns where; `server` is the URL of the server's root.
    pub fn show(&self, who: Contender, server: &str) -> io::Result<PathBuf> {
        match who {
            Contender::Native => return Ok(self.native()),
            Contender::Ours => {
                let mut mount = Command::new(&self.program);
                mount.args(["mount", FQRN]).arg(&self.mountpoint);
                mount.arg("--server").arg(format!("{server}/@fqrn@"));
                mount.arg("--public-key").arg(&self.key).args(["--proxy", "DIRECT"]);
                mount.arg("--cache-dir").arg(self.cache(who)).args(&self.flags);
                // Its background process must not hold a pipe of ours.
                mount.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
                let status = mount.status()?;
                if !status.success() {
                    return Err(io::Error::other(format!("cvmfs-fuse mount: {status}")));
                }
            }
            Contender::Cvmfs2 => {
                let cache = self.cache(who);
                std::fs::create_dir_all(&cache)?;
                let config = cache.join("bench.conf");
                std::fs::write(
                    &config,
                    format!(
                        "CVMFS_SERVER_URL={server}/@fqrn@\nCVMFS_HTTP_PROXY=DIRECT\n\
                         CVMFS_PUBLIC_KEY={}\nCVMFS_CACHE_BASE={}\nCVMFS_RELOAD_SOCKETS={}\n\
                         CVMFS_QUOTA_LIMIT=20000\nCVMFS_CACHE_SYMLINKS=yes\n\
                         CVMFS_CACHE_REFCOUNT=yes\nCVMFS_CLAIM_OWNERSHIP=no\n",
                        self.key.display(),
                        cache.display(),
                        cache.display(),
                    ),
                )?;
                let options = format!("config={},allow_other", config.display());
                run(Command::new("cvmfs2").args(["-o", &options, FQRN]).arg(&self.mountpoint))?;
            }
        }
        Ok(self.mountpoint.clone())
    }

    /// Takes the tree away and waits until nobody holds the cache.
    pub fn hide(&self, who: Contender) -> io::Result<()> {
        match who {
            Contender::Native => Ok(()),
            Contender::Ours => run(Command::new(&self.program).arg("umount").arg(&self.mountpoint)),
            Contender::Cvmfs2 => run(Command::new("umount").arg(&self.mountpoint)),
        }
    }

    /// Takes the profile out of our cache, to keep it over [`Place::wipe`].
    pub fn export_profile(&self, to: &Path) -> io::Result<()> {
        let mut export = self.profile("export");
        run(export.arg("-o").arg(to))
    }

    /// Puts a profile into our cache.
    pub fn import_profile(&self, from: &Path) -> io::Result<()> {
        let mut import = self.profile("import");
        run(import.arg(from).stdout(Stdio::null()))
    }

    fn profile(&self, what: &str) -> Command {
        let mut profile = Command::new(&self.program);
        profile.args(["profile", what, FQRN, "--cache-dir"]).arg(self.cache(Contender::Ours));
        profile
    }

    /// Bytes that our mount has fetched ahead, and those of them that were read, when no more are
    /// coming.
    pub fn fetched_ahead(&self) -> Option<(u64, u64)> {
        let bytes = |name| {
            let value = attribute(&self.mountpoint, name)?;
            value.split(' ').nth(1)?.parse::<u64>().ok()
        };
        let mut fetched = bytes("user.prefetched")?;
        loop {
            #[allow(clippy::disallowed_methods, reason = "nothing tells that no more will come")]
            std::thread::sleep(SETTLED);
            match bytes("user.prefetched")? {
                same if same == fetched => return Some((fetched, bytes("user.prefetch_used")?)),
                more => fetched = more,
            }
        }
    }

    /// Memory of the process that serves the mount, bytes; shared pages counted in part.
    pub fn memory(&self, who: Contender) -> Option<u64> {
        let pid = match who {
            Contender::Native => return None,
            Contender::Ours | Contender::Cvmfs2 => server_of(&self.mountpoint)?,
        };
        resident(pid.into())
    }
}

/// Resident bytes of a process.
pub(crate) fn resident(pid: u64) -> Option<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find(|line| line.starts_with("Rss:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

fn server_of(mountpoint: &Path) -> Option<u32> {
    attribute(mountpoint, "user.pid")?.trim().parse().ok()
}

pub(crate) fn attribute(mountpoint: &Path, name: &str) -> Option<String> {
    let mut value = [0; 64];
    let len = rustix::fs::getxattr(mountpoint, name, &mut value[..]).ok()?;
    Some(std::str::from_utf8(value.get(..len)?).ok()?.to_owned())
}
