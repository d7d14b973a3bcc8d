//! Blobs and index together, and the one place that orders them.
//!
//! ```text
//! <content>/oci-layout            {"imageLayoutVersion":"1.0.0"}
//! <content>/index.json            derived export of all tags
//! <content>/blobs/<alg>/<hex>     blobs and manifests, whole and synced
//! <content>/uploads/<session>     bytes received so far, and <session>.json
//! <content>/uploads/w-<random>    blobs being written in-process; swept at open
//! <content>/uploads/p-<random>    stand-in names, see `store::pool`; swept at open
//! <index>                         redb, see `store::index`
//! <index stem>.journal.0 and .1   what is durable but not yet in its place, see `store::journal`
//! ```
//!
//! File with row: a row becomes visible after the file it names has its final name, and both become
//! durable together, by the record of the journal that has them; or the file is durable before
//! (in-process writers). Row before unlink: a file goes only after no row names it. [`Store::guard`] is held
//! shared by whoever turns an existing file into a row, and alone by whoever unlinks, so no row can
//! appear between the last look and the unlink.

pub mod blobs;
pub mod index;
pub mod journal;
pub mod layout;
mod pool;
pub mod sessions;
pub mod step;
mod sweep;
pub mod writer;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::digest::{Algorithm, Digest};
use crate::store::blobs::Blobs;
use crate::store::index::{Index, IndexError, links, manifests};
use crate::store::layout::{ExportError, Exporter};
use crate::store::sessions::Sessions;
use crate::store::step::Steps;
use crate::store::writer::{BlobWriter, CommitError, Staged};

pub use self::sweep::{Fault, Grace, Swept};

/// Where a store lives and how it behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// The OCI layout folder. Other writers of blobs may share it through [`Store::blobs`] only.
    pub content: PathBuf,
    /// The redb file.
    pub index: PathBuf,
    /// An upload session that received nothing for this long is gone at the next sweep.
    pub session_idle: Duration,
    /// How long tags must rest before `index.json` is written.
    pub export_quiet: Duration,
    /// Told of each step of a write; for crash tests.
    pub steps: Steps,
    /// What time it is.
    pub clock: fn() -> SystemTime,
}

impl Options {
    /// The folder plan of the daemon: `<data>/content` and `<data>/registry.redb`.
    pub fn below(data: &std::path::Path) -> Self {
        Self {
            content: data.join("content"),
            index: data.join("registry.redb"),
            session_idle: Duration::from_secs(24 * 3600),
            export_quiet: Duration::from_secs(1),
            steps: Steps::default(),
            clock: SystemTime::now,
        }
    }
}

/// Why a store did not do what it should. The cause says whether the disk is full.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("content folder failed")]
    Content(#[from] io::Error),
    #[error("index failed")]
    Index(#[from] IndexError),
}

impl StoreError {
    /// Whether there is no space left, on the device or in the quota.
    pub fn is_full(&self) -> bool {
        let error = match self {
            Self::Content(error) => Some(error),
            Self::Index(error) => error.io(),
        };
        error.is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        })
    }
}

/// Why content did not become a blob of a repository.
#[derive(Debug, thiserror::Error)]
pub enum CommitBlobError {
    #[error("content has digest {actual}, not {expected}")]
    Digest { expected: Digest, actual: Digest },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<CommitError> for CommitBlobError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Digest { expected, actual } => Self::Digest { expected, actual },
            CommitError::Io(error) => Self::Store(error.into()),
        }
    }
}

/// An open store. It is the only owner of its files; a second open of the same index fails.
#[derive(Debug)]
pub struct Store {
    // The exporter goes first: it writes the last export with the index still open.
    exporter: Exporter,
    index: Arc<Index>,
    blobs: Blobs,
    sessions: Sessions,
    guard: RwLock<()>,
    options: Options,
}

