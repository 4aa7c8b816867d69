//! Which repositories one mount shows, and how each of them is found.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cvmfs_core::fqrn::Fqrn;

use super::chain::Configuration;
use super::environment::{Environment, absolute};
use super::flags::RepositoryFlags;
use super::known::{DOMAINS, KnownDomain};
use super::options::MountOptions;
use super::settings::{ProcessSettings, RepositorySettings, parse_fqrn};
use super::trust;
use crate::cli::exit::{ExitStatus, Failure};

/// Parameter with the file of certificates, which is read for each repository.
const CERTIFICATES: &str = "X509_CERT_BUNDLE=";

/// The flags about which repositories there are: raw, as typed.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Repositories")]
pub struct AutomountFlags {
    /// Repository that a listing shows even before its first use; repeatable, or separated by ','
    #[arg(long = "repo", value_name = "FQRN", value_delimiter = ',')]
    pub repositories: Vec<OsString>,

    /// Only those of --repo exist; no server is ever asked for another name
    #[arg(long, requires = "repositories")]
    pub only_listed: bool,

    /// Close a repository that nobody has used for so many seconds; the next use opens it again
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    pub idle_timeout: u32,
}

/// Everything needed to show all repositories on one directory.
#[derive(Debug, Clone)]
pub struct AutomountSettings {
    /// Where; absolute.
    pub mountpoint: PathBuf,
    /// How.
    pub options: MountOptions,
    /// Repositories that are always listed.
    pub listed: Vec<Fqrn>,
    /// There are no others.
    pub only_listed: bool,
    /// After this time without use a repository is closed.
    pub idle_timeout: Duration,
    /// Follow new revisions.
    pub auto_update: bool,
    /// Which of the processes of the mount this is.
    pub process: ProcessSettings,
    /// The settings of one of the repositories: what is the same for all of them.
    pub model: RepositorySettings,
    flags: RepositoryFlags,
    environment: Environment,
}

impl AutomountSettings {
    /// Resolves the flags, and checks them for the repositories that are listed.
    pub fn resolve(
        mountpoint: &Path,
        options: MountOptions,
        repositories: &AutomountFlags,
        flags: &RepositoryFlags,
        process: ProcessSettings,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let illegal = |message: &str| Err(Failure::new(ExitStatus::Options, message));
        if flags.root_hash.is_some() {
            return illegal("--root-hash is of one repository; give it to 'mount'");
        }
        let listed = repositories.repositories.iter().map(|name| parse_fqrn(name));
        let mut listed = listed.collect::<Result<Vec<_>, _>>()?;
        listed.sort_unstable();
        listed.dedup();
        let is_one = repositories.only_listed && listed.len() == 1;
        if let Some(servers) = &flags.server
            && !is_one
            && !servers.split(';').all(|url| url.trim().is_empty() || is_template(url))
        {
            return illegal(
                "--server is for all repositories: write @fqrn@ where their name is to be, as in \
                 http://s1.example.org/cvmfs/@fqrn@",
            );
        }
        let flags = with_absolute_paths(flags)?;
        // It may be one of those that we are to show.
        let environment = &Environment { reads_config_repository: false, ..environment.clone() };
        let resolve = |fqrn: &Fqrn| RepositorySettings::resolve(fqrn.clone(), &flags, environment);
        // Mistakes are told now, not when somebody looks.
        let mut models = listed.iter().map(resolve).collect::<Result<Vec<_>, _>>()?;
        let model = match models.pop() {
            Some(model) => model,
            None => resolve(&any_name()?)?,
        };
        Ok(Self {
            mountpoint: absolute(mountpoint).map_err(|error| {
                let what = format!("cannot use mountpoint {mountpoint:?}");
                Failure::caused(ExitStatus::Permission, &what, &error)
            })?,
            options,
            listed,
            only_listed: repositories.only_listed,
            idle_timeout: Duration::from_secs(repositories.idle_timeout.into()),
            auto_update: model.parameters.auto_update != Some(false),
            process,
            model,
            flags,
            environment: environment.clone(),
        })
    }

    /// Returns the settings of one repository.
    pub fn repository(&self, fqrn: &Fqrn) -> Result<RepositorySettings, Failure> {
        RepositorySettings::resolve(fqrn.clone(), &self.flags, &self.environment)
    }

    /// Tells whether servers and keys are known for a name.
    pub fn is_plausible(&self, fqrn: &Fqrn) -> bool {
        let is_known = KnownDomain::find(fqrn.domain()).is_some();
        // Files are looked at only for names that nothing else is known of.
        let configuration = (!is_known && self.flags.server.is_none())
            .then(|| Configuration::of(&self.flags, &self.environment, Some(fqrn)).ok())
            .flatten();
        let says = |name| configuration.as_ref().is_some_and(|found| found.get(name).is_some());
        let has_servers = is_known || self.flags.server.is_some() || says("CVMFS_SERVER_URL");
        let has_keys = || {
            is_known
                || self.flags.public_key.is_some()
                || says("CVMFS_PUBLIC_KEY")
                || says("CVMFS_KEYS_DIR")
                || configuration.as_ref().is_some_and(|found| !found.added.is_empty())
                || trust::has_keys(&self.environment.keys_dir(), fqrn.domain())
        };
        has_servers && has_keys()
    }
}

