//! The same with a broker: one user owns the directory, the others get what it hands out.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use cvmfs_cache::{
    Broker, BrokerOptions, BrokeredCache, DiskCache, DiskCacheOptions, Peers, Quota,
};
use cvmfs_core::cache::{ObjectCache, ObjectMeta};
use cvmfs_core::decode::{SizeBound, decode_all};
use cvmfs_core::hash::{ContentHash, HashAlgorithm};
use cvmfs_core::object::{Compression, ObjectId, ObjectKind};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket,
};
use tests::apart::become_user;

use super::{Duration, LIMIT, Signal, Worker, child, deadline, told, wait_until};

const OWNER: u32 = 1001;
const HONEST: u32 = 1002;
const HOSTILE: u32 = 1003;
const CAP: u64 = 1 << 20;
/// More than one user may have.
const FLOOD: usize = 200;

fn plain(number: usize) -> Vec<u8> {
    format!("object {number}, ").into_bytes().repeat(number % 7 + 300)
}

fn id(number: usize) -> ObjectId {
    let hash = ContentHash::of(HashAlgorithm::Sha1, &plain(number));
    ObjectId { hash, kind: ObjectKind::Data, compression: Compression::None }
}

/// Not a test: the broker.
#[test]
#[ignore = "run by other tests"]
fn broker_process() {
    let Some([directory, socket]) = told() else { return };
    become_user(OWNER, OWNER);
    let options = DiskCacheOptions { quota: Quota::Bytes(200_000), ..DiskCacheOptions::default() };
    let cache = DiskCache::open_with(directory, options).unwrap();
    let options = BrokerOptions { socket: socket.into(), peers: Peers::All };
    let broker = Broker::bind(options, cache).unwrap();
    println!("broker listens");
    broker.serve().unwrap();
}

/// Stores an object; what is handed over as its stored bytes may be something else.
fn store(cache: &dyn ObjectCache, number: usize, stored: &[u8]) -> &'static str {
    let (bytes, proof) = decode_all(id(number), &plain(number), SizeBound::AtMost(CAP)).unwrap();
    let mut transaction = cache.begin(&id(number), &ObjectMeta::default()).unwrap();
    transaction.stored(stored);
    transaction.write(&bytes).unwrap();
    let object = transaction.commit(proof).unwrap();
    if object.read_all(CAP).unwrap() == bytes { "right" } else { "wrong" }
}

fn errno<T>(result: io::Result<T>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(error) => error.raw_os_error().unwrap_or_default().to_string(),
    }
}

/// What a user without rights can do to the directory itself.
fn touch(directory: &Path) -> String {
    let at = |name: &str| directory.join(name);
    [
        errno(fs::read_dir(directory)),
        errno(fs::write(at("mine"), b"x")),
        errno(File::open(at("v2/gauge"))),
        errno(fs::write(at("v2/index.sqlite"), b"x")),
        errno(fs::remove_dir_all(at("v2/objects"))),
        errno(fs::rename(directory, directory.with_extension("away"))),
        errno(fs::set_permissions(directory, PermissionsExt::from_mode(0o777))),
    ]
    .join(" ")
}

/// What a user can do to a file that it got for reading.
fn abuse(cache: &dyn ObjectCache, number: usize) -> String {
    let object = cache.open(&id(number)).unwrap().expect("it was stored");
    let file = object.file().expect("from the broker");
    let again = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    [
        errno(file.write_at(b"x", 0)),
        errno(file.set_len(0)),
        errno(File::options().write(true).open(&again)),
        errno(File::options().append(true).open(&again)),
        errno(fs::write(&again, b"x")),
        errno(file.set_permissions(PermissionsExt::from_mode(0o666))),
        errno(file.set_modified(std::time::SystemTime::UNIX_EPOCH)),
        errno(fs::hard_link(&again, "/tmp/cvmfs-test-never-made")),
    ]
    .join(" ")
}

