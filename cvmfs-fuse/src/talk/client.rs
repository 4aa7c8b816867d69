//! Asking a mount.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use cvmfs_cache::peer_of;

use super::address::Address;
use super::wire::{REFUSAL, Reply, Request};
use crate::fuse::mountinfo;

/// How long a server that is being replaced is waited for; a take-over needs some 10 ms.
const TAKE_OVER: Duration = Duration::from_secs(2);
/// Pause between two tries.
const RETRY: Duration = Duration::from_millis(20);
/// How long the answer may take beyond what the server may.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(150);
/// Longest answer that is read: a list of a large cache.
const MAX_ANSWER: u64 = 256 << 20;

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
    let mut stream = connect(address, patience)?;
    stream.set_write_timeout(Some(limit)).map_err(broken)?;
    stream.set_read_timeout(Some(limit)).map_err(broken)?;
    // One that refuses us says so without listening.
    let sent = stream.write_all(letter);
    let mut answer = Vec::new();
    match (&stream).take(MAX_ANSWER).read_to_end(&mut answer) {
        Ok(_) => {}
        Err(_) if !answer.is_empty() => {}
        Err(error) => return Err(broken(error)),
    }
    // Said before the question is read, so it is plain.
    if answer.trim_ascii_end() == REFUSAL.as_bytes() {
        return Err(AskError::Refused { address: address.clone() });
    }
    match sent {
        Err(error) if answer.is_empty() => Err(broken(error)),
        _ => Ok(answer),
    }
}

fn connect(address: &Address, patience: Duration) -> Result<UnixStream, AskError> {
    let start = Instant::now();
    let stream = loop {
        match address.with(UnixStream::connect_addr) {
            Ok(stream) => break stream,
            Err(error)
                if error.kind() == io::ErrorKind::ConnectionRefused
                    && start.elapsed() < patience =>
            {
                #[expect(clippy::disallowed_methods, reason = "a short pause of a command")]
                thread::sleep(RETRY);
            }
            Err(source) => return Err(AskError::Connect { address: address.clone(), source }),
        }
    };
    // Abstract names belong to whoever takes them first.
    if let Address::Device(device) = address {
        let (uid, _) = peer_of(&stream)
            .map_err(|source| AskError::Connect { address: address.clone(), source })?;
        let is_root = nix::unistd::geteuid().is_root();
        let is_expected = uid == 0 || uid == nix::unistd::geteuid().as_raw();
        // The server may be another user's than who mounted (CVMFS_USER).
        if !is_expected && !is_root && mountinfo::user_of(device) != Some(uid) {
            return Err(AskError::Stranger { address: address.clone(), uid });
        }
    }
    Ok(stream)
}
