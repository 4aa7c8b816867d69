//! What of a repository is wanted: the paths of a dirtab (spec/cache.md section 8.2).

use std::path::Path;

use cvmfs_core::path::RepoPath;

use crate::cli::exit::{ExitStatus, Failure};

/// Longest list read: a line for each directory of a large repository.
const MAX_LIST_LEN: u64 = 64 << 20;

/// Which paths are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selection {
    /// Everything, if there is none.
    wanted: Vec<Pattern>,
    unwanted: Vec<Pattern>,
}

/// What a path is to a selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It and everything below that is not excluded.
    Wanted,
    /// It leads to something that may be wanted.
    OnTheWay,
    /// Neither.
    Unwanted,
}

/// Names between slashes, in which `*` stands for anything.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern(Vec<Vec<u8>>);

impl Selection {
    /// Reads a list from a file.
    pub(super) fn read(file: &Path) -> Result<Self, Failure> {
        let text = crate::config::read_bounded(file, MAX_LIST_LEN).map_err(|error| {
            let what = format!("cannot read --list {}", file.display());
            Failure::caused(ExitStatus::Options, &what, &error)
        })?;
        Self::parse(&text).map_err(|line| {
            let message = format!(
                "--list {}, line {line}: a path must start with a slash, or with ! and a slash",
                file.display()
            );
            Failure::new(ExitStatus::Options, message)
        })
    }

    /// Parses a list; an error is the number of a line.
    fn parse(text: &[u8]) -> Result<Self, usize> {
        let mut selection = Self::default();
        for (number, line) in (1..).zip(text.split(|&b| b == b'\n')) {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let (patterns, path) = match line.strip_prefix(b"!") {
                Some(path) => (&mut selection.unwanted, path.trim_ascii_start()),
                None => (&mut selection.wanted, line),
            };
            if !path.starts_with(b"/") {
                return Err(number);
            }
            patterns.push(Pattern::parse(path));
        }
        Ok(selection)
    }

    /// Judges a path.
    pub(super) fn judge(&self, path: &RepoPath) -> Verdict {
        let names = names(path.as_bytes());
        if self.unwanted.iter().any(|pattern| pattern.covers(&names)) {
            return Verdict::Unwanted;
        }
        if self.wanted.is_empty() || self.wanted.iter().any(|pattern| pattern.covers(&names)) {
            return Verdict::Wanted;
        }
        match self.wanted.iter().any(|pattern| pattern.goes_through(&names)) {
            true => Verdict::OnTheWay,
            false => Verdict::Unwanted,
        }
    }
}

fn names(path: &[u8]) -> Vec<&[u8]> {
    path.split(|&b| b == b'/').filter(|name| !name.is_empty()).collect()
}

impl Pattern {
    fn parse(path: &[u8]) -> Self {
        Self(names(path).into_iter().map(<[u8]>::to_vec).collect())
    }

    /// Tells whether a path is what the pattern says, or below it.
    fn covers(&self, names: &[&[u8]]) -> bool {
        names.len() >= self.0.len() && self.0.iter().zip(names).all(|(own, name)| fits(own, name))
    }

    /// Tells whether something below a path may be what the pattern says.
    fn goes_through(&self, names: &[&[u8]]) -> bool {
        names.len() < self.0.len() && self.0.iter().zip(names).all(|(own, name)| fits(own, name))
    }
}

/// Tells whether a name is what a pattern with `*` says; linear in both but for the last star.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while from < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(byte) if *byte == name[from] => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((place, taken)) = star else { return false };
                star = Some((place, taken + 1));
                at = place + 1;
                from = taken + 1;
            }
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_stars() {
        for (pattern, name, expected) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("*", "", true),
            ("a*", "a", true),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("*.so*", "libx.so.1", true),
            ("*a*b*", "xxayybzz", true),
            ("*a*b", "xxayybzz", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn lists() {
        use Verdict::{OnTheWay, Unwanted, Wanted};
        let list = b"# comment\n\n/a/b\n/lib*/x\n!/a/b/secret\n! /lib64/x/y*z\n";
        let selection = Selection::parse(list).unwrap();
        for (path, verdict) in [
            ("", OnTheWay),
            ("/a", OnTheWay),
            ("/a/b", Wanted),
            ("/a/b/c/d", Wanted),
            ("/a/b/secret", Unwanted),
            ("/a/b/secret/deep", Unwanted),
            ("/a/bb", Unwanted),
            ("/lib64", OnTheWay),
            ("/lib64/x", Wanted),
            ("/lib64/x/yaz", Unwanted),
            ("/other", Unwanted),
        ] {
            let parsed = RepoPath::parse(path.as_bytes()).unwrap();
            assert_eq!(selection.judge(&parsed), verdict, "{path}");
        }
        let all = Selection::parse(b"!/tmp\n").unwrap();
        assert_eq!(all.judge(&RepoPath::parse(b"/x").unwrap()), Wanted);
        assert_eq!(all.judge(&RepoPath::parse(b"/tmp/x").unwrap()), Unwanted);
        assert_eq!(Selection::parse(b"/a\nrelative\n"), Err(2));
        assert_eq!(Selection::parse(b"!x"), Err(1));
    }
}
