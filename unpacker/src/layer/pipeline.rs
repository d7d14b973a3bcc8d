//! Threads between a compressed blob and the files: decompress, hash and write overlap.
//!
//! Without hardware SHA the hash costs as much as inflating, and both cost more than the file
//! system. Chunks are shared, not copied; the queues are short, so memory stays small.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use crate::digest::{Digest, Hasher};

/// Chunks that may wait in a queue.
const QUEUE: usize = 16;
const CHUNK: usize = 256 * 1024;

/// A hash that is computed on a thread of its own.
#[derive(Debug)]
pub(crate) struct HashThread {
    queue: Option<SyncSender<Arc<[u8]>>>,
    thread: Option<JoinHandle<Digest>>,
}

impl HashThread {
    pub(crate) fn start(mut hasher: Hasher) -> io::Result<Self> {
        let (sender, receiver) = sync_channel::<Arc<[u8]>>(QUEUE);
        let thread = Builder::new().name("layer-hash".into()).spawn(move || {
            for chunk in receiver {
                hasher.update(&chunk);
            }
            hasher.finish()
        })?;
        Ok(Self {
            queue: Some(sender),
            thread: Some(thread),
        })
    }

    pub(crate) fn update(&self, chunk: Arc<[u8]>) -> io::Result<()> {
        let sent = self.queue.as_ref().map(|queue| queue.send(chunk));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(io::Error::other("the hash thread ended early")),
        }
    }

    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        drop(self.queue.take());
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(digest)) => Ok(digest),
            _ => Err(io::Error::other("the hash thread panicked")),
        }
    }
}

/// What the thread that reads and decompresses hands on.
type Piece = io::Result<Arc<[u8]>>;

/// A reader whose source is drained by another thread.
#[derive(Debug)]
pub(crate) struct Ahead {
    queue: Receiver<Piece>,
    current: Arc<[u8]>,
    position: usize,
}

/// The other end of an [`Ahead`].
pub(crate) struct Feeder {
    queue: SyncSender<Piece>,
}

/// A reader and what feeds it from another thread.
pub(crate) fn ahead() -> (Feeder, Ahead) {
    let (sender, receiver) = sync_channel(QUEUE);
    let reader = Ahead {
        queue: receiver,
        current: Arc::new([]),
        position: 0,
    };
    (Feeder { queue: sender }, reader)
}

impl Feeder {
    /// Copies `source` to the reader until it ends, `each` seeing every chunk first. Ends early
    /// when the reader is gone. An error of the source is the reader's, once.
    pub(crate) fn run(
        self,
        source: &mut dyn Read,
        mut each: impl FnMut(&Arc<[u8]>) -> io::Result<()>,
    ) {
        loop {
            let piece = fill(source).and_then(|chunk| {
                each(&chunk)?;
                Ok(chunk)
            });
            let last = piece.as_ref().map_or(true, |chunk| chunk.is_empty());
            if self.queue.send(piece).is_err() || last {
                return;
            }
        }
    }
}

impl Feeder {
    /// Tells the reader that there is nothing to read.
    pub(crate) fn fail(self, error: io::Error) {
        // A reader that is gone wants to know nothing.
        let _ = self.queue.send(Err(error));
    }
}

/// A whole chunk, or what is left.
fn fill(source: &mut dyn Read) -> Piece {
    let mut chunk = Vec::with_capacity(CHUNK);
    source.take(CHUNK as u64).read_to_end(&mut chunk)?;
    Ok(chunk.into())
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.current.len() {
            self.current = match self.queue.recv() {
                Ok(piece) => piece?,
                // The feeder is gone: the source had ended or failed before.
                Err(_) => return Ok(0),
            };
            self.position = 0;
        }
        let rest = &self.current[self.position..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.position += length;
        Ok(length)
    }
}
