//! Which server to ask, through which proxy, and what to do after a failure: a state machine
//! without I/O, driven by outcomes and a clock (spec/network.md sections 2, 4 and 7).
//!
//! Two kinds of state: [`Selection`] is shared by all requests of a repository (the current
//! server, the current proxy group and what of it is burned), [`Walk`] belongs to one request
//! (what it has tried already). A switch is global, and only the request that failed on the
//! current choice makes it: whoever comes later finds it made.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::error::{Failure, FailureClass};
use super::proxy::{Proxy, ProxySpec};
use super::shard::choose;

/// Longest wait that a server's `Retry-After` can ask for; a reader is waiting.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(10);

/// Rules of failover. Zero for a reset time means never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelectionOptions {
    /// Repetitions of one request on the same way after a transfer error.
    pub max_retries: u32,
    /// The first wait before a repetition is random between zero and this, and then doubles.
    pub backoff_init: Duration,
    /// Longest wait before a repetition.
    pub backoff_max: Duration,
    /// How long after it was left the first server is tried again.
    pub host_reset_after: Duration,
    /// How long after a switch the first group, or the whole group, is used again.
    pub proxy_reset_after: Duration,
    /// Objects choose their proxy by hash instead of all using one.
    pub shard: bool,
}

impl Default for SelectionOptions {
    /// The values of the packaged default configuration (spec/network.md sections 2, 4.3 and 6).
    fn default() -> Self {
        Self {
            max_retries: 1,
            backoff_init: Duration::from_secs(2),
            backoff_max: Duration::from_secs(10),
            host_reset_after: Duration::from_secs(1800),
            proxy_reset_after: Duration::from_secs(300),
            shard: false,
        }
    }
}

/// One way to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Index of the server.
    pub host: usize,
    /// The proxy.
    pub proxy: Proxy,
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Ask [`Selection::way`] again, after this time.
    Again(Duration),
    /// All ways were tried.
    GiveUp,
}

/// What one request has tried.
#[derive(Debug, Clone)]
pub struct Walk {
    only_host: Option<usize>,
    shard_key: u32,
    way: Option<Way>,
    retries: u32,
    backoff: Duration,
    no_cache: bool,
    /// Ways that failed by the proxy's fault, or by that of nobody knows whom.
    tried: Vec<Way>,
    /// Servers that failed by their own fault.
    failed_hosts: Vec<usize>,
    /// Routes left because they were slow; they are taken again when no other is left.
    slow: Vec<Way>,
    /// Only slow routes are left: their pace does not matter any more.
    unhurried: bool,
    /// Routes whose proxy may have given the answer that the server was blamed for.
    doubted: Vec<Way>,
    /// Attempts past the doubted proxies; 0 before the first.
    doubts: usize,
}

impl Walk {
    /// Starts a request; `shard_key` is the start of its content hash, 0 if it has none.
    pub fn new(only_host: Option<usize>, shard_key: u32) -> Self {
        Self {
            only_host,
            shard_key,
            way: None,
            retries: 0,
            backoff: Duration::ZERO,
            no_cache: false,
            tried: Vec::new(),
            failed_hosts: Vec::new(),
            slow: Vec::new(),
            unhurried: false,
            doubted: Vec::new(),
            doubts: 0,
        }
    }

    /// Tells whether a way was tried, or its server was found at fault.
    fn has_tried(&self, way: &Way) -> bool {
        self.failed_hosts.contains(&way.host) || self.tried.contains(way)
    }

    /// Tells whether caches on the way must be passed by: the last body was damaged.
    pub fn no_cache(&self) -> bool {
        self.no_cache
    }
}

/// A proxy as configured, and as used: one member for each of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    configured: Proxy,
    used: Proxy,
}

