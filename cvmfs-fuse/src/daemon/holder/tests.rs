use std::os::fd::BorrowedFd;

use super::*;
use crate::fuse::handover::Mount;

fn place(directory: &Path) -> Place {
    Place { socket: directory.join("s"), name: "a.b.c".to_owned(), mountpoint: "/m".into() }
}

/// A holder on a thread, which ends with the process.
fn start(directory: &Path, deadline: Duration) {
    let socket = directory.join("s");
    let (listener, lock) = cvmfs_cache::listen_alone(&socket).unwrap();
    rustix::io::ioctl_fionbio(&listener, true).unwrap();
    std::thread::spawn(move || {
        let _lock = lock;
        let (signals, _) = supervisor::listen().unwrap();
        let peers = Peers::Listed { users: Vec::new(), groups: Vec::new() };
        let mut holder = Holder::new(peers, deadline);
        while holder.turn(&listener, &signals).unwrap() {}
    });
}

fn mounted() -> (Word, OwnedFd, OwnedFd) {
    let (kernel, connection) = Line::pair().unwrap();
    let greeting = serde_json::from_str(r#"{"request":[1],"reply":[2]}"#).unwrap();
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
    let (mut first, nothing) = Deposit::claim(place.clone()).unwrap();
    assert!(nothing.mount.is_none());
    let (word, file, _kernel) = mounted();
    first.pass_on(&word, &[file.as_fd()]);
    let names = vec!["a.b.c".to_owned()];
    first.pass_on(&Word::Journals { names }, &[file.as_fd()]);
    // Another mount is another one's.
    let elsewhere = Place { mountpoint: "/other".into(), ..place.clone() };
    let (_other, nothing) = Deposit::claim(elsewhere).unwrap();
    assert!(nothing.mount.is_none());
    drop(first);
    let (mut second, holdings) = Deposit::claim(place.clone()).unwrap();
    assert!(is_same_file(connection(&holdings.mount), file.as_fd()));
    assert!(is_same_file(holdings.journals["a.b.c"].as_fd(), file.as_fd()));
    // An orderly end leaves nothing.
    second.pass_on(&Word::Released, &[]);
    drop(second);
    let (_third, nothing) = Deposit::claim(place).unwrap();
    assert!(nothing.mount.is_none());
}

#[test]
fn what_nobody_comes_for_ends() {
    let directory = tempfile::tempdir().unwrap();
    start(directory.path(), Duration::from_millis(200));
    let (mut first, _) = Deposit::claim(place(directory.path())).unwrap();
    let (word, connection, kernel) = mounted();
    first.pass_on(&word, &[connection.as_fd()]);
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
    holdings.take(word, vec![file.try_clone().unwrap()]);
    // One that ends at once.
    let socket = directory.path().join("s");
    let (listener, lock) = cvmfs_cache::listen_alone(&socket).unwrap();
    let gone = std::thread::spawn(move || {
        let peer = Line::hurried(rustix::net::accept(&listener).unwrap());
        while matches!(peer.wait(None).unwrap(), Received::Nothing) {}
        peer.say(&Word::Present, &[]).unwrap();
        drop(lock);
    });
    let (mut deposit, _) = Deposit::claim(place.clone()).unwrap();
    gone.join().unwrap();
    while deposit.is_held() {
        deposit.turn(&holdings);
    }
    start(directory.path(), Duration::from_secs(60));
    let begin = Instant::now();
    while !deposit.is_held() {
        assert!(begin.elapsed() < Duration::from_secs(20));
        deposit.turn(&holdings);
    }
    drop(deposit);
    let (_next, taken) = Deposit::claim(place).unwrap();
    assert!(is_same_file(connection(&taken.mount), file.as_fd()));
}

#[test]
fn paths_that_are_too_long_for_a_socket() {
    assert!(check_socket_path(Path::new(&"x".repeat(107))).is_ok());
    let failure = check_socket_path(Path::new(&"x".repeat(108))).unwrap_err();
    assert_eq!(failure.status, ExitStatus::Options);
    assert!(failure.message.contains("108 bytes are too long for a socket: 107"), "{failure}");
}
