//! Pages of listings that were read last, and those that are being read now.
//!
//! A page is made once however many ask for it at the time, and is at hand for those who ask soon after: the kernel
//! takes a page in several pieces. What is kept is bounded for each repository and for all of the process together;
//! a page that is gone is read again from the row where it began, which costs as much as the first time and no more.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cvmfs_core::catalog::{self, DirectoryEntry};
use cvmfs_core::revision::{Revision, RevisionError};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use lru::LruCache;
use parking_lot::Mutex;

use super::Ino;

/// Bytes of the pages that a repository keeps, about.
const MAX_KEPT: usize = 4 << 20;
/// Bytes of the pages of all repositories of the process. Above it each keeps what it used last.
const MAX_KEPT_OF_ALL: usize = 32 << 20;
/// Pages kept of one directory: several readers, each somewhere else in it.
const MAX_OF_DIRECTORY: usize = 8;
/// Bytes of a page beside its entries.
const BOOKKEEPING: usize = 256;

/// Bytes of all pages that are kept.
static KEPT_OF_ALL: AtomicUsize = AtomicUsize::new(0);

/// A part of a listing.
#[derive(Debug)]
pub(super) struct Page {
    /// The row before it.
    pub(super) after: u32,
    /// The entries with their row numbers, which rise.
    pub(super) entries: Box<[(u32, Arc<DirectoryEntry>)]>,
    /// The row after which the next page begins; `None` at the end of the directory.
    pub(super) next: Option<u32>,
    /// The revision that it is of.
    pub(super) revision: Arc<Revision>,
    weight: usize,
}

impl Page {
    /// Takes over what a catalog gave.
    pub(super) fn new(after: u32, page: catalog::Page, revision: Arc<Revision>) -> Self {
        let entries = page.entries.into_iter().map(|(row, entry)| (row, Arc::new(entry)));
        let entries: Box<[_]> = entries.collect();
        let bytes = entries.iter().map(|(_, entry)| entry.weight()).sum::<usize>();
        Self { after, entries, next: page.next, revision, weight: bytes + BOOKKEEPING }
    }

    /// Tells whether what follows a row is in this page, or that nothing does.
    fn continues(&self, row: u32) -> bool {
        self.after <= row && self.next.is_none_or(|next| row < next)
    }

    /// Returns the entries behind a row.
    pub(super) fn behind(&self, row: u32) -> &[(u32, Arc<DirectoryEntry>)] {
        &self.entries[self.entries.partition_point(|(number, _)| *number <= row)..]
    }
}

/// An inode and the tag of a revision.
type Directory = (Ino, u64);
type Making = Shared<BoxFuture<'static, Result<Arc<Page>, RevisionError>>>;

/// Pages of the directories of a repository.
#[derive(Default)]
pub(super) struct Pages {
    kept: Mutex<Kept>,
    making: Mutex<HashMap<(Directory, u32), Making>>,
}

struct Kept {
    directories: LruCache<Directory, VecDeque<Arc<Page>>>,
    bytes: usize,
}

impl Default for Kept {
    fn default() -> Self {
        Self { directories: LruCache::unbounded(), bytes: 0 }
    }
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pages({} bytes)", self.kept.lock().bytes)
    }
}

impl Pages {
    /// Returns a kept page in which the listing goes on after a row.
    pub(super) fn kept(&self, directory: Directory, row: u32) -> Option<Arc<Page>> {
        let mut kept = self.kept.lock();
        let pages = kept.directories.get(&directory)?;
        pages.iter().find(|page| page.continues(row)).cloned()
    }

    /// Returns the revision of the pages that are kept of a directory.
    pub(super) fn revision(&self, directory: Directory) -> Option<Arc<Revision>> {
        let kept = self.kept.lock();
        let pages = kept.directories.peek(&directory)?;
        pages.front().map(|page| Arc::clone(&page.revision))
    }

    /// Returns the page in which the listing goes on after a row: a kept one, the one that others wait for, or the
    /// one that `make` makes.
    pub(super) async fn get(
        &self,
        directory: Directory,
        row: u32,
        make: impl FnOnce() -> BoxFuture<'static, Result<Arc<Page>, RevisionError>>,
    ) -> Result<Arc<Page>, RevisionError> {
        if let Some(page) = self.kept(directory, row) {
            return Ok(page);
        }
        let key = (directory, row);
        let making = {
            let mut all = self.making.lock();
            let making = all.entry(key).or_insert_with(|| make().shared());
            Waiting { pages: self, key, making: making.clone() }
        };
        let page = making.making.clone().await?;
        self.keep(directory, &page);
        Ok(page)
    }

    fn keep(&self, directory: Directory, page: &Arc<Page>) {
        let mut closed = Vec::new();
        let mut kept = self.kept.lock();
        let pages = kept.directories.get_or_insert_mut(directory, VecDeque::new);
        if pages.iter().any(|known| Arc::ptr_eq(known, page)) {
            return;
        }
        pages.push_back(Arc::clone(page));
        if pages.len() > MAX_OF_DIRECTORY {
            closed.extend(pages.pop_front());
        }
        kept.bytes += page.weight;
        let all = KEPT_OF_ALL.fetch_add(page.weight, Ordering::Relaxed) + page.weight;
        let mut freed: usize = closed.iter().map(|page| page.weight).sum();
        while kept.directories.len() > 1
            && (kept.bytes - freed > MAX_KEPT || all.saturating_sub(freed) > MAX_KEPT_OF_ALL)
        {
            let Some((_, pages)) = kept.directories.pop_lru() else { break };
            freed += pages.iter().map(|page| page.weight).sum::<usize>();
            closed.extend(pages);
        }
        kept.bytes -= freed;
        drop(kept);
        KEPT_OF_ALL.fetch_sub(freed, Ordering::Relaxed);
        // Freed outside the lock.
        drop(closed);
    }

    /// Returns how many pages are being made.
    #[cfg(test)]
    pub(super) fn in_the_making(&self) -> usize {
        self.making.lock().len()
    }

    /// Returns the bytes of the pages that are kept.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.kept.lock().bytes
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        KEPT_OF_ALL.fetch_sub(self.kept.get_mut().bytes, Ordering::Relaxed);
    }
}

/// One who waits for a page. The last one takes it off the list, also where nobody waited for its end.
struct Waiting<'a> {
    pages: &'a Pages,
    key: (Directory, u32),
    making: Making,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut all = self.pages.making.lock();
        let Some(listed) = all.get(&self.key).filter(|listed| listed.ptr_eq(&self.making)) else {
            return;
        };
        // Done, or only the list and this one have it.
        let is_last =
            listed.peek().is_some() || listed.strong_count().is_none_or(|count| count <= 2);
        let done = if is_last { all.remove(&self.key) } else { None };
        drop(all);
        drop(done);
    }
}

#[cfg(test)]
mod tests;
