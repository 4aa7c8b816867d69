//! [`Broker`]: the one process that writes to a cache that many use.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cvmfs_core::cache::{CacheError, CachedObject, Condition, ObjectCache as _, ObjectMeta, Pin};
use cvmfs_core::decode::{BodyDecoder, DecodeError, SizeBound};
use cvmfs_core::object::ObjectId;
use rustix::net::SocketFlags;

use super::listener::listen_alone;
use super::peer::peer_of;
use super::seats::{Seat, Seats};
use super::wire::{Connection, MAX_BODY_LEN, MAX_RECORD_LEN, PROTOCOL, Parcel, Reply, Request};
use crate::disk::DiskCache;
use crate::layout::{RECORDS, parse_object_name};

/// Catalogs that one connection may pin: more than a mount ever has open.
const MAX_PINS: usize = 4096;
/// Records of one user: two or three for each repository.
const MAX_RECORDS_OF_USER: usize = 256;
/// How long a peer may take to take its reply; also how often a silent one is looked at.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an object may be looked at, as long as its client waits.
const LOOK_LIMIT: Duration = Duration::from_secs(30);
/// Pause between two looks whether to stop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);
/// Body read at a time.
const PIECE_LEN: usize = 256 * 1024;
/// Most that an object may be when plain.
const MAX_PLAIN_LEN: u64 = 4 << 30;

/// Who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// Every user of the machine.
    All,
    /// These users and the members of these groups (by their primary group), root, and the
    /// broker's own user.
    Listed {
        /// User ids.
        users: Vec<u32>,
        /// Group ids.
        groups: Vec<u32>,
    },
}

impl Peers {
    /// Whether this user may.
    pub fn allow(&self, uid: u32, gid: u32) -> bool {
        match self {
            Self::All => true,
            Self::Listed { users, groups } => {
                uid == 0
                    || uid == crate::sharing::our_user()
                    || users.contains(&uid)
                    || groups.contains(&gid)
            }
        }
    }
}

/// What a broker is told.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// Where it listens.
    pub socket: PathBuf,
    /// Who may connect.
    pub peers: Peers,
}

/// A listening broker.
#[derive(Debug)]
pub struct Broker {
    listener: OwnedFd,
    socket: PathBuf,
    /// Held as long as the broker lives: two would take each other's socket away.
    _lock: File,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cache: DiskCache,
    peers: Peers,
    stop: AtomicBool,
    seats: Arc<Seats>,
}

impl Broker {
    /// Begins to listen. A socket that a dead broker left is taken over.
    pub fn bind(options: BrokerOptions, cache: DiskCache) -> Result<Self, CacheError> {
        let BrokerOptions { socket: path, peers } = options;
        let (listener, lock) = listen_alone(&path)?;
        let seats = Arc::new(Seats::new(crate::sharing::our_user()));
        let shared = Shared { cache, peers, stop: AtomicBool::new(false), seats };
        Ok(Self { listener, socket: path, _lock: lock, shared: Arc::new(shared) })
    }