fn is_template(url: &str) -> bool {
    url.contains("@fqrn@") || url.contains("@org@")
}

/// A name that flags can be checked with.
fn any_name() -> Result<Fqrn, Failure> {
    let domain = DOMAINS.first().map_or("example.org", |known| known.domain);
    parse_fqrn(OsStr::new(&format!("any.{domain}")))
}

/// Repositories are opened long after the process has left its first directory.
fn with_absolute_paths(flags: &RepositoryFlags) -> Result<RepositoryFlags, Failure> {
    let full = |path: &Path| {
        absolute(path).map_err(|error| {
            let what = format!("cannot use {}", path.display());
            Failure::caused(ExitStatus::Options, &what, &error)
        })
    };
    let mut flags = flags.clone();
    if let Some(list) = &flags.public_key {
        let files = list.as_bytes().split(|&byte| byte == b':').filter(|file| !file.is_empty());
        let files = files.map(|file| full(Path::new(OsStr::from_bytes(file))));
        let files: Vec<_> =
            files.map(|file| file.map(PathBuf::into_os_string)).collect::<Result<_, _>>()?;
        flags.public_key = Some(files.join(OsStr::new(":")));
    }
    for parameter in &mut flags.set {
        if let Some(file) = parameter.strip_prefix(CERTIFICATES) {
            *parameter = format!("{CERTIFICATES}{}", full(Path::new(file))?.display());
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(
        repositories: &[&str],
        only_listed: bool,
        flags: RepositoryFlags,
    ) -> Result<AutomountSettings, Failure> {
        let environment = Environment {
            is_root: false,
            home: Some("/home/u".into()),
            cache_home: None,
            config_home: None,
            log: None,
            http_proxy: None,
            configuration: "/nonexistent".into(),
            reads_config_repository: true,
        };
        let repositories = AutomountFlags {
            repositories: repositories.iter().map(Into::into).collect(),
            only_listed,
            idle_timeout: 60,
        };
        let options = MountOptions::defaults(false);
        let process = ProcessSettings::default();
        let mountpoint = Path::new("/cvmfs");
        AutomountSettings::resolve(
            mountpoint,
            options,
            &repositories,
            &flags,
            process,
            &environment,
        )
    }

    fn fqrn(name: &str) -> Fqrn {
        name.parse().unwrap()
    }

    #[test]
    fn names_are_plausible_where_servers_and_keys_are_known() {
        let plain = resolve(
            &["sft.cern.ch", "cms.cern.ch", "cms.cern.ch"],
            false,
            RepositoryFlags::default(),
        )
        .unwrap();
        assert_eq!(plain.listed, [fqrn("cms.cern.ch"), fqrn("sft.cern.ch")]);
        assert!(plain.is_plausible(&fqrn("atlas.cern.ch")));
        assert!(!plain.is_plausible(&fqrn("atlas.example.org")));
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("k.pub");
        std::fs::write(&key, include_str!("keys/egi.eu.pub")).unwrap();
        let flags = RepositoryFlags {
            server: Some("http://a/@fqrn@".to_owned()),
            public_key: Some(key.into()),
            ..RepositoryFlags::default()
        };
        let own = resolve(&[], false, flags).unwrap();
        assert!(own.is_plausible(&fqrn("atlas.example.org")));
        assert_eq!(own.repository(&fqrn("a.b")).unwrap().servers, ["http://a/a.b"]);
    }

    #[test]
    fn what_cannot_be_for_all_is_refused() {
        let flags = |server: Option<&str>, root_hash: Option<&str>| RepositoryFlags {
            server: server.map(str::to_owned),
            root_hash: root_hash.map(str::to_owned),
            ..RepositoryFlags::default()
        };
        for (names, only, flags, part) in [
            (&["cms.cern.ch"][..], false, flags(Some("http://a/b"), None), "@fqrn@"),
            (&["cms.cern.ch"], false, flags(None, Some("0123")), "--root-hash"),
            (&["atlas"], false, flags(None, None), "fully qualified"),
            (&["x.example.org"], false, flags(None, None), "give --server"),
        ] {
            let failure = resolve(names, only, flags).unwrap_err();
            assert_eq!(failure.status, ExitStatus::Options);
            assert!(failure.message.contains(part), "{failure}");
        }
        assert!(resolve(&["cms.cern.ch"], true, flags(Some("http://a/b"), None)).is_ok());
    }

    #[test]
    fn paths_do_not_depend_on_the_present_directory() {
        let flags = RepositoryFlags {
            public_key: Some("a.pub:/b.pub".into()),
            set: vec!["CVMFS_TIMEOUT=5".to_owned(), "X509_CERT_BUNDLE=c.pem".to_owned()],
            ..RepositoryFlags::default()
        };
        let flags = with_absolute_paths(&flags).unwrap();
        let keys = flags.public_key.unwrap().into_string().unwrap();
        assert!(keys.starts_with('/') && keys.ends_with("/a.pub:/b.pub"), "{keys}");
        assert!(flags.set[1].starts_with("X509_CERT_BUNDLE=/"), "{:?}", flags.set);
    }
}
