//! gzip by several threads: the input is cut into pieces of one size, and each becomes a member of its own.
//!
//! A gzip file may have any number of members (RFC 1952, 2.2), and readers of layers know it since
//! eStargz. What comes out depends on the input and the level only, not on how many threads there are or
//! how fast. The last member may be short; an empty input is one empty member.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, available_parallelism};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Of a member before it is compressed. Cutting costs less than a hundredth of the size.
const PIECE: usize = 1 << 20;
/// More would wait for whoever hashes and writes.
const MAX_THREADS: usize = 8;

/// Compresses what is written to it. Only [`Members::finish`] makes the output whole.
pub(crate) struct Members<W: Write> {
    output: W,
    level: Compression,
    piece: Vec<u8>,
    threads: usize,
    /// Started by the second piece: most layers of a configuration file have one.
    queue: Option<SyncSender<Job>>,
    /// Members that are not written yet, in their order.
    coming: VecDeque<Receiver<io::Result<Vec<u8>>>>,
    begun: bool,
}

struct Job {
    piece: Vec<u8>,
    answer: SyncSender<io::Result<Vec<u8>>>,
}

impl<W: Write> Members<W> {
    pub(crate) fn new(output: W, level: Compression) -> Self {
        let threads = available_parallelism().map_or(1, usize::from);
        Self::with_threads(output, level, threads.min(MAX_THREADS))
    }

    fn with_threads(output: W, level: Compression, threads: usize) -> Self {
        Self {
            output,
            level,
            piece: Vec::new(),
            threads,
            queue: None,
            coming: VecDeque::new(),
            begun: false,
        }
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        if !self.begun {
            let only = member(&self.piece, self.level)?;
            self.output.write_all(&only)?;
            return Ok(self.output);
        }
        if !self.piece.is_empty() {
            self.hand_on()?;
        }
        drop(self.queue.take());
        while self.write_next()? {}
        Ok(self.output)
    }

    /// Gives the piece to a thread, and writes what is ready when too much is under way.
    fn hand_on(&mut self) -> io::Result<()> {
        self.begun = true;
        let queue = match &self.queue {
            Some(queue) => queue.clone(),
            None => start(self.threads, self.level)?,
        };
        let (answer, coming) = sync_channel(1);
        let piece = std::mem::take(&mut self.piece);
        let sent = queue.send(Job { piece, answer });
        sent.map_err(|_| io::Error::other("the threads that compress ended early"))?;
        self.queue = Some(queue);
        self.coming.push_back(coming);
        if self.coming.len() > self.threads + 1 {
            self.write_next()?;
        }
        Ok(())
    }

    /// False when nothing is under way.
    fn write_next(&mut self) -> io::Result<bool> {
        let Some(next) = self.coming.pop_front() else {
            return Ok(false);
        };
        let member = next.recv();
        let member =
            member.map_err(|_| io::Error::other("a thread that compresses panicked"))??;
        self.output.write_all(&member)?;
        Ok(true)
    }
}

impl<W: Write> Write for Members<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() == PIECE {
            self.hand_on()?;
        }
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// A member ends where the input says, so that nothing depends on when this is called.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Threads that end with the last sender.
fn start(threads: usize, level: Compression) -> io::Result<SyncSender<Job>> {
    let (queue, jobs) = sync_channel::<Job>(1);
    let jobs = Arc::new(Mutex::new(jobs));
    for _ in 0..threads {
        let jobs = Arc::clone(&jobs);
        let name = "layer-gzip".to_owned();
        Builder::new()
            .name(name)
            .spawn(move || work(&jobs, level))?;
    }
    Ok(queue)
}

fn work(jobs: &Mutex<Receiver<Job>>, level: Compression) {
    loop {
        // Waiting holds the lock: one waits for the queue and the others for that one.
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { piece, answer }) = next else {
            return;
        };
        // Whoever failed to write the others wants no more.
        let _ = answer.send(member(&piece, level));
    }
}

fn member(piece: &[u8], level: Compression) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(piece.len() / 2), level);
    encoder.write_all(piece)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::compress::decoder;
    use std::io::Read;

    fn text(length: usize) -> Vec<u8> {
        let mut state = 7_u64;
        let words = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            format!("{:x} ", state >> 50)
        });
        words.flat_map(String::into_bytes).take(length).collect()
    }

    fn packed(bytes: &[u8], threads: usize, step: usize) -> Vec<u8> {
        let mut members = Members::with_threads(Vec::new(), Compression::new(6), threads);
        for part in bytes.chunks(step) {
            members.write_all(part).unwrap();
        }
        members.finish().unwrap()
    }

    #[test]
    fn threads_and_sizes_of_writes_change_nothing() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE, 5 * PIECE + 77] {
            let bytes = text(length);
            let one = packed(&bytes, 1, 1 << 16);
            for (threads, step) in [(2, 4096), (5, 999_983), (8, 3 * PIECE)] {
                assert_eq!(packed(&bytes, threads, step), one, "{length} by {threads}");
            }
            let mut back = Vec::new();
            decoder(&one[..]).unwrap().read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{length}");
        }
    }

    #[test]
    fn a_member_ends_with_its_piece() {
        let bytes = text(2 * PIECE + 5);
        let whole = packed(&bytes, 3, 1 << 17);
        let first = member(&bytes[..PIECE], Compression::new(6)).unwrap();
        assert_eq!(whole[..first.len()], first[..]);
    }

    /// A disk that is full ends it, and no thread stays waiting for its answer to be taken.
    #[test]
    fn a_failed_write_is_told() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self
                    .0
                    .checked_sub(bytes.len())
                    .ok_or(io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut members = Members::with_threads(Full(PIECE), Compression::new(6), 2);
        let error = (0..64).find_map(|_| members.write_all(&text(PIECE)).err());
        assert_eq!(error.unwrap().kind(), io::ErrorKind::StorageFull);
    }
}
