//! A forwarder on loopback that gives each connection a round trip, since this kernel has no netem.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Pieces on their way in one direction; with [`PIECE`] more than a window of TCP.
const IN_FLIGHT: usize = 256;
const PIECE: usize = 64 << 10;

/// Bytes that may go on from then on.
type Late = (Instant, Vec<u8>);

/// Forwards connections, each half of a round trip late in each direction; a new connection is made
/// a whole round trip late.
#[derive(Debug)]
pub struct Delay {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Delay {
    /// Stands before `server`.
    pub fn before(server: SocketAddr, round_trip: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            for client in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                thread::spawn(move || forward(client, server, round_trip));
            }
        });
        Ok(Self { address, stop })
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
    }
}

fn forward(client: TcpStream, server: SocketAddr, round_trip: Duration) {
    let opened = Instant::now();
    let Ok(upstream) = TcpStream::connect(server) else { return };
    let _ = client.set_nodelay(true);
    let _ = upstream.set_nodelay(true);
    // The client believes to be connected at once; its first bytes make up for it.
    let ready = opened + round_trip;
    let half = round_trip / 2;
    let (Ok(from), Ok(to)) = (client.try_clone(), upstream.try_clone()) else { return };
    let there = thread::spawn(move || late(from, to, half, ready));
    late(upstream, client, half, opened);
    let _ = there.join();
}

fn late(mut from: TcpStream, to: TcpStream, by: Duration, not_before: Instant) {
    let (sender, receiver): (SyncSender<Late>, Receiver<Late>) = sync_channel(IN_FLIGHT);
    let writer = thread::spawn(move || write(to, &receiver));
    let mut piece = vec![0; PIECE];
    while let Ok(len @ 1..) = from.read(&mut piece) {
        let due = Instant::now().max(not_before) + by;
        if sender.send((due, piece[..len].to_vec())).is_err() {
            break;
        }
    }
    drop(sender);
    let _ = writer.join();
}

fn write(mut to: TcpStream, pieces: &Receiver<Late>) {
    for (due, bytes) in pieces {
        #[allow(clippy::disallowed_methods, reason = "the delay is what this is for")]
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
