//! The thread that brings sealed batches home, and the journal's life from open to close.

use std::io;
use std::ops::Bound::Unbounded;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::contents::Contents;
use super::medium::Medium;
use super::{Backend, Core, Entry, JournalError, Limits, recover};
use crate::store::step::Steps;

/// After a failed checkpoint (a full disk above all) the next attempt waits this long.
const RETRY: Duration = Duration::from_secs(1);

/// An open journal. Dropping it brings everything home, so that the index needs no journal.
#[derive(Debug)]
pub(crate) struct Journal {
    core: Arc<Core>,
    thread: Option<JoinHandle<()>>,
    closed: bool,
    /// Keeps every other process out until all is home; redb's own processes too.
    _lock: FileBackend,
}

impl Journal {
    /// Recovers what a crash left and starts a new journal. `lock` comes from [`lock`].
    pub(crate) fn open(
        lock: FileBackend,
        medium: Box<dyn Medium>,
        contents: Box<dyn Contents>,
        steps: Steps,
        forgive: bool,
    ) -> Result<Self, JournalError> {
        let core = recover::open(medium, contents, steps, Limits::default(), forgive)?;
        core.turns().threaded = true;
        let core = Arc::new(core);
        let runner = Arc::clone(&core);
        let thread = Builder::new()
            .name("registry-journal".to_owned())
            .spawn(move || run(&runner))?;
        Ok(Self {
            core,
            thread: Some(thread),
            closed: false,
            _lock: lock,
        })
    }

    /// redb's door to the index as it is now.
    pub(crate) fn backend(&self) -> Backend {
        Backend::new(Arc::clone(&self.core))
    }

    /// See [`Core::seal`].
    pub(crate) fn seal(&self, entries: Vec<Entry>, name: impl FnOnce() -> bool) -> io::Result<()> {
        self.core.seal(entries, name)
    }

    /// See [`Core::settle`].
    pub(crate) fn settle(&self) -> io::Result<()> {
        self.core.settle()
    }

    /// See [`Core::retire`].
    pub(crate) fn retire(&self) {
        self.core.retire();
    }

    /// See [`Core::discard`].
    pub(crate) fn discard(&self) {
        self.core.discard();
    }
}

impl Journal {
    /// Brings everything home, so that the index is a plain file; tells whether it is.
    pub(crate) fn close(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        self.closed = true;
        self.core.turns().closing = true;
        self.core.turned.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic there leaves everything in the segments, where the next open finds it.
            let _ = thread.join();
        }
        self.core.turns().threaded = false;
        self.core.close()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        if let Err(error) = self.end() {
            tracing::warn!(?error, "journal stays for the next open");
        }
    }
}

/// Locks the index at `path` against this program and every redb since version 4.4, for as long as the
/// answer lives. `None` where another process has it.
pub(crate) fn lock(path: &Path) -> Result<Option<FileBackend>, redb::Error> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).open(path)?;
    let lock = FileBackend::new(file)?;
    match lock.try_lock_range(Unbounded, Unbounded) {
        Ok(true) => Ok(Some(lock)),
        Ok(false) => Ok(None),
        // No such locks on this file system: as with redb, whoever starts two processes there is
        // on their own.
        Err(redb::BackendError::Unsupported) => Ok(Some(lock)),
        Err(error) => Err(io::Error::other(error.to_string()).into()),
    }
}

fn run(core: &Core) {
    loop {
        let Some(due) = wait(core) else {
            return;
        };
        if let Err(error) = due.and_then(|()| core.checkpoint()) {
            tracing::warn!(?error, "checkpoint failed; it is tried again");
            pause(core);
        }
    }
}

/// Waits until there is something to bring home; `None` when the journal closes.
fn wait(core: &Core) -> Option<io::Result<()>> {
    let mut turns = core.turns();
    loop {
        if turns.closing {
            return None;
        }
        if turns.frozen.is_some() {
            return Some(Ok(()));
        }
        let left = turns.since.map_or(core.limits.age, |(first, last)| {
            let quiet = core.limits.quiet.saturating_sub(last.elapsed());
            quiet.min(core.limits.age.saturating_sub(first.elapsed()))
        });
        let full = turns.end >= core.limits.turn;
        if turns.since.is_some() && (left.is_zero() || full) {
            return Some(core.turn(&mut turns));
        }
        let waited = core.turned.wait_timeout(turns, left);
        turns = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Waits a moment, but not for a closing journal, nor when somebody wants it tried again.
fn pause(core: &Core) {
    let until = Instant::now() + RETRY;
    let mut turns = core.turns();
    while !turns.closing && !std::mem::take(&mut turns.hurry) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let waited = core.turned.wait_timeout(turns, left);
        turns = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}
