//! The thread of each process that tends the cache: writes down uses, evicts, counts.
//!
//! Readers never wait for it. Which locks there are, in the order in which they may be taken:
//!
//! | lock | held by | for | who waits |
//! |---|---|---|---|
//! | `evict.lock` (flock) | one keeper | one eviction | nobody: the others leave it to that one |
//! | `scan.lock` (flock) | one keeper | one count | nobody |
//! | the index (SQLite) | keepers | a transaction | keepers, 2 s |
//! | `gauge` (flock) | committers and keepers | microseconds | the same, 20 ms |
//! | a session (flock) | its process | its life | nobody: only tried |
//!
//! All end with their process, so a `kill -9` at any point leaves at worst a row too much or too
//! little, which the next count puts right. That a process died is seen by its session, and makes
//! a count due; the count runs in the background, a directory at a time.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cvmfs_core::cache::CacheError;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::gauge::Reading;
use crate::index::{Index, IndexError, Use};
use crate::layout::{OBJECTS, fan_name, object_name};
use crate::store::{News, Store, now};

/// Name of the index.
const INDEX: &str = "index.sqlite";
/// What SQLite puts beside it.
const JOURNAL: &str = "index.sqlite-journal";
const EVICT_LOCK: &str = "evict.lock";
const COUNT_LOCK: &str = "scan.lock";
/// How long uses are collected.
const COLLECT: Duration = Duration::from_secs(1);
/// Shortest time between two transactions, except where somebody waits for room.
const PAUSE: Duration = Duration::from_millis(200);
/// How often the partition is looked at when nothing happens.
const IDLE: Duration = Duration::from_secs(10);
/// Objects removed between two looks at the gauge: some milliseconds of work.
const BATCH: usize = 64;
/// Part of the quota that pins may hold back: a cache full of catalogs serves no files.
const MAX_PINNED_SHARE: u64 = 2;
/// Evicted objects that were not there before a count is due: somebody removes files by hand.
const MANY_MISSING: usize = 100;
/// Milliseconds by which the times of files are behind the clock.
const CLOCK_GRAIN: i64 = 20;
/// How long a gauge that index and directory contradict is put up with before the next count.
const DOUBT_PAUSE: Duration = Duration::from_secs(60);
/// How long a count waits for an eviction, for each directory; then it is less exact.
const LOCK_LIMIT: Duration = Duration::from_secs(1);
/// Within this a live process gives room its name, or a name's room back: it takes microseconds.
const SETTLE: Duration = Duration::from_millis(25);
/// Looks at a directory whose gauge has too much; if it never settles, the next count will do.
const SETTLE_ATTEMPTS: usize = 4;
/// Pause between two looks at the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// The running thread; dropping it writes the last news and ends it.
#[derive(Debug)]
pub(crate) struct Keeper {
    store: Arc<Store>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread.
    pub(crate) fn start(store: &Arc<Store>) -> std::io::Result<Self> {
        let tended = Arc::clone(store);
        let thread =
            std::thread::Builder::new().name("cvmfs-cache".to_owned()).spawn(move || {
                Tender::new(tended).run();
            })?;
        Ok(Self { store: Arc::clone(store), thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.store.news.lock().stop = true;
        self.store.wake.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that tends the cache died");
        }
    }
}

/// The work of the thread; commands use it directly.
pub(crate) struct Tender {
    store: Arc<Store>,
    index: Option<(Index, u64)>,
    count_due: bool,
    /// More is stored than should be, and the last eviction did not help.
    is_behind: bool,
    /// When eviction last found nothing to evict in a cache that is full by its gauge.
    doubted: Option<Instant>,
}

/// What an eviction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Evicted {
    /// Objects removed.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Evicted {
    pub(crate) fn and(self, more: Self) -> Self {
        Self { objects: self.objects + more.objects, bytes: self.bytes + more.bytes }
    }
}