fn nonsense(path: &str) {
    let address = UnixAddr::new(path).unwrap();
    for bytes in [&b"{"[..], b"{\"Open\":{\"name\":\"../../x\"}}", &[0xff; 10_000], b"null"] {
        let flags = SockFlag::SOCK_CLOEXEC;
        let raw = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        connect(raw.as_raw_fd(), &address).unwrap();
        // It may have had enough already.
        let _ = send(raw.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL);
    }
}

/// Not a test: a client, which does what it is told line by line.
#[test]
#[ignore = "run by other tests"]
fn client_process() {
    let Some([uid, directory, path]) = told() else { return };
    let uid = uid.parse().unwrap();
    become_user(uid, uid);
    let cache = BrokeredCache::connect(&path, Some(OWNER)).unwrap();
    println!("answer: connected");
    let (mut pins, mut flood) = (Vec::new(), Vec::new());
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (verb, text) = line.split_once(' ').unwrap_or((&line, "0"));
        let number = || text.parse().unwrap();
        let answer = match verb {
            "touch" => touch(Path::new(&directory)),
            "store" => store(&cache, number(), &plain(number())).to_owned(),
            "forge" => store(&cache, number(), b"something else").to_owned(),
            "open" => match cache.open(&id(number())).unwrap() {
                None => "absent".to_owned(),
                Some(object) if object.read_all(CAP).unwrap() != plain(number()) => {
                    "wrong".to_owned()
                }
                Some(object) if object.file().is_some() => "right, from the broker".to_owned(),
                Some(_) => "right, from memory".to_owned(),
            },
            "abuse" => abuse(&cache, number()),
            "discard" => errno(cache.discard(&id(number())).map_err(io::Error::other)),
            "pin-all" => {
                pins.extend((0..5000).map(|number| cache.pin(&id(number))));
                "pinned".to_owned()
            }
            "flood" => {
                let many =
                    (0..FLOOD).map_while(|_| BrokeredCache::connect(&path, Some(OWNER)).ok());
                flood.extend(many);
                flood.len().to_string()
            }
            "nonsense" => {
                nonsense(&path);
                "said".to_owned()
            }
            "records" => {
                let written = (0..300).filter(|number| {
                    let name = format!("flood{number}.manifest");
                    cache.update_record(&name, &mut |_| Some(vec![1; 1000])).is_ok()
                });
                written.count().to_string()
            }
            "write" => {
                let bytes = text.as_bytes().to_vec();
                let wrote = cache.update_record("r.manifest", &mut |_| Some(bytes.clone()));
                errno(wrote.map_err(io::Error::other))
            }
            "read" => {
                let read = cache.load_record("r.manifest").unwrap();
                read.map_or("none".to_owned(), |bytes| String::from_utf8(bytes).unwrap())
            }
            other => panic!("{other:?} is not known"),
        };
        println!("answer: {answer}");
    }
}

fn ask(client: &mut Worker, question: &str) -> String {
    client.say(question);
    client.hear("answer:")
}

struct Scene {
    _scratch: tempfile::TempDir,
    directory: PathBuf,
    socket: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let base = scratch.path();
        fs::set_permissions(base, PermissionsExt::from_mode(0o711)).unwrap();
        let (directory, run) = (base.join("cache"), base.join("run"));
        for (path, mode) in [(&directory, 0o700), (&run, 0o755)] {
            fs::create_dir(path).unwrap();
            fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
            chown(path, Some(OWNER), Some(OWNER)).unwrap();
        }
        Self { directory, socket: run.join("s"), _scratch: scratch }
    }

    fn broker(&self) -> Worker {
        let paths = [&self.directory, &self.socket].map(|path| path.to_str().unwrap());
        let mut broker = child("broker::broker_process", &paths);
        broker.hear("broker listens");
        broker
    }

    fn client(&self, uid: u32) -> Worker {
        let paths = [&self.directory, &self.socket].map(|path| path.to_str().unwrap());
        let mut client = child("broker::client_process", &[&uid.to_string(), paths[0], paths[1]]);
        assert_eq!(client.hear("answer:"), "connected");
        client
    }
}

