//! Objects fetched for the time they take, and checked when the time is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream;

use super::limits::Plan;
use super::meter::{Meter, Used};
use super::report::{ObjectOutcome, Objects, SizeClass, Throughput};
use super::sample::Sample;
use crate::decode::BodyDecoder;
use crate::net::transport::escape_url;
use crate::net::{AttemptError, Proxy, Request, Timeouts, Transport as _};

/// Objects fetched one after the other for one figure.
const IN_TURN: usize = 4;
/// Rounds of objects fetched side by side for one figure.
const TURNS: usize = 2;
/// Longest time for one figure; what came by then counts.
const FIGURE_LIMIT: Duration = Duration::from_secs(10);
/// What is worth a word of each way.
const MAX_NOTES: usize = 5;

/// What is said of damage that a fresh copy does not have.
const CACHED_DAMAGE: &str = "right when caches are passed by: one on the way has a damaged copy";

/// Fetches from one server by one way.
pub(super) struct Fetch<'a> {
    pub(super) meter: &'a Arc<Meter>,
    pub(super) plan: &'a Plan,
    pub(super) timeouts: Timeouts,
    pub(super) server: &'a str,
    pub(super) proxy: &'a Proxy,
    pub(super) deadline: Instant,
    /// What may be used.
    pub(super) share: Used,
}

/// What is left of a share.
struct Purse(Used);

impl Purse {
    /// Chooses objects that together stay within a part of what is left.
    fn choose<'s>(
        &self,
        objects: impl Iterator<Item = &'s Sample>,
        most: usize,
        part: u64,
    ) -> Vec<&'s Sample> {
        let mut left = self.0.bytes / part.max(1);
        let most = most.min(usize::try_from(self.0.requests).unwrap_or(usize::MAX));
        let fits = |sample: &&Sample| {
            let cap = sample.stored_cap();
            let fits = cap <= left;
            left -= if fits { cap } else { 0 };
            fits
        };
        objects.filter(fits).take(most).collect()
    }

    fn pay(&mut self, requests: usize, bytes: u64) {
        let requests = u64::try_from(requests).unwrap_or(u64::MAX);
        self.0.requests = self.0.requests.saturating_sub(requests);
        self.0.bytes = self.0.bytes.saturating_sub(bytes);
    }
}

impl Fetch<'_> {
    /// Fetches the root catalog and then objects for every figure that fits into the share.
    pub(super) async fn all(
        &self,
        root: &Sample,
        samples: &[Sample],
        tell: impl Fn(&str),
    ) -> (Objects, Vec<Throughput>) {
        let (mut purse, mut tally) = (Purse(self.share), Tally::default());
        let figures = self.measure(root, samples, &mut purse, &mut tally, tell).await;
        let Tally { mut objects, damaged } = tally;
        if let Some(damaged) = damaged {
            self.ask_past_caches(&mut objects, &damaged, &purse).await;
        }
        (objects, figures)
    }

    async fn measure(
        &self,
        root: &Sample,
        samples: &[Sample],
        purse: &mut Purse,
        tally: &mut Tally,
        tell: impl Fn(&str),
    ) -> Vec<Throughput> {
        let mut figures = Vec::new();
        tell("root catalog");
        let chosen = purse.choose(std::iter::once(root), 1, 2);
        if !chosen.is_empty() {
            let (outcomes, bytes, _) = self.fetch_all(&chosen, 1).await;
            purse.pay(1, bytes);
            if let Some((_, outcome)) = outcomes.into_iter().next() {
                tally.objects.root_catalog = kind_of(&outcome);
                tally.count(root, outcome);
            }
        }
        if self.plan.parallel.is_empty() {
            tell("objects");
            let one_each = SizeClass::ALL
                .into_iter()
                .filter_map(|class| samples.iter().find(|sample| sample.class() == Some(class)));
            let chosen = purse.choose(one_each, SizeClass::ALL.len(), 1);
            let (outcomes, bytes, _) = self.fetch_all(&chosen, 1).await;
            purse.pay(chosen.len(), bytes);
            for (sample, outcome) in outcomes {
                tally.count(sample, outcome);
            }
            return figures;
        }
        let figure = |class| self.plan.parallel.iter().map(move |parallel| (class, *parallel));
        let planned: Vec<_> = SizeClass::ALL.into_iter().flat_map(figure).collect();
        for (place, (class, parallel)) in planned.iter().copied().enumerate() {
            if Instant::now() >= self.deadline {
                break;
            }
            let most = if parallel == 1 { IN_TURN } else { parallel * TURNS };
            let of_class = samples.iter().filter(|sample| sample.class() == Some(class));
            let part = u64::try_from(planned.len() - place).unwrap_or(1);
            let chosen = purse.choose(of_class, most, part);
            // One alone says nothing about several at a time.
            if chosen.is_empty() || (parallel > 1 && chosen.len() < 2) {
                continue;
            }
            tell(&format!("{} objects, {parallel} at a time", class.name()));
            let (outcomes, bytes, seconds) = self.fetch_all(&chosen, parallel).await;
            purse.pay(chosen.len(), bytes);
            let is_whole = |outcome| {
                matches!(kind_of(outcome), ObjectOutcome::Verified | ObjectOutcome::Corrupt)
            };
            let done = outcomes.iter().filter(|(_, outcome)| is_whole(outcome)).count();
            for (sample, outcome) in outcomes {
                tally.count(sample, outcome);
            }
            if bytes > 0 {
                #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
                let rate = bytes as f64 / seconds.max(1e-6);
                figures.push(Throughput { class, parallel, objects: done, bytes, seconds, rate });
            }
        }
        figures
    }

    /// Asks once for a fresh copy of a damaged object, to tell whose fault it is.
    async fn ask_past_caches(&self, objects: &mut Objects, damaged: &Sample, purse: &Purse) {
        if purse.choose(std::iter::once(damaged), 1, 1).is_empty() {
            return;
        }
        let received = AtomicU64::new(0);
        let fetched = self.fetch(damaged, &received, true);
        let Ok(Ok(body)) = tokio::time::timeout_at(self.deadline.into(), fetched).await else {
            return;
        };
        if check(damaged, body).await.is_ok() {
            objects.notes.insert(0, CACHED_DAMAGE.to_owned());
        }
    }

    /// Fetches some at a time; returns those that ended, the bytes of all, and the time.
    async fn fetch_all<'s>(
        &self,
        chosen: &[&'s Sample],
        parallel: usize,
    ) -> (Vec<(&'s Sample, Result<(), AttemptError>)>, u64, f64) {
        let received = AtomicU64::new(0);
        let mut bodies = Vec::new();
        let start = Instant::now();
        let end = (start + FIGURE_LIMIT).min(self.deadline);
        let fetches = chosen.iter().map(|sample| {
            let received = &received;
            async move { (*sample, self.fetch(sample, received, false).await) }
        });
        let mut fetches = stream::iter(fetches).buffer_unordered(parallel.max(1));
        // Those that are under way at the end are dropped, and their connections with them.
        while let Ok(Some(fetched)) = tokio::time::timeout_at(end.into(), fetches.next()).await {
            bodies.push(fetched);
        }
        drop(fetches);
        let seconds = start.elapsed().as_secs_f64();
        let mut outcomes = Vec::new();
        for (sample, body) in bodies {
            let outcome = match body {
                Ok(body) => check(sample, body).await,
                Err(error) => Err(error),
            };
            outcomes.push((sample, outcome));
        }
        (outcomes, received.load(Ordering::Relaxed), seconds)
    }

    async fn fetch(
        &self,
        sample: &Sample,
        received: &AtomicU64,
        no_cache: bool,
    ) -> Result<Vec<u8>, AttemptError> {
        let silence = self.timeouts.silence(self.proxy);
        let cap = sample.stored_cap();
        let request = Request {
            url: escape_url(format!("{}/{}", self.server, sample.path).as_bytes()),
            proxy: self.proxy.clone(),
            no_cache,
            window: None,
            from: 0,
            limit: silence,
        };
        let mut pieces = self.meter.get(request).await?.pieces;
        let mut body = Vec::new();
        loop {
            let piece = tokio::time::timeout(silence, pieces.next())
                .await
                .map_err(|_| AttemptError::Silent(silence))?;
            let Some(piece) = piece.transpose()? else { return Ok(body) };
            received.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if (body.len() + piece.len()) as u64 > cap {
                return Err(AttemptError::TooLarge(cap));
            }
            body.extend_from_slice(&piece);
        }
    }
}

