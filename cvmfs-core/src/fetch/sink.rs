//! Where the pieces of a body go: to a writer on the blocking pool, or into memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::FetcherState;
use crate::cache::{CacheError, CachedObject, ObjectCache, ObjectMeta, Transaction};
use crate::decode::{BodyDecoder, CheckedBody, DecodeError, SizeBound, decode_all};
use crate::net::{AttemptError, Sink};
use crate::object::ObjectId;

/// Pieces between network and disk: enough to keep both busy, some 256 KiB at most.
const PIECES_IN_FLIGHT: usize = 16;

/// Runs on the blocking pool: inflates, hashes and writes one body.
pub(super) struct Writer {
    pub(super) state: Arc<FetcherState>,
    pub(super) store: Arc<dyn ObjectCache>,
    pub(super) id: ObjectId,
    pub(super) bound: SizeBound,
    pub(super) label: String,
    pub(super) cache_failed: Arc<AtomicBool>,
}

enum Step {
    Piece(Bytes),
    End,
}

enum WriteError {
    Decode(DecodeError),
    Cache(CacheError),
}

impl From<DecodeError> for WriteError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl From<CacheError> for WriteError {
    fn from(error: CacheError) -> Self {
        Self::Cache(error)
    }
}

impl Writer {
    fn run(self, steps: mpsc::Receiver<Step>) -> Result<CachedObject, AttemptError> {
        match self.write(steps) {
            Ok(object) => {
                self.state.cache_warned.store(false, Ordering::Relaxed);
                Ok(object)
            }
            Err(WriteError::Decode(error)) => Err(error.into()),
            Err(WriteError::Cache(error)) => {
                self.state.warn_about_cache(&error);
                self.cache_failed.store(true, Ordering::SeqCst);
                Err(AttemptError::Cache(error.to_string()))
            }
        }
    }

    fn write(&self, mut steps: mpsc::Receiver<Step>) -> Result<CachedObject, WriteError> {
        let size = match self.bound {
            SizeBound::Exactly(size) => Some(size),
            SizeBound::AtMost(_) => None,
        };
        let meta = ObjectMeta { size, label: self.label.clone(), volatile: false };
        let mut transaction: Box<dyn Transaction> = self.store.begin(&self.id, &meta)?;
        let mut decoder = BodyDecoder::new(self.id, self.bound);
        loop {
            match steps.blocking_recv() {
                Some(Step::Piece(piece)) => decoder
                    .push(&piece, |plain| transaction.write(plain).map_err(WriteError::Cache))?,
                Some(Step::End) => return Ok(transaction.commit(decoder.finish()?)?),
                // The network side gave up; dropping the transaction leaves no trace.
                None => {
                    let reason = "transfer given up".to_owned();
                    return Err(DecodeError::Zlib { id: self.id, reason }.into());
                }
            }
        }
    }
}

/// Hands the pieces of a body to a [`Writer`].
pub(super) struct ObjectSink {
    steps: mpsc::Sender<Step>,
    writer: Option<JoinHandle<Result<CachedObject, AttemptError>>>,
}

impl ObjectSink {
    pub(super) fn start(writer: Writer) -> Self {
        let (steps, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        Self { steps, writer: Some(tokio::task::spawn_blocking(move || writer.run(receiver))) }
    }

    async fn outcome(
        writer: Option<JoinHandle<Result<CachedObject, AttemptError>>>,
    ) -> Result<CachedObject, AttemptError> {
        let gone = || AttemptError::Cache("the writer of the object died".to_owned());
        match writer {
            Some(writer) => writer.await.map_err(|_| gone())?,
            None => Err(gone()),
        }
    }
}

impl Sink<CachedObject> for ObjectSink {
    fn piece(&mut self, piece: Bytes) -> BoxFuture<'_, Result<(), AttemptError>> {
        Box::pin(async move {
            if self.steps.send(Step::Piece(piece)).await.is_ok() {
                return Ok(());
            }
            // The writer stopped early: its own error is the reason.
            Self::outcome(self.writer.take()).await.map(|_| ())
        })
    }

    fn end(self) -> BoxFuture<'static, Result<CachedObject, AttemptError>> {
        Box::pin(async move {
            // A writer that stopped early is asked below.
            let _ = self.steps.send(Step::End).await;
            Self::outcome(self.writer).await
        })
    }
}

/// Collects a small body, and checks it at the end.
pub(super) struct CheckingSink {
    pub(super) id: ObjectId,
    pub(super) bound: SizeBound,
    pub(super) stored: Vec<u8>,
}

impl Sink<(Bytes, CheckedBody)> for CheckingSink {
    fn piece(&mut self, piece: Bytes) -> BoxFuture<'_, Result<(), AttemptError>> {
        self.stored.extend_from_slice(&piece);
        Box::pin(std::future::ready(Ok(())))
    }

    fn end(self) -> BoxFuture<'static, Result<(Bytes, CheckedBody), AttemptError>> {
        let checked = decode_all(self.id, &self.stored, self.bound)
            .map(|(plain, proof)| (Bytes::from(plain), proof))
            .map_err(AttemptError::from);
        Box::pin(std::future::ready(checked))
    }
}
