//! Clients that lie, sleep or crowd, and a broker that goes away; what an honest pair does is in
//! `tests/contract`.

use super::wire::{Connection, PROTOCOL, Parcel, Reply, Request};
use super::*;
use crate::disk::{DiskCache, DiskCacheOptions};
use crate::layout::object_name;
use crate::quota::Quota;
use cvmfs_core::cache::{CachedObject, Condition, ObjectCache, ObjectMeta, Pin};
use cvmfs_core::decode::{SizeBound, decode_all};
use cvmfs_core::hash::{ContentHash, HashAlgorithm};
use cvmfs_core::object::{Compression, ObjectId, ObjectKind};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No answer takes longer.
const LIMIT: Duration = Duration::from_secs(10);

struct Running {
    socket: PathBuf,
    stop: Box<dyn Fn()>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(directory: &Path, quota: Quota) -> Self {
        let options = DiskCacheOptions { quota, ..DiskCacheOptions::default() };
        let cache = DiskCache::open_with(directory.join("cache"), options).unwrap();
        let socket = directory.join("socket");
        let options = BrokerOptions { socket: socket.clone(), peers: Peers::All };
        let broker = Broker::bind(options, cache).unwrap();
        let stop = Box::new(broker.stopper());
        let thread = std::thread::spawn(move || broker.serve().unwrap());
        Self { socket, stop, thread: Some(thread) }
    }

    fn client(&self) -> BrokeredCache {
        BrokeredCache::connect(&self.socket, None).unwrap()
    }

    /// A client of the tests' own, which has said hello.
    fn raw(&self) -> Connection {
        let connection = Connection::open(&self.socket, LIMIT).unwrap();
        let hello = Request::Hello { protocol: PROTOCOL };
        assert_eq!(ask(&connection, &hello, None).0, Reply::Done);
        connection
    }

