//! What all parts of an open cache share: the directory, its limits, and the news for the index.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cvmfs_core::cache::CacheError;
use cvmfs_core::object::ObjectId;
use lru::LruCache;
use parking_lot::{Condvar, Mutex};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::claims::Claims;
use crate::gauge::{Gauge, Reading};
use crate::index::{Stored, Use};
use crate::layout::{Layout, OBJECTS, failed, object_name};
use crate::quota::{Limits, Partition, Quota};
use crate::session::Session;
use crate::transaction::Naming;

/// The part of the quota that one object may take: a larger one would push out all others.
const MAX_OBJECT_SHARE: u64 = 2;
/// How long a new object waits for eviction to make room; then it is served without being kept.
const ROOM_LIMIT: Duration = Duration::from_millis(20);
/// Pause between two looks for room, which a sibling may be making.
const ROOM_PAUSE: Duration = Duration::from_millis(1);
/// Uses collected before they are written ahead of time: some 100 bytes each.
pub(crate) const MANY_NEWS: usize = 4096;
/// Uses remembered when the index cannot be written at all.
const MAX_NEWS: usize = 65_536;
/// Files of which it is remembered that they were verified: 64 bytes each.
const MAX_VERIFIED: NonZeroUsize = NonZeroUsize::new(1 << 16).expect("not zero");

/// Name of the file that says how much the cache may hold.
const QUOTA: &str = "quota";
/// Longest text of one.
const MAX_QUOTA_LEN: u64 = 64;

/// What happened to a cache since it was opened by this process.
#[derive(Debug, Default)]
pub struct CacheStatistics {
    /// Objects stored.
    pub stored: AtomicU64,
    /// Objects evicted.
    pub evicted: AtomicU64,
    /// Bytes evicted.
    pub evicted_bytes: AtomicU64,
    /// Objects served without being kept: no room, or too large for the quota.
    pub not_kept: AtomicU64,
    /// Times the disk failed; the objects were served from memory.
    pub failures: AtomicU64,
    /// Objects found damaged.
    pub damaged: AtomicU64,
}

/// When content is compared with its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// On first open, where others can write to the directory.
    #[default]
    IfShared,
    /// On first open, always.
    Always,
}

/// Everything but the thread that tends it.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) layout: Arc<Layout>,
    pub(crate) naming: Naming,
    pub(crate) gauge: Gauge,
    pub(crate) quota: Quota,
    pub(crate) verify: Verify,
    /// `None` where nothing is evicted: read-only volumes and network file systems.
    pub(crate) session: Option<Session>,
    /// The same.
    pub(crate) claims: Option<Arc<Claims>>,
    pub(crate) statistics: CacheStatistics,
    pub(crate) news: Mutex<News>,
    /// Tells the keeper that there is something to do.
    pub(crate) wake: Condvar,
    limits: Mutex<Option<Limits>>,
    verified: Mutex<LruCache<u64, (i64, i64)>>,
    failing: AtomicBool,
    quota_cut: AtomicBool,
    moving: Moving,
}

/// How many are at work in each directory.
#[derive(Debug)]
struct Moving([AtomicU32; 256]);

/// One that is at work in a directory.
pub(crate) struct Moves<'a>(&'a AtomicU32);

impl Drop for Moves<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What the keeper has to write down.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Objects opened: size and time of the last use.
    pub(crate) touched: HashMap<ObjectId, (u64, i64)>,
    /// Objects stored.
    pub(crate) stored: Vec<Use>,
    /// Names of objects that are gone.
    pub(crate) gone: Vec<String>,
    /// Free bytes that somebody waits for.
    pub(crate) wanted: u64,
    /// The keeper shall end.
    pub(crate) stop: bool,
    /// Look now.
    pub(crate) urgent: bool,
    /// Write down soon.
    pub(crate) many: bool,
}

impl News {
    pub(crate) fn len(&self) -> usize {
        self.touched.len() + self.stored.len() + self.gone.len()
    }
}

