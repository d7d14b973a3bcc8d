//! Columns of text, as wide as their widest cell.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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

/// How long ago an RFC 3339 time was, as `3 days ago`; the text itself where it is none.
pub fn age(created: &str) -> String {
    let Ok(then) = OffsetDateTime::parse(created, &Rfc3339) else {
        return created.to_owned();
    };
    since((OffsetDateTime::now_utc() - then).whole_seconds())
}

fn since(seconds: i64) -> String {
    let units = [
        (365 * 86_400, "year"),
        (30 * 86_400, "month"),
        (7 * 86_400, "week"),
        (86_400, "day"),
        (3600, "hour"),
        (60, "minute"),
    ];
    if seconds < 0 {
        return "in the future".to_owned();
    }
    match units.iter().find(|(length, _)| seconds >= *length) {
        None => "just now".to_owned(),
        Some((length, unit)) => match seconds / length {
            1 => format!("1 {unit} ago"),
            count => format!("{count} {unit}s ago"),
        },
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

    #[test]
    fn ages_are_round() {
        for (seconds, text) in [
            (-5, "in the future"),
            (59, "just now"),
            (60, "1 minute ago"),
            (7200, "2 hours ago"),
            (86_400 * 13, "1 week ago"),
            (86_400 * 800, "2 years ago"),
        ] {
            assert_eq!(since(seconds), text);
        }
        assert_eq!(age("yesterday"), "yesterday");
    }
}
