//! An upgraded connection joined to a container's stream of frames.

use std::future::Future;
use std::os::unix::net::UnixStream;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

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

/// Answers 101 and relays until either side ends; then waits for `after`.
pub(super) fn join<F>(request: Request, container: UnixStream, after: F) -> Outcome<Response>
where
    F: Future<Output = ()> + Send + 'static,
{
    container.set_nonblocking(true)?;
    let mut container = tokio::net::UnixStream::from_std(container)?;
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let mut caller = TokioIo::new(upgraded);
            // Either side may go away at any time: that is how such a stream ends.
            let _ = copy_bidirectional(&mut caller, &mut container).await;
        }
        drop(container);
        after.await;
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, FRAMES)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response())
}