/// Servers and proxies of one repository.
#[derive(Debug)]
pub struct Selection {
    options: SelectionOptions,
    hosts: Vec<String>,
    host: usize,
    /// When the first server was left.
    host_left: Option<Instant>,
    groups: Vec<Vec<Member>>,
    group: usize,
    /// When the first group was left.
    group_left: Option<Instant>,
    burned: Vec<Proxy>,
    /// Wrong answers of proxies that another route proved wrong, since their last right one.
    proven_wrong: HashMap<Proxy, u32>,
    /// When the first member of the current group was burned.
    burning_since: Option<Instant>,
    chosen: Option<Proxy>,
    random: SmallRng,
}

impl Selection {
    /// Takes base URLs (templates expanded) and proxies.
    pub fn new(hosts: Vec<String>, proxies: &ProxySpec, options: SelectionOptions) -> Self {
        Self::seeded(hosts, proxies, options, rand::rng().random())
    }

    fn seeded(
        hosts: Vec<String>,
        proxies: &ProxySpec,
        options: SelectionOptions,
        seed: u64,
    ) -> Self {
        let member = |proxy: &Proxy| Member { configured: proxy.clone(), used: proxy.clone() };
        let groups = proxies.groups().iter().map(|group| group.iter().map(member).collect());
        Self {
            options,
            hosts: hosts.into_iter().map(|host| host.trim_end_matches('/').to_owned()).collect(),
            host: 0,
            host_left: None,
            groups: groups.collect(),
            group: 0,
            group_left: None,
            burned: Vec::new(),
            proven_wrong: HashMap::new(),
            burning_since: None,
            chosen: None,
            random: SmallRng::seed_from_u64(seed),
        }
    }

    /// Returns the base URLs in their order.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Returns the index of the server that the next request asks.
    pub fn current_host(&self) -> usize {
        self.host
    }

    /// Returns the proxy that the next request uses, unless it is chosen by hash.
    pub fn current_proxy(&self) -> Option<Proxy> {
        self.chosen.clone().or_else(|| Some(self.groups.get(self.group)?.first()?.used.clone()))
    }

    /// Returns all proxies as used, group by group.
    pub fn proxy_groups(&self) -> Vec<Vec<Proxy>> {
        let used = |group: &Vec<Member>| group.iter().map(|member| member.used.clone()).collect();
        self.groups.iter().map(used).collect()
    }

    /// Asks this server first from now on: it proved to have the best letters.
    pub fn prefer_host(&mut self, host: usize, now: Instant) {
        if host < self.hosts.len() && host != self.host {
            self.switch_host(host, now);
        }
    }

    /// Puts the servers into another order and starts with the first; `order` is a permutation of
    /// their indices, anything else is ignored.
    pub fn reorder_hosts(&mut self, order: &[usize], keep: usize) {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if sorted.iter().copied().eq(0..self.hosts.len()) {
            self.hosts = order.iter().map(|&index| self.hosts[index].clone()).collect();
            if keep > 0 {
                self.hosts.truncate(keep);
            }
            self.host = 0;
            self.host_left = None;
        }
    }

    /// Tells by which addresses a configured proxy is reached now. A change makes the current
    /// group as good as new (spec/network.md section 8).
    pub fn set_addresses(&mut self, configured: &Proxy, addresses: &[Proxy]) {
        for (index, group) in self.groups.iter_mut().enumerate() {
            let old: Vec<_> =
                group.iter().filter(|m| m.configured == *configured).map(|m| &m.used).collect();
            let same = old.len() == addresses.len() && addresses.iter().all(|a| old.contains(&a));
            if old.is_empty() || same || addresses.is_empty() {
                continue;
            }
            let at = group.iter().position(|m| m.configured == *configured).unwrap_or(0);
            group.retain(|m| m.configured != *configured);
            let fresh = addresses
                .iter()
                .map(|used| Member { configured: configured.clone(), used: used.clone() });
            group.splice(at..at, fresh);
            if index == self.group {
                self.burned.clear();
                self.burning_since = None;
                self.chosen = None;
            }
        }
    }

