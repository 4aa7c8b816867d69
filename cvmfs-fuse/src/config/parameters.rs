//! `--set NAME=VALUE`: parameters by the names that sites know (spec/config.md). One table feeds
//! parser and help.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use cvmfs_cache::parse_size;
use cvmfs_core::net::discovery::WPAD_URL;
use cvmfs_core::net::names::Family;
use cvmfs_core::net::{GeoOptions, NameOptions, ProxySpec, SelectionOptions, Timeouts};

use crate::cli::exit::{ExitStatus, Failure};

pub mod logging;
pub mod telemetry;

use logging::Logging;
use telemetry::Telemetry;

/// What `--set` decides.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    /// Time limits of the network.
    pub timeouts: Timeouts,
    /// Failover, retries, load balancing.
    pub selection: SelectionOptions,
    /// Proxies after all others.
    pub fallback_proxy: Option<ProxySpec>,
    /// Servers used; 0 means all.
    pub max_servers: usize,
    /// Servers of external data, templates not expanded; `;` between them.
    pub external_servers: Option<String>,
    /// The ways to them; upstream's default is DIRECT.
    pub external_proxy: Option<String>,
    /// Proxies after those.
    pub external_fallback_proxy: Option<ProxySpec>,
    /// Time limits of external data, where they differ.
    pub external_timeout: Option<Duration>,
    /// The same without a proxy.
    pub external_timeout_direct: Option<Duration>,
    /// Servers of external data used; 0 means all.
    pub external_max_servers: usize,
    /// Servers are ordered by distance.
    pub use_geo_api: bool,
    /// Whose distance counts.
    pub proxy_template: Option<String>,
    /// Scripts that name proxies, for `--proxy auto`.
    pub pac_urls: Vec<String>,
    /// How names are resolved.
    pub names: NameOptions,
    /// Redirects are followed.
    pub follow_redirects: bool,
    /// PEM file with the authorities of HTTPS servers.
    pub certificate_bundle: Option<PathBuf>,
    /// Reads wait for the network instead of failing.
    pub wait_for_network: bool,
    /// Longest time between two looks for a new revision.
    pub max_ttl: Option<Duration>,
    /// New revisions are followed; `None` leaves it to the flags.
    pub auto_update: Option<bool>,
    /// Objects are fetched before they are asked for; `None` is yes.
    pub fetch_ahead: Option<bool>,
    /// All files belong to the user of the server.
    pub claim_ownership: bool,
    /// File with a map of users.
    pub uid_map: Option<PathBuf>,
    /// File with a map of groups.
    pub gid_map: Option<PathBuf>,
    /// Everybody may read everything.
    pub world_readable: bool,
    /// Where the mount is talked to, instead of the cache directory.
    pub talk_socket: Option<PathBuf>,
    /// User who may talk to it besides root and the one who mounted.
    pub talk_owner: Option<u32>,
    /// The kernel reads cached files without us.
    pub pass_through: bool,
    /// Bytes of these in a second.
    pub ahead_bandwidth: Option<NonZeroU64>,
    /// Figures for InfluxDB.
    pub telemetry: Telemetry,
    /// Where messages go.
    pub logging: Logging,
}

struct Parameter {
    name: &'static str,
    form: &'static str,
    help: &'static str,
    set: fn(&mut Parameters, &str) -> Option<()>,
}

fn seconds(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_secs)
}

/// The words that upstream takes for yes and no.
pub(super) fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" | "1" => Some(true),
        "no" | "off" | "false" | "0" => Some(false),
        _ => None,
    }
}

/// A user by number or name. Names are those of this machine's file: nothing may be asked that a
/// static program cannot ask.
fn user_number(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(text)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// Every parameter, in the order in which help lists them.
fn all() -> impl Iterator<Item = &'static Parameter> {
    PARAMETERS.iter().chain(logging::PARAMETERS).chain(telemetry::PARAMETERS)
}

