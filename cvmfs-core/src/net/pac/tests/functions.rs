//! The PAC functions other than those of time.

use super::*;

#[test]
fn names_as_text() {
    table(&[
        ("isPlainHostName('www')", "true"),
        ("isPlainHostName('www.cern.ch')", "false"),
        ("isPlainHostName('::1')", "false"),
        ("dnsDomainIs('www.cern.ch', '.cern.ch')", "true"),
        ("dnsDomainIs('WWW.CERN.CH', '.cern.ch')", "true"),
        ("dnsDomainIs('www', '.cern.ch')", "false"),
        ("dnsDomainIs('www.cern.ch.test', '.cern.ch')", "false"),
        ("dnsDomainIs('é.test', 'xé.test')", "false"),
        ("localHostOrDomainIs('www.cern.ch', 'www.cern.ch')", "true"),
        ("localHostOrDomainIs('www', 'www.cern.ch')", "true"),
        ("localHostOrDomainIs('ww', 'www.cern.ch')", "false"),
        ("localHostOrDomainIs('www.fnal.gov', 'www.cern.ch')", "false"),
        ("localHostOrDomainIs('home.cern.ch', 'www.cern.ch')", "false"),
        ("dnsDomainLevels('www')", "0"),
        ("dnsDomainLevels('www.cern.ch')", "2"),
        ("getClientVersion()", "1.0"),
        ("typeof alert('x')", "undefined"),
        ("dnsDomainIs.name", "dnsDomainIs"),
    ]);
}

#[test]
fn shell_expressions() {
    table(&[
        ("shExpMatch('http://a/b', '*')", "true"),
        ("shExpMatch('', '*')", "true"),
        ("shExpMatch('', '')", "true"),
        ("shExpMatch('a', '')", "false"),
        ("shExpMatch('', '?')", "false"),
        ("shExpMatch('http://home.test/people/ari/index.html', '*/ari/*')", "true"),
        ("shExpMatch('http://home.test/people/montulli/index.html', '*/ari/*')", "false"),
        ("shExpMatch('abc', 'a?c')", "true"),
        ("shExpMatch('aéc', 'a?c')", "true"),
        ("shExpMatch('ac', 'a?c')", "false"),
        ("shExpMatch('a.c', 'a.c')", "true"),
        ("shExpMatch('abc', 'a.c')", "false"),
        ("shExpMatch('ABC', 'abc')", "false"),
        ("shExpMatch('xabc', 'abc')", "false"),
        ("shExpMatch('abcx', 'abc')", "false"),
        ("shExpMatch('aXbXbc', 'a*bc')", "true"),
        ("shExpMatch('aXbXbcd', 'a*bc')", "false"),
        ("shExpMatch('abab', '*ab')", "true"),
        ("shExpMatch('(a+b)[c]$^|', '(a+b)[c]$^|')", "true"),
        ("shExpMatch('a', '[a]')", "false"),
        ("shExpMatch('a', '*?*')", "true"),
        ("shExpMatch(123, '1*')", "true"),
        // An exponential search would not end here.
        ("shExpMatch('a'.repeat(4000), 'a*'.repeat(40) + 'b')", "false"),
    ]);
}

