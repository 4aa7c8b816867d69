use super::*;
use cvmfs_core::hash::HashAlgorithm;

fn path(text: &str) -> RepoPath {
    RepoPath::parse(text.as_bytes()).unwrap()
}

#[test]
fn a_successor_knows_what_the_kernel_holds() {
    let hash = |text: &[u8]| ContentHash::of(HashAlgorithm::Sha1, text);
    let journal = Journal::new().unwrap();
    journal.current(hash(b"one"));
    journal.slot(Slot::new(4095).unwrap());
    journal.closed();
    journal.known(1000, &path("/a"));
    journal.known(1001, &path("/a/b"));
    journal.known(1002, &path("/c"));
    journal.forgotten(1002);
    journal.bound(1001, hash(b"one"));
    journal.bound(1001, hash(b"two"));
    journal.current(hash(b"two"));
    // Killed in the middle of a record.
    let torn = Record::Known(1003, path("/torn")).to_bytes();
    journal.state.lock().file.write_all(&torn[..torn.len() - 1]).unwrap();

    for generation in 1..3 {
        let (_, inheritance) = Journal::inherit(journal.descriptor().unwrap()).unwrap();
        assert_eq!(inheritance.current, Some(hash(b"two")));
        assert_eq!(inheritance.generation, generation);
        assert_eq!((inheritance.slot, inheritance.is_closed), (Slot::new(4095), true));
        let expected = [
            (1000, Heir { path: path("/a"), revision: None }),
            (1001, Heir { path: path("/a/b"), revision: Some(hash(b"one")) }),
        ];
        assert_eq!(inheritance.inodes, expected.into());
    }
}

fn known(journal: &Journal) -> Vec<Ino> {
    let (inheritance, _) = read(journal.descriptor().unwrap().as_fd(), MAX_LEN).unwrap();
    let mut inodes: Vec<_> = inheritance.inodes.into_keys().collect();
    inodes.sort_unstable();
    inodes
}

#[test]
fn a_long_walk_leaves_a_short_journal_and_loses_nothing() {
    let hash = ContentHash::of(HashAlgorithm::Sha1, b"one");
    let (journal, _) = Journal::inherit(Journal::new().unwrap().descriptor().unwrap()).unwrap();
    journal.current(hash);
    journal.slot(Slot::new(7).unwrap());
    journal.closed();
    let walk = |from: Ino, until: Ino| {
        for ino in from..until {
            journal.known(ino, &path(&format!("/directory/with/a/name/{ino}")));
            // The kernel keeps few.
            if ino % 1000 != 0 {
                journal.forgotten(ino);
            }
        }
    };
    walk(1000, 100_000);
    journal.bound(7000, hash);
    let len = || journal.state.lock().len;
    assert!(len() > COMPACT_ABOVE);
    // Others go on meanwhile, before, while and after the supervisor is told.
    let mut supervisor = None;
    std::thread::scope(|scope| {
        let walker = scope.spawn(|| walk(100_000, 160_000));
        let kept = |file: BorrowedFd<'_>| {
            supervisor = Some(file.try_clone_to_owned().unwrap());
            true
        };
        journal.compact(kept).unwrap();
        walker.join().unwrap();
    });
    let expected: Vec<Ino> = (1..160).map(|thousands| thousands * 1000).collect();
    assert_eq!(known(&journal), expected);
    journal
        .compact(|file| {
            supervisor = Some(file.try_clone_to_owned().unwrap());
            true
        })
        .unwrap();
    assert!(len() < 20_000, "{}", len());
    journal.known(5, &path("/last"));
    drop(journal);
    let (_, inheritance) = Journal::inherit(supervisor.unwrap()).unwrap();
    assert_eq!((inheritance.current, inheritance.generation), (Some(hash), 2));
    assert_eq!(inheritance.inodes.len(), expected.len() + 1);
    assert_eq!(inheritance.inodes[&7000].revision, Some(hash));
    assert_eq!((inheritance.slot, inheritance.is_closed), (Slot::new(7), true));
}

#[test]
fn without_a_supervisor_that_takes_it_the_old_one_goes_on() {
    let journal = Journal::new().unwrap();
    journal.known(1000, &path("/a"));
    let kept = journal.descriptor().unwrap();
    assert!(journal.compact(|_| false).is_err());
    journal.known(1001, &path("/b"));
    let (inheritance, _) = read(kept.as_fd(), MAX_LEN).unwrap();
    assert_eq!(inheritance.inodes.len(), 2);
}

#[test]
fn a_full_journal_takes_no_more_inodes_but_lets_go() {
    let journal = Journal::new().unwrap();
    journal.known(1000, &path("/a"));
    journal.state.lock().len = FULL_ABOVE;
    journal.known(1001, &path("/b"));
    assert_eq!(known(&journal), [1000]);
    journal.forgotten(1000);
    assert_eq!(known(&journal), [0; 0]);
    journal.compact(|_| true).unwrap();
    journal.known(1002, &path("/c"));
    assert_eq!(known(&journal), [1002]);
}
