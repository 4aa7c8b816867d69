//! Drawings for the page: SVG, with the colours of its style sheet and all text escaped.

use std::fmt::Write as _;

/// Width of a drawing, in its own units; the page scales it.
const WIDTH: f64 = 900.0;
/// Where bars begin, after their labels.
const LEFT: f64 = 300.0;
/// Length of the longest bar; what follows is for its figure.
const LONGEST: f64 = 420.0;
/// Height of one bar with the space below it.
const STEP: f64 = 24.0;
/// Height of a row of what was over time.
const STRIP: f64 = 44.0;
/// Characters that fit before a bar.
const LABEL: usize = 44;

/// The class of each cell in the style sheet, and its value.
pub(super) type Cells = Vec<(&'static str, Option<f64>)>;

/// One bar: parts that add up.
pub(super) struct Bar {
    pub(super) label: String,
    /// Class in the style sheet, and length.
    pub(super) parts: Vec<(&'static str, f64)>,
    /// What is written behind it.
    pub(super) figure: String,
}

/// Makes text harmless in HTML and SVG, also within quotes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in crate::escape::lines(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= LABEL {
        return text.to_owned();
    }
    text.chars().take(LABEL - 1).chain(['…']).collect()
}

fn begin(height: f64, title: &str) -> String {
    let title = escape(title);
    format!(
        "<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{title}'><title>{title}</title>"
    )
}

/// Draws bars below each other, the longest over the full length.
pub(super) fn bars(title: &str, bars: &[Bar]) -> String {
    let length = |bar: &Bar| bar.parts.iter().map(|(_, length)| length.max(0.0)).sum::<f64>();
    let longest = bars.iter().map(length).fold(f64::MIN_POSITIVE, f64::max);
    let count = u32::try_from(bars.len()).map_or(0.0, f64::from);
    let mut svg = begin(count * STEP + 4.0, title);
    let mut y = 0.0;
    for bar in bars {
        let _ = write!(
            svg,
            "<text x='{:.0}' y='{:.0}' text-anchor='end'>{}</text>",
            LEFT - 8.0,
            y + 14.0,
            escape(&shortened(&bar.label))
        );
        let mut x = LEFT;
        for (class, length) in &bar.parts {
            let width = length.max(0.0) / longest * LONGEST;
            let _ = write!(
                svg,
                "<rect class='{class}' x='{x:.1}' y='{y:.0}' width='{width:.1}' height='18'/>"
            );
            x += width;
        }
        let _ = write!(
            svg,
            "<text x='{:.1}' y='{:.0}'>{}</text>",
            x + 6.0,
            y + 14.0,
            escape(&bar.figure)
        );
        y += STEP;
    }
    svg + "</svg>"
}

/// Draws two orders of the same things, with a line from each place to the other.
pub(super) fn slopes(
    title: &str,
    heads: [&str; 2],
    orders: [&[usize]; 2],
    names: &[String],
) -> String {
    let rows = orders.iter().map(|order| order.len()).max().unwrap_or(0);
    let height = u32::try_from(rows).map_or(0.0, f64::from) * STEP + STEP + 4.0;
    let mut svg = begin(height, title);
    let name = |place: &usize| names.get(*place).map_or("?", String::as_str);
    let y_of = |row: usize| u32::try_from(row).map_or(0.0, f64::from) * STEP + STEP + 14.0;
    let [left, right] = orders;
    let (from, to) = (LEFT + 40.0, WIDTH - LEFT - 40.0);
    for (x, anchor, head, order) in
        [(from - 8.0, "end", heads[0], left), (to + 8.0, "start", heads[1], right)]
    {
        let _ = write!(
            svg,
            "<text class='head' x='{x:.0}' y='14' text-anchor='{anchor}'>{}</text>",
            escape(head)
        );
        for (row, place) in order.iter().enumerate() {
            let y = y_of(row);
            let label = escape(&shortened(name(place)));
            let _ =
                write!(svg, "<text x='{x:.0}' y='{y:.0}' text-anchor='{anchor}'>{label}</text>");
        }
    }
    for (row, place) in left.iter().enumerate() {
        let Some(other) = right.iter().position(|other| other == place) else { continue };
        let class = if row == other { "same" } else { "moved" };
        let _ = write!(
            svg,
            "<line class='{class}' x1='{from:.0}' x2='{to:.0}' y1='{:.0}' y2='{:.0}'/>",
            y_of(row) - 5.0,
            y_of(other) - 5.0
        );
    }
    svg + "</svg>"
}

