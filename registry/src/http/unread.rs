//! What a client of HTTP/2 asked for and does not take, and whether its connection is of use at all.
//!
//! The socket of such a connection moves, because pings are answered, while its streams may stand
//! still: no write ever waits, so [`super::patient`] sees nothing. Here every answer's body, and every
//! piece of it until its last byte went to the socket, is known with the time since when it waits.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use super::server::Limits;

/// The requests of one connection, and what waits for its client.
#[derive(Debug, Clone, Default)]
pub(super) struct Streams(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// Ids grow, so the first has waited longest.
    waiting: BTreeMap<u64, Instant>,
    next: u64,
    requests: usize,
    /// When the last request ended; `None` before the first.
    rested: Option<Instant>,
}

/// What is to become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    GoOn,
    /// It has had no request for a while.
    Rest,
    /// Its client takes nothing of an answer.
    End,
}

impl Streams {
    fn with<T>(&self, act: impl FnOnce(&mut Table) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A request begins.
    pub(super) fn begin(&self) -> Busy {
        self.with(|table| table.requests += 1);
        Busy(self.clone())
    }

    pub(super) fn fate(&self, limits: Limits) -> Fate {
        self.with(|table| {
            let oldest = table.waiting.first_key_value();
            if oldest.is_some_and(|(_, since)| since.elapsed() >= limits.unread) {
                return Fate::End;
            }
            let idle = table.requests == 0 && table.waiting.is_empty();
            match table.rested {
                Some(since) if idle && since.elapsed() >= limits.headers => Fate::Rest,
                _ => Fate::GoOn,
            }
        })
    }

    fn wait(&self) -> Waiting {
        let id = self.with(|table| {
            table.next += 1;
            table.waiting.insert(table.next, Instant::now());
            table.next
        });
        Waiting(self.clone(), id)
    }
}

/// A request that is being served or answered.
#[derive(Debug)]
pub(super) struct Busy(Streams);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.with(|table| {
            table.requests -= 1;
            table.rested = Some(Instant::now());
        });
    }
}

/// Something that the client is to take.
#[derive(Debug)]
struct Waiting(Streams, u64);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.with(|table| table.waiting.remove(&self.1));
    }
}

/// Bytes that have not all gone to the socket.
struct Piece {
    bytes: Bytes,
    _waiting: Waiting,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// An answer's body. It waits for its client from one piece until it is asked for the next; while it
/// has none to give, nobody is to blame.
pub(super) struct Offered {
    body: Body,
    waiting: Option<Waiting>,
    busy: Busy,
}

impl Offered {
    pub(super) fn new(body: Body, busy: Busy) -> Self {
        let waiting = Some(busy.0.wait());
        Self {
            body,
            waiting,
            busy,
        }
    }
}

impl HttpBody for Offered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.waiting = None;
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let Poll::Ready(Some(Ok(frame))) = polled else {
            return polled;
        };
        let streams = self.busy.0.clone();
        let frame = frame.map_data(|bytes| {
            let _waiting = streams.wait();
            Bytes::from_owner(Piece { bytes, _waiting })
        });
        self.waiting = Some(streams.wait());
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
