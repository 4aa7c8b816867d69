use super::*;
use crate::daemon::letters::MAX_LEN;
use crate::fuse::device::Device;
use crate::fuse::handover::Greeting;

fn file(text: &str) -> OwnedFd {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let file = rustix::fs::memfd_create("test", flags).unwrap();
    rustix::io::write(&file, text.as_bytes()).unwrap();
    file
}

fn text(file: BorrowedFd<'_>) -> String {
    let mut bytes = [0; 64];
    let len = rustix::io::pread(file, &mut bytes[..], 0).unwrap();
    String::from_utf8(bytes[..len].to_vec()).unwrap()
}

fn mount() -> Mount {
    let (greeting, device) = (Greeting::example(), Some(Device::of_connection(5)));
    Mount { connection: file("connection"), greeting, mountpoint: "/m".into(), device }
}

/// Takes all that was said; returns how much of it made no sense.
fn listen(holdings: &mut Holdings, line: &Line) -> usize {
    let mut wrong = 0;
    loop {
        match line.hear().unwrap() {
            Received::Word(word, file) => {
                wrong += usize::from(holdings.take(word, file, Trust::Supervisor).is_err());
            }
            Received::Nonsense | Received::Hostile => wrong += 1,
            Received::Nothing | Received::End => return wrong,
        }
    }
}

#[test]
fn a_successor_gets_what_was_left_last() {
    let (supervisor, server) = Line::pair().unwrap();
    let bequest = Bequest::to(server).unwrap();
    bequest.journal("a.b.c", file("old").as_fd());
    bequest.mounted(&mount());
    bequest.journal("gone", file("gone").as_fd());
    let mut holdings = Holdings::default();
    assert_eq!(listen(&mut holdings, &supervisor), 0);
    let (ours, theirs) = Line::pair().unwrap();
    holdings.send(&ours).unwrap();
    let candidate = Candidate::receive(theirs).unwrap();
    assert_eq!(text(candidate.journal("a.b.c").unwrap()), "old");
    // It is told what comes later, and of what a dead server said last.
    bequest.journal("d.e.f", file("other").as_fd());
    bequest.closed("gone");
    bequest.journal("a.b.c", file("new").as_fd());
    drop(bequest);
    while let Received::Word(word, files) = supervisor.hear().unwrap() {
        let files: Vec<_> = files.iter().map(OwnedFd::as_fd).collect();
        ours.say(&word, &files).unwrap();
    }
    ours.say(&Word::Complete, &[]).unwrap();
    let (estate, _) = candidate.succeed().unwrap();
    assert!(matches!(ours.hear().unwrap(), Received::Word(Word::Ready { .. }, _)));
    assert_eq!(text(estate.mount.connection.as_fd()), "connection");
    let journals = estate.journals.iter();
    let journals: Vec<_> = journals.map(|(name, f)| (name.as_str(), text(f.as_fd()))).collect();
    assert_eq!(journals, [("a.b.c", "new".to_owned()), ("d.e.f", "other".to_owned())]);
}

#[test]
fn nonsense_and_floods_change_nothing() {
    let (supervisor, server) = Line::pair().unwrap();
    let mut holdings = Holdings::default();
    for letter in [&b"nonsense"[..], b"{\"Journals\":{}}", &[b'x'; MAX_LEN + 1]] {
        rustix::net::send(&server, letter, rustix::net::SendFlags::NOSIGNAL).unwrap();
    }
    let server = Line::patient(server).unwrap();
    let name = |text: &str| Word::Journals { names: vec![text.to_owned()] };
    server.say(&name("without"), &[]).unwrap();
    server.say(&name(&"n".repeat(MAX_NAME_LEN + 1)), &[file("").as_fd()]).unwrap();
    server.say(&Word::Complete, &[]).unwrap();
    assert_eq!(listen(&mut holdings, &supervisor), 6);
    for number in 0..MAX_JOURNALS + 2 {
        server.say(&name(&number.to_string()), &[file("x").as_fd()]).unwrap();
        assert_eq!(listen(&mut holdings, &supervisor), usize::from(number >= MAX_JOURNALS));
    }
    server.say(&name("7"), &[file("replaced").as_fd()]).unwrap();
    assert_eq!(listen(&mut holdings, &supervisor), 0);
    assert_eq!((holdings.journals.len(), holdings.mount.is_none()), (MAX_JOURNALS, true));
    assert_eq!(text(holdings.journals["7"].as_fd()), "replaced");
    // As many as there may be arrive before anybody reads.
    let (ours, theirs) = Line::pair().unwrap();
    holdings.mount = Some(mount());
    holdings.send(&ours).unwrap();
    let candidate = Candidate::receive(theirs).unwrap();
    assert_eq!(candidate.holdings.journals.len(), MAX_JOURNALS);
}

