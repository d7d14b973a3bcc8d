//! Repositories of other registries, fetched when somebody asks for them and kept.
//!
//! ```text
//! names      which repository a request means; pure
//! upstream   what is asked of another registry; somebody else implements it
//! manifests  by tag: as young as the settings say; by digest: once and for all
//! ├─ keep      a manifest at rest, and the note where it came from
//! blobs      one download for each digest; read while it grows, believed when it is verified
//! ├─ flights   who wants which download
//! ├─ arrival   one download, its readers
//! ├─ fetch     one download, its writer: resumed where it broke, committed when it is whole
//! └─ sizes     how large a blob is, by the manifests that name it
//! memory     for a moment: what is not there, and who cannot be reached
//! evict      the images that were pulled the longest time ago go first
//! ```
//!
//! The repository `library/x` of `docker.io` is kept as `docker.io/library/x`. Only this process
//! writes such names: over HTTP they are read. What it keeps is what the registry keeps of any push:
//! blobs that are verified and durable before a row names them. Content that another repository
//! holds is shown in this one only after the upstream has said that its repository has it.

mod arrival;
mod blobs;
pub mod evict;
mod fetch;
mod flights;
mod keep;
mod manifests;
mod memory;
pub mod names;
mod sizes;
pub mod upstream;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::name::RepositoryName;
use tokio::sync::Semaphore;

pub use self::arrival::Arriving;
pub use self::blobs::Found;
use self::flights::Flights;
pub use self::manifests::Freshness;
use self::memory::{Key, Misses, Troubles, Turns};
use self::names::{Meant, Namespace, Naming};
use self::upstream::{Upstream, UpstreamError};
use crate::digest::Digest;
use crate::service::Registry;
use crate::store::StoreError;

/// Distinct manifests whose pulls are noted at most while the index cannot be written.
const MOST_USED: usize = 50_000;

/// Another registry that is mirrored here.
#[derive(Debug)]
pub struct Source {
    pub naming: Naming,
    /// A tag is asked for again when it was last checked so long ago.
    pub tags_ttl: Duration,
    pub upstream: Box<dyn Upstream>,
}

/// How a mirror behaves. The defaults are the product's.
#[derive(Clone)]
pub struct Options {
    /// Seconds since 1970.
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Blobs on their way from one registry at the same time; further ones wait.
    pub downloads: usize,
    /// Before a broken download is taken up again; doubled with every failure in a row.
    pub pause: Duration,
    /// That something does not exist is believed for so long.
    pub negative_ttl: Duration,
    /// A registry that failed is left alone for so long, where a copy can be served instead.
    pub rest: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Arc::new(|| {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                since.map_or(0, |since| since.as_secs())
            }),
            downloads: 16,
            pause: Duration::from_millis(500),
            negative_ttl: Duration::from_secs(30),
            rest: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("downloads", &self.downloads)
            .finish_non_exhaustive()
    }
}

/// Why something of another registry cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MirrorError {
    #[error("{what} does not exist on {host}")]
    Unknown { host: String, what: String },
    #[error("nothing is known of the registry {host} here")]
    Namespace { host: String },
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("everybody who wanted it has gone")]
    Abandoned,
    #[error("what came cannot be kept")]
    Store(#[source] Arc<StoreError>),
}

impl From<StoreError> for MirrorError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// A repository of another registry, and its name here.
#[derive(Debug, Clone)]
pub struct Kept {
    source: Arc<Source>,
    permits: Arc<Semaphore>,
    /// As it is kept: `docker.io/library/x`.
    here: RepositoryName,
    /// As its registry calls it: `library/x`.
    there: RepositoryName,
}

impl Kept {
    fn host(&self) -> &str {
        self.source.naming.namespace.host()
    }

    fn unknown(&self, what: &dyn fmt::Display) -> MirrorError {
        MirrorError::Unknown {
            host: self.host().to_owned(),
            what: format!("{what} of {}", self.there),
        }
    }
}

