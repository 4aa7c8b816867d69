//! No passwords in logs: sites write them into the URLs of proxies.

use std::borrow::Cow;

/// Stands for what nobody is to read.
const MASK: &str = "***";

/// Returns a text in which `USER:PASSWORD@` has no password, in URLs and elsewhere, and the value of
/// a header that authorises is left out.
pub(super) fn masked(text: &str) -> Cow<'_, str> {
    // Neither is rare in logs, so this is only the first sieve.
    let lower = || text.to_ascii_lowercase();
    if !text.contains('@') && !lower().contains(HEADER) {
        return Cow::Borrowed(text);
    }
    let without = without_headers(text);
    Cow::Owned(without_passwords(&without))
}

const HEADER: &str = "authorization:";

/// `Authorization: Basic dXNlcjpwYXNz`, also of a proxy.
fn without_headers(text: &str) -> String {
    let (mut rest, mut done) = (text, String::with_capacity(text.len()));
    while let Some(at) = rest.to_ascii_lowercase().find(HEADER) {
        let (before, value) = rest.split_at(at + HEADER.len());
        done.push_str(before);
        // Kind and value are letters, digits and what base64 has.
        let ends = |c: char| c.is_control() || "\"',;)}]".contains(c);
        rest = &value[value.find(ends).unwrap_or(value.len())..];
        done.push_str(" ***");
    }
    done + rest
}

fn without_passwords(text: &str) -> String {
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let (word, behind) = next_word(rest, done.ends_with("://"));
        match word.rfind('@').and_then(|at| Some((word.find(':').filter(|c| *c < at)?, at))) {
            Some((colon, at)) => {
                done.push_str(&word[..=colon]);
                done.push_str(MASK);
                done.push_str(&word[at..]);
            }
            None => done.push_str(word),
        }
        // The delimiter itself.
        let mut chars = behind.chars();
        done.extend(chars.next());
        rest = chars.as_str();
    }
    done
}

/// Splits before the end of a word. In the authority of a URL more is allowed than elsewhere.
fn next_word(text: &str, is_authority: bool) -> (&str, &str) {
    let delimiters = if is_authority { "\"'<>/?#|;" } else { "\"'<>/?#|;,()[]{}=" };
    let ends = |c: char| c.is_whitespace() || c.is_control() || delimiters.contains(c);
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_never_shown() {
        for (text, expected) in [
            ("http://user:secret@proxy:3128", "http://user:***@proxy:3128"),
            (
                "set CVMFS_HTTP_PROXY=http://a:p=w,(x@p1:1|http://b:q@p2:2;DIRECT: bad",
                "set CVMFS_HTTP_PROXY=http://a:***@p1:1|http://b:***@p2:2;DIRECT: bad",
            ),
            (
                "the proxy user:secret@host:3128 has no scheme",
                "the proxy user:***@host:3128 has no scheme",
            ),
            ("[\"https://u:p%40q@h/x\"]", "[\"https://u:***@h/x\"]"),
            ("http://u:a@b@h/", "http://u:***@h/"),
            ("Proxy-Authorization: Basic dTpw\", next", "Proxy-Authorization: ***\", next"),
            (
                "user@host: mail, 12:30, http://[::1]:8000/a@b",
                "user@host: mail, 12:30, http://[::1]:8000/a@b",
            ),
            ("täglich:€@ü", "täglich:***@ü"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(masked(text), expected);
        }
    }
}
