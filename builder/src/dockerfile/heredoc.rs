//! Heredocs: `<<NAME`, `<<-NAME`, `<<"NAME"` (Dockerfile reference, "Here-Documents").
//!
//! This module recognises the openings on a logical line and knows what a body means; collecting the
//! body's lines is the parser's work.

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
    /// The body with leading tabs dropped if `<<-` asked for it.
    pub fn text(&self) -> String {
        if !self.strip_tabs {
            return self.content.clone();
        }
        let lines = self.content.split_inclusive('\n');
        lines.map(|line| line.trim_start_matches('\t')).collect()
    }
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