impl Store {
    /// Opens or makes the store and sweeps what a crash left in `uploads`.
    pub fn open(options: Options) -> Result<Self, StoreError> {
        std::fs::create_dir_all(&options.content)?;
        if let Some(folder) = options.index.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // The index first: its lock keeps a second process from sweeping the uploads of the first.
        let index = Arc::new(Index::open_over(
            &options.index,
            &options.content,
            options.steps.clone(),
        )?);
        let blobs = Blobs::open(&options.content, options.steps.clone())?;
        let sessions = Sessions::new(blobs.clone());
        sessions.sweep((options.clock)(), options.session_idle)?;
        blobs.start_pool()?;
        layout::mark(&options.content)?;
        let exporter = Exporter::start(Arc::clone(&index), &options.content, options.export_quiet)?;
        Ok(Self {
            exporter,
            index,
            blobs,
            sessions,
            guard: RwLock::new(()),
            options,
        })
    }

    /// The blob files, for in-process writers and readers.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// The rows.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The upload sessions on disk.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Seconds since 1970, for rows.
    pub(crate) fn now(&self) -> u64 {
        let since = (self.options.clock)().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    }

    /// Keeps the sweep from unlinking files while a row for one is being written.
    pub(crate) fn guard(&self) -> RwLockReadGuard<'_, ()> {
        self.guard.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a blob, whose file must be here, in a repository. False where the file is not here.
    pub fn link(&self, repository: &str, digest: &Digest) -> Result<bool, StoreError> {
        let _guard = self.guard();
        let Some((_, size)) = self.blobs.get(digest)? else {
            return Ok(false);
        };
        self.link_guarded(repository, digest, size)?;
        Ok(true)
    }

    /// Makes written content a blob of the repository: its file, then its row, with no sweep in
    /// between. Answers its size.
    pub fn commit(
        &self,
        repository: &str,
        writer: BlobWriter,
        expected: &Digest,
    ) -> Result<u64, CommitBlobError> {
        let _guard = self.guard();
        let blob = writer.stage(Some(expected))?;
        let (repository, digest, now) = (repository.to_owned(), expected.clone(), self.now());
        let size = blob.size();
        self.index
            .write_with(blob, move |rows| {
                links::link(rows, &repository, &digest, size, now)
            })
            .map_err(StoreError::from)?;
        Ok(size)
    }

    /// The caller holds the guard.
    fn link_guarded(&self, repository: &str, digest: &Digest, size: u64) -> Result<(), StoreError> {
        let (repository, digest, now) = (repository.to_owned(), digest.clone(), self.now());
        self.index
            .write(move |rows| links::link(rows, &repository, &digest, size, now))?;
        Ok(())
    }

    /// Stores a manifest's bytes and then its rows. Answers what is missing; then nothing is
    /// recorded.
    pub fn put_manifest(
        &self,
        bytes: &[u8],
        new: manifests::NewManifest,
    ) -> Result<Vec<Digest>, StoreError> {
        let _guard = self.guard();
        let algorithm = Algorithm::of(&new.digest).unwrap_or_default();
        let blob = self.stage(bytes, algorithm, &new.digest)?;
        let tagged = !new.tags.is_empty();
        let missing = self
            .index
            .write_with(blob, move |rows| manifests::put(rows, &new))?;
        if tagged && missing.is_empty() {
            self.exporter.changed();
        }
        Ok(missing)
    }

    fn stage(&self, bytes: &[u8], algorithm: Algorithm, digest: &Digest) -> io::Result<Staged> {
        let mut writer = self.blobs.writer(algorithm)?;
        writer.write_all(bytes)?;
        Ok(writer.stage(Some(digest))?)
    }

    /// Tells the exporter that tags changed.
    pub(crate) fn tags_changed(&self) {
        self.exporter.changed();
    }

    /// Writes `index.json` now instead of a moment later.
    pub fn export(&self) -> Result<(), ExportError> {
        layout::export(&self.index, &self.options.content)
    }
}
