use super::*;
use cvmfs_core::catalog::Content;

/// An entry of a listing.
pub(crate) fn entry(name: &str, kind: EntryKind, identity: u8, group: u32) -> Arc<DirectoryEntry> {
    Arc::new(DirectoryEntry {
        name: name.as_bytes().into(),
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        rdev: 0,
        mtime: 0,
        mtime_ns: 0,
        nlink: 1,
        hardlink_group: group,
        content: Content::None,
        symlink: Box::default(),
        raw_symlink: Box::default(),
        has_xattrs: false,
        nested_mountpoint: false,
        hidden: false,
        direct_io: false,
        external: false,
        identity: [identity; 16],
    })
}

/// A file with this number.
pub(in crate::fs) fn inode(ino: Ino) -> Inode {
    let entry = entry("f", EntryKind::Regular, 1, 0);
    Inode { ino, path: path("/f"), entry, earlier: None }
}

fn path(text: &str) -> RepoPath {
    RepoPath::parse(text.as_bytes()).unwrap()
}

#[test]
fn hard_links_share_a_number_and_nothing_else_does() {
    let table = InodeTable::new("x.test");
    let of = |p: &str, kind, identity, group| {
        table.number_of(&path(p), &entry("n", kind, identity, group))
    };
    use EntryKind::{Directory, Regular};
    assert_eq!(of("/a", Regular, 1, 7), of("/b", Regular, 1, 7));
    assert_ne!(of("/a", Regular, 1, 7), of("/a", Regular, 2, 7));
    assert_ne!(of("/a", Regular, 1, 0), of("/b", Regular, 1, 0), "equal content, other path");
    assert_ne!(of("/a", Regular, 1, 0), of("/a", Regular, 2, 0), "other version");
    assert_ne!(of("/a", Regular, 1, 0), of("/a", Directory, 1, 0));
    assert_eq!(of("/a", Directory, 1, 0), of("/a", Directory, 2, 0), "directories keep theirs");
    assert_eq!(of("/", Directory, 1, 0), ROOT_INO);
    // The same after a restart, another for another repository.
    let e = entry("n", Regular, 1, 0);
    assert_eq!(InodeTable::new("x.test").number_of(&path("/a"), &e), of("/a", Regular, 1, 0));
    assert_ne!(InodeTable::new("y.test").number_of(&path("/a"), &e), of("/a", Regular, 1, 0));
}

#[test]
fn references_are_counted() {
    let table = InodeTable::new("x.test");
    let e = entry("a", EntryKind::Regular, 1, 0);
    let ino = table.remember(&path("/a"), &e, None).ino;
    assert_eq!(table.remember(&path("/a"), &e, None).ino, ino);
    assert!(!table.forget(ino, 1));
    assert!(table.get(ino).is_some());
    assert!(table.forget(ino, 1));
    assert!(table.get(ino).is_none());
    // Nonsense from the kernel neither panics nor underflows.
    assert!(!table.forget(ino, 5));
    table.remember(&path("/a"), &e, None);
    assert!(table.forget(ino, u64::MAX));
    assert!(table.is_empty());
}

/// Of all that the kernel knows, only what was used last and directories are kept as a whole.
#[test]
fn rows_that_were_not_used_for_long_are_found_again() {
    let few = NonZeroUsize::new(10).unwrap();
    let table = InodeTable::with("x.test", number, few);
    let directory = entry("d", EntryKind::Directory, 0, 0);
    let directory = table.remember(&path("/d"), &directory, None).ino;
    let files: Vec<_> = (0..100)
        .map(|n| (path(&format!("/d/{n}")), entry("f", EntryKind::Regular, n, 0)))
        .collect();
    let inos: Vec<_> =
        files.iter().map(|(path, entry)| table.remember(path, entry, None).ino).collect();
    assert!(table.get(directory).is_some());
    let kept = |ino: &&Ino| table.get(**ino).is_some();
    let kept: Vec<_> = inos.iter().filter(kept).collect();
    assert_eq!(kept, inos[90..].iter().collect::<Vec<_>>());
    for (&ino, (path, row)) in inos.iter().zip(&files) {
        assert_eq!(table.number_of(path, row), ino);
        let resting = table.resting(ino).unwrap();
        assert_eq!((&resting.path, resting.earlier.is_none()), (path, true));
        let other = entry("f", EntryKind::Regular, 200, 0);
        assert!(table.rouse(ino, &other).is_none(), "another row is not taken for it");
        assert_eq!(table.rouse(ino, row).unwrap().path, *path);
        assert_eq!(table.get(ino).unwrap().entry, *row);
    }
    assert_eq!(table.names_in(&path("/d")).len(), 100);
    assert_eq!(table.names_in(&path("/")).len(), 1);
    for ino in inos {
        assert!(table.forget(ino, 1));
        assert!(table.get(ino).is_none() && table.resting(ino).is_none());
    }
    assert_eq!(table.len(), 1);
    // A table of a million is measured in hundreds of MB: each byte here is a MB there.
    assert!(size_of::<Slot>() <= 56, "{}", size_of::<Slot>());
}

