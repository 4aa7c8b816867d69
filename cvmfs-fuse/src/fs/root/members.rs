//! The repositories that a mount knows: their slots, whether they are open, and what of them the
//! kernel holds.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cvmfs_core::fqrn::Fqrn;
use cvmfs_core::path::RepoPath;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use super::super::journal::Journal;
use super::super::{Ino, ROOT_INO, RepoFs, Vfs as _};
use super::Opened;
use super::former::Former;
use super::slot::Slot;

/// Repositories with a slot, below the number of journals that a supervisor takes. Beyond, the
/// slots of repositories of which nobody holds anything are given to others.
const MAX_MEMBERS: usize = 400;

/// An open repository. Requests hold it for as long as they work with it.
pub(super) struct Open {
    pub(super) fs: Arc<RepoFs>,
    /// Files that were opened and not released.
    files: AtomicU64,
    /// Goes before the place of the repository becomes free for another one.
    _attendant: Box<dyn Send + Sync>,
    _place: OwnedSemaphorePermit,
}

impl Open {
    pub(super) fn file_opened(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn file_released(&self) {
        // A predecessor's, or one opened before the repository was closed: not counted.
        let less = |files: u64| files.checked_sub(1);
        let _ = self.files.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// References of the kernel to the root of a repository, which [`RepoFs`] does not count.
#[derive(Debug, Default)]
struct References {
    count: u64,
    /// The kernel also holds some that a predecessor counted.
    inherited: bool,
}

/// Whether a repository is open.
#[derive(Default)]
struct Life {
    open: Option<Arc<Open>>,
    /// What is left of the last time that it was.
    former: Option<Arc<Former>>,
    is_opening: bool,
    /// What the kernel gave back meanwhile.
    forgotten: Vec<(Ino, u64)>,
}

/// A repository that has a slot.
pub(super) struct Member {
    pub(super) fqrn: Fqrn,
    pub(super) slot: Slot,
    /// Shown whether it is open or not.
    pub(super) is_listed: bool,
    was_open: AtomicBool,
    life: Mutex<Life>,
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
            was_open: AtomicBool::new(false),
            life: Mutex::default(),
            root: Mutex::default(),
            born: Instant::now(),
            last_used: AtomicU64::new(0),
        }
    }

    /// Returns the open repository, to be used.
    pub(super) fn open(&self) -> Option<Arc<Open>> {
        let open = self.peek()?;
        self.touch();
        Some(open)
    }

    /// Returns the open repository, without counting that as a use.
    pub(super) fn peek(&self) -> Option<Arc<Open>> {
        self.life.lock().open.clone()
    }

    /// Tells whether it is open, or was when a predecessor died, which comes to the same.
    pub(super) fn is_open(&self) -> bool {
        let life = self.life.lock();
        life.open.is_some() || life.former.as_ref().is_some_and(|former| former.counts_as_open())
    }

    /// Begins to open it; returns what is left of the last time. Either [`Member::keep`] or
    /// [`Member::give_up`] follows.
    pub(super) fn begin(&self) -> Option<Arc<Former>> {
        let mut life = self.life.lock();
        life.is_opening = true;
        life.former.clone()
    }

    /// Keeps it open from now on.
    pub(super) fn keep(&self, opened: Opened, place: OwnedSemaphorePermit) -> Arc<Open> {
        let Opened { fs, attendant } = opened;
        let files = AtomicU64::new(0);
        let open = Arc::new(Open { fs, files, _attendant: attendant, _place: place });
        if let (true, Some(journal)) = (self.root.lock().is_held(), open.fs.journal()) {
            // Known from a listing that was made before.
            journal.known(ROOT_INO, &RepoPath::root());
        }
        self.was_open.store(true, Ordering::Relaxed);
        self.touch();
        let mut life = self.life.lock();
        let Life { forgotten, .. } = std::mem::replace(
            &mut *life,
            Life { open: Some(Arc::clone(&open)), ..Life::default() },
        );
        drop(life);
        for (ino, count) in forgotten {
            open.fs.forget(ino, count);
        }
        open
    }

    /// It could not be opened.
    pub(super) fn give_up(&self) {
        let mut life = self.life.lock();
        life.is_opening = false;
        life.forgotten.clear();
    }

    /// Closes it, unless anybody could notice: false then.
    ///
    /// Requests hold what they work with, and get it under the lock that is held here; whatever a
    /// request made the kernel know is counted before it lets go. A switch to another revision
    /// holds the filesystem.
    pub(super) fn close(&self) -> bool {
        let mut life = self.life.lock();
        let Some(open) = &life.open else {
            if let Some(former) = &life.former {
                former.close();
            }
            return true;
        };
        let in_use = Arc::strong_count(open) > 1
            || Arc::strong_count(&open.fs) > 1
            || open.files.load(Ordering::Relaxed) > 0;
        if in_use {
            return false;
        }
        let Some(inheritance) = open.fs.heritage() else { return false };
        if let Some(journal) = open.fs.journal() {
            journal.closed();
        }
        let former = Former::new(inheritance, open.fs.journal().cloned());
        let closed = life.open.take();
        life.former = Some(Arc::new(former));
        drop(life);
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

    /// Takes back references to one of its inodes.
    pub(super) fn forget(&self, ino: Ino, count: u64) {
        let open = {
            let mut life = self.life.lock();
            if life.is_opening {
                life.forgotten.push((ino, count));
            }
            if let Some(former) = &life.former {
                former.forget(ino);
            }
            life.open.clone()
        };
        if let Some(open) = open {
            open.fs.forget(ino, count);
        }
    }

    /// Counts a reference to its root, before the kernel hears of it.
    pub(super) fn refer(&self) {
        let journal = self.journal();
        let mut root = self.root.lock();
        if let (0, Some(journal)) = (root.count, journal) {
            journal.known(ROOT_INO, &RepoPath::root());
        }
        root.count += 1;
    }

    /// Takes back references to its root.
    pub(super) fn forget_root(&self, count: u64) {
        let journal = self.journal();
        let mut root = self.root.lock();
        if std::mem::take(&mut root.inherited) {
            // All at once, those of a predecessor included; a reply on its way may add one.
            root.count = root.count.min(1);
        } else {
            root.count = root.count.saturating_sub(count);
        }
        if let (0, Some(journal)) = (root.count, journal) {
            journal.forgotten(ROOT_INO);
        }
    }

    fn journal(&self) -> Option<Arc<Journal>> {
        let life = self.life.lock();
        match (&life.open, &life.former) {
            (Some(open), _) => open.fs.journal().cloned(),
            (None, Some(former)) => former.journal(),
            (None, None) => None,
        }
    }

    pub(super) fn is_dispensable(&self) -> bool {
        let life = self.life.lock();
        let is_closed = life.open.is_none() && !life.is_opening;
        let nothing_left = life.former.as_ref().is_none_or(|former| former.is_empty());
        !self.is_listed && is_closed && nothing_left && !self.root.lock().is_held()
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

    /// Returns a repository, which gets the next free slot from its own if it has none, and the one
    /// that lost its slot to it. `None` if all are in use.
    pub(super) fn admit(
        &mut self,
        fqrn: &Fqrn,
        is_listed: bool,
    ) -> Option<(Arc<Member>, Option<Fqrn>)> {
        if let Some(member) = self.by_name.get(fqrn) {
            return Some((Arc::clone(member), None));
        }
        let mut dismissed = None;
        if self.by_slot.len() >= MAX_MEMBERS && !is_listed {
            let unused = self.by_slot.values().filter(|member| member.is_dispensable());
            let longest = unused.max_by_key(|member| member.unused_for())?.fqrn.clone();
            self.remove(&longest);
            dismissed = Some(longest);
        }
        if self.by_slot.len() >= usize::from(Slot::COUNT) {
            return None;
        }
        let mut slot = Slot::of(fqrn.as_str());
        while self.by_slot.contains_key(&slot) {
            slot = slot.next();
        }
        Some((self.add(fqrn, is_listed, slot), dismissed))
    }

    /// Adds a repository that a predecessor had open.
    pub(super) fn inherit(&mut self, fqrn: &Fqrn, is_listed: bool, slot: Slot, former: Former) {
        if self.by_slot.contains_key(&slot) || self.by_name.contains_key(fqrn) {
            return;
        }
        let member = self.add(fqrn, is_listed, slot);
        member.was_open.store(true, Ordering::Relaxed);
        member.root.lock().inherited = former.root_is_known();
        member.life.lock().former = Some(Arc::new(former));
    }

    fn add(&mut self, fqrn: &Fqrn, is_listed: bool, slot: Slot) -> Arc<Member> {
        let member = Arc::new(Member::new(fqrn.clone(), slot, is_listed));
        self.by_name.insert(fqrn.clone(), Arc::clone(&member));
        self.by_slot.insert(slot, Arc::clone(&member));
        member
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
        let first = members.add(&fqrn("b.test.repo"), true, wanted);
        let (second, _) = members.admit(&fqrn("a.test.repo"), false).unwrap();
        assert_eq!((first.slot, second.slot), (wanted, wanted.next()));
        assert_eq!(members.admit(&fqrn("a.test.repo"), false).unwrap().0.slot, second.slot);
        members.dismiss(&first.fqrn);
        assert!(members.named(&first.fqrn).is_some(), "listed ones stay");
        members.dismiss(&second.fqrn);
        assert!(members.named(&second.fqrn).is_none() && members.at(second.slot).is_none());
    }

    #[test]
    fn when_there_are_many_one_that_nobody_uses_goes() {
        let mut members = Members::default();
        let first = members.admit(&fqrn("r0.test.repo"), false).unwrap().0;
        for number in 1..MAX_MEMBERS {
            members.admit(&fqrn(&format!("r{number}.test.repo")), false).unwrap().0.refer();
        }
        let (late, dismissed) = members.admit(&fqrn("late.test.repo"), false).unwrap();
        assert_eq!(dismissed.as_ref(), Some(&first.fqrn));
        late.refer();
        assert!(members.admit(&fqrn("later.test.repo"), false).is_none());
        late.forget_root(1);
        assert!(members.admit(&fqrn("later.test.repo"), false).is_some());
    }

    #[test]
    fn references_of_a_predecessor_go_with_the_first_that_is_taken_back() {
        let member = Member::new(fqrn("a.test.repo"), Slot::of("a"), false);
        member.refer();
        member.refer();
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
