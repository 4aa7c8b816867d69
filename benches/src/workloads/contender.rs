//! Those who are measured: each makes the tree appear somewhere.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::disk::{Disk, run};
use super::tree::FQRN;

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

    /// Memory of the process that serves the mount, bytes; shared pages counted in part.
    pub fn memory(&self, who: Contender) -> Option<u64> {
        let pid = match who {
            Contender::Native => return None,
            Contender::Ours | Contender::Cvmfs2 => server_of(&self.mountpoint)?,
        };
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = rollup.lines().find(|line| line.starts_with("Rss:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
    }
}

fn server_of(mountpoint: &Path) -> Option<u32> {
    let mut value = [0; 32];
    let len = rustix::fs::getxattr(mountpoint, "user.pid", &mut value[..]).ok()?;
    std::str::from_utf8(value.get(..len)?).ok()?.trim().parse().ok()
}
