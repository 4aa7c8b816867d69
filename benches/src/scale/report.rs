//! Tables.

use std::fmt::Write as _;

use serde::Serialize;

use super::curve::{Point, Readers};

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Scale {
    /// By size, in rounds; the median of each figure is shown.
    pub points: Vec<Vec<Point>>,
    /// By number of threads, in rounds.
    pub readers: Vec<Vec<Readers>>,
}

/// A figure of a point.
type Figure = (&'static str, fn(&Point) -> f64);

const FIGURES: [Figure; 8] = [
    ("lookup, us", |point| point.lookup),
    ("absent name, us", |point| point.absent),
    ("stat, hot, us", |point| point.hot_stat),
    ("read of a cached file, us", |point| point.read),
    ("walk, cold, us/entry", |point| point.cold_walk),
    ("walk, warm, us/entry", |point| point.warm_walk),
    ("walk, hot, us/entry", |point| point.hot_walk),
    ("requests/entry, warm walk", |point| point.requests),
];

const MEMORY: [Figure; 4] = [
    ("server, idle, MiB", |point| mebibytes(point.idle_memory)),
    ("server, 900 names known, MiB", |point| mebibytes(point.lookup_memory)),
    ("server, all entries known, MiB", |point| mebibytes(point.walked_memory)),
    ("bytes/entry known", Point::bytes_of_entry),
];

#[allow(clippy::cast_precision_loss, reason = "a figure to be read")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Scale {
    /// Returns both tables; behind each figure of a larger tree is its ratio to the smallest one.
    pub fn table(&self) -> String {
        let mut text = format!("{:<32}", "entries");
        for size in &self.points {
            let _ = write!(text, "{:>18}", size.first().map_or(0, |point| point.files));
        }
        text.push('\n');
        for (name, figure) in FIGURES.iter().chain(&MEMORY) {
            let _ = write!(text, "{name:<32}");
            let of = |rounds: &Vec<Point>| median(rounds.iter().map(figure).collect());
            let smallest = self.points.first().map_or(f64::NAN, of);
            for rounds in &self.points {
                let value = of(rounds);
                let _ = write!(text, "{value:>11.2} x{:<5.2}", value / smallest);
            }
            text.push('\n');
        }
        text.push_str("\nreaders side by side         lookups/s (x of one)     hot lookups/s\n");
        let of = |rounds: &Vec<Readers>, figure: fn(&Readers) -> f64| {
            median(rounds.iter().map(figure).collect())
        };
        let one = self.readers.first().map(|rounds| {
            (of(rounds, |readers| readers.lookups), of(rounds, |readers| readers.hot))
        });
        for rounds in &self.readers {
            let threads = rounds.first().map_or(0, |readers| readers.threads);
            let (lookups, hot) =
                (of(rounds, |readers| readers.lookups), of(rounds, |readers| readers.hot));
            let (first, first_hot) = one.unwrap_or((f64::NAN, f64::NAN));
            let _ = writeln!(
                text,
                "{threads:>7} threads {lookups:>20.0} x{:<5.2} {hot:>18.0} x{:<5.2}",
                lookups / first,
                hot / first_hot
            );
        }
        text
    }
}