    /// Returns a switch that ends [`Broker::serve`] within a second.
    pub fn stopper(&self) -> impl Fn() + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.stop.store(true, Ordering::Relaxed)
    }

    /// Serves clients until it is stopped.
    pub fn serve(self) -> io::Result<()> {
        let mut threads: Vec<(JoinHandle<()>, Weak<Connection>)> = Vec::new();
        while !self.shared.stop.load(Ordering::Relaxed) {
            threads.retain(|(thread, _)| !thread.is_finished());
            let ready = {
                let mut polled =
                    [rustix::event::PollFd::new(&self.listener, rustix::event::PollFlags::IN)];
                let pause = rustix::event::Timespec::try_from(ACCEPT_PAUSE).ok();
                rustix::event::poll(&mut polled, pause.as_ref())
            };
            match ready {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            let Ok(peer) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) else {
                // Gone again, or no descriptors left: those who are there go on.
                #[expect(clippy::disallowed_methods, reason = "must not turn at full speed")]
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            match self.admit(peer) {
                Ok(thread) => threads.push(thread),
                Err(error) => tracing::debug!(%error, "client turned away"),
            }
        }
        let _ = std::fs::remove_file(&self.socket);
        // They look at the same switch, and need not wait for a request that may never come.
        for connection in threads.iter().filter_map(|(_, connection)| connection.upgrade()) {
            let _ = rustix::net::shutdown(connection.socket(), rustix::net::Shutdown::Read);
        }
        for (thread, _) in threads {
            let _ = thread.join();
        }
        Ok(())
    }

    fn admit(&self, peer: OwnedFd) -> io::Result<(JoinHandle<()>, Weak<Connection>)> {
        let refused =
            |reason: &str| io::Error::new(io::ErrorKind::PermissionDenied, reason.to_owned());
        let (uid, gid) = peer_of(&peer)?;
        if !self.shared.peers.allow(uid, gid) {
            tracing::warn!(uid, gid, "this user may not use the cache");
            return Err(refused("user not allowed"));
        }
        let connection = Arc::new(Connection::new(peer, PATIENCE)?);
        let seat = self.shared.seats.take(uid, &connection);
        let seat = seat.ok_or_else(|| refused("too many connections"))?;
        let shared = Arc::clone(&self.shared);
        // Weak, so that the end of the thread hangs up.
        let held = Arc::downgrade(&connection);
        let thread = std::thread::Builder::new().name("cvmfs-client".to_owned());
        let thread = thread.spawn(move || {
            let mut client = Client { shared, seat, connection, pins: HashMap::new() };
            client.serve();
        })?;
        Ok((thread, held))
    }
}

struct Client {
    shared: Arc<Shared>,
    seat: Seat,
    connection: Arc<Connection>,
    pins: HashMap<String, Pin>,
}

/// An answer and what goes with it.
type Answer = (Reply, Option<OwnedFd>);

