//! Open catalogs: one table for all revisions of a repository, since old ones live on for as long
//! as somebody uses what they had, and each open catalog costs descriptors.
//!
//! Catalogs that did not change are shared by revisions. One that was pushed out is opened again
//! from the cache.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use crate::catalog::evaluator::Evaluator;
use crate::catalog::{Attachment, Catalog, NestedReference};
use crate::descriptors::DescriptorBudget;
use crate::hash::ContentHash;

/// Content and place: the same content may be attached at several places.
type Key = (ContentHash, Attachment);

/// The open catalogs of a repository; the least recently used ones are closed.
#[derive(Debug)]
pub struct OpenCatalogs {
    open: Mutex<LruCache<Key, Arc<Catalog>>>,
    connections: usize,
    evaluator: Evaluator,
}

impl OpenCatalogs {
    /// Makes an empty table with the bounds of `budget`.
    pub fn new(budget: &DescriptorBudget) -> Self {
        let bound = NonZeroUsize::new(budget.catalogs).unwrap_or(NonZeroUsize::MIN);
        let (open, connections) = (Mutex::new(LruCache::new(bound)), budget.connections);
        Self { open, connections, evaluator: Evaluator::default() }
    }

    /// Returns who answers questions to them.
    pub(super) fn evaluator(&self) -> &Evaluator {
        &self.evaluator
    }

    /// Returns an open catalog and counts that as a use.
    pub(super) fn get(&self, reference: &NestedReference) -> Option<Arc<Catalog>> {
        self.open.lock().get(&key(reference)).cloned()
    }

    /// Counts a use of a catalog, if it is open.
    pub(super) fn touch(&self, reference: &NestedReference) {
        self.open.lock().promote(&key(reference));
    }

    /// Returns an open catalog without counting that as a use.
    pub(super) fn peek(&self, reference: &NestedReference) -> Option<Arc<Catalog>> {
        self.open.lock().peek(&key(reference)).cloned()
    }

    /// Keeps a catalog open.
    pub(super) fn insert(&self, catalog: Catalog) -> Arc<Catalog> {
        let catalog = Arc::new(catalog.keeping(self.connections));
        let key = (catalog.hash(), catalog.attachment().clone());
        let closed = self.open.lock().push(key, Arc::clone(&catalog));
        // Descriptors are closed outside the lock.
        drop(closed);
        catalog
    }

    /// Closes a catalog.
    pub(super) fn remove(&self, catalog: &Catalog) {
        let closed = self.open.lock().pop(&(catalog.hash(), catalog.attachment().clone()));
        drop(closed);
    }
}

fn key(reference: &NestedReference) -> Key {
    (reference.hash, reference.attachment.clone())
}
