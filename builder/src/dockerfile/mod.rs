//! The Dockerfile language as a ladder: bytes -> statements with ranges -> typed instructions -> stages.
//!
//! Everything below is pure: no file is opened, no variable of the process is read. An input that is
//! not understood is an error with its place; nothing is skipped in silence.
//!
//! ```
//! use builder::dockerfile::{self, expand::Lexer, instruction::Kind};
//!
//! let file = dockerfile::parse(b"FROM alpine AS base\nENV a=1 b=\"x $a\"\n")?;
//! let Kind::Env(pairs) = &file.stages[0].instructions[0].kind else { unreachable!() };
//! let lexer = Lexer::new(file.directives.escape);
//! let old = [("a".to_owned(), "0".to_owned())];
//! assert_eq!(lexer.word(&pairs[1].value, &old[..])?, "x 0");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod csv;
pub mod directive;
pub mod error;
pub mod expand;
pub mod expose;
mod flags;
mod health;
pub mod heredoc;
pub mod instruction;
mod lines;
pub mod mount;
mod parser;
pub mod pattern;
mod run;
pub mod source;
pub mod stages;
pub(crate) mod suggest;
mod transfer;
mod typed;
mod words;

pub use error::DockerfileError;
pub use stages::Dockerfile;

use error::Problem;
use instruction::Instruction;

/// Reads a Dockerfile.
pub fn parse(bytes: &[u8]) -> Result<Dockerfile, DockerfileError> {
    let parser::Statements {
        directives,
        statements,
        mut notes,
    } = parser::statements(bytes)?;
    let mut instructions = Vec::with_capacity(statements.len());
    for statement in &statements {
        instructions.push(typed::instruction(statement, &mut notes)?);
    }
    stages::group(directives, instructions, notes)
}

/// Reads one ONBUILD trigger of a base image's configuration.
pub fn trigger(expression: &str) -> Result<Instruction, DockerfileError> {
    let statements = parser::statements(expression.as_bytes())?.statements;
    let [statement] = statements.as_slice() else {
        let problem = Problem::TriggerCount {
            count: statements.len(),
        };
        return Err(lines::at_line(1, expression, problem));
    };
    let instruction = typed::instruction(statement, &mut Vec::new())?;
    match instruction.kind.name() {
        name @ ("ONBUILD" | "FROM" | "MAINTAINER") => {
            let trigger = name.to_owned();
            Err(lines::at_line(1, expression, Problem::Trigger { trigger }))
        }
        _ => Ok(instruction),
    }
}
