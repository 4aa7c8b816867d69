//! Faulty scripts and exceeded bounds.

use std::sync::Mutex;
use std::time::Instant;

use super::super::{MAX_LOOKUPS, MAX_RUNNING, MAX_SCRIPT, MAX_TEXT};
use super::*;

const SHORT: Duration = Duration::from_millis(300);

/// Asks with little time and checks that it is kept.
fn hurried(script: &str) -> Result<Vec<Choice>, PacError> {
    let script = Script::new(script.as_bytes())?;
    let start = Instant::now();
    let names = Arc::new(Table::default());
    let result = script.find_proxies("http://h/", "h", names, &Clock::system(), SHORT);
    assert!(start.elapsed() < Duration::from_secs(10));
    result
}

#[test]
fn endless_work() {
    let rows = [
        "for (;;) ;",
        "function FindProxyForURL() { for (;;) ; }",
        "function FindProxyForURL() { while (true) { try { for (;;) ; } catch (e) { } } }",
        "function FindProxyForURL() { try { for (;;) ; } finally { return 'DIRECT' } }",
        "function FindProxyForURL() { for (;;) isPlainHostName('x') }",
        "function FindProxyForURL() { return /(a+)+$/.test('a'.repeat(60) + 'b') }",
        "function FindProxyForURL() { throw { toString: function () { for (;;) ; } } }",
        "function FindProxyForURL() { var e = new Error();
             Object.defineProperty(e, 'message', { get: function () { for (;;) ; } }); throw e }",
        // The engine does not look at the clock in this; its thread is left behind.
        "function FindProxyForURL() {
             return Array.prototype.indexOf.call({ length: 1e8 }, 1) + '' }",
    ];
    for script in rows {
        let result = hurried(script);
        assert!(matches!(result, Err(PacError::Deadline { limit: SHORT })), "{script}: {result:?}");
    }
}

#[test]
fn endless_allocation() {
    let rows = [
        "var a = []; for (;;) a.push('x' + a.length)",
        "var a = 'x'; for (;;) a += a",
        "var a; for (;;) a = { a: a }",
        "var a = 'x'.repeat(1e9)",
        "var a = new Array(1e7).fill(1.5)",
        "var a = {}; for (var i = 0; ; i++) a['k' + i] = i",
        "var a = []; for (;;) a.push(/x/)",
        "var a = []; for (;;) a.push(() => a)",
        "function f() { var a = new Array(1000).fill(0.5); f.call(null, a); f.a = [f.a, a] } \
             var keep = []; for (;;) keep.push(function () { return keep }.bind({}, [1, 2, 3]))",
    ];
    for work in rows {
        let result = body(work);
        assert!(matches!(result, Err(PacError::Memory)), "{work}: {result:?}");
    }
    // Running out of memory can be caught, and the script may go on with what it has.
    let caught = "try { 'x'.repeat(1e8) } catch (e) { return 'PROXY p:1' }";
    assert_eq!(body(caught).unwrap(), [proxy("p:1")]);
}

#[test]
fn endless_depth() {
    let nested = format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000));
    let arrays = "[".repeat(100_000);
    let rows = [
        "function f() { return f() + 1 } f()".to_owned(),
        "var o = { toString: function () { return '' + o } }; o + ''".to_owned(),
        "var a = []; for (var i = 0; i < 1e5; i++) a = [a]; JSON.stringify(a)".to_owned(),
        "function f() { isPlainHostName({ toString: f }) } f()".to_owned(),
        format!("x = {nested}"),
        format!("x = {arrays}"),
    ];
    for work in rows {
        let result = body(&work);
        assert!(matches!(result, Err(PacError::Stack)), "{work:.60}: {result:?}");
    }
}

#[test]
fn too_many_lookups() {
    let within = format!(
        "for (var i = 0; i < {MAX_LOOKUPS}; i++) dnsResolve('n' + i + '.test');
         for (var i = 0; i < 1000; i++) isInNet('n1.test', '10.0.0.0', '255.0.0.0');
         return 'PROXY p:1'"
    );
    assert_eq!(body(&within).unwrap(), [proxy("p:1")]);
    let rows = [
        "for (var i = 0; ; i++) dnsResolve('n' + i + '.test')",
        "for (var i = 0; ; i++) isResolvable('missing' + i + '.other')",
        "for (var i = 0; i < 65; i++) try { isResolvableEx('n' + i) } catch (e) { } \
             return 'PROXY p:1'",
    ];
    for work in rows {
        let result = body(work);
        assert!(matches!(result, Err(PacError::Lookups)), "{work}: {result:?}");
    }
}

#[test]
fn each_name_is_looked_up_once() {
    let names = Arc::new(Table::default());
    let count = "[1, 2, 3].map(() => dnsResolve('Private.test') + isResolvableEx('private.TEST') +
                 dnsResolve('10.0.0.1') + dnsResolve('not a name'))";
    value_with(names.clone(), &Clock::system(), count);
    assert_eq!(names.lookups.load(Ordering::Relaxed), 1);
}

