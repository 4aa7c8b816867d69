//! `cvmfs_config chksetup [FQRN]` (spec/config.md section 8): a line for each mistake, and their number as
//! exit code.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::ConfigArgs;
use crate::cli::cache::print;
use crate::cli::exit::{ExitStatus, Failure};
use crate::config::chain::check::{Finding, examine};
use crate::config::{Configuration, Environment, RepositoryFlags, RepositorySettings, parse_fqrn};

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
    examine(whole).iter().for_each(|finding| report.find(finding));
    for name in names {
        let shown = name.to_string_lossy();
        let fqrn = match parse_fqrn(&name) {
            Ok(fqrn) => fqrn,
            Err(failure) => {
                report.error(&format!("{shown}: {}", failure.message));
                continue;
            }
        };
        let findings = examine(&Configuration::of(flags, environment, Some(&fqrn))?);
        findings.iter().for_each(|finding| report.find(finding));
        // What only shows when everything is put together; not once more what was found already.
        let settings = RepositorySettings::resolve(fqrn, flags, environment);
        if let (Err(failure), false) = (settings, findings.iter().any(|one| one.is_error)) {
            report.error(&format!("{shown}: {}", failure.message));
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
    fn find(&mut self, finding: &Finding) {
        let place = finding.origin.as_ref().map(|origin| format!(" ({origin})"));
        let line = format!("{}{}", finding.text, place.unwrap_or_default());
        match finding.is_error {
            true => self.error(&line),
            false => drop(self.add("Warning", &line)),
        }
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
