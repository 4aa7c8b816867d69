//! One HTML file with everything in it. Its policy forbids scripts and requests of any kind, so it
//! can be opened, mailed and archived as it is.

use std::fmt::Write as _;

use cvmfs_core::mirrors::{MirrorReport, Severity, SizeClass, Survey, WayReport};

use super::history::{History, Mark};
use super::plot::{Bar, bars, escape, slopes, strips};
use super::units::{milliseconds, rate, span, time};

const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#667;--line:#d8dce2;\
--dns:#8a63d2;--connect:#3477c8;--tls:#d08a1d;--first:#2f9e6e;--bar:#3477c8;--bad:#c0392b}\
@media(prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e6e8eb;--dim:#99a;--line:#333a42;\
--dns:#a98be6;--connect:#5f9be6;--tls:#e0a94a;--first:#4fc38f;--bar:#5f9be6;--bad:#ef6a5b}}\
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:84rem;padding:0 1rem;\
background:var(--bg);color:var(--fg)}h1{font-size:1.5rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}\
h3{font-size:.95rem;margin:1rem 0 .3rem;font-weight:600}p,li{max-width:60rem}small,.dim{color:var(--dim)}\
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.87rem;font-variant-numeric:tabular-nums}\
th,td{padding:.25rem .5rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}\
th{font-weight:600}td.text,th.text{text-align:left}svg{width:100%;max-width:900px;display:block}\
svg text{font-size:13px;fill:var(--fg)}svg .head{font-weight:600}.dns{fill:var(--dns)}\
.connect{fill:var(--connect)}.tls{fill:var(--tls)}.first{fill:var(--first)}.bar{fill:var(--bar)}\
.bad{fill:var(--bad)}.good{fill:var(--first)}.warn{fill:var(--tls)}line{stroke-width:2}.same{stroke:var(--first)}.moved{stroke:var(--tls)}\
.problem{color:var(--bad);font-weight:600}.key{display:inline-block;width:.8em;height:.8em;\
margin:0 .3em 0 1em}.key.dns{background:var(--dns)}.key.connect{background:var(--connect)}\
.key.tls{background:var(--tls)}.key.first,.key.good{background:var(--first)}.key.warn{background:var(--tls)}\
.key.bad{background:var(--bad)}";

/// Makes the page of some surveys, each with its own section.
pub fn page(surveys: &[Survey]) -> String {
    page_with_history(surveys, &History::default())
}

/// Makes the same page, with how servers were in earlier rounds.
pub fn page_with_history(surveys: &[Survey], history: &History) -> String {
    let names: Vec<_> = surveys.iter().map(|survey| escape(&survey.fqrn)).collect();
    let mut html = format!(
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>\
         <meta http-equiv='Content-Security-Policy' \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <meta name='viewport' content='width=device-width'>\
         <title>Mirrors of {}</title><style>{STYLE}</style></head><body>\n",
        names.join(", ")
    );
    for survey in surveys {
        section(&mut html, survey, history);
    }
    let _ = writeln!(
        html,
        "<p class='dim'>cvmfs-fuse {}. Servers are ordered by being right and new first, then by \
         the time for a mix of 100 small files and 20 MiB. Rates are of stored bytes, hashes are \
         checked after the time is taken.</p></body></html>",
        crate::VERSION
    );
    html
}

fn section(html: &mut String, survey: &Survey, history: &History) {
    let newest = survey.newest.as_ref().map_or_else(
        || "no server has an acceptable manifest".to_owned(),
        |newest| {
            let published = i64::try_from(newest.published).ok().filter(|time| *time > 0);
            let published = published.map_or(String::new(), |at| format!(", of {}", time(at)));
            format!("newest revision {}{published}", newest.revision)
        },
    );
    let _ = write!(
        html,
        "<h1>{}</h1><p>{} · {} mirrors · {} in {:.1} s · at most {} requests and {} MiB each</p>",
        escape(&survey.fqrn),
        newest,
        survey.mirrors.len(),
        time(survey.at),
        survey.seconds,
        survey.limits.requests,
        survey.limits.bytes >> 20,
    );
    faults(html, survey);
    table(html, survey);
    rounds(html, survey, history);
    steps(html, survey);
    rates(html, survey);
    ages(html, survey);
    order(html, survey);
}

