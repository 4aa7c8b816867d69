//! Who may ask, how many at a time, and for how long: a peer that is silent, slow or many costs a
//! seat for some seconds and nothing else.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWriteExt as _, Interest, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::desk::Desk;
use super::proof::{self, Descriptors, Peer};
use super::wire::{Form, REFUSAL, Reply, Request, RequestError, UNSEEN, read_request};

/// Questions at a time, of peers that have proved that they see the mount; more of these wait.
const MAX_ASKING: usize = 16;
/// Peers that have not asked and proved anything yet.
const MAX_SILENT: usize = 64;
/// Those of one user among them.
const MAX_SILENT_OF_ONE: usize = MAX_SILENT / 4;
/// How long such a peer is left alone; then another one may take its place. Longer than a request without an end takes.
const GRACE: Duration = Duration::from_millis(200);
/// Pause between two looks for a place.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Longest work for one command: an update over a slow network.
const WORK_LIMIT: Duration = Duration::from_secs(120);
/// How long a peer may take to take its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Pause after the kernel gave no connection, as when descriptors have run out.
const PAUSE: Duration = Duration::from_millis(200);

/// Answers at a socket that the supervisor listens at, until it is dropped.
///
/// # Errors
/// If the descriptor is no listening socket.
pub(crate) async fn serve_passed(listener: OwnedFd, desk: Arc<Desk>) -> io::Result<()> {
    let listener = std::os::unix::net::UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    serve(UnixListener::from_std(listener)?, desk, None).await;
    Ok(())
}

/// Answers until it is dropped.
pub(super) async fn serve(listener: UnixListener, desk: Arc<Desk>, repository: Option<String>) {
    let seats = Arc::new(Semaphore::new(MAX_ASKING));
    let silent = Silent::default();
    let mut id = 0_u64;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match Peer::of(&stream) {
            Ok(peer) if desk.allows(peer.uid) => {
                let (desk, repository) = (Arc::clone(&desk), repository.clone());
                silent.make_room(peer.uid).await;
                id += 1;
                let place = Place { silent: silent.clone(), id };
                let uid = peer.uid;
                silent.with(|all| {
                    let seats = Arc::clone(&seats);
                    let task = tokio::spawn(attend(stream, peer, desk, repository, seats, place));
                    let task = task.abort_handle();
                    all.push(Waiting { id, uid, since: Instant::now(), task });
                });
            }
            Ok(peer) => {
                tracing::debug!(uid = peer.uid, "may not talk to this mount");
                // Fits into the buffer of a new connection; nobody is waited for.
                let _ = stream.try_write(format!("{REFUSAL}\n").as_bytes());
            }
            Err(error) => tracing::debug!(%error, "an unknown peer"),
        }
    }
}

/// A peer that has not asked and proved anything yet.
struct Waiting {
    id: u64,
    uid: u32,
    since: Instant,
    task: AbortHandle,
}

/// All of these, the oldest first.
#[derive(Clone, Default)]
struct Silent(Arc<Mutex<Vec<Waiting>>>);

impl Silent {
    fn with<T>(&self, act: impl FnOnce(&mut Vec<Waiting>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until there is a place for one more peer of a user: the oldest in the way is dropped.
    async fn make_room(&self, uid: u32) {
        loop {
            let dropped = self.with(|all| {
                let of_one = all.iter().filter(|other| other.uid == uid).count();
                let at = match (of_one >= MAX_SILENT_OF_ONE, all.len() >= MAX_SILENT) {
                    (true, _) => all.iter().position(|other| other.uid == uid),
                    (_, true) => Some(0),
                    _ => None,
                };
                let Some(at) = at else { return Ok(None) };
                let is_over = all.get(at).is_none_or(|oldest| oldest.since.elapsed() >= GRACE);
                if is_over { Ok(Some(all.remove(at))) } else { Err(()) }
            });
            match dropped {
                Ok(None) => return,
                Ok(Some(oldest)) => oldest.task.abort(),
                Err(()) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }
}

/// The place of one of them, until it is dropped.
struct Place {
    silent: Silent,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.silent.with(|all| all.retain(|other| other.id != self.id));
    }
}

/// A stream whose peer may send descriptors with its request.
struct Incoming<'a> {
    stream: &'a UnixStream,
    sent: &'a mut Descriptors,
}

impl AsyncRead for Incoming<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (stream, sent) = (this.stream, &mut *this.sent);
        loop {
            ready!(stream.poll_read_ready(context))?;
            let received = stream.try_io(Interest::READABLE, || {
                let space = into.initialize_unfilled();
                proof::receive(stream, space, RecvFlags::DONTWAIT, sent)
            });
            match received {
                Ok(len) => {
                    into.advance(len);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

async fn attend(
    mut stream: UnixStream,
    peer: Peer,
    desk: Arc<Desk>,
    repository: Option<String>,
    seats: Arc<Semaphore>,
    place: Place,
) {
    let mut sent = Descriptors::default();
    let read = read_request(&mut Incoming { stream: &stream, sent: &mut sent }).await;
    if matches!(read, Err(RequestError::Nothing)) {
        return;
    }
    let is_proved = sees(&desk, peer, sent).await;
    drop(place);
    // Who only has to be told no does not take one.
    let _seat = match is_proved {
        true => seats.acquire_owned().await.ok(),
        false => None,
    };
    let bytes = match read {
        _ if !is_proved => {
            tracing::debug!("a peer does not see this mount");
            format!("{UNSEEN}\n").into_bytes()
        }
        Ok((request, form)) => {
            let request = Request { repository: request.repository.or(repository), ..request };
            let work = desk.answer(&request);
            let reply = tokio::time::timeout(WORK_LIMIT, work).await.unwrap_or_else(|_| {
                Reply::failed(format!("not done within {} s", WORK_LIMIT.as_secs()))
            });
            reply.encode(form)
        }
        Err(error) => Reply::failed(error.to_string()).encode(Form::Text),
    };
    let told = tokio::time::timeout(ANSWER_LIMIT, async {
        stream.write_all(&bytes).await?;
        stream.shutdown().await
    });
    if let Ok(Err(error)) = told.await {
        tracing::debug!(%error, "nobody took the answer");
    }
}

/// Tells whether a peer has proved that it sees the mount. Where the kernel does not tell the device of a
/// mount, nothing can be proved, and nobody is answered.
async fn sees(desk: &Desk, peer: Peer, sent: Descriptors) -> bool {
    let Some(device) = desk.device().map(str::to_owned) else { return false };
    // Reads a file of /proc that may be long.
    tokio::task::spawn_blocking(move || peer.has_proved(&sent, &device)).await.unwrap_or(false)
}
