//! An upgraded connection joined to a container's stream of frames.

use std::future::Future;
use std::os::unix::net::UnixStream;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::client::FRAMES;
use crate::error::{Failure, Outcome};

/// Whether the caller asked for the stream that only an upgrade can carry.
pub(super) fn check(request: &Request) -> Outcome<()> {
    let asked = request.headers().get(header::UPGRADE);
    if asked == Some(&HeaderValue::from_static(FRAMES)) {
        Ok(())
    } else {
        Err(Failure::invalid(format!(
            "this verb needs `Upgrade: {FRAMES}`"
        )))
    }
}

/// Answers 101 and relays until either side ends; then waits for `after`. A caller says that it
/// has no more input by a frame, so one whose side of the connection ends has gone.
pub(super) fn join<F>(request: Request, container: UnixStream, after: F) -> Outcome<Response>
where
    F: Future<Output = ()> + Send + 'static,
{
    container.set_nonblocking(true)?;
    let mut container = tokio::net::UnixStream::from_std(container)?;
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let (from_caller, mut to_caller) = tokio::io::split(TokioIo::new(upgraded));
            let (mut from_container, to_container) = container.split();
            // Either side may go away at any time: that is how such a stream ends.
            tokio::select! {
                () = until_gone(from_caller, to_container) => {}
                _ = tokio::io::copy(&mut from_container, &mut to_caller) => {
                    let _ = to_caller.shutdown().await;
                }
            }
        }
        drop(container);
        after.await;
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, FRAMES)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response())
}

/// Passes on what the caller says and returns when it has gone. A container that hears no more is
/// no reason to: its last words may be on their way to the caller.
async fn until_gone(mut caller: impl AsyncRead + Unpin, mut container: impl AsyncWrite + Unpin) {
    let mut deaf = false;
    let mut buffer = vec![0; 32 << 10];
    while let Ok(count @ 1..) = caller.read(&mut buffer).await {
        deaf = deaf || container.write_all(&buffer[..count]).await.is_err();
    }
}
