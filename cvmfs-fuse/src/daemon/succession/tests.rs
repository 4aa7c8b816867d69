//! With shell scripts as servers, and a socket as the connection to the kernel.

use std::process::Command;
use std::time::Duration;

use rustix::process::{WaitOptions, waitpid};

use super::*;
use crate::fuse::handover::Mount;

const LIMIT: Duration = Duration::from_secs(60);
/// What servers say, and what they wait for: three words. `$2` is the descriptor.
const READY: &str = r#"echo '{"Ready":{"version":"7"}}' >&$2; "#;
const WAIT: &str = "dd bs=65536 count=3 <&$2 >/dev/null 2>&1; ";
const SERVING: &str = r#"echo '{"Serving":{"version":"7"}}' >&$2; "#;

fn mount() -> (Mount, OwnedFd) {
    let (line, theirs) = super::super::letters::Line::pair().unwrap();
    let greeting = crate::fuse::handover::Greeting::example();
    let connection = line.socket().try_clone().unwrap();
    (Mount { connection, greeting, mountpoint: "/nowhere".into(), device: None }, theirs)
}

/// Servers that run a script, which finds the number of those before it in `$N`.
fn launcher(script: String) -> Launcher {
    let count = std::cell::Cell::new(0);
    Box::new(move |_, extra, _| {
        let mut command = Command::new("bash");
        command.args(["-c", &script, "server"]).args(extra).env("N", count.get().to_string());
        count.set(count.get() + 1);
        Ok(command)
    })
}

fn own() -> OwnMount {
    OwnMount::at("/nowhere".as_ref())
}

fn short() -> Limits {
    Limits {
        short_life: Duration::ZERO,
        serve: Duration::from_millis(300),
        silence: Duration::from_millis(800),
        ..Limits::default()
    }
}

/// Drives it until `done`, as a supervisor does.
fn drive(succession: &mut Succession, mut done: impl FnMut(&mut Succession) -> bool) {
    let start = Instant::now();
    while !done(succession) {
        assert!(start.elapsed() < LIMIT, "{:?}", succession.server);
        let mut polled: Vec<_> = succession
            .descriptors()
            .into_iter()
            .map(|fd| rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::IN))
            .collect();
        let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        rustix::event::poll(&mut polled, Some(&pause)).unwrap();
        drop(polled);
        let children: Vec<_> =
            succession.server.iter().chain(&succession.candidate).map(|child| child.pid).collect();
        for pid in children {
            let id = rustix::process::Pid::from_raw(pid.as_raw());
            if let Some((_, status)) = waitpid(id, WaitOptions::NOHANG).unwrap() {
                succession.ended(pid, status);
            }
        }
        succession.turn();
    }
}

fn serving(succession: &mut Succession) -> bool {
    succession.server.as_ref().is_some_and(|server| server.serving)
}

fn start(script: &str) -> (Succession, OwnedFd) {
    let (mount, kernel) = mount();
    let holdings = Holdings { mount: Some(mount), ..Holdings::default() };
    let mut succession =
        Succession::go_on(launcher(script.to_owned()), own(), holdings, None).unwrap();
    succession.limits = short();
    (succession, kernel)
}

#[test]
fn a_successor_that_hangs_is_replaced() {
    let script = format!("[ $N = 1 ] || exec sleep 1000; {READY}{WAIT}{SERVING} exec sleep 1000");
    let (mut succession, _kernel) = start(&script);
    let first = succession.server.as_ref().unwrap().pid;
    drive(&mut succession, serving);
    assert_ne!(succession.server.as_ref().unwrap().pid, first);
    assert!(succession.outcome().is_none());
    succession.stop(Some(Signal::SIGTERM));
    let mut outcome = None;
    drive(&mut succession, |one| {
        outcome = one.outcome();
        outcome.is_some()
    });
    assert!(
        matches!(outcome, Some(Outcome::Ended(status)) if status.terminating_signal() == Some(15))
    );
}

#[test]
fn users_do_not_wait_for_ever_for_one_that_serves() {
    let (mut succession, kernel) = start("exec sleep 1000");
    let mut outcome = None;
    drive(&mut succession, |one| {
        outcome = one.outcome();
        outcome.is_some()
    });
    let Some(Outcome::GivenUp(failure)) = outcome else { panic!("{outcome:?}") };
    assert!(failure.message.contains("no successor serves"), "{failure}");
    // Nobody has the connection any more.
    drop(succession);
    assert_eq!(rustix::io::read(&kernel, &mut [0; 8][..]).unwrap(), 0);
}

