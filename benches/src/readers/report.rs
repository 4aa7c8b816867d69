//! The table.

use std::fmt::Write as _;

use serde::Serialize;

use super::Point;

/// What was measured of one kind of files.
#[derive(Debug, Serialize)]
pub struct Curve {
    /// Of the files.
    pub name: &'static str,
    /// Bytes of each.
    pub len: u64,
    /// By number of readers, in rounds.
    pub points: Vec<Vec<Point>>,
}

/// Medians of a number of readers.
struct Line {
    threads: usize,
    native: f64,
    warm: f64,
    hot: f64,
}

impl Line {
    fn of(rounds: &[Point]) -> Option<Self> {
        let threads = rounds.first()?.threads;
        let median = |figure: fn(&Point) -> f64| {
            let mut values: Vec<_> = rounds.iter().map(figure).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let (native, warm) = (median(|point| point.native), median(|point| point.warm));
        Some(Self { threads, native, warm, hot: median(|point| point.hot) })
    }
}

/// Returns medians: files in a second, what that is of one reader's, and of native files.
pub fn table(curves: &[Curve]) -> String {
    let mut text = String::new();
    for curve in curves {
        let lines: Vec<_> = curve.points.iter().filter_map(|rounds| Line::of(rounds)).collect();
        let Some(one) = lines.first() else { continue };
        let _ = writeln!(text, "{}: files/s, x of {} reader(s), / native", curve.name, one.threads);
        let _ = writeln!(text, "{:>8}{:>20}{:>28}{:>28}", "readers", "native", "warm", "hot");
        for line in &lines {
            let of_native = |value: f64| value / line.native;
            let _ = writeln!(
                text,
                "{:>8}{:>13.0} x{:<5.2}{:>13.0} x{:<5.2} /{:<6.2}{:>13.0} x{:<5.2} /{:<6.2}",
                line.threads,
                line.native,
                line.native / one.native,
                line.warm,
                line.warm / one.warm,
                of_native(line.warm),
                line.hot,
                line.hot / one.hot,
                of_native(line.hot),
            );
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_what_they_are_of_others() {
        let round = |threads, native| Point { threads, native, warm: native / 4.0, hot: native };
        let points = vec![
            vec![round(1, 100.0), round(1, 900.0), round(1, 120.0)],
            vec![round(64, 240.0), round(64, 10.0), round(64, 250.0)],
        ];
        let text = table(&[Curve { name: "files", len: 1, points }]);
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let of_64: &Vec<&str> = &lines[3];
        let expected = ["64", "240", "x2.00", "60", "x2.00", "/0.25", "240", "x2.00", "/1.00"];
        assert_eq!(*of_64, expected, "{text}");
    }
}
