//! How far a long command is: a bar where a person watches, a line now and then in a log.

use std::io::Write as _;
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

/// Commands that are done sooner say nothing.
const QUIET: Duration = Duration::from_secs(2);
/// Lines in a log.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Redraws of a bar per second.
const REDRAWS: u8 = 10;

/// The progress of one command; `None` of the totals is fine.
pub(super) struct Progress {
    bar: ProgressBar,
    what: &'static str,
    is_terminal: bool,
    start: Instant,
    last: Mutex<Instant>,
}

impl Progress {
    /// Begins something measured in bytes; a total of 0 is one that is not known.
    pub(super) fn bytes(what: &'static str, total: u64) -> Self {
        let template = match total {
            0 => "{spinner} {prefix} {binary_bytes}, {binary_bytes_per_sec} {msg}",
            _ => {
                "{prefix} [{bar:30}] {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, \
                 {eta} left {msg}"
            }
        };
        let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let target = match is_terminal {
            true => ProgressDrawTarget::stderr_with_hz(REDRAWS),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target((total > 0).then_some(total), target);
        // A template that indicatif does not take is shown without style.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what);
        let now = Instant::now();
        Self { bar, what, is_terminal, start: now, last: Mutex::new(now) }
    }

    /// Says how many bytes are done, and something more.
    pub(super) fn set(&self, bytes: u64, message: impl FnOnce() -> String) {
        if self.start.elapsed() < QUIET {
            return;
        }
        let mut last = self.last.lock();
        let pause = if self.is_terminal { Duration::from_millis(100) } else { LINE_EVERY };
        if last.elapsed() < pause {
            return;
        }
        *last = Instant::now();
        drop(last);
        let message = message();
        if self.is_terminal {
            self.bar.set_message(crate::escape::one_line(&message).into_owned());
            self.bar.set_position(bytes);
            return;
        }
        let rate = BinaryBytes(self.rate(bytes));
        let total = self.bar.length().filter(|&total| total > 0);
        let left = total.map_or(String::new(), |total| {
            let seconds = total.saturating_sub(bytes) / self.rate(bytes).max(1);
            format!(" of {}, {seconds} s left", BinaryBytes(total))
        });
        let line = format!("{} {}{left}, {rate}/s {message}\n", self.what, BinaryBytes(bytes));
        // Nobody listening is no reason to stop.
        let _ = std::io::stderr().write_all(crate::escape::lines(&line).as_bytes());
    }

    /// Bytes per second so far.
    pub(super) fn rate(&self, bytes: u64) -> u64 {
        let milliseconds = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        bytes.saturating_mul(1000) / milliseconds.max(1)
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
