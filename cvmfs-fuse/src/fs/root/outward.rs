//! Listings of a repository with the numbers of the mount.

use super::super::{DirectoryReplier, Entry, Ino, ListedEntry, ROOT_INO};
use super::slot::Slot;

/// Passes entries on with their numbers turned outward.
pub(super) struct Outward<'a, R> {
    pub(super) replier: &'a mut R,
    pub(super) slot: Slot,
    /// The repository's root is listed, whose parent is outside.
    pub(super) of_its_root: bool,
}

impl<R: DirectoryReplier> DirectoryReplier for Outward<'_, R> {
    fn wants_attributes(&self) -> bool {
        self.replier.wants_attributes()
    }

    fn add(&mut self, listed: ListedEntry<'_>) -> bool {
        let is_outside = self.of_its_root && listed.name == b"..";
        let ino: Ino = if is_outside { ROOT_INO } else { self.slot.outward(listed.ino) };
        let entry: Option<Entry> = listed.entry.map(|entry| self.slot.entry(*entry));
        self.replier.add(ListedEntry { ino, entry: entry.as_ref(), ..listed })
    }

    fn finish(&mut self) {
        self.replier.finish();
    }
}
