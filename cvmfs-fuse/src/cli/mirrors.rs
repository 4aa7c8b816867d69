//! `mirrors`: the servers of repositories compared, once or again and again.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, builder::RangedU64ValueParser};
use cvmfs_cache::parse_size;
use cvmfs_cache::safe_path::{OutputMode, write_output};
use cvmfs_core::clock::SystemClock;
use cvmfs_core::mirrors::{Change, Examiner, Limits, Plan, Survey, Tolerance};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::exit::{ExitStatus, Failure};
use super::progress::Progress;
use crate::config::known::{DOMAINS, KnownDomain};
use crate::config::{Environment, RepositoryFlags, RepositorySettings, parse_fqrn};
use crate::mirrors::history::History;
use crate::mirrors::units::{parse_span, time};
use crate::mirrors::verdict::{Finding, code};
use crate::mirrors::{csv, page, table};

/// Shortest pause between rounds: servers are strangers' machines.
const MIN_INTERVAL: Duration = Duration::from_secs(5);
/// How often a person is told how far it is; a slow step has no end for long.
const TICK: Duration = Duration::from_millis(250);
/// A repository that the servers of each domain have, for those who name only the domain.
const USUAL: [(&str, &str); 4] = [
    ("cern.ch", "cvmfs-config.cern.ch"),
    ("egi.eu", "config-egi.egi.eu"),
    ("opensciencegrid.org", "config-osg.opensciencegrid.org"),
    ("eessi.io", "software.eessi.io"),
];

/// `mirrors [FQRN|DOMAIN]...`.
#[derive(Debug, Args)]
pub struct MirrorsArgs {
    /// Repositories, or built-in domains, of which one repository is taken [default: all domains]
    #[arg(value_name = "FQRN|DOMAIN")]
    pub targets: Vec<String>,

    /// One JSON object a line for each repository and round
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,

    /// Comma-separated values: a line for each way to each server, with a header
    #[arg(long)]
    pub csv: bool,

    /// Also write a page with plots, which needs nothing from outside
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Go on, a round each INTERVAL (60, 5m, 1h; at least 5 s), and tell what changes; implies --light
    #[arg(long, value_name = "INTERVAL", value_parser = parse_span)]
    pub watch: Option<Duration>,

    /// End after so many rounds
    #[arg(long, value_name = "COUNT", requires = "watch",
        value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    pub rounds: Option<u64>,

    /// Check connections, signatures and a few objects; measure no rates
    #[arg(long, conflicts_with = "full")]
    pub light: bool,

    /// Measure rates in each round of --watch, too
    #[arg(long)]
    pub full: bool,

    /// Downloads at a time for which rates are measured, one after the other
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',', default_values_t = Plan::PARALLEL,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=Plan::MAX_PARALLEL as u64))]
    pub parallel: Vec<usize>,

    /// Requests to one server in a round, by all ways together
    #[arg(long, value_name = "COUNT", default_value_t = Limits::REQUESTS, help_heading = "Limits")]
    pub max_requests: u64,

    /// Bytes of bodies from one server in a round, e.g. 500K, 32M
    #[arg(long, value_name = "SIZE", default_value = "32M", help_heading = "Limits")]
    pub max_bytes: String,

    /// Time for one server in a round, twice: for connections and for objects
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_span,
        help_heading = "Limits")]
    pub max_time: Duration,

    /// A server that is behind for longer is stale
    #[arg(long, value_name = "TIME", default_value = "4h", value_parser = parse_span,
        help_heading = "Limits")]
    pub max_lag: Duration,

    /// A whitelist that expires sooner is reported
    #[arg(long, value_name = "TIME", default_value = "2d", value_parser = parse_span,
        help_heading = "Limits")]
    pub min_whitelist: Duration,

    /// What makes the exit code other than 0
    #[arg(long, value_name = "KIND[,KIND...]", value_delimiter = ',', value_enum,
        default_values_t = Finding::ALL)]
    pub fail_on: Vec<Finding>,

    /// Choose the same objects of a revision each time
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment would become help text")]
    pub repository: RepositoryFlags,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Round<'a> {
    #[serde(flatten)]
    survey: &'a Survey,
    /// Since the round before.
    changes: &'a [Change],
}

