//! One blob on its way: who writes it, who reads it while it grows, and who still wants it.
//!
//! Readers never get the last byte that they asked for before the whole blob is verified. So a
//! client that was sent other bytes sees its connection break, never a clean end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use config::name::RepositoryName;
use tokio::sync::{mpsc, watch};

use super::MirrorError;
use super::flights::Seat;
use crate::digest::Digest;

/// Readers take this much of the file at a time.
const PIECE: usize = 256 * 1024;
/// Pieces read ahead of a client.
const AHEAD: usize = 2;

/// How far a blob has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// Bytes of the whole, where they are known.
    pub(super) size: Option<u64>,
    /// Bytes in the file.
    pub(super) written: u64,
    /// Verified, durable and visible; or why not.
    pub(super) end: Option<Result<(), MirrorError>>,
}

impl Progress {
    /// The offset up to which a reader that stops at `end` may go.
    fn released(&self, end: u64) -> u64 {
        // Where the size is not known, any byte may be the last.
        let last = self.size.unwrap_or(self.written).min(end);
        match self.end {
            Some(Ok(())) => end.min(self.written),
            _ => self.written.min(last.saturating_sub(1)),
        }
    }

    /// Whether more than half is here.
    pub(super) fn is_mostly_here(&self) -> bool {
        self.size.is_some_and(|size| self.written > size / 2)
    }
}

/// A blob that is being fetched, shared by all who want it.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) digest: Digest,
    /// Whose registry is asked for it. Why it did not come says nothing to other repositories.
    pub(super) here: RepositoryName,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) file: OnceLock<File>,
    /// Where it will be shown.
    claims: Mutex<Claims>,
}

#[derive(Debug)]
struct Claims {
    repositories: Vec<RepositoryName>,
    closed: bool,
}

impl Arrival {
    pub(super) fn new(digest: Digest, repository: RepositoryName) -> Self {
        Self {
            digest,
            here: repository.clone(),
            progress: watch::Sender::new(Progress::default()),
            file: OnceLock::new(),
            claims: Mutex::new(Claims {
                repositories: vec![repository],
                closed: false,
            }),
        }
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it will be shown in the repository.
    pub(super) fn is_for(&self, repository: &RepositoryName) -> bool {
        self.claims().repositories.contains(repository)
    }

    /// Shows it in one more repository; false when it is too late for that.
    pub(super) fn claim(&self, repository: &RepositoryName) -> bool {
        let mut claims = self.claims();
        if claims.repositories.contains(repository) {
            return true;
        }
        if !claims.closed {
            claims.repositories.push(repository.clone());
        }
        !claims.closed
    }

    /// All repositories that it will be shown in; none comes after this.
    pub(super) fn close(&self) -> Vec<RepositoryName> {
        let mut claims = self.claims();
        claims.closed = true;
        claims.repositories.clone()
    }

    pub(super) fn end(&self, end: Result<(), MirrorError>) {
        self.progress
            .send_modify(|progress| progress.end = Some(end));
    }

    /// Waits until `ready` and answers how far it is then.
    pub(super) async fn until(&self, ready: impl FnMut(&Progress) -> bool) -> Progress {
        let mut seen = self.progress.subscribe();
        // The sender is `self`, so it is not gone.
        let now = seen.wait_for(ready).await;
        now.map(|progress| progress.clone()).unwrap_or_default()
    }
}

/// A blob that is still arriving, with one client's place among those who want it.
#[derive(Debug)]
pub struct Arriving {
    seat: Seat,
}

impl Arriving {
    pub(super) fn new(seat: Seat) -> Self {
        Self { seat }
    }

    /// Bytes of the whole blob, where the other registry says so.
    pub fn size(&self) -> Option<u64> {
        self.seat.arrival().progress.borrow().size
    }

    /// Waits until all of it is here.
    pub async fn whole(self) -> Result<(), MirrorError> {
        let now = self.seat.arrival().until(|now| now.end.is_some()).await;
        now.end.unwrap_or(Err(MirrorError::Abandoned))
    }

    /// The bytes `start..end`, as they come; `end` is `None` for all of them. An error says that
    /// the blob will not come, or is not what it should be.
    pub fn read(self, start: u64, end: Option<u64>) -> mpsc::Receiver<io::Result<Bytes>> {
        let (pieces, body) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            tokio::select! {
                () = pieces.closed() => {}
                () = pump(self.seat.arrival(), start, end.unwrap_or(u64::MAX), &pieces) => {}
            }
            drop(self.seat);
        });
        body
    }
}

async fn pump(
    arrival: &Arc<Arrival>,
    start: u64,
    end: u64,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
) {
    let mut at = start;
    while at < end {
        let now = arrival
            .until(|now| now.end.is_some() || now.released(end) > at)
            .await;
        let piece = match (now.released(end), now.end) {
            (_, Some(Err(error))) => Err(io::Error::other(error)),
            (released, _) if released > at => read(arrival, at, released).await,
            _ => return,
        };
        let count = piece.as_ref().map_or(0, Bytes::len);
        if pieces.send(piece).await.is_err() {
            return;
        }
        if count == 0 {
            return;
        }
        at += count as u64;
    }
}

/// Some bytes from `at` on, none of them at `until` or later.
async fn read(arrival: &Arc<Arrival>, at: u64, until: u64) -> io::Result<Bytes> {
    let arrival = Arc::clone(arrival);
    let work = tokio::task::spawn_blocking(move || {
        let length = usize::try_from(until - at).unwrap_or(PIECE).min(PIECE);
        let mut bytes = vec![0; length];
        let file = arrival.file.get();
        let file = file.ok_or_else(|| io::Error::other("the file is not open"))?;
        file.read_exact_at(&mut bytes, at)?;
        Ok(Bytes::from(bytes))
    });
    work.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_byte_waits_for_the_verdict() {
        let mut progress = Progress {
            size: Some(10),
            written: 10,
            end: None,
        };
        assert_eq!(progress.released(10), 9);
        assert_eq!(progress.released(5), 4);
        assert_eq!(progress.released(u64::MAX), 9);
        progress.size = None;
        assert_eq!(progress.released(u64::MAX), 9);
        assert_eq!(progress.released(5), 4);
        progress.end = Some(Ok(()));
        assert_eq!(progress.released(10), 10);
        assert_eq!(progress.released(u64::MAX), 10);
        progress.written = 3;
        assert_eq!(progress.released(10), 3);
    }
}