/// Those of network, files and control.
const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "CVMFS_TIMEOUT",
        form: "SECONDS",
        help: "connecting and silence through a proxy [5]",
        set: |p, v| seconds(v).filter(|v| !v.is_zero()).map(|v| p.timeouts.proxy = v),
    },
    Parameter {
        name: "CVMFS_TIMEOUT_DIRECT",
        form: "SECONDS",
        help: "the same without a proxy [10]",
        set: |p, v| seconds(v).filter(|v| !v.is_zero()).map(|v| p.timeouts.direct = v),
    },
    Parameter {
        name: "CVMFS_LOW_SPEED_LIMIT",
        form: "BYTES",
        help: "slower transfers (per second) are given up [1024]",
        set: |p, v| v.parse().ok().map(|v| p.timeouts.low_speed_limit = v),
    },
    Parameter {
        name: "CVMFS_MAX_RETRIES",
        form: "COUNT",
        help: "repetitions of a broken transfer on the same way [1]",
        set: |p, v| v.parse().ok().map(|v| p.selection.max_retries = v),
    },
    Parameter {
        name: "CVMFS_BACKOFF_INIT",
        form: "SECONDS",
        help: "longest first wait before a repetition [2]",
        set: |p, v| seconds(v).map(|v| p.selection.backoff_init = v),
    },
    Parameter {
        name: "CVMFS_BACKOFF_MAX",
        form: "SECONDS",
        help: "longest wait before a repetition [10]",
        set: |p, v| seconds(v).map(|v| p.selection.backoff_max = v),
    },
    Parameter {
        name: "CVMFS_HOST_RESET_AFTER",
        form: "SECONDS",
        help: "back to the first server after this time; 0: never [1800]",
        set: |p, v| seconds(v).map(|v| p.selection.host_reset_after = v),
    },
    Parameter {
        name: "CVMFS_PROXY_RESET_AFTER",
        form: "SECONDS",
        help: "back to the first proxies after this time; 0: never [300]",
        set: |p, v| seconds(v).map(|v| p.selection.proxy_reset_after = v),
    },
    Parameter {
        name: "CVMFS_PROXY_SHARD",
        form: "yes|no",
        help: "spread objects over the proxies of a group by their hash [no]",
        set: |p, v| switch(v).map(|v| p.selection.shard = v),
    },
    Parameter {
        name: "CVMFS_FALLBACK_PROXY",
        form: "SPEC",
        help: "proxies after all others, instead of DIRECT",
        set: |p, v| v.parse().ok().map(|v| p.fallback_proxy = Some(v)),
    },
    Parameter {
        name: "CVMFS_MAX_SERVERS",
        form: "COUNT",
        help: "use the first servers only; 0: all [0]",
        set: |p, v| v.parse().ok().map(|v| p.max_servers = v),
    },
    Parameter {
        name: "CVMFS_USE_GEOAPI",
        form: "yes|no",
        help: "ask the nearest servers first; measures if the servers cannot tell [no]",
        set: |p, v| switch(v).map(|v| p.use_geo_api = v),
    },
    Parameter {
        name: "CVMFS_PROXY_TEMPLATE",
        form: "NAME",
        help: "the site whose distance to the servers counts [the proxy]",
        set: |p, v| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            let usable = !v.is_empty() && v.bytes().all(plain);
            usable.then(|| p.proxy_template = Some(v.to_owned()))
        },
    },
    Parameter {
        name: "CVMFS_PAC_URLS",
        form: "URL[;URL...]",
        help: "scripts that name proxies, for --proxy auto [http://wpad/wpad.dat]",
        set: |p, v| {
            let urls: Vec<_> = v.split(';').map(str::trim).filter(|url| !url.is_empty()).collect();
            let usable = |url: &&str| {
                *url == "auto"
                    || url.starts_with("http://")
                    || url.starts_with("https://")
                    || url.starts_with("file:///")
            };
            let good = !urls.is_empty() && urls.iter().all(usable);
            good.then(|| p.pac_urls = urls.into_iter().map(str::to_owned).collect())
        },
    },
    Parameter {
        name: "CVMFS_DNS_SERVER",
        form: "IP[:PORT]",
        help: "name server [those of /etc/resolv.conf]",
        set: |p, v| {
            let address = v.parse().ok().or_else(|| Some((v.parse::<IpAddr>().ok()?, 53).into()));
            address.map(|address| p.names.server = Some(address))
        },
    },
    Parameter {
        name: "CVMFS_DNS_TIMEOUT",
        form: "SECONDS",
        help: "how long one question to a name server waits [3]",
        set: |p, v| seconds(v).filter(|v| !v.is_zero()).map(|v| p.names.timeout = v),
    },
    Parameter {
        name: "CVMFS_DNS_RETRIES",
        form: "COUNT",
        help: "how often it is repeated [1]",
        set: |p, v| v.parse::<u8>().ok().map(|v| p.names.retries = v.into()),
    },
    Parameter {
        name: "CVMFS_DNS_MIN_TTL",
        form: "SECONDS",
        help: "addresses, and failures, hold at least that long [60]",
        set: |p, v| seconds(v).filter(|v| !v.is_zero()).map(|v| p.names.min_ttl = v),
    },
    Parameter {
        name: "CVMFS_DNS_MAX_TTL",
        form: "SECONDS",
        help: "addresses hold at most that long [86400]",
        set: |p, v| seconds(v).filter(|v| !v.is_zero()).map(|v| p.names.max_ttl = v),
    },
    Parameter {
        name: "CVMFS_IPFAMILY_PREFER",
        form: "4|6",
        help: "which addresses of a name are used if it has both kinds [4]",
        set: |p, v| {
            p.names.family = match v {
                "4" => Family::V4,
                "6" => Family::V6,
                _ => return None,
            };
            Some(())
        },
    },
    Parameter {
        name: "CVMFS_MAX_IPADDR_PER_PROXY",
        form: "COUNT",
        help: "random addresses of a proxy's name that are used; 0: all [0]",
        set: |p, v| v.parse().ok().map(|v| p.names.max_addresses = v),
    },
    Parameter {
        name: "CVMFS_FOLLOW_REDIRECTS",
        form: "yes|no",
        help: "follow up to 4 redirects [no]",
        set: |p, v| switch(v).map(|v| p.follow_redirects = v),
    },
    Parameter {
        name: "CVMFS_FAILOVER_INDEFINITELY",
        form: "yes|no",
        help: "reads wait for the network instead of failing [no]",
        set: |p, v| switch(v).map(|v| p.wait_for_network = v),
    },
    Parameter {
        name: "CVMFS_MAX_TTL",
        form: "MINUTES",
        help: "longest time between two looks for a new revision; 0: the repository decides [0]",
        set: |p, v| {
            let minutes: u32 = v.parse().ok()?;
            p.max_ttl = (minutes > 0).then(|| Duration::from_secs(u64::from(minutes) * 60));
            Some(())
        },
    },
    Parameter {
        name: "CVMFS_AUTO_UPDATE",
        form: "yes|no",
        help: "follow new revisions [yes]",
        set: |p, v| switch(v).map(|v| p.auto_update = Some(v)),
    },
    Parameter {
        name: "CVMFS_FUSE_PREFETCH",
        form: "yes|no",
        help: "fetch files before they are read, by patterns, profiles and bundles [yes]",
        set: |p, v| switch(v).map(|v| p.fetch_ahead = Some(v)),
    },
    Parameter {
        name: "CVMFS_FUSE_PASSTHROUGH",
        form: "yes|no",
        help: "the kernel reads cached files without the server: for few large files; needs \
               CAP_SYS_ADMIN and Linux 6.9 [no]",
        set: |p, v| switch(v).map(|v| p.pass_through = v),
    },
    Parameter {
        name: "CVMFS_FUSE_PREFETCH_BANDWIDTH",
        form: "SIZE",
        help: "bytes of these in a second, before compression, as 2M; 0: no bound [0]",
        set: |p, v| {
            let bytes = if v == "0" { 0 } else { parse_size(v)? };
            p.ahead_bandwidth = NonZeroU64::new(bytes);
            Some(())
        },
    },
    Parameter {
        name: "CVMFS_EXTERNAL_URL",
        form: "URL[;URL...]",
        help: "servers of external data, as --server",
        set: |p, v| (!v.is_empty()).then(|| p.external_servers = Some(v.to_owned())),
    },
    Parameter {
        name: "CVMFS_EXTERNAL_HTTP_PROXY",
        form: "SPEC",
        help: "the way to them, as --proxy [DIRECT]",
        set: |p, v| (!v.is_empty()).then(|| p.external_proxy = Some(v.to_owned())),
    },
    Parameter {
        name: "CVMFS_EXTERNAL_FALLBACK_PROXY",
        form: "SPEC",
        help: "proxies after those, instead of DIRECT",
        set: |p, v| v.parse().ok().map(|v| p.external_fallback_proxy = Some(v)),
    },
    Parameter {
        name: "CVMFS_EXTERNAL_TIMEOUT",
        form: "SECONDS",
        help: "as CVMFS_TIMEOUT, for external data [the same]",
        set: |p, v| seconds(v).filter(|v| !v.is_zero()).map(|v| p.external_timeout = Some(v)),
    },
    Parameter {
        name: "CVMFS_EXTERNAL_TIMEOUT_DIRECT",
        form: "SECONDS",
        help: "as CVMFS_TIMEOUT_DIRECT, for external data [the same]",
        set: |p, v| {
            seconds(v).filter(|v| !v.is_zero()).map(|v| p.external_timeout_direct = Some(v))
        },
    },
    Parameter {
        name: "CVMFS_EXTERNAL_MAX_SERVERS",
        form: "COUNT",
        help: "as CVMFS_MAX_SERVERS, for external data [0]",
        set: |p, v| v.parse().ok().map(|v| p.external_max_servers = v),
    },
    Parameter {
        name: "X509_CERT_BUNDLE",
        form: "FILE",
        help: "PEM file with the authorities of HTTPS servers [those of the system]",
        set: |p, v| (!v.is_empty()).then(|| p.certificate_bundle = Some(v.into())),
    },
    Parameter {
        name: "CVMFS_CLAIM_OWNERSHIP",
        form: "yes|no",
        help: "all files belong to the user and group of the server [no]",
        set: |p, v| switch(v).map(|v| p.claim_ownership = v),
    },
    Parameter {
        name: "CVMFS_UID_MAP",
        form: "FILE",
        help: "whom files belong to here: lines FROM TO, * for all others; not with the former",
        set: |p, v| (!v.is_empty()).then(|| p.uid_map = Some(v.into())),
    },
    Parameter {
        name: "CVMFS_GID_MAP",
        form: "FILE",
        help: "the same for groups",
        set: |p, v| (!v.is_empty()).then(|| p.gid_map = Some(v.into())),
    },
    Parameter {
        name: "CVMFS_WORLD_READABLE",
        form: "yes|no",
        help: "everybody may read everything [no]",
        set: |p, v| switch(v).map(|v| p.world_readable = v),
    },
    Parameter {
        name: "CVMFS_TALK_SOCKET",
        form: "FILE",
        help: "control socket of a mount [cvmfs_io.FQRN in the cache directory]",
        set: |p, v| {
            let path = PathBuf::from(v);
            path.is_absolute().then(|| p.talk_socket = Some(path))
        },
    },
    Parameter {
        name: "CVMFS_TALK_OWNER",
        form: "USER",
        help: "who may use it besides root and the user who mounts [nobody]",
        set: |p, v| user_number(v).map(|uid| p.talk_owner = Some(uid)),
    },
];

