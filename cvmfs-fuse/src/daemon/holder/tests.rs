use std::os::fd::BorrowedFd;

use super::*;
use crate::daemon::own_mount::{Kernel, OwnMount};
use crate::fuse::handover::Mount;
use crate::fuse::mountinfo::MountEntry;

/// Who runs the holder, to its knowledge; not we.
const OWN: u32 = 4711;

/// Sockets stand for connections.
struct Sockets;

impl Kernel for Sockets {
    fn is_fuse(&self, _: BorrowedFd<'_>) -> bool {
        true
    }

    fn is_over(&self, _: &OwnedFd) -> bool {
        false
    }

    fn mounts_at(&self, _: &Path) -> io::Result<Vec<MountEntry>> {
        Ok(Vec::new())
    }
}

fn claim(place: Place) -> Result<(Deposit, Holdings), Failure> {
    Deposit::claim(place, &OwnMount::of_kernel(Path::new("/m"), Sockets))
}

fn journal() -> OwnedFd {
    rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap()
}

/// Passes on what a server would have said.
fn deposit(to: &mut Deposit, word: Word, descriptor: &OwnedFd) {
    let mut holdings = Holdings::default();
    let copy = descriptor.try_clone().unwrap();
    let change = holdings.take(word, vec![copy], Trust::Supervisor).unwrap();
    to.pass_on(&change, &holdings);
}

fn place(directory: &Path) -> Place {
    let socket = directory.join("s");
    Place { socket, user: None, name: "a.b.c".to_owned(), mountpoint: "/m".into() }
}

/// A holder on a thread, which ends with the process.
fn start(directory: &Path, deadline: Duration) {
    let socket = directory.join("s");
    let (listener, lock) = cvmfs_cache::listen_alone(&socket).unwrap();
    rustix::io::ioctl_fionbio(&listener, true).unwrap();
    std::thread::spawn(move || {
        let _lock = lock;
        let (signals, _) = supervisor::listen().unwrap();
        let peers = Peers::All;
        let mut holder = Holder::new(peers, Shares::of(OWN, 1000), deadline);
        while holder.turn(&listener, &signals).unwrap() {}
    });
}

fn mounted() -> (Word, OwnedFd, OwnedFd) {
    let (kernel, connection) = Line::pair().unwrap();
    let greeting = crate::fuse::handover::Greeting::example();
    let word = Word::Mounted { greeting, mountpoint: "/m".into(), device: None };
    (word, connection, kernel.socket().try_clone().unwrap())
}

fn is_same_file(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(one).unwrap().st_ino == rustix::fs::fstat(other).unwrap().st_ino
}

fn connection(mount: &Option<Mount>) -> BorrowedFd<'_> {
    mount.as_ref().unwrap().connection.as_fd()
}

#[test]
fn the_next_supervisor_gets_what_was_left() {
    let directory = tempfile::tempdir().unwrap();
    start(directory.path(), Duration::from_secs(60));
    let place = place(directory.path());
    let (mut first, nothing) = claim(place.clone()).unwrap();
    assert!(nothing.mount.is_none());
    let (word, file, _kernel) = mounted();
    deposit(&mut first, word, &file);
    let (names, noted) = (vec!["a.b.c".to_owned()], journal());
    deposit(&mut first, Word::Journals { names }, &noted);
    // Another mount is another one's.
    let elsewhere = Place { mountpoint: "/other".into(), ..place.clone() };
    let (_other, nothing) = claim(elsewhere).unwrap();
    assert!(nothing.mount.is_none());
    drop(first);
    let (mut second, holdings) = claim(place.clone()).unwrap();
    assert!(is_same_file(connection(&holdings.mount), file.as_fd()));
    assert!(is_same_file(holdings.journals["a.b.c"].as_fd(), noted.as_fd()));
    // An orderly end leaves nothing.
    second.release();
    drop(second);
    let (_third, nothing) = claim(place).unwrap();
    assert!(nothing.mount.is_none());
}

