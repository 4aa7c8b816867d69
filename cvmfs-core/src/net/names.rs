//! Names of proxies and servers turned into addresses (spec/network.md section 8).
//!
//! hickory asks the hosts file and the name servers; this adds what a mount needs to outlive them:
//! an answer that was right once is used until a newer one is there, and whoever asks waits only
//! where nothing is known at all.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use lru::LruCache;
use parking_lot::Mutex;
use rand::seq::IndexedRandom as _;

use crate::clock::{Clock as _, SystemClock};
use crate::reminder::Reminder;

/// Names remembered; a client knows a few dozen.
const MAX_NAMES: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// Addresses used of one name and family, as upstream.
const MAX_ADDRESSES: usize = 16;
/// What decides beside the name servers themselves; a change is noticed.
const SYSTEM_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// How long the lack of an answer is remembered. That somebody said "no such name" holds for the
/// shortest TTL; but where nobody said anything the network may be back at any moment.
const SILENCE_HOLD: Duration = Duration::from_millis(500);

/// Which of a name's addresses are used; never both kinds at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Family {
    /// IPv4 if there is any, else IPv6.
    #[default]
    V4,
    /// IPv6 if there is any, else IPv4.
    V6,
}

/// How names are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameOptions {
    /// Ask this name server instead of the system's.
    pub server: Option<SocketAddr>,
    /// How long one question waits.
    pub timeout: Duration,
    /// How often a question is repeated.
    pub retries: u32,
    /// Answers, and failures, hold at least that long.
    pub min_ttl: Duration,
    /// Answers hold at most that long.
    pub max_ttl: Duration,
    /// Which addresses are used.
    pub family: Family,
    /// A random choice of that many addresses is used; 0: all.
    pub max_addresses: usize,
}

impl Default for NameOptions {
    fn default() -> Self {
        Self {
            server: None,
            timeout: Duration::from_secs(3),
            retries: 1,
            min_ttl: Duration::from_secs(60),
            max_ttl: Duration::from_secs(86_400),
            family: Family::V4,
            max_addresses: 0,
        }
    }
}

/// A name without addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No name server knows it, or it has no address.
    #[error("the name {0} has no address")]
    NotFound(String),
    /// Nobody answered.
    #[error("no name server answered within {limit:?} for {name}")]
    Timeout {
        /// The name.
        name: String,
        /// How long they were waited for.
        limit: Duration,
    },
    /// Anything else.
    #[error("cannot resolve {name}: {reason}")]
    Failed {
        /// The name.
        name: String,
        /// What hickory says.
        reason: String,
    },
}

/// What is known of one name.
#[derive(Debug, Clone)]
struct Known {
    outcome: Result<Arc<[IpAddr]>, NameError>,
    until: Instant,
}

/// One name: what is known, and whose turn it is to ask.
#[derive(Debug, Default)]
struct Slot {
    known: Mutex<Option<Known>>,
    asking: tokio::sync::Mutex<()>,
    reminder: Mutex<Reminder>,
}

/// The resolver, and the versions of the system's files that it was made from.
struct Source {
    resolver: TokioResolver,
    modified: [Option<SystemTime>; 2],
}

struct Inner {
    options: NameOptions,
    source: Mutex<Option<Source>>,
    slots: Mutex<LruCache<String, Arc<Slot>>>,
}

/// Resolves names, and remembers. Copies share what they know.
#[derive(Clone)]
pub struct Names {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::new(NameOptions::default())
    }
}

impl Names {
    /// Makes a resolver that knows nothing yet. Nothing is read before the first question.
    pub fn new(options: NameOptions) -> Self {
        let slots = Mutex::new(LruCache::new(MAX_NAMES));
        Self { inner: Arc::new(Inner { options, source: Mutex::default(), slots }) }
    }

    /// Returns a resolver with the same options that knows nothing yet, to measure how long an
    /// answer takes.
    pub fn forgetful(&self) -> Self {
        Self::new(self.inner.options.clone())
    }

    /// Returns the addresses of a name. What was right once is returned at once, and renewed in the
    /// background when it is too old; only an unknown name is waited for, within the time limit.
    ///
    /// Must run inside a tokio runtime.
    ///
    /// # Errors
    /// If the name has no address, which is remembered for the shortest TTL, or nobody tells.
    pub async fn lookup(&self, name: &str) -> Result<Arc<[IpAddr]>, NameError> {
        let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(address) = literal.unwrap_or(name).parse::<IpAddr>() {
            return Ok(Arc::new([address]));
        }
        let name = name.to_ascii_lowercase();
        let slot = {
            let mut slots = self.inner.slots.lock();
            Arc::clone(slots.get_or_insert(name.clone(), Arc::default))
        };
        let known = slot.known.lock().clone();
        match known {
            Some(known) if known.until > Instant::now() => known.outcome,
            Some(Known { outcome: Ok(addresses), .. }) => {
                // Somebody who asks already is enough.
                if slot.asking.try_lock().is_ok() {
                    let names = self.clone();
                    tokio::spawn(async move { names.renew(&name, &slot).await });
                }
                Ok(addresses)
            }
            _ => self.renew(&name, &slot).await,
        }
    }

