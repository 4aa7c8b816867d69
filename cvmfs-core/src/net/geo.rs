//! The order of servers by distance: the Geo-API of the servers themselves (spec/network.md
//! section 9), or else measured round trips.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::seq::SliceRandom as _;

use super::{DownloadError, Downloader, Proxy};
use crate::chain::chain;

/// Longest wait for an order at mount; the configured one will do.
const ORDER_LIMIT: Duration = Duration::from_secs(3);
/// Servers asked for the order, one after the other.
const ASKED: usize = 3;
/// Longest reply: a few dozen small numbers.
const MAX_REPLY: u64 = 4096;
/// What is fetched to measure a round trip; every server has it.
const PROBE: &str = ".cvmfspublished";
/// Longest probe that is read; it is a manifest.
const MAX_PROBE: u64 = 64 * 1024;

/// How servers are ordered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GeoOptions {
    /// Whose position counts, instead of the proxy's or our own.
    pub site: Option<String>,
}

/// Finds the order of a downloader's servers, as indices, nearest first. `None` if there is nothing
/// to order or nobody can tell in time. Nothing is changed.
pub async fn order(downloader: &Downloader, options: &GeoOptions) -> Option<Vec<usize>> {
    if downloader.hosts().len() < 2 {
        return None;
    }
    let found = tokio::time::timeout(ORDER_LIMIT, async {
        match ask_servers(downloader, &downloader.hosts(), options).await {
            Some(order) => Some(order),
            None => probe(downloader).await,
        }
    });
    within_limit(found).await
}

/// Finds the order of other servers, as indices, by the Geo-API of the downloader's ones.
pub async fn order_others(
    downloader: &Downloader,
    others: &[String],
    options: &GeoOptions,
) -> Option<Vec<usize>> {
    if others.len() < 2 {
        return None;
    }
    within_limit(tokio::time::timeout(ORDER_LIMIT, ask_servers(downloader, others, options))).await
}

async fn within_limit(
    found: tokio::time::Timeout<impl Future<Output = Option<Vec<usize>>>>,
) -> Option<Vec<usize>> {
    match found.await {
        Ok(order) => order,
        Err(_) => {
            tracing::warn!("no order of servers within {ORDER_LIMIT:?}; using the configured one");
            None
        }
    }
}

async fn ask_servers(
    downloader: &Downloader,
    servers: &[String],
    options: &GeoOptions,
) -> Option<Vec<usize>> {
    let answering = downloader.hosts();
    let mut asked: Vec<usize> = (0..answering.len()).collect();
    asked.shuffle(&mut rand::rng());
    for host in asked.into_iter().take(ASKED) {
        match ask_one(downloader, host, servers, options).await {
            Ok(order) => return Some(order),
            Err(error) => {
                tracing::info!(server = %answering[host], error = %chain(&error), "no order of servers");
            }
        }
    }
    None
}

/// Why a server told no order.
#[derive(Debug, thiserror::Error)]
pub enum GeoError {
    /// No answer.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// Not each server once.
    #[error("its order of servers is no permutation")]
    Reply,
}

/// Asks one of the downloader's servers, `host`, for the order of `servers`, as indices, nearest
/// first.
pub async fn ask_one(
    downloader: &Downloader,
    host: usize,
    servers: &[String],
    options: &GeoOptions,
) -> Result<Vec<usize>, GeoError> {
    let hosts: Vec<_> = servers.iter().map(|url| host_of(url)).collect();
    // Sorted, so that all clients of a site ask the same and its proxy can answer.
    let mut sorted: Vec<usize> = (0..hosts.len()).collect();
    sorted.sort_by(|&a, &b| hosts[a].cmp(&hosts[b]));
    let list: Vec<_> = sorted.iter().map(|&index| hosts[index].as_str()).collect();
    let path = format!("api/v1.0/geo/{}/{}", site(downloader, options), list.join(","));
    let reply = downloader.fetch_letter(&path, MAX_REPLY, host).await?;
    parse(&reply, &sorted).ok_or(GeoError::Reply)
}

/// Whose distance is asked for: the site, the proxy, or nobody whom anyone could recognise.
fn site(downloader: &Downloader, options: &GeoOptions) -> String {
    if let Some(site) = &options.site {
        return site.clone();
    }
    match downloader.selection(|selection| selection.current_proxy()) {
        Some(Proxy::Url(url)) => host_of(&url),
        // Servers take the address of the request then. A new number each time: nothing is gained
        // from telling them which requests come from one machine.
        _ => format!("{:032x}", rand::random::<u128>()),
    }
}

fn host_of(url: &str) -> String {
    let parsed = url::Url::parse(url).ok();
    parsed.as_ref().and_then(url::Url::host_str).unwrap_or_default().to_owned()
}

/// Input of the fuzz target `geo_answer`.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    let (count, reply) = data.split_first().map_or((0, data), |(count, reply)| (*count, reply));
    let sorted: Vec<usize> = (0..usize::from(count)).rev().collect();
    if let Some(order) = parse(reply, &sorted) {
        assert_eq!(order.len(), sorted.len());
    }
}

/// Reads `2,1,3`: places in the sorted list, turned into indices as configured.
fn parse(reply: &[u8], sorted: &[usize]) -> Option<Vec<usize>> {
    let text = std::str::from_utf8(reply).ok()?;
    let places = text.trim().split(',').map(|place| place.trim().parse::<usize>().ok());
    let order: Option<Vec<_>> =
        places.map(|place| sorted.get(place?.checked_sub(1)?).copied()).collect();
    let order = order?;
    let mut all = order.clone();
    all.sort_unstable();
    all.iter().copied().eq(0..sorted.len()).then_some(order)
}

/// Measures the time of a second, small request to each server: the first one pays for names and
/// connections. `None` is a server that did not answer.
pub async fn round_trips(downloader: &Downloader) -> Vec<Option<Duration>> {
    let hosts = downloader.hosts();
    join_all((0..hosts.len()).map(|host| async move {
        downloader.fetch_letter(PROBE, MAX_PROBE, host).await.ok()?;
        let start = Instant::now();
        downloader.fetch_letter(PROBE, MAX_PROBE, host).await.ok()?;
        Some(start.elapsed())
    }))
    .await
}

/// Orders servers by their round trips, silent ones last.
pub fn order_by_time(times: &[Option<Duration>]) -> Vec<usize> {
    let mut order: Vec<_> = (0..times.len()).collect();
    order.sort_by_key(|&host| times[host].map_or((1, Duration::ZERO), |time| (0, time)));
    order
}

async fn probe(downloader: &Downloader) -> Option<Vec<usize>> {
    let times = round_trips(downloader).await;
    if times.iter().all(Option::is_none) {
        return None;
    }
    tracing::info!(?times, "servers ordered by round trips");
    Some(order_by_time(&times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_permutation_is_an_order() {
        // Sorted by name, the second of the configuration comes first.
        let sorted = [1, 0, 2];
        assert_eq!(parse(b"3, 1,2\n", &sorted), Some(vec![2, 1, 0]));
        for bad in ["", "1,2", "1,2,3,4", "1,1,2", "0,1,2", "1,2,x", "1;2;3", "\u{ff}1,2,3"] {
            assert_eq!(parse(bad.as_bytes(), &sorted), None, "{bad:?}");
        }
    }
}
