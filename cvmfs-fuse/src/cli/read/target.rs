//! `FQRN:/PATH` as typed.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use cvmfs_core::fqrn::Fqrn;
use cvmfs_core::path::RepoPath;

use crate::cli::exit::{ExitStatus, Failure};
use crate::config::parse_fqrn;
use crate::escape;

/// A path in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Target {
    /// The repository.
    pub(in crate::cli) fqrn: Fqrn,
    /// The path in it.
    pub(in crate::cli) path: RepoPath,
}

/// Returns how many repositories the targets name, well-formed or not.
pub(super) fn repositories(targets: &[OsString]) -> usize {
    let name =
        |target: &OsString| target.as_bytes().split(|&b| b == b':').next().map(<[u8]>::to_vec);
    targets.iter().filter_map(name).collect::<HashSet<_>>().len()
}

impl Target {
    /// Parses `FQRN:/PATH`; the path is taken byte by byte and need not be UTF-8. `FQRN:` and
    /// `FQRN` mean the root.
    pub(in crate::cli) fn parse(text: &OsStr) -> Result<Self, Failure> {
        let bytes = text.as_bytes();
        let colon = bytes.iter().position(|&b| b == b':').unwrap_or(bytes.len());
        let fqrn = parse_fqrn(OsStr::from_bytes(&bytes[..colon]))?;
        let path = bytes.get(colon + 1..).unwrap_or_default();
        if !path.is_empty() && path[0] != b'/' {
            let message = format!(
                "{}: the path must start with a slash, as in {fqrn}:/PATH",
                escape::for_terminal(bytes)
            );
            return Err(Failure::new(ExitStatus::Options, message));
        }
        let path = RepoPath::parse(path).ok_or_else(|| {
            let message = format!(
                "{}: no path of a repository: '..', a NUL byte or a name over 255 bytes in it",
                escape::for_terminal(bytes)
            );
            Failure::new(ExitStatus::Options, message)
        })?;
        Ok(Self { fqrn, path })
    }

    /// Returns the target as it is typed.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut text = self.fqrn.as_str().as_bytes().to_vec();
        text.push(b':');
        text.extend_from_slice(if self.path.is_root() { b"/" } else { self.path.as_bytes() });
        text
    }

    /// Returns the target for messages.
    pub(super) fn shown(&self) -> String {
        escape::for_terminal(&self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_counted_once() {
        let count = |targets: &[&str]| {
            repositories(&targets.iter().map(OsString::from).collect::<Vec<_>>())
        };
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&["a.b.c", "a.b.c:", "a.b.c:/x", "a.b.c:/x:y"]), 1);
        assert_eq!(count(&["a.b.c:/x", "d.e.f:/x", ""]), 3);
    }

    #[test]
    fn targets() {
        for (text, fqrn, path) in [
            (&b"a.b.c:/x/y"[..], "a.b.c", &b"/x/y"[..]),
            (b"a.b.c:/", "a.b.c", b""),
            (b"a.b.c:", "a.b.c", b""),
            (b"a.b.c", "a.b.c", b""),
            (b"/cvmfs/a.b.c:/x//./y/", "a.b.c", b"/x/y"),
            (b"a.b.c:/c:d\xff", "a.b.c", b"/c:d\xff"),
        ] {
            let target = Target::parse(OsStr::from_bytes(text)).unwrap();
            assert_eq!((target.fqrn.as_str(), target.path.as_bytes()), (fqrn, path));
        }
        assert_eq!(Target::parse(OsStr::new("a.b:")).unwrap().shown(), "a.b:/");
        for (bad, message) in [
            ("atlas:/x", "not fully qualified"),
            ("a.b.c:x", "must start with a slash"),
            ("a.b.c:/x/../y", "no path of a repository"),
            (":/x", "repository name"),
        ] {
            let failure = Target::parse(OsStr::new(bad)).unwrap_err();
            assert_eq!(failure.status, ExitStatus::Options);
            assert!(failure.message.contains(message), "{}", failure.message);
        }
    }
}
