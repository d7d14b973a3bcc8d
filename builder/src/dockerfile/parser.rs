//! Bytes to statements: each a logical line cut in keyword, flags and arguments, with its heredocs.
//!
//! What a keyword's arguments mean is the business of `typed`; this rung knows only which
//! instructions may carry heredocs.

use super::directive::Directives;
use super::error::{DockerfileError, Note, Problem};
use super::heredoc::{self, Heredoc};
use super::lines::{Lines, LogicalLine, at_line};
use super::source::Range;
use super::words::{self, Json, Piece};

/// One instruction as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) line: LogicalLine,
    pub(super) heredocs: Vec<Heredoc>,
    pub(super) range: Range,
    pub(super) escape: char,
}

/// A statement's text, cut; for ONBUILD the trigger is cut from the arguments in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    pub(super) keyword: Piece,
    pub(super) flags: Vec<Piece>,
    /// Trimmed.
    pub(super) args: &'a str,
    /// The arguments' offset in the logical line.
    pub(super) args_at: usize,
}

/// A parsed file, before its instructions are understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statements {
    pub(super) directives: Directives,
    pub(super) statements: Vec<Statement>,
    pub(super) notes: Vec<Note>,
}

/// Cuts a file in statements.
pub(super) fn statements(bytes: &[u8]) -> Result<Statements, DockerfileError> {
    let mut lines = Lines::new(bytes)?;
    let mut statements = Vec::new();
    while let Some(line) = lines.logical()? {
        let escape = lines.directives.escape;
        let mut statement = Statement {
            range: Range {
                start: line.position(0),
                end: lines.end(),
            },
            line,
            heredocs: Vec::new(),
            escape,
        };
        statement.heredocs = read_heredocs(&statement, &mut lines)?;
        statement.range.end = lines.end();
        statements.push(statement);
    }
    if statements.is_empty() {
        return Err(at_line(lines.end().line, "", Problem::NoInstructions));
    }
    Ok(Statements {
        directives: lines.directives,
        statements,
        notes: lines.notes,
    })
}

impl Statement {
    pub(super) fn parts(&self) -> Parts<'_> {
        self.cut(0)
    }

    /// The parts of the instruction that begins at an offset of the line.
    pub(super) fn cut(&self, from: usize) -> Parts<'_> {
        let line = self.line.text.get(from..).unwrap_or_default();
        let trimmed = line.trim_start();
        let start = from + (line.len() - trimmed.len());
        let (keyword, rest, offset) = words::first_word(trimmed.trim_end());
        let (flags, args, args_at) = words::flags(rest, start + offset, self.escape);
        Parts {
            keyword: Piece {
                text: keyword.to_owned(),
                at: start,
            },
            flags,
            args: args.trim_end(),
            args_at,
        }
    }

    pub(super) fn error(&self, piece: &Piece, problem: Problem) -> DockerfileError {
        DockerfileError {
            position: self.line.position(piece.at),
            text: piece.text.clone(),
            problem,
        }
    }

    /// Whether the language lets this instruction open heredocs.
    fn may_have_heredocs(&self) -> bool {
        let mut parts = self.parts();
        if parts.keyword.text.eq_ignore_ascii_case("ONBUILD") {
            parts = self.cut(parts.args_at);
        }
        let keyword = parts.keyword.text.to_ascii_uppercase();
        matches!(keyword.as_str(), "RUN" | "COPY" | "ADD")
            && !matches!(words::json(parts.args), Json::Strings(_) | Json::NotStrings)
    }
}

/// Reads the bodies that a statement's line opens.
fn read_heredocs(
    statement: &Statement,
    lines: &mut Lines<'_>,
) -> Result<Vec<Heredoc>, DockerfileError> {
    if !statement.may_have_heredocs() {
        return Ok(Vec::new());
    }
    let mut heredocs = heredoc::openings(&statement.line.text);
    for heredoc in &mut heredocs {
        loop {
            let Some(line) = lines.verbatim()? else {
                let name = heredoc.name.clone();
                return Err(unclosed(statement, name));
            };
            if heredoc.is_closed_by(line) {
                break;
            }
            heredoc.content.push_str(line);
        }
    }
    Ok(heredocs)
}

fn unclosed(statement: &Statement, name: String) -> DockerfileError {
    let at = statement.line.text.find("<<").unwrap_or_default();
    let text = format!("<<{name}");
    statement.error(&Piece { text, at }, Problem::HeredocOpen { name })
}
