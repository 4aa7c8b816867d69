//! Where the pieces of a body go: to a writer on the blocking pool, or into memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;

use super::{FetcherState, Unstored};
use crate::cache::{CacheError, CachedObject, ObjectCache, ObjectMeta, Transaction};
use crate::decode::{
    BodyDecoder, CheckedBody, DecodeError, MAX_STORED_WHOLE, SizeBound, decode_all, decode_whole,
};
use crate::net::{AttemptError, Sink};
use crate::object::{ObjectId, ObjectKind};

/// Stored bytes collected before the writer is called: most objects need one call, and large ones
/// are decoded while the next batch is received.
const BATCH_LEN: usize = MAX_STORED_WHOLE;

/// What a writer needs to start.
pub(super) struct Target {
    pub(super) state: Arc<FetcherState>,
    pub(super) store: Arc<dyn ObjectCache>,
    pub(super) id: ObjectId,
    pub(super) bound: SizeBound,
    pub(super) label: String,
    pub(super) cache_failed: Arc<AtomicBool>,
}

/// Inflates, hashes and writes one body, batch by batch. It runs on the blocking pool and never
/// waits for the network there: a stalled server must not use the pool up.
struct Writer {
    target: Target,
    decoder: BodyDecoder,
    transaction: Box<dyn Transaction>,
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

impl Target {
    fn transaction(&self) -> Result<Box<dyn Transaction>, CacheError> {
        let size = match self.bound {
            SizeBound::Exactly(size) => Some(size),
            SizeBound::AtMost(_) => None,
        };
        let volatile = self.state.volatile.load(Ordering::Relaxed)
            && matches!(self.id.kind, ObjectKind::Data | ObjectKind::Chunk);
        let meta = ObjectMeta { size, label: self.label.clone(), volatile };
        self.store.begin(&self.id, &meta)
    }

    fn begin(self) -> Result<Writer, AttemptError> {
        match self.transaction() {
            Ok(transaction) => {
                let decoder = BodyDecoder::new(self.id, self.bound);
                Ok(Writer { target: self, decoder, transaction })
            }
            Err(error) => Err(self.failed(error.into())),
        }
    }

    /// Stores a body that came in one batch.
    fn store(self, pieces: &[Bytes]) -> Result<CachedObject, AttemptError> {
        let checked = || -> Result<(Box<dyn Transaction>, CheckedBody), WriteError> {
            let mut transaction = self.transaction()?;
            pieces.iter().for_each(|piece| transaction.stored(piece));
            let proof = decode_whole(self.id, self.bound, pieces, |plain| {
                transaction.write(plain).map_err(WriteError::Cache)
            })?;
            Ok((transaction, proof))
        };
        let committed = checked().and_then(|(transaction, proof)| Ok(transaction.commit(proof)?));
        self.done(committed)
    }

    fn done(
        self,
        committed: Result<CachedObject, WriteError>,
    ) -> Result<CachedObject, AttemptError> {
        match committed {
            Ok(object) => {
                self.state.cache_warned.store(false, Ordering::Relaxed);
                Ok(object)
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, error: WriteError) -> AttemptError {
        match error {
            WriteError::Decode(error) => error.into(),
            WriteError::Cache(error) => {
                self.state.warn_about_cache(&error);
                self.cache_failed.store(true, Ordering::SeqCst);
                AttemptError::Cache(error.to_string())
            }
        }
    }
}

impl Writer {
    fn write(&mut self, batch: &[Bytes]) -> Result<(), AttemptError> {
        let Self { target, decoder, transaction } = self;
        batch
            .iter()
            .try_for_each(|piece| {
                transaction.stored(piece);
                decoder.push(piece, |plain| transaction.write(plain).map_err(WriteError::Cache))
            })
            .map_err(|error| target.failed(error))
    }

    fn commit(self) -> Result<CachedObject, AttemptError> {
        let Self { target, decoder, transaction } = self;
        let committed = decoder
            .finish()
            .map_err(WriteError::from)
            .and_then(|proof| transaction.commit(proof).map_err(WriteError::from));
        target.done(committed)
    }
}

/// Where the writer is.
enum Stage {
    /// No batch yet.
    Fresh(Target),
    /// Busy with a batch on the blocking pool.
    Busy(JoinHandle<Result<Writer, AttemptError>>),
    /// Gone after an error that was reported.
    Failed,
}

/// Hands the pieces of a body to a [`Writer`], a batch at a time.
pub(super) struct ObjectSink {
    stage: Stage,
    batch: Vec<Bytes>,
    batch_len: usize,
}

impl ObjectSink {
    pub(super) fn start(target: Target) -> Self {
        Self { stage: Stage::Fresh(target), batch: Vec::new(), batch_len: 0 }
    }

    /// Waits for the batch before and starts `work` with this one.
    async fn hand_over<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(Writer) -> Result<T, AttemptError> + Send + 'static,
    ) -> Result<JoinHandle<Result<T, AttemptError>>, AttemptError> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_len = 0;
        let with_batch = move |mut writer: Writer| {
            writer.write(&batch)?;
            work(writer)
        };
        Ok(match std::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Fresh(target) => {
                tokio::task::spawn_blocking(move || with_batch(target.begin()?))
            }
            Stage::Busy(before) => {
                let writer = before.await.map_err(|_| died())??;
                tokio::task::spawn_blocking(move || with_batch(writer))
            }
            Stage::Failed => return Err(died()),
        })
    }
}

fn died() -> AttemptError {
    AttemptError::Cache("the writer of the object died".to_owned())
}

impl Sink<CachedObject> for ObjectSink {
    fn piece(&mut self, piece: Bytes) -> BoxFuture<'_, Result<(), AttemptError>> {
        self.batch_len += piece.len();
        self.batch.push(piece);
        if self.batch_len < BATCH_LEN {
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(async move {
            self.stage = Stage::Busy(self.hand_over(Ok).await?);
            Ok(())
        })
    }

    fn end(mut self) -> BoxFuture<'static, Result<CachedObject, AttemptError>> {
        Box::pin(async move {
            let stage = std::mem::replace(&mut self.stage, Stage::Failed);
            let commit = if let Stage::Fresh(target) = stage {
                let batch = std::mem::take(&mut self.batch);
                tokio::task::spawn_blocking(move || target.store(&batch))
            } else {
                self.stage = stage;
                self.hand_over(Writer::commit).await?
            };
            commit.await.map_err(|_| died())?
        })
    }
}

/// Collects a small body, and checks it at the end.
pub(super) struct CheckingSink {
    pub(super) id: ObjectId,
    pub(super) bound: SizeBound,
    pub(super) stored: Vec<u8>,
}

impl Sink<Unstored> for CheckingSink {
    fn piece(&mut self, piece: Bytes) -> BoxFuture<'_, Result<(), AttemptError>> {
        self.stored.extend_from_slice(&piece);
        Box::pin(std::future::ready(Ok(())))
    }

    fn end(self) -> BoxFuture<'static, Result<Unstored, AttemptError>> {
        let checked = decode_all(self.id, &self.stored, self.bound)
            .map(|(plain, proof)| Unstored { plain: plain.into(), stored: self.stored, proof })
            .map_err(AttemptError::from);
        Box::pin(std::future::ready(checked))
    }
}
