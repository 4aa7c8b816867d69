//! Text that others have written, made harmless before a terminal, a log or a page shows it.
//!
//! Names in repositories, answers of servers, proxies and control sockets, and fields of messages may hold escape
//! sequences that rewrite a terminal, line ends that forge lines, and characters that reorder what is shown.
//! This is the one place that decides which characters are shown as they are:
//!
//! | function | for |
//! |---|---|
//! | [`for_terminal`] | a name of any bytes, unambiguously |
//! | [`one_line`] | a text within a line: a message, a cell of a table, a log line, a label |
//! | [`lines`] | a whole text before it is written to a terminal; what the other functions return is unchanged |
//! | [`json`] | an object as JSON, which stays JSON |
//!
//! Everything that commands print goes through [`lines`] at the place where it is written.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Tells whether a character must not be shown as it is: a control character, or one that reorders or breaks
/// lines without being one.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

fn push_escaped(text: &mut String, c: char) {
    let _ = match c {
        '\n' => write!(text, "\\n"),
        '\r' => write!(text, "\\r"),
        '\t' => write!(text, "\\t"),
        c if c.is_ascii() => write!(text, "\\x{:02x}", u32::from(c)),
        c => write!(text, "{}", c.escape_unicode()),
    };
}

fn escaped(text: &str, is_kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_bad = |c: char| is_harmful(c) && !is_kept(c);
    if !text.contains(is_bad) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_bad(c) { push_escaped(&mut safe, c) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

/// Returns a text for a place within a line.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// Returns a text of several lines for a terminal. Line ends, also those of CSV, and tabs stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    if text.contains("\r\n") {
        let parts: Vec<_> = text.split("\r\n").map(lines).collect();
        return Cow::Owned(parts.join("\r\n"));
    }
    escaped(text, |c| matches!(c, '\n' | '\t'))
}

/// Returns bytes that should be text, as [`lines`] does.
pub fn lines_of(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for piece in bytes.utf8_chunks() {
        text.push_str(&lines(piece.valid()));
        for byte in piece.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Returns JSON on one line whose strings hold no harmful character either.
///
/// # Errors
/// If the value cannot be written as JSON.
pub fn json(value: &impl serde::Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string(value)?;
    if !text.contains(is_harmful) {
        return Ok(text);
    }
    // serde_json escapes what is below a blank. All others can only be within strings.
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_harmful(c) {
            let _ = write!(safe, "\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    Ok(safe)
}

/// Returns `bytes` for a terminal: printable text as it is, everything else as `\xNN` or `\u{N}`,
/// the backslash doubled so that the result is unambiguous.
pub fn for_terminal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for piece in bytes.utf8_chunks() {
        for c in piece.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_ascii_control() => {
                    let _ = write!(text, "\\x{:02x}", u32::from(c));
                }
                c if is_harmful(c) => push_escaped(&mut text, c),
                c => text.push(c),
            }
        }
        for byte in piece.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (bytes, shown) in [
            (&b"plain name"[..], "plain name"),
            ("grün 日本".as_bytes(), "grün 日本"),
            (b"a\nb\x1b[31m\x7f", "a\\x0ab\\x1b[31m\\x7f"),
            (b"back\\slash", "back\\\\slash"),
            (b"bad\xff\xc3utf", "bad\\xff\\xc3utf"),
            ("\u{202e}txt\u{85}".as_bytes(), "\\u{202e}txt\\u{85}"),
            (b"", ""),
        ] {
            assert_eq!(for_terminal(bytes), shown);
        }
    }

    #[test]
    fn h8_nothing_that_others_wrote_moves_a_cursor_or_forges_a_line() {
        let hostile = "a\x1b[31mb\n\u{9b}2J\u{202e}\u{2028}\x7f\t\r";
        assert_eq!(one_line(hostile), "a\\x1b[31mb\\n\\u{9b}2J\\u{202e}\\u{2028}\\x7f\\t\\r");
        let shown = lines(hostile);
        assert_eq!(shown, "a\\x1b[31mb\n\\u{9b}2J\\u{202e}\\u{2028}\\x7f\t\\r");
        assert_eq!(lines(&shown), shown, "twice is once");
        assert_eq!(lines("a,b\r\nc\r,d\r\n"), "a,b\r\nc\\r,d\r\n");
        assert!(matches!(lines("gr\u{fc}n \\ \u{65e5}\n"), Cow::Borrowed(_)));
        assert_eq!(lines_of(b"\xff\x1bc\n"), "\\xff\\x1bc\n");
        let text = json(&[hostile]).unwrap();
        assert!(!text.contains(is_harmful), "{text}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&text).unwrap(), [hostile]);
    }
}
