//! Every server through every proxy, and the order of servers that they tell: as `cvmfs_config chksetup`
//! asks (spec/config.md section 8).
//!
//! A mount is content with one way that works; whoever looks after a site wants to know of each that
//! does not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cvmfs_core::chain::chain;
use cvmfs_core::net::{Downloader, Proxy, ProxySpec, Selection, SelectionOptions, Timeouts, geo};
use futures_util::StreamExt as _;

use super::{LETTER_LIMIT, Ways};

/// Longest time for one server through one proxy.
const PAIR_LIMIT: Duration = Duration::from_secs(10);
/// Pairs that are asked at a time.
const AT_A_TIME: usize = 16;
/// Pairs of one repository that are asked; real sites have twenty.
const MOST_PAIRS: usize = 256;

/// One server through one proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Its base URL.
    pub server: String,
    /// Without a password.
    pub proxy: String,
    /// Why the manifest did not come, if it did not.
    pub failure: Option<String>,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// In the order of servers, and of proxies for each.
    pub pairs: Vec<Pair>,
    /// Pairs that were too many to ask.
    pub left_out: usize,
    /// Servers that tell no order, and why.
    pub without_order: Vec<(String, String)>,
}

impl Ways {
    /// Asks all; what is not answered at `end` has failed.
    pub async fn reach(&self, end: Instant) -> Reach {
        let proxies: Vec<&Proxy> = self.config.proxy.groups().iter().flatten().collect();
        let servers = &self.config.servers;
        let pairs = servers.iter().flat_map(|server| proxies.iter().map(move |via| (server, *via)));
        let asked = pairs.take(MOST_PAIRS).map(|(server, proxy)| async move {
            let failure = within(end, self.fetch_manifest(server, proxy)).await.err();
            Pair { server: server.clone(), proxy: proxy.display(), failure }
        });
        let asked = futures_util::stream::iter(asked).buffered(AT_A_TIME).collect::<Vec<_>>();
        let (pairs, without_order) = tokio::join!(asked, self.without_order(end));
        let left_out = (servers.len() * proxies.len()).saturating_sub(pairs.len());
        Reach { pairs, left_out, without_order }
    }

    async fn fetch_manifest(&self, server: &str, proxy: &Proxy) -> Result<(), String> {
        let spec = match proxy {
            Proxy::Direct => ProxySpec::direct(),
            Proxy::Url(url) => url.parse().map_err(|error| chain(&error))?,
        };
        let downloader = self.downloader(vec![server.to_owned()], &spec);
        let fetched = downloader.fetch_letter(".cvmfspublished", LETTER_LIMIT, 0).await;
        fetched.map(drop).map_err(|error| chain(&error))
    }

    /// Asks each server for the order of all, where a mount would ask.
    async fn without_order(&self, end: Instant) -> Vec<(String, String)> {
        let servers = &self.config.servers;
        let Some(options) = self.config.geo.as_ref().filter(|_| servers.len() > 1) else {
            return Vec::new();
        };
        let downloader = self.downloader(servers.clone(), &self.config.proxy);
        let downloader = &downloader;
        let asked = servers.iter().take(MOST_PAIRS).enumerate().map(|(host, server)| async move {
            let told = async {
                let order = geo::ask_one(downloader, host, servers, options).await;
                order.map(drop).map_err(|error| chain(&error))
            };
            Some((server.clone(), within(end, told).await.err()?))
        });
        let asked = futures_util::stream::iter(asked).buffered(AT_A_TIME);
        asked.filter_map(std::future::ready).collect().await
    }

    /// Nothing is repeated: one failure is what is looked for.
    fn downloader(&self, servers: Vec<String>, proxies: &ProxySpec) -> Downloader {
        let options = SelectionOptions { max_retries: 0, ..self.config.selection };
        let limit = |time: Duration| time.min(PAIR_LIMIT);
        let Timeouts { proxy, direct, low_speed_limit } = self.config.timeouts;
        let timeouts = Timeouts { proxy: limit(proxy), direct: limit(direct), low_speed_limit };
        let selection = Selection::new(servers, proxies, options);
        let transport = Arc::clone(&self.transport);
        Downloader::new(transport, selection, timeouts).resolving(self.config.names.clone())
    }
}

async fn within(
    end: Instant,
    asked: impl Future<Output = Result<(), String>>,
) -> Result<(), String> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err("not asked: everything together takes too long".to_owned());
    }
    let limit = left.min(PAIR_LIMIT);
    let late = |_| Err(format!("no answer within {:.0} s", limit.as_secs_f64()));
    tokio::time::timeout(limit, asked).await.unwrap_or_else(late)
}