#[test]
fn a_program_that_fails_is_not_upgraded_to() {
    // Before it is ready, before it serves, and not at all.
    for failing in ["exit 3", &format!("{READY}{WAIT}exit 3")] {
        let script =
            format!("[ $N = 1 ] && {{ {failing}; }}; {READY}{WAIT}{SERVING} exec sleep 1000");
        let (mut succession, _kernel) = start(&script);
        drive(&mut succession, serving);
        let first = succession.server.as_ref().unwrap().pid;
        succession.upgrade();
        assert!(succession.upgrade.is_some());
        drive(&mut succession, |one| one.upgrade.is_none() && serving(one));
        assert!(*succession.program == Program::Own, "{failing}");
        let after = succession.server.as_ref().unwrap().pid;
        assert_eq!(after == first, failing == "exit 3", "{failing}");

        succession.upgrade();
        drive(&mut succession, |one| one.upgrade.is_none() && serving(one));
        assert_ne!(succession.server.as_ref().unwrap().pid, after);
        assert!(*succession.program != Program::Own);
        succession.kill();
        drive(&mut succession, |one| one.outcome().is_some());
    }
}

#[test]
fn a_server_that_has_just_come_is_upgraded_too() {
    // It serves already, and what it says of that is not heard before the upgrade is asked for.
    let script = format!("{READY}{WAIT}{SERVING} exec sleep 1000");
    let (mut succession, _kernel) = start(&script);
    let first = succession.server.as_ref().unwrap().pid;
    succession.upgrade();
    drive(&mut succession, |one| one.upgrade.is_none() && serving(one));
    assert_ne!(succession.server.as_ref().unwrap().pid, first);
    assert!(*succession.program != Program::Own);
    succession.kill();
    drive(&mut succession, |one| one.outcome().is_some());
}

#[test]
fn h2_a_server_that_floods_is_heard_at_a_bounded_rate_and_keeps_nobody_waiting() {
    // It and its child say without end what makes sense; the child goes on when the server is dead.
    let flood = r#"while echo '{"Closed":{"name":"x"}}' >&$2; do :; done"#;
    let script = format!("{READY}{WAIT}{SERVING} {{ {flood}; }} & exec sleep 1000");
    let (mut succession, _kernel) = start(&script);
    drive(&mut succession, serving);
    for _ in 0..100 {
        let begin = Instant::now();
        succession.turn();
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    }
    // Nothing is polled that would be ready at once for ever.
    let server = succession.server.as_ref().unwrap();
    let heard = server.heard_again(Instant::now());
    assert!(heard.is_some() || server.is_heard(Instant::now()));
    succession.stop(Some(Signal::SIGKILL));
    let begin = Instant::now();
    drive(&mut succession, |one| one.outcome().is_some());
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[test]
fn h2_words_out_of_turn_change_nothing() {
    // A candidate that says it serves instead of waiting, and gives orders.
    let early = r#"echo '{"Serving":{"version":"8"}}' >&$2; echo '"Detach"' >&$2; exec sleep 1000"#;
    let script = format!("[ $N = 1 ] && {{ {early}; }}; {READY}{WAIT}{SERVING} exec sleep 1000");
    let (mut succession, _kernel) = start(&script);
    drive(&mut succession, serving);
    let first = succession.server.as_ref().unwrap().pid;
    succession.upgrade();
    drive(&mut succession, |one| {
        assert!(one.candidate.as_ref().is_none_or(|candidate| !candidate.serving));
        one.upgrade.is_none()
    });
    let server = succession.server.as_ref().unwrap();
    assert_eq!((server.pid, server.version.as_deref()), (first, Some("7")));
    succession.kill();
    drive(&mut succession, |one| one.outcome().is_some());
}

#[test]
fn h2_a_server_that_never_stops_talking_is_replaced_all_the_same() {
    let flood = r#"while echo '{"Journals":{"names":["x"]}}' >&$2; do :; done"#;
    let script = format!("{READY}{WAIT}{SERVING} [ $N = 0 ] && {{ {flood}; }}; exec sleep 1000");
    let (mut succession, _kernel) = start(&script);
    drive(&mut succession, serving);
    let first = succession.server.as_ref().unwrap().pid;
    succession.upgrade();
    drive(&mut succession, |one| one.upgrade.is_none() && serving(one));
    assert_ne!(succession.server.as_ref().unwrap().pid, first);
    assert!(*succession.program != Program::Own);
    succession.kill();
    drive(&mut succession, |one| one.outcome().is_some());
}
