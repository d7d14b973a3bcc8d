//! Bytes from async code to a thread that reads them, no faster than it does.
//!
//! The end is said, not inferred: a writer that goes away in the middle is an error for the reader,
//! so that nothing half-sent passes for the whole.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// Pieces on their way: enough that both sides overlap.
const IN_FLIGHT: usize = 16;

enum Piece {
    Data(Bytes),
    End,
    Failed(io::Error),
}

/// The async end.
#[derive(Debug)]
pub struct Sender(mpsc::Sender<Piece>);

/// The reader; blocks, and so belongs on a thread of its own.
#[derive(Debug)]
pub struct Reader {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

/// A sender and what reads from it.
pub fn pipe() -> (Sender, Reader) {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let reader = Reader {
        pieces: receiver,
        current: Bytes::new(),
        ended: false,
    };
    (Sender(sender), reader)
}

impl Sender {
    /// False when nobody reads any more.
    pub async fn send(&self, bytes: Bytes) -> bool {
        self.0.send(Piece::Data(bytes)).await.is_ok()
    }

    /// Says that this was all.
    pub async fn end(self) {
        // Nobody may want to know.
        let _ = self.0.send(Piece::End).await;
    }

    /// Says that no more comes, and why.
    pub async fn fail(self, error: io::Error) {
        // Nobody may want to know.
        let _ = self.0.send(Piece::Failed(error)).await;
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(bytes)) => self.current = bytes,
                Some(Piece::End) => self.ended = true,
                Some(Piece::Failed(error)) => return Err(error),
                None => {
                    let text = "the other side went away before the end";
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, text));
                }
            }
        }
        let length = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_said_end_is_an_end() {
        let (sender, mut reader) = pipe();
        let reading = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        for piece in ["ab", "", "c"] {
            assert!(sender.send(Bytes::from(piece)).await);
        }
        sender.end().await;
        assert_eq!(reading.await.unwrap().unwrap(), "abc");

        let (sender, mut reader) = pipe();
        assert!(sender.send(Bytes::from("ab")).await);
        drop(sender);
        let reading = tokio::task::spawn_blocking(move || reader.read_to_end(&mut Vec::new()));
        let error = reading.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}