/// Draws what was over time, the last column at the right: a row of cells for each label, each
/// with its class, and over it a bar as high as its value.
pub(super) fn strips(title: &str, rows: &[(String, Cells)]) -> String {
    let count = u32::try_from(rows.len()).map_or(0.0, f64::from);
    let mut svg = begin(count * STRIP + 4.0, title);
    let columns = rows.iter().map(|(_, cells)| cells.len()).max().unwrap_or(0);
    let number = |count: usize| u32::try_from(count).map_or(0.0, f64::from);
    let width = ((WIDTH - LEFT) / number(columns.max(1))).min(24.0);
    let values = || rows.iter().flat_map(|(_, cells)| cells).filter_map(|(_, value)| *value);
    let highest = values().fold(f64::MIN_POSITIVE, f64::max);
    for (row, (label, cells)) in rows.iter().enumerate() {
        let y = number(row) * STRIP;
        let base = y + STRIP - 8.0;
        let _ = write!(
            svg,
            "<text x='{:.0}' y='{base:.0}' text-anchor='end'>{}</text>",
            LEFT - 8.0,
            escape(&shortened(label))
        );
        let begin = WIDTH - number(cells.len()) * width;
        for (column, (class, value)) in cells.iter().enumerate() {
            let x = begin + number(column) * width;
            let _ = write!(
                svg,
                "<rect class='{class}' x='{x:.1}' y='{base:.0}' width='{:.1}' height='4'/>",
                width * 0.9
            );
            if let Some(value) = value {
                let height = value.max(0.0) / highest * (STRIP - 16.0);
                let _ = write!(
                    svg,
                    "<rect class='bar' x='{x:.1}' y='{:.1}' width='{:.1}' height='{height:.1}'/>",
                    base - 1.0 - height,
                    width * 0.9
                );
            }
        }
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_in_proportion_and_text_is_harmless() {
        let bar = |label: &str, length| Bar {
            label: label.to_owned(),
            parts: vec![("dns", length), ("tls", length)],
            figure: "<b>".to_owned(),
        };
        let svg = bars("a & 'b'", &[bar("<script>", 1.0), bar(&"x".repeat(99), 2.0)]);
        assert!(svg.contains("aria-label='a &amp; &#39;b&#39;'"), "{svg}");
        assert!(svg.contains("&lt;script&gt;") && svg.contains("&lt;b&gt;"), "{svg}");
        assert!(svg.contains("width='105.0'") && svg.contains("width='210.0'"), "{svg}");
        assert!(svg.contains('…') && !svg.contains(&"x".repeat(99)), "{svg}");
        // Nothing measured is no division by zero.
        assert!(!bars("t", &[bar("a", 0.0)]).contains("NaN"));
    }

    #[test]
    fn slopes_join_equal_things() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let svg = slopes("t", ["told", "measured"], [&[2, 0, 1], &[0, 2]], &names);
        assert_eq!(svg.matches("<line").count(), 2);
        assert_eq!(svg.matches("class='moved'").count(), 2);
    }

    #[test]
    fn strips_end_at_the_right_edge() {
        let rows = [
            ("a".to_owned(), vec![("good", Some(1.0)), ("bad", None)]),
            ("b".to_owned(), vec![("warn", Some(2.0))]),
        ];
        let svg = strips("t", &rows);
        assert_eq!(svg.matches("<rect").count(), 5);
        // The only round of b is below the last one of a.
        assert_eq!(svg.matches("x='876.0'").count(), 3, "{svg}");
        assert!(!strips("t", &[]).contains("NaN"));
    }
}
