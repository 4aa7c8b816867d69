//! The servers of a repository compared: can they be reached, how fast are they, and is what they
//! have right and new?
//!
//! [`Examiner::survey`] is one round; its [`Survey`] is plain data, for whoever embeds it as for
//! the command `cvmfs-fuse mirrors`. Whatever comes from a server goes through the code that a
//! mount uses: the chain of trust, the choice of objects by verified catalogs, the decoder that
//! checks hashes. Servers are strangers' machines, so what a round may ask of each of them is
//! bounded by [`Limits`], and nothing is asked twice to be sure.
//!
//! | module | what it holds |
//! |---|---|
//! | [`limits`] | what a round may ask |
//! | [`report`] | what it found, as plain data |
//! | `meter` | counts what servers are asked, and stops it |
//! | `way` | one server by one way: connections and letters |
//! | `sample` | which objects |
//! | `transfer` | objects fetched for the time they take, and checked |
//! | `judge` | faults, age, order |
//!
//! ```no_run
//! # async fn f(config: cvmfs_core::repository::RepositoryConfig) {
//! use std::sync::Arc;
//!
//! use cvmfs_core::clock::SystemClock;
//! use cvmfs_core::mirrors::{Examiner, Plan};
//! use cvmfs_core::net::{HttpTransport, TransportOptions};
//!
//! let transport = Arc::new(HttpTransport::new(TransportOptions::default()));
//! let examiner = Examiner::new(config, transport, &[], Plan::default());
//! let survey = examiner.survey(&SystemClock, &|_| {}).await;
//! for mirror in survey.ranked() {
//!     println!("{}. {} {:?}", mirror.rank, mirror.server, mirror.faults);
//! }
//! # }
//! ```

mod judge;
pub mod limits;
mod meter;
pub mod report;
mod sample;
mod transfer;
mod way;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::format::manifest::Manifest;
use crate::net::probe::Prober;
use crate::net::{Proxy, Transport, geo};
use crate::repository::RepositoryConfig;
use crate::trust::Verified;

pub use limits::{Limits, Plan, Tolerance};
pub use report::{
    Change, ConnectionReport, Fault, FaultKind, Geo, GeoAnswer, Lag, LettersReport, MirrorReport,
    Newest, ObjectOutcome, Objects, Severity, SizeClass, Survey, Throughput, WayReport,
};

use meter::Meter;
use sample::{Sample, Samples};
use way::{FoundLetters, Way};

/// The part of the limits of one server that may be used for catalogs to choose objects from.
const LOOKING: u64 = 4;

/// Asks the servers of one repository, round after round.
pub struct Examiner {
    config: RepositoryConfig,
    prober: Prober,
    meter: Arc<Meter>,
    plan: Plan,
    /// Rounds are counted one at a time.
    turn: tokio::sync::Mutex<()>,
    /// The objects of the revision that was the newest; looked for again when there is a newer one.
    samples: Mutex<Option<Arc<Samples>>>,
}

/// How far a round is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Who is asked just now; empty while it is all of them.
    pub server: &'a str,
    /// For what.
    pub step: &'a str,
    /// Requests to all servers so far.
    pub requests: u64,
    /// Bytes of bodies from all servers so far.
    pub bytes: u64,
}

/// A server with what was found by each way.
struct Examined {
    server: String,
    ways: Vec<Way>,
    deadline: Instant,
}

impl Examined {
    /// The letters of the best way that had some.
    fn letters(&self) -> Option<&FoundLetters> {
        self.ways.iter().filter_map(|way| way.letters.as_ref().ok()).next()
    }

    fn manifest(&self) -> Option<&Verified<Manifest>> {
        self.letters().map(|letters| &letters.manifest)
    }
}

