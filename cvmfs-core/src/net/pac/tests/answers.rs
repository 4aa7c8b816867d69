//! Answers and how they are read.

use super::super::answer::choices;
use super::super::{MAX_CHOICES, MAX_PROXY};
use super::*;

#[test]
fn good_answers() {
    let rows: &[(&str, &[Choice])] = &[
        ("", &[Choice::Direct]),
        (" ; ;; ", &[Choice::Direct]),
        ("DIRECT", &[Choice::Direct]),
        ("direct;", &[Choice::Direct]),
        ("PROXY a:1", &[proxy("a:1")]),
        ("proxy\ta:1 ;Direct", &[proxy("a:1"), Choice::Direct]),
        ("PROXY   a:1;PROXY b:2", &[proxy("a:1"), proxy("b:2")]),
        ("HTTP a:1; HTTPS b:2", &[proxy("a:1"), proxy("https://b:2")]),
        ("PROXY a; HTTPS b", &[proxy("a:80"), proxy("https://b:443")]),
        ("PROXY 192.0.2.1:3128", &[proxy("192.0.2.1:3128")]),
        (
            "PROXY [2001:db8::1]:3128; PROXY [::1]",
            &[proxy("[2001:db8::1]:3128"), proxy("[::1]:80")],
        ),
        ("SOCKS a:1; SOCKS5 b:2; QUIC c:3; nonsense", &[Choice::Direct]),
        ("SOCKS a:1; PROXY b:2", &[proxy("b:2")]),
        ("PROXY a_b-c.d:65535", &[proxy("a_b-c.d:65535")]),
    ];
    for (answer, expected) in rows {
        assert_eq!(choices(answer).unwrap(), *expected, "{answer}");
    }
}

#[test]
fn malformed_proxies() {
    let long = format!("PROXY {}:1", "a".repeat(MAX_PROXY));
    let rows = [
        "PROXY",
        "PROXY ;DIRECT",
        "PROXY a:",
        "PROXY a:0",
        "PROXY a:+1",
        "PROXY a:65536",
        "PROXY a:b",
        "PROXY :1",
        "PROXY a:1:2",
        "PROXY a b:1",
        "PROXY a:1\nHost: evil",
        "PROXY a\r\n:1",
        "PROXY a\0:1",
        "PROXY user@a:1",
        "PROXY http://a:1",
        "PROXY a/b:1",
        "PROXY 2001:db8::1",
        "PROXY [::1",
        "PROXY [::1]x:1",
        "PROXY [a]:1",
        "PROXY ...:1",
        "HTTPS ü:1",
        "DIRECT; PROXY a:1; PROXY a:x",
        &long,
    ];
    for answer in rows {
        let error = choices(answer).unwrap_err();
        assert!(matches!(error, PacError::Proxy { .. }), "{answer}: {error}");
        let text = error.to_string();
        assert!(!text.contains(char::is_control) && text.len() < 1000, "{text:?}");
    }
}

#[test]
fn number_of_choices() {
    assert_eq!(choices(&"PROXY a:1;".repeat(MAX_CHOICES)).unwrap().len(), MAX_CHOICES);
    let error = choices(&"DIRECT;".repeat(MAX_CHOICES + 1)).unwrap_err();
    assert!(matches!(error, PacError::Choices), "{error}");
}

#[test]
fn answers_that_are_no_strings() {
    let rows = [
        ("return 5", "int"),
        ("return null", "null"),
        ("", "undefined"),
        ("return ['DIRECT']", "array"),
        ("return { toString: function () { return 'DIRECT' } }", "object"),
        ("return true", "bool"),
        ("return '\\ud800'", "Unicode"),
    ];
    for (text, word) in rows {
        match body(text) {
            Err(PacError::Answer { found }) => assert!(found.contains(word), "{text}: {found}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    assert!(matches!(
        ask("async function FindProxyForURL() { return 'DIRECT' }"),
        Err(PacError::Answer { .. })
    ));
    // A string put together piecewise is stored differently by the engine, and is one all the same.
    let pieces = "var s = ''; for (var i = 0; i < 3000; i++) s = s + ';'; return s + 'PROXY p:1'";
    assert_eq!(body(pieces).unwrap(), [proxy("p:1")]);
}
