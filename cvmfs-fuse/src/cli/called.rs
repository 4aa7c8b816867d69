//! The names by which scripts call this program.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Names of upstream's tools, and the subcommand that each of them is.
const NAMES: [(&str, &str); 1] = [("cvmfs_talk", "talk")];

/// Puts the subcommand into the command line of a program that is called by such a name.
pub(super) fn command_line(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut line: Vec<_> = words.collect();
    let name = line.first().and_then(|name| Path::new(name).file_name());
    let known = NAMES.iter().find(|(known, _)| name == Some(OsStr::new(known)));
    if let Some((_, subcommand)) = known {
        line.insert(1, subcommand.into());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_subcommands() {
        for (line, expected) in [
            ("/usr/bin/cvmfs_talk -i x pid", "/usr/bin/cvmfs_talk talk -i x pid"),
            ("cvmfs-fuse talk pid", "cvmfs-fuse talk pid"),
            ("cvmfs_talk", "cvmfs_talk talk"),
        ] {
            let words = line.split(' ').map(OsString::from);
            assert_eq!(command_line(words).join(" ".as_ref()), *expected);
        }
        assert!(command_line(std::iter::empty()).is_empty());
    }
}
