//! Why there is no image, as one enum with everything that a person or a program needs to act.
//!
//! Every variant that concerns an instruction carries its [`Place`]. The record that the control API
//! answers for a failed build is derived here ([`BuildError::record`]); nothing is printed.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use unpacker::container::run::RunError;
use unpacker::container::user::UserError;
use unpacker::layer::diff::DiffError;
use unpacker::layer::pack::PackError;
use unpacker::progress::Cancelled;

use crate::context::ContextError;
use crate::copy::CopyError;
use crate::dockerfile::DockerfileError;
use crate::dockerfile::source::Position;
use crate::git::program::ProgramError;
use crate::git::{Blame, GitError};
use crate::lint::options::OptionsError;
use crate::plan::PlanError;

/// What a foreign trait (images, sink) failed with.
pub type Foreign = Box<dyn std::error::Error + Send + Sync>;

/// Where an instruction stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The Dockerfile as it was named.
    pub file: String,
    /// The stage's name, or its number.
    pub stage: String,
    pub position: Position,
    /// The instruction's first line.
    pub instruction: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.position, self.instruction)
    }
}

/// Why a build ended without an image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot read {}", path.display())]
    Dockerfile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{file}:{}: {}", source.position, source.text.trim_end())]
    Syntax {
        file: String,
        #[source]
        source: Box<DockerfileError>,
    },
    /// Refused before any step ran.
    #[error("{place}")]
    Plan {
        place: Box<Place>,
        #[source]
        source: PlanError,
    },
    #[error("cannot use the options of the build checks")]
    CheckOptions(#[from] OptionsError),
    /// The Dockerfile asks for it with `# check=error=true`.
    #[error("the build checks {} tell of something, and error=true makes that an error", rules.join(", "))]
    Checks { rules: Vec<String> },
    #[error("there is no stage {target:?}, only {}", known.join(", "))]
    Target { target: String, known: Vec<String> },
    #[error("the Dockerfile has no FROM")]
    NoStage,
    #[error("cannot use the build context")]
    Context(#[from] ContextError),
    #[error("{place}: cannot have image {reference}")]
    Image {
        place: Box<Place>,
        reference: String,
        #[source]
        source: Foreign,
    },
    /// A step failed while it ran.
    #[error("{place}")]
    Step {
        place: Box<Place>,
        #[source]
        source: StepError,
    },
    #[error("cannot make a layer of a step's result")]
    Pack(#[from] PackError),
    #[error("cannot {what}")]
    Store {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot write the image's configuration")]
    Encode(#[from] serde_json::Error),
    #[error("cannot publish the image")]
    Publish(#[source] Foreign),
    /// The build begins again without it.
    #[error(transparent)]
    Cache(CacheError),
    /// The build begins again with the runs of this host.
    #[error("other hosts' caches have results of other runs of a stage than this host")]
    TwoRuns,
    #[error("still building after {seconds} s")]
    TimedOut { seconds: u64 },
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("the command ended with {exit}: {command}")]
    Command {
        command: String,
        /// As a person reads it: an exit code or a signal.
        exit: String,
        /// What a shell would call it.
        code: i32,
        /// The last lines of both outputs.
        tail: Vec<String>,
        /// There was no room left where it writes when it ended.
        disk_full: bool,
    },
    #[error("cannot run the command")]
    Run(#[source] RunError),
    #[error("cannot find the user")]
    User(#[from] UserError),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error("cannot make the folder {path:?}")]
    Workdir {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("secret {id:?} is required and was not given")]
    NoSecret { id: String },
    #[error("secret {id:?} has more than {limit} bytes")]
    SecretTooLarge { id: String, limit: u64 },
    #[error("cannot fetch {address}")]
    Download {
        /// As it may be shown.
        address: String,
        #[source]
        source: DownloadError,
    },
    #[error("cannot fetch the repository {address}")]
    Repository {
        address: String,
        #[source]
        source: GitError,
    },
    #[error("the ssh agent {id:?} is required and was not given")]
    NoAgent { id: String },
    #[error("cannot reach the ssh agent at {}", path.display())]
    Agent {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Cache(CacheError),
    #[error("cannot {what}")]
    Io {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

/// A cache that does not have what it said.
#[derive(Debug, thiserror::Error)]
#[error("cannot use what the cache {name} has")]
pub struct CacheError {
    pub name: String,
    #[source]
    pub source: Foreign,
}

/// Why ADD has no file.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    #[error("its checksum is {actual}, and not {expected}")]
    Checksum { expected: String, actual: String },
    #[error("the server says that nothing changed, and nothing is here")]
    Nothing,
    #[error(transparent)]
    Fetch(Foreign),
}

impl StepError {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

impl BuildError {
    pub(crate) fn store(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Store { what, source }
    }

    pub(crate) fn step(place: &Place) -> impl FnOnce(StepError) -> Self {
        let place = Box::new(place.clone());
        move |source| match source {
            StepError::Run(RunError::Cancelled(cancelled)) => Self::Cancelled(cancelled),
            StepError::Copy(CopyError::Cancelled(cancelled)) => Self::Cancelled(cancelled),
            StepError::Cache(error) => Self::Cache(error),
            StepError::Repository {
                source:
                    GitError::Cancelled(cancelled)
                    | GitError::Program(ProgramError::Cancelled(cancelled)),
                ..
            } => Self::Cancelled(cancelled),
            source => Self::Step { place, source },
        }
    }
}

/// In which part of a build it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Parse,
    Build,
    Push,
}

/// A failed build as the control API tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub stage: Part,
    /// The error with its causes, outermost first.
    pub error: String,
    pub logs: Vec<String>,
    /// Trying again unchanged may help.
    pub recoverable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl BuildError {
    /// Whether it is nothing but the answer to being stopped.
    pub(crate) fn was_cancelled(&self) -> bool {
        matches!(
            self,
            Self::Cancelled(_) | Self::Pack(PackError::Diff(DiffError::Cancelled(_)))
        )
    }

    pub fn record(&self) -> Record {
        Record {
            stage: self.part(),
            error: chain(self),
            logs: self.tail().to_vec(),
            recoverable: self.is_recoverable(),
            suggestion: self.suggestion(),
        }
    }

    fn is_recoverable(&self) -> bool {
        match self {
            Self::Image { .. } | Self::Publish(_) => true,
            Self::Step {
                source: StepError::Repository { source, .. },
                ..
            } => source.blame() == Blame::Network,
            _ => self.met_full_disk(),
        }
    }

    pub fn part(&self) -> Part {
        match self {
            Self::Dockerfile { .. }
            | Self::Syntax { .. }
            | Self::Plan { .. }
            | Self::Target { .. }
            | Self::CheckOptions(_)
            | Self::Checks { .. }
            | Self::NoStage => Part::Parse,
            Self::Publish(_) => Part::Push,
            _ => Part::Build,
        }
    }

    /// A command failed, and had no room left for its files.
    pub fn met_full_disk(&self) -> bool {
        matches!(
            self,
            Self::Step {
                source: StepError::Command {
                    disk_full: true,
                    ..
                },
                ..
            }
        )
    }

    /// The last output of the command that failed.
    pub fn tail(&self) -> &[String] {
        match self {
            Self::Step {
                source: StepError::Command { tail, .. },
                ..
            } => tail,
            _ => &[],
        }
    }

    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Plan { place, .. } | Self::Image { place, .. } | Self::Step { place, .. } => {
                Some(place)
            }
            _ => None,
        }
    }

    fn suggestion(&self) -> Option<String> {
        let text = match self {
            Self::Dockerfile { .. } => "name the Dockerfile with --file",
            Self::Target { .. } => "choose one of the stages that the Dockerfile names with AS",
            Self::Syntax { .. } | Self::Plan { .. } => "correct the line and build again",
            Self::Image { .. } => "check the image's name, the network and the credentials",
            Self::TimedOut { .. } => "give the builder a longer timeout",
            Self::Publish(_) => "push again; everything that was built is cached",
            _ if self.met_full_disk() => {
                "the disk of the data folder was full when the command ended: free some space, as with \
                 `devpod image prune --all` or `devpod build-cache prune`, and build again"
            }
            Self::Step {
                source: StepError::Command { code: 127, .. },
                ..
            } => "a program is missing in the base image",
            Self::Step {
                source: StepError::Copy(CopyError::NoMatch { .. }),
                ..
            } => "check the path below the build context, and .dockerignore",
            Self::Step {
                source: StepError::NoSecret { .. },
                ..
            } => "give the secret to the build, as in --secret id=NAME,src=FILE",
            Self::Step {
                source: StepError::NoAgent { .. } | StepError::Agent { .. },
                ..
            } => "start ssh-agent, add a key with ssh-add, and build with --ssh default",
            Self::Step {
                source: StepError::Repository { source, .. },
                ..
            } => source.suggestion()?,
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// What is told of one cause, or of one instruction.
pub(crate) const MAX_SHOWN: usize = 4096;

/// The beginning of a text: a Dockerfile may have megabytes in one instruction.
pub(crate) fn shown(text: &str) -> String {
    match text.len() > MAX_SHOWN {
        true => format!("{}…", &text[..text.floor_char_boundary(MAX_SHOWN)]),
        false => text.to_owned(),
    }
}

/// An error with its causes, outermost first.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = shown(&error.to_string());
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&shown(&error.to_string()));
        source = error.source();
    }
    text
}