#[test]
fn what_nobody_comes_for_ends() {
    let directory = tempfile::tempdir().unwrap();
    start(directory.path(), Duration::from_millis(200));
    let (mut first, _) = claim(place(directory.path())).unwrap();
    let (word, connection, kernel) = mounted();
    deposit(&mut first, word, &connection);
    drop(connection);
    drop(first);
    let kernel = Line::hurried(kernel);
    let start = Instant::now();
    loop {
        // With the last descriptor.
        match kernel.wait(Some(Duration::from_secs(1))).unwrap() {
            Received::End => break,
            other => assert!(start.elapsed() < Duration::from_secs(20), "{other:?}"),
        }
    }
}

#[test]
fn a_holder_that_comes_back_is_told_again() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let (word, file, _kernel) = mounted();
    let mut holdings = Holdings::default();
    holdings.take(word, vec![file.try_clone().unwrap()], Trust::Supervisor).unwrap();
    // One that ends at once.
    let socket = directory.path().join("s");
    let (listener, lock) = cvmfs_cache::listen_alone(&socket).unwrap();
    let gone = std::thread::spawn(move || {
        let peer = Line::hurried(rustix::net::accept(&listener).unwrap());
        while matches!(peer.wait(None).unwrap(), Received::Nothing) {}
        for word in [Word::Own, Word::Present] {
            peer.say(&word, &[]).unwrap();
        }
        drop(lock);
    });
    let own = OwnMount::of_kernel(Path::new("/m"), Sockets);
    let (mut deposit, _) = claim(place.clone()).unwrap();
    gone.join().unwrap();
    while deposit.is_held() {
        deposit.turn(&own, &holdings);
    }
    start(directory.path(), Duration::from_secs(60));
    let begin = Instant::now();
    while !deposit.is_held() {
        assert!(begin.elapsed() < Duration::from_secs(20));
        deposit.turn(&own, &holdings);
    }
    drop(deposit);
    let (_next, taken) = claim(place).unwrap();
    assert!(is_same_file(connection(&taken.mount), file.as_fd()));
}

#[test]
fn paths_that_are_too_long_for_a_socket() {
    assert!(check_socket_path(Path::new(&"x".repeat(107))).is_ok());
    let failure = check_socket_path(Path::new(&"x".repeat(108))).unwrap_err();
    assert_eq!(failure.status, ExitStatus::Options);
    assert!(failure.message.contains("108 bytes are too long for a socket: 107"), "{failure}");
}

/// Does something as another user; sockets tell the numbers of the thread that connects.
fn as_user<T: Send>(uid: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: changes the effective user of this thread only, and touches no memory.
            let done = unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, -1) };
            assert_eq!(done, 0, "needs root");
            work()
        });
        thread.join().unwrap()
    })
}

/// A directory that other users find their way into.
fn open_directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// Says at a holder whose mount we look after; returns the line.
fn guest(socket: &Path, name: &str) -> (Line, Vec<Word>) {
    let flags = SocketFlags::CLOEXEC;
    let kind = rustix::net::SocketType::SEQPACKET;
    let socket_of_guest =
        rustix::net::socket_with(rustix::net::AddressFamily::UNIX, kind, flags, None).unwrap();
    let address = rustix::net::SocketAddrUnix::new(socket).unwrap();
    rustix::net::connect(&socket_of_guest, &address).unwrap();
    let line = Line::hurried(socket_of_guest);
    let deposit = Word::Deposit { name: name.to_owned(), mountpoint: "/m".into(), claim: true };
    let mut said = Vec::new();
    if line.say(&deposit, &[]).is_err() {
        return (line, said);
    }
    while let Ok(Received::Word(word, _)) = line.wait(Some(Duration::from_secs(5))) {
        let is_last = matches!(word, Word::Present | Word::Refused { .. });
        said.push(word);
        if is_last {
            break;
        }
    }
    (line, said)
}

