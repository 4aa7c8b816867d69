//! How a repository is shown: for how long the kernel may keep what it was told, and whose the
//! files are (spec/filesystem.md, section 11).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Attributes;
use super::exposure::Exposure;
use super::inode::limit::MAX_KNOWN;
use cvmfs_core::catalog::EntryKind;

/// Lines of a map that are read: sites have some hundreds of users.
const MAX_LINES: usize = 100_000;
/// Largest file of a map.
const MAX_FILE_SIZE: u64 = 4 << 20;

/// How a repository is shown.
#[derive(Debug, Clone)]
pub struct RepoFsOptions {
    /// How long the kernel may keep names and attributes. A switch takes back what changed, so
    /// this only bounds what a lost notice could do.
    pub ttl: Duration,
    /// How long the kernel may remember absences.
    pub negative_ttl: Duration,
    /// Whose the files are.
    pub ownership: Ownership,
    /// Who sees which attributes.
    pub exposure: Exposure,
    /// Inodes that the kernel may know; `None` for any number.
    pub most_inodes: Option<usize>,
}

impl Default for RepoFsOptions {
    fn default() -> Self {
        let hour = Duration::from_secs(3600);
        Self {
            ttl: hour,
            negative_ttl: hour,
            ownership: Ownership::default(),
            exposure: Exposure::default(),
            most_inodes: Some(MAX_KNOWN),
        }
    }
}

/// Whose the files are, and who may read them. The same for the life of a mount, so that
/// attributes which the kernel keeps stay right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ownership {
    /// All of them belong to this user and group.
    pub claimed: Option<(u32, u32)>,
    /// Users of the publisher, and those that they are here.
    pub users: NumberMap,
    /// The same for groups.
    pub groups: NumberMap,
    /// Everybody may read everything.
    pub world_readable: bool,
}

impl Ownership {
    /// The same in a server, which may be another user than who started it (`CVMFS_USER`).
    #[must_use]
    pub fn as_served(&self) -> Self {
        let user = || (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        Self { claimed: self.claimed.map(|_| user()), ..self.clone() }
    }

    /// Returns attributes as they are shown.
    pub(super) fn shown(&self, mut attributes: Attributes) -> Attributes {
        (attributes.uid, attributes.gid) =
            self.claimed.unwrap_or((self.users.of(attributes.uid), self.groups.of(attributes.gid)));
        if self.world_readable {
            let is_directory = attributes.kind == EntryKind::Directory;
            attributes.perm |= if is_directory { 0o555 } else { 0o444 };
        }
        attributes
    }
}

/// A map of numbers; those that are not in it stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NumberMap {
    known: Arc<HashMap<u32, u32>>,
    /// What `*` stands for.
    others: Option<u32>,
}

impl NumberMap {
    /// Reads a file with a pair `FROM TO` in each line; `*` as FROM stands for all others.
    pub fn read(file: &Path) -> Result<Self, String> {
        let bytes = crate::config::read_bounded(file, MAX_FILE_SIZE)
            .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        Self::parse(&String::from_utf8_lossy(&bytes))
            .map_err(|line| format!("{}:{line}: expected two numbers, FROM TO", file.display()))
    }

    /// Parses the text of such a file; fails with the number of the line that is wrong.
    fn parse(text: &str) -> Result<Self, usize> {
        let (mut known, mut others) = (HashMap::new(), None);
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = || number + 1;
            if number >= MAX_LINES {
                return Err(bad());
            }
            let mut fields = line.split_whitespace();
            let (Some(from), Some(to), None) = (fields.next(), fields.next(), fields.next()) else {
                return Err(bad());
            };
            let to = to.parse().map_err(|_| bad())?;
            match from {
                "*" => others = Some(to),
                from => {
                    known.insert(from.parse().map_err(|_| bad())?, to);
                }
            }
        }
        Ok(Self { known: Arc::new(known), others })
    }

    fn of(&self, number: u32) -> u32 {
        self.known.get(&number).copied().or(self.others).unwrap_or(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_pairs_of_numbers() {
        let map = NumberMap::parse("# users\n 1 1001\n2\t1002 \n\n* 65534\n").unwrap();
        assert_eq!([1, 2, 3].map(|number| map.of(number)), [1001, 1002, 65534]);
        assert_eq!(NumberMap::default().of(7), 7);
        for (text, line) in [("1", 1), ("1 2\na 3", 2), ("1 2 3", 1), ("1 -2", 1), ("* x", 1)] {
            assert_eq!(NumberMap::parse(text), Err(line), "{text}");
        }
    }
}
