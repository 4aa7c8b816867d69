//! `--set NAME=VALUE`: parameters by the names that sites know (spec/config.md). One table feeds
//! parser and help.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use cvmfs_core::net::{ProxySpec, SelectionOptions, Timeouts};

use crate::cli::exit::{ExitStatus, Failure};

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
fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" | "1" => Some(true),
        "no" | "off" | "false" | "0" => Some(false),
        _ => None,
    }
}

/// Every parameter, in the order in which help lists them.
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
        name: "X509_CERT_BUNDLE",
        form: "FILE",
        help: "PEM file with the authorities of HTTPS servers [those of the system]",
        set: |p, v| (!v.is_empty()).then(|| p.certificate_bundle = Some(v.into())),
    },
];

impl Parameters {
    /// Applies `NAME=VALUE` texts in their order to the defaults.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, Failure> {
        let mut parameters = Self::default();
        for text in texts {
            let bad = |reason: String| {
                Failure::new(ExitStatus::Options, format!("--set {text}: {reason}"))
            };
            let Some((name, value)) = text.split_once('=') else {
                return Err(bad("expected NAME=VALUE".to_owned()));
            };
            let Some(parameter) = PARAMETERS.iter().find(|known| known.name == name) else {
                let known: Vec<_> = PARAMETERS.iter().map(|known| known.name).collect();
                return Err(bad(format!("unknown parameter; known are {}", known.join(", "))));
            };
            (parameter.set)(&mut parameters, value)
                .ok_or_else(|| bad(format!("expected {name}={}", parameter.form)))?;
        }
        Ok(parameters)
    }

    /// Returns the table as help text.
    pub fn help() -> String {
        let mut text = String::from("Parameters for --set:\n");
        for Parameter { name, form, help, .. } in PARAMETERS {
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
        for known in PARAMETERS {
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
