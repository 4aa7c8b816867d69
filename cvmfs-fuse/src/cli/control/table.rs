//! Columns of text, each as wide as its widest value.

/// Lays out rows below their header. The last column is not padded.
pub(in crate::cli) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    // Cells may hold what others wrote: no row may look like two.
    let rows: Vec<Vec<_>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| crate::escape::one_line(cell)).collect())
        .collect();
    let width = |column: usize| {
        let values = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        values.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let last = cells.len().saturating_sub(1);
        let padded = cells.iter().enumerate().map(|(column, cell)| {
            let missing = widths[column].saturating_sub(cell.chars().count());
            let padding = if column == last { 0 } else { missing };
            format!("{cell}{:padding$}", "")
        });
        padded.collect::<Vec<_>>().join("  ") + "\n"
    };
    let mut text = line(header.to_vec());
    for row in &rows {
        text.push_str(&line(row.iter().map(AsRef::as_ref).collect()));
    }
    text
}

/// A time that is over, as people say it: `3 d`, `12 min`.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let rows =
            [vec!["a".to_owned(), "b".to_owned()], vec!["long".to_owned(), "\u{e9}".to_owned()]];
        assert_eq!(table(&["X", "YY"], &rows), "X     YY\na     b\nlong  \u{e9}\n");
        assert_eq!(table(&["X"], &[]), "X\n");
        for (seconds, text) in [(7, "7 s"), (180, "3 min"), (7200, "2 h"), (864_000, "10 d")] {
            assert_eq!(age(seconds), text);
        }
    }
}
