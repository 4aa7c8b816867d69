//! Servers, proxies, time limits.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use cvmfs_core::net::geo::{order, order_by_time, round_trips};
use cvmfs_core::net::{Downloader, Proxy, ProxySpec};
use serde::Serialize;

use super::Subject;
use crate::config::listed_servers;
use crate::talk::desk::Distance;
use crate::talk::wire::Reply;

/// Longest time limit that can be set.
const MAX_TIMEOUT: u64 = 3600;

#[derive(Serialize)]
struct HostInfo<'a> {
    servers: &'a [String],
    active: usize,
}

#[derive(Serialize)]
struct ProxyInfo {
    groups: Vec<Vec<String>>,
    active_group: usize,
    active: Option<String>,
    first_fallback_group: Option<usize>,
}

/// Answers commands about the regular servers, and with `external` in front about the others.
pub(super) async fn answer(subject: &Subject, command: &str) -> Option<Reply> {
    let fetcher = subject.fs.repository().fetcher();
    if let Some(command) = command.strip_prefix("external ") {
        let known = ["host", "proxy", "timeout"];
        if !known.iter().any(|start| command.starts_with(start)) {
            return None;
        }
        let Some(downloader) = fetcher.external() else {
            return Some(match command {
                "host info" => Reply::text("No hosts defined"),
                "proxy info" => Reply::text("No proxies defined"),
                _ => Reply::failed("Failed: no external servers are configured"),
            });
        };
        return about(subject, downloader, command, None).await;
    }
    let fallback = subject.served.settings.parameters.fallback_proxy.as_ref();
    about(subject, fetcher.downloader(), command, fallback).await
}

async fn about(
    subject: &Subject,
    downloader: &Downloader,
    command: &str,
    fallback: Option<&ProxySpec>,
) -> Option<Reply> {
    Some(match command {
        "host info" => host_info(subject, downloader),
        "host switch" => {
            downloader.selection(|selection| selection.next_host(Instant::now()));
            Reply::ok()
        }
        "host probe" => host_probe(subject, downloader).await,
        "host probe geo" => host_probe_geo(subject, downloader).await,
        "host set" => Reply::failed("Usage: host set URL[;URL...]"),
        "proxy info" => proxy_info(downloader, fallback),
        "proxy rebalance" => {
            downloader.selection(|selection| selection.rebalance());
            Reply::ok()
        }
        "proxy group switch" => {
            downloader.selection(|selection| selection.next_group(Instant::now()));
            Reply::ok()
        }
        "proxy set" => Reply::failed("Usage: proxy set PROXIES"),
        "proxy fallback" => Reply::failed("Usage: proxy fallback PROXIES"),
        "timeout info" => {
            let timeouts = downloader.timeouts();
            let (proxy, direct) = (timeouts.proxy.as_secs(), timeouts.direct.as_secs());
            let text = format!("Timeout with proxy: {proxy}s\nTimeout without proxy: {direct}s");
            Reply::text(text).with([proxy, direct])
        }
        "timeout set" => Reply::failed("Usage: timeout set PROXY DIRECT"),
        "nameserver get" => match subject.served.settings.parameters.names.server {
            Some(server) => Reply::text(format!("DNS server address: {}", server.ip())),
            None => Reply::text("DNS server not set."),
        },
        command if command.starts_with("nameserver set") => Reply::failed(
            "Failed: the name server of a live mount stays; give --set CVMFS_DNS_SERVER=IP to the next one",
        ),
        _ => {
            if let Some(list) = command.strip_prefix("host set ") {
                return Some(host_set(subject, downloader, list));
            }
            if let Some(list) = command.strip_prefix("proxy set ") {
                return Some(match list.parse::<ProxySpec>() {
                    Ok(spec) => {
                        downloader.set_proxies(&spec.with_fallback(fallback));
                        Reply::ok()
                    }
                    Err(error) => Reply::failed("Failed, no valid proxies").with(error.to_string()),
                });
            }
            if let Some(list) = command.strip_prefix("proxy fallback ") {
                return Some(set_fallback(downloader, list, fallback));
            }
            let limits = command.strip_prefix("timeout set ")?;
            set_timeouts(downloader, limits)
                .map_or_else(|| Reply::failed("Usage: timeout set PROXY DIRECT"), |()| Reply::ok())
        }
    })
}

fn host_info(subject: &Subject, downloader: &Downloader) -> Reply {
    let (servers, active) =
        downloader.selection(|selection| (selection.hosts().to_vec(), selection.current_host()));
    if servers.is_empty() {
        return Reply::text("No hosts defined");
    }
    let mut text = String::new();
    let distances = subject.served.distances.lock();
    for (index, server) in servers.iter().enumerate() {
        let state = match distances.get(server) {
            None => "unprobed".to_owned(),
            Some(Distance::Down) => "host down".to_owned(),
            Some(Distance::Ordered) => "geographically ordered".to_owned(),
            Some(Distance::Measured(time)) => format!("{} ms", time.as_millis()),
        };
        let _ = writeln!(text, "  [{index}] {server} ({state})");
    }
    drop(distances);
    let current = servers.get(active).map_or("", String::as_str);
    let _ = write!(text, "Active host {active}: {current}");
    Reply::text(text).with(HostInfo { servers: &servers, active })
}