/// Names answered by a closure.
struct Custom<F>(F);

impl<F: Fn() -> Vec<IpAddr> + Send + Sync> Names for Custom<F> {
    fn addresses(&self, _: &str) -> Vec<IpAddr> {
        (self.0)()
    }

    fn own_address(&self) -> Option<IpAddr> {
        None
    }
}

const RESOLVING: &[u8] = b"function FindProxyForURL(u, h) { dnsResolve(h); return 'DIRECT' }";

#[test]
fn slow_names_use_up_the_places_and_give_them_back() {
    let script = Script::new(RESOLVING).unwrap();
    let gate = Arc::new(Mutex::new(()));
    let names = {
        let gate = Arc::clone(&gate);
        Arc::new(Custom(move || {
            drop(gate.lock());
            Vec::new()
        }))
    };
    let ask = || {
        let limit = Duration::from_millis(100);
        script.find_proxies("u", "h", names.clone(), &Clock::system(), limit)
    };
    let closed = gate.lock().unwrap();
    // On a loaded machine the time can be up before the look-up begins, which takes no place.
    let mut results = (0..100).map(|_| ask().unwrap_err());
    let mut late = 0;
    assert!(results.any(|error| match error {
        PacError::Deadline { .. } => {
            late += 1;
            false
        }
        PacError::Busy => true,
        other => panic!("{other:?}"),
    }));
    assert!(late >= MAX_RUNNING);
    drop(closed);
    assert!((0..1000).any(|_| {
        #[allow(clippy::disallowed_methods, reason = "the pace of a slow look-up")]
        std::thread::sleep(Duration::from_millis(10));
        ask().is_ok()
    }));
}

#[test]
fn names_that_panic() {
    let script = Script::new(RESOLVING).unwrap();
    for _ in 0..=MAX_RUNNING {
        let names = Arc::new(Custom(|| panic!("a fault in the names, which this test is about")));
        let result = script.find_proxies("u", "h", names, &Clock::system(), LIMIT);
        assert!(matches!(result, Err(PacError::Engine { .. })), "{result:?}");
    }
}

#[test]
fn sizes() {
    let mut script = b"function FindProxyForURL() { return 'PROXY p:1' }".to_vec();
    script.resize(MAX_SCRIPT, b'\n');
    assert_eq!(find(&script, "u", "h").unwrap(), [proxy("p:1")]);
    script.push(b'\n');
    assert!(
        matches!(find(&script, "u", "h"), Err(PacError::TooLarge { size }) if size > MAX_SCRIPT)
    );
    let long = "u".repeat(MAX_TEXT + 1);
    assert!(matches!(find(b"", &long, "h"), Err(PacError::TooLong { what: "URL", .. })));
    assert!(matches!(find(b"", "u", &long), Err(PacError::TooLong { what: "host name", .. })));
}

#[test]
fn syntax_errors() {
    let rows = [
        ("function FindProxyForURL(url, host) {\n\n  return 'DIRECT;\n}", Some(3)),
        ("<html><body>Not found</body></html>", Some(1)),
        ("var a = 1;\nvar b = = 2;", Some(2)),
        ("if (", Some(1)),
        ("a\0b", None),
    ];
    for (script, expected) in rows {
        match ask(script) {
            Err(PacError::Syntax { line, message }) => {
                assert_eq!(line, expected, "{script}: {message}");
                assert!(!message.is_empty(), "{script}");
            }
            other => panic!("{script}: {other:?}"),
        }
    }
}

#[test]
fn missing_functions() {
    for script in ["", "// nothing", "var FindProxyForURL = 5", "function findProxyForUrl() { }"] {
        let result = ask(script);
        assert!(matches!(result, Err(PacError::NoFunction)), "{script}: {result:?}");
    }
}

#[test]
fn throwing_scripts() {
    let rows = [
        ("throw new Error('no luck')", "Error: no luck"),
        ("throw 'text'", "text"),
        ("throw 5", "5"),
        ("nosuch()", "ReferenceError: nosuch is not defined"),
        ("throw { toString: function () { return 'odd' } }", "odd"),
        ("throw { toString: null, valueOf: null }", "object"),
        ("throw new Error('a\\nb\\u202e')", "Error: a\\nb\\u{202e}"),
        ("eval('(')", "SyntaxError"),
        ("throw Symbol('s')", "symbol"),
        ("throw undefined", "undefined"),
    ];
    for (work, expected) in rows {
        match body(work) {
            Err(PacError::Threw { message }) => {
                assert!(message.starts_with(expected), "{work}: {message}");
            }
            other => panic!("{work}: {other:?}"),
        }
    }
    let long = body("throw new Error('x'.repeat(1e6))").unwrap_err();
    assert!(long.to_string().len() < 500);
}
