//! `doctor`: what of this machine, this container, the cache, the network and the configuration
//! stands in the way of a mount, and what to do about it.
//!
//! Every check looks at one thing and returns [`Finding`]s; none fails, none waits without a
//! deadline, and none changes anything. The texts of `/proc` are parsed by plain functions.
//!
//! | module | what it looks at |
//! |---|---|
//! | [`finding`] | what a check returns; how it is shown |
//! | [`surroundings`] | host or which container engine: what a fix looks like |
//! | [`kernel`] | version, and what comes with it |
//! | [`device`] | `/dev/fuse` |
//! | [`privileges`] | capabilities, seccomp, user namespaces: who may mount |
//! | [`security`] | AppArmor and SELinux |
//! | [`propagation`] | who else sees what is mounted |
//! | [`stale`] | mounts whose server is dead or hangs |
//! | [`cache`] | the directory of objects |
//! | [`network`] | proxies, servers, letters, clock |

pub mod cache;
pub mod device;
pub mod finding;
pub mod kernel;
pub mod network;
pub mod privileges;
pub mod propagation;
pub mod security;
pub mod stale;
pub mod surroundings;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::exit::{ExitStatus, Failure};
use crate::config::environment::absolute;
use crate::config::{CacheSettings, Environment, RepositoryFlags, RepositorySettings, parse_fqrn};
pub use finding::{Finding, Report, Severity};
use surroundings::Surroundings;

/// Where repositories are mounted by convention.
const USUAL_MOUNTPOINT: &str = "/cvmfs";

/// `doctor [FQRN]`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Also check the servers, proxies and keys of this repository
    pub fqrn: Option<OsString>,

    /// Where repositories are to be mounted [default: /cvmfs]
    #[arg(long, value_name = "DIR")]
    pub mountpoint: Option<PathBuf>,

    /// One JSON object: findings (check, severity, message, fix), warnings, problems
    #[arg(long)]
    pub json: bool,

    /// The child process that asks a mount, which may hang
    #[arg(long, value_name = "DIR", hide = true, exclusive = true)]
    pub probe: Option<PathBuf>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub repository: RepositoryFlags,
}

/// Runs all checks and prints what they found.
pub fn run(args: &DoctorArgs, environment: &Environment) -> Result<ExitStatus, Failure> {
    if let Some(path) = &args.probe {
        return Ok(stale::probe(path));
    }
    let fqrn = args.fqrn.as_deref().map(parse_fqrn).transpose()?;
    let mountpoint = match &args.mountpoint {
        Some(path) => absolute(path).map_err(|error| {
            Failure::caused(ExitStatus::Options, &format!("--mountpoint {path:?}"), &error)
        })?,
        None => PathBuf::from(USUAL_MOUNTPOINT),
    };
    let here = Surroundings::find();
    let mut findings = vec![here.finding()];
    findings.extend(kernel::check());
    findings.extend(device::check(here));
    findings.extend(privileges::check(here));
    findings.extend(security::check(here));
    findings.extend(propagation::check(&mountpoint, here));
    findings.extend(stale::check());
    let settings = fqrn.map(|fqrn| {
        let known = fqrn.clone();
        RepositorySettings::resolve(fqrn, &args.repository, environment).map_err(|e| (known, e))
    });
    match settings {
        None => {
            match CacheSettings::resolve(&args.repository.cache, environment) {
                Ok(settings) => findings.extend(cache::check(&settings, here)),
                Err(failure) => findings.push(refused("cache", failure)),
            }
            findings.push(network::blocklist(environment));
            findings.push(Finding::ok(
                "servers",
                "not asked: name a repository to have its servers, proxies and keys checked",
            ));
        }
        Some(Err((fqrn, failure))) => {
            findings.push(refused("configuration", failure.advise(&format!("needed for {fqrn}"))));
        }
        Some(Ok(settings)) => {
            findings.extend(cache::check(&settings.cache, here));
            findings.push(network::blocklist(environment));
            findings.extend(network::check(&settings)?);
        }
    }
    let report = Report::new(findings);
    let shown = match args.json {
        true => report.json()?,
        false => report.text(),
    };
    // Nobody listening is no error of the machine; the exit code still tells.
    let _ = std::io::stdout().lock().write_all(shown.as_bytes());
    Ok(if report.problems() == 0 { ExitStatus::Ok } else { ExitStatus::Unknown })
}

/// Settings that cannot be used: the message has the advice in it.
fn refused(check: &'static str, failure: Failure) -> Finding {
    Finding::problem(check, failure.message)
}

/// Reads a small text of the kernel; `None` if there is none, as in an older kernel.
fn kernel_text(path: impl AsRef<Path>) -> Option<String> {
    /// More than any of these has; mountinfo of a busy node has a few hundred kilobytes.
    const LIMIT: u64 = 16 << 20;
    let bytes = crate::config::read_bounded(path.as_ref(), LIMIT).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}
