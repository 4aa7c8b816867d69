//! Readers side by side: what a repository gives to many of them, beside native files.
//!
//! | module | what it holds |
//! |---|---|
//! | [`files`] | what is read |
//! | [`report`] | the table |

pub mod files;
pub mod report;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use fixtures::publish::TestRepo;
use fixtures::server::TestServer;
use serde::Serialize;

use self::files::Files;
use crate::scale::served::Served;
use crate::scale::tree::FQRN;

/// Bytes that a reader asks for at a time.
const BUFFER: usize = 128 << 10;

/// Files that all readers of a number read together in a second.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// Threads.
    pub threads: usize,
    /// Native files, of which the kernel has everything.
    pub native: f64,
    /// Ours, of which the kernel has nothing and the cache, in memory, has everything.
    pub warm: f64,
    /// The same files again.
    pub hot: f64,
}

/// Files as a repository and as a directory.
pub struct Site<'a> {
    files: Files,
    program: &'a Path,
    flags: &'a [String],
    site: PathBuf,
    native: PathBuf,
    scratch: PathBuf,
    server: TestServer,
}

impl<'a> Site<'a> {
    /// Makes both below a directory, and a cache that has all objects.
    ///
    /// # Errors
    /// If the directory cannot be written to, or nothing can be mounted.
    pub fn make(
        files: Files,
        program: &'a Path,
        flags: &'a [String],
        below: &Path,
    ) -> io::Result<Self> {
        let of = |name: &str| below.join(files.name).join(name);
        let (site, native, scratch) = (of("site"), of("native"), of("scratch"));
        for directory in [&site, &native, &scratch] {
            fs::create_dir_all(directory)?;
        }
        let mut repo = TestRepo::new(FQRN);
        repo.directory(&site).ttl(3600);
        for number in 0..files.count {
            repo.file(format!("/{}", Files::path(number)), files.content(number));
            let path = native.join(Files::path(number));
            fs::create_dir_all(path.parent().unwrap())?;
            fs::write(path, files.content(number).bytes())?;
        }
        drop(repo.publish());
        let server = TestServer::serving(&site);
        let all = Self { files, program, flags, site, native, scratch, server };
        let cold = all.mount()?;
        all.read(cold.root(), 8)?;
        Ok(all)
    }

    fn mount(&self) -> io::Result<Served<'a>> {
        let key = self.site.join(format!("{FQRN}.pub"));
        Served::start(self.program, self.flags, &self.server.url(), &key, &self.scratch)
    }

    /// Measures a number of readers.
    ///
    /// # Errors
    /// If a mount fails, or shows anything else than was published.
    pub fn point(&self, threads: usize) -> io::Result<Point> {
        let native = self.read(&self.native, threads)?;
        let mount = self.mount()?;
        let warm = self.read(mount.root(), threads)?;
        let hot = self.read(mount.root(), threads)?;
        Ok(Point { threads, native, warm, hot })
    }

    /// Reads all files once; returns how many in a second.
    fn read(&self, root: &Path, threads: usize) -> io::Result<f64> {
        let (next, start) = (AtomicUsize::new(0), Instant::now());
        let work = || -> io::Result<()> {
            let mut buffer = vec![0; BUFFER];
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= self.files.count {
                    return Ok(());
                }
                self.read_one(root, number, &mut buffer)?;
            }
        };
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            all.into_iter().try_for_each(|one| one.join().unwrap())
        })?;
        Ok(self.files.count as f64 / start.elapsed().as_secs_f64())
    }

    fn read_one(&self, root: &Path, number: usize, buffer: &mut [u8]) -> io::Result<()> {
        let path = root.join(Files::path(number));
        let mut file = File::open(&path)?;
        let mut len = 0;
        loop {
            let count = file.read(buffer)?;
            if count == 0 {
                break;
            }
            if len == 0 && !buffer.starts_with(&Files::mark(number)) {
                return Err(io::Error::other(format!("{} is another file", path.display())));
            }
            len += count;
        }
        if len as u64 == self.files.len {
            Ok(())
        } else {
            Err(io::Error::other(format!("{} has {len} bytes", path.display())))
        }
    }
}