    fn stop(mut self) -> Duration {
        let start = Instant::now();
        (self.stop)();
        self.thread.take().unwrap().join().unwrap();
        start.elapsed()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        (self.stop)();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn ask(
    connection: &Connection,
    request: &Request,
    attached: Option<&OwnedFd>,
) -> (Reply, Option<OwnedFd>) {
    connection.send(request, attached.map(|descriptor| descriptor.as_fd())).unwrap();
    connection.receive().unwrap().unwrap()
}

fn plain_id(bytes: &[u8]) -> ObjectId {
    let hash = ContentHash::of(HashAlgorithm::Sha1, bytes);
    ObjectId { hash, kind: ObjectKind::Data, compression: Compression::None }
}

fn put(cache: &dyn ObjectCache, bytes: &[u8]) -> (ObjectId, CachedObject) {
    let id = plain_id(bytes);
    let (plain, proof) = decode_all(id, bytes, SizeBound::AtMost(1 << 20)).unwrap();
    let mut transaction = cache.begin(&id, &ObjectMeta::default()).unwrap();
    transaction.stored(bytes);
    transaction.write(&plain).unwrap();
    (id, transaction.commit(proof).unwrap())
}

fn get(cache: &dyn ObjectCache, id: &ObjectId) -> Option<Vec<u8>> {
    cache.open(id).unwrap().map(|object| object.read_all(1 << 20).unwrap().to_vec())
}

fn store_of(id: &ObjectId) -> Request {
    Request::Store {
        name: object_name(id),
        size: None,
        cap: 1 << 20,
        label: String::new(),
        volatile: false,
    }
}

fn sealed(bytes: &[u8]) -> OwnedFd {
    let mut parcel = Parcel::new().unwrap();
    parcel.write(bytes).unwrap();
    parcel.seal().unwrap()
}

/// In memory it would have another limit.
fn is_connected(client: &BrokeredCache) -> bool {
    client.usage().limit != 128 << 20
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "not in time: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn only_the_right_bytes_of_an_object_are_taken() {
    let scratch = tempfile::tempdir().unwrap();
    let broker = Running::start(scratch.path(), Quota::Auto);
    let raw = broker.raw();
    let id = plain_id(b"the right bytes");
    let name = object_name(&id);
    let refused = |request: &Request, attached: Option<&OwnedFd>| {
        let answer = ask(&raw, request, attached);
        assert!(matches!(answer, (Reply::Refused { .. }, None)), "{request:?}: {answer:?}");
    };
    let store = store_of(&id);
    refused(&store, Some(&sealed(b"the wrong bytes")));
    refused(&store, Some(&sealed(b"")));
    refused(&store, None);
    // Of a size that somebody else would be told.
    let sized = |size| {
        let (name, label) = (name.clone(), String::new());
        Request::Store { name, size, cap: 1 << 20, label, volatile: false }
    };
    refused(&sized(Some(14)), Some(&sealed(b"the right bytes")));
    refused(&sized(Some(16)), Some(&sealed(b"the right bytes")));

    // What the client could change while, or after, it is looked at.
    let file = std::fs::File::from(
        rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap(),
    );
    (&file).write_all(b"the right bytes").unwrap();
    refused(&store, Some(&file.into()));
    let path = scratch.path().join("plain file");
    std::fs::write(&path, b"the right bytes").unwrap();
    refused(&store, Some(&std::fs::File::open(&path).unwrap().into()));
    let (reader, _writer) = std::io::pipe().unwrap();
    refused(&store, Some(&reader.into()));

    for bad in ["", "ab", "../../etc/passwd", "ab/../../x", "ab/cdef", &format!("{name}C"), "/"] {
        refused(&Request::Open { name: bad.to_owned() }, None);
        refused(&Request::Pin { name: bad.to_owned() }, None);
        refused(&Request::LoadRecord { name: format!("../{bad}") }, None);
    }
    refused(&Request::Hello { protocol: PROTOCOL + 1 }, None);

    let open = Request::Open { name };
    assert_eq!(ask(&raw, &open, None).0, Reply::Absent, "nothing of all that was kept");
    let (reply, descriptor) = ask(&raw, &store, Some(&sealed(b"the right bytes")));
    assert_eq!(reply, Reply::Object { size: 15 });
    assert!(descriptor.is_some());
    assert_eq!(get(&broker.client(), &id).as_deref(), Some(&b"the right bytes"[..]));
}

#[test]
fn descriptors_can_only_be_read() {
    let scratch = tempfile::tempdir().unwrap();
    let broker = Running::start(scratch.path(), Quota::Auto);
    let client = broker.client();
    let (id, stored) = put(&client, b"for reading");
    let opened = client.open(&id).unwrap().unwrap();
    for object in [&stored, &opened] {
        let file = object.file().unwrap();
        assert_eq!(file.write_all_at(b"X", 0).unwrap_err().raw_os_error(), Some(9), "EBADF");
        assert!(file.set_len(0).is_err());
        // Opened again by way of /proc, the mode decides, which the broker's user owns.
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o222, 0);
    }
    assert_eq!(get(&client, &id).as_deref(), Some(&b"for reading"[..]));

    // A record is a copy: sealed.
    client.update_record("record", &mut |_| Some(b"text".to_vec())).unwrap();
    let name = "record".to_owned();
    let (reply, descriptor) = ask(&broker.raw(), &Request::LoadRecord { name }, None);
    assert_eq!(reply, Reply::Record);
    let mut file = std::fs::File::from(descriptor.unwrap());
    assert!(file.write_all_at(b"X", 0).is_err());
    assert!(file.set_len(0).is_err());
    std::io::Seek::rewind(&mut file).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "text");
}

#[test]
fn damage_is_looked_at_and_not_believed() {
    let scratch = tempfile::tempdir().unwrap();
    let broker = Running::start(scratch.path(), Quota::Auto);
    let (client, other) = (broker.client(), broker.client());
    let (id, object) = put(&client, b"said to be damaged");
    client.discard(&id).unwrap();
    assert_eq!(get(&other, &id).as_deref(), Some(&b"said to be damaged"[..]));
    let examined = |client: &BrokeredCache| client.examine(&id, Instant::now() + LIMIT).unwrap();
    assert_eq!(examined(&client), Condition::Sound);

    let path = scratch.path().join("cache/v2/objects").join(object_name(&id));
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"X", 0).unwrap();
    crate::seal::seal(&file, object.len()).unwrap();
    assert_eq!(examined(&client), Condition::Damaged);
    assert_eq!(get(&other, &id), None);
    assert_eq!(examined(&client), Condition::Absent);
}

