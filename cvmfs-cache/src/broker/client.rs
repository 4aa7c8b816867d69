//! [`BrokeredCache`]: a store whose directory belongs to a broker.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cvmfs_core::cache::{
    CacheError, CacheHealth, CacheUsage, CachedObject, Condition, MemoryCache, ObjectCache,
    ObjectMeta, Pin, Transaction,
};
use cvmfs_core::decode::CheckedBody;
use cvmfs_core::object::ObjectId;
use parking_lot::Mutex;
use rustix::fs::OFlags;

use super::peer::peer_of;
use super::wire::{Connection, MAX_BODY_LEN, MAX_RECORD_LEN, PROTOCOL, Parcel, Reply, Request};
use crate::layout::{failed, object_name};
use crate::sharing::our_user;

/// How long an answer may take that needs a disk only.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one may take for which the broker checks an object: some 100 MB/s at worst.
const STORE_PATIENCE: Duration = Duration::from_secs(30);
/// How long a lost broker is not asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// Connections kept for later.
const MAX_IDLE: usize = 8;
/// Objects kept in memory while there is no broker.
const MEMORY_LIMIT: u64 = 128 << 20;
/// Largest plain object collected here.
const MAX_PLAIN_LEN: usize = 256 << 20;

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Nobody answers.
    #[error("no broker answers on {path}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Somebody answers whom we do not trust.
    #[error(
        "the broker on {path} runs as user {uid}; trusted are root and user {trusted} (--cache-broker-user)"
    )]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// Its user.
        uid: u32,
        /// Who would be.
        trusted: u32,
    },
    /// It does not want us.
    #[error("the broker on {path} refuses: {reason}")]
    Refused {
        /// The socket.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
}

/// A store behind a broker. Without its broker it is a store in memory, and comes back by itself.
pub struct BrokeredCache {
    state: Arc<State>,
}

struct State {
    path: PathBuf,
    trusted: u32,
    memory: MemoryCache,
    idle: Mutex<Idle>,
    /// How often each object is pinned here.
    pins: Mutex<HashMap<String, usize>>,
    /// What the broker knows the pins by; made again with all of them when it is lost. Whoever
    /// speaks on it says what `pins` says then, so that the last word is right.
    pinner: Mutex<Option<Connection>>,
}

#[derive(Default)]
struct Idle {
    connections: Vec<Connection>,
    /// Nobody answered then.
    lost: Option<Instant>,
}

impl BrokeredCache {
    /// Connects to the broker on a socket, which must run as root, as ourselves, or as `trusted`.
    pub fn connect(path: impl Into<PathBuf>, trusted: Option<u32>) -> Result<Self, BrokerError> {
        let state = State {
            path: path.into(),
            trusted: trusted.unwrap_or_else(our_user),
            memory: MemoryCache::with_limit(MEMORY_LIMIT),
            idle: Mutex::default(),
            pins: Mutex::default(),
            pinner: Mutex::default(),
        };
        let connection = state.connect()?;
        state.idle.lock().connections.push(connection);
        Ok(Self { state: Arc::new(state) })
    }
}

impl State {
    fn connect(&self) -> Result<Connection, BrokerError> {
        let path = || self.path.clone();
        let unreachable = |source| BrokerError::Unreachable { path: path(), source };
        let connection = Connection::open(&self.path, PATIENCE).map_err(unreachable)?;
        let (uid, _) = peer_of(&connection.socket()).map_err(unreachable)?;
        if uid != 0 && uid != our_user() && uid != self.trusted {
            return Err(BrokerError::Stranger { path: path(), uid, trusted: self.trusted });
        }
        let hello = Request::Hello { protocol: PROTOCOL };
        match exchange(&connection, &hello, None).map_err(unreachable)? {
            (Reply::Done, _) => Ok(connection),
            (Reply::Refused { reason }, _) => Err(BrokerError::Refused { path: path(), reason }),
            _ => {
                let reason = "an answer that makes no sense".to_owned();
                Err(BrokerError::Refused { path: path(), reason })
            }
        }
    }

    /// Asks the broker; `None` if there is none at the moment.
    fn ask(
        &self,
        request: &Request,
        attached: Option<&OwnedFd>,
        patience: Duration,
    ) -> Option<(Reply, Option<OwnedFd>)> {
        // A connection that was kept may be of a broker that was restarted: try a fresh one then.
        for fresh in [false, true] {
            let connection = self.connection(fresh)?;
            let attached = attached.map(|descriptor| descriptor.as_fd());
            let answer = connection
                .patience(patience)
                .and_then(|()| exchange(&connection, request, attached));
            match answer {
                Ok(answer) => {
                    let mut idle = self.idle.lock();
                    if idle.connections.len() < MAX_IDLE {
                        idle.connections.push(connection);
                    }
                    return Some(answer);
                }
                Err(error) => {
                    tracing::debug!(%error, "connection to the cache broker lost");
                    let stale = std::mem::take(&mut self.idle.lock().connections);
                    drop(stale);
                }
            }
        }
        None
    }

