//! Who uses what just now: a session is what one thread uses without a long pause, and the chain
//! that it follows.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cvmfs_core::object::ObjectId;
use lru::LruCache;

use super::{Item, Lesson, Profile};
use crate::prefetch::group::Group;

/// Threads that are watched; each takes half a MiB at most.
const MAX_SESSIONS: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");
/// Objects of a session: its start is what can be learnt.
const MAX_USES: usize = 4096;
/// Fewer objects are no program.
const MIN_USES: usize = 4;
/// A longer pause ends a session: a program that waits for its user, or a number of a thread that
/// is used again. Longer than a download on a slow line.
pub const GAP: Duration = Duration::from_secs(10);
/// Uses in a row that are not in the chain, after which it is left.
const MAX_STRAYS: usize = 8;
/// Segments that are fetched ahead of a session when it begins a chain; doubled with each one that it
/// comes to. Enough to be ahead of a program at any round trip, and not all that the interpreter
/// of another program ever used.
const FIRST_DEPTH: usize = 8;
/// Bytes of them, besides the segment that was begun.
const FIRST_BYTES: u64 = 32 << 20;
/// How often both are doubled.
const MAX_DOUBLED: u32 = 3;
/// How long a segment that was proposed is not proposed again, by whatever session.
const REST: Duration = Duration::from_secs(60);
/// Segments that rest.
const MAX_RESTING: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// The chain that a session follows.
#[derive(Debug)]
struct Chain {
    members: HashSet<ObjectId>,
    strays: usize,
    /// Segments that it came to.
    passed: u32,
    /// The trigger behind what was proposed last.
    beyond: Option<ObjectId>,
    cancelled: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Session {
    begun: u64,
    last: Instant,
    uses: Vec<Item>,
    seen: HashSet<ObjectId>,
    chain: Option<Chain>,
    /// Segments that were proposed for it, also of chains that it left.
    proposed: Vec<(ObjectId, Arc<Group>)>,
}

/// What a use means.
#[derive(Debug, Default)]
pub struct Meaning {
    /// It was expected.
    pub is_expected: bool,
    /// To be fetched ahead: objects by segments.
    pub ahead: Vec<(Item, Arc<Group>)>,
}

/// A session that ended.
#[derive(Debug)]
pub struct Ended {
    /// What can be learnt of it; what was wasted is not in there yet.
    pub lesson: Lesson,
    /// What was proposed for it.
    pub proposed: Vec<(ObjectId, Arc<Group>)>,
}

/// All sessions of a repository.
#[derive(Debug)]
pub struct Sessions {
    /// By thread; 0 stands for all that are not known.
    open: LruCache<u32, Session>,
    /// When segments were proposed.
    resting: LruCache<ObjectId, Instant>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { open: LruCache::new(MAX_SESSIONS), resting: LruCache::new(MAX_RESTING) }
    }
}

impl Sessions {
    /// Notes a use. No more than `room` (objects, bytes) is to be fetched ahead. Sessions that
    /// ended by this are added to `ended`.
    pub fn used(
        &mut self,
        caller: u32,
        item: Item,
        (now, unix): (Instant, u64),
        profile: &Profile,
        room: impl FnOnce() -> (usize, u64),
        ended: &mut Vec<Ended>,
    ) -> Meaning {
        let is_over = |session: &Session| now.duration_since(session.last) > GAP;
        if self.open.peek(&caller).is_some_and(is_over) {
            ended.extend(self.open.pop(&caller).and_then(Session::end));
        }
        if !self.open.contains(&caller) {
            let others = self.open.push(caller, Session::begin(now, unix));
            ended.extend(others.and_then(|(_, session)| session.end()));
        }
        let Some(session) = self.open.get_mut(&caller) else { return Meaning::default() };
        session.last = now;
        if session.uses.len() < MAX_USES && session.seen.insert(item.id) {
            session.uses.push(item);
        }
        let is_expected = session.is_expected(&item.id);
        if session.chain.as_ref().is_some_and(|chain| chain.strays >= MAX_STRAYS) {
            session.leave(&mut self.resting);
        }
        let ahead = match profile.is_trigger(&item.id) {
            true => session.follow(&item.id, now, profile, &mut self.resting, room()),
            false => Vec::new(),
        };
        Meaning { is_expected, ahead }
    }

