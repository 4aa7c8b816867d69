//! A mount of a repository, and what the kernel and its server say.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::tree::FQRN;
use crate::workloads::contender::{attribute, resident};
use crate::workloads::disk::run;

/// A mounted repository; it is unmounted with this value.
#[derive(Debug)]
pub struct Served<'a> {
    program: &'a Path,
    root: PathBuf,
}

impl<'a> Served<'a> {
    /// Mounts in the background; `scratch` gets the mountpoint and keeps the cache.
    ///
    /// # Errors
    /// If the program cannot be started, or fails.
    pub fn start(
        program: &'a Path,
        flags: &[String],
        url: &str,
        key: &Path,
        scratch: &Path,
    ) -> io::Result<Self> {
        let root = scratch.join("mount");
        std::fs::create_dir_all(&root)?;
        let mut mount = Command::new(program);
        mount.args(["mount", FQRN]).arg(&root).arg("--server").arg(format!("{url}/@fqrn@"));
        mount.arg("--public-key").arg(key).args(["--proxy", "DIRECT", "--cache-dir"]);
        mount.arg(scratch.join("cache")).args(flags);
        // Its background process must not hold a pipe of ours.
        mount.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        run(&mut mount)?;
        Ok(Self { program, root })
    }

    /// The mountpoint.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Resident bytes of the server.
    ///
    /// # Errors
    /// If the mount does not tell who serves it.
    pub fn memory(&self) -> io::Result<u64> {
        let pid = self.number("user.pid")?;
        resident(pid).ok_or_else(|| io::Error::other(format!("no memory of process {pid}")))
    }

    /// Requests of the kernel so far.
    ///
    /// # Errors
    /// If the mount does not tell.
    pub fn requests(&self) -> io::Result<u64> {
        self.number("user.requests")
    }

    fn number(&self, name: &str) -> io::Result<u64> {
        let text = attribute(&self.root, name);
        let number = text.as_deref().and_then(|text| text.trim().parse().ok());
        number.ok_or_else(|| io::Error::other(format!("{name} is {text:?}")))
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        let mut umount = Command::new(self.program);
        if run(umount.arg("umount").arg(&self.root)).is_err() {
            // Detached, it ends with its last user.
            let _ = run(Command::new("umount").arg("-l").arg(&self.root));
        }
    }
}
