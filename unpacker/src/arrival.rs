//! Blobs on their way into a content store: each is downloaded once at a time, whoever wants it, and
//! readers follow it while it grows.
//!
//! True of all of it: a reader gets the end of a blob only after its writer has committed it, which
//! checks the digest; until then the reader waits. So whoever has read to the end has read the blob.
//! A reader whose blob is begun anew gets an error: what it has read may have been something else.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use crate::content::{Blob, Content, ContentWriter, Stream};
use crate::digest::Digest;
use crate::progress::Cancel;

/// How soon a waiting reader notices that it is to stop.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// A content store together with what is on its way into it. Clones are the same.
#[derive(Clone)]
pub struct Arrivals {
    content: Arc<dyn Content>,
    table: Arc<Mutex<HashMap<Digest, Arc<Arrival>>>>,
}

/// Somebody wants a blob and sees to it that it comes. Readers wait for it while this lives.
pub struct Announced {
    arrivals: Arrivals,
    arrival: Arc<Arrival>,
    digest: Digest,
}

/// The right to bring a blob, for as long as any clone of it lives: a thread that still writes for a
/// download that was given up has one, and so never writes beside the next download, nor tells that
/// one's readers of its own bytes.
#[derive(Clone)]
pub struct Turn(Arc<Held>);

/// The fields are dropped in this order: whoever is next finds the same arrival.
struct Held {
    _guard: OwnedMutexGuard<()>,
    announced: Announced,
}

/// One blob on its way.
#[derive(Default)]
struct Arrival {
    /// Held by the one who downloads it.
    turn: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Announcements that stand.
    wanted: usize,
    /// Counts the writers that began at the first byte, or took up what another process left.
    epoch: u64,
    file: Option<File>,
    /// Bytes of the file that are written.
    have: u64,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Here,
    GivenUp,
}

impl Arrivals {
    pub fn new(content: Arc<dyn Content>) -> Self {
        Self {
            content,
            table: Arc::default(),
        }
    }

    pub fn content(&self) -> &Arc<dyn Content> {
        &self.content
    }

    /// From now on readers wait for this blob.
    pub fn announce(&self, digest: &Digest) -> Announced {
        let mut table = self.table();
        let arrival = Arc::clone(table.entry(digest.clone()).or_default());
        arrival.state().wanted += 1;
        Announced {
            arrivals: self.clone(),
            arrival,
            digest: digest.clone(),
        }
    }

    /// The store as readers see it that wait for what is announced, until `cancel`.
    pub fn waiting(&self, cancel: Cancel) -> Waiting {
        Waiting {
            arrivals: self.clone(),
            cancel,
        }
    }