async fn host_probe(subject: &Subject, downloader: &Downloader) -> Reply {
    let servers = downloader.hosts();
    let times = round_trips(downloader).await;
    if servers != downloader.hosts() || times.iter().all(Option::is_none) {
        return Reply::failed("Failed");
    }
    let known = servers
        .iter()
        .zip(&times)
        .map(|(server, time)| (server.clone(), time.map_or(Distance::Down, Distance::Measured)));
    *subject.served.distances.lock() = known.collect();
    downloader.selection(|selection| selection.reorder_hosts(&order_by_time(&times), 0));
    Reply::ok()
}

async fn host_probe_geo(subject: &Subject, downloader: &Downloader) -> Reply {
    let options = subject.served.settings.parameters.geo().unwrap_or_default();
    let Some(found) = order(downloader, &options).await else { return Reply::failed("Failed") };
    downloader.selection(|selection| selection.reorder_hosts(&found, 0));
    let servers = downloader.hosts();
    *subject.served.distances.lock() =
        servers.into_iter().map(|server| (server, Distance::Ordered)).collect();
    Reply::ok()
}

fn host_set(subject: &Subject, downloader: &Downloader, list: &str) -> Reply {
    match listed_servers("host set", list, subject.fs.repository().fqrn()) {
        Ok(servers) => {
            downloader.selection(|selection| selection.set_hosts(servers));
            subject.served.distances.lock().clear();
            Reply::ok()
        }
        Err(failure) => Reply::failed(format!("Failed: {}", failure.message)),
    }
}

fn proxy_info(downloader: &Downloader, fallback: Option<&ProxySpec>) -> Reply {
    let (groups, group, active) = downloader.selection(|selection| {
        (selection.members(), selection.current_group(), selection.current_proxy())
    });
    if groups.iter().flatten().all(|(configured, _)| *configured == Proxy::Direct) {
        return Reply::text("No proxies defined");
    }
    let active = active.map(|proxy| proxy.display());
    let mut text = "Load-balance groups:\n".to_owned();
    let shown = |(configured, used): &(Proxy, Proxy)| match configured == used {
        true => used.display(),
        false => format!("{} ({})", used.display(), name_of(configured)),
    };
    let lines: Vec<Vec<String>> =
        groups.iter().map(|group| group.iter().map(shown).collect()).collect();
    for (index, group) in lines.iter().enumerate() {
        let _ = writeln!(text, "[{index}] {}", group.join(", "));
    }
    let _ = write!(text, "Active proxy: [{group}] {}", active.as_deref().unwrap_or("none"));
    let first_fallback_group =
        fallback.and_then(|fallback| groups.len().checked_sub(fallback.groups().len()));
    if let Some(first) = first_fallback_group {
        let _ = write!(text, "\nFirst fallback group: [{first}]");
    }
    let groups =
        groups.iter().map(|group| group.iter().map(|(_, used)| used.display()).collect()).collect();
    Reply::text(text).with(ProxyInfo { groups, active_group: group, active, first_fallback_group })
}

fn name_of(proxy: &Proxy) -> String {
    let shown = proxy.display();
    let parsed = url::Url::parse(&shown).ok();
    parsed.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or(shown)
}

/// Replaces the groups behind the regular ones.
fn set_fallback(downloader: &Downloader, list: &str, before: Option<&ProxySpec>) -> Reply {
    let Ok(new) = list.parse::<ProxySpec>() else {
        return Reply::failed("Failed, no valid proxies");
    };
    let groups = downloader.selection(|selection| selection.configured_proxies());
    let regular = groups.len().saturating_sub(before.map_or(0, |spec| spec.groups().len()));
    let written: Vec<_> = groups
        .iter()
        .take(regular)
        .map(|group| {
            let of = |proxy: &Proxy| match proxy {
                Proxy::Direct => "DIRECT".to_owned(),
                Proxy::Url(url) => url.clone(),
            };
            group.iter().map(of).collect::<Vec<_>>().join("|")
        })
        .collect();
    match written.join(";").parse::<ProxySpec>() {
        Ok(regular) => {
            downloader.set_proxies(&regular.with_fallback(Some(&new)));
            Reply::ok()
        }
        Err(_) => Reply::failed("Failed, no valid proxies"),
    }
}

fn set_timeouts(downloader: &Downloader, limits: &str) -> Option<()> {
    let mut limits = limits
        .split(' ')
        .map(|text| text.parse::<u64>().ok().filter(|seconds| (1..=MAX_TIMEOUT).contains(seconds)));
    let (proxy, direct) = (limits.next()??, limits.next()??);
    if limits.next().is_some() {
        return None;
    }
    let mut timeouts = downloader.timeouts();
    (timeouts.proxy, timeouts.direct) = (Duration::from_secs(proxy), Duration::from_secs(direct));
    downloader.set_timeouts(timeouts);
    Some(())
}
