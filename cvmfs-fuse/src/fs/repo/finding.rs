//! Inodes that the kernel names, and the revisions that they belong to.

use std::sync::Arc;

use cvmfs_core::catalog::DirectoryEntry;
use cvmfs_core::chain::chain;
use cvmfs_core::hash::ContentHash;
use cvmfs_core::path::RepoPath;
use cvmfs_core::revision::Revision;

use super::RepoFs;
use crate::fs::inode::{Inode, Resting};
use crate::fs::{FsError, Ino, ROOT_INO};

impl RepoFs {
    /// Takes over all inodes of a predecessor; before that, no revision may be switched to.
    pub async fn adopt_all(&self) {
        for ino in self.inodes.heirs() {
            if let Err(error) = self.inode(ino).await {
                tracing::debug!(ino, %error, "inode of a predecessor is lost");
            }
        }
    }

    /// Finds an inode of a predecessor by its path and revision.
    async fn adopt(&self, ino: Ino) -> Result<Arc<Inode>, FsError> {
        let heir = self.inodes.heir(ino).ok_or(FsError::StaleInode(ino))?;
        let current = self.repository.current();
        let earlier = match heir.revision.filter(|&root| root != current.root_hash()) {
            Some(root) => Some(self.earlier(root).await?),
            None => None,
        };
        let revision = earlier.as_ref().unwrap_or(&current);
        let entry = find(revision, &heir.path).await?;
        self.inodes.adopt(ino, &heir.path, &entry, earlier.as_ref()).ok_or(FsError::StaleInode(ino))
    }

    /// Opens a revision that a predecessor had bound inodes to.
    async fn earlier(&self, root: ContentHash) -> Result<Arc<Revision>, FsError> {
        let known = self.ancestors.lock().get(&root).cloned();
        if let Some(revision) = known {
            return Ok(revision);
        }
        let revision = self.repository.earlier(root).await.map_err(|error| {
            tracing::warn!(%root, error = %chain(&error), "a revision in use cannot be opened");
            FsError::Broken { path: RepoPath::root(), reason: "its revision cannot be opened" }
        })?;
        self.ancestors.lock().insert(root, Arc::clone(&revision));
        Ok(revision)
    }

    /// Finds an inode that the kernel names. The root is known without a lookup.
    pub(super) async fn inode(&self, ino: Ino) -> Result<Arc<Inode>, FsError> {
        if ino != ROOT_INO {
            self.must_be_shown()?;
            return match self.inodes.get(ino) {
                Some(inode) => Ok(inode),
                None => self.rouse(ino).await,
            };
        }
        let path = RepoPath::root();
        let entry = find(&self.repository.current(), &path).await?;
        Ok(self.inodes.remember(&path, &entry, None))
    }

    /// Refuses all but the root itself, which people ask for the reason, while no server has vouched
    /// for the repository for too long.
    pub(super) fn must_be_shown(&self) -> Result<(), FsError> {
        self.repository.withheld().map_or(Ok(()), |withheld| Err(FsError::Withheld(withheld)))
    }

    /// Finds the row of an inode that was not used for long, or that a predecessor knew.
    async fn rouse(&self, ino: Ino) -> Result<Arc<Inode>, FsError> {
        // A switch between two questions may bind it to the revision before; then once more.
        for _ in 0..2 {
            let Some(Resting { path, earlier }) = self.inodes.resting(ino) else {
                return self.adopt(ino).await;
            };
            let revisions = self.revisions_since(earlier.as_ref());
            for revision in &revisions {
                let failed = |source| FsError::Revision { path: path.clone(), source };
                let found = revision.lookup(&path).await.map_err(failed)?;
                let roused = found.and_then(|entry| self.inodes.rouse(ino, &entry));
                if let Some(inode) = roused {
                    return Ok(inode);
                }
            }
        }
        Err(FsError::StaleInode(ino))
    }

    /// Returns the revision in which names below a directory are looked up.
    pub(super) fn revision_below(&self, inode: &Inode) -> Arc<Revision> {
        inode.earlier.clone().unwrap_or_else(|| self.repository.current())
    }

    /// Returns the revisions that may have an inode's content, the likely one first.
    pub(super) fn revisions_of(&self, inode: &Inode) -> Vec<Arc<Revision>> {
        self.revisions_since(inode.earlier.as_ref())
    }

    fn revisions_since(&self, earlier: Option<&Arc<Revision>>) -> Vec<Arc<Revision>> {
        match earlier {
            Some(earlier) => vec![Arc::clone(earlier)],
            None => {
                let current = Some(self.repository.current());
                current.into_iter().chain(self.previous.load_full()).collect()
            }
        }
    }
}

pub(super) async fn find(
    revision: &Revision,
    path: &RepoPath,
) -> Result<Arc<DirectoryEntry>, FsError> {
    let failed = |source| FsError::Revision { path: path.clone(), source };
    revision.lookup(path).await.map_err(failed)?.ok_or(FsError::NotFound)
}