impl Tender {
    /// Makes one without a thread.
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store, index: None, count_due: false, is_behind: false, doubted: None }
    }

    fn run(mut self) {
        let mut first = true;
        loop {
            let (news, stop) = self.wait(first);
            if let (Some(session), false) = (&self.store.session, stop) {
                session.refresh();
                // The dead are looked for once, and at each eviction.
                self.count_due |= first && session.others().dead > 0;
            }
            let wanted = news.wanted;
            self.write_down(news);
            if stop {
                return;
            }
            self.make_room(wanted);
            if first {
                // An index that is new asks for a count, and so does a counter.
                self.with_index(|_| Ok(()));
                self.count_due |= self.store.gauge.is_new();
                first = false;
            }
            if self.count_due && self.count(false) {
                self.make_room(0);
            }
        }
    }

    /// Evicts if the limits or somebody who waits want it.
    fn make_room(&mut self, wanted: u64) {
        let used = self.store.gauge.read().bytes;
        match self.store.update_limits() {
            Some(limits) if used > limits.high_water || wanted > 0 => {
                let target = limits.low_water.min(used.saturating_sub(wanted));
                self.evict(target, &mut |_| true);
                // A sibling evicts, or has the index.
                self.is_behind = self.store.gauge.read().bytes > limits.high_water;
            }
            None if wanted > 0 => {
                self.evict(used.saturating_sub(wanted), &mut |_| true);
            }
            _ => self.is_behind = false,
        }
    }

    /// Waits for news; the first time only for a moment, so that mounting is not disturbed.
    fn wait(&self, first: bool) -> (News, bool) {
        let mut news = self.store.news.lock();
        let start = Instant::now();
        loop {
            let limit = match () {
                // A busy reader must not keep the index from those who evict.
                () if news.many => PAUSE,
                () if first || news.len() > 0 || self.is_behind => COLLECT,
                () => IDLE,
            };
            let passed = start.elapsed();
            if news.stop || news.urgent || passed >= limit {
                break;
            }
            self.store.wake.wait_for(&mut news, limit.saturating_sub(passed));
        }
        let stop = news.stop;
        let taken = std::mem::take(&mut *news);
        news.stop = stop;
        (taken, stop)
    }

    fn should_stop(&self) -> bool {
        self.store.news.lock().stop
    }

    /// Writes what happened to the index.
    fn write_down(&mut self, mut news: News) {
        if news.len() == 0 {
            return;
        }
        let touched = news.touched.drain().map(|(id, (size, used))| Use {
            name: object_name(&id),
            size,
            used,
            stored: None,
        });
        let mut uses = std::mem::take(&mut news.stored);
        uses.extend(touched);
        // What was removed may have been stored again since: then a use brings it back.
        let gone = std::mem::take(&mut news.gone);
        self.with_index(|index| index.apply(&uses, &gone));
    }

    /// Writes what is waiting, without a thread.
    pub(crate) fn flush(&mut self) {
        let news = std::mem::take(&mut *self.store.news.lock());
        self.write_down(news);
    }

    /// Runs `work` on the index; one that is damaged is made anew. `None` if that fails too.
    pub(crate) fn with_index<T>(
        &mut self,
        mut work: impl FnMut(&mut Index) -> Result<T, IndexError>,
    ) -> Option<T> {
        for attempt in 0..2 {
            let outcome = self.open_index().and_then(|index| work(index).map_err(Trouble::Index));
            let trouble = match outcome {
                Ok(done) => return Some(done),
                Err(trouble) => trouble,
            };
            self.index = None;
            let damaged = matches!(&trouble, Trouble::Index(error) if error.is_damage());
            if !damaged || attempt > 0 {
                tracing::debug!(?trouble, "index of the cache not written");
                return None;
            }
            tracing::warn!("the index of the cache is damaged; it is made anew");
            for name in [JOURNAL, INDEX] {
                if let Err(error) = self.store.layout.remove_foreign(name) {
                    tracing::debug!(%error, name, "damaged index stays");
                }
            }
        }
        None
    }

    fn open_index(&mut self) -> Result<&mut Index, Trouble> {
        let layout = &self.store.layout;
        let present = layout.look(INDEX).ok().map(|found| found.st_ino);
        // Removed or replaced by a sibling that found it damaged, or by `rm -r`.
        if self.index.as_ref().is_none_or(|(_, inode)| present != Some(*inode)) {
            self.index = None;
            // Opened only if it is missing: closing it would end the locks of others in this
            // process, as POSIX wants it.
            let inode = match present {
                Some(inode) => inode,
                None => {
                    let made = layout.open_control(INDEX).map_err(Trouble::Cache)?;
                    made.metadata().map_or(0, |found| found.ino())
                }
            };
            let root = layout.root();
            let index = match layout.exact_path(&root, INDEX) {
                Some(path) => Index::open(path, Some(root)),
                None => Index::open(layout.path(INDEX), None),
            };
            let index = index.map_err(Trouble::Index)?;
            tracing::trace!(path = %index.path().display(), "index opened");
            self.count_due |= index.count_is_due().map_err(Trouble::Index)?;
            self.index = Some((index, inode));
        }
        match &mut self.index {
            Some((index, _)) => {
                index.start_clock();
                Ok(index)
            }
            None => Err(Trouble::Index(rusqlite::Error::InvalidQuery.into())),
        }
    }

    /// Removes objects until no more than `target` bytes are stored. `go_on` is asked with what
    /// was done between batches.
    pub(crate) fn evict(&mut self, target: u64, go_on: &mut dyn FnMut(Evicted) -> bool) -> Evicted {
        let mut done = Evicted::default();
        let store = Arc::clone(&self.store);
        let Some(_lock) = try_lock(&store, EVICT_LOCK) else { return done };
        let others =
            store.session.as_ref().map(crate::session::Session::others).unwrap_or_default();
        if others.dead > 0 {
            self.make_count_due();
        }
        let most_pinned = store.limits().map_or(u64::MAX, |limits| limits.quota / MAX_PINNED_SHARE);
        let (mut skipped, mut pinned, mut missing) = (0, 0_u64, 0);
        let mut excess = store.gauge.read().bytes.saturating_sub(target);
        while excess > 0 && go_on(done) && !self.should_stop() {
            let Some(victims) = self.with_index(|index| index.victims(skipped, BATCH)) else {
                break;
            };
            if victims.is_empty() {
                // There is more than the index knows, or less than the gauge says.
                let doubt = self.doubted.is_none_or(|then| then.elapsed() >= DOUBT_PAUSE);
                if (self.count_due || doubt) && self.count(true) {
                    self.doubted = Some(Instant::now());
                    excess = store.gauge.read().bytes.saturating_sub(target);
                    continue;
                }
                break;
            }
            let (mut gone, mut batch) = (Vec::new(), Evicted::default());
            let mut freed = HashMap::new();
            for victim in victims {
                if batch.bytes >= excess {
                    break;
                }
                let kept = others.pinned.contains(&victim.name)
                    && pinned.saturating_add(victim.size) <= most_pinned;
                if kept {
                    pinned += victim.size;
                    skipped += 1;
                    continue;
                }
                match remove(&store, &victim.name) {
                    Ok(Some(size)) => {
                        batch.bytes += size;
                        batch.objects += 1;
                        let fan = freed.entry(fan_in(&victim.name)).or_insert(Reading::default());
                        fan.bytes += size;
                        fan.objects += 1;
                    }
                    Ok(None) => missing += 1,
                    Err(error) => {
                        store.disk_failed("evict", &error);
                        skipped += 1;
                        continue;
                    }
                }
                gone.push(victim.name);
            }
            // First the room, which somebody waits for.
            for (fan, freed) in freed {
                store.gauge.release(fan, freed);
            }
            self.with_index(|index| index.apply(&[], &gone));
            excess = excess.saturating_sub(batch.bytes);
            done.objects += batch.objects;
            done.bytes += batch.bytes;
        }
        store.statistics.evicted.fetch_add(done.objects, Ordering::Relaxed);
        store.statistics.evicted_bytes.fetch_add(done.bytes, Ordering::Relaxed);
        if missing >= MANY_MISSING {
            self.make_count_due();
        }
        if done.objects > 0 {
            tracing::debug!(?done, missing, pinned, "evicted");
        }
        done
    }

    fn make_count_due(&mut self) {
        self.count_due = true;
        self.with_index(|index| index.set_count_due(true));
    }

    /// Lists one directory, and makes the gauge agree with it.
    ///
    /// Whoever stores takes room first and gives the name after it; whoever removes takes the name
    /// first. Between the two the gauge has more than the directory, and of another process nobody
    /// can tell that from what the dead left. So too little is put right at once, and too much only
    /// when a moment later nothing has changed: too much is safe, too little would exceed the quota.
    fn count_fan(&self, fan: u8, evicting: bool) -> Vec<Use> {
        let store = &self.store;
        let sum = |found: &mut dyn Iterator<Item = &Use>| {
            found.fold(Reading::default(), |sum, one| Reading {
                bytes: sum.bytes.saturating_add(one.size),
                objects: sum.objects + 1,
            })
        };
        let mut last = None;
        for attempt in 1.. {
            // Nothing is evicted while one directory is counted.
            let still = (!evicting).then(|| wait_for_lock(store, EVICT_LOCK));
            let before = store.gauge.read_fan(fan);
            // Asked before the names: what was moving then may have none.
            let is_moving = store.is_moving(fan);
            let stamp = stamp_of(store, fan);
            let begin = now();
            let found = list_fan(store, fan);
            drop(still);
            // A sibling keeps the gauge for itself: the next count will do.
            let Some(before) = before else { return found };
            let all = sum(&mut found.iter());
            if all == before {
                return found;
            }
            // For what is new, room was perhaps taken after we looked.
            let old = sum(&mut found.iter().filter(|one| one.used < begin - CLOCK_GRAIN));
            if old.bytes > before.bytes {
                store.gauge.correct(fan, before, old);
                return found;
            }
            // Sums may be the same again though much has happened: the directory tells.
            let is_settled = !is_moving && last == Some((before, all, stamp));
            if is_settled && stamp.is_some() && all.bytes <= before.bytes {
                store.gauge.correct(fan, before, all);
                return found;
            }
            if attempt == SETTLE_ATTEMPTS || self.should_stop() {
                return found;
            }
            last = Some((before, all, stamp));
            #[expect(clippy::disallowed_methods, reason = "that nothing happens is no event")]
            std::thread::sleep(SETTLE);
        }
        Vec::new()
    }

    /// Counts what is stored, and makes index and gauge agree with it. False if somebody else
    /// does, or it could not be finished. `evicting` says that the caller holds that lock.
    pub(crate) fn count(&mut self, evicting: bool) -> bool {
        let store = Arc::clone(&self.store);
        self.count_due = false;
        let Some(_lock) = try_lock(&store, COUNT_LOCK) else { return false };
        for fan in 0..=u8::MAX {
            if self.should_stop() {
                self.count_due = true;
                return false;
            }
            let found = self.count_fan(fan, evicting);
            let agreed = self.with_index(|index| {
                let known = index.names_in(fan)?;
                index.complete(&found)?;
                let names: HashSet<_> = found.iter().map(|one| one.name.as_str()).collect();
                // Not those that came since the listing: they are looked at once more.
                let gone: Vec<_> = known
                    .into_iter()
                    .filter(|name| !names.contains(name.as_str()))
                    .filter(|name| !is_valid(name) || is_absent(&store, name))
                    .collect();
                index.apply(&[], &gone)
            });
            if agreed.is_none() {
                self.count_due = true;
                return false;
            }
        }
        self.with_index(|index| index.set_count_due(false));
        true
    }
}

