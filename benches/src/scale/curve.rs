//! The measurements.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fixtures::server::TestServer;
use serde::Serialize;

use super::served::Served;
use super::tree::{FQRN, Tree};
use crate::objects::shuffled;

/// Names that are looked up one by one, each once; the smallest tree has more.
const NAMES: usize = 900;

/// Microseconds of one operation on a tree of one size, and what the server holds after all of them.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Point {
    /// Files of the tree.
    pub files: usize,
    /// A name that the kernel does not know, in a directory that it knows; catalogs are cached.
    pub lookup: f64,
    /// The same for a name that does not exist.
    pub absent: f64,
    /// `lstat` of what was just looked up: the kernel answers.
    pub hot_stat: f64,
    /// First read of a file whose object is cached.
    pub read: f64,
    /// Listing with attributes of each entry, all directories, empty cache.
    pub cold_walk: f64,
    /// The same with cached catalogs, from a new mount.
    pub warm_walk: f64,
    /// The same once more.
    pub hot_walk: f64,
    /// Requests of the kernel for each entry of the warm walk.
    pub requests: f64,
    /// Resident bytes of the server before anything was asked.
    pub idle_memory: u64,
    /// Resident bytes after the names were looked up.
    pub lookup_memory: u64,
    /// Resident bytes after the warm walk: the kernel knows all entries.
    pub walked_memory: u64,
    /// Objects that were downloaded over all.
    pub downloads: usize,
}

impl Point {
    /// Bytes that the server holds for each entry that the kernel knows.
    pub fn bytes_of_entry(&self) -> f64 {
        let grown = self.walked_memory.saturating_sub(self.idle_memory);
        grown as f64 / self.files as f64
    }
}

/// Throughput of a number of readers that look up names which the kernel does not know.
#[derive(Debug, Clone, Serialize)]
pub struct Readers {
    /// Threads.
    pub threads: usize,
    /// Lookups in a second.
    pub lookups: f64,
    /// Lookups in a second of what the kernel knows.
    pub hot: f64,
}

/// A repository that is served, with a place for mounts and cache.
pub struct Site<'a> {
    /// What is in it.
    pub tree: Tree,
    /// The program that is measured.
    pub program: &'a Path,
    /// More flags of `mount`.
    pub flags: &'a [String],
    /// The directory that is served.
    pub site: PathBuf,
    /// Who serves it.
    pub server: TestServer,
    /// For mountpoint and cache.
    pub scratch: PathBuf,
}

impl<'a> Site<'a> {
    /// Publishes a tree below a directory; tells how long that took.
    ///
    /// # Errors
    /// If the directory cannot be written to.
    pub fn publish(
        tree: Tree,
        program: &'a Path,
        flags: &'a [String],
        below: &Path,
    ) -> io::Result<(Self, Duration)> {
        let (site, scratch) = (below.join("site"), below.join("scratch"));
        fs::create_dir_all(&site)?;
        fs::create_dir_all(&scratch)?;
        let start = Instant::now();
        drop(tree.publish(&site));
        let server = TestServer::serving(&site);
        Ok((Self { tree, program, flags, site, server, scratch }, start.elapsed()))
    }

