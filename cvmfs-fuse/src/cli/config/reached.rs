//! What the servers of all repositories say, in one time for all (spec/config.md section 8).

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use crate::cli::exit::Failure;
use crate::cli::runtime;
use crate::config::RepositorySettings;
use crate::config::inspect::reach::Reach;

/// Longest time for everything; a check of a site runs it by itself, and waits.
const LIMIT: Duration = Duration::from_secs(120);
/// Longest time to find proxies, where they are to be found.
const FINDING_LIMIT: Duration = Duration::from_secs(30);
/// Repositories that are asked for at a time.
const AT_A_TIME: usize = 4;

/// A line about the network.
pub(super) enum Line {
    /// A server that is not reached by one way: a mount is only as good as all of them.
    Error(String),
    /// It makes a mount slower, or nothing.
    Warning(String),
}

/// Asks the servers of every repository.
pub(super) fn ask(all: &[RepositorySettings]) -> Result<Vec<Line>, Failure> {
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let end = Instant::now() + LIMIT;
    let runtime = runtime()?;
    let lines = runtime.block_on(async {
        let asked = all.iter().map(|settings| ask_one(settings, end));
        let lines = futures_util::stream::iter(asked).buffered(AT_A_TIME).collect::<Vec<_>>().await;
        lines.into_iter().flatten().collect()
    });
    // A name server that does not answer keeps a thread.
    runtime.shutdown_background();
    Ok(lines)
}

async fn ask_one(settings: &RepositorySettings, end: Instant) -> Vec<Line> {
    let limit = FINDING_LIMIT.min(end.saturating_duration_since(Instant::now()));
    match tokio::time::timeout(limit, settings.ways()).await {
        Ok(Ok(ways)) => lines(settings.fqrn.as_str(), ways.reach(end).await),
        Ok(Err(failure)) => vec![Line::Error(format!("{}: {}", settings.fqrn, failure.message))],
        Err(_) => {
            let text = format!("{}: no proxy was found within {limit:.0?}", settings.fqrn);
            vec![Line::Error(text)]
        }
    }
}

fn lines(fqrn: &str, reach: Reach) -> Vec<Line> {
    let unreached = reach.pairs.into_iter().filter_map(|pair| {
        let why = pair.failure?;
        let (server, proxy) = (pair.server, pair.proxy);
        Some(Line::Error(format!("{server}/.cvmfspublished cannot be had through {proxy}: {why}")))
    });
    let disordered = reach.without_order.into_iter().map(|(server, why)| {
        Line::Warning(format!("{fqrn}: the Geo-API of {server} cannot be used: {why}"))
    });
    let left_out = (reach.left_out > 0).then(|| {
        let count = reach.left_out;
        Line::Warning(format!("{fqrn}: {count} more servers and proxies were not asked"))
    });
    unreached.chain(disordered).chain(left_out).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::inspect::reach::Pair;

    #[test]
    fn each_way_that_fails_is_an_error() {
        let pair = |proxy: &str, failure: Option<&str>| Pair {
            server: "http://s/x".to_owned(),
            proxy: proxy.to_owned(),
            failure: failure.map(str::to_owned),
        };
        let reach = Reach {
            pairs: vec![pair("http://p:1", Some("refused")), pair("DIRECT", None)],
            left_out: 3,
            without_order: vec![("http://s/x".to_owned(), "404".to_owned())],
        };
        let shown: Vec<_> = lines("x.example.org", reach)
            .into_iter()
            .map(|line| match line {
                Line::Error(text) => format!("E {text}"),
                Line::Warning(text) => format!("W {text}"),
            })
            .collect();
        let expected = [
            "E http://s/x/.cvmfspublished cannot be had through http://p:1: refused",
            "W x.example.org: the Geo-API of http://s/x cannot be used: 404",
            "W x.example.org: 3 more servers and proxies were not asked",
        ];
        assert_eq!(shown, expected);
    }
}
