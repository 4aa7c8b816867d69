//! Durations, sizes and rates as people write them.

use std::time::Duration;

/// Shows seconds in the largest unit of which there are two.
pub fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Shows milliseconds with as many digits as matter.
pub fn milliseconds(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Shows bytes per second.
pub fn rate(bytes_per_second: f64) -> String {
    match bytes_per_second {
        ..1e3 => format!("{bytes_per_second:.0} B/s"),
        ..1e6 => format!("{:.1} kB/s", bytes_per_second / 1e3),
        _ => format!("{:.1} MB/s", bytes_per_second / 1e6),
    }
}

/// Shows a point in time, Unix seconds.
pub fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| "?".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// Reads `90`, `90s`, `5m`, `4h`, `2d`.
///
/// # Errors
/// If it is something else, or more than 136 years; the text says what is expected.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => 0,
    };
    let seconds = digits.parse::<u32>().ok().filter(|_| unit > 0);
    let seconds = seconds.and_then(|count| u64::from(count).checked_mul(unit));
    seconds.filter(|seconds| *seconds <= u64::from(u32::MAX)).map(Duration::from_secs).ok_or_else(
        || "expected a number of seconds, or one with s, m, h or d, as in 5m".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_shown() {
        for (text, seconds) in [("0", 0), ("90", 90), ("90s", 90), ("5m", 300), ("2d", 172_800)] {
            assert_eq!(parse_span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "s", "-1", "1.5h", "1 h", "5w", "4294967295d", "5é"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
        assert_eq!((span(-5), span(119)), ("0 s".to_owned(), "119 s".to_owned()));
        assert_eq!((span(7200), span(172_800)), ("2 h".to_owned(), "2 d".to_owned()));
        assert_eq!(rate(1_234_567.0), "1.2 MB/s");
        assert_eq!(milliseconds(0.123), "0.12");
        assert_eq!(time(0), "1970-01-01 00:00:00 UTC");
    }
}
