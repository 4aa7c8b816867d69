//! What is kept of earlier rounds, for the page.

use std::collections::{BTreeMap, VecDeque};

use cvmfs_core::mirrors::{Severity, Survey};

/// Rounds that are kept of each repository: a day, with one each five minutes.
const MAX_ROUNDS: usize = 288;

/// How a server was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Nothing was wrong.
    Good,
    /// Warnings only.
    Warning,
    /// Something was wrong.
    Problem,
}

/// One server in one round.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    /// When the round began, in Unix seconds.
    pub at: i64,
    /// How it was.
    pub mark: Mark,
    /// Milliseconds to the first byte of a new connection by its best way; `None` if it did not
    /// answer.
    pub first_byte_ms: Option<f64>,
}

/// Rounds of some repositories, the last ones.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// By repository and server.
    moments: BTreeMap<String, BTreeMap<String, VecDeque<Moment>>>,
}

impl History {
    /// Takes a round in.
    pub fn add(&mut self, survey: &Survey) {
        let servers = self.moments.entry(survey.fqrn.clone()).or_default();
        for mirror in &survey.mirrors {
            let worst = mirror.faults.iter().map(|fault| fault.severity).max();
            let mark = match worst {
                None => Mark::Good,
                Some(Severity::Warning) => Mark::Warning,
                Some(Severity::Problem) => Mark::Problem,
            };
            let steps = mirror.ways.iter().filter_map(|way| way.connection.as_ref());
            let first_byte_ms = steps.map(|steps| steps.total_ms()).min_by(f64::total_cmp);
            let moments = servers.entry(mirror.server.clone()).or_default();
            if moments.len() == MAX_ROUNDS {
                moments.pop_front();
            }
            moments.push_back(Moment { at: survey.at, mark, first_byte_ms });
        }
    }

    /// Returns what is known of one server, the oldest round first.
    pub fn of(&self, fqrn: &str, server: &str) -> Vec<&Moment> {
        let moments = self.moments.get(fqrn).and_then(|servers| servers.get(server));
        moments.map_or_else(Vec::new, |moments| moments.iter().collect())
    }
}
