//! Paths to entries, with symbolic links followed inside the repository only.
//!
//! On a mount the kernel does this in the view of the caller. Here nobody may be led to a file of
//! this machine, so a link out of the repository ends the search.

use std::collections::VecDeque;
use std::sync::Arc;

use cvmfs_core::catalog::{DirectoryEntry, EntryKind};
use cvmfs_core::path::{RepoPath, is_valid_name};
use cvmfs_core::revision::{Revision, RevisionError};

use crate::escape;

/// As many links as Linux follows in one path.
const MAX_LINKS: usize = 40;
/// Where repositories are mounted by convention; absolute links inside one start like this.
const MOUNT_ROOT: &[u8] = b"/cvmfs/";

/// An entry and the path by which the catalogs know it.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Without links in it.
    pub(super) path: RepoPath,
    /// The entry.
    pub(super) entry: Arc<DirectoryEntry>,
}

/// Why a path leads to no entry.
#[derive(Debug, thiserror::Error)]
pub(super) enum FindError {
    /// A verified catalog has no such entry.
    #[error("no such file or directory")]
    Absent,
    /// The path goes on below something else.
    #[error("{0} is not a directory")]
    NotADirectory(RepoPath),
    /// A link leads to a file of this machine.
    #[error("the link {link} leads out of the repository, to {}", escape::for_terminal(.target))]
    Outside {
        /// The link.
        link: RepoPath,
        /// Its target.
        target: Box<[u8]>,
    },
    /// Most likely a circle.
    #[error("more than {MAX_LINKS} symbolic links")]
    TooManyLinks,
    /// The answer could not be fetched or believed.
    #[error(transparent)]
    Revision(#[from] RevisionError),
}

/// Finds the entry of `path`; a link at its end is followed if `follow` says so.
pub(super) async fn find(
    revision: &Revision,
    path: &RepoPath,
    follow: bool,
) -> Result<Found, FindError> {
    // Nearly always the path has no link in it, and one question answers all.
    if let Some(entry) = revision.lookup(path).await?
        && (!follow || entry.kind != EntryKind::Symlink)
    {
        return Ok(Found { path: path.clone(), entry });
    }
    walk(revision, path, follow).await
}

async fn walk(revision: &Revision, path: &RepoPath, follow: bool) -> Result<Found, FindError> {
    let mut current = RepoPath::root();
    let mut entry = revision.lookup(&current).await?.ok_or(FindError::Absent)?;
    let mut links = 0;
    let mut rest: VecDeque<Vec<u8>> = components(path.as_bytes()).collect();
    while let Some(name) = rest.pop_front() {
        if entry.kind != EntryKind::Directory {
            return Err(FindError::NotADirectory(current));
        }
        if name == b".." {
            // Only links bring them in, and those were checked not to start above the root.
            current = current.parent().unwrap_or_else(RepoPath::root);
            entry = revision.lookup(&current).await?.ok_or(FindError::Absent)?;
            continue;
        }
        if !is_valid_name(&name) {
            return Err(FindError::Absent);
        }
        let next = current.join(&name);
        let found = revision.lookup(&next).await?.ok_or(FindError::Absent)?;
        if found.kind != EntryKind::Symlink || (rest.is_empty() && !follow) {
            (current, entry) = (next, found);
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(FindError::TooManyLinks);
        }
        let outside = || FindError::Outside { link: next.clone(), target: found.symlink.clone() };
        let target = if found.symlink.starts_with(b"/") {
            current = RepoPath::root();
            inside(&found.symlink, revision.fqrn().as_str()).ok_or_else(outside)?
        } else {
            &found.symlink
        };
        if climbs_out(&current, target) {
            return Err(outside());
        }
        entry = revision.lookup(&current).await?.ok_or(FindError::Absent)?;
        for name in components(target).collect::<Vec<_>>().into_iter().rev() {
            rest.push_front(name);
        }
    }
    Ok(Found { path: current, entry })
}

fn components(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".").map(<[u8]>::to_vec)
}

/// Returns what follows `/cvmfs/FQRN` in an absolute target.
fn inside<'a>(target: &'a [u8], fqrn: &str) -> Option<&'a [u8]> {
    let rest = target.strip_prefix(MOUNT_ROOT)?.strip_prefix(fqrn.as_bytes())?;
    (rest.is_empty() || rest.starts_with(b"/")).then_some(rest)
}

/// Tells whether `..` in a target leads above the root. Links in the middle of a target may
/// change the depth, so this is cautious about the textual path only; the walk never leaves.
fn climbs_out(directory: &RepoPath, target: &[u8]) -> bool {
    let mut depth = components(directory.as_bytes()).count();
    for name in components(target) {
        if name == b".." {
            let Some(up) = depth.checked_sub(1) else { return true };
            depth = up;
        } else {
            depth += 1;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_targets() {
        for (target, rest) in [
            (&b"/cvmfs/a.b.c/x"[..], Some(&b"/x"[..])),
            (b"/cvmfs/a.b.c", Some(b"")),
            (b"/cvmfs/a.b.cd/x", None),
            (b"/cvmfs/other/x", None),
            (b"/etc/passwd", None),
        ] {
            assert_eq!(inside(target, "a.b.c"), rest);
        }
    }

    #[test]
    fn climbing() {
        for (directory, target, out) in [
            (&b""[..], &b".."[..], true),
            (b"/a", b"..", false),
            (b"/a", b"../..", true),
            (b"/a", b"../b/../..", true),
            (b"/a/b", b"./..//../c", false),
            (b"", b"x/..", false),
        ] {
            let directory = RepoPath::parse(directory).unwrap();
            assert_eq!(climbs_out(&directory, target), out, "{directory} {target:?}");
        }
    }
}
