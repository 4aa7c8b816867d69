//! Connecting to a socket that somebody else may have made: never for longer than is allowed.
//!
//! connect(2) of a blocking socket waits without a limit while the queue of the listener is full, which its owner
//! decides. So sockets are connected without blocking, and tried again until the time is over.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Pause between two tries while the queue is full.
const RETRY: Duration = Duration::from_millis(20);

/// Connects; the socket blocks afterwards, to send for no longer than the same limit.
///
/// # Errors
/// As connect(2); `TimedOut` if the queue of the listener stays full.
pub(crate) fn connect(path: &Path, kind: SocketType, limit: Duration) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let start = Instant::now();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => break,
            Err(Errno::AGAIN) if start.elapsed() < limit => {}
            Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        #[expect(clippy::disallowed_methods, reason = "a short pause of a command")]
        thread::sleep(RETRY);
    }
    let flags = rustix::fs::fcntl_getfl(&socket)?;
    rustix::fs::fcntl_setfl(&socket, flags - OFlags::NONBLOCK)?;
    // None at all would be no limit.
    set_socket_timeout(&socket, Timeout::Send, Some(limit.max(RETRY)))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a5_a_full_queue_keeps_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let flags = SocketFlags::CLOEXEC;
        let kind = SocketType::STREAM;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _first = connect(&path, kind, RETRY).unwrap();
        let error = connect(&path, kind, 2 * RETRY).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
