//! From one revision to the next.

use std::collections::HashSet;
use std::sync::Arc;

use cvmfs_core::catalog::{DirectoryEntry, EntryKind};
use cvmfs_core::format::blocklist::Blocklist;
use cvmfs_core::path::RepoPath;
use cvmfs_core::repository::Update;
use cvmfs_core::revision::Revision;

use super::RepoFs;
use crate::fs::ROOT_INO;
use crate::fs::switch::{DirectoryChange, Notice, differences};

impl RepoFs {
    /// Switches to a prepared revision and returns what the kernel must forget.
    ///
    /// To be called by one task only. From the return of this on, new requests see the new
    /// revision; what the kernel answers by itself is right when it has all the notices.
    pub async fn switch(&self, update: Update, blocklist: &Blocklist) -> Vec<Notice> {
        let old = self.repository.current();
        let new = Arc::clone(update.revision());
        let mut known = self.inodes.directories();
        known.push(RepoPath::root());
        let changes = differences(&old, &new, known.clone()).await;
        let mut notices = Vec::new();
        self.gate.advance(|| {
            self.previous.store(Some(Arc::clone(&old)));
            self.repository.commit(update, blocklist);
            self.apply(&old, changes, &mut notices);
        });
        // Directories that became known while the others were compared.
        let seen: HashSet<_> = known.into_iter().collect();
        let late = self.inodes.directories().into_iter().filter(|path| !seen.contains(path));
        let changes = differences(&old, &new, late.collect()).await;
        self.apply(&old, changes, &mut notices);
        if !root_is_same(&old, &new).await {
            notices.push(Notice::Directory(ROOT_INO));
        }
        // After all that belongs to the old one was bound to it.
        if let Some(journal) = self.inodes.journal() {
            journal.current(new.root_hash());
        }
        notices
    }

    fn apply(&self, old: &Arc<Revision>, changes: Vec<DirectoryChange>, notices: &mut Vec<Notice>) {
        for change in changes {
            match change {
                DirectoryChange::Names(path, names) => {
                    let parent = self.inodes.number_of_directory(&path);
                    for change in names {
                        let child = path.join(&change.name);
                        if change.is_directory_kept() {
                            let renewed =
                                change.new.and_then(|new| self.inodes.renew(&child, &new));
                            notices.extend(renewed.map(Notice::Directory));
                            continue;
                        }
                        if let Some(gone) = &change.old {
                            self.inodes.bind(&child, gone, old);
                            if gone.kind == EntryKind::Directory {
                                self.inodes.bind_below(&child, old);
                            }
                        }
                        notices.push(Notice::Name { parent, name: change.name });
                    }
                    notices.push(Notice::Directory(parent));
                }
                DirectoryChange::Everything(path) => {
                    let parent = self.inodes.number_of_directory(&path);
                    let names = self.inodes.names_in(&path);
                    self.inodes.bind_files_in(&path, old);
                    notices.extend(names.into_iter().map(|name| Notice::Name { parent, name }));
                    notices.push(Notice::Directory(parent));
                }
            }
        }
    }
}

async fn root_is_same(old: &Revision, new: &Revision) -> bool {
    let root = RepoPath::root();
    let identity = |entry: Option<Arc<DirectoryEntry>>| entry.map(|entry| entry.identity);
    match (old.lookup(&root).await, new.lookup(&root).await) {
        (Ok(old), Ok(new)) => identity(old) == identity(new),
        _ => false,
    }
}
