//! Results as a table, as JSON and as a page with plots that needs nothing from outside.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::contender::Contender;
use super::work::{GOAL_WASTE, Row, State};

/// Times of one contender in one row, seconds.
#[derive(Debug, Clone, Serialize)]
pub struct Times {
    /// The middle one.
    pub median: f64,
    /// A quarter of them is at most this long.
    pub lower: f64,
    /// A quarter of them is at least this long.
    pub upper: f64,
    /// How many there are.
    pub rounds: usize,
}

impl Times {
    /// Summarises; `None` without any.
    pub fn of(mut seconds: Vec<f64>) -> Option<Self> {
        seconds.sort_by(f64::total_cmp);
        let at = |quarter: usize| seconds.get((seconds.len().checked_sub(1)? * quarter + 2) / 4);
        Some(Self { median: *at(2)?, lower: *at(1)?, upper: *at(3)?, rounds: seconds.len() })
    }
}

/// One line of the results.
#[derive(Debug, Serialize)]
pub struct Line {
    /// What was done.
    pub work: &'static str,
    /// Before it.
    pub state: &'static str,
    /// Milliseconds to the server and back.
    pub round_trip: u64,
    /// By name of the contender.
    pub times: BTreeMap<&'static str, Times>,
    /// Goal: ours / `cvmfs2`.
    pub goal_cvmfs2: Option<f64>,
    /// Goal: ours / native.
    pub goal_native: Option<f64>,
    /// `cvmfs2` / native where both were measured for the goals; the table.
    pub reference: Option<f64>,
    /// Seconds of `cvmfs2` there.
    pub reference_cvmfs2: Option<f64>,
    /// What ours fetched ahead.
    pub ahead: Option<Ahead>,
}

/// Bytes fetched ahead in all rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Ahead {
    /// All.
    pub bytes: u64,
    /// Those that were read later.
    pub used: u64,
    /// Goal: the share that was not.
    pub goal_waste: Option<f64>,
}

impl Ahead {
    /// The share that was never read.
    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn waste(&self) -> Option<f64> {
        (self.bytes > 0).then(|| 1.0 - self.used.min(self.bytes) as f64 / self.bytes as f64)
    }
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct Results {
    /// One for each row.
    pub lines: Vec<Line>,
    /// Resident memory of servers after the walk and the import, bytes.
    pub memory: BTreeMap<&'static str, u64>,
}

impl Line {
    /// Joins a row with its times.
    pub fn new(row: &Row, times: BTreeMap<&'static str, Times>, ahead: Option<Ahead>) -> Self {
        let goal_waste = (row.state == State::Profiled).then_some(GOAL_WASTE);
        let (native, cvmfs2) = row.reference;
        Self {
            work: row.work.name(),
            state: match row.state {
                State::Cold => "cold",
                State::Profiled => "prof",
                State::Warm => "warm",
                State::Hot => "hot",
            },
            round_trip: row.round_trip,
            times,
            goal_cvmfs2: row.goal.0,
            goal_native: row.goal.1,
            reference: native.zip(cvmfs2).map(|(native, cvmfs2)| cvmfs2 / native),
            reference_cvmfs2: cvmfs2,
            ahead: ahead.map(|ahead| Ahead { goal_waste, ..ahead }),
        }
    }

    fn median(&self, who: Contender) -> Option<f64> {
        self.times.get(who.name()).map(|times| times.median)
    }

    /// Ours / native.
    pub fn to_native(&self) -> Option<f64> {
        Some(self.median(Contender::Ours)? / self.median(Contender::Native)?)
    }