#[test]
fn nonsense_and_silence_cost_only_those_who_send_it() {
    let scratch = tempfile::tempdir().unwrap();
    let broker = Running::start(scratch.path(), Quota::Auto);
    let client = broker.client();
    let silent: Vec<_> =
        (0..20).map(|_| Connection::open(&broker.socket, LIMIT).unwrap()).collect();
    let deep = "[".repeat(10_000);
    let long = vec![b'x'; 100_000];
    for garbage in [
        &b"\0"[..],
        b"{}",
        b"null",
        b"\xff\xfe\xfd",
        b"{\"Open\":{\"name\":7}}",
        b"{\"Hello\":{\"protocol\":1}}{\"Hello\":{\"protocol\":1}}",
        deep.as_bytes(),
        &long,
    ] {
        let raw = broker.raw();
        rustix::net::send(raw.socket(), garbage, rustix::net::SendFlags::NOSIGNAL).unwrap();
        assert!(!matches!(raw.receive::<Reply>(), Ok(Some(_))), "it is hung up on");
    }
    // One that asks and never listens.
    let deaf = broker.raw();
    let mut asked = 0;
    let impatient = Duration::from_millis(100);
    rustix::net::sockopt::set_socket_timeout(
        deaf.socket(),
        rustix::net::sockopt::Timeout::Send,
        Some(impatient),
    )
    .unwrap();
    while asked < 100_000 && deaf.send(&Request::Usage, None).is_ok() {
        asked += 1;
    }
    assert!(asked < 100_000, "somebody buffers without a limit");
    let start = Instant::now();
    let (id, _) = put(&client, b"served meanwhile");
    assert_eq!(get(&client, &id).as_deref(), Some(&b"served meanwhile"[..]));
    assert!(is_connected(&client));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());

    drop(deaf);
    // The silent ones are not thrown out: a mount at rest is silent too.
    let hello = Request::Hello { protocol: PROTOCOL };
    for connection in &silent {
        assert_eq!(ask(connection, &hello, None).0, Reply::Done);
    }
    assert!(broker.stop() < Duration::from_secs(1), "nor do they hold up the end");
}

#[test]
fn one_user_cannot_take_all_places() {
    let scratch = tempfile::tempdir().unwrap();
    let broker = Running::start(scratch.path(), Quota::Auto);
    let mut held: Vec<_> = (0..128).map(|_| broker.raw()).collect();
    let hello = Request::Hello { protocol: PROTOCOL };
    let admitted = || {
        let Ok(connection) = Connection::open(&broker.socket, LIMIT) else { return false };
        // Hung up on before or after it has spoken.
        connection.send(&hello, None).is_ok()
            && matches!(connection.receive::<Reply>(), Ok(Some((Reply::Done, _))))
    };
    assert!(!admitted());
    assert!(!admitted());
    assert_eq!(
        ask(&held[0], &Request::Open { name: object_name(&plain_id(b"x")) }, None).0,
        Reply::Absent
    );
    held.pop();
    until("the place is free again", admitted);
}

#[test]
fn pins_hold_as_long_as_their_connection() {
    let scratch = tempfile::tempdir().unwrap();
    let broker = Running::start(scratch.path(), Quota::Bytes(10_000));
    let (client, other) = (broker.client(), broker.client());
    let (id, _) = put(&client, &[1; 1000]);
    let pin = other.pin(&id);
    crowd_out(&client, 0);
    assert!(get(&client, &id).is_some(), "pinned");
    drop(pin);
    crowd_out(&client, 100);
    assert!(get(&client, &id).is_none(), "the pin is gone");
}

/// Stores so much that whatever is not pinned goes.
fn crowd_out(client: &BrokeredCache, from: u8) {
    for n in from..from + 25 {
        // The least recently used go, and the index knows milliseconds.
        let before = crate::store::now();
        until("the clock goes on", || crate::store::now() > before);
        put(client, &[n, 7].repeat(500));
        until("room is made", || client.usage().used <= 9_500);
    }
}

