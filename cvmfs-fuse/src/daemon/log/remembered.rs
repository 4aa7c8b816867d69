//! The last messages of this process, for the attribute `user.logbuffer`.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::record::Record;

/// Messages that are kept.
const MAX_KEPT: usize = 100;
/// Bytes of each; as many of them as are kept fit in an attribute.
const MAX_LEN: usize = 500;
/// What is put in place of the rest, as upstream does.
const CUT: &str = " <snip>";

static KEPT: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Keeps a message.
pub(super) fn keep(record: &Record) {
    let time = jiff::Timestamp::try_from(record.time).unwrap_or_default();
    let local = time.to_zoned(jiff::tz::TimeZone::system());
    let mut line = format!("[{}] {}", local.strftime("%d %b %Y %H:%M:%S"), record.text());
    if line.len() > MAX_LEN {
        line.truncate(line.floor_char_boundary(MAX_LEN - CUT.len()));
        line.push_str(CUT);
    }
    let mut kept = KEPT.lock();
    kept.push_front(line);
    kept.truncate(MAX_KEPT);
}

/// Returns the last messages, newest first, a line each.
pub(crate) fn last() -> String {
    let kept = KEPT.lock();
    kept.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_messages_are_kept_the_newest_first_and_cut() {
        for number in 0..200 {
            let mut record = Record::new(tracing::Level::WARN, "test");
            record.message = format!("number {number} {}", "ä".repeat(number * 5));
            keep(&record);
        }
        let text = last();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), MAX_KEPT);
        assert!(lines[0].starts_with('[') && lines[0].contains("] number 199 "), "{}", lines[0]);
        assert!(lines[0].ends_with(CUT) && lines[0].len() <= MAX_LEN, "{}", lines[0]);
        assert!(lines[99].contains("] number 100 "), "{}", lines[99]);
        assert!(text.len() < 60_000);
    }
}
