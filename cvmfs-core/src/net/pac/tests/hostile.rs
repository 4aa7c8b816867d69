//! Input nobody meant as a script: the outcome does not matter, only that there is one.

use super::*;

/// A small generator of pseudo-random numbers, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % below
    }
}

fn survive(script: &[u8]) {
    let names = Arc::new(Table::default());
    let limit = Duration::from_millis(500);
    let script = Script::new(script).unwrap();
    if let Err(error) = script.find_proxies("http://h/", "h", names, &Clock::system(), limit) {
        let text = error.to_string();
        assert!(text.len() < 1500 && !text.contains(char::is_control), "{text:?}");
    }
}

#[test]
fn random_bytes() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..200 {
        let length = random.next(300);
        let bytes: Vec<u8> = (0..length).map(|_| random.next(256).to_le_bytes()[0]).collect();
        survive(&bytes);
    }
}

#[test]
fn random_words() {
    const WORDS: &[&str] = &[
        "function ",
        "FindProxyForURL",
        "(",
        ")",
        "{",
        "}",
        "return ",
        "'PROXY a:1'",
        ";",
        ",",
        "[",
        "]",
        "=>",
        "=",
        "...",
        "class ",
        "extends ",
        "async ",
        "await ",
        "yield ",
        "var ",
        "x",
        "1",
        "/x/",
        "`${",
        "`",
        "new ",
        "this",
        "for(",
        "in ",
        "of ",
        "isInNet",
        "dnsResolve",
        "?.",
        "#p",
        "try",
        "catch",
        "throw ",
        "\n",
        "\\u",
        "'",
        "import(",
        "Proxy",
        "Promise",
        "0n",
    ];
    let mut random = Random(0xdead_beef_cafe_f00d);
    for _ in 0..400 {
        let count = random.next(30);
        let text: String = (0..count).map(|_| WORDS[random.next(WORDS.len())]).collect();
        survive(text.as_bytes());
    }
}

#[test]
fn mutilated_scripts() {
    let script = b"function FindProxyForURL(url, host) { var a = [1, 2, host];
        if (isInNet(host, '10.0.0.0', '255.0.0.0') && shExpMatch(url, '*/x?')) return 'DIRECT';
        for (var i = 0; i < 3; i++) a.push(dnsDomainIs(host, '.' + i)); return 'PROXY p:' + a[0] }";
    let mut random = Random(0x1234_5678_9abc_def1);
    for _ in 0..300 {
        let mut bytes = script.to_vec();
        for _ in 0..=random.next(4) {
            if bytes.is_empty() {
                break;
            }
            let place = random.next(bytes.len());
            match random.next(3) {
                0 => bytes[place] = random.next(256).to_le_bytes()[0],
                1 => drop(bytes.remove(place)),
                _ => bytes.truncate(place),
            }
        }
        survive(&bytes);
    }
}

#[test]
fn nothing_to_reach_outside_with() {
    for name in [
        "std",
        "os",
        "require",
        "process",
        "fetch",
        "load",
        "print",
        "console",
        "Worker",
        "SharedArrayBuffer",
        "Atomics",
        "setTimeout",
        "scriptArgs",
    ] {
        assert_eq!(value(&format!("typeof {name}")), "undefined", "{name}");
    }
    let result = ask("import * as std from 'std'; function FindProxyForURL() { return 'DIRECT' }");
    assert!(matches!(result, Err(PacError::Syntax { .. })), "{result:?}");
    assert_eq!(
        body("import('std'); import('/etc/passwd'); return 'PROXY p:1'").unwrap(),
        [proxy("p:1")]
    );
}

#[test]
fn redefined_surroundings() {
    let rows = [
        "Object.prototype.name = 'SyntaxError'; function FindProxyForURL() { throw {} }",
        "Error.prototype.name = { toString: null }; nosuch()",
        "delete globalThis.isInNet; Object.freeze(globalThis); function FindProxyForURL() { }",
        "Function.prototype.call = null; var FindProxyForURL = new Proxy(function () { }, {})",
        "globalThis.__proto__ = new Proxy({}, { get() { throw 1 }, has() { return true } })",
        "Object.defineProperty(globalThis, 'FindProxyForURL', { get() { throw 1 } })",
        "class FindProxyForURL { }",
        "function* FindProxyForURL() { yield 1 }",
        "async function FindProxyForURL() { await 1; for await (var x of []) ; }",
        "async function* FindProxyForURL() { yield 1 }",
        "new FinalizationRegistry(() => { for (;;) ; })",
        "throw new AggregateError([], 'x')",
        "Promise.resolve().then(() => { for (;;) ; }); function FindProxyForURL() { return '' }",
        "new Uint8Array(5)",
        "new ArrayBuffer(5)",
        "structuredClone({})",
        "using x = null;",
        "[3, 1, 2].sort(() => { throw 1 })",
        "JSON.parse('['.repeat(1e5))",
        "Array.fromAsync([1])",
        "'x'.matchAll(/x/g).next()",
        "new DataView(1)",
        "new WeakRef({})",
        "new Intl.Collator()",
        "performance.now()",
        "queueMicrotask(() => 1)",
        "atob('x')",
        "new DOMException('x')",
        "Iterator.from([1]).map(x => x).toArray()",
    ];
    for script in rows {
        survive(script.as_bytes());
    }
}
