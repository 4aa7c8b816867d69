//! Files of a configuration repository, which nothing leaves: neither a link nor `..` leads out of `etc/cvmfs`.
//!
//! The walk goes from name to name, each looked up in the directory before it without following links, and it
//! follows the links itself. Thus it holds on every kernel and in every sandbox, also where `openat2` is missing
//! (gVisor, Linux before 5.6), for a mounted repository as for one in memory, and whatever is renamed meanwhile.
//! Links inside the tree work; absolute ones do if they name the place of the tree itself. Only regular files are
//! read, opened without waiting, up to a limit.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

/// Links on the way to one file: as the kernel.
const MAX_LINKS: usize = 40;
/// Names on the way to one file: real paths have five.
const MAX_NAMES: usize = 256;
/// Names of one directory that are looked at: directories of keys have ten.
const MAX_ENTRIES: usize = 4096;

/// What is at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    /// A regular file, with its size in bytes.
    File(u64),
    Link,
    /// A device, FIFO or socket.
    Other,
}

/// Thing of a tree in memory.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Directory,
    File(Bytes),
    Link(PathBuf),
}

/// Things of a tree in memory, by their paths from its root.
pub(super) type Items = HashMap<PathBuf, Item>;

/// Files of a configuration repository.
#[derive(Debug)]
pub(super) struct Tree {
    /// Where they are, or would be if the repository were mounted.
    place: PathBuf,
    store: Store,
}

#[derive(Debug)]
enum Store {
    Mounted(Arc<OwnedFd>),
    Memory(Arc<Items>),
}

impl Tree {
    /// Opens `etc/cvmfs` of a repository that is mounted; `place` is what it is called.
    pub(super) fn mounted(repository: &Path, place: PathBuf) -> io::Result<Self> {
        // With O_PATH an automounter would not be asked.
        let mut directory = rustix::fs::open(
            repository,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        for name in super::INSIDE {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            directory = rustix::fs::openat(&directory, *name, flags, Mode::empty())?;
        }
        Ok(Self { place, store: Store::Mounted(Arc::new(directory)) })
    }

    /// Makes a tree of what was read into memory.
    pub(super) fn in_memory(items: Arc<Items>, place: PathBuf) -> Self {
        Self { place, store: Store::Memory(items) }
    }

    /// Returns where the files are, or would be.
    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    /// Tells whether a path names something of this tree, by its text.
    pub(super) fn names(&self, path: &Path) -> bool {
        path.starts_with(&self.place)
    }

    /// Reads a regular file of at most `limit` bytes.
    pub(super) fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let too_long = || io::Error::new(io::ErrorKind::FileTooLarge, over(limit));
        match &self.store {
            Store::Mounted(root) => {
                let found = self.find(&Mounted, root.clone(), path, true)?;
                let Some(name) = found.name.filter(|_| matches!(found.node, Node::File(_))) else {
                    return Err(no_file());
                };
                // It may be something else by now.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
                let file = rustix::fs::openat(
                    &found.directory,
                    name,
                    flags | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                super::read_regular(std::fs::File::from(file), limit)
            }
            Store::Memory(items) => {
                let memory = Memory(items);
                let found = self.find(&memory, PathBuf::new(), path, true)?;
                let content = found.name.and_then(|name| items.get(&found.directory.join(name)));
                match content {
                    Some(Item::File(content)) if content.len() as u64 > limit => Err(too_long()),
                    Some(Item::File(content)) => Ok(content.to_vec()),
                    _ => Err(no_file()),
                }
            }
        }
    }

    /// Looks at what is at the end of a path; `follow` says whether a link there counts as what it leads to.
    pub(super) fn kind(&self, path: &Path, follow: bool) -> io::Result<Kind> {
        Ok(match &self.store {
            Store::Mounted(root) => self.find(&Mounted, root.clone(), path, follow)?.node.kind(),
            Store::Memory(items) => {
                self.find(&Memory(items), PathBuf::new(), path, follow)?.node.kind()
            }
        })
    }

    /// Lists the names of a directory.
    pub(super) fn entries(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let mut names: Vec<OsString> = match &self.store {
            Store::Mounted(root) => {
                let found = self.find(&Mounted, root.clone(), path, true)?;
                let Node::Directory(directory) = found.node else { return Err(no_directory()) };
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let directory = rustix::fs::openat(&directory, ".", flags, Mode::empty())?;
                let entries = rustix::fs::Dir::read_from(&directory)?.take(MAX_ENTRIES);
                let names = entries.map(|entry| {
                    entry.map(|entry| OsString::from_vec(entry.file_name().to_bytes().to_vec()))
                });
                names.collect::<Result<_, _>>()?
            }
            Store::Memory(items) => {
                let found = self.find(&Memory(items), PathBuf::new(), path, true)?;
                let Node::Directory(directory) = found.node else { return Err(no_directory()) };
                let inside = items.keys().filter(|path| path.parent() == Some(&directory));
                inside.filter_map(|path| path.file_name().map(OsStr::to_owned)).collect()
            }
        };
        names.retain(|name| name != "." && name != "..");
        names.sort();
        Ok(names)
    }

    fn find<N: Nodes>(
        &self,
        nodes: &N,
        root: N::Directory,
        path: &Path,
        follow: bool,
    ) -> io::Result<Found<N::Directory>> {
        let mut above = Vec::new();
        let mut here = root.clone();
        let mut ahead: Vec<Step> = self.steps(path)?;
        let mut links = 0;
        while let Some(step) = ahead.pop() {
            let name = match step {
                Step::Up => {
                    here = above.pop().ok_or_else(|| self.outside())?;
                    continue;
                }
                Step::Into(name) => name,
            };
            match nodes.child(&here, &name)? {
                Node::Directory(directory) => above.push(std::mem::replace(&mut here, directory)),
                Node::Link(target) if follow || !ahead.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    if target.is_absolute() {
                        above.clear();
                        here = root.clone();
                    }
                    let more =
                        if target.is_absolute() { self.steps(&target)? } else { steps(&target) };
                    ahead.extend(more);
                }
                node if ahead.is_empty() => {
                    return Ok(Found { directory: here, name: Some(name), node });
                }
                _ => return Err(no_directory()),
            }
            if ahead.len() + above.len() > MAX_NAMES {
                return Err(Errno::NAMETOOLONG.into());
            }
        }
        Ok(Found { directory: here.clone(), name: None, node: Node::Directory(here) })
    }

