//! Long verbs: work on a blocking thread whose events leave as lines of JSON.
//!
//! When the caller goes away (Ctrl-C, a closed terminal) the response body is dropped, and that
//! cancels the work; so does the daemon's end. How each long verb begins and ends is logged, without
//! what it was given in confidence: environments, arguments, output.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{StatusCode, header};
use serde::Serialize;
use tokio::sync::mpsc::channel;
use tokio_util::sync::{CancellationToken, DropGuard};
use unpacker::progress::Cancel;

use crate::api::outbox::{Outbox, Reporter, Writer};
use crate::api::types::News;
use crate::app::App;
use crate::error::{Failure, Kind, Outcome};

/// So many lines may wait for a slow reader.
const WAITING_LINES: usize = 64;

/// What a long verb does to what, for the log.
#[derive(Debug)]
pub struct Verb {
    name: &'static str,
    subject: String,
}

impl Verb {
    /// `subject` comes from the caller; it holds nothing secret.
    pub fn new(name: &'static str, subject: impl Into<String>) -> Self {
        let subject = subject.into();
        Self { name, subject }
    }

    /// Runs the work and logs how it begins and ends.
    pub(super) fn told<T>(&self, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        let begun = Instant::now();
        tracing::info!(verb = self.name, subject = ?self.subject, "begun");
        let outcome = work();
        self.ended(begun, &outcome);
        outcome
    }

    /// Logs the end. A failure's causes may quote output, so only its message is kept.
    fn ended<T>(&self, begun: Instant, outcome: &Outcome<T>) {
        let Self { name, subject } = self;
        let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        match outcome {
            Ok(_) => tracing::info!(verb = name, ?subject, milliseconds, "done"),
            Err(Failure { kind, message, .. }) => {
                tracing::info!(
                    verb = name,
                    ?subject,
                    milliseconds,
                    ?kind,
                    ?message,
                    "failed"
                );
            }
        }
    }
}

/// Runs `work` and streams its events and its end.
pub fn long<T, F>(app: Arc<App>, verb: Verb, work: F) -> Response
where
    T: Serialize + Send + 'static,
    F: FnOnce(&Arc<App>, Arc<Reporter>, Cancel) -> Outcome<T> + Send + 'static,
{
    let outbox = Arc::new(Outbox::default());
    let hurried = Arc::clone(&outbox);
    let (cancel, guard) = cancel(&app.shutdown, move || hurried.hurry());
    let reader = Reader {
        outbox: Arc::clone(&outbox),
        _alive: guard,
    };
    let reporter = Arc::new(Reporter::new(Arc::clone(&outbox)));
    let writer = Writer(outbox);
    tokio::task::spawn_blocking(move || {
        let outcome = verb.told(|| {
            work(&app, reporter, cancel)
                .map_err(|failure| app.images.in_memory(failure))
                .map_err(|failure| explained(failure, app.shutdown.is_cancelled()))
        });
        writer.0.end(&match outcome {
            Ok(result) => News::Result(result),
            Err(failure) => News::Failure(failure),
        });
    });
    ndjson(move |context| reader.outbox.poll(context))
}

/// Runs `work` and streams the lines that it tells, no faster than they are read.
pub fn lines<T, F>(app: &App, work: F) -> Response
where
    T: Serialize,
    F: FnOnce(&mut dyn FnMut(T), &Cancel) -> Outcome<()> + Send + 'static,
{
    let (sender, mut receiver) = channel::<Bytes>(WAITING_LINES);
    let (cancel, guard) = cancel(&app.shutdown, || {});
    tokio::task::spawn_blocking(move || {
        let mut each = |line: T| {
            let gone = encode(&line).is_some_and(|line| sender.blocking_send(line).is_err());
            if gone {
                cancel.cancel();
            }
        };
        if let Err(failure) = work(&mut each, &cancel) {
            tracing::warn!(failure = ?failure.to_string(), "an answer ended early");
        }
    });
    ndjson(move |context| {
        let _alive = &guard;
        receiver.poll_recv(context)
    })
}

fn encode<T: Serialize>(line: &T) -> Option<Bytes> {
    let mut bytes = serde_json::to_vec(line).ok()?;
    bytes.push(b'\n');
    Some(Bytes::from(bytes))
}

/// A body of lines; what `next` holds ends with it.
fn ndjson<F>(mut next: F) -> Response
where
    F: FnMut(&mut Context<'_>) -> Poll<Option<Bytes>> + Send + 'static,
{
    let lines = stream::poll_fn(move |context| {
        next(context).map(|line| line.map(Ok::<_, std::convert::Infallible>))
    });
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response()
}

/// A [`Cancel`] that is set when the guard is dropped, and when the daemon stops; `also` is run then.
pub(super) fn cancel(
    shutdown: &CancellationToken,
    also: impl FnOnce() + Send + 'static,
) -> (Cancel, DropGuard) {
    let cancel = Cancel::default();
    let token = shutdown.child_token();
    let (set, told) = (cancel.clone(), token.clone());
    tokio::spawn(async move {
        told.cancelled().await;
        set.cancel();
        also();
    });
    (cancel, token.drop_guard())
}

/// Work that broke off because the daemon stops says so, whatever it broke off with.
pub(super) fn explained(failure: Failure, stopping: bool) -> Failure {
    if !stopping {
        return failure;
    }
    let mut stopped = Failure::new(Kind::Cancelled, "the daemon was stopped");
    if failure.kind != Kind::Cancelled {
        stopped.causes.push(failure.message);
        stopped.causes.extend(failure.causes);
    }
    stopped.hint("Run the command again: it starts a new daemon.")
}

/// The body's side of an outbox. Dropped with the body: then nobody reads any more.
#[derive(Debug)]
struct Reader {
    outbox: Arc<Outbox>,
    _alive: DropGuard,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.outbox.close();
    }
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

/// A failure as an answer.
pub fn failed(failure: &Failure) -> Response {
    let status = StatusCode::from_u16(failure.kind.http_status())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, axum::Json(failure)).into_response()
}
