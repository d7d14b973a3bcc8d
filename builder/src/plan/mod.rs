//! What to do, before anything is done: Dockerfile and request to the steps of each needed stage.
//!
//! Pure but for one thing that is handed in: the configurations of base images, because their
//! variables take part in expansion. Whatever this builder cannot do is refused here, with its
//! place, so that no step runs of a build that cannot finish. Nothing here touches a file system.

pub mod arguments;
mod budget;
mod command;
pub mod evaluate;
mod history;
pub mod mode;
pub mod outline;
pub mod path;
pub mod scope;
pub mod settings;
pub mod transfer;

use std::collections::BTreeMap;

use config::name::{NameError, Reference};
use unpacker::container::spec::Network;
use unpacker::digest::Digest;
use unpacker::image::config::ImageConfig;
use unpacker::image::read::Platform;

use crate::dockerfile::DockerfileError;
use crate::dockerfile::expand::ExpandError;
use crate::dockerfile::instruction::Invocation;
use crate::dockerfile::mount::{MountError, Sharing};
use crate::dockerfile::stages::ReferenceError;
use crate::error::Place;
use crate::git::address::{AddressError, Repository};
use crate::ignore::IgnoreError;

use mode::{Mode, ModeError};

/// The stages that the target needs, in the order in which they can be built.
#[derive(Debug)]
pub struct Plan {
    pub stages: Vec<Stage>,
    /// Instructions of all these stages, the FROMs included.
    pub steps: usize,
    /// Configurations of external base images, by the number of the stage on top.
    pub base_configs: BTreeMap<usize, ImageConfig>,
}

/// One needed stage.
#[derive(Debug)]
pub struct Stage {
    /// Its number in the Dockerfile.
    pub index: usize,
    pub base: Base,
    pub steps: Vec<Step>,
    /// The configuration at its end. Its history and layers are those of the base image; the
    /// assembly adds what the steps made.
    pub config: ImageConfig,
}

/// What a stage starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    Scratch,
    Stage(usize),
    Image(Reference, Platform),
    /// All files of a named context; the step of the FROM copies them.
    Folder(String),
}

/// Where a COPY or a mount reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The build context, behind its ignore file.
    Context,
    /// A folder that the request names.
    Named(String),
    Stage(usize),
    Image(Reference, Platform),
}

/// One instruction of a needed stage.
#[derive(Debug, Clone)]
pub struct Step {
    /// Counted over all needed stages, from one.
    pub number: usize,
    pub place: Place,
    pub action: Action,
    /// What the image's history says; `None` for FROM, which has no entry of its own.
    pub created_by: Option<String>,
}

/// What a step does to the file system.
#[derive(Debug, Clone)]
pub enum Action {
    /// Nothing: it changed the configuration.
    Configure,
    From,
    Workdir(Workdir),
    Run(Box<Run>),
    Copy(Box<Copy>),
}

impl Action {
    /// Bytes of what it keeps beside the instruction's own text. Mounts are counted as they are read.
    fn weight(&self) -> usize {
        match self {
            Self::Run(run) => run.weight(),
            Self::Copy(copy) => copy.weight(),
            Self::Workdir(Workdir { path, user }) => path.len() + user.len(),
            Self::Configure | Self::From => 0,
        }
    }
}

/// Bytes of some texts.
fn lengths<'t>(texts: impl IntoIterator<Item = &'t String>) -> usize {
    texts.into_iter().map(String::len).sum()
}

#[derive(Debug, Clone)]
pub struct Workdir {
    /// Absolute and clean.
    pub path: String,
    /// `USER` in force: who owns a folder that is made.
    pub user: String,
}

#[derive(Debug, Clone)]
pub struct Run {
    /// The command; a shell is already in front of it.
    pub invocation: Invocation,
    /// ENV and declared ARGs, `NAME=value`: all of it enters the cache key.
    pub env: Vec<String>,
    /// Predefined proxy arguments that no ARG declares: never in a key or in the history.
    pub proxies: Vec<String>,
    pub cwd: String,
    pub user: String,
    pub network: Network,
    pub mounts: Vec<RunMount>,
}

impl Run {
    fn weight(&self) -> usize {
        let command = match &self.invocation {
            Invocation::Exec(words) => lengths(words),
            Invocation::Shell(text) => text.len(),
            Invocation::Script { name, body } => name.len() + body.len(),
        };
        let settings = lengths([&self.cwd, &self.user]);
        command + settings + lengths(&self.env) + lengths(&self.proxies)
    }
}