    fn connection(&self, fresh: bool) -> Option<Connection> {
        {
            let mut idle = self.idle.lock();
            if let Some(connection) = idle.connections.pop().filter(|_| !fresh) {
                return Some(connection);
            }
            if idle.lost.is_some_and(|lost| lost.elapsed() < PAUSE) {
                return None;
            }
        }
        match self.connect() {
            Ok(connection) => {
                let was_lost = self.idle.lock().lost.take().is_some();
                if was_lost {
                    tracing::warn!(socket = %self.path.display(), "the cache broker is back");
                }
                // It may have been restarted so quickly that nobody missed it.
                if was_lost || fresh {
                    self.pin_again(&mut self.pinner.lock());
                }
                Some(connection)
            }
            Err(error) => {
                if self.idle.lock().lost.replace(Instant::now()).is_none() {
                    let error = cvmfs_core::chain::chain(&error);
                    tracing::warn!(error, "the cache broker is lost; objects are kept in memory");
                }
                None
            }
        }
    }

    /// Tells a broker that was restarted what we need.
    fn pin_again(&self, pinner: &mut Option<Connection>) {
        let names: Vec<_> = self.pins.lock().keys().cloned().collect();
        if names.is_empty() {
            *pinner = None;
            return;
        }
        let Ok(connection) = self.connect() else { return };
        for name in names {
            if exchange(&connection, &Request::Pin { name }, None).is_err() {
                return;
            }
        }
        *pinner = Some(connection);
    }

    fn change_pin(&self, name: &str, pin: bool) {
        {
            let mut pins = self.pins.lock();
            let count = pins.entry(name.to_owned()).or_default();
            *count = if pin { *count + 1 } else { count.saturating_sub(1) };
            let changed = *count == usize::from(pin);
            if *count == 0 {
                pins.remove(name);
            }
            if !changed {
                return;
            }
        }
        let mut pinner = self.pinner.lock();
        let wanted = self.pins.lock().contains_key(name);
        let name = name.to_owned();
        let request = if wanted { Request::Pin { name } } else { Request::Unpin { name } };
        let told =
            pinner.as_ref().is_some_and(|connection| exchange(connection, &request, None).is_ok());
        // A lost broker is not asked again at once: whoever finds it back says what is pinned.
        if !told && self.idle.lock().lost.is_none_or(|lost| lost.elapsed() >= PAUSE) {
            self.pin_again(&mut pinner);
        }
    }

    /// Makes an object of what the broker sent.
    fn accept(&self, size: u64, descriptor: Option<OwnedFd>) -> Option<CachedObject> {
        let descriptor = descriptor?;
        let flags = rustix::fs::fcntl_getfl(&descriptor).ok()?;
        let file = File::from(descriptor);
        let found = file.metadata().ok()?;
        let fits = found.is_file()
            && found.len() == size
            && !flags.intersects(OFlags::WRONLY | OFlags::RDWR);
        if !fits {
            tracing::warn!("the cache broker sent something that is no object");
        }
        fits.then(|| CachedObject::from_file(file, size, None))
    }
}

fn exchange(
    connection: &Connection,
    request: &Request,
    attached: Option<std::os::fd::BorrowedFd<'_>>,
) -> std::io::Result<(Reply, Option<OwnedFd>)> {
    connection.send(request, attached)?;
    connection.receive()?.ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
}

impl ObjectCache for BrokeredCache {
    fn open(&self, id: &ObjectId) -> Result<Option<CachedObject>, CacheError> {
        let request = Request::Open { name: object_name(id) };
        if let Some((Reply::Object { size }, descriptor)) = self.state.ask(&request, None, PATIENCE)
            && let Some(object) = self.state.accept(size, descriptor)
        {
            return Ok(Some(object));
        }
        self.state.memory.open(id)
    }

    fn begin(&self, id: &ObjectId, meta: &ObjectMeta) -> Result<Box<dyn Transaction>, CacheError> {
        Ok(Box::new(BrokeredTransaction {
            id: *id,
            meta: meta.clone(),
            plain: Vec::new(),
            // Without it the object is only kept in memory.
            stored: Parcel::new().ok(),
            stored_len: 0,
            state: Arc::clone(&self.state),
        }))
    }

    fn discard(&self, id: &ObjectId) -> Result<(), CacheError> {
        let request = Request::Suspect { name: object_name(id) };
        let _ = self.state.ask(&request, None, STORE_PATIENCE);
        self.state.memory.discard(id)
    }

