//! What a build is asked for, what it is given to work with, and what comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use config::name::Reference;
use unpacker::container::launch::Launcher;
use unpacker::container::network::spec::Wiring;
use unpacker::container::resources::Resources;
use unpacker::container::spec::{Network, Surroundings};
use unpacker::content::Content;
use unpacker::digest::Digest;
use unpacker::image::config::ImageConfig;
use unpacker::image::read::Platform;
use unpacker::layer::Ownership;
use unpacker::layer::compress::{Compression, Packing};
use unpacker::progress::{Cancel, Progress};
use unpacker::snapshot::id::SnapshotId;
use unpacker::snapshot::store::Snapshots;

use crate::cache::source::{Artifact, Extent, Source};
use crate::fetch::Fetch;
use crate::images::Images;
use crate::sink::Sink;

/// Where the Dockerfile's text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerfileSource {
    /// A file of the host; a relative path is below the context.
    Path(PathBuf),
    /// Text that no file has, with the name that messages call it by.
    Text { name: String, text: Vec<u8> },
}

/// A named build context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A folder of the host, behind its own ignore file.
    Folder(PathBuf),
    Image(Reference),
}

/// Where a secret comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    File(PathBuf),
    Value(Vec<u8>),
}

impl Secret {
    /// At most so many bytes of it.
    pub(crate) fn read(&self, limit: u64) -> std::io::Result<Vec<u8>> {
        use std::io::Read;
        let mut bytes = Vec::new();
        match self {
            Self::Value(value) => bytes.clone_from(value),
            Self::File(path) => {
                std::fs::File::open(path)?
                    .take(limit)
                    .read_to_end(&mut bytes)?;
            }
        }
        Ok(bytes)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Value(_) => f.write_str("Value(..)"),
        }
    }
}

/// One build.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The folder that COPY and ADD read from.
    pub context: PathBuf,
    /// What stands for a name in `COPY --from=NAME`, `RUN --mount=from=NAME` and `FROM NAME`, in place
    /// of a stage or an image.
    pub contexts: BTreeMap<String, NamedContext>,
    pub dockerfile: DockerfileSource,
    /// The last stage to build; the Dockerfile's last one when absent.
    pub target: Option<String>,
    pub build_args: BTreeMap<String, String>,
    /// Added to the image's labels at the end.
    pub labels: BTreeMap<String, String>,
    pub platform: Platform,
    /// Takes the place of the external image that the target stage ends up on.
    pub base_image: Option<Reference>,
    /// Names of the result; the sink decides what it does without any.
    pub names: Vec<Reference>,
    /// Runs every step again; its result is still remembered.
    pub no_cache: bool,
    /// Stages, by name or number, whose steps run again.
    pub no_cache_filter: Vec<String>,
    /// Network of a RUN that does not choose one.
    pub network: Network,
    pub compression: Compression,
    /// How hard it is tried; the form's own where nothing is said.
    pub compression_level: Option<i32>,
    /// The time of everything that the build puts into the image, and the image's own
    /// (`SOURCE_DATE_EPOCH`).
    pub source_date_epoch: Option<i64>,
    /// `RUN --mount=type=secret`, by id. Never part of a layer or of a cache key.
    pub secrets: BTreeMap<String, Secret>,
    /// `RUN --mount=type=ssh`: id to the socket of an agent.
    pub ssh: BTreeMap<String, PathBuf>,
    /// For the whole build.
    pub timeout: Option<Duration>,
    /// Of each RUN.
    pub resources: Resources,
    /// Steps of different stages that run at once.
    pub parallel: NonZeroUsize,
    /// What each RUN sees beside its root: `/dev/shm`, `/etc/hosts`.
    pub surroundings: Surroundings,
    /// Of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Caches for other hosts, beside the image.
    pub cache_exports: BTreeSet<Extent>,
    /// The image itself tells of its steps.
    pub inline_cache: bool,
}

impl BuildRequest {
    /// Whether other hosts are told of the steps.
    pub(crate) fn keeps_caches(&self) -> bool {
        self.inline_cache || !self.cache_exports.is_empty()
    }

    /// How layers are packed.
    pub(crate) fn packing(&self) -> Packing {
        Packing {
            compression: self.compression,
            level: self.compression_level,
        }
    }

    /// The defaults of `docker build CONTEXT`.
    pub fn new(context: &Path) -> Self {
        Self {
            context: context.to_owned(),
            contexts: BTreeMap::new(),
            dockerfile: DockerfileSource::Path(PathBuf::from("Dockerfile")),
            target: None,
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            platform: Platform::host(),
            base_image: None,
            names: Vec::new(),
            no_cache: false,
            no_cache_filter: Vec::new(),
            network: Network::Host,
            // docker 20.10, which many hosts still run, cannot read zstd.
            compression: Compression::Gzip,
            compression_level: None,
            source_date_epoch: None,
            secrets: BTreeMap::new(),
            ssh: BTreeMap::new(),
            timeout: None,
            resources: Resources::default(),
            parallel: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            surroundings: Surroundings::default(),
            annotations: BTreeMap::new(),
            cache_exports: BTreeSet::new(),
            inline_cache: false,
        }
    }
}

/// What every build of a daemon shares.
#[derive(Clone, Copy)]
pub struct Env<'a> {
    pub snapshots: &'a Snapshots,
    pub content: &'a dyn Content,
    pub images: &'a dyn Images,
    /// For ADD of addresses.
    pub fetch: &'a dyn Fetch,
    pub sink: &'a dyn Sink,
    /// Where results of other hosts are looked for, in this order.
    pub caches: &'a [&'a dyn Source],
    pub launcher: &'a Launcher,
    /// What goes through the private networks of RUN.
    pub wiring: &'a Wiring,
    /// `<data>/cache`.
    pub cache: &'a Path,
    pub progress: &'a dyn Progress,
    pub cancel: &'a Cancel,
    pub ownership: Ownership,
    /// The clock at the build's start.
    pub now: SystemTime,
}

impl std::fmt::Debug for Env<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env")
            .field("cache", &self.cache)
            .field("ownership", &self.ownership)
            .finish_non_exhaustive()
    }
}

/// A finished and published image.
#[derive(Debug, Clone)]
pub struct Built {
    /// Of the manifest's bytes.
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
    pub media_type: String,
    /// Of the configuration's bytes: what docker calls the image's id.
    pub config_digest: Digest,
    pub config: ImageConfig,
    /// The root file system's snapshots, lowest first.
    pub stack: Vec<SnapshotId>,
    /// Instructions of the stages that were needed.
    pub steps: usize,
    /// How many of the steps with a file system result were found in the cache.
    pub cached: usize,
    /// What `cache_exports` asked for.
    pub caches: Vec<(Extent, Artifact)>,
}
