//! `config show`, `config check`: what the files of this machine say.

mod counted;
mod expected;
mod reached;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;

use clap::{Args, Subcommand};

use super::cache::print;
use super::exit::{ExitStatus, Failure};
use super::help;
use crate::config::chain::Value;
use crate::config::chain::check::examine;
use crate::config::parameters::table::{self, Parameter};
use crate::config::{Configuration, Environment, RepositoryFlags, RepositorySettings, parse_fqrn};

/// The subcommands of `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show every parameter of a repository, or of all, and where it is set
    #[command(after_long_help = help::CONFIG_SHOW)]
    Show(ConfigArgs),
    /// Look for mistakes, and say what to do about them
    #[command(after_long_help = help::CONFIG_CHECK)]
    Check(ConfigArgs),
}

/// `config show|check [FQRN]`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Name of the repository; without it, what holds for all
    pub fqrn: Option<OsString>,

    /// Read these files instead of those of /etc/cvmfs, separated by ':'
    #[arg(long, value_name = "FILE[:FILE...]")]
    pub config: Option<OsString>,

    /// Leave out what is empty
    #[arg(short, long)]
    pub short: bool,

    /// Also show what is not set: the default, and in JSON what it does
    #[arg(short, long, conflicts_with = "short")]
    pub all: bool,

    /// One JSON object
    #[arg(long)]
    pub json: bool,

    /// For 'cvmfs_config showconfig': the name in the first line
    #[arg(long, hide = true)]
    pub named: bool,

    /// For 'cvmfs_config chksetup': OK, or what is wrong, a line each
    #[arg(long, hide = true)]
    pub counted: bool,
}

pub(super) fn run(
    command: &ConfigCommand,
    environment: &Environment,
) -> Result<ExitStatus, Failure> {
    let (ConfigCommand::Show(args) | ConfigCommand::Check(args)) = command;
    let flags = RepositoryFlags { config: args.config.clone(), ..RepositoryFlags::default() };
    let whole = Configuration::of(&flags, environment, None)?;
    if args.named && matches!(command, ConfigCommand::Show(_)) {
        return show_named(whole, &flags, args, environment);
    }
    if args.counted {
        return counted::count(&whole, &flags, args, environment);
    }
    let fqrn = args.fqrn.as_deref().map(|name| parse_fqrn(&whole.full_name(name))).transpose()?;
    let configuration = match &fqrn {
        Some(fqrn) => Configuration::of(&flags, environment, Some(fqrn))?,
        None => whole,
    };
    match command {
        ConfigCommand::Show(_) => show(&configuration, args),
        ConfigCommand::Check(_) => {
            // What only shows when everything is put together.
            let settings = fqrn.map(|fqrn| RepositorySettings::resolve(fqrn, &flags, environment));
            check(&configuration, settings.and_then(Result::err), args)
        }
    }
}

fn show(configuration: &Configuration, args: &ConfigArgs) -> Result<ExitStatus, Failure> {
    let unsaid = Value::default();
    let added = configuration.added.keys().map(|name| (name, &unsaid));
    let values: BTreeMap<_, _> = added.chain(&configuration.values).collect();
    let values: BTreeMap<_, _> = values
        .into_iter()
        .filter(|(name, value)| {
            !args.short || !value.text.is_empty() || configuration.added.contains_key(*name)
        })
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    let is_unset = |known: &&Parameter| {
        !configuration.values.contains_key(known.name)
            && !configuration.added.contains_key(known.name)
    };
    let unset = table::all().filter(is_unset).map(|known| (known.name, known));
    if args.json {
        let origin = |value: &Value| {
            value.origin.as_ref().map(|origin| (origin.file.display().to_string(), origin.line))
        };
        let mut object: serde_json::Map<_, _> = values
            .iter()
            .map(|(name, value)| {
                let (file, line) = origin(value).unzip();
                let mut value =
                    serde_json::json!({"value": value.text, "file": file, "line": line});
                if let Some(added) = configuration.added.get(*name) {
                    let (file, line) = origin(added).unzip();
                    value["added"] =
                        serde_json::json!({"value": added.text, "file": file, "line": line});
                }
                ((*name).to_owned(), value)
            })
            .collect();
        if args.all {
            object.extend(unset.map(|(name, known)| {
                (name.to_owned(), serde_json::json!({"default": known.default, "help": known.help}))
            }));
        }
        print(&format!("{}\n", serde_json::Value::Object(object)))?;
        return Ok(ExitStatus::Ok);
    }
    // The shape of 'cvmfs2 -o parse', which scripts read (spec/config.md section 5).
    let mut text = String::from("# CernVM-FS parameters:\n");
    let mut lines: BTreeMap<_, _> =
        values.into_iter().map(|(name, value)| (name, line(name, value, configuration))).collect();
    if args.all {
        lines.extend(unset.map(|(name, known)| {
            let note = if known.default.is_empty() { "" } else { "    # built in" };
            (name, format!("{name}={}{note}\n", quoted(known.default)))
        }));
    }
    lines.into_values().for_each(|line| text.push_str(&line));
    print(&text)?;
    Ok(ExitStatus::Ok)
}

