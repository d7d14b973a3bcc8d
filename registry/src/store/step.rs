//! The moments at which a crash can part a file from its row.
//!
//! The store calls its [`Steps`] at each of them. In production that is nothing; a crash test
//! hands in a function that ends the process there (see `tests/crash.rs`) or that answers the
//! error of a full disk.

use std::fmt;
use std::io;
use std::sync::Arc;

/// A moment of a write, in the order in which they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Bytes are about to be written to an unfinished file.
    Writing,
    /// All bytes are written, nothing is synced.
    Written,
    /// The data is synced under its temporary name, or about to go into the journal.
    Synced,
    /// The file of an in-process writer has its final name; its folder is not synced.
    Renamed,
    /// File and folder of an in-process writer are durable; no row names the blob.
    Durable,
    /// Rows are written, the transaction is not committed.
    Staged,
    /// The transaction is committed in memory.
    Committed,
    /// The batch stands in the journal, which is not synced.
    JournalAppended,
    /// The batch is durable; its blobs do not have their final names.
    JournalSynced,
    /// A blob of a durable batch has its final name, nobody has been told.
    Published,
    /// A checkpoint begins.
    Checkpointing,
    /// Everything of a segment is where it belongs; the segment is not free yet.
    Checkpointed,
    /// A row is gone, the file is about to be unlinked.
    Unlinking,
}

impl Step {
    /// All steps, for tests that walk them.
    pub const ALL: [Self; 13] = [
        Self::Writing,
        Self::Written,
        Self::Synced,
        Self::Renamed,
        Self::Durable,
        Self::Staged,
        Self::Committed,
        Self::JournalAppended,
        Self::JournalSynced,
        Self::Published,
        Self::Checkpointing,
        Self::Checkpointed,
        Self::Unlinking,
    ];
}

type Hook = dyn Fn(Step) -> io::Result<()> + Send + Sync;

/// Who is told of each step. The default is nobody.
#[derive(Clone, Default)]
pub struct Steps(Option<Arc<Hook>>);

impl Steps {
    /// `hook` is called at every step; an error of its fails the operation at that step.
    pub fn calling(hook: impl Fn(Step) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    pub(crate) fn at(&self, step: Step) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |hook| hook(step))
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Steps").field(&self.0.is_some()).finish()
    }
}