    fn mount(&self) -> io::Result<Served<'a>> {
        let key = self.site.join(format!("{FQRN}.pub"));
        Served::start(self.program, self.flags, &self.server.url(), &key, &self.scratch)
    }

    /// Measures one size.
    ///
    /// # Errors
    /// If a mount fails, or shows anything else than was published.
    pub fn point(&self) -> io::Result<Point> {
        let mut point = Point { files: self.tree.files, ..Point::default() };
        let cold = self.mount()?;
        point.cold_walk = self.walk(&cold)?;
        // Makes the only object of a file cached.
        self.read_all(&cold, &[self.tree.file(0)])?;
        drop(cold);

        let mount = self.mount()?;
        point.idle_memory = mount.memory()?;
        let names = self.names(NAMES);
        self.know_directories(&mount)?;
        point.lookup = stat_all(&mount, &names, true)?;
        point.hot_stat = stat_all(&mount, &names, true)?;
        let absent: Vec<_> = names.iter().map(|name| format!("{name}-not")).collect();
        point.absent = stat_all(&mount, &absent, false)?;
        point.read = self.read_all(&mount, &names)?;
        point.lookup_memory = mount.memory()?;
        drop(mount);

        let mount = self.mount()?;
        let before = mount.requests()?;
        point.warm_walk = self.walk(&mount)?;
        point.requests = (mount.requests()? - before) as f64 / point.files as f64;
        point.walked_memory = mount.memory()?;
        point.hot_walk = self.walk(&mount)?;
        point.downloads = self.server.count("*/data/*");
        Ok(point)
    }

    /// Measures readers side by side.
    ///
    /// # Errors
    /// If a mount fails, or shows anything else than was published.
    pub fn readers(&self, threads: usize, lookups: usize) -> io::Result<Readers> {
        let mount = self.mount()?;
        self.know_directories(&mount)?;
        let names = self.names(lookups);
        let run = || -> io::Result<f64> {
            let (next, start) = (AtomicUsize::new(0), Instant::now());
            let work = || -> io::Result<()> {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    fs::symlink_metadata(mount.root().join(name))?;
                }
                Ok(())
            };
            std::thread::scope(|scope| {
                let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
                all.into_iter().try_for_each(|one| one.join().unwrap())
            })?;
            Ok(names.len() as f64 / start.elapsed().as_secs_f64())
        };
        let lookups = run()?;
        Ok(Readers { threads, lookups, hot: run()? })
    }

    /// Different files all over the tree.
    fn names(&self, count: usize) -> Vec<String> {
        let count = count.min(self.tree.files);
        let mut seen = vec![false; self.tree.files];
        let mut numbers = shuffled(usize::MAX, self.tree.files);
        std::iter::repeat_with(|| numbers.next().unwrap())
            .filter(|&number| !std::mem::replace(&mut seen[number], true))
            .take(count)
            .map(|number| self.tree.file(number))
            .collect()
    }

    /// Directories and catalogs are found before names in them are timed.
    fn know_directories(&self, mount: &Served<'_>) -> io::Result<()> {
        for number in 0..self.tree.directories() {
            let path = mount.root().join(self.tree.directory(number));
            fs::symlink_metadata(path.join("none")).err();
            fs::symlink_metadata(path)?;
        }
        Ok(())
    }

    /// Lists all directories, asks for the attributes of each entry, and counts.
    fn walk(&self, mount: &Served<'_>) -> io::Result<f64> {
        let start = Instant::now();
        let (mut directories, mut files) = (vec![mount.root().to_owned()], 0);
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                let metadata = entry.metadata()?;
                if metadata.is_dir() {
                    directories.push(entry.path());
                } else {
                    files += usize::from(metadata.nlink() == 1);
                }
            }
        }
        if files != self.tree.files {
            return Err(io::Error::other(format!("{files} of {} files", self.tree.files)));
        }
        Ok(per_operation(start, files))
    }

    fn read_all(&self, mount: &Served<'_>, names: &[String]) -> io::Result<f64> {
        let (want, start) = (Tree::content(), Instant::now());
        for name in names {
            if fs::read(mount.root().join(name))? != want.as_bytes() {
                return Err(io::Error::other(format!("{name} is wrong")));
            }
        }
        Ok(per_operation(start, names.len()))
    }
}

fn stat_all(mount: &Served<'_>, names: &[String], exist: bool) -> io::Result<f64> {
    let paths: Vec<_> = names.iter().map(|name| mount.root().join(name)).collect();
    let start = Instant::now();
    for path in &paths {
        match fs::symlink_metadata(path) {
            Ok(_) if exist => {}
            Err(error) if !exist && error.kind() == io::ErrorKind::NotFound => {}
            other => return Err(io::Error::other(format!("{}: {other:?}", path.display()))),
        }
    }
    Ok(per_operation(start, paths.len()))
}

fn per_operation(start: Instant, operations: usize) -> f64 {
    start.elapsed().as_secs_f64() * 1e6 / operations as f64
}