impl Client {
    fn serve(&mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let (request, descriptor) = match self.connection.receive::<Request>() {
                Ok(Some(received)) => received,
                Ok(None) => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::debug!(uid = self.seat.uid, %error, "client makes no sense");
                    return;
                }
            };
            let (reply, attached) = self.answer(request, descriptor).unwrap_or_else(|reason| {
                tracing::debug!(uid = self.seat.uid, reason, "refused");
                (Reply::Refused { reason }, None)
            });
            let attached = attached.as_ref().map(|descriptor| descriptor.as_fd());
            if let Err(error) = self.connection.send(&reply, attached) {
                tracing::debug!(uid = self.seat.uid, %error, "client does not listen");
                return;
            }
        }
    }

    fn answer(&mut self, request: Request, descriptor: Option<OwnedFd>) -> Result<Answer, String> {
        let cache = &self.shared.cache;
        let done = Ok((Reply::Done, None));
        match request {
            Request::Hello { protocol: PROTOCOL } => done,
            Request::Hello { protocol } => {
                Err(format!("protocol {protocol}, this broker speaks {PROTOCOL}"))
            }
            Request::Open { name } => match cache.open(&id_of(&name)?).map_err(text)? {
                Some(object) => handed_over(&object),
                None => Ok((Reply::Absent, None)),
            },
            Request::Store { name, size, cap, label, volatile } => {
                let body = descriptor.ok_or("no body")?;
                let bound = match size {
                    Some(size) => SizeBound::Exactly(size.min(MAX_PLAIN_LEN)),
                    None => SizeBound::AtMost(cap.min(MAX_PLAIN_LEN)),
                };
                let meta = ObjectMeta { size, label, volatile };
                handed_over(&self.store(id_of(&name)?, bound, &meta, body)?)
            }
            Request::Suspect { name } => {
                // One that is right stays, whatever they say.
                match cache.look_through(&id_of(&name)?, Instant::now() + LOOK_LIMIT) {
                    Ok(Condition::Unknown) => Err("it cannot be checked".to_owned()),
                    Ok(_) => done,
                    Err(error) => Err(text(error)),
                }
            }
            Request::Pin { name } => {
                let id = id_of(&name)?;
                if self.pins.len() >= MAX_PINS {
                    return Err("too many pins".to_owned());
                }
                self.pins.entry(name).or_insert_with(|| cache.pin(&id));
                done
            }
            Request::Unpin { name } => {
                self.pins.remove(&name);
                done
            }
            Request::LoadRecord { name } => {
                let name = self.record_name(&name)?;
                let Some(bytes) = cache.load_record(&name).map_err(text)? else {
                    return Ok((Reply::Absent, None));
                };
                let mut parcel = Parcel::new().map_err(text)?;
                parcel.write(&bytes).map_err(text)?;
                Ok((Reply::Record, Some(parcel.seal().map_err(text)?)))
            }
            Request::StoreRecord { name } => {
                let own = self.record_name(&name)?;
                let bytes = Parcel::read(descriptor.ok_or("no record")?, MAX_RECORD_LEN);
                let bytes = bytes.map_err(text)?;
                self.check_record_count(&own)?;
                cache.update_record(&own, &mut |_| Some(bytes.clone())).map_err(text)?;
                done
            }
            Request::Usage => {
                let usage = cache.usage();
                Ok((Reply::Usage { used: usage.used, limit: usage.limit }, None))
            }
        }
    }

    /// Checks a body as if it came from the network.
    fn store(
        &self,
        id: ObjectId,
        bound: SizeBound,
        meta: &ObjectMeta,
        body: OwnedFd,
    ) -> Result<CachedObject, String> {
        enum Failure {
            Decode(DecodeError),
            Cache(CacheError),
        }
        impl From<DecodeError> for Failure {
            fn from(error: DecodeError) -> Self {
                Self::Decode(error)
            }
        }
        let cache = &self.shared.cache;
        let (mut file, len) = Parcel::accept(body, MAX_BODY_LEN).map_err(text)?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(0)).map_err(text)?;
        let mut transaction = cache.begin(&id, meta).map_err(text)?;
        let mut decoder = BodyDecoder::new(id, bound);
        let mut buffer = vec![0; PIECE_LEN];
        let mut body = file.take(len);
        loop {
            let n = body.read(&mut buffer).map_err(text)?;
            if n == 0 {
                break;
            }
            let pushed = decoder
                .push(&buffer[..n], |plain| transaction.write(plain).map_err(Failure::Cache));
            match pushed {
                Ok(()) => {}
                Err(Failure::Decode(error)) => return Err(text(error)),
                Err(Failure::Cache(error)) => return Err(text(error)),
            }
        }
        transaction.commit(decoder.finish().map_err(text)?).map_err(text)
    }

    /// Each user has records of its own: a forged one could keep others from new revisions.
    fn record_name(&self, name: &str) -> Result<String, String> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if name.is_empty()
            || name.len() > 200
            || !name.bytes().all(allowed)
            || name.starts_with('.')
        {
            return Err("no name of a record".to_owned());
        }
        Ok(format!("{}{name}", self.record_prefix()))
    }

    fn record_prefix(&self) -> String {
        format!("user-{}:", self.seat.uid)
    }

    fn check_record_count(&self, name: &str) -> Result<(), String> {
        let prefix = self.record_prefix();
        let records = self.shared.cache.store.layout.list(RECORDS).map_err(text)?;
        let own = records.iter().filter(|record| record.starts_with(&prefix)).count();
        if own >= MAX_RECORDS_OF_USER && !records.iter().any(|record| record == name) {
            return Err("too many records".to_owned());
        }
        Ok(())
    }
}

fn id_of(name: &str) -> Result<ObjectId, String> {
    parse_object_name(name).ok_or_else(|| "no name of an object".to_owned())
}

fn text(error: impl std::error::Error) -> String {
    cvmfs_core::chain::chain(&error)
}

/// Gives a descriptor for reading to the client.
fn handed_over(object: &CachedObject) -> Result<Answer, String> {
    let Some(file) = object.file() else {
        return Err("the disk of the broker fails".to_owned());
    };
    let descriptor = file.as_fd().try_clone_to_owned().map_err(text)?;
    Ok((Reply::Object { size: object.len() }, Some(descriptor)))
}