fn faults(html: &mut String, survey: &Survey) {
    html.push_str("<h2>Faults</h2>");
    if let Some(reason) = &survey.sampling_failed {
        let _ = write!(html, "<p>No objects were chosen: {}</p>", escape(reason));
    }
    if survey.mirrors.iter().all(|mirror| mirror.faults.is_empty()) {
        html.push_str("<p>None.</p>");
        return;
    }
    html.push_str("<ul id='faults'>");
    for mirror in survey.ranked() {
        for fault in &mirror.faults {
            let class = match fault.severity {
                Severity::Problem => "problem",
                Severity::Warning => "warning",
            };
            let way = fault.way.as_ref().map_or(String::new(), |way| format!(" through {way}"));
            let _ = write!(
                html,
                "<li><span class='{class}'>{}</span> {}{}: {}</li>",
                fault.kind.name(),
                escape(&mirror.server),
                escape(&way),
                escape(&fault.message)
            );
        }
    }
    html.push_str("</ul>");
}

fn table(html: &mut String, survey: &Survey) {
    html.push_str(
        "<h2>Mirrors</h2><div class='scroll'><table id='mirrors'><tr><th>#</th>\
         <th class='text'>mirror</th><th class='text'>via</th><th>revision</th><th>behind</th>\
         <th>whitelist</th><th>DNS ms</th><th>connect ms</th><th>TLS ms</th><th>first byte ms</th>\
         <th>kept ms</th><th>protocol</th><th>best rate</th><th>objects right</th></tr>",
    );
    for mirror in survey.ranked() {
        for way in &mirror.ways {
            row(html, mirror, way);
        }
    }
    html.push_str("</table></div>");
}

fn row(html: &mut String, mirror: &MirrorReport, way: &WayReport) {
    let none = || "–".to_owned();
    let letters = mirror.letters.as_ref();
    let steps = way.connection.as_ref();
    let figure = |value: Option<f64>| value.map_or_else(none, milliseconds);
    let objects = &way.objects;
    let all = objects.verified + objects.corrupt + objects.missing + objects.failed;
    let best = way.throughput.iter().map(|figure| figure.rate).max_by(f64::total_cmp);
    let _ = write!(
        html,
        "<tr><td>{}</td><td class='text'>{}</td><td class='text'>{}</td>",
        mirror.rank,
        escape(&mirror.server),
        escape(&way.proxy)
    );
    for field in [
        letters.map_or_else(none, |letters| letters.revision.to_string()),
        mirror.lag.as_ref().map_or_else(none, |lag| span(lag.seconds)),
        letters.map_or_else(none, |letters| span(letters.whitelist_left)),
        figure(steps.and_then(|steps| steps.dns_ms)),
        figure(steps.map(|steps| steps.connect_ms)),
        figure(steps.and_then(|steps| steps.tls_ms)),
        figure(steps.map(|steps| steps.first_byte_ms)),
        figure(steps.and_then(|steps| steps.kept_ms)),
        steps.map_or_else(none, |steps| escape(&steps.protocol)),
        best.map_or_else(none, rate),
        if all == 0 { none() } else { format!("{} of {all}", objects.verified) },
    ] {
        let _ = write!(html, "<td>{field}</td>");
    }
    html.push_str("</tr>");
}

/// What a bar is called.
fn label(mirror: &MirrorReport, way: &WayReport) -> String {
    let server = mirror.server.split_once("://").map_or(&*mirror.server, |(_, rest)| rest);
    let host = server.split('/').next().unwrap_or(server);
    match mirror.ways.len() {
        1 => format!("{}. {host}", mirror.rank),
        _ => format!("{}. {host} via {}", mirror.rank, way.proxy),
    }
}

fn ranked_ways(survey: &Survey) -> impl Iterator<Item = (&MirrorReport, &WayReport)> {
    survey.ranked().into_iter().flat_map(|mirror| mirror.ways.iter().map(move |way| (mirror, way)))
}

/// One round alone is what the table says.
fn rounds(html: &mut String, survey: &Survey, history: &History) {
    let of = |mirror: &MirrorReport| history.of(&survey.fqrn, &mirror.server);
    let Some(first) = survey.mirrors.iter().flat_map(of).map(|moment| moment.at).min() else {
        return;
    };
    if first == survey.at {
        return;
    }
    let rows = survey.ranked().into_iter().map(|mirror| {
        let name = mirror.ways.first().map_or(String::new(), |way| label(mirror, way));
        let cells = of(mirror).into_iter().map(|moment| {
            let class = match moment.mark {
                Mark::Good => "good",
                Mark::Warning => "warn",
                Mark::Problem => "bad",
            };
            (class, moment.first_byte_ms)
        });
        (name, cells.collect())
    });
    let _ = write!(
        html,
        "<h2>Since {}</h2><p>Bars: time to the first byte. Below them: <span class='key good'>\
         </span>good<span class='key warn'></span>warning<span class='key bad'></span>problem</p>",
        time(first)
    );
    html.push_str(&strips("Rounds so far", &rows.collect::<Vec<_>>()));
}

