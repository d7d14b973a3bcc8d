//! The instructions of a Dockerfile, typed (Dockerfile reference, "Overview").
//!
//! Whatever the language allows is representable here, also what the solver cannot execute: it
//! refuses such a value by name and by [`Instruction::range`]. A [`Word`] is not expanded yet; its
//! lexer is [`super::expand::Lexer`]. This module holds data and what follows from it alone; the
//! texts are read by `parser` and `typed`.

use std::time::Duration;

use super::heredoc::Heredoc;
use super::mount::MountFlag;
use super::source::{Range, Word};

/// One instruction with the place and the text it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    pub kind: Kind,
    pub range: Range,
    /// The logical line (continuations joined, comments dropped, no heredoc bodies), trimmed: what
    /// the image's history shows.
    pub text: String,
    /// Comments right over it, without their `#`.
    pub comments: Vec<String>,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    From(From),
    Run(Run),
    Copy(Copy),
    Add(Add),
    Env(Vec<Pair>),
    Label(Vec<Pair>),
    Arg(Vec<ArgDeclaration>),
    Workdir(Word),
    User(Word),
    Cmd(CommandLine),
    Entrypoint(CommandLine),
    /// Each word may expand to several ports: expand with `Lexer::words`, then read with
    /// [`super::expose::ports`].
    Expose(Vec<Word>),
    Volume(Vec<Word>),
    Shell(Vec<String>),
    StopSignal(Word),
    Healthcheck(Healthcheck),
    Onbuild(Onbuild),
    /// Deprecated, but still sets `author` in the image's configuration.
    Maintainer(String),
}

impl Kind {
    /// The instruction's keyword in capitals.
    pub fn name(&self) -> &'static str {
        match self {
            Self::From(_) => "FROM",
            Self::Run(_) => "RUN",
            Self::Copy(_) => "COPY",
            Self::Add(_) => "ADD",
            Self::Env(_) => "ENV",
            Self::Label(_) => "LABEL",
            Self::Arg(_) => "ARG",
            Self::Workdir(_) => "WORKDIR",
            Self::User(_) => "USER",
            Self::Cmd(_) => "CMD",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Expose(_) => "EXPOSE",
            Self::Volume(_) => "VOLUME",
            Self::Shell(_) => "SHELL",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Onbuild(_) => "ONBUILD",
            Self::Maintainer(_) => "MAINTAINER",
        }
    }
}

/// `FROM [--platform=P] IMAGE [AS NAME]`; image and platform see the global ARGs only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    pub image: Word,
    pub platform: Option<Word>,
    /// Lower case: stage names are case-insensitive.
    pub name: Option<String>,
}

/// Shell form (for the SHELL in force) or exec form; neither is expanded by the builder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    Shell(String),
    Exec(Vec<String>),
}

impl CommandLine {
    /// True for `CMD` and `CMD []` alike: both clear what was inherited.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Shell(line) => line.is_empty(),
            Self::Exec(words) => words.is_empty(),
        }
    }
}

/// `RUN [--mount=…] [--network=…] [--security=…] [--device=…] COMMAND`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub command: CommandLine,
    pub heredocs: Vec<Heredoc>,
    /// Their values are expanded when the step is solved: [`MountFlag::resolve`].
    pub mounts: Vec<MountFlag>,
    pub network: Network,
    pub security: Security,
    pub devices: Vec<Device>,
}

/// How a RUN is to be started once its heredocs are taken into account: `Run::invocation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// These arguments, no shell.
    Exec(Vec<String>),
    /// One text behind the SHELL in force.
    Shell(String),
    /// A body that starts with `#!`: put it in a read-only executable file of this name and run it.
    Script { name: String, body: String },
}

/// `RUN --network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    #[default]
    Default,
    None,
    Host,
}

/// `RUN --security`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    #[default]
    Sandbox,
    Insecure,
}

/// `RUN --device=NAME[,required]`: a CDI device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    pub required: bool,
}

/// What COPY and ADD have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Paths, patterns or URLs, in the order written.
    pub sources: Vec<Word>,
    /// Files written in the Dockerfile itself; they follow the sources.
    pub inline: Vec<InlineFile>,
    pub dest: Word,
    pub chown: Option<Word>,
    pub chmod: Option<Word>,
    pub link: bool,
    /// Patterns as written: they are not expanded.
    pub exclude: Vec<String>,
}

/// A heredoc as a source of COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineFile {
    /// The file's name below a destination directory.
    pub name: String,
    pub body: String,
    /// Variables in the body are to be replaced (`Lexer::heredoc`): the delimiter was not quoted.
    pub expand: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    pub transfer: Transfer,
    /// A stage's name or number, a named context or an image; never expanded.
    pub from: Option<String>,
    pub parents: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    pub transfer: Transfer,
    pub checksum: Option<Word>,
    pub keep_git_dir: Option<bool>,
    /// Whether archives are unpacked; when absent, local ones are and fetched ones are not.
    pub unpack: Option<bool>,
}

/// One `key=value` of ENV or LABEL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub key: Word,
    pub value: Word,
    /// Written in the old form `ENV key the rest of the line`.
    pub legacy: bool,
}

/// One `name` or `name=default` of ARG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDeclaration {
    pub name: Word,
    pub default: Option<Word>,
}

/// HEALTHCHECK; what the base image says of a duration or count that is absent is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    None,
    Check {
        test: CommandLine,
        interval: Option<Duration>,
        timeout: Option<Duration>,
        start_period: Option<Duration>,
        start_interval: Option<Duration>,
        retries: Option<u32>,
    },
}

/// `ONBUILD INSTRUCTION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onbuild {
    /// The text that goes to the image's configuration, heredoc bodies included; read it back with
    /// [`super::trigger`].
    pub expression: String,
    pub instruction: Box<Instruction>,
}
