//! Blobs and index together, and the one place that orders them.
//!
//! ```text
//! <content>/oci-layout            {"imageLayoutVersion":"1.0.0"}
//! <content>/index.json            derived export of all tags
//! <content>/blobs/<alg>/<hex>     blobs and manifests, whole and synced
//! <content>/uploads/<session>     bytes received so far, and <session>.json
//! <content>/uploads/w-<random>    blobs being written in-process; swept at open
//! <content>/uploads/d-<alg>-<hex> unfinished downloads, see `store::partials`
//! <content>/uploads/p-<random>    stand-in names, see `store::pool`; swept at open
//! <content>/quarantine/<blob>-<s> damaged blobs, see `store::quarantine`
//! <content>/scrub.json            how far the scrub is, see `store::scrub`
//! <index>                         redb, see `store::index`
//! <index stem>.journal.0 and .1   what is durable but not yet in its place, see `store::journal`
//! ```
//!
//! File with row: a row becomes visible after the file it names has its final name, and both become
//! durable together, by the record of the journal that has them; or the file is durable before
//! (in-process writers). Row before unlink: a file goes only after no row names it. A digest's guard
//! (`guard`) is held shared by whoever makes its file or turns it into a row, and alone by whoever
//! unlinks it, so no row can appear between the last look and the unlink. Nobody waits for the guard
//! of another digest, so a collection holds up nobody.

pub mod blobs;
pub(crate) mod collect;
pub(crate) mod failures;
mod guard;
pub mod index;
pub mod journal;
pub mod layout;
mod partials;
mod pool;
mod pulls;
pub mod quarantine;
pub mod quota;
mod reading;
pub mod scrub;
pub mod sessions;
pub mod space;
pub mod step;
mod sweep;
mod trust;
pub mod writer;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::digest::{Algorithm, Digest};
use crate::events::journal::Notes;
use crate::store::blobs::Blobs;
use crate::store::index::usage::{self, Exceeded, Room};
use crate::store::index::{Index, IndexError, events, immutable, links, manifests, untagged};
use crate::store::journal::Folder;
use crate::store::layout::{ExportError, Exporter};
use crate::store::pulls::Pulls;
use crate::store::quota::Quotas;
use crate::store::sessions::Sessions;
use crate::store::step::Steps;
use crate::store::trust::Verified;
use crate::store::writer::{BlobWriter, CommitError, Staged};

pub use self::collect::{Collection, Turn};
pub use self::sweep::{Fault, Grace, Swept};

/// Long enough to deploy what a tag pointed at before the weekend, and to notice a mistake.
const UNTAGGED_KEEP: Duration = Duration::from_secs(7 * 24 * 3600);

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
    /// A manifest that nothing names any more rests for this long before a collection removes it;
    /// `None` keeps it for ever.
    pub untagged_keep: Option<Duration>,
    /// How long pulls are gathered before they become rows. A crash loses what was gathered.
    pub pulls_quiet: Duration,
    /// How many bytes may be kept.
    pub quotas: Quotas,
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
            untagged_keep: Some(UNTAGGED_KEEP),
            pulls_quiet: Duration::from_secs(30),
            quotas: Quotas::default(),
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
    #[error(transparent)]
    Quota(#[from] Exceeded),
    /// Nothing was done; the one that runs will end.
    #[error("a collection of garbage is running already")]
    Collecting,
}

