//! The index: a redb file of repositories, links, manifests, tags and referrers.
//!
//! Readers each have their own snapshot and wait for nobody. All writes go through one thread that
//! puts whatever is queued into one transaction, so concurrent requests share its syncs; a writer
//! returns when its rows are durable. Every transaction is two-phase with quick repair: a crash
//! needs no walk over the file, and checksums over data that others chose decide nothing. Durable
//! means: in the journal (see `store::journal`), which the file follows; readers see what is
//! durable and nothing else.
//!
//! After an I/O error (a full disk above all) redb refuses to go on with an open file; the next
//! operation opens it again, so the registry serves as soon as there is space.

pub mod catalog;
mod commits;
mod create;
pub mod events;
mod file;
mod group;
pub mod held;
pub mod holdings;
pub mod immutable;
pub mod links;
pub mod manifests;
mod migrate;
pub mod mirrored;
pub mod needs;
pub mod pulled;
pub mod release;
mod rows;
mod schema;
pub mod tags;
pub mod untagged;
pub mod usage;
mod watched;

use std::ops::Bound::{Excluded, Unbounded};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadTransaction, WriteTransaction};

pub use self::commits::Commits;
use self::file::{DatabaseFile, failed};
use self::group::Group;
pub use self::schema::ManifestRow;
use crate::store::journal::{self, Folder, JournalError, Naming};
use crate::store::step::Steps;
use crate::store::writer::Staged;

/// Why the index did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IndexError {
    #[error("index {} failed", path.display())]
    Database {
        path: PathBuf,
        source: Arc<redb::Error>,
    },
    #[error("index {} has schema version {found}; this program knows up to {known}", path.display())]
    Schema {
        path: PathBuf,
        found: u64,
        known: u64,
    },
    #[error("index {} and its journal do not open", path.display())]
    Journal {
        path: PathBuf,
        source: Arc<JournalError>,
    },
    #[error("index is closed")]
    Closed,
}