#[test]
fn clients_of_a_broker_cannot_touch_its_files_or_forge() {
    deadline(LIMIT, || {
        let scene = Scene::new();
        let _broker = scene.broker();
        let (mut honest, mut hostile) = (scene.client(HONEST), scene.client(HOSTILE));
        // 13 EACCES, 1 EPERM.
        let refused = ask(&mut hostile, "touch");
        assert!(refused.split(' ').all(|errno| matches!(errno, "13" | "1")), "{refused}");

        assert_eq!(ask(&mut honest, "store 1"), "right");
        assert_eq!(ask(&mut honest, "open 1"), "right, from the broker");
        assert_eq!(ask(&mut hostile, "open 1"), "right, from the broker");
        // 9 EBADF, 22 EINVAL: not open for writing.
        let refused = ask(&mut hostile, "abuse 1");
        let words: Vec<_> = refused.split(' ').collect();
        assert_eq!(words[..5], ["9", "22", "13", "13", "13"], "{refused}");
        assert!(words[5..].iter().all(|errno| *errno != "done"), "{refused}");

        // Forged bodies are the forger's own business.
        assert_eq!(ask(&mut hostile, "forge 2"), "right");
        assert_eq!(ask(&mut hostile, "open 2"), "right, from memory");
        assert_eq!(ask(&mut honest, "open 2"), "absent");
        assert_eq!(ask(&mut honest, "store 2"), "right");
        assert_eq!(ask(&mut honest, "open 2"), "right, from the broker");
        // Slander is looked at, and not believed.
        ask(&mut hostile, "discard 1");
        assert_eq!(ask(&mut honest, "open 1"), "right, from the broker");
    });
}

#[test]
fn users_of_a_broker_do_not_disturb_each_other() {
    deadline(LIMIT, || {
        let scene = Scene::new();
        let _broker = scene.broker();
        let (mut honest, mut hostile) = (scene.client(HONEST), scene.client(HOSTILE));
        assert_eq!(ask(&mut honest, "write honest"), "done");
        assert_eq!(ask(&mut hostile, "read"), "none");
        assert_eq!(ask(&mut hostile, "write hostile"), "done");
        assert_eq!(ask(&mut honest, "read"), "honest");
        assert_eq!(ask(&mut hostile, "records"), "127", "256 files: each has a lock");
        assert_eq!(ask(&mut honest, "write more"), "done");
        assert_eq!(ask(&mut honest, "read"), "more");

        assert_eq!(ask(&mut hostile, "nonsense"), "said");
        let flood: usize = ask(&mut hostile, "flood").parse().unwrap();
        assert!((1..FLOOD).contains(&flood), "{flood} connections of one user");
        assert_eq!(ask(&mut hostile, "pin-all"), "pinned");
        let mut late = scene.client(HONEST);
        for (client, first) in [(&mut honest, 100), (&mut late, 200)] {
            // More than fits: what is pinned holds back a half at most.
            for number in first..first + 60 {
                assert_eq!(ask(client, &format!("store {number}")), "right");
            }
            let kept = format!("open {}", first + 59);
            assert_eq!(ask(client, &kept), "right, from the broker");
        }
    });
}

#[test]
fn clients_outlive_their_broker_and_find_the_next() {
    deadline(LIMIT, || {
        let scene = Scene::new();
        let broker = scene.broker();
        let mut clients = [scene.client(HONEST), scene.client(HOSTILE)];
        assert_eq!(ask(&mut clients[0], "store 1"), "right");
        broker.signal(Signal::SIGKILL);
        drop(broker);
        for (number, client) in [10, 11].into_iter().zip(&mut clients) {
            assert_eq!(ask(client, &format!("store {number}")), "right");
            assert_eq!(ask(client, &format!("open {number}")), "right, from memory");
            assert_eq!(ask(client, "open 1"), "absent");
        }
        let _next = scene.broker();
        for client in &mut clients {
            wait_until(Duration::from_secs(20), "object from the broker", || {
                ask(client, "open 1") == "right, from the broker"
            })
            .unwrap();
        }
        assert_eq!(ask(&mut clients[0], "store 20"), "right");
        assert_eq!(ask(&mut clients[1], "open 20"), "right, from the broker");
    });
}
