//! The file under the index: the database while it is open, and its journal.
//!
//! A database that failed is closed, so that the next call opens it again; readers keep the last
//! sealed commit meanwhile.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Database, ReadTransaction, ReadableDatabase};

use super::{IndexError, begin_write, create, rows, schema, watched};
use crate::store::journal::{self, Disk, Folder, Journal, JournalError};
use crate::store::step::Steps;

/// redb's own cache, in bytes. Its default is a gigabyte; the kernel keeps the file's pages as well, so
/// more than this would only hold them twice. The journal's overlay holds the newest ones besides.
pub(super) const CACHE: usize = 12 << 20;

/// The open database and what readers see of it: the last sealed commit.
pub(super) struct Opened {
    // Before the database, whose close ends it.
    snapshot: RwLock<Arc<ReadTransaction>>,
    pub(super) database: Database,
}

impl Opened {
    fn new(database: Database) -> Result<Self, redb::Error> {
        let snapshot = RwLock::new(Arc::new(database.begin_read()?));
        Ok(Self { snapshot, database })
    }

    pub(super) fn snapshot(&self) -> Arc<ReadTransaction> {
        let snapshot = self.snapshot.read();
        Arc::clone(&snapshot.unwrap_or_else(PoisonError::into_inner))
    }

    /// Shows readers what is committed, which must be sealed.
    pub(super) fn refresh(&self) -> Result<(), redb::Error> {
        let fresh = Arc::new(self.database.begin_read()?);
        *self
            .snapshot
            .write()
            .unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").finish_non_exhaustive()
    }
}

/// The file, and the database while it is open.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    pub(super) path: PathBuf,
    // Before the journal, which brings home what closing the database writes.
    opened: RwLock<Option<Opened>>,
    pub(super) journal: Journal,
}

impl DatabaseFile {
    pub(super) fn open(path: &Path, content: Folder, steps: Steps) -> Result<Self, IndexError> {
        let failed = |error: redb::Error| failed(path, error);
        match std::fs::metadata(path) {
            Ok(file) if file.len() > 0 => {}
            // An empty file that somebody put there; redb makes one of its own out of it.
            Ok(_) => {
                let made = watched::open(path, CACHE, &steps);
                drop(made.map_err(|error| failed(error.into()))?);
            }
            Err(_) => create::create(path, &steps).map_err(failed)?,
        }
        let lock = journal::lock(path).map_err(failed)?;
        let lock = lock.ok_or_else(|| failed(redb::Error::DatabaseAlreadyOpen))?;
        let lost = path.with_extension("journal.lost");
        let forgive = lost.exists();
        let journal = Self::journal(path, content, steps, lock, forgive);
        let file = Self {
            path: path.to_owned(),
            opened: RwLock::new(None),
            journal: journal.map_err(|error| journal_failed(path, error))?,
        };
        if forgive {
            file.check_forgiven(&lost)?;
        }
        Ok(file)
    }

    fn journal(
        path: &Path,
        content: Folder,
        steps: Steps,
        lock: redb::backends::FileBackend,
        forgive: bool,
    ) -> Result<Journal, JournalError> {
        if forgive {
            journal::keep_aside(path)?;
        }
        let disk = Box::new(Disk::open(path, steps.clone())?);
        Journal::open(lock, disk, Box::new(content), steps, forgive)
    }

    /// A part of the journal is lost, and the index is used as it is: redb looks at all of it first,
    /// because a checkpoint may have been at work. Only then the wish is fulfilled.
    fn check_forgiven(&self, lost: &Path) -> Result<(), IndexError> {
        // redb panics at some of the nonsense that may stand there.
        let check = || self.database().and_then(|mut it| it.check_integrity());
        let whole = catch_unwind(AssertUnwindSafe(check))
            .map_err(|_| JournalError::Beyond(None))
            .and_then(|checked| checked.map_err(|error| JournalError::Beyond(Some(error.into()))))
            .map_err(|error| journal_failed(&self.path, error))?;
        tracing::warn!(whole, "index was opened without all of its journal");
        let done = || {
            self.journal.seal(Vec::new(), || true)?;
            std::fs::remove_file(lost)?;
            std::fs::File::open(journal::folder_of(lost))?.sync_all()
        };
        done().map_err(|error| self.error(error))
    }

    /// Makes the file a plain one.
    pub(super) fn close(self) -> Result<(), IndexError> {
        let Self {
            path,
            opened,
            journal,
        } = self;
        drop(opened);
        let closed = journal.close();
        closed.map_err(|error| failed(&path, error.into()))
    }

    pub(super) fn error(&self, error: impl Into<redb::Error>) -> IndexError {
        failed(&self.path, error.into())
    }

    /// Runs `work` on the open database. A file that failed is closed, so that the next call opens
    /// it again.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&Opened) -> Result<T, redb::Error>,
    ) -> Result<T, IndexError> {
        let result = loop {
            let open = self.opened.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(opened) = open.as_ref() {
                break work(opened);
            }
            drop(open);
            self.reopen()?;
        };
        result.map_err(|error| {
            if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
                // Waits for who reads; then the next one opens it.
                let mut slot = self.opened.write().unwrap_or_else(PoisonError::into_inner);
                self.journal.retire();
                *slot = None;
            }
            self.error(error)
        })
    }

    fn reopen(&self) -> Result<(), IndexError> {
        let mut slot = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            let database = self.database().map_err(|error| self.error(error))?;
            *slot = Some(Opened::new(database).map_err(|error| self.error(error))?);
        }
        Ok(())
    }

    fn database(&self) -> Result<Database, redb::DatabaseError> {
        Database::builder()
            .set_cache_size(CACHE)
            .create_with_backend(self.journal.backend())
    }

    /// The version that the file says, `None` where it has no tables of ours.
    pub(super) fn schema_version(&self) -> Result<Option<u64>, IndexError> {
        self.with(|opened| rows::schema_version(&opened.snapshot()))
    }

    /// Makes the tables of a file that has none; refuses a file of a later program. A file that is as
    /// it should be is not written to: that works on a full disk, too.
    pub(super) fn check_schema(&self) -> Result<(), IndexError> {
        let Some(found) = self.schema_version()? else {
            return self.with(|opened| {
                let transaction = begin_write(&opened.database)?;
                rows::create_tables(&transaction)?;
                transaction.commit()?;
                self.journal.seal(Vec::new(), || true)?;
                opened.refresh()
            });
        };
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

pub(super) fn failed(path: &Path, error: redb::Error) -> IndexError {
    IndexError::Database {
        path: path.to_owned(),
        source: Arc::new(error),
    }
}

fn journal_failed(path: &Path, error: JournalError) -> IndexError {
    IndexError::Journal {
        path: path.to_owned(),
        source: Arc::new(error),
    }
}