fn line(name: &str, value: &Value, configuration: &Configuration) -> String {
    let mut text = format!("{name}={}", quoted(&value.text));
    if let Some(origin) = &value.origin {
        let _ = write!(text, "    # from {origin}");
    }
    if let Some(added) = configuration.added.get(name)
        && let Some(origin) = &added.origin
    {
        let _ = write!(text, "    # added: {} from {origin}", quoted(&added.text));
    }
    text.push('\n');
    text
}

/// `cvmfs_config showconfig [-s] [FQRN]`; without a name, of all repositories that are stated.
fn show_named(
    whole: Configuration,
    flags: &RepositoryFlags,
    args: &ConfigArgs,
    environment: &Environment,
) -> Result<ExitStatus, Failure> {
    let mut text = String::new();
    let names = match &args.fqrn {
        Some(name) => vec![whole.full_name(name)],
        None => whole.repositories(),
    };
    let is_one = args.fqrn.is_some();
    for name in names {
        let shown = name.to_string_lossy().into_owned();
        if !is_one {
            let _ = writeln!(text, "Configuration of {shown}:");
        }
        // A name that is none has what holds for all: scripts ask for that by any name.
        let configuration = match parse_fqrn(&name) {
            Ok(fqrn) => Configuration::of(flags, environment, Some(&fqrn))?,
            Err(_) => whole.clone(),
        };
        let _ = writeln!(text, "CVMFS_REPOSITORY_NAME={shown}");
        let unset = Value::default();
        let known = table::all().map(|known| known.name);
        let known = known.filter(|name| !configuration.values.contains_key(*name));
        let mut all: BTreeMap<_, _> = known.map(|name| (name, &unset)).collect();
        all.extend(configuration.values.iter().map(|(name, value)| (name.as_str(), value)));
        for (name, value) in all {
            if !args.short || !value.text.is_empty() {
                text.push_str(&line(name, value, &configuration));
            }
        }
    }
    print(&text)?;
    Ok(ExitStatus::Ok)
}

/// Quotes a value as upstream does: unless it is made of harmless characters only.
fn quoted(text: &str) -> String {
    let is_harmless = |c: char| c.is_ascii_alphanumeric() || "/:._,-".contains(c);
    // Some of it comes from a configuration repository, and this is for a terminal.
    let text = &text.replace(|c: char| c.is_control() && c != '\n' && c != '\t', "\u{fffd}");
    match text.chars().all(is_harmless) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

fn check(
    configuration: &Configuration,
    failure: Option<Failure>,
    args: &ConfigArgs,
) -> Result<ExitStatus, Failure> {
    let findings = examine(configuration);
    let status = match findings.is_empty() && failure.is_none() {
        true => ExitStatus::Ok,
        false => ExitStatus::Unknown,
    };
    if args.json {
        let findings: Vec<_> = findings
            .iter()
            .map(|finding| {
                let origin = finding.origin.as_ref().map(ToString::to_string);
                serde_json::json!({"where": origin, "what": finding.text, "advice": finding.advice})
            })
            .collect();
        let failure = failure.map(|failure| failure.message);
        let files: Vec<_> =
            configuration.files.iter().map(|file| file.display().to_string()).collect();
        let report = serde_json::json!({"files": files, "findings": findings, "failure": failure});
        print(&format!("{report}\n"))?;
        return Ok(status);
    }
    let mut text = format!("{} files read\n", configuration.files.len());
    for finding in &findings {
        if let Some(origin) = &finding.origin {
            let _ = write!(text, "{origin}: ");
        }
        let _ = writeln!(text, "{}; {}", finding.text, finding.advice);
    }
    if let Some(failure) = failure {
        let _ = writeln!(text, "a mount would fail: {failure}");
    }
    if status == ExitStatus::Ok {
        text.push_str("nothing wrong was found\n");
    }
    print(&text)?;
    Ok(status)
}
