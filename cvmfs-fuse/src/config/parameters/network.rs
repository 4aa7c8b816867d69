//! Parameters: servers, proxies and names.

use std::net::IpAddr;
use std::num::NonZeroU64;

use cvmfs_cache::parse_size;
use cvmfs_core::net::names::Family;

use super::table::{By, Need, Parameter, none};
use super::values::{seconds, switch};

/// Section 3 of spec/config.md, in the order of help.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "CVMFS_SERVER_URL",
        form: "URL[;URL...]",
        default: "",
        need: Need::Must,
        harmless: true,
        help: "servers, `;` between them, with `@fqrn@` and `@org@`",
        by: By::Flag("--server"),
    },
    Parameter {
        name: "CVMFS_HTTP_PROXY",
        form: "SPEC",
        default: "",
        need: Need::Must,
        harmless: true,
        help: "proxies: groups by `;`, members by `|`; DIRECT, auto",
        by: By::Flag("--proxy"),
    },
    Parameter {
        name: "CVMFS_TIMEOUT",
        form: "SECONDS",
        default: "5",
        need: Need::Must,
        harmless: true,
        help: "connecting and silence through a proxy",
        by: By::Set(|p, v| seconds(v).filter(|v| !v.is_zero()).map(|v| p.timeouts.proxy = v)),
    },
    Parameter {
        name: "CVMFS_TIMEOUT_DIRECT",
        form: "SECONDS",
        default: "10",
        need: Need::Must,
        harmless: true,
        help: "the same without a proxy",
        by: By::Set(|p, v| seconds(v).filter(|v| !v.is_zero()).map(|v| p.timeouts.direct = v)),
    },
    Parameter {
        name: "CVMFS_LOW_SPEED_LIMIT",
        form: "BYTES",
        default: "1024",
        need: Need::Common,
        harmless: true,
        help: "slower transfers (per second) are given up",
        by: By::Set(|p, v| v.parse().ok().map(|v| p.timeouts.low_speed_limit = v)),
    },
    Parameter {
        name: "CVMFS_MAX_RETRIES",
        form: "COUNT",
        default: "1",
        need: Need::Must,
        harmless: true,
        help: "repetitions of a broken transfer on the same way",
        by: By::Set(|p, v| v.parse().ok().map(|v| p.selection.max_retries = v)),
    },
    Parameter {
        name: "CVMFS_BACKOFF_INIT",
        form: "SECONDS",
        default: "2",
        need: Need::Common,
        harmless: true,
        help: "longest first wait before a repetition",
        by: By::Set(|p, v| seconds(v).map(|v| p.selection.backoff_init = v)),
    },
    Parameter {
        name: "CVMFS_BACKOFF_MAX",
        form: "SECONDS",
        default: "10",
        need: Need::Common,
        harmless: true,
        help: "longest wait before a repetition",
        by: By::Set(|p, v| seconds(v).map(|v| p.selection.backoff_max = v)),
    },
    Parameter {
        name: "CVMFS_HOST_RESET_AFTER",
        form: "SECONDS",
        default: "1800",
        need: Need::Common,
        harmless: true,
        help: "back to the first server after this time; 0: never",
        by: By::Set(|p, v| seconds(v).map(|v| p.selection.host_reset_after = v)),
    },
    Parameter {
        name: "CVMFS_PROXY_RESET_AFTER",
        form: "SECONDS",
        default: "300",
        need: Need::Common,
        harmless: true,
        help: "back to the first proxies after this time; 0: never",
        by: By::Set(|p, v| seconds(v).map(|v| p.selection.proxy_reset_after = v)),
    },
    Parameter {
        name: "CVMFS_PROXY_SHARD",
        form: "yes|no",
        default: "no",
        need: Need::Common,
        harmless: true,
        help: "spread objects over the proxies of a group by their hash",
        by: By::Set(|p, v| switch(v).map(|v| p.selection.shard = v)),
    },
    Parameter {
        name: "CVMFS_FALLBACK_PROXY",
        form: "SPEC",
        default: "",
        need: Need::Common,
        harmless: true,
        help: "proxies after all others, instead of DIRECT",
        by: By::Set(|p, v| v.parse().ok().map(|v| p.fallback_proxy = Some(v))),
    },
    Parameter {
        name: "CVMFS_MAX_SERVERS",
        form: "COUNT",
        default: "0",
        need: Need::Rare,
        harmless: true,
        help: "use the first servers only; 0: all",
        by: By::Set(|p, v| v.parse().ok().map(|v| p.max_servers = v)),
    },
    Parameter {
        name: "CVMFS_USE_GEOAPI",
        form: "yes|no",
        default: "no",
        need: Need::Must,
        harmless: true,
        help: "ask the nearest servers first; measures if the servers cannot tell",
        by: By::Set(|p, v| switch(v).map(|v| p.use_geo_api = v)),
    },
    Parameter {
        name: "CVMFS_PROXY_TEMPLATE",
        form: "NAME",
        default: "",
        need: Need::Rare,
        harmless: false,
        help: "the site whose distance to the servers counts [the proxy]",
        by: By::Set(|p, v| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            let usable = !v.is_empty() && v.bytes().all(plain);
            usable.then(|| p.proxy_template = Some(v.to_owned()))
        }),
    },
    Parameter {
        name: "CVMFS_PAC_URLS",
        form: "URL[;URL...]",
        default: "http://wpad/wpad.dat",
        need: Need::Common,
        harmless: true,
        help: "scripts that name proxies, for --proxy auto",
        by: By::Set(|p, v| {
            let urls: Vec<_> = v.split(';').map(str::trim).filter(|url| !url.is_empty()).collect();
            let usable = |url: &&str| {
                *url == "auto"
                    || url.starts_with("http://")
                    || url.starts_with("https://")
                    || url.starts_with("file:///")
            };
            let good = !urls.is_empty() && urls.iter().all(usable);
            good.then(|| p.pac_urls = urls.into_iter().map(str::to_owned).collect())
        }),
    },
    Parameter {
        name: "CVMFS_DNS_SERVER",
        form: "IP[:PORT]",
        default: "",
        need: Need::Rare,
        harmless: false,
        help: "name server [those of /etc/resolv.conf]",
        by: By::Set(|p, v| {
            let address = v.parse().ok().or_else(|| Some((v.parse::<IpAddr>().ok()?, 53).into()));
            address.map(|address| p.names.server = Some(address))
        }),
    },
    Parameter {
        name: "CVMFS_DNS_TIMEOUT",
        form: "SECONDS",
        default: "3",
        need: Need::Common,
        harmless: false,
        help: "how long one question to a name server waits",
        by: By::Set(|p, v| seconds(v).filter(|v| !v.is_zero()).map(|v| p.names.timeout = v)),
    },
    Parameter {
        name: "CVMFS_DNS_RETRIES",
        form: "COUNT",
        default: "1",
        need: Need::Common,
        harmless: false,
        help: "how often it is repeated",
        by: By::Set(|p, v| v.parse::<u8>().ok().map(|v| p.names.retries = v.into())),
    },
    Parameter {
        name: "CVMFS_DNS_MIN_TTL",
        form: "SECONDS",
        default: "60",
        need: Need::Rare,
        harmless: false,
        help: "addresses, and failures, hold at least that long",
        by: By::Set(|p, v| seconds(v).filter(|v| !v.is_zero()).map(|v| p.names.min_ttl = v)),
    },
    Parameter {
        name: "CVMFS_DNS_MAX_TTL",
        form: "SECONDS",
        default: "86400",
        need: Need::Rare,
        harmless: false,
        help: "addresses hold at most that long",
        by: By::Set(|p, v| seconds(v).filter(|v| !v.is_zero()).map(|v| p.names.max_ttl = v)),
    },
    Parameter {
        name: "CVMFS_IPFAMILY_PREFER",
        form: "4|6",
        default: "4",
        need: Need::Common,
        harmless: true,
        help: "which addresses of a name are used if it has both kinds",
        by: By::Set(|p, v| {
            p.names.family = match v {
                "4" => Family::V4,
                "6" => Family::V6,
                _ => return None,
            };
            Some(())
        }),
    },
    Parameter {
        name: "CVMFS_MAX_IPADDR_PER_PROXY",
        form: "COUNT",
        default: "0",
        need: Need::Common,
        harmless: true,
        help: "random addresses of a proxy's name that are used; 0: all",
        by: By::Set(|p, v| v.parse().ok().map(|v| p.names.max_addresses = v)),
    },
    Parameter {
        name: "CVMFS_FOLLOW_REDIRECTS",
        form: "yes|no",
        default: "no",
        need: Need::Common,
        harmless: true,
        help: "follow up to 4 redirects",
        by: By::Set(|p, v| switch(v).map(|v| p.follow_redirects = v)),
    },
    Parameter {
        name: "CVMFS_FAILOVER_INDEFINITELY",
        form: "yes|no",
        default: "no",
        need: Need::Rare,
        harmless: false,
        help: "reads wait for the network instead of failing",
        by: By::Set(|p, v| switch(v).map(|v| p.wait_for_network = v)),
    },
    Parameter {
        name: "CVMFS_FUSE_PREFETCH",
        form: "yes|no",
        default: "yes",
        need: Need::Own,
        harmless: false,
        help: "fetch files before they are read, by patterns, profiles and bundles",
        by: By::Set(|p, v| switch(v).map(|v| p.fetch_ahead = Some(v))),
    },
    Parameter {
        name: "CVMFS_FUSE_PREFETCH_BANDWIDTH",
        form: "SIZE",
        default: "0",
        need: Need::Own,
        harmless: false,
        help: "bytes of these in a second, before compression, as 2M; 0: no bound",
        by: By::Set(|p, v| {
            let bytes = if v == "0" { 0 } else { parse_size(v)? };
            p.ahead_bandwidth = NonZeroU64::new(bytes);
            Some(())
        }),
    },
    Parameter {
        name: "CVMFS_EXTERNAL_URL",
        form: "URL[;URL...]",
        default: "",
        need: Need::Common,
        harmless: true,
        help: "servers of external data, as --server",
        by: By::Set(|p, v| (!v.is_empty()).then(|| p.external_servers = Some(v.to_owned()))),
    },
    Parameter {
        name: "CVMFS_EXTERNAL_HTTP_PROXY",
        form: "SPEC",
        default: "DIRECT",
        need: Need::Common,
        harmless: true,
        help: "the way to them, as --proxy",
        by: By::Set(|p, v| (!v.is_empty()).then(|| p.external_proxy = Some(v.to_owned()))),
    },
    Parameter {
        name: "CVMFS_EXTERNAL_FALLBACK_PROXY",
        form: "SPEC",
        default: "",
        need: Need::Rare,
        harmless: true,
        help: "proxies after those, instead of DIRECT",
        by: By::Set(|p, v| v.parse().ok().map(|v| p.external_fallback_proxy = Some(v))),
    },
    Parameter {
        name: "CVMFS_EXTERNAL_TIMEOUT",
        form: "SECONDS",
        default: "",
        need: Need::Rare,
        harmless: true,
        help: "as CVMFS_TIMEOUT, for external data [the same]",
        by: By::Set(|p, v| {
            seconds(v).filter(|v| !v.is_zero()).map(|v| p.external_timeout = Some(v))
        }),
    },
    Parameter {
        name: "CVMFS_EXTERNAL_TIMEOUT_DIRECT",
        form: "SECONDS",
        default: "",
        need: Need::Rare,
        harmless: true,
        help: "as CVMFS_TIMEOUT_DIRECT, for external data [the same]",
        by: By::Set(|p, v| {
            seconds(v).filter(|v| !v.is_zero()).map(|v| p.external_timeout_direct = Some(v))
        }),
    },
    Parameter {
        name: "CVMFS_EXTERNAL_MAX_SERVERS",
        form: "COUNT",
        default: "0",
        need: Need::Rare,
        harmless: true,
        help: "as CVMFS_MAX_SERVERS, for external data",
        by: By::Set(|p, v| v.parse().ok().map(|v| p.external_max_servers = v)),
    },
    Parameter {
        name: "X509_CERT_BUNDLE",
        form: "FILE",
        default: "",
        need: Need::Rare,
        harmless: false,
        help: "PEM file with the authorities of HTTPS servers [those of the system]",
        by: By::Set(|p, v| (!v.is_empty()).then(|| p.certificate_bundle = Some(v.into()))),
    },
    none("CVMFS_DNS_ROAMING", Need::Common, "/etc/resolv.conf is always followed"),
    none("CVMFS_USE_SSL_SYSTEM_CA", Need::Common, "the authorities of the system are always used"),
    none("CVMFS_SEND_INFO_HEADER", Need::Rare, "nothing about users is sent").harmless(),
    none("CVMFS_HTTP_TRACING", Need::Rare, "not supported"),
    none("CVMFS_HTTP_TRACING_HEADERS", Need::Rare, "not supported"),
    none("CVMFS_PROXY_SHARDING_POLICY", Need::Rare, "a placeholder of upstream"),
];
