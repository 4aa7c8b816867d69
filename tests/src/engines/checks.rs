//! Named checks on one stage: one that fails does not hide the others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// What was checked so far.
#[derive(Debug, Default)]
pub struct Checks {
    failed: Vec<String>,
    count: usize,
}

impl Checks {
    /// Runs `body`, and all checks in it, on an engine that is shared.
    ///
    /// # Panics
    /// With the names of the checks that failed.
    pub fn run(body: impl FnOnce(&mut Self)) {
        let mut checks = Self::default();
        body(&mut checks);
        let Self { failed, count } = checks;
        assert!(failed.is_empty(), "{} of {count} checks failed: {failed:#?}", failed.len());
    }

    /// Runs one check and says how it went.
    pub fn check(&mut self, name: &str, body: impl FnOnce()) {
        let start = Instant::now();
        // What a check that failed leaves behind is of containers, which others do not use.
        let failed = catch_unwind(AssertUnwindSafe(body)).is_err();
        let seconds = start.elapsed().as_secs_f64();
        #[allow(clippy::print_stdout, reason = "the report of the test")]
        {
            println!("{} {seconds:6.2} s  {name}", if failed { "FAIL" } else { "ok  " });
        }
        self.count += 1;
        if failed {
            self.failed.push(name.to_owned());
        }
    }
}
