//! What is measured, with what upstream's client and native files took for it on a machine like
//! those this project is built on (client 2.12, symlink cache and shared descriptors on), and the
//! goals that follow.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::disk::run;
use super::tree::{PACKAGES, Paths};

/// Before the work is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing is cached anywhere.
    Cold,
    /// The same, but the access profile of another run was imported.
    Profiled,
    /// Objects are cached on disk, the kernel has forgotten all.
    Warm,
    /// It has just been done.
    Hot,
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// What is done.
    pub work: Work,
    /// Before it.
    pub state: State,
    /// Milliseconds to the server and back.
    pub round_trip: u64,
    /// Seconds that native files and `cvmfs2` took.
    pub reference: (Option<f64>, Option<f64>),
    /// What we want: ours / `cvmfs2`, ours / native.
    pub goal: (Option<f64>, Option<f64>),
}

/// Something that people do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A Python program starts.
    Import,
    /// Two packages of small files are read in order.
    TarTwo,
    /// Eight threads read one package.
    Parallel,
    /// All packages are read in order.
    TarAll,
    /// Every entry is looked at.
    Find,
    /// One large file is read.
    Large,
    /// Small files are opened, read and closed.
    Small,
    /// Files are looked at.
    Lstat,
    /// The tree appears and is listed.
    Mount,
}

const fn row(
    work: Work,
    state: State,
    round_trip: u64,
    reference: (Option<f64>, Option<f64>),
    goal: (Option<f64>, Option<f64>),
) -> Row {
    Row { work, state, round_trip, reference, goal }
}

/// The table. Cold rows of a work stand before its warm and hot ones, which use what they left.
pub const ROWS: [Row; 26] = [
    row(Work::Import, State::Cold, 20, (Some(2.8), Some(38.6)), (Some(0.3), None)),
    row(Work::Import, State::Profiled, 20, (Some(2.8), Some(38.6)), (Some(0.1), Some(1.4))),
    row(Work::Import, State::Cold, 0, (Some(2.8), Some(4.4)), (Some(0.75), Some(1.2))),
    row(Work::Import, State::Warm, 0, (Some(3.1), Some(3.6)), (Some(0.88), Some(1.03))),
    row(Work::Import, State::Hot, 0, (Some(2.5), Some(2.7)), (Some(0.94), Some(1.01))),
    row(Work::TarTwo, State::Cold, 20, (Some(0.25), Some(48.4)), (Some(0.05), None)),
    row(Work::TarTwo, State::Cold, 0, (Some(0.22), Some(1.03)), (Some(0.6), None)),
    row(Work::Parallel, State::Cold, 20, (Some(0.14), Some(4.35)), (Some(0.2), None)),
    row(Work::Parallel, State::Cold, 0, (Some(0.13), Some(0.79)), (Some(0.5), None)),
    row(Work::TarAll, State::Cold, 0, (None, None), (None, None)),
    row(Work::TarAll, State::Warm, 0, (Some(0.78), Some(1.69)), (Some(0.6), Some(1.3))),
    row(Work::TarAll, State::Hot, 0, (Some(0.20), Some(0.65)), (Some(0.4), Some(1.3))),
    row(Work::Find, State::Cold, 0, (Some(0.27), Some(1.01)), (Some(0.5), None)),
    row(Work::Find, State::Warm, 0, (Some(0.26), Some(0.86)), (Some(0.4), None)),
    row(Work::Find, State::Hot, 0, (Some(0.09), Some(0.34)), (Some(0.33), Some(1.2))),
    row(Work::Large, State::Cold, 20, (Some(0.021), Some(0.49)), (Some(0.4), None)),
    row(Work::Large, State::Cold, 0, (Some(0.021), Some(0.20)), (Some(0.5), None)),
    row(Work::Large, State::Warm, 0, (Some(0.022), Some(0.038)), (Some(0.7), None)),
    row(Work::Large, State::Hot, 0, (Some(0.003), Some(0.009)), (Some(0.5), Some(1.5))),
    row(Work::Small, State::Warm, 0, (None, None), (None, None)),
    row(Work::Small, State::Hot, 0, (Some(0.020), Some(0.22)), (Some(0.12), Some(1.3))),
    row(Work::Lstat, State::Warm, 0, (None, None), (None, None)),
    row(Work::Lstat, State::Hot, 0, (Some(0.014), Some(0.017)), (Some(0.85), Some(1.03))),
    row(Work::Mount, State::Cold, 20, (None, Some(0.201)), (Some(0.5), None)),
    row(Work::Mount, State::Cold, 0, (None, Some(0.092)), (Some(0.6), None)),
    row(Work::Mount, State::Warm, 0, (None, Some(0.031)), (Some(0.5), None)),
];

/// What is fetched ahead and never read, of all that is fetched ahead, with a profile of another
/// run.
pub const GOAL_WASTE: f64 = 0.15;