#[test]
fn an_estate_without_a_mount_or_an_end_is_none() {
    let (ours, theirs) = Line::pair().unwrap();
    let holdings = Holdings { mount: Some(mount()), ..Holdings::default() };
    holdings.send(&ours).unwrap();
    let candidate = Candidate::receive(theirs).unwrap();
    drop(ours);
    assert!(candidate.succeed().is_err());
    let (ours, theirs) = Line::pair().unwrap();
    Holdings::default().send(&ours).unwrap();
    ours.say(&Word::Complete, &[]).unwrap();
    assert!(Candidate::receive(theirs).unwrap().succeed().is_err());
}

/// Says something of a memory file, as a server or a depositor.
fn take(holdings: &mut Holdings, text: &str, count: usize, trust: Trust<'_>) -> Option<Change> {
    let word = crate::daemon::letters::decode(text.as_bytes())?;
    let descriptors = (0..count).map(|_| file("x")).collect();
    holdings.take(word, descriptors, trust).ok()
}

#[test]
fn h2_a_server_says_only_what_is_its_to_say() {
    let own = OwnMount::at("/m".as_ref());
    let trust = Trust::Supervised(&own, Teller::Server);
    let mut holdings = Holdings::default();
    let greeting = serde_json::to_string(&Greeting::example()).unwrap();
    let mounted = |device: &str| {
        format!(r#"{{"Mounted":{{"greeting":{greeting},"mountpoint":"/m","device":{device}}}}}"#)
    };
    for (text, count) in [
        // Memory is no connection to the kernel, and a path is no device.
        (&*mounted("\"0:5\""), 1),
        (&*mounted("null"), 1),
        (&*mounted("\"0:../../x\""), 1),
        (&*mounted("\"0:5\""), 0),
        (&*mounted("\"0:5\""), 2),
        ("\"Died\"", 0),
        ("\"Present\"", 0),
        ("\"Complete\"", 0),
        ("\"Released\"", 0),
        ("\"Own\"", 0),
        (r#"{"Refused":{"reason":"x"}}"#, 0),
        (r#"{"Deposit":{"name":"x","mountpoint":"/m","claim":true}}"#, 0),
        (r#"{"Closed":{"name":"a"}}"#, 1),
        (r#"{"Journals":{"names":["a","b"]}}"#, 1),
        (r#"{"Journals":{"names":["a\n\u001b[31m"]}}"#, 1),
        (r#"{"Journals":{"names":["a",""]}}"#, 2),
    ] {
        assert_eq!(take(&mut holdings, text, count, trust), None, "{text}");
        assert!(holdings.mount.is_none() && holdings.journals.is_empty() && !holdings.died);
    }
    let long = file("");
    rustix::fs::ftruncate(&long, MAX_JOURNAL_LEN + 1).unwrap();
    let (reader, _writer) = io::pipe().unwrap();
    for strange in [long, reader.into(), std::fs::File::open("/etc/passwd").unwrap().into()] {
        let word = Word::Journals { names: vec!["a".to_owned()] };
        assert!(matches!(holdings.take(word, vec![strange], trust), Err(Wrong::Journal)));
    }
    let journals = r#"{"Journals":{"names":["a"]}}"#;
    let came = Some(Change::Journals(vec!["a".to_owned()]));
    assert_eq!(take(&mut holdings, journals, 1, trust), came);
}

#[test]
fn h2_a_depositor_has_its_share_of_journals() {
    let mut holdings = Holdings::default();
    let trust = Trust::Depositor { journals_left: 1 };
    for (name, fits) in [("a", true), ("a", true)] {
        let text = format!(r#"{{"Journals":{{"names":["{name}"]}}}}"#);
        assert_eq!(take(&mut holdings, &text, 1, trust).is_some(), fits);
    }
    let none = Trust::Depositor { journals_left: 0 };
    assert_eq!(take(&mut holdings, r#"{"Journals":{"names":["b"]}}"#, 1, none), None);
    assert_eq!(take(&mut holdings, r#"{"Journals":{"names":["b","c"]}}"#, 2, trust), None);
    assert_eq!(holdings.journals.len(), 1);
}

#[test]
fn h2_what_a_server_sends_is_received_without_waiting_for_anybody() {
    let (supervisor, server) = Line::pair().unwrap();
    let server = Line::patient(server).unwrap();
    let (reader, _writer) = io::pipe().unwrap();
    let word = Word::Journals { names: vec!["a".to_owned()] };
    server.say(&word, &[reader.as_fd()]).unwrap();
    assert!(matches!(supervisor.hear().unwrap(), Received::Hostile));
    let escapes = "\u{1b}]0;x\u{7}".repeat(100);
    server.say(&Word::Serving { version: escapes }, &[]).unwrap();
    let Received::Word(Word::Serving { version }, _) = supervisor.hear().unwrap() else { panic!() };
    assert!(version.len() < 512 && version.chars().all(|c| !c.is_control()), "{version}");
}
