//! Comma-separated values (RFC 4180): a line for each way to each server, a header before them.

use cvmfs_core::mirrors::{MirrorReport, SizeClass, Survey, WayReport};

/// Columns before the rates; names are a contract.
const COLUMNS: [&str; 29] = [
    "fqrn",
    "at",
    "rank",
    "server",
    "proxy",
    "faults",
    "cost_ms",
    "address",
    "protocol",
    "keep_alive",
    "dns_ms",
    "connect_ms",
    "tls_ms",
    "first_byte_ms",
    "kept_ms",
    "letters_ms",
    "revision",
    "published",
    "behind_revisions",
    "behind_seconds",
    "whitelist_left",
    "clock_skew",
    "root_catalog",
    "verified",
    "corrupt",
    "missing",
    "failed",
    "requests",
    "bytes",
];

/// Returns all columns: the fixed ones and `CLASS_xN` for each size and each number of downloads at
/// a time, in bytes per second.
pub fn columns(parallel: &[usize]) -> Vec<String> {
    let rates = SizeClass::ALL.into_iter().flat_map(|class| {
        parallel.iter().map(move |parallel| format!("{}_x{parallel}", class.name()))
    });
    COLUMNS.into_iter().map(str::to_owned).chain(rates).collect()
}

/// Returns the header line.
pub fn header(parallel: &[usize]) -> String {
    line(columns(parallel))
}

/// Returns the lines of a survey, the best server first.
pub fn lines(survey: &Survey, parallel: &[usize]) -> String {
    let mut text = String::new();
    for mirror in survey.ranked() {
        for way in &mirror.ways {
            text.push_str(&line(fields(survey, mirror, way, parallel)));
        }
    }
    text
}

fn fields(
    survey: &Survey,
    mirror: &MirrorReport,
    way: &WayReport,
    parallel: &[usize],
) -> Vec<String> {
    fn text<T: ToString>(value: Option<T>) -> String {
        value.map_or_else(String::new, |value| value.to_string())
    }
    let number = |value: Option<f64>| text(value.map(|value| format!("{value:.3}")));
    let of_way = |other: &Option<String>| other.as_ref().is_none_or(|name| *name == way.proxy);
    let faults = mirror.faults.iter().filter(|fault| of_way(&fault.way));
    let faults: Vec<_> = faults.map(|fault| fault.kind.name()).collect();
    let (steps, letters) = (way.connection.as_ref(), mirror.letters.as_ref());
    let (lag, objects) = (mirror.lag.as_ref(), &way.objects);
    let root = serde_json::to_value(objects.root_catalog).unwrap_or_default();
    let mut fields = vec![
        survey.fqrn.clone(),
        survey.at.to_string(),
        mirror.rank.to_string(),
        mirror.server.clone(),
        way.proxy.clone(),
        faults.join(";"),
        number(mirror.cost_ms),
        text(steps.map(|steps| steps.address.as_str())),
        text(steps.map(|steps| steps.protocol.as_str())),
        text(steps.map(|steps| steps.keep_alive)),
        number(steps.and_then(|steps| steps.dns_ms)),
        number(steps.map(|steps| steps.connect_ms)),
        number(steps.and_then(|steps| steps.tls_ms)),
        number(steps.map(|steps| steps.first_byte_ms)),
        number(steps.and_then(|steps| steps.kept_ms)),
        number(way.letters_ms),
        text(letters.map(|letters| letters.revision)),
        text(letters.map(|letters| letters.published)),
        text(lag.map_or(letters.map(|_| 0), |lag| Some(lag.revisions))),
        text(lag.map_or(letters.map(|_| 0), |lag| Some(lag.seconds))),
        text(letters.map(|letters| letters.whitelist_left)),
        text(steps.and_then(|steps| steps.clock_skew)),
        root.as_str().unwrap_or_default().to_owned(),
        objects.verified.to_string(),
        objects.corrupt.to_string(),
        objects.missing.to_string(),
        objects.failed.to_string(),
        mirror.requests.to_string(),
        mirror.bytes.to_string(),
    ];
    for class in SizeClass::ALL {
        for parallel in parallel {
            let figure = way.throughput.iter();
            let mut figure = figure.filter(|f| (f.class, f.parallel) == (class, *parallel));
            fields.push(number(figure.next().map(|figure| figure.rate)));
        }
    }
    fields
}

fn line(fields: Vec<String>) -> String {
    let quoted = fields.into_iter().map(|field| match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field,
    });
    quoted.collect::<Vec<_>>().join(",") + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        let fields = ["a", "b,c", "d\"e", "f\ng", ""].map(str::to_owned).to_vec();
        assert_eq!(line(fields), "a,\"b,c\",\"d\"\"e\",\"f\ng\",\r\n");
        assert_eq!(columns(&[1, 6]).len(), COLUMNS.len() + 8);
        assert!(header(&[6]).ends_with("bytes,tiny_x6,small_x6,medium_x6,large_x6\r\n"));
    }
}
