//! Access profiles: what programs used after they were started, as chains of segments.
//!
//! | module | what it holds |
//! |---|---|
//! | this | segments: how they are learnt, followed, joined and bounded |
//! | [`text`] | how they are stored and exported |
//! | [`sessions`] | who uses what just now, and which chain that follows |
//! | [`learner`] | learns from sessions, fetches ahead for them, keeps the record in the cache |
//!
//! A profile names objects and not paths: it is right for every revision that has them, on every
//! machine. It is believed in nothing else than that: what it names is fetched, checked by its hash,
//! and stored. A wrong one wastes bandwidth.

pub mod learner;
pub mod sessions;
pub mod text;

use std::collections::{HashMap, HashSet};

use cvmfs_core::object::ObjectId;

/// Objects of a segment.
const MAX_SEGMENT: usize = 64;
/// Segments that may follow one: programs that start alike go different ways.
const MAX_NEXT: usize = 4;
/// Segments of a profile. With the longest lines this and the next keep it below 2 MiB of text.
const MAX_SEGMENTS: usize = 1024;
/// Objects in all segments.
const MAX_OBJECTS: usize = 24_000;
/// Largest object worth a guess.
pub const MAX_OBJECT_SIZE: u64 = 64 << 20;
/// Times beyond which more say nothing new.
const MAX_COUNT: u8 = 15;
/// Segments that are fetched ahead of a reader.
const MAX_DEPTH: usize = 64;
/// A chain is followed where it is likelier than this that it goes on that way.
const MIN_CONFIDENCE: f32 = 0.5;

/// An object that was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Its name.
    pub id: ObjectId,
    /// Its plain size, bytes.
    pub size: u64,
}

/// One that is in a segment, and how often it was used there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// What.
    pub item: Item,
    /// Times, less those when it was fetched in vain.
    pub count: u8,
}

/// Objects that are used one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segment {
    /// When a program last went through it, milliseconds since 1970.
    pub used: u64,
    /// The first one is the trigger, whose use says that the others follow.
    pub objects: Vec<Known>,
    /// Triggers of the segments that followed, and how often.
    pub next: Vec<(ObjectId, u8)>,
}

/// What one program did.
#[derive(Debug, Clone, Default)]
pub struct Lesson {
    /// When, milliseconds since 1970.
    pub at: u64,
    /// What it used, in order, each once.
    pub uses: Vec<Item>,
    /// Triggers of segments that were proposed for it.
    pub proposed: Vec<ObjectId>,
    /// Objects of these that were fetched in vain, or are not on the servers any more.
    pub wasted: HashSet<ObjectId>,
}

/// What is known about the programs of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    segments: HashMap<ObjectId, Segment>,
}

impl Known {
    /// It was used once more.
    fn strengthen(&mut self, item: Item) {
        self.item = item;
        self.count = self.count.saturating_add(1).min(MAX_COUNT);
    }
}

impl Segment {
    /// Adds a successor, or one to its count.
    fn link(&mut self, to: ObjectId, count: u8) {
        if let Some((_, known)) = self.next.iter_mut().find(|(next, _)| *next == to) {
            *known = known.saturating_add(count).min(MAX_COUNT);
        } else if self.next.len() < MAX_NEXT {
            self.next.push((to, count));
        } else if let Some(least) = self.next.iter_mut().min_by_key(|(_, count)| *count) {
            // Makes room bit by bit, so that one stray does not push out what is usual.
            match least.1.checked_sub(count).filter(|left| *left > 0) {
                Some(left) => least.1 = left,
                None => *least = (to, count),
            }
        }
    }

    /// The likeliest successor, and how likely it is.
    fn likeliest(&self) -> Option<(ObjectId, f32)> {
        let all: u32 = self.next.iter().map(|(_, count)| u32::from(*count)).sum();
        let (next, count) = self.next.iter().max_by_key(|(_, count)| *count)?;
        #[allow(clippy::cast_precision_loss, reason = "at most 60")]
        let share = f32::from(*count) / all.max(1) as f32;
        Some((*next, share))
    }

    /// Bytes of its objects.
    pub fn bytes(&self) -> u64 {
        self.objects.iter().fold(0, |sum, known| sum.saturating_add(known.item.size))
    }
}