/// What a request means, after a look at what is here and who asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// The repository to use in place of the one that was named.
    pub repository: Option<RepositoryName>,
    /// The parameter `ns` that decided so.
    pub namespace: Option<Namespace>,
    /// It is the default upstream's only because no repository of ours has the name.
    pub by_default: bool,
    /// It is a repository of a registry of which nothing is known here: to be refused, but only to
    /// those who might read it.
    pub unknown: bool,
}

impl Scope {
    fn renamed(repository: RepositoryName, namespace: Option<Namespace>) -> Self {
        Self {
            repository: Some(repository),
            namespace,
            ..Self::default()
        }
    }
}

/// All upstreams of a registry.
#[derive(Debug)]
pub struct Mirror {
    registry: Registry,
    /// Each with its own downloads: one that is away takes nothing from the others.
    sources: Vec<(Arc<Source>, Arc<Semaphore>)>,
    namings: Vec<Naming>,
    options: Options,
    flights: Flights,
    misses: Misses,
    troubles: Troubles,
    turns: Turns,
    /// Pulls that are not in the index yet.
    used: Mutex<HashMap<(String, Digest), u64>>,
}

impl Mirror {
    /// A mirror of nothing: the registry as it is.
    pub fn none(registry: Registry) -> Self {
        Self::new(registry, Vec::new(), Options::default())
    }

    pub fn new(registry: Registry, sources: Vec<Source>, options: Options) -> Self {
        let permits = options.downloads.max(1);
        let own = |source| (Arc::new(source), Arc::new(Semaphore::new(permits)));
        Self {
            registry,
            namings: sources.iter().map(|source| source.naming.clone()).collect(),
            sources: sources.into_iter().map(own).collect(),
            flights: Flights::default(),
            misses: Misses::default(),
            troubles: Troubles::default(),
            turns: Turns::default(),
            used: Mutex::default(),
            options,
        }
    }

    /// Whether nothing is mirrored.
    pub fn is_none(&self) -> bool {
        self.sources.is_empty()
    }

    /// The other registry's repository that `repository` is kept for, if it is mirrored.
    pub fn kept(&self, repository: &RepositoryName) -> Option<Kept> {
        self.sources.iter().find_map(|(source, permits)| {
            let there = source.naming.namespace.original(repository)?;
            Some(Kept {
                source: Arc::clone(source),
                permits: Arc::clone(permits),
                here: repository.clone(),
                there,
            })
        })
    }

    /// The names that a client's name for a repository can stand for here, without a look at what is
    /// here; with the parameter `ns`, of which a token's scope tells nothing, that is any upstream's.
    pub fn meanings(&self, repository: &RepositoryName, read: bool) -> Vec<RepositoryName> {
        let meant = match names::meant(&self.namings, repository, None, read) {
            Meant::Kept { repository, .. } | Meant::KeptUnlessOurs { repository } => {
                Some(repository)
            }
            _ => None,
        };
        let namings = self.namings.iter();
        let by_parameter = namings.filter_map(|naming| naming.namespace.keep(repository));
        meant.into_iter().chain(by_parameter).collect()
    }

    /// The names that a refusal may tell to whoever asks for `repository`, the usual one first:
    /// they depend on names only, never on what is here. `meant` is whether a token must name what is
    /// meant, where the default upstream may be; other tokens need the name that was used.
    pub fn told(
        &self,
        repository: &RepositoryName,
        namespace: Option<Namespace>,
        read: bool,
        meant: bool,
    ) -> Vec<RepositoryName> {
        match names::meant(&self.namings, repository, namespace, read) {
            Meant::Kept { repository, .. } => vec![repository],
            Meant::KeptUnlessOurs { .. } if !meant => vec![repository.clone()],
            Meant::KeptUnlessOurs { repository: kept }
            | Meant::KeptIfHere {
                repository: kept, ..
            } => vec![repository.clone(), kept],
            _ => vec![repository.clone()],
        }
    }

