//! Parameters of the log (spec/config.md section 3.5).

use std::path::PathBuf;

use clap::ValueEnum as _;

use super::Parameter;

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
    /// To the journal of systemd, with fields
    Journald,
}

/// Where messages go besides stderr, and how.
#[derive(Debug, Clone, Default)]
pub struct Logging {
    /// How they are written to stderr, or whether they go to the journal instead.
    pub format: Option<LogFormat>,
    /// From which importance on they go to syslog: 1 debug, 2 info, 3 warnings.
    pub syslog_level: Option<u8>,
    /// 0 to 7 for local0 to local7; `user` otherwise.
    pub syslog_facility: Option<u8>,
    /// Stands for the name of the repository.
    pub syslog_prefix: Option<String>,
    /// A file in the place of syslog.
    pub micro_syslog: Option<PathBuf>,
    /// A file for everything.
    pub debug_log: Option<PathBuf>,
}

impl Logging {
    /// Messages are wanted in syslog, or in the file in its place.
    pub fn has_syslog(&self) -> bool {
        self.micro_syslog.is_some()
            || self.syslog_level.is_some()
            || self.syslog_facility.is_some()
            || self.syslog_prefix.is_some()
    }
}

fn file(text: &str) -> Option<PathBuf> {
    let path = PathBuf::from(text);
    path.is_absolute().then_some(path)
}

/// Their part of the table.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "CVMFS_FUSE_LOG_FORMAT",
        form: "text|json|journald",
        help: "as --log-format, which counts more [text]",
        set: |p, v| LogFormat::from_str(v, true).ok().map(|v| p.logging.format = Some(v)),
    },
    Parameter {
        name: "CVMFS_SYSLOG_LEVEL",
        form: "1|2|3",
        help: "messages also go to syslog: 1 debug, 2 info, 3 warnings [3 with the next two]",
        set: |p, v| {
            let level = v.parse().ok().filter(|level| (1..=3).contains(level))?;
            p.logging.syslog_level = Some(level);
            Some(())
        },
    },
    Parameter {
        name: "CVMFS_SYSLOG_FACILITY",
        form: "0..7",
        help: "they go to syslog as local0 to local7 [user]",
        set: |p, v| {
            let facility = v.parse().ok().filter(|facility| *facility <= 7)?;
            p.logging.syslog_facility = Some(facility);
            Some(())
        },
    },
    Parameter {
        name: "CVMFS_SYSLOG_PREFIX",
        form: "TEXT",
        help: "they go to syslog as (TEXT) MESSAGE [the repository]",
        set: |p, v| {
            let is_line = !v.is_empty() && !v.contains(char::is_control);
            is_line.then(|| p.logging.syslog_prefix = Some(v.to_owned()))
        },
    },
    Parameter {
        name: "CVMFS_USYSLOG",
        form: "FILE",
        help: "they go to a file instead of syslog; at 500 KiB it becomes FILE.1",
        set: |p, v| file(v).map(|v| p.logging.micro_syslog = Some(v)),
    },
    Parameter {
        name: "CVMFS_DEBUGLOG",
        form: "FILE",
        help: "everything that helps to find a fault goes to this file, too",
        set: |p, v| file(v).map(|v| p.logging.debug_log = Some(v)),
    },
];