#[test]
fn a_client_without_its_broker_goes_on_from_memory_and_comes_back() {
    let scratch = tempfile::tempdir().unwrap();
    let broker = Running::start(scratch.path(), Quota::Bytes(10_000));
    let client = broker.client();
    let (old, held) = put(&client, b"stored by the broker");
    let pin = client.pin(&old);
    broker.stop();

    assert!(!is_connected(&client));
    assert_eq!(&held.read_all(100).unwrap()[..], b"stored by the broker", "what is open stays");
    let (new, object) = put(&client, b"stored without it");
    assert_eq!(&object.read_all(100).unwrap()[..], b"stored without it");
    assert_eq!(get(&client, &new).as_deref(), Some(&b"stored without it"[..]));
    assert_eq!(get(&client, &old), None, "to be fetched again");
    assert!(client.update_record("r", &mut |_| Some(Vec::new())).is_err());

    let broker = Running::start(scratch.path(), Quota::Bytes(10_000));
    let start = Instant::now();
    until("the client is back", || get(&client, &old).is_some());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(get(&client, &new).as_deref(), Some(&b"stored without it"[..]), "still in memory");
    let (next, _) = put(&client, b"stored again");
    assert!(get(&broker.client(), &next).is_some());
    crowd_out(&broker.client(), 0);
    assert!(get(&client, &old).is_some(), "pinned at the new broker too");
    drop(pin);
    crowd_out(&broker.client(), 100);
    assert!(get(&client, &old).is_none());
}

#[test]
fn a_broker_restarted_unnoticed_gets_the_pins_again() {
    // Whatever the client does first finds out.
    let first: [fn(&BrokeredCache, ObjectId) -> Pin; 2] = [
        |client, id| {
            assert!(get(client, &id).is_some());
            Pin::none()
        },
        |client, id| client.pin(&id),
    ];
    for notice in first {
        let scratch = tempfile::tempdir().unwrap();
        let broker = Running::start(scratch.path(), Quota::Bytes(10_000));
        let client = broker.client();
        let (id, _) = put(&client, &[1; 1000]);
        let (more, _) = put(&client, &[2; 1000]);
        let pin = client.pin(&id);
        broker.stop();
        let broker = Running::start(scratch.path(), Quota::Bytes(10_000));
        let second = notice(&client, more);
        crowd_out(&broker.client(), 10);
        assert!(get(&client, &id).is_some(), "pinned");
        assert_eq!(get(&client, &more).is_some(), second.is_some());
        drop((pin, second));
        crowd_out(&broker.client(), 100);
        assert!(get(&client, &id).is_none() && get(&client, &more).is_none());
    }
}

#[test]
fn m1_deep_messages_are_refused_in_a_small_stack() {
    let run = || {
        for inner in ["[", "{\"Hello\":", "{\"Hello\":{\"x\":"] {
            let deep = inner.repeat(2000);
            assert!(serde_json::from_str::<Request>(&deep).is_err());
            assert!(serde_json::from_str::<Reply>(&deep).is_err());
        }
    };
    let small = std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap();
    small.join().unwrap();
}

/// Does something as another user; sockets tell the numbers of the thread that connects.
fn as_user<T: Send>(uid: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: changes the effective user of this thread only, and touches no memory.
            let done = unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, -1, uid, -1) };
            assert_eq!(done, 0, "needs root");
            work()
        });
        thread.join().unwrap()
    })
}

#[test]
fn low_four_users_do_not_keep_root_and_others_from_a_broker() {
    let scratch = tempfile::tempdir().unwrap();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(scratch.path(), open).unwrap();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let broker = Running::start(scratch.path(), Quota::Auto);
    let socket = &broker.socket;
    let hello = Request::Hello { protocol: PROTOCOL };
    let connect = || {
        let connection = Connection::open(socket, LIMIT).ok()?;
        connection.send(&hello, None).ok()?;
        matches!(connection.receive::<Reply>(), Ok(Some((Reply::Done, _)))).then_some(connection)
    };
    let crowd: Vec<_> = (3001..=3004)
        .flat_map(|uid| as_user(uid, || (0..128).map(|_| connect()).collect::<Vec<_>>()))
        .collect();
    let root = as_user(0, connect);
    assert!(root.is_some(), "root finds a seat");
    let fifth = as_user(3005, connect);
    assert!(fifth.is_some(), "so does one more user");
    drop(crowd);
}
