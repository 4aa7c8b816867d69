//! Who may ask, how many at a time, and for how long: a peer that is silent, slow or many costs a
//! seat for some seconds and nothing else.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWriteExt as _, Interest, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::desk::Desk;
use super::proof::{self, Descriptors, Peer};
use super::wire::{Form, REFUSAL, Reply, Request, RequestError, UNSEEN, read_request};

/// Questions at a time; more wait in the queue of the kernel.
const MAX_ASKING: usize = 16;
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
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
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
                drop(tokio::spawn(attend(stream, peer, desk, repository, seat)));
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
    _seat: OwnedSemaphorePermit,
) {
    let mut sent = Descriptors::default();
    let read = read_request(&mut Incoming { stream: &stream, sent: &mut sent }).await;
    if matches!(read, Err(RequestError::Nothing)) {
        return;
    }
    let is_proved = sees(&desk, peer, sent).await;
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
