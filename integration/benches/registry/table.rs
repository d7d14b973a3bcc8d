//! Figures of several servers side by side: medians and how many times better devpod is.

use std::collections::HashMap;

use crate::server::Kind;

/// Which direction is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    More,
    Less,
}

/// One number that a measurement found.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) value: f64,
}

impl Figure {
    pub(crate) fn more(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        let (name, better) = (name.into(), Better::More);
        Self {
            name,
            unit,
            better,
            value,
        }
    }

    pub(crate) fn less(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self {
            better: Better::Less,
            ..Self::more(name, unit, value)
        }
    }
}

/// All rounds of one measurement.
pub(crate) struct Table {
    title: &'static str,
    columns: Vec<&'static str>,
    rows: Vec<Figure>,
    values: HashMap<(String, &'static str), Vec<f64>>,
}

impl Table {
    pub(crate) fn new(title: &'static str, kinds: &[Kind]) -> Self {
        Self {
            title,
            columns: kinds.iter().map(Kind::name).collect(),
            rows: Vec::new(),
            values: HashMap::new(),
        }
    }

    pub(crate) fn add(&mut self, kind: &Kind, figures: Vec<Figure>) {
        for figure in figures {
            let key = (figure.name.clone(), kind.name());
            self.values.entry(key).or_default().push(figure.value);
            if self.rows.iter().all(|row| row.name != figure.name) {
                self.rows.push(figure);
            }
        }
    }

    /// The first column is devpod; behind every other one stands the ratio.
    pub(crate) fn print(&self) {
        println!("\n{}", self.title);
        for row in &self.rows {
            let ours = self.median(&row.name, self.columns[0]);
            let mut line = format!("  {:38} {:>6}", row.name, row.unit);
            for column in &self.columns {
                let Some(value) = self.median(&row.name, column) else {
                    line.push_str(&format!("   {column} -"));
                    continue;
                };
                line.push_str(&format!("   {column} {}", short(value)));
                if let Some(ours) = ours.filter(|_| *column != self.columns[0]) {
                    line.push_str(&format!(" ({:.1}x)", ratio(row.better, ours, value)));
                }
            }
            println!("{line}");
        }
    }

    fn median(&self, name: &str, column: &'static str) -> Option<f64> {
        let mut values = self.values.get(&(name.to_owned(), column))?.clone();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }
}

fn ratio(better: Better, ours: f64, theirs: f64) -> f64 {
    match better {
        Better::More => ours / theirs,
        Better::Less => theirs / ours,
    }
}

/// Three digits say enough.
fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}