    /// Returns the way that a request tries now; `None` if there is no server.
    pub fn way(&mut self, walk: &mut Walk, now: Instant) -> Option<Way> {
        self.reset_when_due(now);
        if self.hosts.is_empty() {
            return None;
        }
        // Somebody may have given us other servers meanwhile.
        let is_known = |host: usize| host < self.hosts.len();
        walk.way = walk.way.take().filter(|way| is_known(way.host));
        let host = walk.only_host.unwrap_or(self.host);
        if !is_known(host) {
            return None;
        }
        let proxy = self.proxy(walk.shard_key)?;
        // A repetition stays where it was, whatever others have switched to.
        let way = walk.way.take().unwrap_or_else(|| {
            let way = Way { host, proxy };
            if walk.has_tried(&way) { self.untried(walk).unwrap_or(way) } else { way }
        });
        walk.way = Some(way.clone());
        Some(way)
    }

    /// Decides after a failure on the way that [`Selection::way`] returned last.
    pub fn failed(&mut self, walk: &mut Walk, failure: &Failure, now: Instant) -> Next {
        let Some(way) = walk.way.clone() else { return Next::GiveUp };
        if walk.doubts > 0 {
            return self.failed_past_doubted(walk, way, failure);
        }
        let hosts = if walk.only_host.is_some() { 1 } else { self.hosts.len() };
        let was_fresh = std::mem::take(&mut walk.no_cache);
        let class = match failure.class {
            FailureClass::Final => return Next::GiveUp,
            FailureClass::BadData if !was_fresh => {
                // Once more past a cache that may hold a damaged copy.
                walk.no_cache = true;
                return Next::Again(Duration::ZERO);
            }
            FailureClass::BadData => FailureClass::HostHttp,
            class => class,
        };
        // What this failure rules out for this request: a way, or all ways to a server.
        let mut ruled_out = walk.clone();
        let is_of_the_way = matches!(class, FailureClass::Slow | FailureClass::Busy);
        if class.is_proxy() || is_of_the_way {
            ruled_out.tried.push(way.clone());
        } else {
            ruled_out.failed_hosts.push(way.host);
        }
        if class == FailureClass::Slow {
            ruled_out.slow.push(way.clone());
        }
        let left = self.untried(&ruled_out);
        // A plea for patience is worth one repetition at the end of all ways; a cut only where
        // there is but one way, so that requests stay within (retries + 1) x proxies x servers.
        let alone = match failure.retry_after {
            Some(_) => left.is_none(),
            None => hosts == 1 && self.proxy_count() == 1,
        };
        let patient = failure.transient && alone && walk.retries == 0;
        let retry = class.is_transfer() && !was_fresh && walk.retries < self.options.max_retries;
        if (retry && (failure.retry_after.is_none() || alone)) || patient {
            walk.retries += 1;
            return Next::Again(match failure.retry_after {
                Some(asked) => asked.min(MAX_RETRY_AFTER),
                None => self.backoff(walk),
            });
        }
        *walk = ruled_out;
        walk.way = None;
        // Names that get new addresses again and again must not make this endless.
        let most = 2 * self.hosts.len() * self.proxy_count();
        if class.is_proxy() {
            self.burn(&way.proxy, now);
        }
        if left.is_none() || walk.tried.len() + walk.failed_hosts.len() > most {
            return self.last_ways(walk);
        }
        if is_of_the_way {
            if class == FailureClass::Slow {
                self.leave_slow(walk, &way, now);
            }
            return Next::Again(Duration::ZERO);
        }
        let leaves_host = !self.has_untried(walk, way.host);
        if leaves_host && class.is_proxy() {
            // The next server gets all proxies once more, from the first group.
            self.enter_group(0, now);
        }
        if leaves_host && way.host == self.host {
            self.switch_host((self.host + 1) % self.hosts.len(), now);
        }
        Next::Again(Duration::ZERO)
    }

