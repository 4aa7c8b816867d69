//! Who may ask, how many at a time, and for how long: a peer that is silent, slow or many costs a
//! seat for some seconds and nothing else.

use std::sync::Arc;
use std::time::Duration;

use cvmfs_cache::peer_of;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::desk::Desk;
use super::wire::{Form, REFUSAL, Reply, Request, RequestError, read_request};

/// Questions at a time; more wait in the queue of the kernel.
const MAX_ASKING: usize = 16;
/// Longest work for one command: an update over a slow network.
const WORK_LIMIT: Duration = Duration::from_secs(120);
/// How long a peer may take to take its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Pause after the kernel gave no connection, as when descriptors have run out.
const PAUSE: Duration = Duration::from_millis(200);

/// Answers until it is dropped.
pub(super) async fn serve(listener: UnixListener, desk: Arc<Desk>, repository: Option<String>) {
    let seats = Arc::new(Semaphore::new(MAX_ASKING));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        let peer = match listener.accept().await {
            Ok((peer, _)) => peer,
            Err(error) => {
                tracing::debug!(%error, "cannot accept");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match peer_of(&peer) {
            Ok((uid, _)) if desk.allows(uid) => {
                let (desk, repository) = (Arc::clone(&desk), repository.clone());
                drop(tokio::spawn(attend(peer, desk, repository, seat)));
            }
            Ok((uid, _)) => {
                tracing::debug!(uid, "may not talk to this mount");
                // Fits into the buffer of a new connection; nobody is waited for.
                let _ = peer.try_write(format!("{REFUSAL}\n").as_bytes());
            }
            Err(error) => tracing::debug!(%error, "an unknown peer"),
        }
    }
}

async fn attend(
    mut peer: UnixStream,
    desk: Arc<Desk>,
    repository: Option<String>,
    _seat: OwnedSemaphorePermit,
) {
    let (reply, form) = match read_request(&mut peer).await {
        Ok((request, form)) => {
            let request = Request { repository: request.repository.or(repository), ..request };
            let work = desk.answer(&request);
            let reply = tokio::time::timeout(WORK_LIMIT, work).await.unwrap_or_else(|_| {
                Reply::failed(format!("not done within {} s", WORK_LIMIT.as_secs()))
            });
            (reply, form)
        }
        Err(RequestError::Nothing) => return,
        Err(error) => (Reply::failed(error.to_string()), Form::Text),
    };
    let bytes = reply.encode(form);
    let told = tokio::time::timeout(ANSWER_LIMIT, async {
        peer.write_all(&bytes).await?;
        peer.shutdown().await
    });
    if let Ok(Err(error)) = told.await {
        tracing::debug!(%error, "nobody took the answer");
    }
}
