//! Random work against a model of what a cache promises.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileExt as _, PermissionsExt};

use super::*;
use proptest::prelude::*;
use rustix::fs::FlockOperation;

const NUMBERS: u32 = 24;
/// More than all objects together.
const AMPLE: u64 = 10 << 20;
/// Less than half of them.
const SMALL: u64 = 20_000;

#[derive(Debug, Clone)]
enum Step {
    Commit {
        number: u32,
        volatile: bool,
    },
    Open(u32),
    Pin(u32),
    Unpin,
    Discard(u32),
    /// Down to so many percent of what is there.
    Evict(u64),
    /// Another process stores something, leaves an object half-written, and dies.
    Crash(Vec<u32>),
    /// This process closes the cache and opens it again.
    Reopen,
    Wipe,
    /// One byte; the seal is broken, or somebody forged it.
    Damage {
        number: u32,
        forge_seal: bool,
    },
    /// The index is lost, or is none any more.
    LoseIndex {
        damage: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0..NUMBERS;
    prop_oneof![
        20 => (number.clone(), prop::bool::weighted(0.2))
            .prop_map(|(number, volatile)| Step::Commit { number, volatile }),
        8 => number.clone().prop_map(Step::Open),
        4 => number.clone().prop_map(Step::Pin),
        2 => Just(Step::Unpin),
        3 => number.clone().prop_map(Step::Discard),
        3 => (0..100_u64).prop_map(Step::Evict),
        1 => prop::collection::vec(number.clone(), 1..6).prop_map(Step::Crash),
        1 => Just(Step::Reopen),
        1 => Just(Step::Wipe),
        2 => (number, any::<bool>())
            .prop_map(|(number, forge_seal)| Step::Damage { number, forge_seal }),
        1 => any::<bool>().prop_map(|damage| Step::LoseIndex { damage }),
    ]
}

struct Trial {
    quota: u64,
    naming: Option<Naming>,
    cache: Option<DiskCache>,
    /// Must be found: stored, and nothing has happened to it since.
    certain: BTreeSet<u32>,
    /// As long as this is held, it is certain.
    pins: BTreeMap<u32, Pin>,
    /// Stay readable whatever happens to their names.
    held: Vec<(u32, CachedObject)>,
    /// Last: the cache writes to it when it is dropped, and would make it again.
    scratch: tempfile::TempDir,
}

impl Trial {
    fn new(quota: u64, naming: Option<Naming>) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let cache = Some(open(scratch.path(), quota, naming));
        let (certain, pins, held) = Default::default();
        Self { scratch, quota, naming, cache, certain, pins, held }
    }

    fn cache(&self) -> &DiskCache {
        self.cache.as_ref().unwrap()
    }

