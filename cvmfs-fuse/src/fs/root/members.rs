//! The repositories that a mount knows: their slots, whether they are open, and what of them the
//! kernel holds.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cvmfs_core::fqrn::Fqrn;
use cvmfs_core::path::RepoPath;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use super::super::{ROOT_INO, RepoFs};
use super::Opened;
use super::slot::Slot;

/// An open repository. Requests hold it for as long as they work with it.
pub(super) struct Open {
    pub(super) fs: Arc<RepoFs>,
    /// Goes before the place of the repository becomes free for another one.
    _attendant: Box<dyn Send + Sync>,
    _place: OwnedSemaphorePermit,
}

/// References of the kernel to the root of a repository, which [`RepoFs`] does not count.
#[derive(Debug, Default)]
struct References {
    count: u64,
    /// The kernel also holds some that a predecessor counted.
    inherited: bool,
}

/// A repository that has a slot.
pub(super) struct Member {
    pub(super) fqrn: Fqrn,
    pub(super) slot: Slot,
    /// Shown whether it is open or not.
    pub(super) is_listed: bool,
    /// Its slot is not given to another one while there is no need.
    was_open: std::sync::atomic::AtomicBool,
    open: Mutex<Option<Arc<Open>>>,
    root: Mutex<References>,
    born: Instant,
    /// Milliseconds from `born`.
    last_used: AtomicU64,
}

impl Member {
    fn new(fqrn: Fqrn, slot: Slot, is_listed: bool) -> Self {
        Self {
            fqrn,
            slot,
            is_listed,
            was_open: false.into(),
            open: Mutex::default(),
            root: Mutex::default(),
            born: Instant::now(),
            last_used: AtomicU64::new(0),
        }
    }

    /// Returns the open repository, to be used.
    pub(super) fn open(&self) -> Option<Arc<Open>> {
        let open = self.open.lock().clone()?;
        self.touch();
        Some(open)
    }

    /// Returns the open repository, without counting that as a use.
    pub(super) fn peek(&self) -> Option<Arc<Open>> {
        self.open.lock().clone()
    }

    /// Tells whether it is open.
    pub(super) fn is_open(&self) -> bool {
        self.open.lock().is_some()
    }

    /// Keeps it open from now on.
    pub(super) fn keep(&self, opened: Opened, place: OwnedSemaphorePermit) -> Arc<Open> {
        let Opened { fs, root_is_known, attendant } = opened;
        let open = Arc::new(Open { fs, _attendant: attendant, _place: place });
        {
            let mut root = self.root.lock();
            root.inherited |= root_is_known;
            if let (true, Some(journal)) = (root.is_held(), open.fs.journal()) {
                // Known from a listing that was made before.
                journal.known(ROOT_INO, &RepoPath::root());
            }
        }
        self.was_open.store(true, Ordering::Relaxed);
        self.touch();
        *self.open.lock() = Some(Arc::clone(&open));
        open
    }

    /// Closes it, unless anybody could notice: false then.
    ///
    /// Requests hold what they work with, and get it under the lock that is held here; whatever a
    /// request made the kernel know is counted before it lets go.
    pub(super) fn close(&self) -> bool {
        let mut open = self.open.lock();
        let Some(current) = &*open else { return true };
        let in_use = Arc::strong_count(current) > 1
            || !current.fs.is_unreferenced()
            || self.root.lock().is_held();
        if in_use {
            return false;
        }
        let closed = open.take();
        drop(open);
        // Descriptors are closed outside the lock.
        drop(closed);
        true
    }

    fn touch(&self) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_used.store(now, Ordering::Relaxed);
    }

    /// Returns how long nobody has used it.
    pub(super) fn unused_for(&self) -> Duration {
        let last = Duration::from_millis(self.last_used.load(Ordering::Relaxed));
        self.born.elapsed().saturating_sub(last)
    }

    /// Counts a reference to its root, before the kernel hears of it.
    pub(super) fn refer(&self, open: Option<&Open>) {
        let mut root = self.root.lock();
        if let (0, Some(journal)) = (root.count, open.and_then(|open| open.fs.journal())) {
            journal.known(ROOT_INO, &RepoPath::root());
        }
        root.count += 1;
    }

    /// Takes back references to its root.
    pub(super) fn forget_root(&self, count: u64) {
        let open = self.peek();
        let mut root = self.root.lock();
        if std::mem::take(&mut root.inherited) {
            // All at once, those of a predecessor included; a reply on its way may add one.
            root.count = root.count.min(1);
        } else {
            root.count = root.count.saturating_sub(count);
        }
        if let (0, Some(journal)) = (root.count, open.as_ref().and_then(|open| open.fs.journal())) {
            journal.forgotten(ROOT_INO);
        }
    }

    fn is_dispensable(&self) -> bool {
        !self.is_listed && !self.is_open() && !self.root.lock().is_held()
    }
}