    /// Asks, unless somebody else has just done so.
    async fn renew(&self, name: &str, slot: &Slot) -> Result<Arc<[IpAddr]>, NameError> {
        let _turn = slot.asking.lock().await;
        let before = slot.known.lock().clone();
        if let Some(known) = before.as_ref().filter(|known| known.until > Instant::now()) {
            return known.outcome.clone();
        }
        let NameOptions { min_ttl, max_ttl, .. } = self.inner.options;
        let known = match (self.ask(name).await, before.map(|known| known.outcome)) {
            (Ok((addresses, ttl)), _) => {
                let ttl = ttl.clamp(min_ttl, max_ttl.max(min_ttl));
                Known { outcome: Ok(addresses), until: Instant::now() + ttl }
            }
            (Err(error), Some(Ok(old))) => {
                // Asked for each minute while nobody answers.
                match slot.reminder.lock().is_due(SystemClock.unix_seconds()) {
                    true => tracing::warn!(name, %error, "keeping the addresses known before"),
                    false => tracing::debug!(name, %error, "keeping the addresses known before"),
                }
                Known { outcome: Ok(old), until: Instant::now() + min_ttl }
            }
            (Err(error), _) => {
                let hold = match error {
                    NameError::NotFound(_) => min_ttl,
                    NameError::Timeout { .. } | NameError::Failed { .. } => SILENCE_HOLD,
                };
                Known { outcome: Err(error), until: Instant::now() + hold }
            }
        };
        *slot.known.lock() = Some(known.clone());
        known.outcome
    }

    async fn ask(&self, name: &str) -> Result<(Arc<[IpAddr]>, Duration), NameError> {
        let options = &self.inner.options;
        let failed = |reason: String| NameError::Failed { name: name.to_owned(), reason };
        let resolver = self.resolver().map_err(|error| failed(error.to_string()))?;
        let limit = options.timeout * options.retries.saturating_add(1);
        // The name server's pool has limits of its own; this one holds whatever they are.
        let found = tokio::time::timeout(limit, resolver.lookup_ip(name)).await;
        let found = match found {
            Err(_) | Ok(Err(NetError::Timeout)) => {
                return Err(NameError::Timeout { name: name.to_owned(), limit });
            }
            Ok(Err(error)) if error.is_no_records_found() => {
                return Err(NameError::NotFound(name.to_owned()));
            }
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Ok(Ok(found)) => found,
        };
        let addresses = choose(found.iter(), options);
        if addresses.is_empty() {
            return Err(NameError::NotFound(name.to_owned()));
        }
        Ok((addresses.into(), found.valid_until().saturating_duration_since(Instant::now())))
    }

    /// Returns the resolver; made anew when the system's configuration has changed, as it does on a
    /// laptop that roams.
    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let options = &self.inner.options;
        let modified =
            SYSTEM_FILES.map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok());
        let mut source = self.inner.source.lock();
        if let Some(source) = source.as_ref().filter(|source| source.modified == modified) {
            return Ok(source.resolver.clone());
        }
        let provider = TokioRuntimeProvider::default;
        let mut builder = match options.server {
            Some(server) => {
                let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
                for connection in &mut connections {
                    connection.port = server.port();
                }
                let server = NameServerConfig::new(server.ip(), true, connections);
                let config = ResolverConfig::from_name_servers(vec![server]);
                TokioResolver::builder_with_config(config, provider())
            }
            // Without a configuration the hosts file is all there is.
            None => TokioResolver::builder_tokio().unwrap_or_else(|_| {
                TokioResolver::builder_with_config(ResolverConfig::default(), provider())
            }),
        };
        let rules = builder.options_mut();
        rules.timeout = options.timeout;
        rules.attempts = usize::try_from(options.retries).unwrap_or(usize::MAX);
        rules.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        rules.use_hosts_file = ResolveHosts::Always;
        // What is remembered, and for how long, is decided here.
        rules.cache_size = 0;
        let resolver = builder.build()?;
        *source = Some(Source { resolver: resolver.clone(), modified });
        Ok(resolver)
    }
}

/// Picks the family, and of that as many as wanted.
fn choose(all: impl Iterator<Item = IpAddr>, options: &NameOptions) -> Vec<IpAddr> {
    let (mut v4, mut v6): (Vec<_>, Vec<_>) = all.partition(IpAddr::is_ipv4);
    v4.truncate(MAX_ADDRESSES);
    v6.truncate(MAX_ADDRESSES);
    let (first, second) = match options.family {
        Family::V4 => (v4, v6),
        Family::V6 => (v6, v4),
    };
    let chosen = if first.is_empty() { second } else { first };
    match options.max_addresses {
        0 => chosen,
        most => chosen.choose_multiple(&mut rand::rng(), most).copied().collect(),
    }
}

impl reqwest::dns::Resolve for Names {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let names = self.clone();
        Box::pin(async move {
            let addresses = names.lookup(name.as_str()).await?;
            // The port is filled in by the caller.
            let addresses: Vec<_> = addresses.iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
            Ok(Box::new(addresses.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

/// Answers a proxy script's questions; its thread is none of the runtime's, so it may wait there.
pub struct ScriptNames {
    /// Who resolves.
    pub names: Names,
    /// Where that runs.
    pub runtime: tokio::runtime::Handle,
}

impl super::pac::Names for ScriptNames {
    fn addresses(&self, name: &str) -> Vec<IpAddr> {
        self.runtime
            .block_on(self.names.lookup(name))
            .map(|found| found.to_vec())
            .unwrap_or_default()
    }

    fn own_address(&self) -> Option<IpAddr> {
        // Connecting a datagram socket sends nothing, but chooses the address to send from. The
        // target is one that no network has (RFC 5737).
        let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).ok()?;
        socket.connect(("192.0.2.1", 9)).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    }
}

#[cfg(test)]
mod tests;
