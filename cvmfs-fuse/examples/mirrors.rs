//! A harness that compares the mirrors of a repository by itself, and decides what it makes of it.
//!
//! ```sh
//! cargo run --example mirrors -- cms.cern.ch [SERVER;SERVER...] [KEY] >report.html
//! ```
#![allow(clippy::print_stderr, reason = "an example talks to its user")]

use std::io::Write as _;

use cvmfs_core::clock::SystemClock;
use cvmfs_core::mirrors::{Plan, Severity, Survey};
use cvmfs_fuse::config::{Environment, RepositoryFlags, RepositorySettings, parse_fqrn};
use cvmfs_fuse::mirrors::page;

/// One survey with half of the usual limits.
fn survey(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<Survey, String> {
    let fqrn = arguments.next().ok_or("give the name of a repository")?;
    let fqrn = parse_fqrn(&fqrn).map_err(|failure| failure.to_string())?;
    let server = arguments.next().map(|text| text.to_string_lossy().into_owned());
    let flags = RepositoryFlags { server, public_key: arguments.next(), ..Default::default() };
    let environment = Environment::of_process();
    let settings = RepositorySettings::resolve(fqrn, &flags, &environment)
        .map_err(|failure| failure.to_string())?;
    let mut plan = Plan::default();
    plan.limits.requests /= 2;
    plan.limits.bytes /= 2;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let examiner = settings.examiner(plan).await.map_err(|failure| failure.to_string())?;
        let tell = |at: cvmfs_core::mirrors::Progress<'_>| eprintln!("{} {}", at.server, at.step);
        Ok(examiner.survey(&SystemClock, &tell).await)
    })
}

fn main() -> Result<(), String> {
    let survey = survey(std::env::args_os().skip(1))?;
    for mirror in survey.ranked() {
        let is_good = mirror.faults.iter().all(|fault| fault.severity == Severity::Warning);
        let best = mirror.cost_ms.map_or("-".to_owned(), |cost| format!("{cost:.0} ms"));
        eprintln!(
            "{}. {} {best} {}",
            mirror.rank,
            mirror.server,
            if is_good { "good" } else { "bad" }
        );
    }
    let html = page::page(&[survey]);
    std::io::stdout().write_all(html.as_bytes()).map_err(|error| error.to_string())
}
