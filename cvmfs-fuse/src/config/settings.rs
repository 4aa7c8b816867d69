//! Flags, environment and built-in knowledge as values; nobody below sees text.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use cvmfs_core::catalog::symlink::SymlinkVariables;
use cvmfs_core::format::blocklist::Blocklist;
use cvmfs_core::fqrn::Fqrn;
use cvmfs_core::net::Discovery;
use cvmfs_core::net::ProxySpec;
use cvmfs_core::net::proxy::ProxySpecError;
use cvmfs_core::repository::Pin;
use cvmfs_core::trust::MasterKeys;
use url::Url;

use super::account::Account;
use super::cache::CacheSettings;
use super::chain::{Configuration, SharedBlocklist};
use super::environment::Environment;
use super::flags::RepositoryFlags;
use super::known::{DOMAINS, KnownDomain};
use super::options::MountOptions;
use super::parameters::Parameters;
use super::trust;
use crate::cli::exit::{ExitStatus, Failure};
use crate::fs::exposure::{Exposure, Visibility};
use crate::fs::ownership::{NumberMap, Ownership};

/// Everything needed to open one repository.
#[derive(Debug, Clone)]
pub struct RepositorySettings {
    /// Its name.
    pub fqrn: Fqrn,
    /// Base URLs in the order in which they are asked; templates expanded, no trailing slash.
    pub servers: Vec<String>,
    /// The ways to the servers; DIRECT as long as they are to be found.
    pub proxy: ProxySpec,
    /// How the ways are found at each mount; `None` if they are given.
    pub discovery: Option<Discovery>,
    /// Base URLs of the servers of external data, in their order.
    pub external_servers: Vec<String>,
    /// The ways to them; DIRECT as long as they are to be found.
    pub external_proxy: ProxySpec,
    /// How these ways are found at each mount; `None` if they are given.
    pub external_discovery: Option<Discovery>,
    /// Whose signatures count.
    pub keys: MasterKeys,
    /// What this machine does not accept.
    pub blocklist: Blocklist,
    /// Where that is written; looked at again before each update.
    pub blocklist_file: PathBuf,
    /// The same of the configuration repository, if there is one.
    pub shared_blocklist: Option<SharedBlocklist>,
    /// Where downloaded objects are kept.
    pub cache: CacheSettings,
    /// Which snapshot is shown.
    pub pin: Pin,
    /// What links may refer to.
    pub symlink_variables: SymlinkVariables,
    /// Network and updates.
    pub parameters: Parameters,
    /// Certificates that may vouch for HTTPS servers, as PEM; none means those of the system.
    pub authorities: Vec<Vec<u8>>,
    /// Whose the files are shown as.
    pub ownership: Ownership,
    /// Who sees which attributes.
    pub exposure: Exposure,
    /// Oldest revision that is accepted.
    pub min_revision: u64,
}

/// Everything needed to mount one repository.
#[derive(Debug, Clone)]
pub struct MountSettings {
    /// What is mounted.
    pub repository: RepositorySettings,
    /// Where; absolute.
    pub mountpoint: PathBuf,
    /// How.
    pub options: MountOptions,
    /// Follow new revisions.
    pub auto_update: bool,
    /// Which of the processes of a mount this is.
    pub process: ProcessSettings,
}

/// Which of the processes of a mount this is, and which there are.
#[derive(Debug, Clone, Default)]
pub struct ProcessSettings {
    /// Serve in this process until unmounted, instead of in a background process.
    pub foreground: bool,
    /// This is the background process: its parent waits on this descriptor for the outcome.
    pub ready_fd: Option<i32>,
    /// This is a server: its supervisor is at the other end of this descriptor.
    pub server_fd: Option<i32>,
    /// It goes on with the mount of a dead server.
    pub take_over: bool,
    /// The socket of the process that holds the mount besides its supervisor.
    pub holder: Option<PathBuf>,
    /// User as whom the holder runs, besides root and our own.
    pub holder_user: Option<u32>,
}

