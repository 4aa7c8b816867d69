//! From what was found to faults, ages and the order of servers.

use super::Examined;
use super::limits::Tolerance;
use super::meter::Meter;
use super::report::{
    Fault, FaultKind, Geo, GeoAnswer, Lag, LettersReport, MirrorReport, Newest, ObjectOutcome,
    Severity, WayReport,
};
use super::way::{FoundLetters, Refusal, Way};
use crate::chain::chain;
use crate::format::manifest::Manifest;
use crate::letters::ServerError;
use crate::net::DownloadError;
use crate::trust::{TrustError, Verified};

/// Differences of clocks that nobody needs to know of: the Date header has whole seconds, caches may
/// not tell how old an answer is, and a manifest is kept for up to 61 s.
const UNIMPORTANT_SKEW: u64 = 180;
/// The mix of files that servers of equal worth are ordered by: small ones, one after the other,
const MIX_ROUND_TRIPS: f64 = 100.0;
/// and bytes at the best rate that was measured.
const MIX_BYTES: f64 = 20.0 * 1024.0 * 1024.0;

/// What all servers are judged by.
pub(super) struct Found<'a> {
    /// Unix seconds.
    pub(super) now: i64,
    pub(super) newest: Option<&'a Verified<Manifest>>,
    pub(super) geo: Vec<GeoAnswer>,
    pub(super) tolerance: Tolerance,
}

/// Judges all servers.
pub(super) fn judge(
    examined: &[Examined],
    found: Found<'_>,
    meter: &Meter,
) -> (Vec<MirrorReport>, Geo) {
    let newest = found.newest.map(|manifest| Newest {
        revision: manifest.revision,
        published: manifest.published,
        root_catalog: manifest.root_catalog.to_string(),
    });
    let mut mirrors: Vec<_> = examined
        .iter()
        .map(|mirror| {
            let letters = mirror.letters();
            let own = letters.map(|letters| (&*letters.manifest, &newest));
            let lag = own.and_then(|(own, newest)| {
                lag(own.revision, own.published, newest.as_ref()?, found.now)
            });
            let ways: Vec<_> = mirror.ways.iter().map(report).collect();
            let used = meter.used(&mirror.server);
            let mut faults = Vec::new();
            of_letters(letters, &newest, lag.as_ref(), &found, &mut faults);
            for (way, shown) in mirror.ways.iter().zip(&ways) {
                of_way(way, shown, lag.is_some(), &mut faults);
            }
            MirrorReport {
                server: mirror.server.clone(),
                rank: 0,
                cost_ms: None,
                letters: letters.map(|letters| LettersReport {
                    revision: letters.manifest.revision,
                    published: letters.manifest.published,
                    whitelist_expires: letters.whitelist_expires,
                    whitelist_left: letters.whitelist_expires.saturating_sub(found.now),
                }),
                lag,
                ways,
                requests: used.requests,
                bytes: used.bytes,
                faults: for_all_ways(faults, mirror.ways.len()),
            }
        })
        .collect();
    set_costs(&mut mirrors);
    rank(&mut mirrors);
    let geo = compare(&mirrors, found.geo);
    (mirrors, geo)
}

fn report(way: &Way) -> WayReport {
    let took = way.letters.as_ref().ok().map(|letters| letters.took.as_secs_f64() * 1e3);
    WayReport {
        proxy: way.proxy.display(),
        connection: way.connection.clone(),
        letters_ms: took,
        objects: way.objects.clone(),
        throughput: way.throughput.clone(),
    }
}

/// Seconds for people, in the largest unit of which there are two.
fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Estimates since when a server lacks something.
fn lag(revision: u64, published: u64, newest: &Newest, now: i64) -> Option<Lag> {
    let revisions = newest.revision.checked_sub(revision).filter(|behind| *behind > 0)?;
    let seconds = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
    let (own, last) = (seconds(published), seconds(newest.published));
    if own == 0 || last == 0 {
        // Manifests of old server tools tell no time.
        return Some(Lag { revisions, seconds: 0 });
    }
    let between = last.saturating_sub(own).max(0) / i64::try_from(revisions).unwrap_or(i64::MAX);
    let lacking_since = own.saturating_add(between);
    Some(Lag { revisions, seconds: now.saturating_sub(lacking_since).max(0) })
}