impl References {
    fn is_held(&self) -> bool {
        self.count > 0 || self.inherited
    }
}

/// All repositories that have a slot.
#[derive(Default)]
pub(super) struct Members {
    by_name: HashMap<Fqrn, Arc<Member>>,
    by_slot: BTreeMap<Slot, Arc<Member>>,
}

impl Members {
    pub(super) fn named(&self, fqrn: &Fqrn) -> Option<Arc<Member>> {
        self.by_name.get(fqrn).cloned()
    }

    pub(super) fn at(&self, slot: Slot) -> Option<Arc<Member>> {
        self.by_slot.get(&slot).cloned()
    }

    /// Returns those that a listing shows after `slot`, in the order of their slots: a listing that
    /// goes on later shows none twice, whatever was opened or closed meanwhile.
    pub(super) fn shown_after(&self, slot: u64) -> Vec<Arc<Member>> {
        let after = self.by_slot.values().filter(|member| u64::from(member.slot.number()) > slot);
        after.filter(|member| member.is_listed || member.is_open()).cloned().collect()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.by_slot.values()
    }

    /// Returns a repository, which gets a slot if it has none: the one that a predecessor gave it,
    /// or the next free one from its own. `None` if all are taken by others in use.
    pub(super) fn admit(
        &mut self,
        fqrn: &Fqrn,
        is_listed: bool,
        given: Option<Slot>,
    ) -> Option<Arc<Member>> {
        if let Some(member) = self.by_name.get(fqrn) {
            return Some(Arc::clone(member));
        }
        if self.by_slot.len() >= usize::from(Slot::COUNT) {
            let dispensable = self.by_slot.values().find(|member| member.is_dispensable())?;
            let fqrn = dispensable.fqrn.clone();
            self.remove(&fqrn);
        }
        let mut slot = given.unwrap_or_else(|| Slot::of(fqrn.as_str()));
        while self.by_slot.contains_key(&slot) {
            slot = slot.next();
        }
        let member = Arc::new(Member::new(fqrn.clone(), slot, is_listed));
        self.by_name.insert(fqrn.clone(), Arc::clone(&member));
        self.by_slot.insert(slot, Arc::clone(&member));
        Some(member)
    }

    /// Forgets a repository that could not be opened. One that was open once keeps its slot: what
    /// has the same one in mind comes behind it.
    pub(super) fn dismiss(&mut self, fqrn: &Fqrn) {
        let never_opened = |member: &Arc<Member>| !member.was_open.load(Ordering::Relaxed);
        if self.by_name.get(fqrn).is_some_and(|m| never_opened(m) && m.is_dispensable()) {
            self.remove(fqrn);
        }
    }

    fn remove(&mut self, fqrn: &Fqrn) {
        if let Some(member) = self.by_name.remove(fqrn) {
            self.by_slot.remove(&member.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fqrn(text: &str) -> Fqrn {
        text.parse().unwrap()
    }

    #[test]
    fn slots_are_probed_past_taken_ones_and_stay() {
        let wanted = Slot::of("a.test.repo");
        let mut members = Members::default();
        let first = members.admit(&fqrn("b.test.repo"), true, Some(wanted)).unwrap();
        let second = members.admit(&fqrn("a.test.repo"), false, None).unwrap();
        assert_eq!((first.slot, second.slot), (wanted, wanted.next()));
        assert_eq!(members.admit(&fqrn("a.test.repo"), false, None).unwrap().slot, second.slot);
        members.dismiss(&first.fqrn);
        assert!(members.named(&first.fqrn).is_some(), "listed ones stay");
        members.dismiss(&second.fqrn);
        assert!(members.named(&second.fqrn).is_none() && members.at(second.slot).is_none());
    }

    #[test]
    fn when_all_slots_are_taken_one_that_nobody_uses_goes() {
        let mut members = Members::default();
        for number in 0..Slot::COUNT {
            let name = fqrn(&format!("r{number}.test.repo"));
            members.admit(&name, number > 0, None).unwrap();
        }
        let late = members.admit(&fqrn("late.test.repo"), true, None).unwrap();
        assert!(members.named(&fqrn("r0.test.repo")).is_none());
        assert!(members.at(late.slot).is_some());
        assert!(members.admit(&fqrn("later.test.repo"), true, None).is_none());
    }

    #[test]
    fn references_of_a_predecessor_go_with_the_first_that_is_taken_back() {
        let member = Member::new(fqrn("a.test.repo"), Slot::of("a"), false);
        member.refer(None);
        member.refer(None);
        member.forget_root(1);
        assert!(!member.is_dispensable());
        member.forget_root(1);
        assert!(member.is_dispensable());
        member.root.lock().inherited = true;
        assert!(!member.is_dispensable());
        member.forget_root(17);
        assert!(member.is_dispensable());
    }
}