    /// Ends the sessions that have paused for long, or all.
    pub fn end(&mut self, all: bool, now: Instant) -> Vec<Ended> {
        let is_over = |session: &Session| all || now.duration_since(session.last) > GAP;
        let over = self.open.iter().filter(|(_, session)| is_over(session));
        let over: Vec<_> = over.map(|(caller, _)| *caller).collect();
        over.iter().filter_map(|caller| self.open.pop(caller)?.end()).collect()
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

impl Session {
    fn begin(now: Instant, unix: u64) -> Self {
        let (uses, seen, proposed) = (Vec::new(), HashSet::new(), Vec::new());
        Self { begun: unix, last: now, uses, seen, chain: None, proposed }
    }

    fn is_expected(&mut self, id: &ObjectId) -> bool {
        let Some(chain) = &mut self.chain else { return false };
        let is_member = chain.members.contains(id);
        chain.strays = if is_member { 0 } else { chain.strays + 1 };
        is_member
    }

    /// The program goes another way: what still waits for it is not fetched.
    fn leave(&mut self, resting: &mut LruCache<ObjectId, Instant>) {
        if let Some(chain) = self.chain.take() {
            chain.cancelled.store(true, Ordering::Relaxed);
            for (trigger, _) in &self.proposed {
                resting.pop(trigger);
            }
        }
    }

    /// Goes on along a chain, or begins one.
    fn follow(
        &mut self,
        trigger: &ObjectId,
        now: Instant,
        profile: &Profile,
        resting: &mut LruCache<ObjectId, Instant>,
        (mut objects, mut bytes): (usize, u64),
    ) -> Vec<(Item, Arc<Group>)> {
        let chain = self.chain.get_or_insert_with(|| Chain {
            members: HashSet::new(),
            strays: 0,
            passed: 0,
            beyond: None,
            cancelled: Arc::default(),
        });
        // Known again, whatever it was before.
        chain.strays = 0;
        if chain.members.contains(trigger) || chain.beyond == Some(*trigger) {
            chain.passed = (chain.passed + 1).min(MAX_DOUBLED);
        }
        let (depth, most) = (FIRST_DEPTH << chain.passed, FIRST_BYTES << chain.passed);
        let (mut ahead, mut in_front) = (Vec::new(), 0_u64);
        for (place, (trigger, segment)) in profile.chain(trigger).into_iter().enumerate() {
            in_front = in_front.saturating_add(if place == 0 { 0 } else { segment.bytes() });
            if place >= depth || in_front > most {
                chain.beyond = Some(trigger);
                break;
            }
            if self.proposed.iter().any(|(proposed, _)| *proposed == trigger) {
                continue;
            }
            let missing =
                segment.objects.iter().filter(|known| !self.seen.contains(&known.item.id));
            let wanted: Vec<_> = missing.map(|known| known.item).collect();
            let size = wanted.iter().fold(0_u64, |sum, item| sum.saturating_add(item.size));
            if wanted.len() > objects || size > bytes {
                chain.beyond = Some(trigger);
                break;
            }
            (objects, bytes) = (objects - wanted.len(), bytes - size);
            chain.members.extend(segment.objects.iter().map(|known| known.item.id));
            let group = Arc::new(Group::until(&chain.cancelled));
            self.proposed.push((trigger, Arc::clone(&group)));
            let rests = resting.get(&trigger).is_some_and(|at| now.duration_since(*at) < REST);
            if !rests {
                resting.put(trigger, now);
                ahead.extend(wanted.into_iter().map(|item| (item, Arc::clone(&group))));
            }
        }
        ahead
    }

    /// What can be learnt, if anything.
    fn end(self) -> Option<Ended> {
        if let Some(chain) = &self.chain {
            chain.cancelled.store(true, Ordering::Relaxed);
        }
        // A few objects are no program; but what was fetched for them in vain is worth knowing.
        let uses = if self.uses.len() >= MIN_USES { self.uses } else { Vec::new() };
        if uses.is_empty() && self.proposed.is_empty() {
            return None;
        }
        let proposed_triggers = self.proposed.iter().map(|(trigger, _)| *trigger).collect();
        let lesson =
            Lesson { at: self.begun, uses, proposed: proposed_triggers, wasted: HashSet::new() };
        Some(Ended { lesson, proposed: self.proposed })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{item, lesson};
    use super::*;

    const ROOM: (usize, u64) = (2048, 128 << 20);

    struct Watch {
        sessions: Sessions,
        profile: Profile,
        now: Instant,
        ended: Vec<Ended>,
    }

    impl Watch {
        fn new(known: &[Lesson]) -> Self {
            let mut profile = Profile::default();
            known.iter().for_each(|lesson| profile.learn(lesson));
            let (sessions, ended) = (Sessions::default(), Vec::new());
            Self { sessions, profile, now: Instant::now(), ended }
        }

        fn used(&mut self, caller: u32, number: usize) -> Meaning {
            self.used_with(caller, number, ROOM)
        }

        fn used_with(&mut self, caller: u32, number: usize, room: (usize, u64)) -> Meaning {
            let Self { sessions, profile, now, ended } = self;
            sessions.used(caller, item(number), (*now, 5), profile, || room, ended)
        }
    }

    #[test]
    fn sessions_are_of_one_thread_and_end_with_a_pause() {
        let mut watch = Watch::new(&[]);
        for number in 0..10 {
            for caller in 1..4 {
                watch.used(caller, number + 100 * caller as usize);
                watch.used(caller, number + 100 * caller as usize);
            }
        }
        assert!(watch.ended.is_empty());
        watch.now += GAP / 2;
        watch.used(2, 0);
        watch.now += GAP / 2 + Duration::from_secs(1);
        let mut ended = watch.sessions.end(false, watch.now);
        ended.sort_by_key(|ended| ended.lesson.uses[0].size);
        assert_eq!(ended.len(), 2);
        assert_eq!(ended[0].lesson.uses, (100..110).map(item).collect::<Vec<_>>());
        // The same number, and another thread.
        watch.now += GAP;
        watch.used(2, 7);
        assert_eq!(watch.ended.len(), 1);
        assert_eq!(watch.ended[0].lesson.uses.len(), 11);
        assert!(watch.sessions.end(true, watch.now).is_empty(), "one object is no program");
        assert!(watch.sessions.is_empty());
        for caller in 0..1000 {
            (0..5).for_each(|number| _ = watch.used(caller, number));
        }
        assert_eq!(watch.sessions.open.len(), MAX_SESSIONS.get());
        (0..10_000).for_each(|number| _ = watch.used(5, number));
        let ended = watch.sessions.end(true, watch.now);
        assert_eq!(ended.iter().map(|ended| ended.lesson.uses.len()).max(), Some(MAX_USES));
    }

    #[test]
    fn a_trigger_brings_the_chain_as_far_as_there_is_room() {
        let mut watch = Watch::new(&[lesson(1, 0..300)]);
        let first = watch.used_with(1, 0, (200, u64::MAX));
        assert!(!first.is_expected);
        let ahead: Vec<_> = first.ahead.iter().map(|(item, _)| *item).collect();
        assert_eq!(ahead, (1..192).map(item).collect::<Vec<_>>(), "whole segments");
        for number in 1..64 {
            let meaning = watch.used(1, number);
            assert!(meaning.is_expected && meaning.ahead.is_empty());
        }
        let next = watch.used(1, 64);
        assert_eq!(next.ahead.len(), 300 - 192);
        // For another one all of that is on its way.
        assert!(watch.used(2, 0).ahead.is_empty());
        assert!(watch.used(2, 5).is_expected);
        watch.now += REST;
        assert_eq!(watch.used(3, 0).ahead.len(), 299);
    }

    #[test]
    fn more_is_fetched_the_longer_a_chain_proves_right() {
        let mut watch = Watch::new(&[lesson(1, 0..1600)]);
        assert_eq!(watch.used(1, 0).ahead.len(), 8 * 64 - 1);
        assert_eq!(watch.used(1, 64).ahead.len(), 9 * 64);
        assert_eq!(watch.used(1, 128).ahead.len(), 8 * 64);
        assert!(watch.used(1, 192).ahead.is_empty(), "all of it");
        // Bytes are bounded as well; the first segment comes in any case.
        let mut large = lesson(1, 0..640);
        large.uses.iter_mut().for_each(|item| item.size = 1 << 20);
        let mut watch = Watch::new(&[large]);
        assert_eq!(watch.used(1, 0).ahead.len(), 63);
        assert_eq!(watch.used(1, 64).ahead.len(), 63 + 64);
        assert_eq!(watch.used(1, 128).ahead.len(), 2 * 64, "two in front of it are 128 MiB");
    }

    #[test]
    fn who_goes_another_way_leaves_the_chain() {
        let mut watch = Watch::new(&[lesson(1, 0..300)]);
        let ahead = watch.used(1, 0).ahead;
        let is_over = |ahead: &[(Item, Arc<Group>)]| ahead.iter().all(|(_, g)| g.is_useless());
        for number in 0..MAX_STRAYS {
            assert!(!is_over(&ahead));
            watch.used(1, 1000 + number);
        }
        assert!(is_over(&ahead));
        assert!(!watch.used(1, 5).is_expected);
        // Who comes back is known again, and others may have it.
        assert_eq!(watch.used(2, 0).ahead.len(), 299);
        let ended = watch.sessions.end(true, watch.now);
        assert_eq!(ended[0].lesson.proposed.len(), 5, "to be judged");
    }
}