impl Profile {
    /// All segments by their triggers, last used first.
    pub fn segments(&self) -> Vec<(&ObjectId, &Segment)> {
        let mut all: Vec<_> = self.segments.iter().collect();
        all.sort_by_key(|(trigger, segment)| (std::cmp::Reverse(segment.used), **trigger));
        all
    }

    /// Returns the segment of a trigger.
    pub fn segment(&self, trigger: &ObjectId) -> Option<&Segment> {
        self.segments.get(trigger)
    }

    /// Tells whether the use of an object says what follows.
    pub fn is_trigger(&self, id: &ObjectId) -> bool {
        self.segments.contains_key(id)
    }

    /// Tells whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Number of objects, as often as they are in a segment.
    pub fn objects(&self) -> usize {
        self.segments.values().map(|segment| segment.objects.len()).sum()
    }

    /// The segments that follow a trigger as far as that is likely, its own first.
    pub fn chain(&self, trigger: &ObjectId) -> Vec<(ObjectId, &Segment)> {
        let mut chain: Vec<(ObjectId, &Segment)> = Vec::new();
        let (mut at, mut confidence) = (*trigger, 1.0);
        while chain.len() < MAX_DEPTH && chain.iter().all(|(seen, _)| *seen != at) {
            let Some(segment) = self.segments.get(&at) else { break };
            chain.push((at, segment));
            let Some((next, share)) = segment.likeliest() else { break };
            confidence *= share;
            if confidence <= MIN_CONFIDENCE {
                break;
            }
            at = next;
        }
        chain
    }

    /// Learns from what one program did.
    pub fn learn(&mut self, lesson: &Lesson) {
        self.weaken(lesson);
        let Some(first) = lesson.uses.first() else { return };
        let mut current = first.id;
        let mut homes = HashMap::new();
        self.enter(*first, lesson.at, &mut homes);
        for item in lesson.uses.iter().skip(1) {
            let is_trigger = self.segments.contains_key(&item.id);
            // Threads and disks make the order jitter: an object of the chain stays where it is.
            let home = *homes.get(&item.id).unwrap_or(&current);
            let Some(segment) = self.segments.get_mut(&home) else { return };
            let known = segment.objects.iter_mut().find(|known| known.item.id == item.id);
            match known {
                Some(known) if !is_trigger => known.strengthen(*item),
                _ => {
                    let Some(segment) = self.segments.get_mut(&current) else { return };
                    if is_trigger || segment.objects.len() >= MAX_SEGMENT {
                        segment.link(item.id, 1);
                        self.enter(*item, lesson.at, &mut homes);
                        current = item.id;
                    } else {
                        segment.objects.push(Known { item: *item, count: 1 });
                    }
                }
            }
        }
        self.shrink();
    }

    /// Unlearns what was fetched in vain. Where the program went through a segment, that is the
    /// fault of single objects; where it did not come to one, it is the fault of what led there.
    fn weaken(&mut self, lesson: &Lesson) {
        let used: HashSet<_> = lesson.uses.iter().map(|item| item.id).collect();
        let entered = lesson.proposed.iter().filter(|trigger| used.contains(*trigger));
        for trigger in entered {
            let Some(segment) = self.segments.get_mut(trigger) else { continue };
            let mut is_trigger = true;
            segment.objects.retain_mut(|known| {
                // The trigger stays for as long as its segment does.
                if !std::mem::take(&mut is_trigger) && lesson.wasted.contains(&known.item.id) {
                    known.count -= 1;
                }
                known.count > 0
            });
            segment.next.retain_mut(|(next, count)| {
                if lesson.proposed.contains(next) && lesson.wasted.contains(next) {
                    *count -= 1;
                }
                *count > 0
            });
        }
    }

    /// Goes to the segment of a trigger; makes it if there is none. `homes` tells for each object
    /// of chains that were entered where it is.
    fn enter(&mut self, item: Item, at: u64, homes: &mut HashMap<ObjectId, ObjectId>) {
        if homes.get(&item.id) != Some(&item.id) {
            for (trigger, segment) in self.chain(&item.id) {
                let new = segment.objects.iter().map(|known| known.item.id);
                new.for_each(|id| _ = homes.entry(id).or_insert(trigger));
            }
            homes.insert(item.id, item.id);
        }
        let segment = self.segments.entry(item.id).or_default();
        segment.used = segment.used.max(at);
        match segment.objects.first_mut() {
            Some(trigger) => trigger.strengthen(item),
            None => segment.objects.push(Known { item, count: 1 }),
        }
    }