#[test]
fn addresses() {
    table(&[
        ("isResolvable('lxplus.cern.ch')", "true"),
        ("isResolvable('LXPLUS.cern.ch')", "true"),
        ("isResolvable('six.test')", "false"),
        ("isResolvable('missing.test')", "false"),
        ("isResolvable('10.0.0.1')", "true"),
        ("dnsResolve('lxplus.cern.ch')", "188.184.9.234"),
        ("dnsResolve('10.0.0.1')", "10.0.0.1"),
        ("dnsResolve('missing.test')", "null"),
        ("dnsResolve('six.test')", "null"),
        ("dnsResolve('a b')", "null"),
        ("dnsResolve('')", "null"),
        ("isInNet('lxplus.cern.ch', '188.184.0.0', '255.255.0.0')", "true"),
        ("isInNet('lxplus.cern.ch', '188.185.0.0', '255.255.0.0')", "false"),
        ("isInNet('10.1.2.3', '10.0.0.0', '255.0.0.0')", "true"),
        ("isInNet('10.1.2.3', '010.000.000.000', '255.000.000.000')", "true"),
        ("isInNet('10.1.2.3', '10.9.9.9', '255.0.0.0')", "true"),
        ("isInNet('10.1.2.3', '0.0.0.0', '0.0.0.0')", "true"),
        ("isInNet('10.1.2.3', '10.1.2.3', '255.255.255.255')", "true"),
        ("isInNet('10.1.2.3', '10.1.2', '255.0.0.0')", "false"),
        ("isInNet('10.1.2.3', '10.0.0.0', '256.0.0.0')", "false"),
        ("isInNet('missing.test', '0.0.0.0', '0.0.0.0')", "false"),
        ("isInNet('::1', '0.0.0.0', '0.0.0.0')", "false"),
        ("isInNet(null, '0.0.0.0', '0.0.0.0')", "false"),
        ("convert_addr('104.16.41.2')", "1745889538"),
        ("convert_addr('255.255.255.255')", "-1"),
        ("convert_addr('192.168.1.1') & convert_addr('255.255.0.0')", "-1062731776"),
        ("convert_addr('192.168.0.0')", "-1062731776"),
        ("convert_addr('x')", "0"),
        ("convert_addr('1.2.3.4.5')", "0"),
        ("myIpAddress()", "137.138.1.2"),
    ]);
}

#[test]
fn microsoft_functions() {
    table(&[
        ("isResolvableEx('six.test')", "true"),
        ("isResolvableEx('missing.test')", "false"),
        ("dnsResolveEx('lxplus.cern.ch')", "2001:1458:201::1;188.184.9.234;188.184.9.235"),
        ("dnsResolveEx('missing.test')", ""),
        ("dnsResolveEx('[::1]')", "::1"),
        ("isInNetEx('six.test', '2001:db8::/32')", "true"),
        ("isInNetEx('six.test', '2001:db9::/32')", "false"),
        ("isInNetEx('six.test', '::/0')", "true"),
        ("isInNetEx('six.test', '2001:db8::6/128')", "true"),
        ("isInNetEx('six.test', '2001:db8::/129')", "false"),
        ("isInNetEx('six.test', '0.0.0.0/0')", "false"),
        ("isInNetEx('10.1.2.3', '10.0.0.0/8')", "true"),
        ("isInNetEx('10.1.2.3', '0.0.0.0/0')", "true"),
        ("isInNetEx('10.1.2.3', '11.0.0.0/8; 10.1.0.0/16')", "true"),
        ("isInNetEx('10.1.2.3', '10.0.0.0/33')", "false"),
        ("isInNetEx('10.1.2.3', '10.0.0.0/-1')", "false"),
        ("isInNetEx('10.1.2.3', '10.0.0.0')", "false"),
        ("myIpAddressEx()", "137.138.1.2"),
        (
            "sortIpAddressList('10.2.3.9;2001:4898::2;::1;127.0.0.1')",
            "::1;2001:4898::2;10.2.3.9;127.0.0.1",
        ),
        ("sortIpAddressList('10.2.3.9; 10.2.3.8')", "10.2.3.8;10.2.3.9"),
        ("sortIpAddressList('10.2.3.9;x')", ""),
        ("sortIpAddressList('')", ""),
    ]);
}

#[test]
fn own_address_unknown() {
    let names = || Arc::new(Table::default());
    assert_eq!(value_with(names(), &Clock::system(), "myIpAddress()"), "127.0.0.1");
    assert_eq!(value_with(names(), &Clock::system(), "myIpAddressEx()"), "");
}

#[test]
fn wrong_calls_throw() {
    let rows = [
        ("isInNet('a', 'b')", "TypeError: isInNet needs 3 arguments"),
        ("dnsResolve()", "TypeError: dnsResolve needs 1 arguments"),
        ("shExpMatch('a')", "TypeError: shExpMatch needs 2 arguments"),
        ("shExpMatch('a'.repeat(9000), '*')", "RangeError: shExpMatch takes at most"),
        ("isPlainHostName(Symbol())", "TypeError"),
        ("isPlainHostName({ toString: function () { throw new Error('mine') } })", "Error: mine"),
        ("dnsResolve('\\ud800')", "TypeError"),
    ];
    for (call, expected) in rows {
        match body(call) {
            Err(PacError::Threw { message }) => {
                assert!(message.starts_with(expected), "{call}: {message}");
            }
            other => panic!("{call}: {other:?}"),
        }
    }
}
