//! Paths inside a repository and their catalog keys (spec/format.md section 12).

use std::fmt;
use std::sync::Arc;

use md5::Digest as _;

/// Longest name of a directory entry that Linux takes.
pub const MAX_NAME_LEN: usize = 255;

/// A path from the repository root: empty for the root, otherwise `/` and components, raw bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoPath(Arc<[u8]>);

impl RepoPath {
    /// Returns the root of the repository.
    pub fn root() -> Self {
        Self(Arc::from(&b""[..]))
    }

    /// Cleans up what a person typed or a catalog stored: slashes are merged, `.` is dropped.
    ///
    /// Returns `None` for `..`, NUL bytes and names over [`MAX_NAME_LEN`].
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut path = Vec::with_capacity(text.len() + 1);
        for name in text.split(|&b| b == b'/') {
            if name.is_empty() || name == b"." {
                continue;
            }
            if !is_valid_name(name) {
                return None;
            }
            path.push(b'/');
            path.extend_from_slice(name);
        }
        Some(Self(path.into()))
    }

    /// Wraps bytes that are known to be a path in this form.
    pub(crate) fn from_catalog(path: Vec<u8>) -> Self {
        Self(path.into())
    }

    /// Returns the path of an entry of this directory.
    ///
    /// The caller has checked `name` with [`is_valid_name`].
    pub fn join(&self, name: &[u8]) -> Self {
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.len());
        path.extend_from_slice(&self.0);
        path.push(b'/');
        path.extend_from_slice(name);
        Self(path.into())
    }

    /// Returns the directory that holds this entry; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let slash = self.0.iter().rposition(|&b| b == b'/')?;
        Some(Self(self.0[..slash].into()))
    }

    /// Returns the last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        match self.0.iter().rposition(|&b| b == b'/') {
            Some(slash) => &self.0[slash + 1..],
            None => &[],
        }
    }

    /// Tells whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells whether `self` is `ancestor` or lies below it, at a component boundary.
    pub fn starts_with(&self, ancestor: &Self) -> bool {
        self.0
            .strip_prefix(ancestor.as_bytes())
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }

    /// Returns the raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the key under which catalogs store this path.
    pub fn hash(&self) -> PathHash {
        PathHash::of(&self.0)
    }
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str("/");
        }
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Tells whether `name` may stand in a directory: not empty, `.`, `..`, over 255 bytes, and
/// without `/` and NUL.
pub fn is_valid_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_LEN
        && name != b"."
        && name != b".."
        && !name.iter().any(|&b| b == b'/' || b == 0)
}

/// MD5 of a path as catalogs store it: two signed little-endian integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathHash {
    /// Bytes 0 to 7 of the digest.
    pub first: i64,
    /// Bytes 8 to 15 of the digest.
    pub second: i64,
}

impl PathHash {
    /// Hashes the bytes of a path without trailing slash; empty for the root.
    pub fn of(path: &[u8]) -> Self {
        let digest: [u8; 16] = md5::Md5::digest(path).into();
        let (mut first, mut second) = ([0; 8], [0; 8]);
        first.copy_from_slice(&digest[..8]);
        second.copy_from_slice(&digest[8..]);
        Self { first: i64::from_le_bytes(first), second: i64::from_le_bytes(second) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RepoPath {
        RepoPath::parse(text.as_bytes()).unwrap()
    }

    /// facts/behaviours.md section 2.2 and spec/format.md section 26.
    #[test]
    fn hashes() {
        for (text, first, second) in [
            ("", 338_333_539_836_370_388, 9_098_107_892_288_553_193),
            ("/foo", 5_745_132_282_796_244_766, -5_819_618_580_357_280_866),
            ("/foo/bar", -2_822_516_800_166_431_715, 9_048_809_318_629_099_454),
            ("/.cvmfs", -2_402_492_567_927_477_437, -171_651_727_507_129_842),
            ("/a", -2_906_336_618_250_618_618, -744_252_105_585_281_751),
            ("/a/b", -79_414_819_578_584_146, 8_517_581_007_188_477_988),
        ] {
            assert_eq!(path(text).hash(), PathHash { first, second }, "{text}");
            assert_eq!(PathHash::of(text.as_bytes()), PathHash { first, second }, "{text}");
        }
    }

    #[test]
    fn parsing_cleans_up() {
        let long = "n".repeat(MAX_NAME_LEN);
        for (text, clean) in [
            ("", ""),
            ("/", ""),
            ("//./", ""),
            ("a", "/a"),
            ("/a/", "/a"),
            ("//a/./b//", "/a/b"),
            ("/...", "/..."),
            ("/.a/b.", "/.a/b."),
            (&long, &format!("/{long}")),
        ] {
            assert_eq!(path(text).as_bytes(), clean.as_bytes(), "{text}");
        }
        for text in ["..", "/a/../b", "/a/..", "/a\0", &format!("/a/{long}n")] {
            assert_eq!(RepoPath::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(RepoPath::parse(b"/\xff/\n").unwrap().to_string(), "/\\xff/\\n");
        assert_eq!(RepoPath::root().to_string(), "/");
    }

    #[test]
    fn walking() {
        let root = RepoPath::root();
        let deep = root.join(b"a").join(b"b c");
        assert_eq!(deep, path("/a/b c"));
        assert_eq!((deep.name(), root.name()), (&b"b c"[..], &b""[..]));
        assert_eq!(deep.parent(), Some(path("/a")));
        assert_eq!(path("/a").parent(), Some(root.clone()));
        assert_eq!(root.parent(), None);
        assert!(root.is_root() && !deep.is_root());
        for (text, ancestor, below) in [
            ("/a/b", "", true),
            ("/a/b", "/a", true),
            ("/a/b", "/a/b", true),
            ("/a/bc", "/a/b", false),
            ("/a", "/a/b", false),
            ("", "", true),
            ("", "/a", false),
        ] {
            assert_eq!(path(text).starts_with(&path(ancestor)), below, "{text} below {ancestor}");
        }
    }

    #[test]
    fn names() {
        for good in [&b"a"[..], b"...", b".x", b"a b", b"\xff\x01\n", &[b'n'; MAX_NAME_LEN]] {
            assert!(is_valid_name(good), "{good:?}");
        }
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0", &[b'n'; MAX_NAME_LEN + 1]] {
            assert!(!is_valid_name(bad), "{bad:?}");
        }
    }
}
