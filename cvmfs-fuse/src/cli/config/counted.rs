//! `cvmfs_config chksetup [FQRN]` (spec/config.md section 8): a line for each mistake, and their number as
//! exit code.
//!
//! What the files say (`config check`), what a site needs besides (`expected`), device and caches as `doctor`
//! sees them, and every server through every proxy (`reached`).

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::reached::{self, Line};
use super::{ConfigArgs, expected};
use crate::cli::cache::print;
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::chain::check::{Finding, examine};
use crate::config::{Configuration, Environment, RepositoryFlags, RepositorySettings, parse_fqrn};
use crate::doctor::surroundings::Surroundings;
use crate::doctor::{self, Severity};

/// Looks at what holds for all, and at one repository or all that are stated.
pub(super) fn count(
    whole: &Configuration,
    flags: &RepositoryFlags,
    args: &ConfigArgs,
    environment: &Environment,
) -> Result<ExitStatus, Failure> {
    let names = match &args.fqrn {
        Some(name) => vec![whole.full_name(name)],
        None => whole.repositories(),
    };
    let mut report = Report::default();
    report.find_all(&examine(whole));
    report.find_all(&expected::look(whole, None));
    report.diagnose(&doctor::device::check(Surroundings::find()));
    let (mut caches, mut usable) = (BTreeSet::new(), Vec::new());
    for name in names {
        let shown = name.to_string_lossy();
        let fqrn = match parse_fqrn(&name) {
            Ok(fqrn) => fqrn,
            Err(failure) => {
                report.error(&format!("{shown}: {}", failure.message));
                continue;
            }
        };
        let configuration = Configuration::of(flags, environment, Some(&fqrn))?;
        let findings = examine(&configuration);
        report.find_all(&findings);
        report.find_all(&expected::look(&configuration, Some(fqrn.as_str())));
        match RepositorySettings::resolve(fqrn, flags, environment) {
            Ok(settings) => {
                let cache = settings.cache.alien.as_ref().unwrap_or(&settings.cache.directory);
                if caches.insert(cache.clone()) {
                    report.diagnose(&[doctor::cache::state(&settings.cache)]);
                }
                usable.push(settings);
            }
            // What only shows when everything is put together; not once more what was found already.
            Err(_) if findings.iter().any(|one| one.is_error) => {}
            Err(failure) => report.error(&format!("{shown}: {}", failure.message)),
        }
    }
    for line in reached::ask(&usable)? {
        match line {
            Line::Error(text) => report.error(&text),
            Line::Warning(text) => report.warn(&text),
        }
    }
    let text = if report.lines.is_empty() { "OK\n" } else { &report.text };
    print(text)?;
    // There are so many codes.
    let most = ExitStatus::RevisionBlocked;
    let code = u8::try_from(report.errors).unwrap_or(u8::MAX).min(most.code());
    Ok(ExitStatus::of_code(code).unwrap_or(most))
}

/// What was found, each once: what holds for all is seen with each repository.
#[derive(Default)]
struct Report {
    text: String,
    lines: BTreeSet<String>,
    errors: usize,
}

impl Report {
    fn find_all(&mut self, findings: &[Finding]) {
        for finding in findings {
            let place = finding.origin.as_ref().map(|origin| format!(" ({origin})"));
            let line = format!("{}{}", finding.text, place.unwrap_or_default());
            match finding.is_error {
                true => self.error(&line),
                false => self.warn(&line),
            }
        }
    }

    fn diagnose(&mut self, findings: &[doctor::Finding]) {
        for doctor::Finding { check, severity, message, .. } in findings {
            let line = format!("{check}: {message}");
            match severity {
                Severity::Ok => {}
                Severity::Warning => self.warn(&line),
                Severity::Problem => self.error(&line),
            }
        }
    }

    fn warn(&mut self, line: &str) {
        self.add("Warning", line);
    }

    fn error(&mut self, line: &str) {
        if self.add("Error", line) {
            self.errors += 1;
        }
    }

    /// Tells whether it was not said before.
    fn add(&mut self, kind: &str, line: &str) -> bool {
        let is_new = self.lines.insert(line.to_owned());
        if is_new {
            let _ = writeln!(self.text, "{kind}: {line}");
        }
        is_new
    }
}
