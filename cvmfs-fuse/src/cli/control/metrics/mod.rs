//! `metrics`: what monitoring wants to know of all mounts, once or over HTTP.
//!
//! | module | what it holds |
//! |---|---|
//! | [`exposition`] | the table of metrics, as OpenMetrics |
//! | `serve` | the endpoint |
//! | `admission` | which requests are answered |
//!
//! It is a process of its own that asks the control sockets: a mount has no port open, one endpoint
//! is enough for a machine, and asking for all values of twenty mounts takes twenty questions.

mod admission;
pub mod exposition;
mod serve;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use admission::Admission;

use super::mounts;
use crate::cli::cache::print;
use crate::cli::exit::{ExitStatus, Failure};

/// `metrics`.
#[derive(Debug, Args)]
pub struct MetricsArgs {
    /// Answer over HTTP until interrupted, instead of printing once: IP:PORT or unix:FILE
    ///
    /// PORT alone is a port of 127.0.0.1. Browsers and scrapers have to ask for this machine: by an
    /// IP address, as localhost, by the name of the machine, or by a name given with --host.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<Listen>,

    /// Also answer requests for this name (the Host header); can be repeated
    #[arg(long, value_name = "NAME", requires = "listen")]
    pub host: Vec<String>,

    /// Answer only who sends 'Authorization: Bearer TOKEN', with the token in this file
    #[arg(long, value_name = "FILE", requires = "listen")]
    pub token_file: Option<PathBuf>,
}

/// Where the endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// TCP.
    Port(SocketAddr),
    /// A Unix socket, made with mode 0666: who may reach it is decided by its directory.
    File(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::File(path.into())),
            Some(_) => Err("expected unix:/ABSOLUTE/PATH".to_owned()),
            None => text
                .parse()
                .or_else(|_| text.parse().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
                .map(Self::Port)
                .map_err(|_| "expected PORT, IP:PORT, or unix:/PATH".to_owned()),
        }
    }
}

pub(in crate::cli) fn run(args: &MetricsArgs) -> Result<ExitStatus, Failure> {
    match &args.listen {
        Some(listen) => serve::run(listen, Admission::of(args)?),
        None => {
            print(&exposition::text(&mounts()?))?;
            Ok(ExitStatus::Ok)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!("127.0.0.1:1".parse(), Ok(Listen::Port(([127, 0, 0, 1], 1).into())));
        assert_eq!("unix:/run/x".parse(), Ok(Listen::File("/run/x".into())));
        assert_eq!("9867".parse(), Ok(Listen::Port(([127, 0, 0, 1], 9867).into())));
        for bad in ["unix:x", "65536", "-1", "host:1", ""] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }
}
