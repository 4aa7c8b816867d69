//! Tests of whole evaluations; what the tests share is here.

mod answers;
mod bounds;
mod functions;
mod hostile;
mod scripts;
mod times;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Choice, Clock, Names, PacError, Script};

/// Ample even for a loaded machine; the tests of the deadline bring their own.
const LIMIT: Duration = Duration::from_secs(30);

/// Names from a table; names of the form `n123.test` all resolve to one address.
#[derive(Default)]
pub(super) struct Table {
    lookups: AtomicUsize,
    own: Option<&'static str>,
}

const TABLE: &[(&str, &[&str])] = &[
    ("lxplus.cern.ch", &["2001:1458:201::1", "188.184.9.234", "188.184.9.235"]),
    ("six.test", &["2001:db8::6"]),
    ("private.test", &["10.1.2.3"]),
];

impl Names for Table {
    fn addresses(&self, name: &str) -> Vec<IpAddr> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        if name.starts_with('n') && name.ends_with(".test") {
            return vec![IpAddr::from([192, 0, 2, 1])];
        }
        let found = TABLE.iter().find(|(known, _)| *known == name);
        found.map_or(&[][..], |(_, list)| *list).iter().filter_map(|a| a.parse().ok()).collect()
    }

    fn own_address(&self) -> Option<IpAddr> {
        self.own.and_then(|own| own.parse().ok())
    }
}

/// Asks a script how to reach a URL on a host.
fn find(script: &[u8], url: &str, host: &str) -> Result<Vec<Choice>, PacError> {
    let names = Arc::new(Table { own: Some("137.138.1.2"), ..Table::default() });
    Script::new(script)?.find_proxies(url, host, names, &Clock::system(), LIMIT)
}

/// Asks a script how to reach `http://www.example.org/`.
fn ask(script: &str) -> Result<Vec<Choice>, PacError> {
    find(script.as_bytes(), "http://www.example.org/", "www.example.org")
}

/// Asks a script whose function has this body.
fn body(body: &str) -> Result<Vec<Choice>, PacError> {
    ask(&format!("function FindProxyForURL(url, host) {{ {body} }}"))
}

/// The value of an expression in a script, as text.
fn value_with(names: Arc<dyn Names>, clock: &Clock, expression: &str) -> String {
    // Letters and digits survive the way through an answer, anything else is written in hex.
    let script = format!(
        "function FindProxyForURL(url, host) {{
             var text = String({expression}), out = 'v';
             for (var i = 0; i < text.length; i++) out += text.charCodeAt(i).toString(16) + '.';
             return 'PROXY ' + out + 'z:1';
         }}"
    );
    let script = Script::new(script.as_bytes()).unwrap();
    let choices = script.find_proxies("http://h/", "h", names, clock, LIMIT).unwrap();
    let [Choice::Proxy(proxy)] = &choices[..] else { panic!("{expression}: {choices:?}") };
    let codes = proxy.strip_prefix('v').unwrap().strip_suffix("z:1").unwrap();
    let letter = |code| char::from_u32(u32::from_str_radix(code, 16).unwrap()).unwrap();
    codes.split_terminator('.').map(letter).collect()
}

/// The value of an expression with the names of the table.
fn value(expression: &str) -> String {
    let names = Arc::new(Table { own: Some("137.138.1.2"), ..Table::default() });
    value_with(names, &Clock::system(), expression)
}

/// Checks expressions against the values they must have.
fn table(rows: &[(&str, &str)]) {
    for (expression, expected) in rows {
        assert_eq!(value(expression), *expected, "{expression}");
    }
}

fn proxy(text: &str) -> Choice {
    Choice::Proxy(text.to_owned())
}
