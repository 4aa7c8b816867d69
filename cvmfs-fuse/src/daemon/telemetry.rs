//! Figures for InfluxDB, as upstream sends them (spec/filesystem.md section 17): from time to time a
//! UDP datagram with all figures, and from the second on how they changed.
//!
//! Nobody is waited for: a receiver that has no address, is down or far away costs a warning.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cvmfs_core::net::Names;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::serve::AbortOnDrop;
use crate::config::RepositorySettings;
use crate::config::parameters::telemetry::Telemetry;
use crate::talk::Desk;
use crate::talk::figures::METRICS;
use crate::talk::report::RepositoryStatus;

/// Sends figures of a repository for as long as what is returned lives; `None` if none are wanted.
pub(super) fn begin(desk: &Arc<Desk>, settings: &RepositorySettings) -> Option<AbortOnDrop> {
    let telemetry = &settings.parameters.telemetry;
    if !telemetry.send {
        return None;
    }
    let Telemetry { rate, host: Some(host), port: Some(port), metric: Some(metric), .. } =
        telemetry.clone()
    else {
        tracing::warn!(
            "no telemetry is sent: CVMFS_INFLUX_HOST, CVMFS_INFLUX_PORT and \
             CVMFS_INFLUX_METRIC_NAME are all needed"
        );
        return None;
    };
    let fqrn = settings.fqrn.to_string();
    let lines = Lines {
        measurement: metric,
        tags: joined(&format!("repo={fqrn}"), &telemetry.tags),
        fields: telemetry.fields.clone(),
        last: None,
    };
    let names = Names::new(settings.parameters.names.clone());
    let receiver = Receiver { names, host, port };
    let telling = tell(Arc::clone(desk), fqrn, lines, receiver, rate);
    Some(AbortOnDrop(tokio::spawn(telling)))
}

async fn tell(desk: Arc<Desk>, fqrn: String, mut lines: Lines, receiver: Receiver, rate: Duration) {
    let mut pace = interval_at(Instant::now() + rate, rate);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_failing = false;
    loop {
        pace.tick().await;
        let Some(status) = desk.status(&fqrn) else { return };
        let datagram = lines.next(&status, SystemTime::now());
        let sent = match receiver.address().await {
            Ok(address) => send(address, datagram.as_bytes()),
            Err(error) => Err(error),
        };
        match &sent {
            Ok(()) if is_failing => tracing::info!(fqrn, "telemetry is sent again"),
            Err(error) if !is_failing => tracing::warn!(fqrn, %error, "telemetry cannot be sent"),
            Ok(()) | Err(_) => {}
        }
        is_failing = sent.is_err();
    }
}

struct Receiver {
    names: Names,
    host: String,
    port: u16,
}

impl Receiver {
    async fn address(&self) -> io::Result<(IpAddr, u16)> {
        let found = self.names.lookup(&self.host).await.map_err(io::Error::other)?;
        let first = found.first().copied();
        Ok((first.ok_or(io::ErrorKind::AddrNotAvailable)?, self.port))
    }
}

/// Sends one datagram, or fails at once.
fn send(receiver: (IpAddr, u16), datagram: &[u8]) -> io::Result<()> {
    let own: IpAddr = match receiver.0 {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((own, 0))?;
    socket.set_nonblocking(true)?;
    socket.send_to(datagram, receiver).map(drop)
}

/// What is written, and was.
struct Lines {
    measurement: String,
    tags: String,
    fields: String,
    last: Option<BTreeMap<&'static str, f64>>,
}

impl Lines {
    /// Returns the next datagram.
    fn next(&mut self, status: &RepositoryStatus, now: SystemTime) -> String {
        let nanoseconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.as_nanos());
        let now: BTreeMap<_, _> = METRICS
            .iter()
            .filter_map(|metric| Some((metric.dotted, (metric.value)(status)?)))
            // As upstream: what never happened is not told.
            .filter(|(_, value)| *value != 0.0)
            .collect();
        let mut text = String::new();
        let Self { measurement, tags, fields, last } = self;
        let absolute = listed(now.iter().map(|(name, value)| (*name, *value)));
        let absolute = joined(&absolute, fields);
        let _ = writeln!(text, "{measurement}_absolute,{tags} {absolute} {nanoseconds}");
        if let Some(last) = last.replace(now.clone()) {
            let before = |name| last.get(name).copied().unwrap_or_default();
            let changed = listed(now.iter().map(|(name, value)| (*name, value - before(name))));
            let _ = writeln!(text, "{measurement}_delta,{tags} {changed} {nanoseconds}");
        }
        text
    }
}

fn listed(pairs: impl Iterator<Item = (&'static str, f64)>) -> String {
    pairs.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

fn joined(list: &str, extra: &str) -> String {
    if extra.is_empty() { list.to_owned() } else { format!("{list},{extra}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_upstream() {
        let mut lines = Lines {
            measurement: "m".to_owned(),
            tags: joined("repo=a.b.c", "site=x"),
            fields: "cores=4".to_owned(),
            last: None,
        };
        let mut status = RepositoryStatus { revision: 7, downloads: 3, ..Default::default() };
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(
            lines.next(&status, at(1)),
            "m_absolute,repo=a.b.c,site=x cvmfs.revision=7,download.n_downloads=3,cores=4 1000000000\n"
        );
        status.downloads = 5;
        status.hits = 2;
        assert_eq!(
            lines.next(&status, at(2)),
            "m_absolute,repo=a.b.c,site=x \
             cache.hits=2,cvmfs.revision=7,download.n_downloads=5,cores=4 2000000000\n\
             m_delta,repo=a.b.c,site=x \
             cache.hits=2,cvmfs.revision=0,download.n_downloads=2 2000000000\n"
        );
    }
}