#[test]
fn colliding_entries_get_different_numbers() {
    // Every first number is the same, the second one is reserved.
    let numbering: Numbering = |identity, attempt| match attempt {
        0 => 1000,
        1 => 255,
        _ => Ino::from(identity[0]) + 1001,
    };
    let table = InodeTable::with("x.test", numbering, MAX_RECENT);
    let (a, b) = (entry("a", EntryKind::Regular, 1, 0), entry("b", EntryKind::Regular, 2, 0));
    let first = table.remember(&path("/a"), &a, None).ino;
    assert_eq!(first, 1000);
    let second = table.number_of(&path("/b"), &b);
    assert!(second > 1000);
    assert_eq!(table.remember(&path("/b"), &b, None).ino, second);
    assert_eq!(table.get(first).unwrap().path, path("/a"));
    assert_eq!(table.get(second).unwrap().path, path("/b"));
}

fn known(table: &InodeTable, names: std::ops::Range<usize>) -> Vec<Ino> {
    let row = |n: usize| entry("f", EntryKind::Regular, u8::try_from(n % 200).unwrap(), 0);
    let one = |n| table.remember(&path(&format!("/d/{n}")), &row(n), None).ino;
    names.map(one).collect()
}

fn rings(table: &InodeTable) -> bool {
    let crowded = table.crowded();
    let mut ring = std::pin::pin!(crowded.notified());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    ring.as_mut().poll(&mut context).is_ready()
}

#[test]
fn what_was_not_used_for_longest_is_to_go_first() {
    let table = InodeTable::new("x.test").bounded(Some(800));
    let directory = entry("d", EntryKind::Directory, 0, 0);
    let directory = table.remember(&path("/d"), &directory, None).ino;
    let files = known(&table, 0..698);
    assert!(!rings(&table), "below seven eighths");
    assert!(table.get(files[0]).is_some(), "this is a use");
    known(&table, 698..699);
    assert!(rings(&table));
    known(&table, 699..705);
    assert!(!rings(&table), "once");
    let surplus = table.surplus();
    // Whole rounds, of 25 here.
    assert!((206..=230).contains(&surplus.len()), "{}", surplus.len());
    assert!(!surplus.contains(&files[0]));
    assert!(files[1..200].iter().all(|ino| surplus.contains(ino)));
    assert!(!surplus.contains(files.last().unwrap()));
    assert_eq!(surplus.last(), Some(&directory), "after its entries");
    // The kernel keeps the first hundred of them; others come next.
    surplus[100..].iter().for_each(|&ino| assert!(table.forget(ino, 1)));
    table.asked();
    assert!(!rings(&table));
    known(&table, 1000..1250);
    assert!(rings(&table));
    let next = table.surplus();
    assert!(next.len() > 200 && surplus[..100].iter().all(|ino| !next.contains(ino)));
}

/// All are in use, so the kernel lets go of none: it is asked now and then.
#[test]
fn questions_in_vain_stay_few() {
    let table = InodeTable::new("x.test").bounded(Some(800));
    let mut asked = 0;
    for n in 0..10_000 {
        known(&table, n..n + 1);
        if rings(&table) {
            asked += table.surplus().len();
            table.asked();
        }
    }
    assert_eq!(table.len(), 10_000);
    assert!((10_000..100_000).contains(&asked), "{asked}");
    let table = InodeTable::new("x.test");
    known(&table, 0..10_000);
    assert!(!rings(&table) && table.surplus().is_empty(), "without a limit");
}