impl Parameters {
    /// Applies `NAME=VALUE` texts in their order to the defaults.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, Failure> {
        let mut parameters = Self { pac_urls: vec![WPAD_URL.to_owned()], ..Self::default() };
        for text in texts {
            let bad = |reason: String| {
                Failure::new(ExitStatus::Options, format!("--set {text}: {reason}"))
            };
            let Some((name, value)) = text.split_once('=') else {
                return Err(bad("expected NAME=VALUE".to_owned()));
            };
            let Some(parameter) = all().find(|known| known.name == name) else {
                let known: Vec<_> = all().map(|known| known.name).collect();
                return Err(bad(format!("unknown parameter; known are {}", known.join(", "))));
            };
            (parameter.set)(&mut parameters, value)
                .ok_or_else(|| bad(format!("expected {name}={}", parameter.form)))?;
        }
        Ok(parameters)
    }

    /// Returns how servers are ordered, if they are.
    pub fn geo(&self) -> Option<GeoOptions> {
        self.use_geo_api.then(|| GeoOptions { site: self.proxy_template.clone() })
    }

    /// Returns the time limits of external data.
    pub fn external_timeouts(&self) -> Timeouts {
        Timeouts {
            proxy: self.external_timeout.unwrap_or(self.timeouts.proxy),
            direct: self.external_timeout_direct.unwrap_or(self.timeouts.direct),
            low_speed_limit: self.timeouts.low_speed_limit,
        }
    }

    /// Returns the longer of the time limits: connections are shared, requests have their own.
    pub fn longest_timeouts(&self) -> Timeouts {
        let (regular, external) = (self.timeouts, self.external_timeouts());
        Timeouts {
            proxy: regular.proxy.max(external.proxy),
            direct: regular.direct.max(external.direct),
            ..regular
        }
    }

    /// Returns the name of each.
    pub fn names() -> impl Iterator<Item = &'static str> {
        all().map(|known| known.name)
    }

    /// Returns name, form and help of each.
    pub fn table() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        all().map(|known| (known.name, known.form, known.help))
    }

    /// Returns the table as help text.
    pub fn help() -> String {
        let mut text = String::from("Parameters for --set:\n");
        for Parameter { name, form, help, .. } in all() {
            let _ = writeln!(text, "  {:<38} {help}", format!("{name}={form}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_takes_effect_and_names_its_form() {
        let texts = [
            "CVMFS_TIMEOUT=2",
            "CVMFS_MAX_RETRIES=0",
            "CVMFS_PROXY_SHARD=On",
            "CVMFS_MAX_TTL=2",
            "CVMFS_FALLBACK_PROXY=http://p:1",
            "CVMFS_AUTO_UPDATE=no",
        ];
        let parsed = Parameters::parse(texts).unwrap();
        assert_eq!(parsed.timeouts.proxy, Duration::from_secs(2));
        assert_eq!(parsed.selection.max_retries, 0);
        assert!(parsed.selection.shard);
        assert_eq!(parsed.max_ttl, Some(Duration::from_secs(120)));
        assert_eq!(parsed.fallback_proxy, Some("http://p:1".parse().unwrap()));
        assert_eq!(parsed.auto_update, Some(false));
        for known in all() {
            assert!(Parameters::help().contains(known.name));
            let bad = format!("{}=", known.name);
            let message = Parameters::parse([bad.as_str()]).unwrap_err().to_string();
            assert!(message.contains(known.form), "{message}");
        }
        for (text, part) in [("X", "NAME=VALUE"), ("CVMFS_TIMEOUTS=1", "known are CVMFS_TIMEOUT,")]
        {
            let message = Parameters::parse([text]).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
