//! Reads of repositories that are kept for another registry: what they ask for is brought here
//! first, or sent on while it comes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::answer::{Answer, text};
use super::error::{ApiError, Code};
use super::front::Front;
use super::range::{self, Asked};
use super::route::Route;
use super::scope::Scoped;
use crate::digest::Digest;
use crate::mirror::{Arriving, Found, Freshness, Kept};

/// What the mirror did for a request.
#[derive(Debug, Default)]
pub(super) struct Brought {
    /// The answer; `None` where the registry has what is asked for by now, as far as it can be had.
    pub(super) response: Option<Response>,
    /// What the client should be told.
    pub(super) warning: Option<String>,
    /// The registry had what is asked for a moment ago.
    pub(super) seen: bool,
}

/// Brings what a request reads, if its repository is kept for another registry.
pub(super) async fn bring(
    front: &Front,
    scoped: &Scoped,
    parts: &Parts,
) -> Result<Brought, ApiError> {
    let mirror = &front.mirror;
    let kept = scoped.route.repository().and_then(|name| mirror.kept(name));
    let Some(kept) = kept.filter(|_| super::is_read(&parts.method)) else {
        return Ok(Brought::default());
    };
    let brought = fetch(front, &kept, scoped, parts).await;
    front.metrics.mirrored(match &brought {
        Ok(Brought {
            response: Some(_), ..
        }) => "arriving",
        Ok(Brought {
            warning: Some(_), ..
        }) => "stale",
        Ok(_) => "here",
        Err(error) if error.status() == StatusCode::NOT_FOUND => "unknown",
        Err(_) => "failed",
    });
    brought
}

async fn fetch(
    front: &Front,
    kept: &Kept,
    scoped: &Scoped,
    parts: &Parts,
) -> Result<Brought, ApiError> {
    let mirror = &front.mirror;
    let pulls = parts.method == Method::GET;
    match &scoped.route {
        Route::Manifest(_, target) => {
            let brought = mirror.manifest(kept, target, pulls).await;
            let freshness = brought.map_err(|e| ApiError::mirror(e, Code::ManifestUnknown))?;
            Ok(Brought {
                response: None,
                seen: true,
                warning: match freshness {
                    Freshness::Fresh => None,
                    Freshness::Stale { warning } => Some(warning),
                },
            })
        }
        Route::Blob(_, digest) => {
            let answered = match pulls {
                true => get(front, kept, digest, &parts.headers).await,
                // Who pushes asks so whether a blob is here; what is elsewhere is no answer to that.
                false if scoped.by_default => return Ok(Brought::default()),
                false => head(front, kept, digest).await,
            };
            Ok(Brought {
                seen: true,
                response: answered?,
                warning: None,
            })
        }
        _ => Ok(Brought::default()),
    }
}

async fn get(
    front: &Front,
    kept: &Kept,
    digest: &Digest,
    headers: &HeaderMap,
) -> Result<Option<Response>, ApiError> {
    let found = front.mirror.blob(kept, digest).await;
    match found.map_err(|error| ApiError::mirror(error, Code::BlobUnknown))? {
        Found::Here => Ok(None),
        Found::Arriving(arriving) => arrive(arriving, digest, headers).map(Some),
    }
}

/// The answer with a blob, or a part of one, that is not all here.
fn arrive(arriving: Arriving, digest: &Digest, headers: &HeaderMap) -> Result<Response, ApiError> {
    let answer = |status| {
        Answer::new(status)
            .digest(digest)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(ACCEPT_RANGES, "bytes")
    };
    let Some(size) = arriving.size() else {
        let body = Body::new(Pieces(arriving.read(0, None)));
        return Ok(answer(StatusCode::OK).body(body));
    };
    let asked = text(headers, RANGE).map_or(Asked::Whole, |header| range::parse(header, size));
    let (answer, start, end) = match asked {
        Asked::Whole => (answer(StatusCode::OK).length(size), 0, size),
        Asked::Part(span) => {
            let answer = answer(StatusCode::PARTIAL_CONTENT)
                .header(CONTENT_RANGE, span.content_range(size))
                .length(span.length());
            (answer, span.start, span.end)
        }
        Asked::Unsatisfiable => return Err(ApiError::unsatisfiable(size)),
    };
    Ok(answer.body(Body::new(Pieces(arriving.read(start, Some(end))))))
}

async fn head(front: &Front, kept: &Kept, digest: &Digest) -> Result<Option<Response>, ApiError> {
    let failed = |error| ApiError::mirror(error, Code::BlobUnknown);
    let Some(size) = front.mirror.blob_size(kept, digest).await.map_err(failed)? else {
        // A length must be answered, so it has to be fetched to be counted.
        if let Found::Arriving(arriving) = front.mirror.blob(kept, digest).await.map_err(failed)? {
            arriving.whole().await.map_err(failed)?;
        }
        return Ok(None);
    };
    let answer = Answer::new(StatusCode::OK)
        .digest(digest)
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(ACCEPT_RANGES, "bytes")
        .length(size);
    Ok(Some(answer.empty()))
}

/// A body that comes out of a channel. An error in it breaks the connection off.
#[derive(Debug)]
struct Pieces(mpsc::Receiver<io::Result<Bytes>>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = self.0.poll_recv(context);
        piece.map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