impl RepositorySettings {
    /// Resolves the flags for `fqrn`. Reads key files and the blocklist, but no network.
    pub fn resolve(
        fqrn: Fqrn,
        flags: &RepositoryFlags,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let configuration = Configuration::of(flags, environment, Some(&fqrn))?;
        configuration.warn();
        configuration.requires()?;
        // Who types keys wants these and no others.
        let added = match flags.public_key.is_some() {
            true => Vec::new(),
            false => configuration.added_keys(),
        };
        let flags = &configuration.complete(flags, environment);
        let parameters = Parameters::parse(flags.set.iter().map(String::as_str))?;
        let discovery = |list: Option<&str>| {
            list.filter(|list| Discovery::is_wanted(list)).map(|list| Discovery {
                list: list.to_owned(),
                environment: environment.http_proxy.clone(),
                scripts: parameters.pac_urls.clone(),
            })
        };
        let (regular, elsewhere) = (flags.proxy.as_deref(), parameters.external_proxy.as_deref());
        let (discovery, external_discovery) = (discovery(regular), discovery(elsewhere));
        let given = regular.filter(|_| discovery.is_none());
        let proxy = proxy("--proxy", given)?;
        let given = elsewhere.filter(|_| external_discovery.is_none());
        let external_proxy = self::proxy("--set CVMFS_EXTERNAL_HTTP_PROXY", given)?;
        let external_proxy =
            external_proxy.with_fallback(parameters.external_fallback_proxy.as_ref());
        let external_servers = match &parameters.external_servers {
            Some(list) => listed_servers("--set CVMFS_EXTERNAL_URL", list, &fqrn)?,
            None => Vec::new(),
        };
        let servers = servers(flags, &fqrn, &proxy)?;
        let proxy = proxy.with_fallback(parameters.fallback_proxy.as_ref());
        let authorities = parameters.certificate_bundle.as_deref().map(authorities);
        let keys = trust::master_keys(
            flags.public_key.as_deref(),
            &fqrn,
            &environment.keys_dir(),
            &|file| configuration.key(file),
            added,
        )?;
        let blocklist_file =
            flags.blocklist.clone().unwrap_or_else(|| environment.blocklist_file());
        let mut blocklist = trust::blocklist(&blocklist_file)?;
        let shared_blocklist = match configuration.shared {
            Some((shared, present)) => {
                blocklist.extend(present?);
                Some(shared)
            }
            None => None,
        };
        Ok(Self {
            proxy,
            discovery,
            servers,
            external_proxy,
            // A mount that has no use for these proxies must not fail for them.
            external_discovery: external_discovery.filter(|_| !external_servers.is_empty()),
            external_servers,
            keys,
            blocklist,
            blocklist_file,
            shared_blocklist,
            cache: CacheSettings::resolve(&flags.cache, environment)?,
            pin: pin(flags)?,
            symlink_variables: symlink_variables(&fqrn, &flags.symlink_variable, &parameters)?,
            authorities: authorities.transpose()?.into_iter().collect(),
            ownership: ownership(&parameters)?,
            exposure: exposure(&parameters),
            min_revision: flags.min_revision,
            parameters,
            fqrn,
        })
    }
}

impl RepositorySettings {
    /// Lets a command of root, which mounts nothing, use the cache as the account does that serves mounts.
    pub fn act_as_owner(&self) -> Result<(), Failure> {
        if self.cache.alien.is_some() {
            return Ok(());
        }
        self.give_cache();
        self.cache.act_as_owner()
    }

    fn give_cache(&self) {
        let options = MountOptions::defaults(true);
        if let Some(account) = Account::wanted(&options, &self.parameters)
            && let Err(error) = account.give_cache(&self.cache.directory)
        {
            tracing::warn!(%error, "cannot give the cache directory to {}", account.shown());
        }
    }

    /// Reads the blocklist as it is now. Where a configuration repository has one this may wait for the
    /// network.
    pub fn present_blocklist(&self) -> Result<Blocklist, Failure> {
        let mut blocklist = trust::blocklist(&self.blocklist_file)?;
        if let Some(shared) = &self.shared_blocklist {
            blocklist.extend(shared.read()?);
        }
        Ok(blocklist)
    }
}

/// Parses a repository name; a leading path as in `/cvmfs/atlas.cern.ch` is dropped, as mount
/// helpers do (spec/config.md section 6).
pub fn parse_fqrn(text: &OsStr) -> Result<Fqrn, Failure> {
    let bytes = text.as_bytes();
    let trimmed = bytes.strip_suffix(b"/").unwrap_or(bytes);
    let name = trimmed.rsplit(|&b| b == b'/').next().unwrap_or_default();
    String::from_utf8_lossy(name)
        .parse()
        .map_err(|error: cvmfs_core::fqrn::FqrnError| illegal(error.to_string()))
}

fn authorities(file: &Path) -> Result<Vec<u8>, Failure> {
    /// Largest file with authorities: that of a system has 250 KiB.
    const MAX_SIZE: u64 = 16 << 20;
    super::chain::read_local(file, MAX_SIZE).map_err(|error| {
        let what = format!("cannot read X509_CERT_BUNDLE {}", file.display());
        Failure::caused(ExitStatus::Options, &what, &error)
    })
}