/// Compares once, or until it is stopped.
pub fn run(args: &MirrorsArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let plan = args.plan()?;
    if args.watch.is_some_and(|interval| interval < MIN_INTERVAL) {
        let message = format!("--watch: at least {} s", MIN_INTERVAL.as_secs());
        return Err(Failure::new(ExitStatus::Options, message));
    }
    let names = args.names()?;
    let mut flags = args.repository.clone();
    // Nothing is kept, so a user without a home or a directory for temporary files needs no place for it. A directory
    // that is there is used only if nobody else has made it.
    if flags.cache.cache_dir.is_none() {
        let uid = nix::unistd::geteuid().as_raw();
        let scratch = match environment.own_scratch_dir(uid) {
            Err(error) if environment.scratch_dir_of(uid).symlink_metadata().is_ok() => {
                let what = "there is no place for a cache";
                let failure = Failure::caused(ExitStatus::CacheDirectory, what, &error);
                return Err(failure.advise("give --cache-dir DIR"));
            }
            Err(_) => environment.scratch_dir_of(uid),
            Ok(made) => made,
        };
        flags.cache.cache_dir = Some(scratch);
    }
    super::runtime()?.block_on(async {
        let mut examiners = Vec::new();
        for name in &names {
            let fqrn = parse_fqrn(name.as_ref())?;
            let settings = RepositorySettings::resolve(fqrn, &flags, environment)?;
            examiners.push(settings.examiner(plan.clone()).await?);
        }
        rounds(args, &plan, &examiners).await
    })
}

impl MirrorsArgs {
    fn plan(&self) -> Result<Plan, Failure> {
        let bytes = parse_size(&self.max_bytes).ok_or_else(|| {
            let text = &self.max_bytes;
            let message =
                format!("--max-bytes {text}: no size; give bytes, or a number with K, M, G or T");
            Failure::new(ExitStatus::Options, message)
        })?;
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let is_light = self.light || (self.watch.is_some() && !self.full);
        let base = if is_light { Plan::light() } else { Plan::default() };
        Ok(Plan {
            limits: Limits { requests: self.max_requests, bytes, seconds: self.max_time.as_secs() },
            tolerance: Tolerance {
                lag: seconds(self.max_lag),
                whitelist: seconds(self.min_whitelist),
            },
            parallel: if is_light { Vec::new() } else { self.parallel.clone() },
            seed: self.seed,
            ..base
        })
    }

    /// The repositories; a domain stands for one of its own.
    fn names(&self) -> Result<Vec<String>, Failure> {
        if self.targets.is_empty() {
            if self.repository.server.is_some() {
                let message = "--server needs the name of a repository";
                return Err(Failure::new(ExitStatus::Options, message));
            }
            return Ok(DOMAINS.iter().map(|known| usual(known.domain)).collect());
        }
        Ok(self.targets.iter().map(|target| usual(target)).collect())
    }
}

fn usual(target: &str) -> String {
    let known = KnownDomain::find(target).and_then(|known| {
        USUAL.iter().find(|(domain, _)| *domain == known.domain).map(|(_, fqrn)| *fqrn)
    });
    known.unwrap_or(target).to_owned()
}