/// Small files.
const SMALL: u64 = 16 << 10;
const SMALL_COUNT: usize = 4000;
const LSTAT_COUNT: usize = 6000;
const READERS: usize = 8;
/// Two of the packages, with many small files.
const TWO: [&str; 2] = ["networkx", "pandas"];
const ONE: &str = "scipy";

/// What workloads need to know about the tree, found in the native one.
#[derive(Debug)]
pub struct Knowledge {
    paths: Paths,
    /// Below the root.
    small: Vec<PathBuf>,
    any: Vec<PathBuf>,
    one: Vec<PathBuf>,
}

impl Knowledge {
    /// Looks at the native tree.
    pub fn of(native: &Path) -> io::Result<Self> {
        let paths = Paths::find(native)?;
        let mut files = Vec::new();
        collect(&native.join(&paths.packages), &mut files)?;
        let below =
            |path: &Path| path.strip_prefix(native).map_or_else(|_| path.into(), PathBuf::from);
        let small = files.iter().filter(|(_, len)| (1..=SMALL).contains(len)).take(SMALL_COUNT);
        let package = native.join(&paths.packages).join(ONE);
        Ok(Self {
            small: small.map(|(path, _)| below(path)).collect(),
            any: files.iter().take(LSTAT_COUNT).map(|(path, _)| below(path)).collect(),
            one: files
                .iter()
                .filter(|(path, _)| path.starts_with(&package))
                .map(|(path, _)| below(path))
                .collect(),
            paths,
        })
    }
}

fn collect(directory: &Path, files: &mut Vec<(PathBuf, u64)>) -> io::Result<()> {
    let mut entries = std::fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let meta = entry.metadata()?;
        if meta.is_dir() {
            collect(&entry.path(), files)?;
        } else if meta.is_file() {
            files.push((entry.path(), meta.len()));
        }
    }
    Ok(())
}

impl Work {
    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Import => "import of four packages",
            Self::TarTwo => "tar of two packages",
            Self::Parallel => "8 readers of one package",
            Self::TarAll => "tar of all packages",
            Self::Find => "find -ls of everything",
            Self::Large => "one file of 45 MiB",
            Self::Small => "4,000 small files read",
            Self::Lstat => "6,000 files looked at",
            Self::Mount => "mount to first listing",
        }
    }

    /// Does it below `root`, and returns how long it took. [`Work::Mount`] is only the listing.
    pub fn run(self, root: &Path, known: &Knowledge) -> io::Result<Duration> {
        let start = Instant::now();
        let packages = root.join(&known.paths.packages);
        match self {
            Self::Import => import(root, known)?,
            Self::TarTwo => tar(&packages, &TWO)?,
            Self::TarAll => tar(&packages, &["."])?,
            Self::Parallel => parallel(root, &known.one)?,
            Self::Find => {
                let find = Command::new("find").arg(root).arg("-ls").stdout(Stdio::null()).status();
                succeeded(find?)?;
            }
            Self::Large => read(&root.join(&known.paths.large), &mut vec![0; 128 << 10])?,
            Self::Small => {
                let mut buffer = vec![0; 128 << 10];
                for path in &known.small {
                    read(&root.join(path), &mut buffer)?;
                }
            }
            Self::Lstat => {
                for path in &known.any {
                    std::fs::symlink_metadata(root.join(path))?;
                }
            }
            Self::Mount => drop(std::fs::read_dir(root)?.collect::<Result<Vec<_>, _>>()?),
        }
        Ok(start.elapsed())
    }
}

fn import(root: &Path, known: &Knowledge) -> io::Result<()> {
    let line = PACKAGES.map(|package| format!("import {package}")).join("; ");
    let mut python = Command::new(root.join(&known.paths.python));
    // As on a batch node: nothing of this machine's own Python.
    python.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent");
    // Threads of BLAS at the start are not what is measured.
    python.env("OPENBLAS_NUM_THREADS", "1");
    run(python.args(["-I", "-c", &line]))
}

/// GNU tar notices /dev/null and then does not read.
fn tar(directory: &Path, names: &[&str]) -> io::Result<()> {
    let mut tar = Command::new("tar")
        .arg("cf")
        .arg("-")
        .args(names)
        .current_dir(directory)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut out = tar.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?;
    let mut buffer = vec![0; 256 << 10];
    while out.read(&mut buffer)? > 0 {}
    succeeded(tar.wait()?)
}

fn parallel(root: &Path, files: &[PathBuf]) -> io::Result<()> {
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                scope.spawn(move || {
                    let mut buffer = vec![0; 128 << 10];
                    for path in files.iter().skip(reader).step_by(READERS) {
                        read(&root.join(path), &mut buffer)?;
                    }
                    Ok(())
                })
            })
            .collect();
        readers
            .into_iter()
            .try_for_each(|reader| reader.join().unwrap_or_else(|_| Err(io::Error::other("died"))))
    })
}

fn read(path: &Path, buffer: &mut [u8]) -> io::Result<()> {
    let mut file = File::open(path)?;
    while file.read(buffer)? > 0 {}
    Ok(())
}

fn succeeded(status: std::process::ExitStatus) -> io::Result<()> {
    if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
}
