//! Scripts, as a user would type them, and what they said.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

/// Longest time that a script may take; it then ends with code 124 or 137.
const LIMIT_SECONDS: &str = "60";

/// How a script ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// What it wrote on stdout, without white space at the end.
    pub out: String,
    /// What it wrote on stderr.
    pub err: String,
}

/// Runs scripts of bash with the same variables, directory and user.
#[derive(Debug, Clone, Default)]
pub struct Shell {
    /// What the shell is started by, e.g. `setpriv`.
    before: Vec<OsString>,
    variables: Vec<(String, OsString)>,
}

impl Shell {
    /// Runs what follows by another program.
    pub fn behind(words: &[&str]) -> Self {
        Self { before: words.iter().map(OsString::from).collect(), variables: Vec::new() }
    }

    /// Sets a variable of all scripts.
    pub fn set(&mut self, name: &str, value: impl AsRef<Path>) {
        self.variables.push((name.to_owned(), value.as_ref().into()));
    }

    /// Returns a command that runs a script; it ends at the first error in it.
    pub fn command(&self, script: &str) -> Command {
        let words = ["timeout", "--kill-after=5", LIMIT_SECONDS, "bash", "-euo", "pipefail", "-c"];
        let mut line = self.before.iter().cloned().chain(words.map(OsString::from));
        let mut command = Command::new(line.next().unwrap_or_default());
        command.args(line).arg(script).current_dir("/").stdin(Stdio::null());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a script, and returns how it ended.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run(&self, script: &str) -> Said {
        let output = self.command(script).output().expect("Debian has bash and timeout");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout).trim_end().to_owned(),
            err: text(&output.stderr),
        }
    }

    /// Runs a script that has to succeed, and returns what it wrote on stdout.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn ok(&self, script: &str) -> String {
        let said = self.run(script);
        assert_eq!(said.code, 0, "{script}\n{}\n{}", said.out, said.err);
        said.out
    }
}
