//! From the events of the program to lines: what is collected, and where it goes.
//!
//! There are three channels, each with a filter of its own: messages for whoever started the program,
//! syslog (or the file in its place), and the debug log. The latter two are opened when the
//! configuration is known.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::flood::Flood;
use super::record::Record;
use super::remembered;
use super::rotating::RotatingFile;
use super::wire;
use crate::config::parameters::logging::{LogFormat, Logging};

/// As upstream's.
const MICRO_SYSLOG_SIZE: u64 = 500 << 10;
/// Hours of debugging, and no full disk.
const DEBUG_LOG_SIZE: u64 = 64 << 20;
/// The crates of this project.
const OUR_CRATES: [&str; 3] = ["cvmfs_core", "cvmfs_cache", "cvmfs_fuse"];

/// Where lines go.
enum Outlet {
    Nowhere,
    Text,
    Json,
    Journal,
    Syslog { facility: u8, prefix: Option<String> },
    MicroSyslog { file: RotatingFile, prefix: Option<String> },
    File(RotatingFile),
}

impl Outlet {
    fn write(&self, record: &Record) -> io::Result<()> {
        let process = PROCESS.load();
        let process = process.as_ref().map(|name| name.as_str());
        let name = |prefix: &Option<String>| {
            let name = prefix.as_deref().or_else(|| record.repository()).or(process);
            name.unwrap_or("cvmfs-fuse").to_owned()
        };
        match self {
            Self::Nowhere => Ok(()),
            Self::Text => super::stderr().write_all(record.line().as_bytes()),
            Self::Json => super::stderr().write_all(record.json(process).as_bytes()),
            Self::Journal => wire::send(wire::JOURNAL.as_ref(), &wire::journal(record, process))
                // It may be starting, or there may be none here.
                .or_else(|_| super::stderr().write_all(record.line().as_bytes())),
            Self::Syslog { facility, prefix } => {
                let line = wire::syslog(record, *facility, &name(prefix));
                wire::send(wire::SYSLOG.as_ref(), &line)
            }
            Self::MicroSyslog { file, prefix } => {
                let mut named = record.clone();
                named.message = format!("({}) {}", name(prefix), named.message);
                file.write(&named.line())
            }
            Self::File(file) => file.write(&record.line()),
        }
    }
}

/// One way for messages.
struct Channel {
    outlet: ArcSwap<Outlet>,
    flood: Mutex<Flood>,
    /// Why the last message was lost.
    trouble: Mutex<Option<io::ErrorKind>>,
}

impl Channel {
    fn new(outlet: Outlet) -> Arc<Self> {
        let (flood, trouble) = (Mutex::default(), Mutex::default());
        Arc::new(Self { outlet: ArcSwap::from_pointee(outlet), flood, trouble })
    }

    fn write(&self, records: Vec<Record>) {
        for record in records {
            let written = self.outlet.load().write(&record);
            let now = written.as_ref().err().map(io::Error::kind);
            let before = std::mem::replace(&mut *self.trouble.lock(), now);
            if let Err(error) = written
                && before != now
            {
                // Whoever looks at stderr is told once. Not by a message: that would come back here.
                let _ = writeln!(super::stderr(), "cvmfs-fuse: a log cannot be written: {error}");
            }
        }
    }
}

/// Name of the repository that this process serves.
static PROCESS: ArcSwapOption<String> = ArcSwapOption::const_empty();
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    main: Arc<Channel>,
    syslog: Arc<Channel>,
    debug: Arc<Channel>,
    syslog_filter: reload::Handle<Targets, Registry>,
    debug_filter: reload::Handle<Targets, Registry>,
    /// The form of the main channel was chosen by the command line.
    is_chosen: bool,
}

/// Collects messages for one channel.
struct Scribe {
    channel: Arc<Channel>,
    /// Those of this one can be asked for later.
    remembers: bool,
}

/// What is going on, as it is shown before messages.
struct Shown(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Scribe {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        if extensions.get_mut::<Shown>().is_some() {
            // By another channel.
            return;
        }
        let mut fields = Record::new(*attributes.metadata().level(), "");
        attributes.record(&mut fields);
        let mut shown = format!("{}{{", attributes.metadata().name());
        let _ = write!(shown, "{}}}:", fields.text().trim_start());
        extensions.insert(Shown(shown));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut record = Record::new(*metadata.level(), metadata.target());
        record.origin = Some(metadata.callsite());
        event.record(&mut record);
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(Shown(shown)) = span.extensions().get() {
                record.context += shown;
            }
        }
        let due = self.channel.flood.lock().take(record, Instant::now());
        if self.remembers {
            due.iter().for_each(remembered::keep);
        }
        self.channel.write(due);
    }
}