    /// Returns the way from the root to a path that begins with the place, the last step first.
    fn steps(&self, path: &Path) -> io::Result<Vec<Step>> {
        path.strip_prefix(&self.place).map(steps).map_err(|_| self.outside())
    }

    fn outside(&self) -> io::Error {
        io::Error::other(format!("it is outside of {}", self.place.display()))
    }
}

fn steps(path: &Path) -> Vec<Step> {
    let steps = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(Step::Into(name.to_owned())),
        Component::ParentDir => Some(Step::Up),
        _ => None,
    });
    let mut steps: Vec<_> = steps.collect();
    steps.reverse();
    steps
}

fn over(limit: u64) -> String {
    format!("more than {limit} bytes")
}

fn no_file() -> io::Error {
    io::Error::other("it is no regular file")
}

fn no_directory() -> io::Error {
    io::Error::from(io::ErrorKind::NotADirectory)
}

enum Step {
    Up,
    Into(OsString),
}

struct Found<D> {
    /// The directory in which the name is.
    directory: D,
    /// `None` for the root, and where the path ended with a directory.
    name: Option<OsString>,
    node: Node<D>,
}

enum Node<D> {
    Directory(D),
    File(u64),
    Link(PathBuf),
    Other,
}

impl<D> Node<D> {
    fn kind(&self) -> Kind {
        match self {
            Self::Directory(_) => Kind::Directory,
            Self::File(size) => Kind::File(*size),
            Self::Link(_) => Kind::Link,
            Self::Other => Kind::Other,
        }
    }
}

/// Look-up of one name in one directory, without following a link.
trait Nodes {
    type Directory: Clone;

    fn child(&self, directory: &Self::Directory, name: &OsStr)
    -> io::Result<Node<Self::Directory>>;
}

struct Mounted;

impl Nodes for Mounted {
    type Directory = Arc<OwnedFd>;

    fn child(&self, directory: &Arc<OwnedFd>, name: &OsStr) -> io::Result<Node<Arc<OwnedFd>>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(directory.as_fd(), name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&found)?;
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Node::Directory(Arc::new(found)),
            FileType::RegularFile => Node::File(u64::try_from(stat.st_size).unwrap_or_default()),
            FileType::Symlink => {
                // Of the link that was found, whatever has its name now.
                let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
                Node::Link(OsStr::from_bytes(target.to_bytes()).into())
            }
            _ => Node::Other,
        })
    }
}

struct Memory<'a>(&'a Items);

