//! Learns from sessions, fetches ahead for them, and keeps the profile in the cache.

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cvmfs_core::cache::ObjectCache;
use cvmfs_core::chain::chain;
use cvmfs_core::decode::SizeBound;
use cvmfs_core::fetch::{FetchOptions, Fetcher};
use parking_lot::Mutex;

use super::sessions::{Ended, Sessions};
use super::{Item, Lesson, MAX_OBJECT_SIZE, Profile};
use crate::prefetch::group::Group;
use crate::prefetch::queue::{Queue, Wish};

/// Between two looks whether sessions are over.
const LOOK: Duration = Duration::from_secs(3);
/// What was learnt is stored this often.
const SAVE_INTERVAL: Duration = Duration::from_secs(30);
/// Lessons that wait to be stored: with more, the disk does not take them, and the oldest go.
const MAX_LESSONS: usize = 64;
/// Uses that wait for the profile to be read; more are no start of a program.
const MAX_EARLY: usize = 1024;
/// What is fetched ahead is called in the cache, as the profile has no paths.
const LABEL: &str = "(access profile)";

/// The name of the record of a repository.
pub fn record_name(fqrn: &str) -> String {
    format!("{fqrn}.profile")
}

/// Reads the record of a repository; one that is damaged counts as absent.
pub fn load(cache: &dyn ObjectCache, fqrn: &str) -> Profile {
    match cache.load_record(&record_name(fqrn)) {
        Ok(Some(bytes)) => understood(&bytes, fqrn),
        Ok(None) => Profile::default(),
        Err(error) => {
            tracing::debug!(fqrn, error = %chain(&error), "cannot read the access profile");
            Profile::default()
        }
    }
}

fn understood(bytes: &[u8], fqrn: &str) -> Profile {
    Profile::parse(bytes, fqrn).unwrap_or_else(|error| {
        tracing::warn!(fqrn, %error, "the stored access profile is damaged, starting anew");
        Profile::default()
    })
}

/// The access profile of a mounted repository.
pub struct Learner {
    fqrn: String,
    fetcher: Arc<Fetcher>,
    queue: Arc<Queue>,
    state: Mutex<State>,
    /// Set once the record is being read.
    begun: OnceLock<()>,
    me: Weak<Self>,
}

struct State {
    /// None until it is read.
    profile: Option<Profile>,
    sessions: Sessions,
    /// Uses before that.
    early: Vec<(u32, Item, Instant)>,
    /// Learnt, and not stored.
    lessons: Vec<Lesson>,
    saved: Instant,
    is_watched: bool,
}

impl std::fmt::Debug for Learner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Learner").field("fqrn", &self.fqrn).finish_non_exhaustive()
    }
}

impl Learner {
    /// Proposes to `queue`; the record is that of the fetcher's cache.
    pub fn new(fqrn: &str, fetcher: &Arc<Fetcher>, queue: &Arc<Queue>) -> Arc<Self> {
        let state = State {
            profile: None,
            sessions: Sessions::default(),
            early: Vec::new(),
            lessons: Vec::new(),
            saved: Instant::now(),
            is_watched: false,
        };
        Arc::new_cyclic(|me| Self {
            fqrn: fqrn.to_owned(),
            fetcher: Arc::clone(fetcher),
            queue: Arc::clone(queue),
            state: Mutex::new(state),
            begun: OnceLock::new(),
            me: me.clone(),
        })
    }

    /// Notes the first use of an object; tells whether it was expected. Must be called inside the
    /// runtime; returns at once.
    pub fn used(&self, caller: u32, item: Item) -> bool {
        // An empty file is no object worth a request, and a huge one no guess.
        if item.size == 0 || item.size > MAX_OBJECT_SIZE {
            return false;
        }
        if self.begun.set(()).is_ok() {
            self.begin();
        }
        let now = Instant::now();
        let (is_expected, ahead, watch) = {
            let mut state = self.state.lock();
            let watch = !std::mem::replace(&mut state.is_watched, true);
            match state.profile {
                None => {
                    if state.early.len() < MAX_EARLY {
                        state.early.push((caller, item, now));
                    }
                    (false, Vec::new(), watch)
                }
                Some(_) => {
                    let (is_expected, ahead) = self.note(&mut state, caller, item, now);
                    (is_expected, ahead, watch)
                }
            }
        };
        self.propose(ahead);
        if watch {
            tokio::spawn(watch_over(self.me.clone()));
        }
        is_expected
    }

    /// Reads the record, away from whoever waits for the object.
    fn begin(&self) {
        let Some(me) = self.me.upgrade() else { return };
        tokio::task::spawn_blocking(move || {
            let ahead = me.settle();
            me.propose(ahead);
        });
    }

    /// Reads the record if that was not done yet; returns what is to be fetched by now.
    fn settle(&self) -> Vec<(Item, Arc<Group>)> {
        let mut ahead = Vec::new();
        if self.state.lock().profile.is_some() {
            return ahead;
        }
        let profile = load(&**self.fetcher.cache(), &self.fqrn);
        let mut state = self.state.lock();
        if state.profile.is_none() {
            state.profile = Some(profile);
            for (caller, item, at) in std::mem::take(&mut state.early) {
                ahead.extend(self.note(&mut state, caller, item, at).1);
            }
        }
        ahead
    }

