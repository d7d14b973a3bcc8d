//! Physical lines, and logical lines made of them: continuations joined, comments dropped.
//!
//! A logical line remembers where each of its parts stood, so that an offset in it becomes a line and
//! a column of the file again.

use super::directive::{self, Directives, Name};
use super::error::{DockerfileError, Note, Problem, Remark};
use super::source::Position;

/// Dockerfiles are written by hand or by small generators; the largest known have some 100 KB.
pub(super) const MAX_BYTES: usize = 4 * 1024 * 1024;
pub(super) const MAX_LINES: u32 = 100_000;

/// One line of an instruction as the language sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogicalLine {
    pub(super) text: String,
    /// Comments right over it, without their `#`: a blank line or an empty comment begins anew.
    pub(super) comments: Vec<String>,
    /// Offset in `text` at which a part begins, and where it stood; ascending, never empty.
    parts: Vec<(usize, Position)>,
}

impl LogicalLine {
    pub(super) fn position(&self, offset: usize) -> Position {
        let behind = self.parts.partition_point(|(start, _)| *start <= offset);
        let Some((start, position)) = self.parts.get(behind.saturating_sub(1)) else {
            return Position { line: 1, column: 1 };
        };
        let before = self.text.get(*start..offset).unwrap_or_default();
        Position {
            line: position.line,
            column: position.column + columns(before),
        }
    }

    fn push(&mut self, text: &str, position: Position) {
        self.parts.push((self.text.len(), position));
        self.text.push_str(text);
    }
}

/// The number of characters, as far as a column can count.
fn columns(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(u32::MAX)
}

/// Reads a file line by line.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    rest: &'a [u8],
    /// The number of the line read last.
    number: u32,
    /// Its length without the line end.
    length: usize,
    pub(super) directives: Directives,
    /// `None` as soon as a line was no directive.
    seen: Option<Vec<Name>>,
    /// The comments since the last blank line or instruction.
    comments: Vec<String>,
    pub(super) notes: Vec<Note>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, DockerfileError> {
        if bytes.len() > MAX_BYTES {
            return Err(at_line(1, "", Problem::TooLarge { limit: MAX_BYTES }));
        }
        Ok(Self {
            rest: bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes),
            number: 0,
            length: 0,
            directives: Directives::default(),
            seen: Some(Vec::new()),
            comments: Vec::new(),
            notes: Vec::new(),
        })
    }

    /// The next line with its line end.
    fn raw(&mut self) -> Result<Option<&'a [u8]>, DockerfileError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let end = end.map_or(self.rest.len(), |at| at + 1);
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.number += 1;
        self.length = String::from_utf8_lossy(line.trim_ascii_end())
            .chars()
            .count();
        if self.number > MAX_LINES {
            let problem = Problem::TooManyLines { limit: MAX_LINES };
            return Err(at_line(self.number, "", problem));
        }
        Ok(Some(line))
    }

    /// The place behind the last character of the line read last.
    pub(super) fn end(&self) -> Position {
        Position {
            line: self.number.max(1),
            column: u32::try_from(self.length).map_or(u32::MAX, |length| length + 1),
        }
    }

    /// The next line of a heredoc's body, with its line end.
    pub(super) fn verbatim(&mut self) -> Result<Option<&'a str>, DockerfileError> {
        let Some(line) = self.raw()? else {
            return Ok(None);
        };
        self.text(line).map(Some)
    }

    fn text(&self, line: &'a [u8]) -> Result<&'a str, DockerfileError> {
        std::str::from_utf8(line).map_err(|_| {
            let shown = String::from_utf8_lossy(line);
            at_line(self.number, shown.trim(), Problem::NotUtf8)
        })
    }

    /// The next line without its line end; a comment is given as `None` in the inner option, in
    /// whatever encoding it is.
    fn unless_comment(&mut self) -> Result<Option<Option<&'a str>>, DockerfileError> {
        let Some(line) = self.raw()? else {
            return Ok(None);
        };
        if line.trim_ascii_start().first() == Some(&b'#') {
            let lossy = String::from_utf8_lossy(line);
            if !self.directive(lossy.trim())? {
                self.comment(lossy.trim());
            }
            return Ok(Some(None));
        }
        self.seen = None;
        let line = self.text(line)?.trim_end_matches(['\r', '\n']);
        Ok(Some(Some(line)))
    }

    fn comment(&mut self, comment: &str) {
        match comment.trim_start_matches('#').trim() {
            "" => self.comments.clear(),
            text => self.comments.push(text.to_owned()),
        }
    }

    /// Whether a comment was a parser directive.
    fn directive(&mut self, comment: &str) -> Result<bool, DockerfileError> {
        let Some(mut seen) = self.seen.take() else {
            return Ok(false);
        };
        let Some((name, value)) = directive::read(comment) else {
            return Ok(false);
        };
        let set = self.directives.set(&mut seen, name, value);
        set.map_err(|problem| at_line(self.number, comment, problem))?;
        self.seen = Some(seen);
        let value = value.to_owned();
        match name {
            Name::Syntax => self.note(self.number, Remark::Syntax { value }),
            Name::Check | Name::Escape => {}
        }
        Ok(true)
    }

    fn note(&mut self, line: u32, remark: Remark) {
        let position = Position { line, column: 1 };
        self.notes.push(Note { position, remark });
    }

    /// The next instruction's line: comments and blank lines before it are passed over.
    pub(super) fn logical(&mut self) -> Result<Option<LogicalLine>, DockerfileError> {
        loop {
            let Some(line) = self.unless_comment()? else {
                return Ok(None);
            };
            let Some(line) = line else {
                continue;
            };
            if line.trim().is_empty() {
                self.comments.clear();
                continue;
            }
            return self.joined(line).map(Some);
        }
    }

    fn joined(&mut self, first: &str) -> Result<LogicalLine, DockerfileError> {
        let trimmed = first.trim_start();
        let indent = first.get(..first.len() - trimmed.len());
        let position = Position {
            line: self.number,
            column: 1 + columns(indent.unwrap_or_default()),
        };
        let (text, mut continues) = continuation(trimmed, self.directives.escape);
        let mut logical = LogicalLine {
            text: String::new(),
            comments: std::mem::take(&mut self.comments),
            parts: Vec::new(),
        };
        logical.push(text, position);
        while continues && let Some(line) = self.unless_comment()? {
            let Some(line) = line else {
                continue;
            };
            if line.trim().is_empty() {
                self.note(self.number, Remark::EmptyContinuation);
                continue;
            }
            let text;
            (text, continues) = continuation(line, self.directives.escape);
            let line = self.number;
            logical.push(text, Position { line, column: 1 });
        }
        // Those inside an instruction belong to nobody.
        self.comments.clear();
        Ok(logical)
    }
}

/// Takes the escape character off a line that ends with one, unless it is itself escaped.
fn continuation(line: &str, escape: char) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(text) if !text.ends_with(escape) => (text, true),
        _ => (line, false),
    }
}

/// An error about a whole line.
pub(super) fn at_line(line: u32, text: &str, problem: Problem) -> DockerfileError {
    DockerfileError {
        position: Position { line, column: 1 },
        text: text.to_owned(),
        problem,
    }
}
