//! Verbs that answer with bytes, and verbs that are given them.
//!
//! Bytes come back as the container crate's frames: what the verb writes as standard output, what it
//! tells, [`News`] as lines of JSON, as standard error. The result or the failure is the last line:
//! bytes without one are not whole. Bytes that are sent are the request's body as it comes.

use std::io::{self, Write};
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header;
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::channel;
use tokio_util::sync::CancellationToken;
use unpacker::container::stream::{Frame, MAX_PAYLOAD};
use unpacker::progress::{Cancel, Event, Progress};

use crate::api::stream::{Verb, cancel, explained};
use crate::api::types::News;
use crate::app::App;
use crate::error::Outcome;
use crate::pipe;

/// Frames that may wait for a slow reader.
const WAITING: usize = 16;

/// Runs `work` and streams what it writes and tells.
pub(super) fn framed<T, F>(app: Arc<App>, verb: Verb, work: F) -> Response
where
    T: Serialize + Send + 'static,
    F: FnOnce(&Arc<App>, &mut dyn Write, Arc<dyn Progress>, &Cancel) -> Outcome<T> + Send + 'static,
{
    let (sender, mut receiver) = channel::<Bytes>(WAITING);
    let (cancel, guard) = cancel(&app.shutdown, || {});
    tokio::task::spawn_blocking(move || {
        let teller = Arc::new(Teller(sender.clone()));
        let mut out = Out {
            sender: sender.clone(),
            chunk: Vec::with_capacity(MAX_PAYLOAD),
        };
        let outcome = verb.told(|| {
            let done = work(&app, &mut out, teller, &cancel)
                .map_err(|failure| explained(failure, app.shutdown.is_cancelled()))?;
            out.flush()?;
            Ok(done)
        });
        let last = match outcome {
            Ok(result) => News::Result(result),
            Err(failure) => News::Failure(failure),
        };
        // Whoever has gone need not know how it ended.
        let _ = sender.blocking_send(line(&last));
    });
    let frames = stream::poll_fn(move |context| {
        let _alive = &guard;
        receiver
            .poll_recv(context)
            .map(|frame| frame.map(Ok::<_, std::convert::Infallible>))
    });
    (
        [(header::CONTENT_TYPE, "application/vnd.devpod.frames")],
        Body::from_stream(frames),
    )
        .into_response()
}

/// News as frames. One that cannot be written as JSON does not exist.
fn line<T: Serialize>(news: &News<T>) -> Bytes {
    let mut text = serde_json::to_vec(news).unwrap_or_default();
    text.push(b'\n');
    Frame::Stderr(text).to_bytes().into()
}

/// What the verb writes, in whole frames.
struct Out {
    sender: Sender<Bytes>,
    chunk: Vec<u8>,
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(MAX_PAYLOAD - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..length]);
        if self.chunk.len() == MAX_PAYLOAD {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(MAX_PAYLOAD));
        let frame = Frame::Stdout(chunk).to_bytes().into();
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.sender.blocking_send(frame).map_err(gone)
    }
}

/// Progress between the bytes. What a slow reader has no room for is not told.
struct Teller(Sender<Bytes>);

impl Progress for Teller {
    fn event(&self, event: Event) {
        // Full, or nobody there: the bytes matter more.
        let _ = self.0.try_send(line(&News::<()>::Event(event)));
    }
}

/// What a request's body brings, for a thread. After the reader has gone the rest is still taken, and
/// thrown away: a caller that is told of a failure must be able to read it before it stops sending.
pub(super) fn incoming(body: Body, shutdown: &CancellationToken) -> pipe::Reader {
    let (sender, reader) = pipe::pipe();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = pump(body, sender) => {}
            () = stop.cancelled() => {}
        }
    });
    reader
}

async fn pump(mut body: Body, sender: pipe::Sender) {
    let mut heard = true;
    while let Some(frame) = body.frame().await {
        match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(bytes)) => heard = heard && sender.send(bytes).await,
            // Trailers.
            Ok(Err(_)) => {}
            Err(error) => return sender.fail(io::Error::other(error)).await,
        }
    }
    sender.end().await;
}