/// Starts the log of this process: to stderr, or to the journal.
pub(crate) fn start(filter: EnvFilter, format: Option<LogFormat>) {
    let main = Channel::new(outlet(format.unwrap_or(LogFormat::Text)));
    let (syslog, debug) = (Channel::new(Outlet::Nowhere), Channel::new(Outlet::Nowhere));
    let (syslog_off, syslog_filter) = reload::Layer::new(Targets::new());
    let (debug_off, debug_filter) = reload::Layer::new(Targets::new());
    let scribe = |channel: &Arc<Channel>, remembers| {
        let channel = Arc::clone(channel);
        Scribe { channel, remembers }
    };
    let layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = vec![
        scribe(&main, true).with_filter(filter).boxed(),
        scribe(&syslog, false).with_filter(syslog_off).boxed(),
        scribe(&debug, false).with_filter(debug_off).boxed(),
    ];
    let started = tracing_subscriber::registry().with(layers).try_init();
    if let Err(error) = started {
        // Another subscriber is there only in tests, which want their own.
        tracing::debug!(%error, "log already started");
        return;
    }
    let is_chosen = format.is_some();
    let _ = LOG.set(Log { main, syslog, debug, syslog_filter, debug_filter, is_chosen });
}

fn outlet(format: LogFormat) -> Outlet {
    match format {
        LogFormat::Text => Outlet::Text,
        LogFormat::Json => Outlet::Json,
        LogFormat::Journald => Outlet::Journal,
    }
}

/// Messages of this project from a level on, and warnings of others.
fn from_level(level: Level) -> Targets {
    Targets::new()
        .with_default(LevelFilter::WARN)
        .with_targets(OUR_CRATES.map(|name| (name, LevelFilter::from_level(level))))
}

/// Opens what the configuration wants beside stderr, for a process that serves `name`; `partner` is as whom
/// its server works, if not as this user.
pub(crate) fn direct(logging: &Logging, name: Option<&str>, partner: Option<u32>) {
    PROCESS.store(name.map(|name| Arc::new(name.to_owned())));
    let Some(log) = LOG.get() else { return };
    if let (Some(format), false) = (logging.format, log.is_chosen) {
        log.main.outlet.store(Arc::new(outlet(format)));
    }
    if logging.has_syslog() {
        let prefix = logging.syslog_prefix.clone();
        let outlet = match &logging.micro_syslog {
            Some(path) => opened(path, MICRO_SYSLOG_SIZE, partner)
                .map(|file| Outlet::MicroSyslog { file, prefix }),
            None => {
                let facility = wire::facility(logging.syslog_facility);
                Some(Outlet::Syslog { facility, prefix })
            }
        };
        let level = match logging.syslog_level {
            Some(1) => Level::DEBUG,
            Some(2) => Level::INFO,
            _ => Level::WARN,
        };
        begin(&log.syslog, &log.syslog_filter, outlet, level);
    }
    if let Some(path) = &logging.debug_log {
        let outlet = opened(path, DEBUG_LOG_SIZE, partner).map(Outlet::File);
        begin(&log.debug, &log.debug_filter, outlet, Level::DEBUG);
    }
}

fn begin(
    channel: &Channel,
    filter: &reload::Handle<Targets, Registry>,
    outlet: Option<Outlet>,
    level: Level,
) {
    let Some(outlet) = outlet else { return };
    channel.outlet.store(Arc::new(outlet));
    if let Err(error) = filter.reload(from_level(level)) {
        tracing::warn!(%error, "a log cannot be opened");
    }
}

fn opened(path: &PathBuf, limit: u64, partner: Option<u32>) -> Option<RotatingFile> {
    RotatingFile::open(path, limit, partner)
        .inspect_err(|error| tracing::warn!(?path, %error, "a log cannot be opened"))
        .ok()
}

/// Says why the program ends: on stderr in one line, and wherever else messages go.
pub(crate) fn fail(why: &str) {
    let mut record = Record::new(Level::ERROR, "cvmfs_fuse");
    record.message = super::masked(why).into_owned();
    let mut is_said = false;
    if let Some(log) = LOG.get() {
        let main = log.main.outlet.load();
        is_said = matches!(**main, Outlet::Json);
        if matches!(**main, Outlet::Json | Outlet::Journal) {
            log.main.write(vec![record.clone()]);
        }
        log.syslog.write(vec![record.clone()]);
        log.debug.write(vec![record.clone()]);
    }
    if !is_said {
        // If stderr is gone the exit code must do.
        let _ = writeln!(io::stderr(), "cvmfs-fuse: {}", crate::escape::lines(&record.message));
    }
}

/// Writes how often messages were repeated, where that is due; at the end of the process, of all.
pub(crate) fn settle(at_end: bool) {
    let Some(log) = LOG.get() else { return };
    for channel in [&log.main, &log.syslog, &log.debug] {
        let due = match at_end {
            true => channel.flood.lock().end(),
            false => channel.flood.lock().settle(Instant::now()),
        };
        channel.write(due);
    }
}