impl Examiner {
    /// Prepares to ask the servers of `config`, each by every proxy of it (or directly).
    ///
    /// `authorities` are those of the transport, as PEM bundles.
    pub fn new(
        config: RepositoryConfig,
        transport: Arc<dyn Transport>,
        authorities: &[Vec<u8>],
        plan: Plan,
    ) -> Self {
        let prober = Prober::new(&config.names, authorities);
        let meter = Arc::new(Meter::new(transport, &config.servers, plan.limits));
        Self { config, prober, meter, plan, turn: Default::default(), samples: Mutex::default() }
    }

    /// Returns the name of the repository.
    pub fn fqrn(&self) -> &str {
        self.config.fqrn.as_str()
    }

    /// Returns requests to all servers, and bytes of bodies from them, in this round so far.
    pub fn used(&self) -> (u64, u64) {
        self.meter.total()
    }

    /// Asks all servers once. Must run inside a tokio runtime; bounded in time by the limits.
    ///
    /// Connections and letters are asked for side by side, objects from one server after the other,
    /// so that they do not share the way. Of one value only one round is under way at a time.
    pub async fn survey(
        &self,
        clock: &dyn Clock,
        progress: &(dyn Fn(Progress<'_>) + Sync),
    ) -> Survey {
        let _turn = self.turn.lock().await;
        let start = Instant::now();
        let now = clock.unix_seconds();
        self.meter.begin_round();
        let tell = |server: &str, step: &str| {
            let (requests, bytes) = self.meter.total();
            progress(Progress { server, step, requests, bytes });
        };
        tell("", "connections and signatures");
        let limit = Duration::from_secs(self.plan.limits.seconds);
        let asked = self.config.servers.iter().map(|server| async {
            let deadline = Instant::now() + limit;
            let mut ways = Vec::new();
            for proxy in self.proxies() {
                ways.push(self.ask_way(server, &proxy, now, deadline).await);
                tell(server, "connections and signatures");
            }
            Examined { server: server.clone(), ways, deadline }
        });
        let mut mirrors = join_all(asked).await;
        tell("", "order of servers");
        let geo = self.ask_geo(&mirrors).await;
        let newest = mirrors
            .iter()
            .filter_map(Examined::manifest)
            .max_by_key(|manifest| manifest.revision)
            .cloned();
        tell("", "choosing objects");
        let samples = match &newest {
            Some(newest) => self.find_samples(newest, &mirrors).await,
            None => Err("no server has an acceptable manifest".to_owned()),
        };
        for mirror in &mut mirrors {
            // What the others took is not its fault.
            mirror.deadline = Instant::now() + limit;
            let chosen = samples.as_ref().map_or(&[][..], |samples| samples.objects.as_slice());
            self.fetch_objects(mirror, chosen, &tell).await;
        }
        let sampled = samples.as_ref().map_or(0, |samples| samples.objects.len());
        let found =
            judge::Found { now, newest: newest.as_ref(), geo, tolerance: self.plan.tolerance };
        let (mirrors, geo) = judge::judge(&mirrors, found, &self.meter);
        Survey {
            fqrn: self.config.fqrn.to_string(),
            at: now,
            seconds: start.elapsed().as_secs_f64(),
            newest: newest.map(|manifest| Newest {
                revision: manifest.revision,
                published: manifest.published,
                root_catalog: manifest.root_catalog.to_string(),
            }),
            sampled,
            sampling_failed: samples.err(),
            mirrors,
            geo,
            limits: self.plan.limits,
        }
    }

    fn proxies(&self) -> Vec<Proxy> {
        let mut proxies: Vec<Proxy> = Vec::new();
        for proxy in self.config.proxy.groups().iter().flatten() {
            if !proxies.contains(proxy) {
                proxies.push(proxy.clone());
            }
        }
        proxies
    }

    async fn ask_way(&self, server: &str, proxy: &Proxy, now: i64, deadline: Instant) -> Way {
        let asked = Way::ask(way::Question {
            config: &self.config,
            prober: &self.prober,
            meter: &self.meter,
            connections: self.plan.connections,
            server,
            proxy,
            now,
        });
        match tokio::time::timeout_at(deadline.into(), asked).await {
            Ok(way) => way,
            Err(_) => Way::too_slow(proxy, self.plan.limits.seconds),
        }
    }

    /// Asks each server that answers for its order of all of them.
    async fn ask_geo(&self, mirrors: &[Examined]) -> Vec<GeoAnswer> {
        if self.config.servers.len() < 2 {
            return Vec::new();
        }
        let options = self.config.geo.clone().unwrap_or_default();
        let asked = mirrors.iter().filter_map(|mirror| {
            let way = mirror.ways.iter().find(|way| way.letters.is_ok())?;
            let downloader = way::downloader(&self.config, &self.meter, &mirror.server, &way.proxy);
            let options = &options;
            Some(async move {
                let order = geo::ask_one(&downloader, 0, &self.config.servers, options).await;
                let (order, error) = match order {
                    Ok(order) => (Some(order), None),
                    Err(error) => (None, Some(crate::chain::chain(&error))),
                };
                GeoAnswer { server: mirror.server.clone(), order, error }
            })
        });
        join_all(asked).await
    }

    /// Chooses objects of the newest revision, with the help of those who have it.
    async fn find_samples(
        &self,
        newest: &Verified<Manifest>,
        mirrors: &[Examined],
    ) -> Result<Arc<Samples>, String> {
        let known = self.samples.lock().clone();
        if let Some(known) = known.filter(|known| known.root == newest.root_catalog) {
            return Ok(known);
        }
        let mut failure = String::new();
        for mirror in mirrors {
            let ways = mirror.ways.iter().filter(|way| {
                way.letters
                    .as_ref()
                    .is_ok_and(|letters| letters.manifest.root_catalog == newest.root_catalog)
            });
            for way in ways {
                // What is used up by looking is missing for measuring this server.
                let Limits { requests, bytes, seconds } = self.plan.limits;
                let part = Limits { requests: requests / LOOKING, bytes: bytes / LOOKING, seconds };
                let inner = Arc::clone(&self.meter);
                let servers = std::slice::from_ref(&mirror.server);
                let meter = Arc::new(Meter::new(inner, servers, part));
                let downloader = way::downloader(&self.config, &meter, &mirror.server, &way.proxy);
                let limit = Duration::from_secs(self.plan.limits.seconds);
                let found = sample::find(&self.config, downloader, newest, &self.plan);
                match tokio::time::timeout(limit, found).await {
                    Ok(Ok(samples)) => {
                        let samples = Arc::new(samples);
                        *self.samples.lock() = Some(Arc::clone(&samples));
                        return Ok(samples);
                    }
                    Ok(Err(error)) => failure = error,
                    Err(_) => failure = format!("not done within {limit:?}"),
                }
            }
        }
        Err(failure)
    }

    async fn fetch_objects(
        &self,
        mirror: &mut Examined,
        samples: &[Sample],
        tell: &impl Fn(&str, &str),
    ) {
        let Examined { server, ways, deadline } = mirror;
        let mut left = ways.iter().filter(|way| way.letters.is_ok()).count();
        for way in ways.iter_mut() {
            let Ok(letters) = &way.letters else { continue };
            let root = Sample::root_catalog(&letters.manifest);
            let parts = u32::try_from(left).unwrap_or(u32::MAX).max(1);
            let time = deadline.saturating_duration_since(Instant::now()) / parts;
            let fetcher = transfer::Fetch {
                meter: &self.meter,
                plan: &self.plan,
                timeouts: self.config.timeouts,
                server,
                proxy: &way.proxy,
                deadline: Instant::now() + time,
                share: self.meter.share(server, left),
            };
            let (objects, throughput) =
                fetcher.all(&root, samples, |step| tell(server, step)).await;
            (way.objects, way.throughput) = (objects, throughput);
            left -= 1;
        }
    }
}

#[cfg(test)]
mod tests;
