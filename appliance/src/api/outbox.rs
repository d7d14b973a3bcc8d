//! The bounded queue between a long verb's work and its caller, and the progress that fills it.
//!
//! A caller that reads slowly slows the work down: output and lines wait for room. What the async
//! remote client reports never waits, because its other transfers run on the same thread: states of
//! transfers are dropped, ends and warnings may use a reserve. Nothing waits for a caller that is
//! gone, and the memory held for one caller has a limit.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use unpacker::progress::{Event, Phase, Progress};

use crate::api::types::News;

/// Bytes above which output waits for the reader.
const ROOM: usize = 1 << 20;
/// More than [`ROOM`], for what may not wait and should not be lost.
const RESERVE: usize = 256 << 10;
/// Larger output travels in pieces, so that the limits above mean something.
const PIECE: usize = 64 << 10;
/// A transfer is reported at most this often: a bar need not move faster.
const TRANSFER_INTERVAL: Duration = Duration::from_millis(100);

/// What is done with a line for which there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    /// The caller of `push` waits.
    Wait,
    /// It takes from the reserve, or is lost and counted.
    Reserve,
    /// It is lost.
    Drop,
    /// It is kept all the same: the one line that ends everything.
    Keep,
}

/// Lines on their way to one reader.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    room: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Bytes>,
    /// The sum of the lines.
    bytes: usize,
    /// Warnings and ends of transfers for which not even the reserve was enough.
    lost: usize,
    /// The work has ended: nothing more will come.
    ended: bool,
    /// Nobody waits for room any more.
    hurried: bool,
    /// The reader is gone.
    closed: bool,
    reader: Option<Waker>,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: Bytes, full: Full) {
        let mut state = self.lock();
        while full == Full::Wait && state.bytes >= ROOM && !state.hurried && !state.closed {
            state = self
                .room
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let limit = match full {
            Full::Keep => usize::MAX,
            Full::Reserve => ROOM + RESERVE,
            Full::Wait | Full::Drop => ROOM,
        };
        if state.closed {
            return;
        }
        if state.bytes >= limit {
            state.lost += usize::from(full == Full::Reserve);
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// The reader's next line; `None` when the work has ended and all was read.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.lock();
        if let Some(line) = state.lines.pop_front() {
            state.bytes -= line.len();
            self.room.notify_all();
            return Poll::Ready(Some(line));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// The reader is gone: what it did not read is let go, and nobody waits for it.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.lines = VecDeque::new();
        state.bytes = 0;
        self.room.notify_all();
    }

    /// The work must end now: output for which there is no room is dropped instead of awaited.
    pub(super) fn hurry(&self) {
        self.lock().hurried = true;
        self.room.notify_all();
    }

    /// Puts the last line.
    pub(super) fn end<T: Serialize>(&self, news: &News<T>) {
        let lost = std::mem::take(&mut self.lock().lost);
        if lost > 0 {
            let text = format!("{lost} reports were left out because they were not read in time");
            self.put(&News::<()>::Event(Event::Warning { text }), Full::Keep);
        }
        self.put(news, Full::Keep);
    }

    /// Says that nothing more will come.
    fn finish(&self) {
        let mut state = self.lock();
        state.ended = true;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    fn put<T: Serialize>(&self, news: &News<T>, full: Full) {
        // All types of news can be written as JSON.
        if let Ok(mut line) = serde_json::to_vec(news) {
            line.push(b'\n');
            self.push(Bytes::from(line), full);
        }
    }
}

/// The work's side of an outbox. Dropped when the work ends, also by a panic: the reader must not
/// wait for ever.
#[derive(Debug)]
pub(super) struct Writer(pub(super) Arc<Outbox>);

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// Progress that goes to the caller.
#[derive(Debug)]
pub struct Reporter {
    outbox: Arc<Outbox>,
    last: Mutex<HashMap<(String, Phase), Instant>>,
}

impl Reporter {
    pub(super) fn new(outbox: Arc<Outbox>) -> Self {
        Self {
            outbox,
            last: Mutex::default(),
        }
    }

    fn due(&self, id: &str, phase: Phase) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let key = (id.to_owned(), phase);
        if last
            .get(&key)
            .is_some_and(|then| now.duration_since(*then) < TRANSFER_INTERVAL)
        {
            return false;
        }
        last.insert(key, now);
        true
    }
}

impl Progress for Reporter {
    fn event(&self, event: Event) {
        let full = match &event {
            Event::Transfer { id, phase, .. } if !self.due(id, *phase) => return,
            Event::Transfer { .. } => Full::Drop,
            // Async code reports these too; see the module's header.
            Event::Finished { .. } | Event::Warning { .. } => Full::Reserve,
            Event::Line { .. } | Event::Output { .. } | Event::Step(_) => Full::Wait,
        };
        match event {
            Event::Output { stderr, text, step } if text.len() > PIECE => {
                for piece in pieces(&text) {
                    let text = piece.to_owned();
                    let event = Event::Output { stderr, text, step };
                    self.outbox.put(&News::<()>::Event(event), full);
                }
            }
            event => self.outbox.put(&News::<()>::Event(event), full),
        }
    }
}

/// Cuts a text into pieces of at most [`PIECE`] bytes, between characters.
fn pieces(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (piece, rest) = text.split_at(text.floor_char_boundary(PIECE));
        text = rest;
        Some(piece).filter(|piece| !piece.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reporter() -> (Arc<Outbox>, Arc<Reporter>) {
        let outbox = Arc::new(Outbox::default());
        (Arc::clone(&outbox), Arc::new(Reporter::new(outbox)))
    }

    fn output(length: usize) -> Event {
        Event::Output {
            stderr: false,
            text: "é".repeat(length / 2),
            step: None,
        }
    }

    fn next(outbox: &Outbox) -> Option<Bytes> {
        match outbox.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(line) => line,
            Poll::Pending => None,
        }
    }

    #[test]
    fn output_waits_for_a_slow_reader_and_arrives_whole() {
        let (outbox, reporter) = reporter();
        let worker = std::thread::spawn(move || {
            (0..64).for_each(|_| reporter.event(output(101_000)));
        });
        let mut characters = 0;
        while characters < 64 * 50_500 {
            assert!(outbox.lock().bytes < ROOM + 2 * PIECE);
            let Some(line) = next(&outbox) else {
                std::thread::yield_now();
                continue;
            };
            assert!(line.len() < 2 * PIECE);
            match serde_json::from_slice(&line).unwrap() {
                News::<()>::Event(Event::Output { text, .. }) => characters += text.chars().count(),
                other => panic!("{other:?}"),
            }
        }
        worker.join().unwrap();
    }

    #[test]
    fn nobody_waits_for_a_reader_that_is_gone_nor_when_stopped() {
        for release in [Outbox::close, Outbox::hurry] {
            let (outbox, reporter) = reporter();
            let worker = std::thread::spawn(move || {
                (0..64).for_each(|_| reporter.event(output(60_000)));
            });
            while outbox.lock().bytes < ROOM {
                std::thread::yield_now();
            }
            assert!(!worker.is_finished());
            release(&outbox);
            worker.join().unwrap();
        }
    }

    #[test]
    fn reports_of_transfers_never_wait_and_stay_bounded() {
        let (outbox, reporter) = reporter();
        for n in 0..40_000_u64 {
            let id = n.to_string();
            let phase = Phase::Download;
            reporter.event(Event::Transfer {
                id,
                phase,
                done: 1,
                total: None,
            });
            reporter.event(Event::Warning {
                text: "again".to_owned(),
            });
        }
        assert!(outbox.lock().bytes <= ROOM + RESERVE + 1000);
        outbox.end(&News::Result(7));
        drop(Writer(Arc::clone(&outbox)));
        assert!(outbox.lock().ended);
        let lines: Vec<_> = std::iter::from_fn(|| next(&outbox)).collect();
        let [.., told, last] = &lines[..] else {
            panic!("{}", lines.len());
        };
        assert!(String::from_utf8_lossy(told).contains("left out"));
        assert_eq!(&last[..], b"{\"result\":7}\n");
    }
}
