//! Long verbs: work on a blocking thread whose events leave as lines of JSON.
//!
//! When the caller goes away (Ctrl-C, a closed terminal) the response body is dropped, and that
//! cancels the work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{StatusCode, header};
use serde::Serialize;
use tokio::sync::mpsc::{UnboundedSender, channel, unbounded_channel};
use unpacker::progress::{Cancel, Event, Phase, Progress};

use crate::api::types::News;
use crate::error::{Failure, Outcome};

/// A transfer is reported at most this often: a bar need not move faster, and a slow reader must
/// not make the queue grow.
const TRANSFER_INTERVAL: Duration = Duration::from_millis(100);

/// So many lines may wait for a slow reader.
const WAITING_LINES: usize = 64;

/// Runs `work` and streams its events and its end.
pub fn long<T, F>(work: F) -> Response
where
    T: Serialize + Send + 'static,
    F: FnOnce(Arc<Reporter>, Cancel) -> Outcome<T> + Send + 'static,
{
    let (sender, mut receiver) = unbounded_channel::<Bytes>();
    let cancel = Cancel::default();
    let guard = CancelOnDrop(cancel.clone());
    let reporter = Arc::new(Reporter::new(sender.clone()));
    tokio::task::spawn_blocking(move || {
        let news = match work(reporter, cancel) {
            Ok(result) => News::Result(result),
            Err(failure) => News::Failure(failure),
        };
        send(&sender, &news);
    });
    ndjson(guard, move |context| receiver.poll_recv(context))
}

/// Runs `work` and streams the lines that it tells, no faster than they are read.
pub fn lines<T, F>(work: F) -> Response
where
    T: Serialize,
    F: FnOnce(&mut dyn FnMut(T), &Cancel) -> Outcome<()> + Send + 'static,
{
    let (sender, mut receiver) = channel::<Bytes>(WAITING_LINES);
    let cancel = Cancel::default();
    let guard = CancelOnDrop(cancel.clone());
    tokio::task::spawn_blocking(move || {
        let mut each = |line: T| {
            let gone = encode(&line).is_some_and(|line| sender.blocking_send(line).is_err());
            if gone {
                cancel.cancel();
            }
        };
        if let Err(failure) = work(&mut each, &cancel) {
            tracing::warn!(%failure, "an answer ended early");
        }
    });
    ndjson(guard, move |context| receiver.poll_recv(context))
}

/// A body of lines that cancels the work behind it when it is dropped.
fn ndjson<F>(guard: CancelOnDrop, mut next: F) -> Response
where
    F: FnMut(&mut Context<'_>) -> Poll<Option<Bytes>> + Send + 'static,
{
    let lines = stream::poll_fn(move |context| {
        let _alive = &guard;
        next(context).map(|line| line.map(Ok::<_, std::convert::Infallible>))
    });
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response()
}

/// Answers a short verb.
pub fn short<T: Serialize>(outcome: Outcome<T>) -> Response {
    match outcome {
        Ok(value) => axum::Json(value).into_response(),
        Err(failure) => failed(&failure),
    }
}

/// Runs a short verb that touches the disk off the async threads, and answers it.
pub async fn blocking<T, F>(work: F) -> Response
where
    T: Serialize + Send + 'static,
    F: FnOnce() -> Outcome<T> + Send + 'static,
{
    short(off_thread(work).await)
}

/// Runs what touches the disk off the async threads.
pub async fn off_thread<T, F>(work: F) -> Outcome<T>
where
    T: Send + 'static,
    F: FnOnce() -> Outcome<T> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(Failure::internal(
            "the daemon's worker died; see `devpod daemon logs`",
        ))
    })
}

pub fn failed(failure: &Failure) -> Response {
    let status = StatusCode::from_u16(failure.kind.http_status())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, axum::Json(failure)).into_response()
}

#[derive(Debug)]
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Progress that goes to the caller.
#[derive(Debug)]
pub struct Reporter {
    sender: UnboundedSender<Bytes>,
    last: Mutex<HashMap<(String, Phase), Instant>>,
}

impl Reporter {
    fn new(sender: UnboundedSender<Bytes>) -> Self {
        Self {
            sender,
            last: Mutex::new(HashMap::new()),
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
        if let Event::Transfer { id, phase, .. } = &event
            && !self.due(id, *phase)
        {
            return;
        }
        send(&self.sender, &News::<()>::Event(event));
    }
}

fn send<T: Serialize>(sender: &UnboundedSender<Bytes>, news: &News<T>) {
    if let Some(line) = encode(news) {
        // A caller that went away has cancelled the work already.
        let _ = sender.send(line);
    }
}

fn encode<T: Serialize>(value: &T) -> Option<Bytes> {
    let mut line = serde_json::to_vec(value).ok()?;
    line.push(b'\n');
    Some(Bytes::from(line))
}
