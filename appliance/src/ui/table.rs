//! Columns of text, as wide as their widest cell.

use crate::ui::line;
use crate::ui::style::harmless;

/// Prints a header and rows. An empty list prints its header, so that scripts see a table.
pub fn print(header: &[&str], rows: &[Vec<String>]) {
    for row in render(header, rows) {
        line(&row);
    }
}

fn render(header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let head: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head)
        .chain(
            rows.iter()
                .map(|row| row.iter().map(|cell| harmless(cell)).collect()),
        )
        .collect();
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            rows.iter()
                .filter_map(|r| r.get(column))
                .map(|c| c.chars().count())
                .max()
        })
        .map(Option::unwrap_or_default)
        .collect();
    rows.iter().map(|row| pad(row, &widths)).collect()
}

fn pad(row: &[String], widths: &[usize]) -> String {
    let cells = row
        .iter()
        .zip(widths)
        .map(|(cell, width)| format!("{cell:width$}"));
    cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
}

/// Bytes for people: `12.3 MB`.
pub fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 9.95 => format!("{value:.1} {}", units[unit]),
        _ => format!("{value:.0} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["long-name".to_owned(), "1".to_owned()]];
        assert_eq!(
            render(&["NAME", "N"], &rows),
            ["NAME        N", "long-name   1"]
        );
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1500, "1.5 kB"),
            (52_000_000, "52 MB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
