//! A file system in a file, so that it can be made to forget: unmounted and mounted again it has no
//! pages, names or inodes in memory, and nothing else on the machine is disturbed.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

/// How long somebody may still have files open on it.
const BUSY: Duration = Duration::from_secs(10);
/// Of the image; sparse.
const LEN: u64 = 8 << 30;

/// An ext4 of our own.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mountpoint: PathBuf,
}

impl Disk {
    /// Makes one in `directory`, or takes the one that is there.
    pub fn in_directory(directory: &Path) -> io::Result<Self> {
        let disk = Self { image: directory.join("disk.ext4"), mountpoint: directory.join("disk") };
        std::fs::create_dir_all(&disk.mountpoint)?;
        if !disk.image.exists() {
            let new = directory.join("disk.new");
            File::create(&new)?.set_len(LEN)?;
            run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&new))?;
            std::fs::rename(new, &disk.image)?;
        }
        disk.mount()?;
        Ok(disk)
    }

    /// Returns where it is mounted.
    pub fn root(&self) -> &Path {
        &self.mountpoint
    }

    /// Makes the kernel forget all of it.
    pub fn forget(&self) -> io::Result<()> {
        self.unmount()?;
        let image = File::open(&self.image)?;
        image.sync_all()?;
        fadvise(image.as_fd(), 0, None, Advice::DontNeed)?;
        self.mount()
    }

    fn mount(&self) -> io::Result<()> {
        let mut mount = Command::new("mount");
        run(mount.args(["-o", "loop,noatime"]).arg(&self.image).arg(&self.mountpoint))
    }

    /// A server that has just unmounted may still be closing its cache.
    fn unmount(&self) -> io::Result<()> {
        let start = Instant::now();
        loop {
            let done = run(Command::new("umount").arg(&self.mountpoint));
            if done.is_ok() || start.elapsed() > BUSY {
                return done;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.unmount();
    }
}

/// Runs a command to its successful end.
pub fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?}: {}: {said}", output.status)))
}
