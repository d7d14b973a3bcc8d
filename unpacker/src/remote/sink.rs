//! From async to the blocking content store: one thread per blob writes what a bounded channel
//! brings. Dropping a [`Sink`] keeps what was written where the store can go on with it later.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::download::BlobName;
use crate::arrival::Arrival;
use crate::content::{Content, ContentWriter};
use crate::digest::Digest;

/// Smaller blobs are fetched again from their first byte.
const WORTH_KEEPING: u64 = 256 * 1024;
/// Enough that network and disk overlap, little enough that a slow disk slows the network.
const PIECES_IN_FLIGHT: usize = 16;

enum Piece {
    Data(Bytes),
    Commit,
    Discard,
}

/// An uncommitted blob, fed from async code.
pub(super) struct Sink {
    pieces: mpsc::Sender<Piece>,
    writer: JoinHandle<io::Result<Option<Digest>>>,
}

impl Sink {
    /// Opens the blob's writer, and answers how many bytes it has already.
    pub(super) async fn open(
        content: Arc<dyn Content>,
        blob: BlobName,
        arrival: Option<Arc<Arrival>>,
    ) -> io::Result<(Self, u64)> {
        let (pieces, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let (tell, told) = oneshot::channel();
        let writer = tokio::task::spawn_blocking(move || {
            let begun = begin(&*content, &blob, arrival)?;
            // Nobody listens where the download was given up meanwhile.
            let _ = tell.send(begun.have);
            begun.drain(receiver)
        });
        let mut sink = Self { pieces, writer };
        match told.await {
            Ok(have) => Ok((sink, have)),
            Err(_) => Err(sink.failure().await),
        }
    }

    /// An error of the store is met at the latest by the next `write` or by `commit`.
    pub(super) async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        match self.pieces.send(Piece::Data(bytes)).await {
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

/// A blob's writer and who follows it.
struct Writing {
    writer: Box<dyn ContentWriter>,
    arrival: Option<Arc<Arrival>>,
    have: u64,
}

fn begin(
    content: &dyn Content,
    blob: &BlobName,
    arrival: Option<Arc<Arrival>>,
) -> io::Result<Writing> {
    let (mut writer, mut have) = open(content, blob)?;
    if have > blob.size {
        // Whatever that is, it is not the beginning of this blob.
        writer.discard();
        (writer, have) = open(content, blob)?;
    }
    if let Some(arrival) = &arrival {
        arrival.begin(writer.reader()?, have);
    }
    Ok(Writing {
        writer,
        arrival,
        have,
    })
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
                Piece::Data(bytes) => self.write(&bytes)?,
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
        if let Some(arrival) = &self.arrival {
            arrival.grow(self.have);
        }
        Ok(())
    }
}
