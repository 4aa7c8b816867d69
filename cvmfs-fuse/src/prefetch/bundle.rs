//! Bundles: a publisher says in `.cvmfsbundle-NAME` what is needed along with the file NAME beside
//! it.
//!
//! JSON with the name `CVMFS_BUNDLE` and `dependencies`, absolute paths from the repository's root.
//! It is content of the repository, so it is what the publisher wrote; still it only proposes.

use std::num::NonZeroUsize;
use std::sync::Arc;

use cvmfs_core::cache::CachedObject;
use cvmfs_core::catalog::{Content, DirectoryEntry, EntryKind};
use cvmfs_core::fetch::{FetchOptions, Fetcher};
use cvmfs_core::path::{MAX_NAME_LEN, RepoPath};
use cvmfs_core::revision::Revision;
use cvmfs_core::share::{self, Owner};
use lru::LruCache;
use parking_lot::Mutex;
use serde::Deserialize;

use super::queue::{Queue, Wish};

const PREFIX: &[u8] = b".cvmfsbundle-";
const NAME: &str = "CVMFS_BUNDLE";
/// Largest bundle that is read.
const MAX_SIZE: u64 = 1 << 20;
/// Files of a bundle that are looked at.
const MAX_DEPENDENCIES: usize = 2048;
/// Bytes of a bundle that are fetched ahead.
const MAX_BYTES: u64 = 128 << 20;
/// Files whose bundle was looked for.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

#[derive(Debug, Deserialize)]
struct Bundle {
    name: String,
    dependencies: Vec<String>,
}

impl Bundle {
    fn parse(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok().filter(|bundle: &Self| bundle.name == NAME)
    }

    fn paths(&self) -> impl Iterator<Item = RepoPath> {
        let all = self.dependencies.iter().take(MAX_DEPENDENCIES);
        all.filter(|path| path.starts_with('/')).filter_map(|path| RepoPath::parse(path.as_bytes()))
    }
}

/// Input of the fuzz target `bundle`.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    if let Some(bundle) = Bundle::parse(data) {
        assert!(bundle.paths().count() <= MAX_DEPENDENCIES);
    }
}

/// The bundles of a repository.
pub struct Bundles {
    fetcher: Arc<Fetcher>,
    queue: Arc<Queue>,
    seen: Mutex<LruCache<RepoPath, ()>>,
}

impl std::fmt::Debug for Bundles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundles").finish_non_exhaustive()
    }
}

impl Bundles {
    /// Proposes to `queue`.
    pub fn new(fetcher: &Arc<Fetcher>, queue: &Arc<Queue>) -> Self {
        Self {
            fetcher: Arc::clone(fetcher),
            queue: Arc::clone(queue),
            seen: Mutex::new(LruCache::new(MAX_REMEMBERED)),
        }
    }

    /// Looks for the bundle of a file that was not here, in a task of its own.
    pub fn used(self: &Arc<Self>, path: &RepoPath, revision: &Arc<Revision>) {
        let is_bundle = path.name().starts_with(PREFIX);
        if is_bundle || self.seen.lock().put(path.clone(), ()).is_some() {
            return;
        }
        let Some(parent) = path.parent() else { return };
        let name = [PREFIX, path.name()].concat();
        if name.len() > MAX_NAME_LEN {
            return;
        }
        let (bundles, revision) = (Arc::clone(self), Arc::clone(revision));
        tokio::spawn(share::scope(Owner::Ahead, async move {
            let at = parent.join(&name);
            if let Ok(Some(entry)) = revision.lookup(&at).await {
                bundles.fetch(&at, &entry, &revision).await;
            }
        }));
    }