fn of_letters(
    letters: Option<&FoundLetters>,
    newest: &Option<Newest>,
    lag: Option<&Lag>,
    found: &Found<'_>,
    faults: &mut Vec<Fault>,
) {
    let mut add = |kind, severity, message: String| {
        faults.push(Fault { kind, severity, way: None, message });
    };
    let (Some(letters), Some(newest)) = (letters, newest) else { return };
    if let Some(lag) = lag {
        let severity = match lag.seconds > found.tolerance.lag {
            true => Severity::Problem,
            false => Severity::Warning,
        };
        let plural = if lag.revisions == 1 { "" } else { "s" };
        let message =
            format!("{} revision{plural} behind, for {}", lag.revisions, span(lag.seconds));
        add(FaultKind::Stale, severity, message);
    }
    let root = letters.manifest.root_catalog.to_string();
    if lag.is_none() && root != newest.root_catalog {
        let message = format!(
            "revision {} is {root} here and {} elsewhere",
            newest.revision, newest.root_catalog
        );
        add(FaultKind::Diverged, Severity::Problem, message);
    }
    let left = letters.whitelist_expires.saturating_sub(found.now);
    if left < found.tolerance.whitelist {
        let message = format!("the whitelist expires in {}", span(left));
        add(FaultKind::WhitelistExpiring, Severity::Problem, message);
    }
}

fn of_way(way: &Way, shown: &WayReport, is_behind: bool, faults: &mut Vec<Fault>) {
    let mut add = |kind, severity, message: String| {
        faults.push(Fault { kind, severity, way: Some(shown.proxy.clone()), message });
    };
    if let Err(refusal) = &way.letters {
        add(kind_of(refusal), Severity::Problem, chain(refusal));
    }
    let objects = &way.objects;
    let notes = || objects.notes.join("; ");
    if objects.corrupt > 0 {
        let message = format!("{} downloads were damaged: {}", objects.corrupt, notes());
        add(FaultKind::Corrupt, Severity::Problem, message);
    }
    let lacks_root = objects.root_catalog == ObjectOutcome::Missing;
    // What is newer than its own revision need not be there yet.
    if lacks_root || (objects.missing > 0 && !is_behind) {
        let message = format!("{} objects are not there: {}", objects.missing, notes());
        add(FaultKind::Missing, Severity::Problem, message);
    }
    if objects.failed > 0 {
        let message = format!("{} objects were not sent: {}", objects.failed, notes());
        add(FaultKind::Failing, Severity::Problem, message);
    }
    if let Some(connection) = &shown.connection {
        if !connection.keep_alive {
            let message = "connections are closed after each answer".to_owned();
            add(FaultKind::NoKeepAlive, Severity::Warning, message);
        }
        if let Some(skew) = connection.clock_skew
            && skew.unsigned_abs() >= UNIMPORTANT_SKEW
        {
            let message = format!("its clock differs from ours by {skew} s");
            add(FaultKind::Clock, Severity::Warning, message);
        }
        if connection.made < connection.tried {
            let (made, tried) = (connection.made, connection.tried);
            let message = format!("{made} of {tried} connections were answered");
            add(FaultKind::Unreachable, Severity::Warning, message);
        }
    }
}

fn kind_of(refusal: &Refusal) -> FaultKind {
    let of_download = |error: &DownloadError| match error.is_absence() {
        true => FaultKind::Absent,
        false => FaultKind::Unreachable,
    };
    match refusal {
        Refusal::Connection(_) | Refusal::UsedUp | Refusal::TooSlow(_) => FaultKind::Unreachable,
        Refusal::Letters(ServerError::Manifest(error) | ServerError::Whitelist(error)) => {
            of_download(error)
        }
        Refusal::Letters(ServerError::Trust(TrustError::WhitelistExpired { .. })) => {
            FaultKind::WhitelistExpired
        }
        // It cannot be told whether the certificate is damaged or away; nothing is verified.
        Refusal::Letters(ServerError::Certificate(_) | ServerError::Trust(_)) => {
            FaultKind::Untrusted
        }
    }
}