fn steps(html: &mut String, survey: &Survey) {
    let drawn: Vec<_> = ranked_ways(survey)
        .filter_map(|(mirror, way)| {
            let steps = way.connection.as_ref()?;
            Some(Bar {
                label: label(mirror, way),
                parts: vec![
                    ("dns", steps.dns_ms.unwrap_or(0.0)),
                    ("connect", steps.connect_ms),
                    ("tls", steps.tls_ms.unwrap_or(0.0)),
                    ("first", steps.first_byte_ms),
                ],
                figure: format!("{} ms", milliseconds(steps.total_ms())),
            })
        })
        .collect();
    if drawn.is_empty() {
        return;
    }
    html.push_str(
        "<h2>Time to the first byte</h2><p><span class='key dns'></span>DNS\
         <span class='key connect'></span>connect<span class='key tls'></span>TLS\
         <span class='key first'></span>request</p>",
    );
    html.push_str(&bars("Time to the first byte by its steps", &drawn));
}

fn rates(html: &mut String, survey: &Survey) {
    let mut is_first = true;
    for class in SizeClass::ALL {
        let mut drawn = Vec::new();
        for (mirror, way) in ranked_ways(survey) {
            for figure in way.throughput.iter().filter(|figure| figure.class == class) {
                drawn.push(Bar {
                    label: format!("{} ×{}", label(mirror, way), figure.parallel),
                    parts: vec![("bar", figure.rate)],
                    figure: format!("{} ({} objects)", rate(figure.rate), figure.objects),
                });
            }
        }
        if drawn.is_empty() {
            continue;
        }
        if std::mem::take(&mut is_first) {
            html.push_str("<h2>Rates</h2><p>By size of objects; × downloads at a time.</p>");
        }
        let _ = write!(html, "<h3>{}, up to {} KiB</h3>", class.name(), class.most() >> 10);
        html.push_str(&bars(&format!("Rates of {} objects", class.name()), &drawn));
    }
}

#[allow(clippy::cast_precision_loss, reason = "lengths of bars")]
fn ages(html: &mut String, survey: &Survey) {
    let with_letters = || {
        survey.ranked().into_iter().filter_map(|mirror| Some((mirror, mirror.letters.as_ref()?)))
    };
    if with_letters().next().is_none() {
        return;
    }
    let name =
        |mirror: &MirrorReport| mirror.ways.first().map_or(String::new(), |way| label(mirror, way));
    let behind: Vec<_> = with_letters()
        .map(|(mirror, letters)| {
            let seconds = mirror.lag.as_ref().map_or(0, |lag| lag.seconds);
            let shown = match &mirror.lag {
                Some(lag) => format!("{} ({} revisions)", span(lag.seconds), lag.revisions),
                None => format!("newest, revision {}", letters.revision),
            };
            Bar { label: name(mirror), parts: vec![("bad", seconds as f64)], figure: shown }
        })
        .collect();
    html.push_str("<h2>Behind the newest revision</h2>");
    html.push_str(&bars("How far mirrors are behind", &behind));
    let left: Vec<_> = with_letters()
        .map(|(mirror, letters)| Bar {
            label: name(mirror),
            parts: vec![("bar", letters.whitelist_left.max(0) as f64)],
            figure: span(letters.whitelist_left),
        })
        .collect();
    html.push_str("<h2>Whitelist valid for</h2>");
    html.push_str(&bars("How long whitelists are valid", &left));
}

fn order(html: &mut String, survey: &Survey) {
    let geo = &survey.geo;
    let Some(told) = geo.answers.iter().find_map(|answer| answer.order.as_ref()) else { return };
    let names: Vec<_> = survey
        .mirrors
        .iter()
        .map(|mirror| mirror.ways.first().map_or(String::new(), |way| label(mirror, way)))
        .collect();
    html.push_str("<h2>Order of servers</h2>");
    if let Some(count) = geo.disagreements {
        let _ = write!(html, "<p>{count} of {} pairs the other way round.</p>", geo.pairs);
    }
    let heads = ["by the Geo API", "by first bytes"];
    html.push_str(&slopes("Order told and order measured", heads, [told, &geo.measured], &names));
}