impl StoreError {
    /// Whether there is no space left, on the device or in the file system's quota.
    pub fn is_full(&self) -> bool {
        let error = match self {
            Self::Content(error) => Some(error),
            Self::Index(error) => error.io(),
            Self::Quota(_) | Self::Collecting => None,
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
    // So do the pulls that are not recorded yet.
    pulls: Pulls,
    index: Arc<Index>,
    blobs: Blobs,
    sessions: Sessions,
    /// Held by the one collection that runs.
    collecting: Mutex<()>,
    verified: Verified,
    scrubbing: Mutex<()>,
    options: Options,
}

impl Store {
    /// Opens or makes the store and sweeps what a crash left in `uploads`.
    pub fn open(options: Options) -> Result<Self, StoreError> {
        std::fs::create_dir_all(&options.content)?;
        if let Some(folder) = options.index.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let blobs = Blobs::open(&options.content, options.steps.clone())?;
        // Before the sweep: its lock keeps a second process from sweeping the uploads of the first,
        // and what its journal needs of them is brought home by now.
        let content = Folder::new(&options.content, blobs.naming_lock());
        let index = Index::open_over(&options.index, content, options.steps.clone())?;
        let index = Arc::new(index);
        let sessions = Sessions::new(blobs.clone());
        sessions.sweep((options.clock)(), options.session_idle)?;
        blobs.expire_partials((options.clock)())?;
        blobs.start_pool()?;
        layout::mark(&options.content)?;
        let exporter = Exporter::start(Arc::clone(&index), &options.content, options.export_quiet)?;
        let pulls = Pulls::start(Arc::clone(&index), options.pulls_quiet)?;
        Ok(Self {
            exporter,
            pulls,
            index,
            blobs,
            sessions,
            collecting: Mutex::new(()),
            verified: Verified::default(),
            scrubbing: Mutex::new(()),
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

    /// Pulls, to be recorded in a moment.
    pub(crate) fn pulls(&self) -> &Pulls {
        &self.pulls
    }

    /// Shows a blob, whose file must be here, in a repository. False where the file is not here or
    /// not as long as other repositories know it.
    pub fn link(&self, repository: &str, digest: &Digest) -> Result<bool, StoreError> {
        self.link_noted(repository, digest, Notes::default())
    }

    /// As [`Store::link`], and tells of it.
    pub(crate) fn link_noted(
        &self,
        repository: &str,
        digest: &Digest,
        notes: Notes,
    ) -> Result<bool, StoreError> {
        let _guard = self.blobs.guards().shared(digest);
        self.blobs.room()?;
        let Some(size) = self.linkable(digest)? else {
            return Ok(false);
        };
        self.link_guarded(repository, digest, size, notes, None)?;
        Ok(true)
    }

    /// Makes written content a blob of the repository: its file, then its row, with no sweep in
    /// between. Answers its size. What there is no room for is refused before it costs a sync.
    pub fn commit(
        &self,
        repository: &str,
        mut writer: BlobWriter,
        expected: &Digest,
    ) -> Result<u64, CommitBlobError> {
        // Refused content must not stay under a name that nothing counts.
        writer.discard_on_drop();
        let _guard = self.blobs.guards().shared(expected);
        self.check_room(repository, Some(expected), writer.written())?;
        let blob = writer.stage(Some(expected))?;
        let size = blob.size();
        self.link_guarded(repository, expected, size, Notes::default(), Some(blob))?;
        Ok(size)
    }

    /// Somebody has asked for a blob that only its link keeps: the link counts as made now. False
    /// where it has just gone.
    pub(crate) fn refresh(&self, repository: &str, digest: &Digest) -> Result<bool, StoreError> {
        let (repository, digest, now) = (repository.to_owned(), digest.clone(), self.now());
        Ok(self
            .index
            .write(move |rows| links::rest(rows, &repository, &digest, now))?)
    }

    /// Somebody has asked for a manifest: if a collection is about to look at it, that waits for
    /// `rest` more seconds at most. Costs a write only then. False where it has just gone.
    pub(crate) fn refresh_manifest(
        &self,
        repository: &str,
        digest: &Digest,
        rest: u64,
    ) -> Result<bool, StoreError> {
        let keep = self.options.untagged_keep.map(|keep| keep.as_secs());
        // What is removed without any rest is promised to nobody.
        let Some(keep) = keep.filter(|keep| *keep > 0) else {
            return Ok(true);
        };
        let since = |left: u64| (self.now() + left.min(keep)).saturating_sub(keep);
        let (before, since) = (since(rest / 6), since(rest));
        let look = |rows: &_| untagged::is_before(rows, repository, digest, before);
        if !self.index.read(look)? {
            return Ok(true);
        }
        let (repository, digest) = (repository.to_owned(), digest.clone());
        Ok(self
            .index
            .write(move |rows| untagged::renew_told(rows, &repository, &digest, since))?)
    }

    /// Refuses what a quota has no room for now. Only the transaction that holds it is exact: this
    /// one spares a client from sending in vain.
    pub fn check_room(
        &self,
        repository: &str,
        digest: Option<&Digest>,
        bytes: u64,
    ) -> Result<(), StoreError> {
        let room = self.options.quotas.room(repository);
        if room == Room::default() {
            return Ok(());
        }
        let look = |rows: &_| usage::refusal(rows, repository, digest, bytes, room);
        match self.index.read(look)? {
            Some(exceeded) => Err(exceeded.into()),
            None => Ok(()),
        }
    }

    /// Makes the row of a file that is here, or of `blob`. The caller holds the digest's guard.
    fn link_guarded(
        &self,
        repository: &str,
        digest: &Digest,
        size: u64,
        notes: Notes,
        blob: Option<Staged>,
    ) -> Result<(), StoreError> {
        let room = self.options.quotas.room(repository);
        let (repository, digest, now) = (repository.to_owned(), digest.clone(), self.now());
        let refusal = self.index.write_with(blob, move |rows| {
            let refusal = usage::admit(rows, &repository, &digest, size, room)?;
            if refusal.is_none() {
                links::link(rows, &repository, &digest, size, now)?;
                events::append(rows, notes.rows())?;
            }
            Ok(refusal)
        })?;
        refusal.map_or(Ok(()), |exceeded| Err(exceeded.into()))
    }

    /// Stores a manifest's bytes and then its rows, unless one of the tags `held` would move.
    /// Answers what is missing, and then nothing is recorded; or which tags have moved.
    pub fn put_manifest(
        &self,
        bytes: &[u8],
        new: manifests::NewManifest,
        held: Vec<String>,
    ) -> Result<manifests::Recorded, StoreError> {
        let _guard = self.blobs.guards().shared(&new.digest);
        let size = bytes.len() as u64;
        self.check_room(&new.repository, Some(&new.digest), size)?;
        // Rows outlive a damaged file; a manifest that is accepted must be of use.
        let absent = self.absent(&new.required)?;
        if !absent.is_empty() {
            return Ok(manifests::Recorded {
                missing: absent,
                ..Default::default()
            });
        }
        let algorithm = Algorithm::of(&new.digest).unwrap_or_default();
        let blob = self.stage(bytes, algorithm, &new.digest)?;
        let tagged = !new.tags.is_empty();
        let room = self.options.quotas.room(&new.repository);
        let recorded = self.index.write_with(Some(blob), move |rows| {
            let moved = immutable::moved(rows, &new.repository, &held, &new.digest)?;
            if moved.is_some() {
                return Ok(Ok(manifests::Recorded {
                    held: moved,
                    ..Default::default()
                }));
            }
            match usage::admit(rows, &new.repository, &new.digest, size, room)? {
                Some(exceeded) => Ok(Err(exceeded)),
                None => manifests::put(rows, &new).map(Ok),
            }
        })??;
        if tagged && recorded.is_done() {
            self.exporter.changed();
        }
        Ok(recorded)
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