#[test]
fn h2_root_does_not_get_what_a_user_has_deposited_under_the_name_of_roots_mount() {
    let directory = open_directory();
    start(directory.path(), Duration::from_secs(60));
    let socket = directory.path().join("s");
    // A user is first, with a connection of its own.
    let (line, said) = as_user(1001, || guest(&socket, "a.b.c"));
    assert_eq!(said, [Word::Own, Word::Present]);
    let (word, theirs, _kernel) = mounted();
    line.say(&word, &[theirs.as_fd()]).unwrap();
    // Root's place is free, and empty; a user cannot even keep it busy.
    let (mut root, holdings) = claim(place(directory.path())).unwrap();
    assert!(holdings.mount.is_none());
    let (word, ours, _kernel) = mounted();
    deposit(&mut root, word, &ours);
    drop((root, line));
    let (_root, holdings) = claim(place(directory.path())).unwrap();
    assert!(is_same_file(connection(&holdings.mount), ours.as_fd()));
    // Another user gets neither.
    let (_line, said) = as_user(1002, || guest(&socket, "a.b.c"));
    assert_eq!(said, [Word::Own, Word::Present]);
    // The first one gets back what is its own.
    let begin = Instant::now();
    loop {
        let (_line, said) = as_user(1001, || guest(&socket, "a.b.c"));
        if matches!(said[..], [Word::Own, Word::Mounted { .. }, Word::Present]) {
            break;
        }
        // It has not been noticed yet that the first connection is gone.
        assert!(begin.elapsed() < Duration::from_secs(20), "{said:?}");
    }
}

#[test]
fn h2_root_takes_nothing_from_a_holder_of_another_user_or_one_that_says_not_whose_it_is() {
    let directory = open_directory();
    let socket = directory.path().join("s");
    let place = place(directory.path());
    for (uid, user, answer, fails) in [
        (1001, None, vec![Word::Own, Word::Present], Some("it runs as user 1001")),
        (1001, Some(1001), vec![Word::Own, Word::Present], None),
        (0, None, vec![mounted().0, Word::Present], Some("does not say whose mount it has")),
        (0, None, vec![Word::Own, mounted().0, Word::Present], Some("do not fit the word")),
        (0, None, vec![Word::Own, Word::Serving { version: "1".to_owned() }], Some("not for its")),
    ] {
        let _ = std::fs::remove_file(&socket);
        let address = rustix::net::SocketAddrUnix::new(&socket).unwrap();
        let kind = rustix::net::SocketType::SEQPACKET;
        let listener = rustix::net::socket(rustix::net::AddressFamily::UNIX, kind, None).unwrap();
        rustix::net::bind(&listener, &address).unwrap();
        // Whoever listens is who it is.
        as_user(uid, || rustix::net::listen(&listener, 1)).unwrap();
        let holder = std::thread::spawn(move || {
            let line = Line::hurried(rustix::net::accept(&listener).unwrap());
            let _ = line.wait(Some(Duration::from_secs(5)));
            for word in answer {
                let _ = line.say(&word, &[]);
            }
            // Until it is gone.
            let _ = line.wait(Some(Duration::from_secs(5)));
        });
        let claimed = claim(Place { user, ..place.clone() }).map(drop);
        holder.join().unwrap();
        match (claimed, fails) {
            (Ok(()), None) => {}
            (Err(failure), Some(text)) => assert!(failure.message.contains(text), "{failure}"),
            (claimed, _) => panic!("{uid} {user:?}: {claimed:?}"),
        }
    }
}

#[test]
fn h2_users_of_a_holder_leave_room_for_root() {
    let directory = open_directory();
    start(directory.path(), Duration::from_secs(60));
    let socket = directory.path().join("s");
    let mut guests = Vec::new();
    for uid in 2000..2008 {
        as_user(uid, || {
            for number in 0..40 {
                guests.push(guest(&socket, &format!("a.b.c{number}")));
            }
        });
    }
    let (_root, holdings) = claim(place(directory.path())).unwrap();
    assert!(holdings.mount.is_none());
}

#[test]
fn m6_lines_that_others_cause_have_a_bound() {
    let mut log = Log::default();
    let shares = Shares::of(OWN, 1000);
    for number in 0..1000 {
        log.refuse("not written by this test, but counted");
        let key = Key { uid: 1001, name: format!("n{number}"), mountpoint: "/m".into() };
        log.tell(&shares, &key, "held from now on");
    }
    let far = Instant::now() + Duration::from_secs(3600);
    assert_eq!(log.refused.take(far), Some(990));
    assert_eq!(log.others.take(far), Some(900));
    // Root's are written as before.
    assert_eq!(log.privileged.take(Instant::now()), Some(0));
}
