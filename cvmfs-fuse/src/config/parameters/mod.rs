//! Parameters by the names that sites know (spec/config.md): `--set NAME=VALUE`, and the files.
//!
//! | module | what it holds |
//! |---|---|
//! | [`table`] | what a parameter is; help, pages and look-up |
//! | `network`, `trust`, `general`, `cache`, [`logging`], [`telemetry`], `diagnostics` | the parameters themselves |
//! | `values` | how values are written |

mod cache;
mod diagnostics;
mod general;
pub mod logging;
mod network;
pub mod table;
pub mod telemetry;
mod trust;
mod values;

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use cvmfs_core::net::discovery::WPAD_URL;
use cvmfs_core::net::{GeoOptions, NameOptions, ProxySpec, SelectionOptions, Timeouts};

use crate::cli::exit::{ExitStatus, Failure};
use crate::fs::exposure::Visibility;
use crate::fs::inode::limit::MAX_KNOWN;
use crate::sandbox::CallFilter;
use logging::Logging;
use table::By;
use telemetry::Telemetry;
pub(crate) use values::{switch, user_number};

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
    /// How long after its whitelist has expired a repository is shown without servers.
    pub offline_limit: OfflineLimit,
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
    /// Attributes about the mount are listed nowhere, or everywhere.
    pub hide_attributes: Option<bool>,
    /// Where they are listed.
    pub visibility: Option<Visibility>,
    /// Attributes that only some groups read.
    pub protected_attributes: BTreeSet<String>,
    /// These groups.
    pub privileged_groups: BTreeSet<u32>,
    /// Where the mount is talked to, instead of the cache directory.
    pub talk_socket: Option<PathBuf>,
    /// User who may talk to it besides root and the one who mounted.
    pub talk_owner: Option<u32>,
    /// As whom the server works if root starts it: a name of /etc/passwd, or a number.
    pub user: Option<String>,
    /// What is set for the server as a process.
    pub process: ProcessLimits,
    /// Mode bits are not looked at.
    pub unchecked_permissions: bool,
    /// Switch for links that are shown as they are stored, as publishers need them.
    pub stored_links: bool,
    /// The kernel reads cached files without us.
    pub pass_through: bool,
    /// Inodes that the kernel may know.
    pub most_inodes: MostInodes,
    /// The kernel enforces stored ACLs.
    pub enforce_acls: bool,
    /// Bytes of these in a second.
    pub ahead_bandwidth: Option<NonZeroU64>,
    /// Figures for InfluxDB.
    pub telemetry: Telemetry,
    /// Where messages go.
    pub logging: Logging,
}

/// What is set for a server as a process; `None` and nothing leave it as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessLimits {
    /// Files that it may have open.
    pub open_files: Option<u64>,
    /// The memory of a server that crashes may be written to a file.
    pub core_dumps: bool,
    /// How early the kernel ends it when memory is short (proc(5), `oom_score_adj`).
    pub oom_score: Option<i16>,
    /// The processors that it may use.
    pub processors: Vec<usize>,
    /// Which of its system calls the kernel refuses.
    pub calls: CallFilter,
}

/// Inodes of a repository that the kernel may know; `None` for any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MostInodes(pub Option<usize>);

impl Default for MostInodes {
    fn default() -> Self {
        Self(Some(MAX_KNOWN))
    }
}

/// Days after the expiry of its whitelist for which a repository is shown without servers, by
/// default: as long again as whitelists are usually signed for.
const OFFLINE_DAYS: u64 = 30;

/// How long after its whitelist has expired a repository is shown without servers; `None` for any
/// time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfflineLimit(pub Option<Duration>);

impl OfflineLimit {
    /// Takes days.
    pub(super) fn days(days: u64) -> Self {
        Self(Some(Duration::from_secs(days.saturating_mul(86_400))))
    }
}

impl Default for OfflineLimit {
    fn default() -> Self {
        Self::days(OFFLINE_DAYS)
    }
}

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
            let (form, set) = match table::find(name).map(|known| (known.form, &known.by)) {
                Some((form, By::Set(set))) => (form, set),
                Some((_, By::Flag(flag))) => return Err(bad(format!("give {flag} instead"))),
                _ => {
                    let known: Vec<_> = Self::names().collect();
                    return Err(bad(format!("unknown parameter; known are {}", known.join(", "))));
                }
            };
            set(&mut parameters, value).ok_or_else(|| bad(format!("expected {name}={form}")))?;
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

    /// Returns the name of each that `--set` takes.
    pub fn names() -> impl Iterator<Item = &'static str> {
        table::all().filter(|known| matches!(known.by, By::Set(_))).map(|known| known.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_takes_effect_and_names_its_form() {
        let texts = [
            "CVMFS_USER=daemon",
            "CVMFS_NFILES=9000",
            "CVMFS_OOM_SCORE_ADJ=-500",
            "CVMFS_CPU_AFFINITY=0,1",
            "CVMFS_CHECK_PERMISSIONS=no",
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
        let bound = "CVMFS_FUSE_MAX_INODES";
        let by_default = table::find(bound).unwrap().default;
        let most = |value| Parameters::parse([&*format!("{bound}={value}")]).unwrap().most_inodes;
        assert_eq!((most(by_default), parsed.most_inodes), (parsed.most_inodes, most("200000")));
        assert_eq!((most("1000").0, most("0").0), (Some(1000), None));
        assert!(Parameters::parse(["CVMFS_FUSE_MAX_INODES=999"]).is_err());
        for name in Parameters::names() {
            assert!(table::help().contains(name));
            let form = table::find(name).unwrap().form;
            let bad = format!("{name}=");
            let message = Parameters::parse([bad.as_str()]).unwrap_err().to_string();
            assert!(message.contains(form), "{message}");
        }
        for (text, part) in [
            ("X", "NAME=VALUE"),
            ("CVMFS_TIMEOUTS=1", "known are CVMFS_TIMEOUT,"),
            ("CVMFS_SERVER_URL=http://a", "give --server"),
            ("CVMFS_SHARED_CACHE=yes", "unknown"),
        ] {
            let message = Parameters::parse([text]).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_table() {
        let plain = format!("{:?}", Parameters::parse([]).unwrap());
        for known in table::all() {
            if !matches!(known.by, By::Set(_)) || known.default.is_empty() {
                continue;
            }
            let said = format!("{}={}", known.name, known.default);
            let found = format!("{:?}", Parameters::parse([said.as_str()]).unwrap());
            // Those that leave it open mean the same.
            let open = found.replace("auto_update: Some(true)", "auto_update: None");
            let open = open.replace("fetch_ahead: Some(true)", "fetch_ahead: None");
            let open = open.replace("external_proxy: Some(\"DIRECT\")", "external_proxy: None");
            assert_eq!(open, plain, "{said}");
        }
    }

    #[test]
    fn each_name_is_there_once() {
        let mut names: Vec<_> = table::all().map(|known| known.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(table::all().all(|known| !known.help.is_empty()));
    }
}
