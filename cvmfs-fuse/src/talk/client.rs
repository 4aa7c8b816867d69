//! Asking a mount.

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use cvmfs_cache::peer_of;
use rustix::net::SocketType;

use super::address::{Address, SeenMount, reach, workspaces};
use super::dial;
use super::directory::TALK;
use super::finding;
use super::proof::{self, MAX_DESCRIPTORS};
use super::wire::{REFUSAL, Reply, Request, UNSEEN};
use crate::config::Environment;

/// How long a mount without an address is waited for: it has just begun, or its server, which is of another
/// version, is being replaced.
const TAKE_OVER: Duration = Duration::from_secs(2);
/// Pause between two tries.
const RETRY: Duration = Duration::from_millis(20);
/// How long the queue of another user's server may be full.
const FOREIGN_CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long the answer may take beyond what the server may.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(150);
/// Longest answer that is read: a list of a large cache.
const MAX_ANSWER: usize = 256 << 20;
/// Longest answer of another user's server, which may say anything to each command of root.
const MAX_FOREIGN_ANSWER: usize = 4 << 20;
/// Sockets in workspaces that are asked whose they are.
const MAX_SOCKETS: usize = 256;
/// How long each may take to say that.
const SHORT: Duration = Duration::from_secs(1);
/// Bytes that are read at a time.
const PIECE: usize = 64 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where.
        address: Address,
        /// The cause.
        source: io::Error,
    },
    /// Somebody does who is not to be trusted.
    #[error("user {uid} listens on {address} in place of the mount")]
    Stranger {
        /// Where.
        address: Address,
        /// Who.
        uid: u32,
    },
    /// It does not talk to us.
    #[error("{address}: {REFUSAL}")]
    Refused {
        /// Where.
        address: Address,
    },
    /// It does, but for who sees the mount.
    #[error("{address}: {UNSEEN}")]
    Unseen {
        /// Where.
        address: Address,
    },
    /// It broke off.
    #[error("no answer from {address}")]
    Broken {
        /// Where.
        address: Address,
        /// The cause.
        source: io::Error,
    },
}

/// Sends a command and returns what comes back, byte by byte: the way of upstream's tool.
pub fn ask_text(address: &Address, command: &str, limit: Duration) -> Result<Vec<u8>, AskError> {
    exchange(address, &[command.as_bytes(), b"\n"].concat(), limit, TAKE_OVER)
}

/// Asks for data, and gives up at once where nobody listens.
pub fn ask_now(address: &Address, request: &Request, limit: Duration) -> Result<Reply, AskError> {
    ask_within(address, request, limit, Duration::ZERO)
}

/// Asks for data.
pub fn ask(address: &Address, request: &Request, limit: Duration) -> Result<Reply, AskError> {
    ask_within(address, request, limit, TAKE_OVER)
}

fn ask_within(
    address: &Address,
    request: &Request,
    limit: Duration,
    patience: Duration,
) -> Result<Reply, AskError> {
    let broken = |error: serde_json::Error| AskError::Broken {
        address: address.clone(),
        source: io::Error::other(error),
    };
    let mut letter = serde_json::to_vec(request).map_err(broken)?;
    letter.push(b'\n');
    let answer = exchange(address, &letter, limit, patience)?;
    serde_json::from_slice(&answer).map_err(|error| {
        let said = String::from_utf8_lossy(&answer).trim().to_owned();
        match said.is_empty() || said.starts_with('{') {
            true => broken(error),
            false => AskError::Broken { address: address.clone(), source: io::Error::other(said) },
        }
    })
}

fn exchange(
    address: &Address,
    letter: &[u8],
    limit: Duration,
    patience: Duration,
) -> Result<Vec<u8>, AskError> {
    let broken = |source: io::Error| AskError::Broken { address: address.clone(), source };
    let mut stream = connect(address, limit, patience)?;
    stream.set_write_timeout(Some(limit)).map_err(broken)?;
    // One that refuses us says so without listening.
    let sent = proof::send(&stream, letter, &proofs(address)).and_then(|len| {
        let rest = letter.get(len..).unwrap_or_default();
        stream.write_all(rest)
    });
    let most = match address {
        Address::Mount(mount) if !mount.is_ours_or_roots() => MAX_FOREIGN_ANSWER,
        _ => MAX_ANSWER,
    };
    let mut answer = Vec::new();
    match read_answer(&stream, most, limit, &mut answer) {
        Ok(()) => {}
        Err(_) if !answer.is_empty() => {}
        Err(error) => return Err(broken(error)),
    }
    // Said before the question is answered, so it is plain.
    let address = address.clone();
    match answer.trim_ascii_end() {
        said if said == REFUSAL.as_bytes() => return Err(AskError::Refused { address }),
        said if said == UNSEEN.as_bytes() => return Err(AskError::Unseen { address }),
        _ => {}
    }
    match sent {
        Err(error) if answer.is_empty() => Err(AskError::Broken { address, source: error }),
        _ => Ok(answer),
    }
}