    fn find(&self, digest: &Digest) -> Option<Arc<Arrival>> {
        self.table().get(digest).cloned()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Arrival>>> {
        // Every change is one insertion or removal, so a poisoned map is still whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Announced {
    /// Waits until nobody else downloads the blob, and holds others up. They may have brought it.
    pub async fn turn(&self) -> Turn {
        let guard = Arc::clone(&self.arrival.turn).lock_owned().await;
        Turn(Arc::new(Held {
            _guard: guard,
            announced: self.arrivals.announce(&self.digest),
        }))
    }

    /// Bytes that have come.
    pub fn have(&self) -> u64 {
        self.arrival.state().have
    }

    /// The blob is in the store.
    pub fn is_here(&self) {
        self.arrival.end(End::Here);
    }
}

impl Turn {
    /// A writer begins; `have` bytes of `file` are there already.
    pub(crate) fn begin(&self, file: Option<File>, have: u64) {
        self.0.announced.arrival.begin(file, have);
    }

    /// The file has `have` bytes now.
    pub(crate) fn grow(&self, have: u64) {
        self.0.announced.arrival.grow(have);
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        let mut table = self.arrivals.table();
        let mut state = self.arrival.state();
        state.wanted -= 1;
        if state.wanted > 0 {
            return;
        }
        state.end.get_or_insert(End::GivenUp);
        self.arrival.changed.notify_all();
        drop(state);
        table.remove(&self.digest);
    }
}

impl Arrival {
    fn begin(&self, file: Option<File>, have: u64) {
        let mut state = self.state();
        state.epoch += 1;
        state.file = file;
        state.have = have;
        state.end = None;
        self.changed.notify_all();
    }

    fn grow(&self, have: u64) {
        self.state().have = have;
        self.changed.notify_all();
    }

    fn end(&self, end: End) {
        self.state().end = Some(end);
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done` answers something about the state.
    fn wait<T>(
        &self,
        cancel: &Cancel,
        mut done: impl FnMut(&State) -> Option<io::Result<T>>,
    ) -> io::Result<T> {
        let mut state = self.state();
        loop {
            if cancel.is_cancelled() {
                return Err(io::Error::other("the download has ended"));
            }
            if let Some(answer) = done(&state) {
                return answer;
            }
            let waited = self.changed.wait_timeout(state, CANCEL_POLL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A reader of the growing file; `None` when the blob is in the store, or nobody brings it.
    fn follow(self: &Arc<Self>, cancel: &Cancel) -> io::Result<Option<Follow>> {
        self.wait(cancel, |state| match (&state.end, &state.file) {
            (Some(_), _) => Some(Ok(None)),
            (None, None) => None,
            (None, Some(file)) => Some(file.try_clone().map(|file| {
                Some(Follow {
                    arrival: Arc::clone(self),
                    file,
                    epoch: state.epoch,
                    at: 0,
                    cancel: cancel.clone(),
                })
            })),
        })
    }

    /// Waits for the blob's end.
    fn settle(&self, cancel: &Cancel) -> io::Result<()> {
        self.wait(cancel, |state| state.end.map(|_| Ok(())))
    }
}

/// Reads a file behind its writer.
struct Follow {
    arrival: Arc<Arrival>,
    file: File,
    epoch: u64,
    at: u64,
    cancel: Cancel,
}

impl Follow {
    /// Bytes that can be read now; zero at the blob's end.
    fn ahead(&self) -> io::Result<u64> {
        self.arrival.wait(&self.cancel, |state| {
            if state.epoch != self.epoch {
                return Some(Err(io::Error::other("the download was begun anew")));
            }
            match state.end {
                _ if state.have > self.at => Some(Ok(state.have - self.at)),
                Some(End::Here) => Some(Ok(0)),
                Some(End::GivenUp) => Some(Err(io::Error::other("the download was given up"))),
                None => None,
            }
        })
    }
}

impl Read for Follow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let ahead = self.ahead()?;
        let most = usize::try_from(ahead).map_or(buffer.len(), |ahead| ahead.min(buffer.len()));
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        if read == 0 && ahead > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        Ok(read)
    }
}

/// A store whose readers wait for what is announced: see [`Arrivals::waiting`].
#[derive(Clone)]
pub struct Waiting {
    arrivals: Arrivals,
    cancel: Cancel,
}

impl Content for Waiting {
    fn open(&self, digest: &Digest) -> io::Result<Option<Blob>> {
        let content = self.arrivals.content();
        if let Some(blob) = content.open(digest)? {
            return Ok(Some(blob));
        }
        if let Some(arrival) = self.arrivals.find(digest) {
            arrival.settle(&self.cancel)?;
        }
        // It may also have come between the two looks.
        content.open(digest)
    }

    fn writer(&self, expected: Option<&Digest>) -> io::Result<Box<dyn ContentWriter>> {
        self.arrivals.content().writer(expected)
    }

    fn stream(&self, digest: &Digest) -> io::Result<Option<Stream>> {
        let content = self.arrivals.content();
        if let Some(stream) = content.stream(digest)? {
            return Ok(Some(stream));
        }
        let arrival = self.arrivals.find(digest);
        let follow = arrival.map(|arrival| arrival.follow(&self.cancel));
        match follow.transpose()?.flatten() {
            Some(follow) => Ok(Some(Stream {
                reader: Box::new(follow),
                vouched: true,
            })),
            None => content.stream(digest),
        }
    }
}

impl fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrivals").finish_non_exhaustive()
    }
}

impl fmt::Debug for Announced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announced")
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Turn").field(&self.0.announced).finish()
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}