/// Hashes and inflates, on a thread that may work.
async fn check(sample: &Sample, body: Vec<u8>) -> Result<(), AttemptError> {
    let (id, bound) = (sample.id, sample.bound);
    let checked = tokio::task::spawn_blocking(move || {
        let mut decoder = BodyDecoder::new(id, bound);
        // The hash is about what was sent: it tells more than where the stream breaks.
        let inflated = decoder.push(&body, |_| Ok::<_, AttemptError>(()));
        let actual = {
            let mut hasher = crate::hash::Hasher::new(id.hash.algorithm());
            hasher.update(&body);
            hasher.finish()
        };
        if actual != id.hash {
            return Err(AttemptError::Corrupt(format!("its hash is {actual}")));
        }
        inflated?;
        decoder.finish().map(drop).map_err(AttemptError::from)
    });
    checked.await.unwrap_or_else(|_| Err(AttemptError::Corrupt("it cannot be checked".to_owned())))
}

fn kind_of(outcome: &Result<(), AttemptError>) -> ObjectOutcome {
    match outcome {
        Ok(()) => ObjectOutcome::Verified,
        // Too large is what no honest server sends for a size that a catalog states.
        Err(AttemptError::Corrupt(_) | AttemptError::TooLarge(_)) => ObjectOutcome::Corrupt,
        Err(AttemptError::Status { code: 404 | 410, by_proxy: false, .. }) => {
            ObjectOutcome::Missing
        }
        Err(_) => ObjectOutcome::Failed,
    }
}

/// What became of the objects so far, and one that was damaged.
#[derive(Default)]
struct Tally {
    objects: Objects,
    damaged: Option<Sample>,
}

impl Tally {
    fn count(&mut self, sample: &Sample, outcome: Result<(), AttemptError>) {
        let objects = &mut self.objects;
        let counter = match kind_of(&outcome) {
            ObjectOutcome::Verified => &mut objects.verified,
            ObjectOutcome::Corrupt => {
                self.damaged.get_or_insert_with(|| sample.clone());
                &mut objects.corrupt
            }
            ObjectOutcome::Missing => &mut objects.missing,
            ObjectOutcome::Failed | ObjectOutcome::NotAsked => &mut objects.failed,
        };
        *counter += 1;
        if let Err(error) = outcome {
            let note = format!("{} ({}): {error}", sample.path, sample.label);
            if objects.notes.len() < MAX_NOTES && !objects.notes.contains(&note) {
                objects.notes.push(note);
            }
        }
    }
}
