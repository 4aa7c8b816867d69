//! Which objects are open, bounded twice: over all files, and for each file.
//!
//! The bound for one file keeps a scan through a huge chunked file from closing everything else.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use cvmfs_core::cache::CachedObject;
use lru::LruCache;

use super::Ino;

/// Index of a piece of a file: 0 for whole objects.
pub(super) type Piece = usize;

/// Most pieces of one file kept open: some readers side by side with their read-ahead. Half of the
/// smallest bound over all files, so that no file can fill the table.
const MAX_PIECES_OF_FILE: usize = 32;

/// Open objects by inode and piece, the least recently used ones go first.
///
/// Objects that are pushed out are handed back, so that the caller can close them after it has
/// released its lock.
pub(super) struct OpenObjects {
    objects: LruCache<(Ino, Piece), CachedObject>,
    /// The open pieces of each file, least recently used first: exactly the keys of `objects`.
    pieces: HashMap<Ino, Vec<Piece>>,
}

impl OpenObjects {
    /// Makes an empty table for up to `bound` objects.
    pub(super) fn new(bound: NonZeroUsize) -> Self {
        Self { objects: LruCache::new(bound), pieces: HashMap::new() }
    }

    /// Returns an open object and counts that as a use.
    pub(super) fn get(&mut self, ino: Ino, piece: Piece) -> Option<CachedObject> {
        let object = self.objects.get(&(ino, piece))?.clone();
        if let Some(pieces) = self.pieces.get_mut(&ino)
            && let Some(at) = pieces.iter().position(|&known| known == piece)
        {
            pieces[at..].rotate_left(1);
        }
        Some(object)
    }

    /// Keeps an object open; returns those that are not kept any more.
    pub(super) fn insert(
        &mut self,
        ino: Ino,
        piece: Piece,
        object: CachedObject,
    ) -> Vec<CachedObject> {
        let mut closed = Vec::from_iter(self.remove(ino, piece));
        let oldest = self
            .pieces
            .get(&ino)
            .filter(|pieces| pieces.len() >= MAX_PIECES_OF_FILE)
            .and_then(|pieces| pieces.first().copied());
        if let Some(oldest) = oldest {
            closed.extend(self.remove(ino, oldest));
        }
        if let Some(((old_ino, old_piece), old)) = self.objects.push((ino, piece), object) {
            self.unlist(old_ino, old_piece);
            closed.push(old);
        }
        self.pieces.entry(ino).or_default().push(piece);
        closed
    }

    /// Takes one object out.
    pub(super) fn remove(&mut self, ino: Ino, piece: Piece) -> Option<CachedObject> {
        let object = self.objects.pop(&(ino, piece))?;
        self.unlist(ino, piece);
        Some(object)
    }

    /// Takes out all objects of a file.
    pub(super) fn remove_file(&mut self, ino: Ino) -> Vec<CachedObject> {
        let pieces = self.pieces.remove(&ino).unwrap_or_default();
        pieces.into_iter().filter_map(|piece| self.objects.pop(&(ino, piece))).collect()
    }

    fn unlist(&mut self, ino: Ino, piece: Piece) {
        if let Some(pieces) = self.pieces.get_mut(&ino) {
            pieces.retain(|&known| known != piece);
            if pieces.is_empty() {
                self.pieces.remove(&ino);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(bound: usize) -> OpenObjects {
        OpenObjects::new(NonZeroUsize::new(bound).unwrap())
    }

    fn object() -> CachedObject {
        CachedObject::from_memory(vec![0].into())
    }

    /// The open (inode, piece) pairs, after a check that both indices agree.
    fn open(table: &OpenObjects) -> Vec<(Ino, Piece)> {
        let mut keys: Vec<_> = table.objects.iter().map(|(key, _)| *key).collect();
        let mut listed: Vec<_> = table
            .pieces
            .iter()
            .flat_map(|(ino, pieces)| pieces.iter().map(|piece| (*ino, *piece)))
            .collect();
        assert!(table.pieces.values().all(|pieces| !pieces.is_empty()));
        keys.sort_unstable();
        listed.sort_unstable();
        assert_eq!(keys, listed);
        keys
    }

    #[test]
    fn a_huge_file_does_not_close_the_others() {
        let mut table = table(64);
        for ino in 1000..1010 {
            assert!(table.insert(ino, 0, object()).is_empty());
        }
        for piece in 0..500 {
            let closed = table.insert(7, piece, object());
            assert_eq!(closed.len(), usize::from(piece >= MAX_PIECES_OF_FILE), "{piece}");
            // In use all the time, so it stays.
            assert!(table.get(7, 0).is_some(), "{piece}");
        }
        let open = open(&table);
        assert_eq!(open.len(), 10 + MAX_PIECES_OF_FILE);
        assert!((1000..1010).all(|ino| open.contains(&(ino, 0))));
        assert!(open.contains(&(7, 0)) && open.contains(&(7, 499)) && !open.contains(&(7, 1)));
    }

    #[test]
    fn the_bound_over_all_files_holds() {
        let mut table = table(3);
        for ino in 1..=3 {
            table.insert(ino, 0, object());
        }
        assert!(table.get(1, 0).is_some());
        assert_eq!(table.insert(4, 0, object()).len(), 1);
        assert_eq!(open(&table), [(1, 0), (3, 0), (4, 0)], "2 was used least recently");
        // The same one again closes only its former self.
        assert_eq!(table.insert(3, 0, object()).len(), 1);
        assert_eq!(open(&table), [(1, 0), (3, 0), (4, 0)]);
    }

    #[test]
    fn forgetting_a_file_closes_all_of_it() {
        let mut table = table(64);
        for piece in [0, 3, 900] {
            table.insert(7, piece, object());
        }
        table.insert(8, 3, object());
        assert!(table.remove(7, 3).is_some());
        assert!(table.remove(7, 3).is_none());
        assert_eq!(table.remove_file(7).len(), 2);
        assert_eq!(table.remove_file(7).len(), 0);
        assert_eq!(open(&table), [(8, 3)]);
        assert!(table.get(7, 0).is_none());
    }
}
