//! Attributes that tell of other machines: where an external file is, and how the owner describes the
//! repository (spec/filesystem.md section 10).

use cvmfs_core::catalog::{DirectoryEntry, EntryKind};
use cvmfs_core::chain::chain;
use cvmfs_core::decode::SizeBound;
use cvmfs_core::object::{ObjectId, ObjectKind};
use cvmfs_core::repository::Repository;

use super::inode::Inode;

/// Listed for everything.
pub(super) const METAINFO: &str = "user.repo_metainfo";
/// Listed for external files.
const URL: &str = "user.external_url";
/// Largest description: real ones have 1 KiB, and the kernel takes values below 64 KiB.
const MAX_METAINFO: u64 = 60_000;

/// Returns the names of those that an entry has.
pub(super) fn names_of(entry: &DirectoryEntry) -> impl Iterator<Item = &'static str> + use<> {
    let is_external = is_external(entry);
    [METAINFO, URL].into_iter().filter(move |name| is_external || *name != URL)
}

/// Returns the value of such an attribute; `None` if the name or the kind of entry is another.
pub(super) async fn remote_attribute(
    repository: &Repository,
    inode: &Inode,
    name: &[u8],
) -> Option<Vec<u8>> {
    if name == METAINFO.as_bytes() {
        return Some(metainfo(repository).await);
    }
    if name != URL.as_bytes() || !is_external(&inode.entry) {
        return None;
    }
    let external = repository.fetcher().external()?;
    let mut url = external.hosts().get(external.current_host())?.clone().into_bytes();
    url.extend_from_slice(inode.path.as_bytes());
    Some(url)
}

fn is_external(entry: &DirectoryEntry) -> bool {
    entry.kind == EntryKind::Regular && entry.external
}

/// The description; or why there is none, in upstream's words where it has some.
async fn metainfo(repository: &Repository) -> Vec<u8> {
    let Some(manifest) = repository.manifest() else { return b"manifest not available".to_vec() };
    let Some(hash) = manifest.metainfo else { return b"metainfo not available".to_vec() };
    let id = ObjectId::zlib(hash, ObjectKind::Metainfo);
    let bound = SizeBound::AtMost(MAX_METAINFO);
    match repository.fetcher().open(&id, bound, "the repository's description").await {
        Ok(object) => {
            let read = tokio::task::spawn_blocking(move || object.read_all(MAX_METAINFO));
            match read.await {
                Ok(Ok(text)) => text.to_vec(),
                Ok(Err(error)) => format!("failed to read metainfo: {error}").into_bytes(),
                Err(error) => format!("failed to read metainfo: {error}").into_bytes(),
            }
        }
        Err(error) => format!("failed to fetch metainfo: {}", chain(&*error)).into_bytes(),
    }
}
