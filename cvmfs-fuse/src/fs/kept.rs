//! `user.lhash`: whether the cached copy of a file is still what was fetched (spec/filesystem.md section 10).
//!
//! Upstream compresses the copy again and shows its hash, for scripts that compare it with `user.hash`. The
//! bytes of a compressor are those of the publisher with the publisher's library only, so here every byte of the
//! copy is compared with its checksum, and the hash of the catalog is shown where they agree.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cvmfs_core::cache::{CacheError, Condition, ObjectCache};
use cvmfs_core::object::ObjectId;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// Its name.
pub(super) const LHASH: &str = "user.lhash";
/// Longest time for one file: some 5 GB from a usual disk. Somebody waits.
const LIMIT: Duration = Duration::from_secs(20);
/// Copies that are read at a time, in all repositories of a process: others need the disk.
const AT_A_TIME: usize = 2;
/// Whose turn it is.
static TURNS: Semaphore = Semaphore::const_new(AT_A_TIME);
/// How long an answer waits for those who first ask how long it is, as getfattr(1) does.
const FRESH: Duration = Duration::from_secs(1);
/// Answers that wait.
const MAX_ANSWERS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// What is known of cached copies for a moment.
#[derive(Debug)]
pub(super) struct KeptCopies {
    answers: Mutex<LruCache<ObjectId, (Instant, Condition)>>,
}

impl Default for KeptCopies {
    fn default() -> Self {
        Self { answers: Mutex::new(LruCache::new(MAX_ANSWERS)) }
    }
}

impl KeptCopies {
    /// Looks at the copy of an object; the value, and whether the copy was damaged and is gone.
    pub(super) async fn lhash(&self, cache: &Arc<dyn ObjectCache>, id: ObjectId) -> (String, bool) {
        let known = self.answers.lock().pop(&id);
        if let Some((since, condition)) = known
            && since.elapsed() < FRESH
        {
            return (text(&id, Ok(condition)), condition == Condition::Damaged);
        }
        let examined = examine(Arc::clone(cache), id).await;
        // What is not there may be there at the next moment, and costs nothing to ask again.
        if let Ok(condition) = examined
            && condition != Condition::Absent
        {
            self.answers.lock().put(id, (Instant::now(), condition));
        }
        let is_damaged = matches!(examined, Ok(Condition::Damaged));
        (text(&id, examined), is_damaged)
    }
}

/// Reads it where nobody else waits; an error is an errno.
async fn examine(cache: Arc<dyn ObjectCache>, id: ObjectId) -> Result<Condition, i32> {
    let end = Instant::now() + LIMIT;
    let work = async {
        let turn = TURNS.acquire().await.map_err(|_| libc::EIO)?;
        let read = tokio::task::spawn_blocking(move || {
            // Kept until the disk has answered, also when nobody waits any more.
            let _turn = turn;
            cache.examine(&id, end)
        });
        read.await.map_err(|_| libc::EIO)?.map_err(|error| errno(&error))
    };
    // A disk that hangs holds its thread, and not those who asked.
    tokio::time::timeout(LIMIT + FRESH, work).await.unwrap_or(Err(libc::ETIMEDOUT))
}

fn errno(error: &CacheError) -> i32 {
    match error {
        CacheError::Io { source, .. } if source.kind() == io::ErrorKind::TimedOut => {
            libc::ETIMEDOUT
        }
        CacheError::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        _ => libc::EIO,
    }
}

/// Upstream's words, where it has some.
fn text(id: &ObjectId, examined: Result<Condition, i32>) -> String {
    match examined {
        Ok(Condition::Sound) => id.hash.to_string(),
        Ok(Condition::Absent) => "Not in cache".to_owned(),
        Ok(Condition::Damaged) => "damaged".to_owned(),
        Ok(Condition::Unknown) => "cannot be checked".to_owned(),
        Err(errno) => format!("I/O error ({errno})"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use cvmfs_core::cache::{CacheUsage, CachedObject, ObjectMeta, Transaction};
    use cvmfs_core::hash::{ContentHash, HashAlgorithm};
    use cvmfs_core::object::ObjectKind;

    use super::*;

    /// Says the same each time, and counts.
    struct Told(Result<Condition, i32>, AtomicUsize);

    impl ObjectCache for Told {
        fn open(&self, id: &ObjectId) -> Result<Option<CachedObject>, CacheError> {
            panic!("nobody uses {id}");
        }

        fn begin(
            &self,
            id: &ObjectId,
            _meta: &ObjectMeta,
        ) -> Result<Box<dyn Transaction>, CacheError> {
            panic!("nobody stores {id}");
        }

        fn discard(&self, id: &ObjectId) -> Result<(), CacheError> {
            panic!("nobody removes {id}");
        }

        fn usage(&self) -> CacheUsage {
            CacheUsage::default()
        }

        fn examine(&self, _id: &ObjectId, _end: Instant) -> Result<Condition, CacheError> {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.0.map_err(|errno| CacheError::Io {
                action: "read",
                path: "x".into(),
                source: io::Error::from_raw_os_error(errno),
            })
        }
    }

    #[tokio::test]
    async fn each_condition_has_its_text_and_is_looked_at_once_for_two_questions() {
        let hash = ContentHash::of(HashAlgorithm::Sha1, b"x");
        let id = ObjectId::zlib(hash, ObjectKind::Data);
        for (told, expected, looks) in [
            (Ok(Condition::Sound), hash.to_string().as_str(), 2),
            (Ok(Condition::Damaged), "damaged", 2),
            (Ok(Condition::Unknown), "cannot be checked", 2),
            (Ok(Condition::Absent), "Not in cache", 3),
            (Err(libc::EIO), "I/O error (5)", 3),
            (Err(libc::ETIMEDOUT), "I/O error (110)", 3),
        ] {
            let cache = Arc::new(Told(told, AtomicUsize::new(0)));
            let shared = Arc::clone(&cache) as Arc<dyn ObjectCache>;
            let copies = KeptCopies::default();
            for _ in 0..3 {
                let (text, is_damaged) = copies.lhash(&shared, id).await;
                assert_eq!(text, expected);
                assert_eq!(is_damaged, told == Ok(Condition::Damaged));
            }
            assert_eq!(cache.1.load(Ordering::SeqCst), looks, "{expected}");
        }
    }
}
