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
    /// A damaged file is about to be moved out of the way.
    Quarantining,
    /// It is moved; neither folder is synced.
    Quarantined,
    /// The index file is about to be written; many times in a commit.
    IndexWriting,
    /// The index file is about to be synced; twice in a commit.
    IndexSyncing,
}

impl Step {
    /// All steps, for tests that walk them.
    pub const ALL: [Self; 17] = [
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
        Self::Quarantining,
        Self::Quarantined,
        Self::IndexWriting,
        Self::IndexSyncing,
    ];
}

type Hook = dyn Fn(Step) -> io::Result<()> + Send + Sync;
type Shorten = dyn Fn(usize) -> io::Result<usize> + Send + Sync;

/// Who is told of each step. The default is nobody.
#[derive(Clone, Default)]
pub struct Steps {
    hook: Option<Arc<Hook>>,
    shorten: Option<Arc<Shorten>>,
}

impl Steps {
    /// `hook` is called at every step; an error of its fails the operation at that step.
    pub fn calling(hook: impl Fn(Step) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self {
            hook: Some(Arc::new(hook)),
            shorten: None,
        }
    }

    /// `hook` is asked before each write to an unfinished file how many of so many bytes it may
    /// take, as a disk that fills takes a part; an error of its fails the write.
    #[must_use]
    pub fn shortening(
        mut self,
        hook: impl Fn(usize) -> io::Result<usize> + Send + Sync + 'static,
    ) -> Self {
        self.shorten = Some(Arc::new(hook));
        self
    }

    /// Whether anybody is told.
    pub(crate) fn are_watched(&self) -> bool {
        self.hook.is_some()
    }

    pub(crate) fn at(&self, step: Step) -> io::Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook(step))
    }

    /// How many of `length` bytes are written at once: never more than them.
    pub(crate) fn shorten(&self, length: usize) -> io::Result<usize> {
        match &self.shorten {
            Some(hook) => hook(length).map(|most| most.min(length)),
            None => Ok(length),
        }
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Steps").field(&self.hook.is_some()).finish()
    }
}
