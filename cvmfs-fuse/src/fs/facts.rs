//! Attributes that tell what the catalog says of one entry, under upstream's names
//! (spec/filesystem.md section 10). Like those of the repository they can always be read by name.

use std::fmt::Write as _;
use std::sync::Arc;

use cvmfs_core::catalog::xattr::Xattrs;
use cvmfs_core::catalog::{Content, DirectoryEntry, EntryKind};
use cvmfs_core::object::Compression;
use cvmfs_core::path::RepoPath;
use cvmfs_core::revision::{Revision, RevisionError};

use super::FsError;
use super::inode::Inode;
use super::kept::LHASH;

/// Characters of a page: below the 64 KiB that the kernel allows a value.
const PAGE_LEN: usize = 40_000;
/// What begins the number of a page in a name.
pub(super) const PAGE_MARKS: [char; 2] = ['~', '@'];

/// What catalogs count, of any entry.
const COUNTERS: &[&str] = &["user.catalog_counters", "user.repo_counters"];
/// The names of the others.
const NAMES: &[&str] = &[
    "user.chunk_list",
    "user.chunks",
    "user.compression",
    "user.direct_io",
    "user.external_file",
    "user.hash",
    LHASH,
    "xfsroot.rawlink",
];

/// Returns the names of those that an entry has.
pub(super) fn names_of(entry: &DirectoryEntry) -> impl Iterator<Item = &'static str> {
    let is_chunked = matches!(entry.content, Content::Chunked(_));
    COUNTERS.iter().copied().chain(NAMES.iter().copied()).filter(move |name| {
        let of_anything = COUNTERS.contains(name);
        let is_whole = *name == LHASH && matches!(entry.content, Content::Whole(_));
        let by_chunks = is_chunked && matches!(*name, "user.chunks" | "user.chunk_list");
        of_anything || is_whole || by_chunks || plain(name, entry).is_some()
    })
}

/// Returns the value of such an attribute; `None` if the name or the kind of entry is another.
pub(super) async fn entry_attribute(
    inode: &Inode,
    revisions: &[Arc<Revision>],
    name: &[u8],
) -> Result<Option<Vec<u8>>, FsError> {
    let Some((name, page)) = split(name) else { return Ok(None) };
    if COUNTERS.contains(&name) {
        if page.is_some() {
            return Ok(None);
        }
        return counters(inode, revisions, name).await.map(|text| Some(text.into_bytes()));
    }
    let entry = &inode.entry;
    let text = match (name, &entry.content) {
        ("user.chunks" | "user.chunk_list", Content::Chunked(_)) => {
            let failed =
                |source: RevisionError| FsError::Revision { path: inode.path.clone(), source };
            let home = inode.home(revisions).await?;
            let chunks = home.chunks(&inode.path).await.map_err(failed)?;
            match name {
                "user.chunks" => Some(chunks.len().to_string()),
                _ => {
                    Some(chunks.iter().fold(String::from("hash,offset,size\n"), |mut text, one| {
                        let _ = writeln!(text, "{},{},{}", one.object.hash, one.offset, one.size);
                        text
                    }))
                }
            }
        }
        _ => plain(name, entry),
    };
    let paged = page.is_none() || name == "user.chunk_list";
    Ok(text.filter(|_| paged).and_then(|text| page_of(&text, page)))
}

/// Returns the attributes that the publisher gave.
pub(super) async fn attributes_of(
    inode: &Inode,
    revisions: &[Arc<Revision>],
) -> Result<Xattrs, FsError> {
    let failed = |source: RevisionError| FsError::Revision { path: inode.path.clone(), source };
    inode.home(revisions).await?.xattrs(&inode.path).await.map_err(failed)
}

/// What the catalog that an entry is in counts, or the root catalog of its revision.
async fn counters(
    inode: &Inode,
    revisions: &[Arc<Revision>],
    name: &str,
) -> Result<String, FsError> {
    let failed = |source: RevisionError| FsError::Revision { path: inode.path.clone(), source };
    let home = inode.home(revisions).await?;
    let is_of_root = name == "user.repo_counters";
    let path = if is_of_root { &RepoPath::root() } else { &inode.path };
    let (mountpoint, hash, totals) = home.counters_at(path).await.map_err(failed)?;
    let mut text = String::new();
    if !is_of_root {
        let mountpoint = String::from_utf8_lossy(mountpoint.as_bytes());
        let _ = writeln!(text, "catalog_hash: {hash}\ncatalog_mountpoint: {mountpoint}");
    }
    for (name, value) in totals {
        let _ = writeln!(text, "{name},{value}");
    }
    Ok(text)
}