    /// Finds a way that this request has not tried. There may be one also at its end: where others
    /// switch servers and proxies meanwhile, following them alone meets neither each proxy nor each
    /// server.
    fn untried(&self, walk: &Walk) -> Option<Way> {
        let hosts = (0..self.hosts.len()).filter(|host| walk.only_host.is_none_or(|h| h == *host));
        let proxies = || self.groups.iter().flatten().map(|member| member.used.clone());
        hosts
            .flat_map(|host| proxies().map(move |proxy| Way { host, proxy }))
            .find(|way| !walk.has_tried(way))
    }

    /// Tells whether a request has a way left to this server.
    fn has_untried(&self, walk: &Walk, host: usize) -> bool {
        let only = Walk { only_host: Some(host), ..walk.clone() };
        self.untried(&only).is_some()
    }

    fn backoff(&mut self, walk: &mut Walk) -> Duration {
        let Self { options, random, .. } = self;
        let wait = if walk.backoff.is_zero() {
            options.backoff_init.mul_f64(random.random())
        } else {
            walk.backoff * 2
        };
        walk.backoff = wait.min(options.backoff_max);
        walk.backoff
    }

    fn proxy_count(&self) -> usize {
        self.groups.iter().map(Vec::len).sum()
    }

    fn proxy(&mut self, shard_key: u32) -> Option<Proxy> {
        let group = self.groups.get(self.group)?;
        let left: Vec<_> =
            group.iter().map(|m| &m.used).filter(|proxy| !self.burned.contains(proxy)).collect();
        if self.options.shard {
            return choose(&left, shard_key).cloned();
        }
        if let Some(chosen) = self.chosen.as_ref().filter(|chosen| left.contains(chosen)) {
            return Some(chosen.clone());
        }
        let chosen = left.choose(&mut self.random).map(|proxy| (*proxy).clone());
        self.chosen.clone_from(&chosen);
        chosen
    }

    fn burn(&mut self, proxy: &Proxy, now: Instant) {
        let Some(group) = self.groups.get(self.group) else { return };
        if !group.iter().any(|m| m.used == *proxy) || self.burned.contains(proxy) {
            return;
        }
        self.burned.push(proxy.clone());
        let left = group.iter().filter(|m| !self.burned.contains(&m.used)).count();
        if left > 0 {
            self.burning_since.get_or_insert(now);
            self.chosen = None;
            tracing::warn!(burned = %proxy.display(), "switching proxy");
            return;
        }
        if self.groups.len() > 1 {
            tracing::warn!(group = self.group, "all proxies of the group fail, switching group");
        }
        self.enter_group((self.group + 1) % self.groups.len(), now);
    }

    fn enter_group(&mut self, group: usize, now: Instant) {
        self.group_left = if group == 0 { None } else { self.group_left.or(Some(now)) };
        self.group = group;
        self.burned.clear();
        self.burning_since = None;
        self.chosen = None;
    }

    fn switch_host(&mut self, host: usize, now: Instant) {
        tracing::warn!(from = %self.hosts[self.host], to = %self.hosts[host], "switching host");
        self.host_left = if host == 0 { None } else { self.host_left.or(Some(now)) };
        self.host = host;
    }

    fn reset_when_due(&mut self, now: Instant) {
        let due = |since: Option<Instant>, after: Duration| {
            !after.is_zero() && since.is_some_and(|since| now.duration_since(since) > after)
        };
        if due(self.host_left, self.options.host_reset_after) {
            tracing::info!(server = %self.hosts[0], "going back to the first server");
            self.host = 0;
            self.host_left = None;
        }
        if due(self.group_left, self.options.proxy_reset_after) {
            tracing::info!("going back to the first proxy group");
            self.enter_group(0, now);
        }
        if due(self.burning_since, self.options.proxy_reset_after) {
            tracing::info!("using all proxies of the group again");
            self.enter_group(self.group, now);
        }
    }
}

mod doubt;
mod slow;
mod steering;
#[cfg(test)]
mod tests;
