//! What a check returns, and how all of it is shown.

use serde::Serialize;

use crate::cli::exit::{ExitStatus, Failure};
use crate::cli::for_terminal;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Works, but not for everybody, or not for long.
    Warning,
    /// Something will not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at; one word, for scripts.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// One line.
    pub message: String,
    /// The command or flag that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    /// Something that is as it should be.
    pub fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Severity::Ok, message)
    }

    /// Something that will hurt somebody at some time.
    pub fn warning(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Severity::Warning, message)
    }

    /// Something that does not work.
    pub fn problem(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Severity::Problem, message)
    }

    fn new(check: &'static str, severity: Severity, message: impl Into<String>) -> Self {
        Self { check, severity, message: one_line(&message.into()), fix: None }
    }

    /// Adds what to do.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(one_line(&fix.into()));
        self
    }
}

/// Names of mounts and answers of servers end up in messages.
fn one_line(text: &str) -> String {
    for_terminal(text.replace('\n', " ").as_bytes())
}

/// All findings of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    findings: Vec<Finding>,
    warnings: usize,
    problems: usize,
}

impl Report {
    /// Counts them.
    pub fn new(findings: Vec<Finding>) -> Self {
        let count = |severity| findings.iter().filter(|found| found.severity == severity).count();
        let (warnings, problems) = (count(Severity::Warning), count(Severity::Problem));
        Self { findings, warnings, problems }
    }

    /// Returns how many things do not work.
    pub fn problems(&self) -> usize {
        self.problems
    }

    /// Shows it to people: a line for each finding, a second one for its fix.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Finding { check, severity, message, fix } in &self.findings {
            let word = match severity {
                Severity::Ok => "ok",
                Severity::Warning => "warning",
                Severity::Problem => "PROBLEM",
            };
            text.push_str(&format!("{word:>8}  {check}: {message}\n"));
            if let Some(fix) = fix {
                text.push_str(&format!("{:>8}  fix: {fix}\n", ""));
            }
        }
        let plural = |count: usize, word: &str| match count {
            1 => format!("1 {word}"),
            _ => format!("{count} {word}s"),
        };
        let (problems, warnings) =
            (plural(self.problems, "problem"), plural(self.warnings, "warning"));
        text.push_str(&format!("{problems}, {warnings}\n"));
        text
    }

    /// Shows it to programs: one object on one line.
    pub fn json(&self) -> Result<String, Failure> {
        crate::escape::json(self)
            .map(|line| line + "\n")
            .map_err(|error| Failure::caused(ExitStatus::Unknown, "cannot write JSON", &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_programs() {
        let report = Report::new(vec![
            Finding::ok("kernel", "Linux 6.18"),
            Finding::problem("device", "no\n\x1b[31m/dev/fuse").fix("modprobe fuse"),
            Finding::warning("clock", "a minute off"),
        ]);
        assert_eq!(report.problems(), 1);
        assert_eq!(
            report.text(),
            "      ok  kernel: Linux 6.18\n PROBLEM  device: no \\x1b[31m/dev/fuse\n          \
             fix: modprobe fuse\n warning  clock: a minute off\n1 problem, 1 warning\n"
        );
        assert_eq!(
            report.json().unwrap(),
            "{\"findings\":[{\"check\":\"kernel\",\"severity\":\"ok\",\"message\":\"Linux 6.18\"},\
             {\"check\":\"device\",\"severity\":\"problem\",\"message\":\"no \\\\x1b[31m/dev/fuse\",\
             \"fix\":\"modprobe fuse\"},{\"check\":\"clock\",\"severity\":\"warning\",\"message\":\
             \"a minute off\"}],\"warnings\":1,\"problems\":1}\n"
        );
    }
}