/// A fault that all ways have alike is one of the server.
fn for_all_ways(faults: Vec<Fault>, ways: usize) -> Vec<Fault> {
    let mut merged: Vec<Fault> = Vec::new();
    for fault in &faults {
        if merged.iter().any(|known| {
            known.kind == fault.kind && (known.way.is_none() || known.way == fault.way)
        }) {
            continue;
        }
        let alike = faults.iter().filter(|other| {
            (other.kind, other.severity) == (fault.kind, fault.severity) && other.way.is_some()
        });
        let way = fault.way.clone().filter(|_| ways > 1 && alike.count() < ways);
        merged.push(Fault { way, ..fault.clone() });
    }
    merged
}

/// Sets what each server costs by its best way. One whose rate could not be measured is taken to be
/// as slow as the slowest: what is not known must not be an advantage.
fn set_costs(mirrors: &mut [MirrorReport]) {
    let ways = || mirrors.iter().flat_map(|mirror| &mirror.ways);
    let slowest = ways().filter_map(best_rate).min_by(f64::total_cmp);
    for mirror in mirrors {
        let costs = mirror.ways.iter().filter_map(|way| cost(way, slowest));
        mirror.cost_ms = costs.min_by(f64::total_cmp);
    }
}

fn best_rate(way: &WayReport) -> Option<f64> {
    way.throughput.iter().map(|figure| figure.rate).max_by(f64::total_cmp)
}

/// Milliseconds for the mix of files by one way.
fn cost(way: &WayReport, slowest: Option<f64>) -> Option<f64> {
    way.letters_ms?;
    let small = way.connection.as_ref().map_or(0.0, |connection| {
        connection.total_ms()
            + MIX_ROUND_TRIPS * connection.kept_ms.unwrap_or_else(|| connection.total_ms())
    });
    let large = best_rate(way).or(slowest).map_or(0.0, |rate| MIX_BYTES / rate.max(1.0) * 1e3);
    Some(small + large)
}

/// How much a server is worth whatever its speed: the smaller the better.
fn tier(mirror: &MirrorReport) -> u8 {
    let of = |fault: &Fault| match (fault.kind, fault.severity) {
        (_, Severity::Warning) => 0,
        (FaultKind::Stale | FaultKind::WhitelistExpiring | FaultKind::Clock, _) => 1,
        (FaultKind::NoKeepAlive | FaultKind::Failing, _) => 1,
        // A proxy that does not lead to it is not its fault.
        (FaultKind::Unreachable, _) if fault.way.is_some() => 1,
        (FaultKind::Missing | FaultKind::Corrupt | FaultKind::Diverged, _) => 2,
        (FaultKind::Untrusted | FaultKind::WhitelistExpired, _) => 3,
        (FaultKind::Unreachable | FaultKind::Absent, _) => 4,
    };
    mirror.faults.iter().map(of).max().unwrap_or(0)
}

fn rank(mirrors: &mut [MirrorReport]) {
    let mut order: Vec<_> = (0..mirrors.len()).collect();
    order.sort_by(|&a, &b| {
        let cost = |place: usize| mirrors[place].cost_ms.unwrap_or(f64::INFINITY);
        let tiers = tier(&mirrors[a]).cmp(&tier(&mirrors[b]));
        tiers.then_with(|| cost(a).total_cmp(&cost(b))).then(a.cmp(&b))
    });
    for (rank, place) in (1..).zip(order) {
        mirrors[place].rank = rank;
    }
}