impl Nodes for Memory<'_> {
    type Directory = PathBuf;

    fn child(&self, directory: &PathBuf, name: &OsStr) -> io::Result<Node<PathBuf>> {
        let path = directory.join(name);
        Ok(match self.0.get(&path) {
            Some(Item::Directory) => Node::Directory(path),
            Some(Item::File(content)) => Node::File(content.len() as u64),
            Some(Item::Link(target)) => Node::Link(target.clone()),
            None => return Err(io::ErrorKind::NotFound.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The same tree on disk and in memory: links inside, links out, a FIFO.
    fn both() -> (tempfile::TempDir, [Tree; 2]) {
        let scratch = tempfile::tempdir().unwrap();
        let repository = scratch.path().canonicalize().unwrap().join("c.test.org");
        let place = repository.join("etc/cvmfs");
        std::fs::create_dir_all(place.join("d/deep")).unwrap();
        std::fs::write(place.join("d/file"), "content").unwrap();
        std::fs::write(repository.join("secret"), "secret").unwrap();
        let links: Vec<(&str, PathBuf)> = vec![
            ("d/beside", "file".into()),
            ("up", "d/deep/../file".into()),
            ("folder", "d".into()),
            ("whole", place.join("d/file")),
            ("out", "../../secret".into()),
            ("far", "d/../../../secret".into()),
            ("absolute", "/etc/passwd".into()),
            ("loop", "loop".into()),
            ("dangling", "none".into()),
        ];
        let mut items = Items::new();
        items.insert("d".into(), Item::Directory);
        items.insert("d/deep".into(), Item::Directory);
        items.insert("d/file".into(), Item::File(Bytes::from_static(b"content")));
        for (name, target) in links {
            symlink(&target, place.join(name)).unwrap();
            items.insert(name.into(), Item::Link(target));
        }
        let memory = Tree::in_memory(Arc::new(items), place.clone());
        (scratch, [Tree::mounted(&repository, place).unwrap(), memory])
    }

    #[test]
    fn h7_nothing_leads_out_of_a_configuration_repository() {
        let (_scratch, trees) = both();
        for tree in trees {
            let read = |name: &str| tree.read(&tree.place().join(name), 100);
            for inside in [
                "d/file",
                "d/beside",
                "up",
                "folder/file",
                "folder/deep/../beside",
                "whole",
                "./d/file",
            ] {
                assert_eq!(read(inside).unwrap(), b"content", "{inside}");
            }
            for outside in ["out", "far", "absolute", "../../secret", "d/../../../secret"] {
                let error = read(outside).unwrap_err().to_string();
                assert!(error.contains("is outside of"), "{outside}: {error}");
                assert!(tree.kind(&tree.place().join(outside), true).is_err(), "{outside}");
            }
            assert!(tree.read(Path::new("/etc/passwd"), 100).is_err());
            for none in ["loop", "dangling", "d/file/x", "d", ""] {
                assert!(read(none).is_err(), "{none}");
            }
            assert_eq!(
                tree.read(&tree.place().join("d/file"), 3).unwrap_err().kind(),
                io::ErrorKind::FileTooLarge
            );
            assert_eq!(
                tree.entries(&tree.place().join("folder")).unwrap(),
                ["beside", "deep", "file"]
            );
            assert!(tree.entries(&tree.place().join("out")).is_err());
            let kind = |name: &str, follow| tree.kind(&tree.place().join(name), follow).unwrap();
            assert_eq!(kind("up", false), Kind::Link);
            assert_eq!(kind("up", true), Kind::File(7));
            assert_eq!(kind("folder", true), Kind::Directory);
        }
    }

    #[test]
    fn h7_a_fifo_of_a_configuration_repository_is_not_waited_for() {
        let (_scratch, [tree, _]) = both();
        let fifo = tree.place().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        symlink("fifo", tree.place().join("leads")).unwrap();
        for name in ["fifo", "leads"] {
            let error = tree.read(&tree.place().join(name), 100).unwrap_err().to_string();
            assert!(error.contains("no regular file"), "{error}");
        }
        assert_eq!(tree.kind(&fifo, true).unwrap(), Kind::Other);
    }

    #[test]
    fn h7_the_directory_itself_is_no_link_out_of_the_repository() {
        let scratch = tempfile::tempdir().unwrap();
        let repository = scratch.path().join("c.test.org");
        std::fs::create_dir_all(scratch.path().join("elsewhere/cvmfs")).unwrap();
        std::fs::create_dir(&repository).unwrap();
        symlink("../elsewhere", repository.join("etc")).unwrap();
        assert!(Tree::mounted(&repository, repository.join("etc/cvmfs")).is_err());
    }
}
