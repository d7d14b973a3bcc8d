//! What can be wrong with a Dockerfile, and where; and what is merely worth a note.
//!
//! Every error knows the place, the offending text, a message and, where one can be given, a hint.
//! The fields are made for an editor or a terminal: this module prints nothing.

use std::fmt;

use serde::Serialize;

use super::expand::ExpandError;
use super::mount::MountError;
use super::source::Position;
use super::suggest::closest;

/// An error with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct DockerfileError {
    pub position: Position,
    /// The text that is wrong, as written.
    pub text: String,
    pub problem: Problem,
}

/// The same as plain fields, for an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub line: u32,
    pub column: u32,
    pub text: String,
    pub message: String,
    pub hint: Option<String>,
}

impl DockerfileError {
    /// An error of expansion, placed at the instruction that holds the word.
    pub fn expansion(position: Position, error: ExpandError) -> Self {
        Self {
            position,
            text: error.word.clone(),
            problem: Problem::Expand(error),
        }
    }

    pub fn report(&self) -> Report {
        Report {
            line: self.position.line,
            column: self.position.column,
            text: self.text.clone(),
            message: self.problem.to_string(),
            hint: self.hint(),
        }
    }

    /// What the author probably wants.
    pub fn hint(&self) -> Option<String> {
        self.problem.hint(&self.text)
    }
}

impl fmt::Display for DockerfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.problem)?;
        match self.hint() {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("the file has more than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the file has more than {limit} lines")]
    TooManyLines { limit: u32 },
    #[error("the line is not UTF-8")]
    NotUtf8,
    #[error("the file has no instructions")]
    NoInstructions,
    #[error("the file has no FROM")]
    NoStage,
    #[error("parser directive {name} is given twice")]
    DirectiveTwice { name: String },
    #[error("escape character {value:?} is neither '\\' nor '`'")]
    Escape { value: String },
    #[error("unknown instruction {name:?}")]
    UnknownInstruction { name: String },
    #[error("{instruction} stands before the first FROM, where only ARG is allowed")]
    BeforeFrom { instruction: &'static str },
    #[error("{instruction} has no flag {flag:?}")]
    UnknownFlag {
        instruction: &'static str,
        flag: String,
        known: &'static [&'static str],
    },
    #[error("flag --{flag} needs a value")]
    FlagWithoutValue { flag: &'static str },
    #[error("flag --{flag} is given twice")]
    FlagTwice { flag: &'static str },
    #[error("flag --{flag} takes {expected}, not {value:?}")]
    FlagValue {
        flag: &'static str,
        value: String,
        expected: &'static str,
    },
    #[error("{instruction} needs {needs}")]
    Arguments {
        instruction: &'static str,
        needs: &'static str,
    },
    #[error("a JSON array of {instruction} holds something that is not a string")]
    NotStrings { instruction: &'static str },
    #[error("SHELL needs its arguments as a JSON array")]
    ShellNotJson,
    #[error("{word:?} of {instruction} has no '='")]
    NoEquals {
        instruction: &'static str,
        word: String,
    },
    #[error("{instruction} sets a name that is empty")]
    BlankName { instruction: &'static str },
    #[error("{name:?} cannot name a build stage")]
    StageName { name: String },
    #[error("the name of a build stage has more than {limit} bytes")]
    StageNameTooLong { limit: usize },
    #[error("heredoc {name:?} is not closed")]
    HeredocOpen { name: String },
    #[error("heredoc {name:?} is not one of {instruction}'s sources")]
    HeredocUnused {
        instruction: &'static str,
        name: String,
    },
    #[error("{instruction} cannot have a heredoc as its destination")]
    HeredocDestination { instruction: &'static str },
    #[error("{trigger} cannot be an ONBUILD trigger")]
    Trigger { trigger: String },
    #[error("an ONBUILD trigger is one instruction, this is {count}")]
    TriggerCount { count: usize },
    #[error("unknown type {kind:?} of HEALTHCHECK")]
    HealthcheckType { kind: String },
    #[error("--from of COPY takes no variables")]
    FromVariable,
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Expand(#[from] ExpandError),
}

/// The keywords of the language.
pub(super) const INSTRUCTIONS: &[&str] = &[
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

impl Problem {
    fn hint(&self, text: &str) -> Option<String> {
        match self {
            Self::UnknownInstruction { name } => {
                let near = closest(&name.to_uppercase(), INSTRUCTIONS)?;
                Some(format!("did you mean {near}?"))
            }
            Self::UnknownFlag { flag, known, .. } => match closest(flag, known) {
                Some(near) => Some(format!("did you mean --{near}?")),
                None if known.is_empty() => Some("it takes no flags".to_owned()),
                None => Some(format!("it takes --{}", known.join(", --"))),
            },
            Self::Mount(error) => error.hint(),
            Self::StageName { .. } => Some(
                "a stage's name starts with a letter and goes on with letters, digits, '-', '_' and '.'"
                    .to_owned(),
            ),
            Self::FromVariable => {
                Some(format!("name a stage with FROM {text} AS and copy from that"))
            }
            Self::HeredocOpen { name } => Some(format!("a line with only {name} closes it")),
            Self::HeredocUnused { name, .. } => {
                Some(format!("write <<{name} without a space, as a word of its own"))
            }
            Self::ShellNotJson => Some("as in SHELL [\"/bin/bash\", \"-c\"]".to_owned()),
            Self::HealthcheckType { .. } => Some("it is CMD or NONE".to_owned()),
            Self::NoEquals { .. } => Some("quote a value that holds spaces".to_owned()),
            _ => None,
        }
    }
}

/// Something that is allowed and still worth telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub position: Position,
    pub remark: Remark,
}

/// What a note says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Remark {
    #[error("\"# syntax={value}\" is ignored: this builder reads the Dockerfile itself")]
    Syntax { value: String },
    #[error("an empty line inside a continued instruction")]
    EmptyContinuation,
    #[error("HEALTHCHECK NONE makes no use of its flags")]
    HealthcheckFlags,
    #[error("{instruction} looks like a JSON array but is not one, it is taken as a shell's line")]
    JsonLike { instruction: &'static str },
}