fn ownership(parameters: &Parameters) -> Result<Ownership, Failure> {
    let map = |file: &Option<PathBuf>| {
        file.as_deref().map(NumberMap::read).transpose().map(Option::unwrap_or_default)
    };
    let user = || (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    Ok(Ownership {
        claimed: parameters.claim_ownership.then(user),
        users: map(&parameters.uid_map).map_err(illegal)?,
        groups: map(&parameters.gid_map).map_err(illegal)?,
        world_readable: parameters.world_readable,
    })
}

fn exposure(parameters: &Parameters) -> Exposure {
    let older = parameters.hide_attributes.map(|hide| match hide {
        true => Visibility::Never,
        false => Visibility::Always,
    });
    Exposure {
        visibility: parameters.visibility.or(older).unwrap_or_default(),
        protected: parameters.protected_attributes.clone(),
        privileged: parameters.privileged_groups.clone(),
    }
}

fn illegal(message: impl Into<String>) -> Failure {
    Failure::new(ExitStatus::Options, message)
}

fn proxy(name: &str, flag: Option<&str>) -> Result<ProxySpec, Failure> {
    flag.map_or_else(
        || Ok(ProxySpec::direct()),
        |text| {
            text.parse().map_err(|error: ProxySpecError| {
                let status = match error {
                    ProxySpecError::Auto | ProxySpecError::Empty => ExitStatus::Proxy,
                    ProxySpecError::Address(_) => ExitStatus::Options,
                };
                Failure::new(status, format!("{name} {text}: {error}"))
            })
        },
    )
}

fn servers(
    flags: &RepositoryFlags,
    fqrn: &Fqrn,
    proxy: &ProxySpec,
) -> Result<Vec<String>, Failure> {
    if let Some(list) = flags.server.as_deref() {
        return listed_servers("--server", list, fqrn);
    }
    let Some(known) = KnownDomain::find(fqrn.domain()) else {
        let domains: Vec<_> = DOMAINS.iter().map(|known| known.domain).collect();
        return Err(illegal(format!(
            "no server is known for the domain {} of {fqrn}; give --server URL and --public-key \
             FILE (built in are {})",
            fqrn.domain(),
            domains.join(", ")
        )));
    };
    let templates = known.servers(match flags.use_cdn {
        Some(wanted) => !wanted,
        None => *proxy != ProxySpec::direct(),
    });
    tracing::debug!(%fqrn, ?templates, "using built-in servers");
    Ok(templates.iter().map(|template| fqrn.expand(template)).collect())
}

/// Reads a list of servers with `;` between them; `name` is what it was given by.
pub fn listed_servers(name: &str, list: &str, fqrn: &Fqrn) -> Result<Vec<String>, Failure> {
    let servers = list
        .split(';')
        .map(str::trim)
        .filter(|template| !template.is_empty())
        .map(|template| server(name, &fqrn.expand(template)))
        .collect::<Result<Vec<_>, _>>()?;
    if servers.is_empty() {
        return Err(illegal(format!("{name} names no server")));
    }
    Ok(servers)
}

/// Checks one base URL. The path is appended to it, so query and fragment have no place.
fn server(name: &str, url: &str) -> Result<String, Failure> {
    let bad = |reason: &str| illegal(format!("{name} {url}: {reason}"));
    let parsed = Url::parse(url).map_err(|error| {
        bad(&format!("{error}; expected http://HOST/PATH, https://HOST/PATH or file:///PATH"))
    })?;
    match parsed.scheme() {
        "http" | "https" if parsed.has_host() => {}
        "file" if parsed.host().is_none() && parsed.path().starts_with('/') => {}
        "http" | "https" | "file" => return Err(bad("the host is missing or too much")),
        _ => return Err(bad("only http://, https:// and file:// are supported")),
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(bad("'?' and '#' are not supported in server URLs"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// The command line allows one of the three flags at most.
fn pin(flags: &RepositoryFlags) -> Result<Pin, Failure> {
    if let Some(hash) = &flags.root_hash {
        return hash.parse().map(Pin::RootHash).map_err(
            |error: cvmfs_core::hash::HashParseError| {
                illegal(format!(
                    "--root-hash: {error}; expected 40 lower-case hex digits, then nothing, \
                     -rmd160 or -shake128"
                ))
            },
        );
    }
    if let Some(tag) = &flags.tag {
        if tag.is_empty() {
            return Err(illegal("--tag: the name is empty"));
        }
        return Ok(Pin::Tag(tag.clone()));
    }
    if let Some(date) = &flags.date {
        return date.parse::<jiff::Timestamp>().map(|time| Pin::Date(time.as_second())).map_err(
            |error| {
                illegal(format!(
                    "--date {date:?}: {error}; expected a time such as 2026-01-31T12:00:00Z"
                ))
            },
        );
    }
    Ok(Pin::Latest)
}

fn symlink_variables(
    fqrn: &Fqrn,
    flags: &[OsString],
    parameters: &Parameters,
) -> Result<SymlinkVariables, Failure> {
    let mut variables = SymlinkVariables::new();
    if parameters.stored_links {
        variables.keep_expressions();
    }
    variables.set("CVMFS_FQRN", fqrn.as_str());
    variables.set("CVMFS_ARCH", std::env::consts::ARCH);
    for flag in flags {
        let bytes = flag.as_bytes();
        let split = bytes.iter().position(|&b| b == b'=').filter(|&equals| equals > 0);
        let Some(equals) = split else {
            return Err(illegal(format!(
                "--symlink-variable {:?}: expected NAME=VALUE",
                flag.to_string_lossy()
            )));
        };
        variables.set(&bytes[..equals], &bytes[equals + 1..]);
    }
    Ok(variables)
}

#[cfg(test)]
mod tests;
