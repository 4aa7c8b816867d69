//! Who is at the other end of a socket.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// Returns user and group of the process that connected, or listens.
///
/// Its process id is 0 where that is in another container. `rustix` has no such number, and takes
/// the answer for an error.
///
/// # Errors
/// If the socket is none of a kind that knows.
pub fn peer_of(socket: &impl AsFd) -> io::Result<(u32, u32)> {
    let credentials = getsockopt(socket, PeerCredentials)?;
    Ok((credentials.uid(), credentials.gid()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn our_own_end() {
        let (one, _other) = UnixStream::pair().unwrap();
        let ours = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        assert_eq!(peer_of(&one).unwrap(), ours);
    }
}
