//! Heredocs: `<<NAME`, `<<-NAME`, `<<"NAME"` (Dockerfile reference, "Here-Documents").
//!
//! This module recognises the openings on a logical line and knows what a body means; collecting the
//! body's lines is the parser's work.

use super::expand::Lexer;

/// One heredoc of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter without quotes; for COPY and ADD also the file's name.
    pub name: String,
    /// The number before `<<`; zero when there is none.
    pub fd: u32,
    /// False when any part of the delimiter was quoted.
    pub expand: bool,
    /// `<<-`: leading tabs of the body and of the closing line are dropped.
    pub strip_tabs: bool,
    /// The body as written, each line with its line end.
    pub content: String,
}

impl Heredoc {
    /// Reads a word as the opening of a heredoc, its body still empty: digits, `<<`, perhaps `-`,
    /// and one delimiter.
    pub(super) fn opening(word: &str) -> Option<Self> {
        let digits = word.find(|c: char| !c.is_ascii_digit())?;
        let (fd, rest) = word.split_at(digits);
        let rest = rest.strip_prefix("<<")?;
        let (rest, strip_tabs) = match rest.strip_prefix('-') {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let delimiter = rest.trim_start();
        if delimiter.is_empty() || delimiter.contains('<') {
            return None;
        }
        let (name, raw) = (single(delimiter, false)?, single(delimiter, true)?);
        Some(Self {
            expand: quotes(&name) == quotes(&raw),
            name,
            fd: fd.parse().unwrap_or_default(),
            strip_tabs,
            content: String::new(),
        })
    }

    /// True for the line that ends the body.
    pub(super) fn is_closed_by(&self, line: &str) -> bool {
        let line = line.trim_end_matches(['\r', '\n']);
        match self.strip_tabs {
            true => line.trim_start_matches('\t') == self.name,
            false => line == self.name,
        }
    }

    /// The body with leading tabs dropped if `<<-` asked for it.
    pub fn text(&self) -> String {
        if !self.strip_tabs {
            return self.content.clone();
        }
        let lines = self.content.split_inclusive('\n');
        lines.map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// The heredocs that a logical line opens, in order, with empty bodies.
///
/// A line that a shell could not split (an open quote) opens none.
pub(super) fn openings(line: &str) -> Vec<Heredoc> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let words = Lexer::split_line(line).unwrap_or_default();
    words
        .iter()
        .filter_map(|word| Heredoc::opening(word))
        .collect()
}

/// The delimiter if it is one word.
fn single(delimiter: &str, keep_quotes: bool) -> Option<String> {
    let mut words = Lexer::delimiter(delimiter, keep_quotes).ok()?;
    let word = words.pop()?;
    words.is_empty().then_some(word)
}

fn quotes(word: &str) -> usize {
    word.matches(['\'', '"']).count()
}

/// Gives bodies back to a line that opens them, so that a shell can read the whole.
pub fn reattach(line: &str, heredocs: &[Heredoc]) -> String {
    let mut full = line.to_owned();
    for heredoc in heredocs {
        full.push('\n');
        full.push_str(&heredoc.content);
        full.push_str(&heredoc.name);
    }
    full
}
