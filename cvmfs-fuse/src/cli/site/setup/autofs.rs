//! The files of autofs: an entry of the master map, and the map that names each repository.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;

use super::error::SetupError;
use super::{Said, directory};
use crate::fuse::mountinfo::show;

/// Of the master map; relative to `/etc`.
const MASTER: &str = "auto.master";
/// Its parts, each with a name that ends in `.autofs`.
const PARTS: &str = "auto.master.d";
const PART: &str = "auto.master.d/cvmfs.autofs";
/// A program that is asked with a name: this one, see [`crate::cli`].
const MAP: &str = "auto.cvmfs";

/// Tells whether a system is prepared for autofs, although it may not be installed yet.
pub(super) fn is_expected(etc: &Path) -> bool {
    etc.join(PARTS).is_dir()
}

/// Writes what is not there; returns whether autofs has to look again.
pub(super) fn configure(
    etc: &Path,
    mounts: &Path,
    is_installed: bool,
    said: &mut Said,
) -> Result<bool, SetupError> {
    let is_linked = link_map(etc, said)?;
    Ok(name_map(etc, mounts, is_installed, said)? || is_linked)
}

fn link_map(etc: &Path, said: &mut Said) -> Result<bool, SetupError> {
    let map = etc.join(MAP);
    let program = std::env::current_exe()
        .and_then(|program| program.metadata().map(|found| (program, found)))
        .map_err(|source| SetupError::Program { source });
    let (program, ours) = program?;
    let directory = directory::of_root(etc)?;
    let unfollowed = AtFlags::SYMLINK_NOFOLLOW;
    match rustix::fs::symlinkat(&program, &directory, MAP).map_err(io::Error::from) {
        Ok(()) => {
            said.done(&format!("made link {} to {}", show(&map), show(&program)))?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let unreadable = |error: rustix::io::Errno| SetupError::Read {
                path: map.clone(),
                source: error.into(),
            };
            let found = rustix::fs::statat(&directory, MAP, unfollowed).map_err(unreadable)?;
            directory::check(&map, &found)?;
            let is_ours = map
                .metadata()
                .is_ok_and(|found| (found.dev(), found.ino()) == (ours.dev(), ours.ino()));
            if !is_ours {
                let (map, program) = (show(&map), show(&program));
                said.note(&format!(
                    "kept {map}, which is not this program; 'ln -sf {program} {map}' replaces it"
                ))?;
            }
            Ok(false)
        }
        Err(source) => Err(SetupError::Write { path: map, source }),
    }
}

fn name_map(
    etc: &Path,
    mounts: &Path,
    is_installed: bool,
    said: &mut Said,
) -> Result<bool, SetupError> {
    let place = mounts.to_str().filter(|place| !place.contains(char::is_whitespace));
    let place = place.ok_or_else(|| SetupError::Spaces { path: mounts.to_owned() })?;
    let (master, parts, part) = (etc.join(MASTER), etc.join(PARTS), etc.join(PART));
    let text = read(&master)?;
    if names(&text, place) {
        return Ok(false);
    }
    // Whoever has not installed it has no such file yet, and the packages' one reads the directory.
    if is_installed && !reads(&text, &parts) {
        return Err(SetupError::NotRead { directory: parts, master });
    }
    for file in files(&parts)? {
        if names(&read(&file)?, place) {
            return Ok(false);
        }
    }
    let line = format!("{place} {}\n", show(&etc.join(MAP)));
    if directory::write_new(&part, &line)? {
        said.done(&format!("wrote {}: {}", show(&part), line.trim_end()))?;
        return Ok(true);
    }
    said.note(&format!("kept {}, which does not name {place}", show(&part)))?;
    Ok(false)
}

/// Text of a file; nothing, if there is none.
fn read(path: &Path) -> Result<String, SetupError> {
    match fs::read(path) {
        Ok(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(SetupError::Read { path: path.to_owned(), source }),
    }
}

/// The parts that autofs reads.
fn files(parts: &Path) -> Result<Vec<PathBuf>, SetupError> {
    let unreadable = |source| SetupError::Read { path: parts.to_owned(), source };
    let entries = match fs::read_dir(parts) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let paths =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
    let mut paths = paths.map_err(unreadable)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "autofs"));
    Ok(paths)
}

/// Whether a part of the master map is for this directory.
fn names(text: &str, place: &str) -> bool {
    let first = |line: &str| {
        line.split_whitespace().next().map(|word| {
            word.len() > 1 && { word.trim_end_matches('/') == place.trim_end_matches('/') }
        })
    };
    text.lines().filter_map(first).any(|is_it| is_it)
}

/// Whether the master map takes in this directory.
fn reads(text: &str, parts: &Path) -> bool {
    text.lines().any(|line| {
        let named = line.trim().strip_prefix("+dir:");
        named.is_some_and(|named| Path::new(named.trim()).components().eq(parts.components()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_master_map() {
        for text in ["/cvmfs /etc/auto.cvmfs", "# x\n /cvmfs/\t/etc/other --timeout=5\n"] {
            assert!(names(text, "/cvmfs"), "{text}");
        }
        for text in ["", "# /cvmfs /etc/auto.cvmfs", "/cvmfs2 /x", "/net -hosts\n/\n\n"] {
            assert!(!names(text, "/cvmfs"), "{text}");
        }
        let parts = Path::new("/etc/auto.master.d");
        assert!(reads("/net -hosts\n+dir:/etc/auto.master.d\n", parts));
        assert!(reads(" +dir: /etc/auto.master.d/\n", parts));
        assert!(!reads("#+dir:/etc/auto.master.d\n+auto.master\n+dir:/etc/x\n", parts));
    }

    #[test]
    fn a_second_run_and_files_of_others_change_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let (etc, mounts) = (scratch.path(), Path::new("/cvmfs"));
        let configure = |is_installed| {
            let mut said = Said::default();
            configure(etc, mounts, is_installed, &mut said)
        };
        // Installed, but its map does not read what we would write.
        assert!(matches!(configure(true), Err(SetupError::NotRead { .. })));
        assert!(!etc.join(PARTS).exists());
        fs::write(etc.join(MASTER), format!("+dir:{}\n", etc.join(PARTS).display())).unwrap();
        assert!(configure(true).unwrap());
        let line = format!("/cvmfs {}\n", etc.join(MAP).display());
        assert_eq!(fs::read_to_string(etc.join(PART)).unwrap(), line);
        assert_eq!(fs::read_link(etc.join(MAP)).unwrap(), std::env::current_exe().unwrap());
        assert!(!configure(true).unwrap());
        // Somebody else's part has it, or a part of our name says something else.
        fs::rename(etc.join(PART), etc.join("auto.master.d/site.autofs")).unwrap();
        assert!(!configure(true).unwrap());
        assert!(!etc.join(PART).exists());
        fs::remove_file(etc.join("auto.master.d/site.autofs")).unwrap();
        fs::write(etc.join(PART), "# not here\n").unwrap();
        assert!(!configure(true).unwrap());
        assert_eq!(fs::read_to_string(etc.join(PART)).unwrap(), "# not here\n");
        assert!(matches!(
            name_map(etc, Path::new("/a b"), true, &mut Said::default()),
            Err(SetupError::Spaces { .. })
        ));
    }
}
