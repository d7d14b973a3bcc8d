//! From async to the blocking content store: one thread per blob writes what a bounded channel
//! brings. Dropping a [`Sink`] keeps what was written where the store can go on with it later.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::download::BlobName;
use crate::arrival::Turn;
use crate::content::{Content, ContentWriter};
use crate::digest::Digest;

/// Smaller blobs are fetched again from their first byte.
const WORTH_KEEPING: u64 = 256 * 1024;
/// Enough that network and disk overlap, little enough that a slow disk slows the network.
const PIECES_IN_FLIGHT: usize = 16;
/// Of all of them: over a fast line a piece has four hundred kilobytes, and blobs come side by side.
const BYTES_IN_FLIGHT: u32 = 1024 * 1024;

enum Piece {
    /// With the room that it takes.
    Data(Bytes, OwnedSemaphorePermit),
    Commit,
    Discard,
}

/// An uncommitted blob, fed from async code.
pub(super) struct Sink {
    pieces: mpsc::Sender<Piece>,
    room: Arc<Semaphore>,
    writer: JoinHandle<io::Result<Option<Digest>>>,
}

impl Sink {
    /// Opens the blob's writer, and answers how many bytes it has already.
    pub(super) async fn open(
        content: Arc<dyn Content>,
        blob: BlobName,
        turn: Option<Turn>,
    ) -> io::Result<(Self, u64)> {
        let (pieces, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let (tell, told) = oneshot::channel();
        let writer = tokio::task::spawn_blocking(move || {
            let begun = begin(&*content, &blob, turn)?;
            // Nobody listens where the download was given up meanwhile.
            let _ = tell.send(begun.have);
            begun.drain(receiver)
        });
        let room = Arc::new(Semaphore::new(BYTES_IN_FLIGHT as usize));
        let mut sink = Self {
            pieces,
            room,
            writer,
        };
        match told.await {
            Ok(have) => Ok((sink, have)),
            Err(_) => Err(sink.failure().await),
        }
    }

    /// An error of the store is met at the latest by the next `write` or by `commit`.
    pub(super) async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        // A piece that is larger than the room takes all of it.
        let size = u32::try_from(bytes.len()).map_or(BYTES_IN_FLIGHT, |s| s.min(BYTES_IN_FLIGHT));
        let room = Arc::clone(&self.room).acquire_many_owned(size);
        // A writer that has stopped dropped what it was sent, and with that the room that it took.
        let room = room.await.map_err(io::Error::other)?;
        match self.pieces.send(Piece::Data(bytes, room)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    /// Makes the blob durable. An error of kind `InvalidData` says that the digest is wrong.
    pub(super) async fn commit(mut self) -> io::Result<Digest> {
        if self.pieces.send(Piece::Commit).await.is_err() {
            return Err(self.failure().await);
        }
        match (&mut self.writer).await {
            Ok(Ok(Some(digest))) => Ok(digest),
            Ok(Ok(None)) => Err(stopped()),
            Ok(Err(error)) => Err(error),
            Err(panic) => Err(io::Error::other(panic)),
        }
    }

    /// Gives up what was written, also by an earlier writer.
    pub(super) async fn discard(mut self) {
        // A writer that has stopped by itself has an error that was met before.
        let _ = self.pieces.send(Piece::Discard).await;
        let _ = (&mut self.writer).await;
    }

    /// Why the writer stopped listening.
    async fn failure(&mut self) -> io::Error {
        match (&mut self.writer).await {
            Ok(Err(error)) => error,
            Ok(Ok(_)) => stopped(),
            Err(panic) => io::Error::other(panic),
        }
    }
}

fn stopped() -> io::Error {
    io::Error::other("the writer stopped before its blob was complete")
}

/// A blob's writer and who follows it. The writer is dropped before the turn is over, so that the
/// next one can go on with what it leaves.
struct Writing {
    writer: Box<dyn ContentWriter>,
    turn: Option<Turn>,
    have: u64,
}

fn begin(content: &dyn Content, blob: &BlobName, turn: Option<Turn>) -> io::Result<Writing> {
    let (mut writer, mut have) = open(content, blob)?;
    if have > blob.size {
        // Whatever that is, it is not the beginning of this blob.
        writer.discard();
        (writer, have) = open(content, blob)?;
    }
    if let Some(turn) = &turn {
        turn.begin(writer.reader()?, have);
    }
    Ok(Writing { writer, turn, have })
}

fn open(content: &dyn Content, blob: &BlobName) -> io::Result<(Box<dyn ContentWriter>, u64)> {
    if blob.size < WORTH_KEEPING {
        return Ok((content.writer(Some(&blob.digest))?, 0));
    }
    content.resume(&blob.digest)
}

impl Writing {
    /// Runs on its own thread. `None` when the sink was dropped without a commit.
    fn drain(mut self, mut pieces: mpsc::Receiver<Piece>) -> io::Result<Option<Digest>> {
        while let Some(piece) = pieces.blocking_recv() {
            match piece {
                Piece::Data(bytes, _room) => self.write(&bytes)?,
                Piece::Commit => return self.writer.commit().map(|(digest, _)| Some(digest)),
                Piece::Discard => {
                    self.writer.discard();
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)?;
        self.have += bytes.len() as u64;
        if let Some(turn) = &self.turn {
            turn.grow(self.have);
        }
        Ok(())
    }
}
