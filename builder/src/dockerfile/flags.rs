//! The flags of one instruction: which are known, which are given, what their values are.

use super::error::{DockerfileError, Problem};
use super::parser::{Parts, Statement};
use super::words::Piece;

/// The flags of a statement, each known to the instruction.
#[derive(Debug)]
pub(super) struct Flags<'a> {
    statement: &'a Statement,
    given: &'a [Piece],
}

impl<'a> Flags<'a> {
    /// Refuses a flag that is not in `known`.
    pub(super) fn new(
        statement: &'a Statement,
        parts: &'a Parts<'_>,
        instruction: &'static str,
        known: &'static [&'static str],
    ) -> Result<Self, DockerfileError> {
        for piece in &parts.flags {
            let (flag, _) = split(piece);
            if !known.contains(&flag) {
                let flag = flag.to_owned();
                let problem = Problem::UnknownFlag {
                    instruction,
                    flag,
                    known,
                };
                return Err(statement.error(piece, problem));
            }
        }
        Ok(Self {
            statement,
            given: &parts.flags,
        })
    }

    fn of(&self, flag: &'static str) -> impl Iterator<Item = (&'a Piece, Option<&'a str>)> {
        let split = self.given.iter().map(|piece| (piece, split(piece)));
        let ours = split.filter(move |(_, (name, _))| *name == flag);
        ours.map(|(piece, (_, value))| (piece, value))
    }

    fn single(
        &self,
        flag: &'static str,
    ) -> Result<Option<(&'a Piece, Option<&'a str>)>, DockerfileError> {
        let mut found = self.of(flag);
        let first = found.next();
        match found.next() {
            Some((piece, _)) => Err(self.statement.error(piece, Problem::FlagTwice { flag })),
            None => Ok(first),
        }
    }

    fn value(
        &self,
        flag: &'static str,
        (piece, value): (&'a Piece, Option<&'a str>),
    ) -> Result<Value<'a>, DockerfileError> {
        let Some(text) = value else {
            return Err(self
                .statement
                .error(piece, Problem::FlagWithoutValue { flag }));
        };
        Ok(Value { flag, text, piece })
    }

    /// `--flag=value`, at most once.
    pub(super) fn text(&self, flag: &'static str) -> Result<Option<Value<'a>>, DockerfileError> {
        let given = self.single(flag)?;
        given.map(|given| self.value(flag, given)).transpose()
    }

    /// `--flag=value`, any number of times.
    pub(super) fn list(&self, flag: &'static str) -> Result<Vec<Value<'a>>, DockerfileError> {
        self.of(flag).map(|given| self.value(flag, given)).collect()
    }

    /// `--flag`, `--flag=true` or `--flag=false`, at most once.
    pub(super) fn switch(&self, flag: &'static str) -> Result<Option<bool>, DockerfileError> {
        let Some((piece, value)) = self.single(flag)? else {
            return Ok(None);
        };
        let Some(text) = value else {
            return Ok(Some(true));
        };
        match text.to_ascii_lowercase().as_str() {
            "true" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            _ => Err(self.refused(&Value { flag, text, piece }, "true or false")),
        }
    }

    pub(super) fn refused(&self, value: &Value<'_>, expected: &'static str) -> DockerfileError {
        let problem = Problem::FlagValue {
            flag: value.flag,
            value: value.text.to_owned(),
            expected,
        };
        self.statement.error(value.piece, problem)
    }
}

/// A flag's value and the place of the flag.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value<'a> {
    pub(super) flag: &'static str,
    pub(super) text: &'a str,
    pub(super) piece: &'a Piece,
}

/// The name without its dashes, and what stands behind `=`.
fn split(piece: &Piece) -> (&str, Option<&str>) {
    let text = piece.text.strip_prefix("--").unwrap_or(&piece.text);
    match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    }
}
