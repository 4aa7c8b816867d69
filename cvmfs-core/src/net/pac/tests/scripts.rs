//! Scripts as sites write them.

use super::*;

const SITE: &str = r#"
// Site-wide configuration, with the habits of such files.
function FindProxyForURL(url, host) {
    host = host.toLowerCase();
    var squid = "PROXY ca-proxy1.site.test:3128; PROXY ca-proxy2.site.test:3128; DIRECT";

    if (isPlainHostName(host) || dnsDomainIs(host, ".site.test")
        || localHostOrDomainIs(host, "www.intranet.test"))
        return "DIRECT";

    if (shExpMatch(url, "*://cvmfs-stratum-one.*/cvmfs/*") ||
        shExpMatch(url, "http://*.openhtc.io*"))
        return squid;

    if (isInNet(host, "188.184.0.0", "255.254.0.0")) { return "PROXY near.site.test:8080"; }
    else if (isInNet(host, "10.0.0.0", "255.0.0.0")) { return "DIRECT"; }

    if (url.substring(0, 4) == "ftp:") return "SOCKS socks.site.test:1080; DIRECT";

    if (isInNet(myIpAddress(), "137.138.0.0", "255.255.0.0"))
        return /\.(iso|img)$/i.test(url) ? "HTTPS big.site.test; DIRECT" : squid;
    return "DIRECT";
}
"#;

#[test]
fn a_site_ladder() {
    let squids =
        [proxy("ca-proxy1.site.test:3128"), proxy("ca-proxy2.site.test:3128"), Choice::Direct];
    let direct = [Choice::Direct];
    let near = [proxy("near.site.test:8080")];
    let big = [proxy("https://big.site.test:443"), Choice::Direct];
    let rows: &[(&str, &str, &[Choice])] = &[
        ("http://localhost/", "localhost", &direct),
        ("http://a.site.test/", "a.Site.TEST", &direct),
        ("http://www/", "www.intranet.test", &direct),
        (
            "http://cvmfs-stratum-one.cern.ch/cvmfs/atlas.cern.ch/.cvmfspublished",
            "cvmfs-stratum-one.cern.ch",
            &squids,
        ),
        ("http://s1cern-cvmfs.openhtc.io/cvmfs/x", "s1cern-cvmfs.openhtc.io", &squids),
        ("http://lxplus.cern.ch/", "lxplus.cern.ch", &near),
        ("http://private.test/", "private.test", &direct),
        ("ftp://elsewhere.test/", "elsewhere.test", &direct),
        ("http://elsewhere.test/", "elsewhere.test", &squids),
        ("http://elsewhere.test/cd.ISO", "elsewhere.test", &big),
    ];
    for (url, host, expected) in rows {
        assert_eq!(find(SITE.as_bytes(), url, host).unwrap(), *expected, "{url}");
    }
}

#[test]
fn ways_to_define_the_function() {
    let rows = [
        "FindProxyForURL = function (u, h) { return 'PROXY p:1' }",
        "const FindProxyForURL = (u, h) => `PROXY p:1`;",
        "let FindProxyForURL = (u, h) => 'PROXY p:1'",
        "function FindProxyForURLEx(u, h) { return 'PROXY p:1' }",
        "function FindProxyForURL() { return 'PROXY p:1' }
         function FindProxyForURLEx() { return 'DIRECT' }",
        // Sloppy mode: an undeclared variable, an octal number and a `with`.
        "function FindProxyForURL(u, h) { x = 010; with ({ y: x - 7 }) return 'PROXY p:' + y }",
        "var n = 0; function FindProxyForURL() { n++; return 'PROXY p:' + n }",
        "/* alert does nothing */ alert(); alert('x', 1);
         function FindProxyForURL() { alert(Symbol()); return 'PROXY p:1' }",
        "<!-- an old way to hide\nfunction FindProxyForURL() { return 'PROXY p:1' }\n-->",
    ];
    for script in rows {
        assert_eq!(ask(script).unwrap(), [proxy("p:1")], "{script}");
    }
}

#[test]
fn encodings() {
    let utf8 = "\u{feff}var é = 'ü€'; function FindProxyForURL() { return 'PROXY p:' + é.length }";
    assert_eq!(find(utf8.as_bytes(), "", "").unwrap(), [proxy("p:2")]);
    let latin1 =
        b"/* Z\xfcrich */ function FindProxyForURL() { return 'PROXY p:' + '\xfc'.length }";
    assert_eq!(find(latin1, "", "").unwrap(), [proxy("p:1")]);
}

#[test]
fn the_function_gets_url_and_host() {
    let script = b"function FindProxyForURL(url, host) {
        return url === 'http://h:1/a?b\\n\"\\'' && host === 'h' ? 'PROXY p:1' : 'DIRECT' }";
    assert_eq!(find(script, "http://h:1/a?b\n\"'", "h").unwrap(), [proxy("p:1")]);
}

#[test]
fn nothing_lasts_from_one_call_to_the_next() {
    let script =
        Script::new(b"var n = 0; function FindProxyForURL() { return 'PROXY p:' + ++n }").unwrap();
    for _ in 0..3 {
        let names = Arc::new(Table::default());
        let choices = script.find_proxies("u", "h", names, &Clock::system(), LIMIT).unwrap();
        assert_eq!(choices, [proxy("p:1")]);
    }
}
