//! Threads between a compressed blob and the files: decompress, hash and write overlap.
//!
//! Without hardware SHA the hash costs as much as inflating, and both cost more than the file
//! system. Chunks are shared, not copied, and their memory is used again; the queues are short, so
//! memory stays small.

use std::io::{self, BufRead, Read};
use std::ops::Deref;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use crate::digest::{Digest, Hasher};

/// Chunks that may wait in a queue: a megabyte.
const QUEUE: usize = 8;
pub(crate) const CHUNK: usize = 128 * 1024;

// Chunks.

/// Where chunks get their memory from and give it back to: touching fresh pages costs more than
/// what is done with them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

/// Bytes that the hash and the writer share.
#[derive(Debug)]
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    pool: Pool,
}

impl Pool {
    /// Memory for [`CHUNK`] bytes, with whatever is in it.
    pub(crate) fn take(&self) -> Vec<u8> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK))
    }

    pub(crate) fn chunk(&self, bytes: Vec<u8>) -> Arc<Chunk> {
        let pool = self.clone();
        Arc::new(Chunk { bytes, pool })
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut free = (self.pool.0.lock()).unwrap_or_else(PoisonError::into_inner);
        free.push(bytes);
    }
}

// The hash.

/// A hash that is computed on a thread of its own.
#[derive(Debug)]
pub(crate) struct HashThread {
    queue: Option<SyncSender<Arc<Chunk>>>,
    thread: Option<JoinHandle<Digest>>,
}

impl HashThread {
    pub(crate) fn start(mut hasher: Hasher) -> io::Result<Self> {
        let (sender, receiver) = sync_channel::<Arc<Chunk>>(QUEUE);
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

    pub(crate) fn update(&self, chunk: Arc<Chunk>) -> io::Result<()> {
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

// A reader that is ahead.

/// What the thread that reads and decompresses hands on.
type Piece = io::Result<Arc<Chunk>>;

/// A reader whose source is drained by another thread.
#[derive(Debug)]
pub(crate) struct Ahead {
    queue: Receiver<Piece>,
    current: Option<Arc<Chunk>>,
    position: usize,
}

/// The other end of an [`Ahead`].
pub(crate) struct Feeder {
    queue: SyncSender<Piece>,
    pool: Pool,
}

/// A reader and what feeds it from another thread.
pub(crate) fn ahead() -> (Feeder, Ahead) {
    let (queue, receiver) = sync_channel(QUEUE);
    let reader = Ahead {
        queue: receiver,
        current: None,
        position: 0,
    };
    let pool = Pool::default();
    (Feeder { queue, pool }, reader)
}

impl Feeder {
    /// Copies `source` to the reader until it ends, `each` seeing every chunk first. Ends early
    /// when the reader is gone. An error of the source is the reader's, once.
    pub(crate) fn run(
        self,
        source: &mut dyn Read,
        mut each: impl FnMut(&Arc<Chunk>) -> io::Result<()>,
    ) {
        loop {
            let piece = self.fill(source).and_then(|chunk| {
                each(&chunk)?;
                Ok(chunk)
            });
            let last = piece.as_ref().map_or(true, |chunk| chunk.is_empty());
            if self.queue.send(piece).is_err() || last {
                return;
            }
        }
    }

    /// A whole chunk, or what is left.
    fn fill(&self, source: &mut dyn Read) -> Piece {
        let mut bytes = self.pool.take();
        bytes.resize(CHUNK, 0);
        let mut filled = 0;
        while filled < CHUNK {
            match source.read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(self.pool.chunk(bytes))
    }

    /// Tells the reader that there is nothing to read.
    pub(crate) fn fail(self, error: io::Error) {
        // A reader that is gone wants to know nothing.
        let _ = self.queue.send(Err(error));
    }
}

impl Ahead {
    fn rest(&self) -> &[u8] {
        let current = self.current.as_deref();
        current.map_or(&[], |chunk| &chunk[self.position..])
    }
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest().is_empty() {
            self.position = 0;
            self.current = match self.queue.recv() {
                Ok(piece) => Some(piece?),
                // The feeder is gone: the source had ended or failed before.
                Err(_) => None,
            };
        }
        Ok(self.rest())
    }

    fn consume(&mut self, amount: usize) {
        self.position += amount;
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.fill_buf()?;
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.consume(length);
        Ok(length)
    }
}
