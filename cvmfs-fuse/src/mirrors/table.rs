//! A survey as text for a terminal. What servers say is shown so that it cannot rewrite it.

use std::fmt::Write as _;

use cvmfs_core::mirrors::{Change, MirrorReport, Severity, SizeClass, Survey, WayReport};

use super::units::{milliseconds, rate, span, time};
use crate::cli::for_terminal;

/// Shows a survey: servers, rates, order, faults.
pub fn table(survey: &Survey) -> String {
    let mut text = heading(survey);
    text.push_str(&aligned(&rows(survey)));
    text.push_str(&rates(survey));
    text.push_str(&order(survey));
    text.push_str(&faults(survey));
    text
}

/// Shows what came and went since the last round, a line each.
pub fn changes(changes: &[Change]) -> String {
    let mut text = String::new();
    for Change { server, began, fault } in changes {
        let what = if *began { "new" } else { "gone" };
        let way = fault.way.as_ref().map_or(String::new(), |way| format!(" through {way}"));
        let message = for_terminal(fault.message.as_bytes());
        let _ = writeln!(text, "{what}: {server}{way}: {}: {message}", fault.kind.name());
    }
    text
}

fn heading(survey: &Survey) -> String {
    let Survey { fqrn, at, seconds, mirrors, .. } = survey;
    let newest = match &survey.newest {
        Some(newest) => {
            let age = i64::try_from(newest.published).ok().filter(|time| *time > 0);
            let age = age.map(|time| format!(", published {} ago", span(at - time)));
            format!("revision {}{}", newest.revision, age.unwrap_or_default())
        }
        None => "no acceptable manifest".to_owned(),
    };
    let (requests, bytes) = mirrors
        .iter()
        .fold((0, 0), |(requests, bytes), m| (requests + m.requests, bytes + m.bytes));
    format!(
        "{fqrn}: {newest}\n{}: {} mirrors asked in {seconds:.1} s, {requests} requests, {:.1} MB\n\n",
        time(*at),
        mirrors.len(),
        to_mega(bytes),
    )
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn to_mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn rows(survey: &Survey) -> Vec<Vec<String>> {
    let head = [
        "#",
        "MIRROR",
        "VIA",
        "REVISION",
        "BEHIND",
        "WHITELIST",
        "DNS",
        "CONNECT",
        "TLS",
        "1ST BYTE",
        "KEPT",
        "HTTP",
        "BEST RATE",
        "OBJECTS",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for mirror in survey.ranked() {
        for (place, way) in mirror.ways.iter().enumerate() {
            rows.push(row(mirror, way, place == 0));
        }
    }
    rows
}

fn row(mirror: &MirrorReport, way: &WayReport, is_first: bool) -> Vec<String> {
    let none = || "-".to_owned();
    let first = |value: String| if is_first { value } else { String::new() };
    let letters = mirror.letters.as_ref();
    let steps = way.connection.as_ref();
    let time = |value: Option<f64>| value.map_or_else(none, milliseconds);
    let best = way.throughput.iter().map(|figure| figure.rate).max_by(f64::total_cmp);
    let objects = &way.objects;
    let all = objects.verified + objects.corrupt + objects.missing + objects.failed;
    vec![
        first(mirror.rank.to_string()),
        first(mirror.server.clone()),
        way.proxy.clone(),
        first(letters.map_or_else(none, |letters| letters.revision.to_string())),
        first(mirror.lag.as_ref().map_or_else(none, |lag| span(lag.seconds))),
        first(letters.map_or_else(none, |letters| span(letters.whitelist_left))),
        time(steps.and_then(|steps| steps.dns_ms)),
        time(steps.map(|steps| steps.connect_ms)),
        time(steps.and_then(|steps| steps.tls_ms)),
        time(steps.map(|steps| steps.first_byte_ms)),
        time(steps.and_then(|steps| steps.kept_ms)),
        steps.map_or_else(none, |steps| steps.protocol.trim_start_matches("HTTP/").to_owned()),
        best.map_or_else(none, rate),
        if all == 0 { none() } else { format!("{}/{all} right", objects.verified) },
    ]
}

fn rates(survey: &Survey) -> String {
    let mut kinds: Vec<(SizeClass, usize)> = Vec::new();
    let ways = || survey.mirrors.iter().flat_map(|mirror| &mirror.ways);
    for figure in ways().flat_map(|way| &way.throughput) {
        let kind = (figure.class, figure.parallel);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    if kinds.is_empty() {
        return String::new();
    }
    kinds.sort_unstable();
    let mut rows = vec![
        ["#".to_owned(), "VIA".to_owned()]
            .into_iter()
            .chain(kinds.iter().map(|(class, parallel)| format!("{} x{parallel}", class.name())))
            .collect::<Vec<_>>(),
    ];
    for mirror in survey.ranked() {
        for way in mirror.ways.iter().filter(|way| !way.throughput.is_empty()) {
            let figures = kinds.iter().map(|kind| {
                let mut figures = way.throughput.iter();
                let figure = figures.find(|figure| (figure.class, figure.parallel) == *kind);
                figure.map_or_else(|| "-".to_owned(), |figure| rate(figure.rate))
            });
            rows.push(
                [mirror.rank.to_string(), way.proxy.clone()].into_iter().chain(figures).collect(),
            );
        }
    }
    let classes: Vec<_> = SizeClass::ALL
        .iter()
        .map(|class| format!("{} up to {} KiB", class.name(), class.most() >> 10))
        .collect();
    format!("\nRates by size ({}) and downloads at a time:\n{}", classes.join(", "), aligned(&rows))
}

fn order(survey: &Survey) -> String {
    let geo = &survey.geo;
    let rank = |place: &usize| {
        survey.mirrors.get(*place).map_or_else(|| "?".to_owned(), |mirror| mirror.rank.to_string())
    };
    let shown = |order: &[usize]| order.iter().map(rank).collect::<Vec<_>>().join(" ");
    let Some(told) = geo.answers.iter().find_map(|answer| answer.order.as_ref()) else {
        return match geo.answers.is_empty() {
            true => String::new(),
            false => "\nOrder of servers: none of them tells one (Geo API)\n".to_owned(),
        };
    };
    let agreement = match geo.disagreements {
        Some(0) => "they agree".to_owned(),
        Some(count) => format!("{count} of {} pairs the other way round", geo.pairs),
        None => String::new(),
    };
    format!(
        "\nOrder of servers: {} by the Geo API, {} by first bytes: {agreement}\n",
        shown(told),
        shown(&geo.measured)
    )
}

fn faults(survey: &Survey) -> String {
    let mut text = String::new();
    if let Some(reason) = &survey.sampling_failed {
        let reason = for_terminal(reason.as_bytes());
        let _ = writeln!(text, "\nNo objects were chosen: {reason}");
    }
    for mirror in survey.ranked() {
        for fault in &mirror.faults {
            let severity = match fault.severity {
                Severity::Warning => "warning",
                Severity::Problem => "PROBLEM",
            };
            let way = fault.way.as_ref().map_or(String::new(), |way| format!(" through {way}"));
            let message = for_terminal(fault.message.as_bytes());
            let lead = if text.is_empty() { "\n" } else { "" };
            let kind = fault.kind.name();
            let _ = writeln!(text, "{lead}{severity} {}{way}: {kind}: {message}", mirror.server);
        }
    }
    text
}

/// Columns as wide as their widest field.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|field| field.chars().count()).max()
    };
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let fields = row.iter().zip(&widths).map(|(field, width)| format!("{field:<width$}"));
        let line = fields.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