    /// Which repository a request means. `read` is whether it changes nothing; `shows` is whether
    /// the caller may read a repository. One that the caller may not read decides nothing, so that
    /// the answer does not tell whether it is here. Blocking.
    pub fn scope(
        &self,
        repository: &RepositoryName,
        namespace: Option<Namespace>,
        read: bool,
        shows: impl Fn(&RepositoryName) -> bool,
    ) -> Result<Scope, MirrorError> {
        match names::meant(&self.namings, repository, namespace, read) {
            Meant::Itself => Ok(Scope::default()),
            Meant::Kept {
                repository,
                namespace,
            } => Ok(Scope::renamed(repository, namespace)),
            Meant::KeptUnlessOurs { repository: kept } => {
                match shows(repository) && self.has(repository)? {
                    true => Ok(Scope::default()),
                    false => Ok(Scope {
                        by_default: true,
                        ..Scope::renamed(kept, None)
                    }),
                }
            }
            Meant::KeptIfHere {
                repository,
                namespace,
            } => match shows(&repository) && self.has(&repository)? {
                true => Ok(Scope::renamed(repository, Some(namespace))),
                // Without any upstream the parameter decides nothing, as it always was.
                false if self.is_none() => Ok(Scope::default()),
                false => Ok(Scope {
                    unknown: true,
                    ..Scope::renamed(repository, Some(namespace))
                }),
            },
            Meant::Nothing { .. } if self.is_none() => Ok(Scope::default()),
            Meant::Nothing { namespace } => Err(nobody(&namespace)),
        }
    }

    fn has(&self, repository: &RepositoryName) -> Result<bool, StoreError> {
        let index = self.registry.store().index();
        Ok(index.read(|rows| crate::store::index::has_repository(rows, repository.as_str()))?)
    }

    /// What its registry said a moment ago that it does not have.
    fn refuse_missing(&self, kept: &Kept, key: &Key) -> Result<(), MirrorError> {
        match self.misses.knows(key, self.now()) {
            true => Err(kept.unknown(&key.1)),
            false => Ok(()),
        }
    }

    fn now(&self) -> u64 {
        (self.options.clock)()
    }

    /// Runs `work` on a blocking thread.
    async fn blocking<T, E>(
        &self,
        work: impl FnOnce(&Registry) -> Result<T, E> + Send + 'static,
    ) -> Result<T, MirrorError>
    where
        T: Send + 'static,
        E: Into<MirrorError> + Send + 'static,
    {
        let registry = self.registry.clone();
        match tokio::task::spawn_blocking(move || work(&registry)).await {
            Ok(result) => result.map_err(Into::into),
            Err(error) => Err(StoreError::from(std::io::Error::other(error)).into()),
        }
    }

    /// Notes a pull; it reaches the index with the next [`Mirror::flush`].
    fn note_used(&self, repository: &RepositoryName, digest: &Digest) {
        let key = (repository.to_string(), digest.clone());
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() < MOST_USED || used.contains_key(&key) {
            used.insert(key, self.now());
        }
    }

    /// Writes the times of the last pulls into the index. Blocking. They are forgotten here once
    /// they are there, so that an eviction sees them in one of the two at any moment.
    pub fn flush(&self) -> Result<(), StoreError> {
        let used = || self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = used().clone();
        if noted.is_empty() {
            return Ok(());
        }
        let pulls: Vec<_> = noted
            .iter()
            .map(|((repository, digest), at)| (repository.clone(), digest.clone(), *at))
            .collect();
        let index = self.registry.store().index();
        index.write(move |rows| crate::store::index::mirrored::note_used(rows, &pulls))?;
        used().retain(|key, at| noted.get(key) != Some(at));
        Ok(())
    }
}

pub(crate) fn nobody(namespace: &Namespace) -> MirrorError {
    MirrorError::Namespace {
        host: namespace.to_string(),
    }
}
