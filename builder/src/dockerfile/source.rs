//! Positions in a Dockerfile's text, and text that is still to be expanded.
//!
//! Lines and columns count from one; columns count characters, not bytes. Nothing here reads files.

use std::fmt;

/// One place in the file: the first character is line 1, column 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Where an instruction stands: from its first character to the place behind the last one of its lines,
/// heredocs included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Range {
    pub start: Position,
    pub end: Position,
}

/// Text as written, before quotes, escapes and variables are processed.
///
/// It is a type of its own so that nobody takes it for a path or a value: only
/// [`super::expand::Lexer`] turns one into a `String`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Word(String);

impl Word {
    pub fn new(raw: impl Into<String>) -> Self {
        Self(raw.into())
    }

    /// The text as written: for messages, history and comparison, never as a value.
    pub fn raw(&self) -> &str {
        &self.0
    }
}
