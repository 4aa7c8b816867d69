//! A directory like those on /cvmfs: a Python with its wheels, a compiler, headers; and the
//! repository made of it.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use fixtures::publish::{Published, TestRepo};

use super::disk::run;

/// Name of the repository.
pub const FQRN: &str = "workloads.test.repo";
/// Packages that are imported, from PyPI.
pub const PACKAGES: [&str; 4] = ["numpy", "scipy", "pandas", "networkx"];
/// Files above this are chunked, as the server tools do it.
const CHUNK: u64 = 8 << 20;
/// The large file, which nothing compresses.
const LARGE_LEN: usize = 45 << 20;
/// A directory with more entries than this gets a catalog of its own if it is not deep.
const NESTED_ABOVE: usize = 400;
/// How deep it may be.
const NESTED_DEPTH: usize = 5;

/// Paths below the root that workloads use.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The interpreter.
    pub python: PathBuf,
    /// Where the packages are.
    pub packages: PathBuf,
    /// The large file.
    pub large: PathBuf,
}

impl Paths {
    /// Finds them in a tree that [`make`] made.
    pub fn find(root: &Path) -> io::Result<Self> {
        let lib = std::fs::read_dir(root.join("python/lib"))?
            .filter_map(Result::ok)
            .map(|entry| entry.file_name())
            .find(|name| name.as_bytes().starts_with(b"python3."))
            .ok_or_else(|| io::Error::other("no python below the tree"))?;
        let packages = Path::new("python/lib").join(lib).join("site-packages");
        Ok(Self { python: "python/bin/python3".into(), packages, large: "large.bin".into() })
    }
}

/// Makes the directory; `wheels` may hold downloaded packages, else PyPI is asked.
pub fn make(root: &Path, wheels: Option<&Path>) -> io::Result<()> {
    std::fs::create_dir_all(root)?;
    let said = Command::new("python3")
        .args(["-c", "import sys; print(sys.base_prefix); print(sys.version_info[1])"])
        .output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let mut lines = said.lines();
    let (Some(prefix), Some(minor)) = (lines.next(), lines.next()) else {
        return Err(io::Error::other("python3 does not say where it is"));
    };
    let name = format!("python3.{minor}");
    let python = root.join("python");
    std::fs::create_dir_all(python.join("bin"))?;
    let interpreter = Path::new(prefix).join("bin").join(&name);
    std::fs::copy(&interpreter, python.join("bin/python3"))?;
    std::fs::create_dir_all(python.join("lib"))?;
    copy(&Path::new(prefix).join("lib").join(&name), &python.join("lib"))?;
    for library in std::fs::read_dir(Path::new(prefix).join("lib"))?.filter_map(Result::ok) {
        if library.file_name().as_bytes().starts_with(b"libpython") {
            copy(&library.path(), &python.join("lib"))?;
        }
    }
    let site = python.join("lib").join(&name).join("site-packages");
    run(Command::new("rm").arg("-rf").arg(&site))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "-q", "--root-user-action=ignore", "--target"]).arg(&site);
    if let Some(wheels) = wheels {
        pip.args(["--no-index", "--find-links"]).arg(wheels);
    }
    run(pip.args(PACKAGES))?;
    // Compiled once, by the publisher: a mount is read-only.
    run(Command::new(python.join("bin/python3")).args(["-m", "compileall", "-q"]).arg(&site))?;
    for extra in ["/usr/lib/gcc", "/usr/include"] {
        copy(Path::new(extra), root)?;
    }
    let mut large = vec![0; LARGE_LEN];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut large)?;
    std::fs::write(root.join("large.bin"), large)
}

fn copy(from: &Path, into: &Path) -> io::Result<()> {
    run(Command::new("cp").args(["-a"]).arg(from).arg(into))
}

/// Publishes the directory below `site`.
pub fn publish(root: &Path, site: &Path) -> io::Result<Published> {
    let mut repo = TestRepo::new(FQRN);
    repo.directory(site);
    enter(&mut repo, root, b"", 0)?;
    repo.try_publish().map_err(|error| io::Error::other(format!("{error:?}")))
}

/// Returns the number of entries below.
fn enter(repo: &mut TestRepo, root: &Path, path: &[u8], depth: usize) -> io::Result<usize> {
    let directory = root.join(std::ffi::OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)));
    let mut below = 0;
    for entry in std::fs::read_dir(&directory)? {
        let entry = entry?;
        let path = [path, b"/", entry.file_name().as_bytes()].concat();
        let meta = entry.metadata()?;
        below += 1;
        if meta.is_symlink() {
            repo.symlink(&path, std::fs::read_link(entry.path())?.as_os_str().as_bytes());
        } else if meta.is_dir() {
            repo.dir(&path).mode(0o755);
            below += enter(repo, root, &path, depth + 1)?;
        } else {
            let content = std::fs::read(entry.path())?;
            let len = content.len() as u64;
            let nanoseconds = u32::try_from(meta.mtime_nsec()).unwrap_or(0);
            let file = repo.file(&path, content).mode(meta.mode() & 0o777);
            // Python compares it with what its compiled files say.
            file.mtime(meta.mtime(), nanoseconds);
            if len > CHUNK {
                file.chunked(CHUNK);
            }
        }
    }
    if below > NESTED_ABOVE && (1..=NESTED_DEPTH).contains(&depth) {
        repo.nested(path);
        return Ok(1);
    }
    Ok(below)
}