#[derive(Debug, Clone)]
pub struct RunMount {
    /// Absolute and clean.
    pub target: String,
    pub kind: RunMountKind,
}

impl RunMount {
    /// Bytes of the texts that it keeps.
    fn weight(&self) -> usize {
        let kind = match &self.kind {
            RunMountKind::Bind { source, .. } => source.len(),
            RunMountKind::Cache { id, seed, .. } => {
                id.len() + lengths(seed.iter().map(|(_, source)| source))
            }
            RunMountKind::Secret {
                handed, variable, ..
            } => handed.id.len() + lengths(variable),
            RunMountKind::Ssh(handed) => handed.id.len(),
            RunMountKind::Tmpfs { .. } => 0,
        };
        self.target.len() + kind
    }
}

#[derive(Debug, Clone)]
pub enum RunMountKind {
    Bind {
        origin: Origin,
        source: String,
        /// Changes are possible and thrown away.
        writable: bool,
    },
    Cache {
        id: String,
        /// What a new cache begins with.
        seed: Option<(Origin, String)>,
        mode: u32,
        uid: u32,
        gid: u32,
        sharing: Sharing,
        read_only: bool,
    },
    Tmpfs {
        size: Option<u64>,
    },
    Secret {
        handed: Handed,
        /// The variable that holds it.
        variable: Option<String>,
        /// It is a file, too.
        file: bool,
    },
    /// The socket of an ssh agent.
    Ssh(Handed),
}

/// What a command gets of whoever asked for the build.
#[derive(Debug, Clone)]
pub struct Handed {
    pub id: String,
    pub required: bool,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Clone)]
pub struct Copy {
    pub origin: Origin,
    /// Clean, without a leading slash; may be patterns. `.` is the whole origin.
    pub sources: Vec<Source>,
    /// Files that are fetched.
    pub remote: Vec<RemoteSource>,
    /// Git repositories.
    pub repositories: Vec<Repository>,
    /// Name and content of files that the Dockerfile itself holds.
    pub inline: Vec<(String, String)>,
    pub dest: Dest,
    /// `user[:group]` as written; names are looked up in the image.
    pub chown: Option<String>,
    pub chmod: Option<Mode>,
    /// `--exclude`: patterns of `.dockerignore`, seen from each source.
    pub exclude: Vec<String>,
    /// ADD: local archives are unpacked.
    pub extract: bool,
    /// `--link`: the copy is made without regard to what is below it, so it fits any base.
    pub link: bool,
}

impl Copy {
    fn weight(&self) -> usize {
        let sources = self.sources.iter();
        let sources = sources.map(|source| source.path.len() + lengths(&source.below));
        let remote = self.remote.iter().map(|file| file.address.len());
        let inline = self
            .inline
            .iter()
            .map(|(name, body)| name.len() + body.len());
        let settings = self.dest.path.len() + lengths(&self.chown) + lengths(&self.exclude);
        sources.chain(remote).chain(inline).sum::<usize>() + settings
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub path: String,
    /// It has pattern characters, so matching nothing or several things is possible.
    pub pattern: bool,
    /// `--parents`: what is taken below `path`, as a pattern; the folders between are kept.
    pub below: Option<String>,
}

/// A file of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSource {
    pub address: String,
    /// Its name in a destination folder.
    pub name: String,
    pub checksum: Option<Digest>,
    /// It is unpacked, if it is an archive.
    pub unpack: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dest {
    /// Absolute and clean.
    pub path: String,
    /// It was written as a directory: it ends in `/`, or is `.`.
    pub directory: bool,
}

/// Why an instruction cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("{what} is not supported")]
    Unsupported { what: String },
    #[error("{what} is refused: {why}")]
    Refused { what: String, why: &'static str },
    #[error("{0}")]
    Invalid(String),
    #[error(
        "the variables, commands and settings of the stages come to more than {limit} bytes here"
    )]
    TooLarge { limit: usize },
    #[error("{what} has more than {limit} bytes")]
    TooLong { what: &'static str, limit: usize },
    #[error("the stage has more than {limit} variables here")]
    TooManyVariables { limit: usize },
    #[error(transparent)]
    Expand(#[from] ExpandError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Stage(#[from] ReferenceError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Mode(#[from] ModeError),
    #[error(transparent)]
    Exclude(#[from] IgnoreError),
    #[error(transparent)]
    Repository(#[from] AddressError),
    #[error("cannot use the base image's trigger {text:?}")]
    Trigger {
        text: String,
        #[source]
        source: Box<DockerfileError>,
    },
}

impl PlanError {
    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }
}
