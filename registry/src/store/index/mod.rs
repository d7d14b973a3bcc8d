//! The index: a redb file of repositories, links, manifests, tags and referrers.
//!
//! Readers each have their own snapshot and wait for nobody. All writes go through one thread that
//! puts whatever is queued into one transaction, so concurrent requests share its syncs; a writer
//! returns when its rows are durable. Every transaction is two-phase with quick repair: a crash
//! needs no walk over the file, and checksums over data that others chose decide nothing.
//!
//! After an I/O error (a full disk above all) redb refuses to go on with an open file; the next
//! operation opens it again, so the registry serves as soon as there is space.

pub mod catalog;
mod commits;
mod create;
pub mod events;
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
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};

pub use self::commits::Commits;
use self::group::Group;
pub use self::schema::ManifestRow;
use crate::store::step::Steps;

/// redb's own cache, in bytes. Its default is a gigabyte; the kernel keeps the file's pages as well, so
/// more than this would only hold them twice.
const CACHE: usize = 16 * 1024 * 1024;

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
            _ => None,
        }
    }

    /// Whether the file had failed before this was asked of it.
    fn is_stale(&self) -> bool {
        matches!(self, Self::Database { source, .. } if matches!(**source, redb::Error::PreviousIo))
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
    /// Opens the file, making it where it is absent.
    pub fn open(path: &Path, steps: Steps) -> Result<Self, IndexError> {
        let file = Arc::new(DatabaseFile {
            path: path.to_owned(),
            steps: steps.clone(),
            database: RwLock::new(None),
        });
        if !path.exists() {
            create::create(path, &steps).map_err(|error| file.error(error))?;
        }
        file.reopen()?;
        file.check_schema()?;
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
        let mut read = Some(read);
        loop {
            let result = self.file.with(|database| {
                let transaction = database.begin_read()?;
                match read.take() {
                    Some(read) => read(&transaction).map(Some),
                    None => Ok(None),
                }
            });
            match result {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => return Err(IndexError::Closed),
                // A writer failed with this file; it is opened again for us.
                Err(error) if read.is_some() && error.is_stale() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs `work` in a write transaction and returns once it is durable. `work` must decide
    /// before it writes: its rows are committed whatever value it answers; an error of the
    /// database aborts everything that shared the transaction.
    pub fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, IndexError> {
        self.group.write(work)
    }
}

/// The file, and the database while it is open.
#[derive(Debug)]
struct DatabaseFile {
    path: PathBuf,
    steps: Steps,
    database: RwLock<Option<Database>>,
}

impl DatabaseFile {
    fn error(&self, error: impl Into<redb::Error>) -> IndexError {
        IndexError::Database {
            path: self.path.clone(),
            source: Arc::new(error.into()),
        }
    }

    /// Runs `work` on the open database. A file that failed is closed, so that the next call opens
    /// it again.
    fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, IndexError> {
        let result = loop {
            let open = self.database.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(database) = open.as_ref() {
                break work(database);
            }
            drop(open);
            self.reopen()?;
        };
        result.map_err(|error| {
            if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
                *self
                    .database
                    .write()
                    .unwrap_or_else(PoisonError::into_inner) = None;
            }
            self.error(error)
        })
    }

    fn reopen(&self) -> Result<(), IndexError> {
        let mut slot = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            let opened = watched::open(&self.path, CACHE, &self.steps);
            *slot = Some(opened.map_err(|error| self.error(error))?);
        }
        Ok(())
    }

    /// Makes all tables of a new file and the missing ones of an earlier program's; refuses a file
    /// of a later program.
    fn check_schema(&self) -> Result<(), IndexError> {
        let found = self.with(|database| {
            let transaction = begin_write(database)?;
            let found = rows::create_tables(&transaction)?;
            transaction.commit()?;
            Ok(found)
        })?;
        if found > schema::SCHEMA_VERSION {
            return Err(IndexError::Schema {
                path: self.path.clone(),
                found,
                known: schema::SCHEMA_VERSION,
            });
        }
        Ok(())
    }
}

/// The only door to a write transaction: durable at commit, with quick repair (and so two-phase).
#[allow(clippy::disallowed_methods)]
fn begin_write(database: &Database) -> Result<WriteTransaction, redb::Error> {
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
