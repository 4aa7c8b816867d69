//! `hold`: keeps mounts while the container that serves them is replaced.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::cache::broker::peers;
use super::exit::{ExitStatus, Failure};
use crate::daemon::holder;

/// `hold --socket PATH`.
#[derive(Debug, Args)]
pub struct HoldArgs {
    /// Where to listen: on a volume that the containers share, at most 107 bytes long
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,

    /// After so long without a server, users of a mount get errors instead of waiting
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub deadline: u64,

    /// Who may connect besides root and this user: UID, @GID (primary group), or all; repeatable
    #[arg(long, value_name = "WHO")]
    pub allow: Vec<String>,
}

pub(super) fn run(args: &HoldArgs) -> Result<ExitStatus, Failure> {
    let deadline = Duration::from_secs(args.deadline);
    holder::run(&args.socket, peers(&args.allow)?, deadline)?;
    Ok(ExitStatus::Ok)
}