    /// Adds a segment that was stored, or joins it with the one that is known: the better founded
    /// figures count, so that joining twice changes nothing.
    pub fn join_segment(&mut self, other: Segment) {
        let Some(first) = other.objects.first() else { return };
        let segment = match self.segments.entry(first.item.id) {
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(other);
                return;
            }
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
        };
        segment.used = segment.used.max(other.used);
        for known in other.objects {
            let own = segment.objects.iter_mut().find(|own| own.item.id == known.item.id);
            if let Some(own) = own {
                own.count = own.count.max(known.count);
            } else if segment.objects.len() < MAX_SEGMENT {
                segment.objects.push(known);
            }
        }
        for (next, count) in other.next {
            match segment.next.iter_mut().find(|(own, _)| *own == next) {
                Some((_, own)) => *own = (*own).max(count),
                None => segment.link(next, count),
            }
        }
    }

    /// Joins all of another profile.
    pub fn join(&mut self, other: Self) {
        for (_, segment) in other.segments {
            self.join_segment(segment);
        }
        self.shrink();
    }

    /// Leaves out what is the same in `before`.
    pub fn since(mut self, before: &Self) -> Self {
        self.segments.retain(|trigger, segment| {
            before.segments.get(trigger).is_none_or(|old| old.used != segment.used)
        });
        self
    }

    /// Keeps the bounds: segments that were not gone through for the longest time go.
    fn shrink(&mut self) {
        let mut objects = self.objects();
        if self.segments.len() <= MAX_SEGMENTS && objects <= MAX_OBJECTS {
            return;
        }
        let mut oldest: Vec<_> =
            self.segments.iter().map(|(trigger, segment)| (segment.used, *trigger)).collect();
        oldest.sort_unstable();
        for (_, trigger) in oldest {
            // Some more than needed, so that this is not done for each lesson.
            if self.segments.len() <= MAX_SEGMENTS * 7 / 8 && objects <= MAX_OBJECTS / 8 * 7 {
                break;
            }
            if let Some(gone) = self.segments.remove(&trigger) {
                objects -= gone.objects.len();
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use cvmfs_core::hash::{ContentHash, HashAlgorithm};
    use cvmfs_core::object::ObjectKind;

    use super::*;

    pub(crate) fn item(number: usize) -> Item {
        let hash = ContentHash::of(HashAlgorithm::Sha1, &number.to_le_bytes());
        Item { id: ObjectId::zlib(hash, ObjectKind::Data), size: number as u64 }
    }

    pub(crate) fn lesson(at: u64, uses: impl IntoIterator<Item = usize>) -> Lesson {
        Lesson { at, uses: uses.into_iter().map(item).collect(), ..Lesson::default() }
    }

    fn followed(profile: &Profile, trigger: usize) -> Vec<usize> {
        let chain = profile.chain(&item(trigger).id);
        let sizes = chain.iter().flat_map(|(_, segment)| &segment.objects);
        sizes.map(|known| usize::try_from(known.item.size).unwrap()).collect()
    }

    #[test]
    fn the_start_of_a_program_leads_to_all_it_used() {
        let mut profile = Profile::default();
        profile.learn(&lesson(1, 0..200));
        assert_eq!(followed(&profile, 0), (0..200).collect::<Vec<_>>());
        assert_eq!(followed(&profile, 64), (64..200).collect::<Vec<_>>(), "from in between, too");
        assert!(followed(&profile, 1).is_empty());
        // Again, a bit differently: the segments stay, and learn the difference.
        profile.learn(&lesson(2, (0..200).filter(|n| n % 10 != 3).chain(300..310)));
        assert_eq!(profile.segments.len(), 4);
        assert_eq!(followed(&profile, 0).len(), 210);
    }

    #[test]
    fn what_is_fetched_in_vain_is_dropped() {
        let mut profile = Profile::default();
        profile.learn(&lesson(1, 0..10));
        profile.learn(&lesson(2, 0..10));
        for round in 0..2 {
            let proposed = vec![item(0).id];
            let wasted = [item(0).id, item(5).id].into();
            let uses = vec![item(0), item(1)];
            profile.learn(&Lesson { at: 3 + round, uses, proposed, wasted });
        }
        let left = followed(&profile, 0);
        assert_eq!(left, [0, 1, 2, 3, 4, 6, 7, 8, 9], "and never the trigger itself");
    }

    #[test]
    fn a_short_program_does_not_make_a_long_one_forgotten() {
        let mut profile = Profile::default();
        (1..3).for_each(|at| profile.learn(&lesson(at, 0..300)));
        let short = || {
            let chain = [0, 64, 128, 192, 256].map(|trigger| item(trigger).id);
            let wasted = (64..300).map(|number| item(number).id).collect();
            Lesson { at: 3, proposed: chain.into(), wasted, ..lesson(3, 0..64) }
        };
        profile.learn(&short());
        assert_eq!(followed(&profile, 0).len(), 300);
        profile.learn(&short());
        assert_eq!(followed(&profile, 0).len(), 64, "it is not expected any more");
        assert_eq!(followed(&profile, 64).len(), 300 - 64, "but known, should it come there");
    }

    #[test]
    fn where_programs_part_nothing_is_guessed() {
        let mut profile = Profile::default();
        for way in 0..3 {
            profile.learn(&lesson(1, (0..64).chain(1000 * (way + 1)..1000 * (way + 1) + 70)));
        }
        assert_eq!(followed(&profile, 0).len(), 64);
        assert_eq!(followed(&profile, 2000).len(), 70, "each way is known");
        // One of them becomes the usual one.
        for _ in 0..3 {
            profile.learn(&lesson(2, (0..64).chain(2000..2070)));
        }
        assert_eq!(followed(&profile, 0).len(), 64 + 70);
        // And a new one gets its place in time.
        for _ in 0..2 {
            profile.learn(&lesson(3, (0..64).chain(9000..9010)));
            profile.learn(&lesson(3, (0..64).chain(8000..8010)));
        }
        assert!(profile.segments[&item(0).id].next.len() <= MAX_NEXT);
    }

    #[test]
    fn jitter_changes_nothing() {
        let mut profile = Profile::default();
        profile.learn(&lesson(1, 0..300));
        for round in 1..30 {
            // Two threads: now the one is ahead, now the other.
            let mut order: Vec<_> = (0..300).collect();
            for at in (1..299).filter(|at| at % (round + 1) == 0) {
                order.swap(at, at + 1);
            }
            profile.learn(&lesson(1, order));
        }
        assert_eq!((profile.segments.len(), profile.objects()), (5, 300));
        assert_eq!(followed(&profile, 0), (0..300).collect::<Vec<_>>());
    }

    #[test]
    fn joining_is_idempotent_and_takes_both() {
        let (mut one, mut other) = (Profile::default(), Profile::default());
        one.learn(&lesson(1, 0..100));
        other.learn(&lesson(2, (0..50).chain(500..600)));
        let before = one.clone();
        one.join(other.clone());
        let joined = one.clone();
        one.join(other.clone());
        one.join(before.clone());
        assert_eq!(one, joined);
        // Each way is known; which one it will be is not.
        assert_eq!(followed(&one, 0).len(), 64);
        assert!(followed(&one, 64).contains(&70) && followed(&one, 514).contains(&599));
        let new = one.since(&before);
        assert!(new.segment(&item(0).id).is_some() && new.segment(&item(64).id).is_none());
    }

    #[test]
    fn it_stays_bounded_and_forgets_the_oldest() {
        let mut profile = Profile::default();
        for at in 0..600 {
            let start = usize::try_from(at).unwrap() * 1000;
            profile.learn(&lesson(at, start..start + 70));
        }
        assert!(profile.objects() <= MAX_OBJECTS && profile.segments.len() <= MAX_SEGMENTS);
        assert!(followed(&profile, 0).is_empty());
        assert_eq!(followed(&profile, 599_000).len(), 70);
        // A circle ends.
        profile.learn(&lesson(700, (0..64).chain([70]).chain(71..140)));
        profile.learn(&lesson(701, [70].into_iter().chain(71..134).chain([0])));
        assert!(followed(&profile, 0).len() <= 200);
    }
}