impl Store {
    pub(crate) fn new(layout: Arc<Layout>, naming: Naming, quota: Quota, verify: Verify) -> Self {
        let managed = !layout.is_read_only() && !is_network(&layout);
        if !managed && !layout.is_read_only() {
            tracing::warn!(
                directory = %layout.directory().display(),
                "the cache is on a network file system: nothing is evicted; --alien-cache is made for that"
            );
        }
        let store = Self {
            gauge: Gauge::new(Arc::clone(&layout)),
            session: managed.then(|| Session::open(Arc::clone(&layout))),
            claims: managed.then(|| Arc::new(Claims::new(Arc::clone(&layout)))),
            layout,
            naming,
            quota,
            verify,
            statistics: CacheStatistics::default(),
            news: Mutex::default(),
            wake: Condvar::new(),
            limits: Mutex::default(),
            verified: Mutex::new(LruCache::new(MAX_VERIFIED)),
            failing: AtomicBool::new(false),
            quota_cut: AtomicBool::new(false),
            moving: Moving(std::array::from_fn(|_| AtomicU32::new(0))),
        };
        store.leave_quota();
        store.update_limits();
        store
    }

    /// Works out the limits again: the partition fills and empties.
    pub(crate) fn update_limits(&self) -> Option<Limits> {
        self.session.as_ref()?;
        let used = self.gauge.read().bytes;
        let limits = self.present_quota().limits(Partition::of(&self.layout.root()), used);
        if let Some(limits) = limits
            && limits.cut
            && !self.quota_cut.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                quota = limits.quota,
                "the quota is larger than the partition of the cache; it is cut"
            );
        }
        *self.limits.lock() = limits;
        limits
    }

    /// Returns the quota that was given, or else the one that somebody left for all.
    fn present_quota(&self) -> Quota {
        if self.quota != Quota::Stored {
            return self.quota;
        }
        let mut text = String::new();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        if let Ok(file) = self.layout.open(QUOTA, flags, Mode::empty()) {
            let _ = std::fs::File::from(file).take(MAX_QUOTA_LEN).read_to_string(&mut text);
        }
        text.trim().parse().unwrap_or(Quota::Auto)
    }

    /// Leaves a quota that was given for those to whom none is given.
    fn leave_quota(&self) {
        if self.quota == Quota::Stored || self.session.is_none() {
            return;
        }
        let text = format!("{}\n", self.quota);
        let left = self.layout.open_control(QUOTA).and_then(|file| {
            file.set_len(0)
                .and_then(|()| file.write_all_at(text.as_bytes(), 0))
                .map_err(failed("write", &self.layout.path(QUOTA)))
        });
        if let Err(error) = left {
            tracing::debug!(%error, "the quota is not left for others");
        }
    }

    /// Returns the limits as they were a moment ago.
    pub(crate) fn limits(&self) -> Option<Limits> {
        *self.limits.lock()
    }

    /// Takes room for a new object; false if it has to do without a name.
    pub(crate) fn take_room(&self, fan: u8, size: u64) -> bool {
        let Some(limits) = self.limits() else {
            return self.session.is_none() || self.gauge.reserve(fan, size, None).is_ok();
        };
        if size > limits.quota / MAX_OBJECT_SHARE {
            return false;
        }
        let start = Instant::now();
        loop {
            match self.gauge.reserve(fan, size, Some(limits.quota)) {
                Ok(used) => {
                    if used > limits.high_water {
                        self.wake_keeper();
                    }
                    return true;
                }
                Err(full) => {
                    let wanted = full.used.saturating_add(size).saturating_sub(limits.quota);
                    self.want(wanted);
                    if start.elapsed() >= ROOM_LIMIT {
                        return false;
                    }
                }
            }
            #[expect(clippy::disallowed_methods, reason = "a sibling may make the room: no event")]
            std::thread::sleep(ROOM_PAUSE);
        }
    }

    /// Says that room and names of a directory do not agree until what is returned is dropped.
    pub(crate) fn moves(&self, fan: u8) -> Moves<'_> {
        let count = &self.moving.0[usize::from(fan)];
        count.fetch_add(1, Ordering::SeqCst);
        Moves(count)
    }

    /// Tells whether somebody of this process is between taking room and giving a name, or
    /// between taking a name and giving the room back.
    pub(crate) fn is_moving(&self, fan: u8) -> bool {
        self.moving.0[usize::from(fan)].load(Ordering::SeqCst) > 0
    }

    /// Gives room back.
    pub(crate) fn give_room(&self, fan: u8, size: u64) {
        if self.session.is_some() {
            self.gauge.release(fan, Reading { bytes: size, objects: 1 });
        }
    }

    /// Asks for free space beyond what the limits say.
    pub(crate) fn want(&self, bytes: u64) {
        let mut news = self.news.lock();
        news.wanted = news.wanted.max(bytes);
        news.urgent = true;
        self.wake.notify_one();
    }

    fn wake_keeper(&self) {
        self.news.lock().urgent = true;
        self.wake.notify_one();
    }

    /// Notes that an object was used.
    pub(crate) fn touch(&self, id: &ObjectId, size: u64) {
        if self.session.is_none() {
            return;
        }
        let mut news = self.news.lock();
        if news.touched.len() < MAX_NEWS || news.touched.contains_key(id) {
            news.touched.insert(*id, (size, now()));
        }
        if news.touched.len() == MANY_NEWS {
            news.many = true;
            self.wake.notify_one();
        }
    }

    /// Notes that an object was stored.
    pub(crate) fn note_stored(&self, name: &str, size: u64, label: &str, volatile: bool) {
        self.statistics.stored.fetch_add(1, Ordering::Relaxed);
        if self.session.is_none() {
            return;
        }
        let stored = Some(Stored { label: label.to_owned(), volatile });
        let mut news = self.news.lock();
        if news.stored.len() < MAX_NEWS {
            news.stored.push(Use { name: name.to_owned(), size, used: now(), stored });
        }
        if news.stored.len() == MANY_NEWS {
            news.many = true;
            self.wake.notify_one();
        }
    }

    /// Removes what stands under the name of an object.
    pub(crate) fn remove(&self, id: &ObjectId) -> Result<(), CacheError> {
        self.remove_named(&object_name(id), false)
    }

    /// Removes or sets aside what has the name `name` below `objects`.
    pub(crate) fn remove_named(&self, name: &str, keep: bool) -> Result<(), CacheError> {
        let path = format!("{OBJECTS}/{name}");
        let found = match self.layout.look(&path) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(failed("look at", &self.layout.path(&path))(error)),
        };
        let is_file = rustix::fs::FileType::from_raw_mode(found.st_mode).is_file();
        let fan = u8::from_str_radix(name.get(..2).unwrap_or_default(), 16).unwrap_or(0);
        let _moves = self.moves(fan);
        if keep && is_file {
            self.layout.set_aside(&path)?;
        } else if is_file {
            match self.layout.unlink(&path) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => return Err(failed("remove", &self.layout.path(&path))(error)),
            }
        } else {
            return self.layout.remove_foreign(&path);
        }
        self.give_room(fan, u64::try_from(found.st_size).unwrap_or(0));
        if self.session.is_some() {
            self.news.lock().gone.push(name.to_owned());
        }
        Ok(())
    }

    /// Notes a failure of the disk: one warning until it works again.
    pub(crate) fn disk_failed(&self, action: &str, error: &dyn std::fmt::Display) {
        self.statistics.failures.fetch_add(1, Ordering::Relaxed);
        if self.failing.swap(true, Ordering::Relaxed) {
            tracing::debug!(action, %error, "cache still fails");
        } else {
            let directory = self.layout.directory().display();
            tracing::warn!(%directory, action, %error, "the cache fails; objects are served from memory");
        }
    }

    /// Tells whether the last thing that was noted is a failure.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Notes that the disk works.
    pub(crate) fn disk_works(&self) {
        if self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::Relaxed) {
            tracing::warn!(directory = %self.layout.directory().display(), "the cache works again");
        }
    }

    /// Tells whether content is compared with its checksum at all.
    pub(crate) fn verifies(&self) -> bool {
        self.verify == Verify::Always || self.layout.sharing().is_shared()
    }

    /// Tells whether the bytes of a file must be looked at before they are served.
    pub(crate) fn must_verify(&self, found: &std::fs::Metadata) -> bool {
        // Whatever is done to a file moves its time of change, which nobody can set back.
        self.verifies()
            && self.verified.lock().get(&found.ino()) != Some(&(found.ctime(), found.ctime_nsec()))
    }

    /// Remembers a file that was verified, or written by us.
    pub(crate) fn remember_verified(&self, found: &std::fs::Metadata) {
        let changed = (found.ctime(), found.ctime_nsec());
        self.verified.lock().put(found.ino(), changed);
    }
}

/// Milliseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Tells whether an error says that there is no space.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Tells whether locks and databases cannot be relied on here.
fn is_network(layout: &Layout) -> bool {
    /// NFS, SMB (three generations): statfs(2).
    const NETWORK: [i64; 4] = [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42];
    rustix::fs::fstatfs(layout.root().as_ref()).is_ok_and(|found| {
        #[allow(clippy::useless_conversion, reason = "its type differs between architectures")]
        NETWORK.contains(&i64::from(found.f_type))
    })
}
