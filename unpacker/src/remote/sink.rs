//! From async to the blocking content store: one thread per blob writes what a bounded channel
//! brings. Dropping a [`Sink`] discards the blob.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::content::Content;
use crate::digest::Digest;

/// Enough that network and disk overlap, little enough that a slow disk slows the network.
const PIECES_IN_FLIGHT: usize = 16;

enum Piece {
    Data(Bytes),
    Commit,
}

/// An uncommitted blob, fed from async code.
pub(super) struct Sink {
    pieces: mpsc::Sender<Piece>,
    writer: JoinHandle<io::Result<Option<Digest>>>,
}

impl Sink {
    pub(super) fn open(content: Arc<dyn Content>, expected: Digest) -> Self {
        let (pieces, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let writer = tokio::task::spawn_blocking(move || drain(&*content, &expected, receiver));
        Self { pieces, writer }
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

/// Runs on its own thread. `None` when the sink was dropped without a commit.
fn drain(
    content: &dyn Content,
    expected: &Digest,
    mut pieces: mpsc::Receiver<Piece>,
) -> io::Result<Option<Digest>> {
    let mut writer = content.writer(Some(expected))?;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Data(bytes) => writer.write_all(&bytes)?,
            Piece::Commit => return writer.commit().map(|(digest, _)| Some(digest)),
        }
    }
    Ok(None)
}