/// What the row itself says.
fn plain(name: &str, entry: &DirectoryEntry) -> Option<String> {
    let is_file = entry.kind == EntryKind::Regular;
    let flag = |flag: bool| is_file.then(|| u8::from(flag).to_string());
    match (name, &entry.content) {
        ("user.hash", Content::Whole(id)) => Some(id.hash.to_string()),
        ("user.chunks", Content::Whole(_)) => Some("1".to_owned()),
        ("user.chunk_list", Content::Whole(id)) => {
            Some(format!("hash,offset,size\n{},0,{}\n", id.hash, entry.size))
        }
        ("user.compression", Content::Whole(id)) => Some(compression(id.compression)),
        ("user.compression", Content::Chunked(style)) => Some(compression(style.compression)),
        ("user.direct_io", _) => flag(entry.direct_io),
        ("user.external_file", _) => flag(entry.external),
        ("user.rawlink" | "xfsroot.rawlink", _) if entry.kind == EntryKind::Symlink => {
            Some(String::from_utf8_lossy(&entry.raw_symlink).into_owned())
        }
        _ => None,
    }
}

fn compression(compression: Compression) -> String {
    match compression {
        Compression::Zlib => "zlib",
        Compression::None => "none",
    }
    .to_owned()
}

/// Which part of a long value is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    /// How many there are.
    Count,
    /// One of them.
    Number(usize),
    /// How to ask for them, for people.
    Help,
    /// One of them, for people.
    Shown(usize),
}

/// Takes `NAME~N` and `NAME~?` apart, which programs ask for, and `NAME@N` and `NAME@?`, which people
/// do; `None` for another suffix.
pub(super) fn split(name: &[u8]) -> Option<(&str, Option<Page>)> {
    let name = std::str::from_utf8(name).ok()?;
    let Some(at) = name.find(PAGE_MARKS) else { return Some((name, None)) };
    let (name, suffix) = name.split_at(at);
    let page = match (suffix.split_at_checked(1)?, suffix.starts_with('~')) {
        ((_, "?"), true) => Page::Count,
        ((_, "?"), false) => Page::Help,
        ((_, number), true) => Page::Number(number.parse().ok()?),
        ((_, number), false) => Page::Shown(number.parse().ok()?),
    };
    Some((name, Some(page)))
}

/// Cuts a value into pages of whole lines; without a wish the first one is meant.
pub(super) fn page_of(text: &str, page: Option<Page>) -> Option<Vec<u8>> {
    let mut pages = vec![String::new()];
    for line in text.split_inclusive('\n') {
        let last = pages.last_mut()?;
        if !last.is_empty() && last.len() + line.len() > PAGE_LEN {
            pages.push(line.to_owned());
        } else {
            last.push_str(line);
        }
    }
    let (count, end) = (pages.len(), pages.len() - 1);
    let at = |number: usize| pages.get(number).map(|page| page.trim_end_matches('\n').to_owned());
    let text = match page.unwrap_or(Page::Number(0)) {
        Page::Count => format!("num_pages, {count}"),
        Page::Number(number) => at(number)?,
        Page::Help => format!(
            "There are {count} pages, from 0 to {end}.\nAdd @N to the name for page N with a line about \
             it, ~N for the page alone, ~? for the number of pages."
        ),
        Page::Shown(number) => match at(number) {
            Some(page) => format!("# page {number} of 0 to {end}\n{page}"),
            None => format!("There is no page {number}: the last one is {end}."),
        },
    };
    Some(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_have_pages_of_whole_lines() {
        let line = "x".repeat(99) + "\n";
        let text = line.repeat(1000);
        let at = |page| page_of(&text, page).map(|page| page.len());
        assert_eq!(page_of(&text, Some(Page::Count)).unwrap(), b"num_pages, 3");
        assert_eq!(at(None), Some(39_999));
        assert_eq!(at(Some(Page::Number(2))), Some(19_999));
        assert_eq!(at(Some(Page::Number(3))), None);
        assert_eq!(page_of("", None).unwrap(), b"");
        assert_eq!(split(b"user.a~?"), Some(("user.a", Some(Page::Count))));
        assert_eq!(split(b"user.a~12"), Some(("user.a", Some(Page::Number(12)))));
        assert_eq!(split(b"user.a"), Some(("user.a", None)));
        assert_eq!((split(b"user.a~-1"), split(b"user.a~x")), (None, None));
        assert_eq!(split(b"user.a@?"), Some(("user.a", Some(Page::Help))));
        assert_eq!(split(b"user.a@1"), Some(("user.a", Some(Page::Shown(1)))));
        assert_eq!((split(b"user.a@"), split(b"user.a@x")), (None, None));
        let shown = |page| String::from_utf8(page_of(&text, Some(page)).unwrap()).unwrap();
        assert!(shown(Page::Shown(2)).starts_with("# page 2 of 0 to 2\nxxx"));
        assert!(shown(Page::Shown(3)).contains("no page 3"));
        assert!(shown(Page::Help).contains("from 0 to 2"));
    }
}