/// Compares the first order that was told with the one of the first bytes.
fn compare(mirrors: &[MirrorReport], answers: Vec<GeoAnswer>) -> Geo {
    let first_byte = |place: usize| {
        let ways = mirrors[place].ways.iter();
        let times = ways.filter_map(|way| way.connection.as_ref());
        // The name is looked up once, the rest depends on the distance.
        times.map(|steps| steps.total_ms() - steps.dns_ms.unwrap_or(0.0)).min_by(f64::total_cmp)
    };
    let mut measured: Vec<_> = (0..mirrors.len())
        .filter_map(|place| first_byte(place).map(|time| (place, time)))
        .collect();
    measured.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    let measured: Vec<_> = measured.into_iter().map(|(place, _)| place).collect();
    let told = answers.iter().find_map(|answer| answer.order.clone());
    let (mut pairs, mut disagreements) = (0, 0);
    if let Some(told) = &told {
        let rank = |place: &usize| told.iter().position(|other| other == place);
        for (at, nearer) in measured.iter().enumerate() {
            for farther in &measured[at + 1..] {
                pairs += 1;
                disagreements += usize::from(rank(nearer) > rank(farther));
            }
        }
    }
    Geo { answers, measured, disagreements: told.map(|_| disagreements), pairs }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest(revision: u64, published: u64) -> Newest {
        Newest { revision, published, root_catalog: "r".to_owned() }
    }

    #[test]
    fn lag_is_since_when_something_is_lacking() {
        let now = 100_000;
        let lag = |revision, published| lag(revision, published, &newest(10, 90_000), now);
        assert_eq!(lag(10, 90_000), None);
        // Published rarely: a mirror that is late by minutes is late by minutes.
        assert_eq!(lag(9, 1), Some(Lag { revisions: 1, seconds: 10_000 }));
        // Published often: one that is dead for long is late for long.
        assert_eq!(lag(0, 10), Some(Lag { revisions: 10, seconds: 90_991 }));
        assert_eq!(lag(0, 0), Some(Lag { revisions: 10, seconds: 0 }));
        // Nonsense stays in bounds.
        assert_eq!(lag(9, u64::MAX).map(|lag| lag.seconds), Some(0));
        assert!(super::lag(1, 5, &newest(u64::MAX, 0), i64::MAX).is_some());
    }

    fn mirror(server: &str, kinds: &[(FaultKind, Severity)], cost_ms: Option<f64>) -> MirrorReport {
        let fault = |(kind, severity): &(FaultKind, Severity)| Fault {
            kind: *kind,
            severity: *severity,
            way: None,
            message: String::new(),
        };
        MirrorReport {
            server: server.to_owned(),
            rank: 0,
            cost_ms,
            letters: None,
            lag: None,
            ways: Vec::new(),
            requests: 0,
            bytes: 0,
            faults: kinds.iter().map(fault).collect(),
        }
    }

    #[test]
    fn right_and_new_comes_before_fast() {
        use FaultKind::{Corrupt, NoKeepAlive, Stale, Unreachable};
        let mut mirrors = [
            mirror("corrupt", &[(Corrupt, Severity::Problem)], Some(1.0)),
            mirror("away", &[(Unreachable, Severity::Problem)], None),
            mirror("stale", &[(Stale, Severity::Problem)], Some(2.0)),
            mirror("slow", &[], Some(90.0)),
            mirror("fast", &[(NoKeepAlive, Severity::Warning)], Some(9.0)),
            mirror("a bit late", &[(Stale, Severity::Warning)], Some(10.0)),
        ];
        rank(&mut mirrors);
        mirrors.sort_by_key(|mirror| mirror.rank);
        let order: Vec<_> = mirrors.iter().map(|mirror| mirror.server.as_str()).collect();
        assert_eq!(order, ["fast", "a bit late", "slow", "stale", "corrupt", "away"]);
        assert_eq!(mirrors[0].rank, 1);
    }

    #[test]
    fn what_every_way_has_is_the_servers() {
        let fault = |way: &str, kind| Fault {
            kind,
            severity: Severity::Problem,
            way: Some(way.to_owned()),
            message: way.to_owned(),
        };
        let corrupt = |way| fault(way, FaultKind::Corrupt);
        let away = |way| fault(way, FaultKind::Unreachable);
        let merged = for_all_ways(vec![corrupt("p"), away("p"), corrupt("DIRECT")], 2);
        let shown: Vec<_> = merged.iter().map(|fault| (fault.kind, fault.way.as_deref())).collect();
        assert_eq!(shown, [(FaultKind::Corrupt, None), (FaultKind::Unreachable, Some("p"))]);
        assert_eq!(for_all_ways(vec![away("DIRECT")], 1)[0].way, None);
    }
}