/// Reads to the end. The first bytes may take the limit, and all of them twice as long: a peer that sends single
/// bytes keeps nobody.
fn read_answer(
    mut stream: &UnixStream,
    most: usize,
    limit: Duration,
    answer: &mut Vec<u8>,
) -> io::Result<()> {
    let start = Instant::now();
    let mut piece = vec![0; PIECE];
    loop {
        let left = (2 * limit).saturating_sub(start.elapsed()).min(limit);
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(len) if answer.len() + len > most => {
                answer.clear();
                return Err(io::Error::other("the answer is too long"));
            }
            Ok(len) => answer.extend_from_slice(&piece[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns descriptors of the mountpoint. Of a socket in a workspace it is not known which mount it
/// belongs to: those that may be it.
fn proofs(address: &Address) -> Vec<OwnedFd> {
    match address {
        Address::Mount(mount) => mount.proof().into_iter().collect(),
        Address::Path(_) => {
            let mut all = SeenMount::all().unwrap_or_default();
            all.retain(|mount| mount.looks_ours);
            let named = |mount: &SeenMount| is_named_for(mount, address);
            all.sort_by_key(|mount| !named(mount));
            all.iter().filter_map(SeenMount::proof).take(MAX_DESCRIPTORS).collect()
        }
    }
}

/// Tells whether a socket in a workspace is named as what is mounted there: `cvmfs_io.FQRN`.
fn is_named_for(mount: &SeenMount, address: &Address) -> bool {
    let Address::Path(path) = address else { return false };
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(fqrn) = name.and_then(|name| name.strip_prefix("cvmfs_io.")) else { return false };
    mount.mountpoint.file_name().is_some_and(|name| name == fqrn)
}

fn connect(address: &Address, limit: Duration, patience: Duration) -> Result<UnixStream, AskError> {
    let limit = match address {
        Address::Mount(mount) if !mount.is_ours_or_roots() => limit.min(FOREIGN_CONNECT_LIMIT),
        _ => limit,
    };
    let start = Instant::now();
    loop {
        let source = match attempt(address, limit) {
            Ok(stream) => return Ok(stream),
            Err(AskError::Connect { source, .. }) => source,
            Err(other) => return Err(other),
        };
        let may_come = match (address, source.kind()) {
            (_, io::ErrorKind::ConnectionRefused) => true,
            (Address::Mount(mount), io::ErrorKind::NotFound) => mount.looks_ours,
            _ => false,
        };
        if !may_come || start.elapsed() >= patience {
            return Err(AskError::Connect { address: address.clone(), source });
        }
        #[expect(clippy::disallowed_methods, reason = "a short pause of a command")]
        thread::sleep(RETRY);
    }
}

fn attempt(address: &Address, limit: Duration) -> Result<UnixStream, AskError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::PermissionDenied if matches!(address, Address::Mount(_)) => {
            AskError::Refused { address: address.clone() }
        }
        _ => AskError::Connect { address: address.clone(), source },
    };
    let is_believed = |stream: &UnixStream, is_spoken_for_by: &dyn Fn(u32) -> bool| {
        let (uid, _) = peer_of(stream).map_err(failed)?;
        match is_spoken_for_by(uid) {
            true => Ok(()),
            false => Err(AskError::Stranger { address: address.clone(), uid }),
        }
    };
    match address {
        Address::Mount(mount) => {
            let mut last = None;
            let places = match finding::find(mount) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return in_workspace(mount, limit).ok_or_else(|| failed(error));
                }
                places => places.map_err(failed)?,
            };
            for place in places {
                match place.connect(TALK, SocketType::STREAM, limit) {
                    Ok(stream) => {
                        let stream = UnixStream::from(stream);
                        is_believed(&stream, &|uid| uid == place.owner)?;
                        return Ok(stream);
                    }
                    Err(error) => last = Some(error),
                }
            }
            Err(failed(last.unwrap_or_else(|| io::ErrorKind::NotFound.into())))
        }
        Address::Path(path) => {
            let stream = connect_in(path, limit).map_err(failed)?;
            let mounts = SeenMount::all().unwrap_or_default();
            let own = nix::unistd::geteuid().as_raw();
            // The server may be another user's than who mounted (CVMFS_USER).
            is_believed(&stream, &|uid| {
                let is_users = |mount: &SeenMount| mount.looks_ours && mount.user == Some(uid);
                uid == 0 || uid == own || mounts.iter().any(is_users)
            })?;
            Ok(stream)
        }
    }
}

/// Connects for a user who may not enter the control directory, and may ask: of `CVMFS_USER`, or `CVMFS_TALK_OWNER`.
fn in_workspace(mount: &SeenMount, limit: Duration) -> Option<UnixStream> {
    let is_socket = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"cvmfs_io."))
    };
    workspaces(&Environment::of_process())
        .iter()
        .filter_map(|workspace| std::fs::read_dir(workspace).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()).filter(is_socket))
        .take(MAX_SOCKETS)
        .find(|path| speaks_for(path, mount).unwrap_or(false))
        .and_then(|path| connect_in(&path, limit).ok())
}

/// Tells whether the server at a socket in a workspace is that of a mount.
fn speaks_for(path: &Path, mount: &SeenMount) -> io::Result<bool> {
    let stream = connect_in(path, SHORT)?;
    let (uid, _) = peer_of(&stream)?;
    if !mount.is_spoken_for_by(uid) {
        return Ok(false);
    }
    let proof: Vec<_> = mount.proof().into_iter().collect();
    stream.set_write_timeout(Some(SHORT))?;
    proof::send(&stream, b"device id\n", &proof)?;
    let mut answer = Vec::new();
    read_answer(&stream, PIECE, SHORT, &mut answer)?;
    Ok(answer.trim_ascii_end() == mount.device.as_bytes())
}

fn connect_in(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let (directory, short) = reach(path)?;
    let stream = dial::connect(&short, SocketType::STREAM, limit);
    drop(directory);
    stream.map(UnixStream::from)
}