    fn note(
        &self,
        state: &mut State,
        caller: u32,
        item: Item,
        now: Instant,
    ) -> (bool, Vec<(Item, Arc<Group>)>) {
        let State { profile: Some(profile), sessions, .. } = state else {
            return (false, Vec::new());
        };
        let mut ended = Vec::new();
        let room = || self.queue.room();
        let meaning =
            sessions.used(caller, item, (now, unix_milliseconds()), profile, room, &mut ended);
        self.learn(state, ended);
        (meaning.is_expected, meaning.ahead)
    }

    fn propose(&self, ahead: Vec<(Item, Arc<Group>)>) {
        // A guess must not make us leave a server that only lacks what was garbage collected.
        let host = (!ahead.is_empty()).then(|| self.fetcher.downloader().current_host());
        for (Item { id, size }, group) in ahead {
            let options = FetchOptions {
                only_host: host,
                ..FetchOptions::new(SizeBound::Exactly(size), LABEL)
            };
            self.queue.propose(Wish { id, size, options, group: Some(group) });
        }
    }

    /// Learns from sessions that ended.
    fn learn(&self, state: &mut State, ended: Vec<Ended>) {
        let State { profile: Some(profile), lessons, .. } = state else { return };
        for Ended { mut lesson, proposed } in ended {
            for (trigger, group) in &proposed {
                lesson.wasted.extend(group.gone());
                let objects = profile.segment(trigger).map(|segment| &segment.objects[..]);
                let unused = objects.unwrap_or_default().iter().map(|known| known.item.id);
                lesson.wasted.extend(unused.filter(|id| self.fetcher.is_unused(id)));
            }
            profile.learn(&lesson);
            if lessons.len() >= MAX_LESSONS {
                lessons.remove(0);
            }
            lessons.push(lesson);
        }
    }

    /// Ends all sessions and stores what was learnt; returns how many segments and objects are
    /// known. Waits for the disk.
    pub fn save_now(&self) -> (usize, usize) {
        if self.begun.get().is_some() {
            // The program may have ended before the record was read.
            self.settle();
        }
        {
            let mut state = self.state.lock();
            let ended = state.sessions.end(true, Instant::now());
            self.learn(&mut state, ended);
        }
        self.save();
        let state = self.state.lock();
        state.profile.as_ref().map_or((0, 0), |p| (p.segments().len(), p.objects()))
    }

    /// Stores what was learnt, together with what siblings stored meanwhile.
    fn save(&self) {
        let (lessons, own) = {
            let mut state = self.state.lock();
            state.saved = Instant::now();
            if state.lessons.is_empty() {
                return;
            }
            (std::mem::take(&mut state.lessons), state.profile.clone().unwrap_or_default())
        };
        let mut stored = None;
        let outcome = self.fetcher.cache().update_record(&record_name(&self.fqrn), &mut |record| {
            let joined = match record {
                None => own.clone(),
                Some(record) => {
                    let mut profile = understood(&record, &self.fqrn);
                    lessons.iter().for_each(|lesson| profile.learn(lesson));
                    profile
                }
            };
            let text = joined.to_text(&self.fqrn);
            stored = Some(joined);
            Some(text.into_bytes())
        });
        let mut state = self.state.lock();
        match outcome {
            Ok(()) => {
                if let Some(mut stored) = stored {
                    // Others may have learnt meanwhile.
                    state.lessons.iter().for_each(|lesson| stored.learn(lesson));
                    state.profile = Some(stored);
                }
            }
            Err(error) => {
                tracing::debug!(error = %chain(&error), "cannot store the access profile");
                let newer = std::mem::replace(&mut state.lessons, lessons);
                let room = MAX_LESSONS.saturating_sub(state.lessons.len());
                state.lessons.extend(newer.into_iter().take(room));
            }
        }
    }
}

impl Drop for Learner {
    /// The orderly end of a mount.
    fn drop(&mut self) {
        self.save_now();
    }
}

/// Ends sessions and stores lessons for as long as there are any.
async fn watch_over(learner: Weak<Learner>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(learner) = learner.upgrade() else { return };
        let is_due = {
            let mut state = learner.state.lock();
            let ended = state.sessions.end(false, Instant::now());
            learner.learn(&mut state, ended);
            let is_loaded = state.profile.is_some();
            if is_loaded && state.sessions.is_empty() && state.lessons.is_empty() {
                state.is_watched = false;
                return;
            }
            let many = state.lessons.len() > MAX_LESSONS / 4;
            !state.lessons.is_empty() && (many || state.saved.elapsed() >= SAVE_INTERVAL)
        };
        // Held in there until it is done: if it is the last one, it is dropped where it may wait.
        let saved = tokio::task::spawn_blocking(move || {
            if is_due {
                learner.save();
            }
        });
        if saved.await.is_err() {
            return;
        }
    }
}

fn unix_milliseconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