#[derive(Debug)]
enum Trouble {
    Cache(#[allow(dead_code, reason = "printed")] CacheError),
    Index(IndexError),
}

/// When a name last came to a directory or left it: seconds and nanoseconds.
fn stamp_of(store: &Store, fan: u8) -> Option<(i64, i64)> {
    match store.layout.look(&fan_name(fan)) {
        Ok(found) => Some((found.st_mtime, i64::try_from(found.st_mtime_nsec).ok()?)),
        Err(Errno::NOENT) => Some((0, 0)),
        Err(_) => None,
    }
}

fn is_absent(store: &Store, name: &str) -> bool {
    store.layout.look(&format!("{OBJECTS}/{name}")).is_err()
}

/// Takes one of the locks that say who works; `None` if somebody has it.
fn try_lock(store: &Store, name: &str) -> Option<File> {
    let file = store.layout.open_control(name).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}

/// Waits a little for a lock that is held for some milliseconds at a time.
fn wait_for_lock(store: &Store, name: &str) -> Option<File> {
    let start = Instant::now();
    while start.elapsed() < LOCK_LIMIT {
        if let Some(lock) = try_lock(store, name) {
            return Some(lock);
        }
        #[expect(clippy::disallowed_methods, reason = "flock has no time limit of its own")]
        std::thread::sleep(LOCK_PAUSE);
    }
    None
}

/// Returns the directory that a name begins with.
fn fan_in(name: &str) -> u8 {
    u8::from_str_radix(name.get(..2).unwrap_or_default(), 16).unwrap_or(0)
}

/// Removes an object named by the index, which anybody may have written; returns its size.
fn remove(store: &Store, name: &str) -> Result<Option<u64>, rustix::io::Errno> {
    use rustix::io::Errno;
    if !is_valid(name) {
        return Ok(None);
    }
    let path = format!("{OBJECTS}/{name}");
    let size = match store.layout.look(&path) {
        Ok(found) => u64::try_from(found.st_size).unwrap_or(0),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(error),
    };
    match store.layout.unlink(&path) {
        Ok(removed) => Ok(removed.then_some(size)),
        // A directory in its place.
        Err(Errno::ISDIR | Errno::PERM) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tells whether a name is one that [`object_name`] can make.
pub(crate) fn is_valid(name: &str) -> bool {
    let Some((directory, file)) = name.split_once('/') else { return false };
    let is_hex =
        |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    directory.len() == 2
        && is_hex(directory)
        && file.len() >= 38
        && is_hex(&file[..file.len().min(38)])
        && file.bytes().all(allowed)
}

/// Lists the objects of one directory with their sizes; the time of change stands for their use.
pub(crate) fn list_fan(store: &Store, fan: u8) -> Vec<Use> {
    let names = store.layout.list(&fan_name(fan)).unwrap_or_default();
    let mut found = Vec::with_capacity(names.len());
    for file in names {
        let name = format!("{fan:02x}/{file}");
        if !is_valid(&name) {
            continue;
        }
        let Ok(stat) = store.layout.look(&format!("{OBJECTS}/{name}")) else { continue };
        if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            let milliseconds = i64::try_from(stat.st_ctime_nsec / 1_000_000).unwrap_or(0);
            let used = stat.st_ctime.saturating_mul(1000).saturating_add(milliseconds);
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            found.push(Use { name, size, used, stored: None });
        }
    }
    found
}