    /// Nothing goes by itself here.
    fn is_ample(&self) -> bool {
        self.quota == AMPLE
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Commit { number, volatile } => {
                let object = commit(self.cache(), number, volatile);
                if self.is_ample() {
                    assert!(object.path().is_some(), "there was room");
                    self.certain.insert(number);
                }
                self.held.push((number, object));
            }
            Step::Open(number) => {
                if let Some(object) = self.cache().open(&id_of(number)).unwrap() {
                    self.held.push((number, object));
                }
            }
            Step::Pin(number) => self.pin(number),
            Step::Unpin => {
                if let Some((number, _)) = self.pins.pop_first()
                    && !self.is_ample()
                {
                    self.certain.remove(&number);
                }
            }
            Step::Discard(number) => {
                self.cache().discard(&id_of(number)).unwrap();
                assert!(!check(self.cache(), number), "discarded");
                self.certain.remove(&number);
            }
            Step::Evict(percent) => self.evict(percent),
            Step::Crash(ref numbers) => self.crash(numbers),
            Step::Reopen => {
                self.close();
                self.cache = Some(open(self.scratch.path(), self.quota, self.naming));
            }
            Step::Wipe => self.wipe(),
            Step::Damage { number, forge_seal } => self.damage(number, forge_seal),
            Step::LoseIndex { damage } => {
                let path = self.scratch.path().join("v2/index.sqlite");
                let _ = if damage {
                    std::fs::write(path, b"bla".repeat(5000))
                } else {
                    std::fs::remove_file(path)
                };
            }
        }
    }

    fn pin(&mut self, number: u32) {
        let size = |number: &u32| body_of(*number).len() as u64;
        let pinned: u64 = self.pins.keys().map(size).sum();
        if self.pins.contains_key(&number) || pinned + size(&number) > self.quota / 2 {
            return;
        }
        let pin = self.cache().pin(&id_of(number));
        // An eviction that began before does not know it.
        drop(self.no_eviction());
        if check(self.cache(), number) {
            self.certain.insert(number);
            self.pins.insert(number, pin);
        }
    }

    fn no_eviction(&self) -> std::fs::File {
        let lock = self.cache().store.layout.open_control("evict.lock").unwrap();
        let free = || rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        until("the eviction ends", free);
        lock
    }

    fn evict(&mut self, percent: u64) {
        let store = Arc::clone(&self.cache().store);
        let mut tender = Tender::new(Arc::clone(&store));
        tender.flush();
        let target = store.gauge.read().bytes * percent / 100;
        tender.evict(target, &mut |_| true);
        self.certain.retain(|number| self.pins.contains_key(number));
    }

    fn crash(&mut self, numbers: &[u32]) {
        let mut worker = Worker::start(self.scratch.path(), self.quota, self.naming);
        for &number in numbers {
            worker.make("commit", number);
            if self.is_ample() {
                self.certain.insert(number);
            }
        }
        // A dead process's pins hold nobody up; that is seen in the end.
        worker.make("pin", numbers[0]);
        worker.make("begin", NUMBERS + 1);
        drop(worker);
    }

    fn wipe(&mut self) {
        let wiped = self.scratch.path().join("wiped");
        std::fs::rename(self.scratch.path().join("v2"), &wiped).unwrap();
        // The thread that tends it may be putting something there.
        until("removed", || {
            let _ = std::fs::remove_dir_all(&wiped);
            !wiped.exists()
        });
        self.certain.clear();
        // Their names come back with the next look of the keeper.
        self.pins.clear();
    }

    fn damage(&mut self, number: u32, forge_seal: bool) {
        let name = format!("{OBJECTS}/{}", object_name(&id_of(number)));
        let path = self.cache().store.layout.path(name);
        // Whoever has it open sees the damage.
        self.held.retain(|(held, _)| *held != number);
        self.certain.remove(&number);
        self.pins.remove(&number);
        // It may be evicted at any step here.
        let Ok(()) = std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)) else {
            return;
        };
        let Ok(file) = std::fs::File::options().write(true).open(&path) else { return };
        let len = body_of(number).len() as u64;
        file.write_all_at(&[0xee], u64::from(number) * 31 % len).unwrap();
        if forge_seal {
            crate::seal::seal(&file, len).unwrap();
        }
        drop(file);
        assert!(!check(self.cache(), number), "damaged");
    }

    fn close(&mut self) {
        self.pins.clear();
        if !self.is_ample() {
            self.certain.clear();
        }
        self.cache = None;
    }

    /// What holds at any time.
    fn assert_promises(&self) {
        let cache = self.cache();
        assert!(cache.usage().used <= self.quota);
        let stored: u64 = objects(&cache.store).iter().map(|one| one.1).sum();
        assert!(stored <= self.quota, "{stored}");
        for number in 0..NUMBERS {
            let found = check(cache, number);
            let must = self.certain.contains(&number);
            assert!(found || !must, "{number} is lost");
        }
    }
}

fn try_steps(quota: u64, naming: Option<Naming>, steps: &[Step]) {
    let mut trial = Trial::new(quota, naming);
    for step in steps {
        trial.run(step);
        trial.assert_promises();
    }
    for (number, object) in &trial.held {
        assert!(object.read_all(1 << 20).unwrap() == body_of(*number));
    }
    trial.held.clear();
    trial.close();
    // All damage was found when it was done, so that none is left under a name.
    assert_no_partial_object(trial.scratch.path());
    let exact = !steps.iter().any(|step| matches!(step, Step::Crash(_) | Step::Wipe));
    if exact {
        // Nobody died, so that no count is needed.
        let store = store_alone(trial.scratch.path(), quota);
        let sum = objects(&store).iter().map(|one| one.1).sum::<u64>();
        assert_eq!(store.gauge.read().bytes, sum);
    }
    drop(open(trial.scratch.path(), quota, naming));
    assert_eq!(std::fs::read_dir(trial.scratch.path().join("v2/txn")).unwrap().count(), 0);
    assert_consistent_after_a_count(trial.scratch.path(), quota);
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: number_from_environment("CVMFS_FUSE_TEST_CASES", 48),
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nothing_is_lost_where_there_is_room(
        steps in prop::collection::vec(step(), 1..40),
        named in any::<bool>(),
    ) {
        try_steps(AMPLE, named.then_some(Naming::Named), &steps);
    }

    #[test]
    fn a_small_quota_holds_and_so_do_pins(
        steps in prop::collection::vec(step(), 1..60),
        named in any::<bool>(),
    ) {
        try_steps(SMALL, named.then_some(Naming::Named), &steps);
    }
}