    async fn fetch(&self, at: &RepoPath, entry: &DirectoryEntry, revision: &Revision) {
        let Content::Whole(id) = &entry.content else { return };
        if entry.kind != EntryKind::Regular || entry.external || entry.size > MAX_SIZE {
            return;
        }
        let options = FetchOptions::content(entry, at, None, at.to_string());
        self.fetcher.fetch_ahead(id, &options).await;
        let Ok(object) = self.fetcher.open_with(id, &options).await else { return };
        let Some(bundle) = contents(&object).as_deref().and_then(Bundle::parse) else {
            tracing::warn!(bundle = %at, "a bundle that is not understood");
            return;
        };
        let mut left = MAX_BYTES;
        for path in bundle.paths() {
            match revision.lookup(&path).await {
                Ok(Some(entry)) => self.propose(&path, &entry, revision, &mut left).await,
                Ok(None) => tracing::debug!(bundle = %at, %path, "a dependency does not exist"),
                // The catalogs cannot be had now, and so cannot the others.
                Err(_) => return,
            }
            if left == 0 {
                return;
            }
        }
    }

    async fn propose(
        &self,
        path: &RepoPath,
        entry: &DirectoryEntry,
        revision: &Revision,
        left: &mut u64,
    ) {
        if entry.external {
            return;
        }
        let label = path.to_string();
        match &entry.content {
            Content::Whole(id) => {
                let options = FetchOptions::content(entry, path, None, label);
                self.offer(Wish { id: *id, size: entry.size, options, group: None }, left);
            }
            Content::Chunked(_) => {
                let Ok(chunks) = revision.chunks(path).await else { return };
                for chunk in chunks.iter() {
                    if *left == 0 {
                        return;
                    }
                    let options = FetchOptions::content(entry, path, Some(chunk), label.clone());
                    let (id, size) = (chunk.object, chunk.size);
                    self.offer(Wish { id, size, options, group: None }, left);
                }
            }
            Content::Broken(_) | Content::None => {}
        }
    }

    fn offer(&self, wish: Wish, left: &mut u64) {
        match left.checked_sub(wish.size) {
            Some(rest) => {
                *left = rest;
                if wish.size > 0 {
                    self.queue.propose(wish);
                }
            }
            None => *left = 0,
        }
    }
}

fn contents(object: &CachedObject) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(object.len().min(MAX_SIZE)).ok()?];
    let read = object.read_at(&mut bytes, 0).ok()?;
    (read == bytes.len()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_are_read_and_others_are_not() {
        let json = br#"{"name": "CVMFS_BUNDLE", "version": 1, "encoding": "x", "new": [],
                        "dependencies": ["/a/b", "relative", "/a/../b", "/c", ""]}"#;
        let paths: Vec<_> = Bundle::parse(json).unwrap().paths().collect();
        assert_eq!(paths.iter().map(ToString::to_string).collect::<Vec<_>>(), ["/a/b", "/c"]);
        for bad in [
            &b""[..],
            b"[]",
            b"{\"name\": \"CVMFS_BUNDLE\"}",
            b"{\"name\": \"OTHER\", \"dependencies\": []}",
            b"{\"name\": \"CVMFS_BUNDLE\", \"dependencies\": [1]}",
            b"\xff",
        ] {
            assert!(Bundle::parse(bad).is_none());
        }
        let many = vec!["\"/x\""; 5000].join(",");
        let json = format!("{{\"name\":\"CVMFS_BUNDLE\",\"dependencies\":[{many}]}}");
        assert_eq!(Bundle::parse(json.as_bytes()).unwrap().paths().count(), MAX_DEPENDENCIES);
    }

    #[test]
    fn m1_deep_bundles_are_refused_in_a_small_stack() {
        let run = || {
            for inner in ["[", "{\"a\":"] {
                let deep = inner.repeat(100_000);
                assert!(Bundle::parse(deep.as_bytes()).is_none());
                let text = format!("{{\"name\":\"{NAME}\",\"dependencies\":[],\"x\":{deep}");
                assert!(Bundle::parse(text.as_bytes()).is_none());
            }
        };
        let small = std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap();
        small.join().unwrap();
    }
}