    /// Ours / `cvmfs2`: measured here, else by way of native files; marked then. Where there is no
    /// native counterpart, by the seconds of the other machine.
    pub fn to_cvmfs2(&self) -> Option<(f64, bool)> {
        let ours = self.median(Contender::Ours)?;
        if let Some(theirs) = self.median(Contender::Cvmfs2) {
            return Some((ours / theirs, false));
        }
        match (self.reference, self.to_native()) {
            (Some(reference), Some(to_native)) => Some((to_native / reference, true)),
            _ => self.reference_cvmfs2.map(|theirs| (ours / theirs, true)),
        }
    }
}

impl Results {
    /// A table for a terminal. `~` marks ratios to figures of another machine; `prof` is cold with
    /// the access profile of another run; waste is what was fetched ahead and never read.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<26}{:<5}{:>4} {:>10} {:>10} {:>10} {:>13} {:>13} {:>16}\n",
            "", "", "ms", "native s", "ours s", "cvmfs2 s", "ours/native", "ours/cvmfs2", "waste"
        );
        for line in &self.lines {
            let seconds = |who| line.median(who).map_or("-".to_owned(), |s| format!("{s:.4}"));
            let judged = |value: Option<(f64, bool)>, goal: Option<f64>| {
                let Some((value, by_reference)) = value else { return "-".to_owned() };
                let mark = if by_reference { "~" } else { "" };
                match goal {
                    None => format!("{mark}{value:.2}"),
                    Some(goal) => {
                        let sign = if value <= goal { "<=" } else { "> " };
                        format!("{mark}{value:.2} {sign}{goal}")
                    }
                }
            };
            let _ = writeln!(
                text,
                "{:<26}{:<5}{:>4} {:>10} {:>10} {:>10} {:>13} {:>13} {:>16}",
                line.work,
                line.state,
                line.round_trip,
                seconds(Contender::Native),
                seconds(Contender::Ours),
                seconds(Contender::Cvmfs2),
                judged(line.to_native().map(|ratio| (ratio, false)), line.goal_native),
                judged(line.to_cvmfs2(), line.goal_cvmfs2),
                line.ahead.map_or("-".to_owned(), wasted),
            );
        }
        for (who, bytes) in &self.memory {
            let _ =
                writeln!(text, "resident memory of {who}: {:.1} MiB", *bytes as f64 / 1048576.0);
        }
        text
    }

    /// The same as a page.
    pub fn page(&self) -> String {
        let mut bars = String::new();
        for line in &self.lines {
            let longest = line.times.values().map(|times| times.upper).fold(f64::EPSILON, f64::max);
            let _ = write!(
                bars,
                "<h2>{} <small>{}, {} ms</small></h2><svg width='720' height='{}'>",
                line.work,
                line.state,
                line.round_trip,
                line.times.len() * 24 + 4
            );
            for (place, (who, times)) in line.times.iter().enumerate() {
                let (y, scale) = (place * 24, 480.0 / longest);
                let _ = write!(
                    bars,
                    "<text x='0' y='{}'>{who}</text><rect class='{who}' x='70' y='{y}' height='18' \
                     width='{:.1}'/><line x1='{:.1}' x2='{:.1}' y1='{m}' y2='{m}'/>\
                     <text x='{:.1}' y='{}'>{:.4} s</text>",
                    y + 14,
                    times.median * scale,
                    70.0 + times.lower * scale,
                    70.0 + times.upper * scale,
                    78.0 + times.upper * scale,
                    y + 14,
                    times.median,
                    m = y + 9,
                );
            }
            bars.push_str("</svg>");
        }
        format!(
            "<!doctype html><meta charset='utf-8'><title>cvmfs-fuse workloads</title><style>\
             body{{font:14px sans-serif;margin:2em}}h2{{font-size:1em;margin:1em 0 .2em}}\
             pre{{background:#f4f4f4;padding:1em;overflow:auto}}.native{{fill:#999}}\
             .ours{{fill:#2a7}}.cvmfs2{{fill:#c73}}line{{stroke:#000}}</style>\
             <h1>cvmfs-fuse: whole programs</h1><p>Bars are medians, lines the quartiles. \
             &quot;~&quot; marks ratios to figures from another machine.</p><pre>{}</pre>{bars}",
            self.table().replace('<', "&lt;")
        )
    }
}

/// For the table: share, of how many MiB, and whether that is the goal.
#[allow(clippy::cast_precision_loss, reason = "for people")]
fn wasted(ahead: Ahead) -> String {
    let Some(waste) = ahead.waste() else { return "-".to_owned() };
    let goal = ahead.goal_waste.map_or(String::new(), |goal| {
        format!(" {}{:.0} %", if waste <= goal { "<=" } else { "> " }, goal * 100.0)
    });
    format!("{:.0} M {:.1} %{goal}", ahead.bytes as f64 / 1048576.0, waste * 100.0)
}

#[cfg(test)]
mod tests {
    use super::super::work::ROWS;
    use super::*;

    #[test]
    fn quartiles() {
        let times = Times::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((times.lower, times.median, times.upper, times.rounds), (2.0, 2.0, 3.0, 3));
        let times = Times::of((1..=9).map(f64::from).collect()).unwrap();
        assert_eq!((times.lower, times.median, times.upper), (3.0, 5.0, 7.0));
        assert!(Times::of(Vec::new()).is_none());
    }

    #[test]
    fn ratios_by_way_of_the_other_machine_are_marked() {
        let times = |native, ours| {
            BTreeMap::from([
                ("native", Times::of(vec![native]).unwrap()),
                ("ours", Times::of(vec![ours]).unwrap()),
            ])
        };
        // 4.4 / 2.8 there; twice native here.
        let line = Line::new(&ROWS[2], times(1.0, 2.0), None);
        let (ratio, marked) = line.to_cvmfs2().unwrap();
        assert!(marked && (ratio - 2.0 * 2.8 / 4.4).abs() < 1e-9);
        let ahead = Ahead { bytes: 10 << 20, used: 9 << 20, goal_waste: None };
        let profiled = Line::new(&ROWS[1], times(1.0, 2.0), Some(ahead));
        let results = Results { lines: vec![line, profiled], memory: BTreeMap::new() };
        assert!(results.table().contains("~1.27 > 0.75"), "{}", results.table());
        assert!(results.table().contains("10 M 10.0 % <=15 %"), "{}", results.table());
        assert!(results.page().contains("class='ours'"));
    }
}