    fn examine(&self, id: &ObjectId, end: Instant) -> Result<Condition, CacheError> {
        let name = object_name(id);
        let late =
            || failed("examine an object by", &self.state.path)(std::io::ErrorKind::TimedOut);
        let left =
            || Some(end.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero());
        let open = Request::Open { name: name.clone() };
        let is_there = |patience: Duration| {
            let answer = self.state.ask(&open, None, patience.min(PATIENCE));
            matches!(answer, Some((Reply::Object { .. }, _)))
        };
        if !is_there(left().ok_or_else(late)?) {
            return self.state.memory.examine(id, end);
        }
        // It believes nobody, and looks for itself; only the owner may read what an object was.
        let patience = left().ok_or_else(late)?.min(STORE_PATIENCE);
        match self.state.ask(&Request::Suspect { name }, None, patience) {
            Some((Reply::Done, _)) => {}
            Some(_) => return Ok(Condition::Unknown),
            None => return Err(late()),
        }
        Ok(if is_there(left().ok_or_else(late)?) { Condition::Sound } else { Condition::Damaged })
    }

    fn pin(&self, id: &ObjectId) -> Pin {
        let name = object_name(id);
        self.state.change_pin(&name, true);
        Pin::new(Pinned { state: Arc::clone(&self.state), name })
    }

    fn usage(&self) -> CacheUsage {
        match self.state.ask(&Request::Usage, None, PATIENCE) {
            Some((Reply::Usage { used, limit }, _)) => CacheUsage { used, limit },
            _ => self.state.memory.usage(),
        }
    }

    fn health(&self) -> CacheHealth {
        let failing = self.state.idle.lock().lost.is_some();
        CacheHealth { failures: u64::from(failing), failing, ..CacheHealth::default() }
    }

    fn load_record(&self, name: &str) -> Result<Option<Vec<u8>>, CacheError> {
        let request = Request::LoadRecord { name: name.to_owned() };
        match self.state.ask(&request, None, PATIENCE) {
            Some((Reply::Record, Some(descriptor))) => Parcel::read(descriptor, MAX_RECORD_LEN)
                .map(Some)
                .map_err(failed("read a record from", &self.state.path)),
            _ => Ok(None),
        }
    }

    fn update_record(
        &self,
        name: &str,
        change: &mut dyn FnMut(Option<Vec<u8>>) -> Option<Vec<u8>>,
    ) -> Result<(), CacheError> {
        let Some(new) = change(self.load_record(name)?) else { return Ok(()) };
        let broken = || failed("write a record to", &self.state.path);
        let mut parcel = Parcel::new().map_err(broken())?;
        parcel.write(&new).map_err(broken())?;
        let sealed = parcel.seal().map_err(broken())?;
        let request = Request::StoreRecord { name: name.to_owned() };
        match self.state.ask(&request, Some(&sealed), PATIENCE) {
            Some((Reply::Done, _)) => Ok(()),
            Some((Reply::Refused { reason }, _)) => Err(broken()(std::io::Error::other(reason))),
            _ => Err(broken()(std::io::Error::from(std::io::ErrorKind::NotConnected))),
        }
    }
}

struct Pinned {
    state: Arc<State>,
    name: String,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.state.change_pin(&self.name, false);
    }
}

/// Collects both forms of an object: the stored one for the broker, which believes nothing else,
/// and the plain one in case there is no broker.
struct BrokeredTransaction {
    id: ObjectId,
    meta: ObjectMeta,
    plain: Vec<u8>,
    stored: Option<Parcel>,
    stored_len: u64,
    state: Arc<State>,
}

impl Transaction for BrokeredTransaction {
    fn stored(&mut self, piece: &[u8]) {
        self.stored_len += piece.len() as u64;
        let fits = self.stored_len <= MAX_BODY_LEN;
        let Some(parcel) = &mut self.stored else { return };
        if !fits || parcel.write(piece).is_err() {
            self.stored = None;
        }
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), CacheError> {
        if self.plain.len() + piece.len() > MAX_PLAIN_LEN {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(failed("keep in memory for", &self.state.path)(full));
        }
        self.plain.extend_from_slice(piece);
        Ok(())
    }

    fn commit(self: Box<Self>, proof: CheckedBody) -> Result<CachedObject, CacheError> {
        proof.must_match(&self.id, self.plain.len() as u64)?;
        let parcel =
            self.stored.filter(|_| self.stored_len > 0).and_then(|parcel| parcel.seal().ok());
        if let Some(body) = parcel {
            let request = Request::Store {
                name: object_name(&self.id),
                size: Some(proof.size()),
                cap: proof.size(),
                label: self.meta.label.chars().take(1000).collect(),
                volatile: self.meta.volatile,
            };
            match self.state.ask(&request, Some(&body), STORE_PATIENCE) {
                Some((Reply::Object { size }, descriptor)) if size == proof.size() => {
                    if let Some(object) = self.state.accept(size, descriptor) {
                        return Ok(object);
                    }
                }
                Some((Reply::Refused { reason }, _)) => {
                    tracing::debug!(object = %self.id, reason, "not kept by the cache broker");
                }
                _ => {}
            }
        }
        let mut kept = self.state.memory.begin(&self.id, &self.meta)?;
        let plain = Bytes::from(self.plain);
        kept.write(&plain)?;
        kept.commit(proof)
    }
}
