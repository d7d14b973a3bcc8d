//! Bodies between the network and blocking files.
//!
//! A received body is written on blocking threads while this side reads the socket ([`Feed`]); a sent
//! blob is read in large pieces. Neither is ever whole in memory. Small manifests are the exception,
//! and bounded.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse;
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};
use tokio_util::io::ReaderStream;

use super::error::ApiError;
use super::feed::Feed;
use super::pace::Pace;
use super::range::Span;
use super::sendfile::{FileBody, Outgoing};

/// Bytes that go to the writing thread at once: fewer cost a wake-up for every read of the socket.
/// One batch is being written, one waits and one is gathered: that is all the memory of an upload.
const BATCH: usize = 256 * 1024;
/// A batch that is not full waits so long for more.
const LINGER: Duration = Duration::from_millis(5);
/// tokio's default of 4 KiB costs a thread hop for every page.
const SEND_PIECE: usize = 256 * 1024;
/// A blob up to this size is answered in one piece, without a streaming reader.
const SMALL: u64 = 64 * 1024;
/// Of a body that was refused, so much is still read, so that the client gets to see the refusal.
const DRAIN: usize = 8 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Runs blocking work of the service away from the async threads.
pub(super) async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, ApiError>
where
    T: Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(ApiError::internal(&error)),
    }
}

/// Does work to its end, also when the request that waits for it is dropped because its client went
/// away: a change must not be made without its line in the audit log. A body that is still to come
/// fails then, so nothing waits for ever.
pub(super) async fn lasting<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::spawn(work).await;
    done.map_err(|error| ApiError::internal(&error))
}

/// The next piece of a body; `None` at its end.
async fn piece(body: &mut Body, pace: &mut Pace) -> Result<Option<Bytes>, ApiError> {
    loop {
        let since = Instant::now();
        let frame = timeout(pace.patience(), body.frame()).await;
        let data = match frame.map_err(|error| ApiError::broken_body(&error))? {
            None => return Ok(None),
            Some(Err(error)) => return Err(ApiError::broken_body(&error)),
            // Trailers mean nothing here.
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        pace.came(data.len(), since);
        if !data.is_empty() {
            return Ok(Some(data));
        }
    }
}

/// Writes the body into `sink` on blocking threads and gives the sink back. When either side fails,
/// the sink is dropped: that is where it keeps or discards what it has.
pub(super) async fn receive<S, E>(
    body: &mut Body,
    sink: S,
    write: fn(&mut S, &[u8]) -> Result<(), E>,
) -> Result<S, ApiError>
where
    S: Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    let mut feed = Feed::new(sink, write);
    let broken = forward(body, &mut feed).await;
    // What came before the break is written before the sink goes.
    let sink = feed.finish().await?;
    broken.map(|()| sink)
}

/// Hands a body over in batches until it ends or nobody takes them.
async fn forward<S, E>(body: &mut Body, feed: &mut Feed<S, E>) -> Result<(), ApiError>
where
    S: Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    let (mut batch, mut size) = (Vec::new(), 0);
    let mut pace = Pace::default();
    let ended = loop {
        let mut next = std::pin::pin!(piece(body, &mut pace));
        // A client that pauses must not hold back what it has sent.
        let found = match timeout(LINGER, &mut next).await {
            Ok(found) => found,
            Err(_) => {
                if !batch.is_empty() && !feed.push(std::mem::take(&mut batch)).await {
                    return Ok(());
                }
                size = 0;
                next.await
            }
        };
        match found {
            Ok(Some(piece)) => {
                size += piece.len();
                batch.push(piece);
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
        if size >= BATCH {
            size = 0;
            if !feed.push(std::mem::take(&mut batch)).await {
                return Ok(());
            }
        }
    };
    // Whoever does not take it has failed, and says so itself.
    if !batch.is_empty() {
        feed.push(batch).await;
    }
    ended
}

/// Reads a small body. `None` for one of more than `limit` bytes.
pub(super) async fn collect(body: &mut Body, limit: usize) -> Result<Option<Vec<u8>>, ApiError> {
    let mut bytes = Vec::new();
    let mut pace = Pace::default();
    while let Some(piece) = piece(body, &mut pace).await? {
        if bytes.len() + piece.len() > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Some(bytes))
}

/// Reads some more of a body that nobody wants.
pub(super) async fn drain(body: &mut Body) {
    let drained = async {
        let mut left = DRAIN;
        let mut pace = Pace::default();
        while let Ok(Some(piece)) = piece(body, &mut pace).await {
            match left.checked_sub(piece.len()) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // The answer goes out in any case.
    let _ = timeout(DRAIN_TIME, drained).await;
}

/// A part of a file, ready to be sent.
pub(super) enum Part {
    Small(Vec<u8>),
    Stream(File, Span),
}

impl Part {
    /// Blocking: reads the part when it is small.
    pub(super) fn of(mut file: File, span: Span) -> std::io::Result<Self> {
        file.seek(SeekFrom::Start(span.start))?;
        if span.length() > SMALL {
            return Ok(Self::Stream(file, span));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(span.length()).unwrap_or(0));
        file.take(span.length()).read_to_end(&mut bytes)?;
        Ok(Self::Small(bytes))
    }

    /// With `outgoing` the connection sends the file itself.
    pub(super) fn into_body(self, outgoing: Option<&Outgoing>) -> Body {
        match (self, outgoing) {
            (Self::Small(bytes), _) => Body::from(bytes),
            (Self::Stream(file, span), Some(outgoing)) => {
                Body::new(FileBody::new(file, span, outgoing.clone()))
            }
            (Self::Stream(file, span), None) => {
                let file = tokio::fs::File::from_std(file);
                let file = tokio::io::AsyncReadExt::take(file, span.length());
                Body::from_stream(ReaderStream::with_capacity(file, SEND_PIECE))
            }
        }
    }
}

/// Answers a refusal, after the body that it refuses.
pub(super) async fn refuse(
    error: ApiError,
    body: &mut Body,
    expects_continue: bool,
) -> axum::response::Response {
    // A client that waits for leave to send must not be given it now.
    if !expects_continue {
        drain(body).await;
    }
    error.into_response()
}