async fn rounds(
    args: &MirrorsArgs,
    plan: &Plan,
    examiners: &[Examiner],
) -> Result<ExitCode, Failure> {
    let stop = |kind| {
        signal(kind).map_err(|error| Failure::caused(ExitStatus::Unknown, "signals", &error))
    };
    let (mut interrupt, mut terminate) =
        (stop(SignalKind::interrupt())?, stop(SignalKind::terminate())?);
    let mut before: Vec<Survey> = Vec::new();
    let mut history = History::default();
    let mut round = 0;
    if args.csv {
        super::cache::print(&csv::header(&plan.parallel))?;
    }
    loop {
        let stopped = async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        let next = async {
            let begun = tokio::time::Instant::now();
            let surveys = survey_all(examiners).await;
            round += 1;
            surveys.iter().for_each(|survey| history.add(survey));
            show(args, plan, &surveys, &before, &history)?;
            before = surveys;
            let is_last = args.watch.is_none() || args.rounds.is_some_and(|most| round >= most);
            if let Some(interval) = args.watch.filter(|_| !is_last) {
                tokio::time::sleep_until(begun + interval).await;
            }
            Ok::<_, Failure>(is_last)
        };
        let is_last = tokio::select! {
            done = next => done?,
            () = stopped => {
                // What was found last is what it is; without a round nothing is known.
                if round == 0 {
                    return Err(Failure::new(ExitStatus::Unknown, "interrupted"));
                }
                true
            }
        };
        if is_last {
            return Ok(ExitCode::from(code(&before, &args.fail_on)));
        }
    }
}

async fn survey_all(examiners: &[Examiner]) -> Vec<Survey> {
    let mut surveys = Vec::new();
    for examiner in examiners {
        let progress = Progress::bytes("received", 0);
        let step = Mutex::new(String::new());
        let tell = |at: cvmfs_core::mirrors::Progress<'_>| {
            let of = if at.server.is_empty() { examiner.fqrn() } else { at.server };
            *step.lock() = format!("{of}: {}", at.step);
        };
        let mut survey = std::pin::pin!(examiner.survey(&SystemClock, &tell));
        let mut ticks = tokio::time::interval(TICK);
        let survey = loop {
            tokio::select! {
                survey = &mut survey => break survey,
                _ = ticks.tick() => {
                    let (requests, bytes) = examiner.used();
                    progress.set(bytes, || format!("{}, {requests} requests", step.lock()));
                }
            }
        };
        progress.end();
        surveys.push(survey);
    }
    surveys
}

fn show(
    args: &MirrorsArgs,
    plan: &Plan,
    surveys: &[Survey],
    before: &[Survey],
    history: &History,
) -> Result<(), Failure> {
    let mut text = String::new();
    for survey in surveys {
        let earlier = before.iter().find(|earlier| earlier.fqrn == survey.fqrn);
        let changes = earlier.map_or_else(Vec::new, |earlier| survey.changes_since(earlier));
        if args.json {
            let round = Round { survey, changes: &changes };
            let line = crate::escape::json(&round)
                .map_err(|error| Failure::caused(ExitStatus::Unknown, "cannot print", &error))?;
            text += &(line + "\n");
        } else if args.csv {
            text += &csv::lines(survey, &plan.parallel);
        } else {
            if earlier.is_some() {
                let _ = writeln!(text, "\n{}: {} changes", time(survey.at), changes.len());
            }
            text += &table::changes(&changes);
            text += &table::table(survey);
        }
    }
    // First, so that whoever reads the line of a round finds its page.
    if let Some(file) = &args.html {
        write_page(file, &page::page_with_history(surveys, history))?;
    }
    super::cache::print(&text).map(drop)
}

/// Replaces the page as a whole: in a watched directory readers see the old one or the new one.
fn write_page(file: &Path, html: &str) -> Result<(), Failure> {
    let failed = |error: &std::io::Error| {
        Failure::caused(ExitStatus::Unknown, &format!("cannot write {}", file.display()), error)
    };
    write_output(file, html.as_bytes(), OutputMode::Exactly(0o644)).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_domain_has_a_repository() {
        for known in DOMAINS {
            let name = usual(known.domain);
            assert!(name.ends_with(&format!(".{}", known.domain)), "{name}");
        }
        assert_eq!(usual("cms.cern.ch"), "cms.cern.ch");
    }

    #[test]
    fn help_shows_the_limits_that_hold() {
        assert_eq!(parse_size("32M"), Some(Limits::BYTES));
        assert_eq!(parse_span("60s"), Ok(Duration::from_secs(Limits::SECONDS)));
        let seconds = |text| parse_span(text).map(|time| time.as_secs().cast_signed());
        assert_eq!(seconds("4h"), Ok(Tolerance::LAG));
        assert_eq!(seconds("2d"), Ok(Tolerance::WHITELIST));
    }
}