impl IndexError {
    /// The I/O error at the bottom, if it is one.
    pub fn io(&self) -> Option<&std::io::Error> {
        match self {
            Self::Database { source, .. } => match source.as_ref() {
                redb::Error::Io(error) => Some(error),
                _ => None,
            },
            Self::Journal { source, .. } => match source.as_ref() {
                JournalError::Io(error) => Some(error),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The open index. Dropping it waits for queued writes.
#[derive(Debug)]
pub struct Index {
    file: Arc<DatabaseFile>,
    group: Group,
    commits: Commits,
}

impl Index {
    /// Opens the file, making it where it is absent; its blobs are in the folder `content` beside
    /// it.
    pub fn open(path: &Path, steps: Steps) -> Result<Self, IndexError> {
        let content = journal::folder_of(path).join("content");
        Self::open_over(path, Folder::new(&content, Naming::default()), steps)
    }

    /// Opens the file, making it where it is absent, and recovers what a crash left in its journal
    /// of it and of the blobs in `content`.
    pub(super) fn open_over(
        path: &Path,
        content: Folder,
        steps: Steps,
    ) -> Result<Self, IndexError> {
        let mut file = DatabaseFile::open(path, content.clone(), steps.clone())?;
        if file.schema_version()?.is_some_and(schema::is_earlier) {
            // The journal would keep all that a migration writes in memory, twice.
            file.close()?;
            migrate::migrate(path, &steps).map_err(|error| failed(path, error))?;
            file = DatabaseFile::open(path, content, steps.clone())?;
        }
        file.check_schema()?;
        let file = Arc::new(file);
        let commits = Commits::default();
        let group = Group::start(Arc::clone(&file), steps, commits.clone())?;
        Ok(Self {
            file,
            group,
            commits,
        })
    }

    /// What its commits cost so far.
    pub fn commits(&self) -> &Commits {
        &self.commits
    }

    /// Runs `read` over one consistent snapshot.
    pub fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, IndexError> {
        self.file.with(|opened| read(&opened.snapshot()))
    }

    /// Runs `work` in a write transaction and returns once it is durable. `work` must decide
    /// before it writes: its rows are committed whatever value it answers; an error of the
    /// database aborts everything that shared the transaction.
    pub fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, IndexError> {
        self.group.write(None, work)
    }

    /// Brings home what the journal holds, and with it gives back the space of blobs that are gone.
    /// Costs time where it fails, and nothing else: it is tried again in the background.
    pub(crate) fn settle(&self) {
        if let Err(error) = self.file.journal.settle() {
            tracing::warn!(?error, "journal keeps what it holds for now");
        }
    }

    /// As [`Index::write`], for rows that name `blob`: both are durable afterwards, or neither.
    pub(crate) fn write_with<T: Send + 'static>(
        &self,
        blob: Option<Staged>,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, IndexError> {
        self.group.write(blob, work)
    }
}

/// The only door to a write transaction: durable at commit, with quick repair (and so two-phase).
#[allow(clippy::disallowed_methods)]
pub(super) fn begin_write(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    // Immediate durability is redb's default; quick repair is not.
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// The first `limit` names after `last`, and whether there are more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub more: bool,
}

impl<T> Page<T> {
    /// Takes `limit` items and looks whether another one follows.
    fn take(
        items: impl Iterator<Item = Result<T, redb::Error>>,
        limit: usize,
    ) -> Result<Self, redb::Error> {
        let mut page = Self {
            items: Vec::new(),
            more: false,
        };
        for item in items {
            let item = item?;
            if page.items.len() == limit {
                page.more = true;
                break;
            }
            page.items.push(item);
        }
        Ok(page)
    }
}

/// Repository names after `last`, in order.
pub fn repositories(
    transaction: &ReadTransaction,
    last: Option<&str>,
    limit: usize,
) -> Result<Page<String>, redb::Error> {
    let table = transaction.open_table(schema::REPOSITORIES)?;
    let from = last.map_or(Unbounded, Excluded);
    let rows = table.range::<&str>((from, Unbounded))?;
    Page::take(rows.map(|row| Ok(row?.0.value().to_owned())), limit)
}

/// Whether the repository holds anything.
pub fn has_repository(
    transaction: &ReadTransaction,
    repository: &str,
) -> Result<bool, redb::Error> {
    let table = transaction.open_table(schema::REPOSITORIES)?;
    Ok(table.get(repository)?.is_some())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::digest::{Algorithm, digest_of};
    use crate::store::step::Step;

    fn link(index: &Index, number: u64) -> Result<(), IndexError> {
        let digest = digest_of(Algorithm::Sha256, &number.to_le_bytes());
        index.write(move |rows| links::link(rows, "r", &digest, number, 0))
    }

    fn count(index: &Index) -> usize {
        index.read(links::held).unwrap().len()
    }

    #[test]
    fn concurrent_writes_share_a_commit() {
        let folder = tempfile::tempdir().unwrap();
        let commits = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&commits);
        let steps = Steps::calling(move |step| {
            if step == Step::Staged {
                seen.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        });
        let index = Index::open(&folder.path().join("i.redb"), steps).unwrap();
        std::thread::scope(|scope| {
            for number in 0..32 {
                let index = &index;
                scope.spawn(move || link(index, number).unwrap());
            }
        });
        assert_eq!(count(&index), 32);
        let commits = commits.load(Ordering::SeqCst);
        assert!(commits < 32, "each of 32 writes had its own commit");
    }

    #[test]
    fn a_failed_batch_leaves_no_row_and_the_next_one_works() {
        let folder = tempfile::tempdir().unwrap();
        let fail = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&fail);
        let steps = Steps::calling(move |step| {
            if step == Step::Staged && left.load(Ordering::SeqCst) > 0 {
                left.fetch_sub(1, Ordering::SeqCst);
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            Ok(())
        });
        let index = Index::open(&folder.path().join("i.redb"), steps).unwrap();
        link(&index, 1).unwrap();
        fail.store(1, Ordering::SeqCst);
        let error = link(&index, 2).unwrap_err();
        assert_eq!(
            error.io().map(std::io::Error::kind),
            Some(std::io::ErrorKind::StorageFull)
        );
        assert_eq!(count(&index), 1);
        link(&index, 3).unwrap();
        assert_eq!(count(&index), 2);
    }

    #[test]
    fn a_file_of_a_later_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i.redb");
        let index = Index::open(&path, Steps::default()).unwrap();
        index
            .write(|rows| {
                rows.open_table(schema::META)?
                    .insert(schema::SCHEMA_KEY, 99)?;
                Ok(())
            })
            .unwrap();
        let locked = Index::open(&path, Steps::default()).unwrap_err();
        assert!(
            matches!(locked, IndexError::Database { .. }),
            "two processes on one index"
        );
        drop(index);
        let error = Index::open(&path, Steps::default()).unwrap_err();
        assert!(matches!(error, IndexError::Schema { found: 99, .. }));
    }
}
