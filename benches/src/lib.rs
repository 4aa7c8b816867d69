//! Measurements as ratios within one run: ours against a baseline on the same data.
//!
//! Machines differ and noise is large, so a figure is the median of rounds in which ours and the
//! baseline take turns, and only their ratio is meant to be quoted. `cargo bench -p benches`.

#![allow(clippy::unwrap_used, reason = "a bench may die")]

pub mod objects;
pub mod readers;
pub mod repository;
pub mod scale;
pub mod workloads;

use std::time::{Duration, Instant};

/// Rounds of each measurement; the median of 15 shrugs off a few disturbed ones.
const ROUNDS: usize = 15;

/// One measured pair.
#[derive(Debug, Clone)]
pub struct Ratio {
    /// What is compared.
    pub name: &'static str,
    /// Median time of one operation of ours.
    pub ours: Duration,
    /// Median time of one operation of the baseline.
    pub baseline: Duration,
}

impl Ratio {
    /// Returns ours over baseline; below 1 we are faster.
    pub fn value(&self) -> f64 {
        self.ours.as_secs_f64() / self.baseline.as_secs_f64()
    }
}

/// Runs both sides in turns; each closure does `operations` operations.
pub fn compare(
    name: &'static str,
    operations: u32,
    mut ours: impl FnMut(),
    mut baseline: impl FnMut(),
) -> Ratio {
    let timed = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed() / operations
    };
    // The first round warms caches and does not count.
    timed(&mut ours);
    timed(&mut baseline);
    let (mut our_times, mut baseline_times): (Vec<_>, Vec<_>) =
        (0..ROUNDS).map(|_| (timed(&mut ours), timed(&mut baseline))).unzip();
    our_times.sort();
    baseline_times.sort();
    Ratio { name, ours: our_times[ROUNDS / 2], baseline: baseline_times[ROUNDS / 2] }
}
