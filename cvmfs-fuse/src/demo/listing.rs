//! A directory as the demo shows it.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use cvmfs_core::catalog::{DirectoryEntry, EntryKind};

use crate::cli::for_terminal;

/// Any of the three execute bits.
const EXECUTABLE: u32 = 0o111;

/// One name and what kind of thing it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    name: Vec<u8>,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    File { size: u64, executable: bool },
    Directory,
    Symlink { target: Vec<u8> },
    Special,
}

impl Line {
    /// Returns size and name; directories end with a slash, links tell their target.
    pub(super) fn shown(&self, colours: bool) -> String {
        let paint = |code: &str, text: String| {
            if colours && !code.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text }
        };
        let name = for_terminal(&self.name);
        let (size, name) = match &self.kind {
            Kind::File { size, executable } => {
                (size.to_string(), paint(if *executable { "1;32" } else { "" }, name))
            }
            Kind::Directory => (String::new(), paint("1;34", name) + "/"),
            Kind::Symlink { target } => {
                (String::new(), format!("{} -> {}", paint("1;36", name), for_terminal(target)))
            }
            Kind::Special => (String::new(), paint("1;33", name)),
        };
        format!("{size:>9}  {name}")
    }
}

/// Lists a directory of this machine: the mount.
pub(super) fn of_directory(directory: &Path) -> io::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let kind = metadata.file_type();
        let kind = if kind.is_dir() {
            Kind::Directory
        } else if kind.is_symlink() {
            let target = std::fs::read_link(entry.path())?;
            Kind::Symlink { target: target.as_os_str().as_bytes().to_vec() }
        } else if kind.is_fifo()
            || kind.is_socket()
            || kind.is_block_device()
            || kind.is_char_device()
        {
            Kind::Special
        } else {
            Kind::File { size: metadata.len(), executable: metadata.mode() & EXECUTABLE != 0 }
        };
        lines.push(Line { name: entry.file_name().as_bytes().to_vec(), kind });
    }
    Ok(sorted(lines))
}

/// Lists entries of a catalog.
pub(super) fn of_entries(entries: &[std::sync::Arc<DirectoryEntry>]) -> Vec<Line> {
    let line = |entry: &DirectoryEntry| Line {
        name: entry.name.to_vec(),
        kind: match entry.kind {
            EntryKind::Directory => Kind::Directory,
            EntryKind::Symlink => Kind::Symlink { target: entry.symlink.to_vec() },
            EntryKind::Regular => {
                Kind::File { size: entry.size, executable: entry.mode & EXECUTABLE != 0 }
            }
            EntryKind::Fifo
            | EntryKind::Socket
            | EntryKind::CharDevice
            | EntryKind::BlockDevice => Kind::Special,
        },
    };
    sorted(entries.iter().map(|entry| line(entry)).collect())
}

fn sorted(mut lines: Vec<Line>) -> Vec<Line> {
    lines.sort_by(|a, b| a.name.cmp(&b.name));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_this_machine() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b"), "12345").unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::os::unix::fs::symlink("b", dir.path().join("c\n")).unwrap();
        let shown: Vec<_> =
            of_directory(dir.path()).unwrap().iter().map(|line| line.shown(false)).collect();
        assert_eq!(shown, ["           a/", "        5  b", "           c\\x0a -> b"]);
        let coloured = of_directory(dir.path()).unwrap()[0].shown(true);
        assert_eq!(coloured, "           \x1b[1;34ma\x1b[0m/");
    }
}
