//! Flags of `profile`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::help;
use crate::config::cache::CacheFlags;

/// The subcommands of `profile`.
#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    /// Show what is known: which object triggers which others
    Show(ProfileShowArgs),
    /// Write all that is known about a repository
    Export(ProfileExportArgs),
    /// Add what was exported, also elsewhere
    Import(ProfileImportArgs),
    /// Run a command and write what it uses of a mounted repository
    #[command(after_long_help = help::PROFILE_RECORD)]
    Record(ProfileRecordArgs),
}

/// Which profile.
#[derive(Debug, Args)]
pub struct ProfilePlace {
    /// Name of the repository
    pub fqrn: OsString,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub cache: CacheFlags,
}

/// `profile show`.
#[derive(Debug, Args)]
pub struct ProfileShowArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub place: ProfilePlace,

    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// `profile export`.
#[derive(Debug, Args)]
pub struct ProfileExportArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub place: ProfilePlace,

    /// Where to [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `profile import`.
#[derive(Debug, Args)]
pub struct ProfileImportArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub place: ProfilePlace,

    /// What was exported
    pub file: PathBuf,
}

/// `profile record`.
#[derive(Debug, Args)]
pub struct ProfileRecordArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub place: ProfilePlace,

    /// Where it is mounted [default: /cvmfs/FQRN]
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,

    /// Where to write the profile
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Program to run, and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}
