//! GET, HEAD and DELETE of blobs (end-2, end-10).

use std::fs::File;

use axum::response::Response;
use config::name::RepositoryName;
use http::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, IF_RANGE, RANGE};
use http::request::Parts;
use http::{HeaderMap, StatusCode};

use super::access::{Asker, held};
use super::answer::{Answer, etag, is_known, text};
use super::body::{Part, blocking};
use super::error::{ApiError, Code};
use super::range::{self, Asked, Span};
use crate::digest::Digest;
use crate::service::{Deleted, Registry};
use crate::store::StoreError;

pub(super) async fn head(
    registry: Registry,
    repository: RepositoryName,
    digest: Digest,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    if is_known(headers, &digest) {
        return not_modified(registry, repository, digest).await;
    }
    let wanted = digest.clone();
    let size = blocking(move || registry.stat_blob(&repository, &wanted)).await?;
    let size = size.ok_or_else(|| unknown(&digest))?;
    Ok(blob(StatusCode::OK, &digest).length(size).empty())
}

pub(super) async fn get(
    registry: Registry,
    repository: RepositoryName,
    digest: Digest,
    request: &Parts,
) -> Result<Response, ApiError> {
    let headers = &request.headers;
    if is_known(headers, &digest) {
        return not_modified(registry, repository, digest).await;
    }
    let asked = range_header(headers, &digest).map(str::to_owned);
    let wanted = digest.clone();
    let found = blocking(move || open(&registry, &repository, &wanted, asked.as_deref())).await?;
    let (size, asked, part) = found.ok_or_else(|| unknown(&digest))?;
    let Some(part) = part else {
        return Err(ApiError::unsatisfiable(size));
    };
    let answer = match asked {
        Asked::Part(span) => blob(StatusCode::PARTIAL_CONTENT, &digest)
            .header(CONTENT_RANGE, span.content_range(size))
            .length(span.length()),
        _ => blob(StatusCode::OK, &digest).length(size),
    };
    Ok(answer.body(part.into_body(request.extensions.get())))
}

type Found = Option<(u64, Asked, Option<Part>)>;

/// Blocking: the blob's size, what of it is asked for, and that part, unless there is none.
fn open(
    registry: &Registry,
    repository: &RepositoryName,
    digest: &Digest,
    asked: Option<&str>,
) -> Result<Found, StoreError> {
    let Some((file, size)) = registry.open_blob(repository, digest)? else {
        return Ok(None);
    };
    let asked = asked.map_or(Asked::Whole, |header| range::parse(header, size));
    let part = match asked {
        Asked::Whole => Some(read(
            file,
            Span {
                start: 0,
                end: size,
            },
        )?),
        Asked::Part(span) => Some(read(file, span)?),
        Asked::Unsatisfiable => None,
    };
    Ok(Some((size, asked, part)))
}

fn read(file: File, span: Span) -> Result<Part, StoreError> {
    Ok(Part::of(file, span)?)
}

/// A conditional range counts only for the content that the client has begun with.
fn range_header<'a>(headers: &'a HeaderMap, digest: &Digest) -> Option<&'a str> {
    match text(headers, IF_RANGE) {
        Some(tag) if tag != etag(digest) => None,
        _ => text(headers, RANGE),
    }
}

/// The client may have it from another repository; it learns about this one all the same.
async fn not_modified(
    registry: Registry,
    repository: RepositoryName,
    digest: Digest,
) -> Result<Response, ApiError> {
    let wanted = digest.clone();
    let size = blocking(move || registry.stat_blob(&repository, &wanted)).await?;
    size.ok_or_else(|| unknown(&digest))?;
    Ok(Answer::new(StatusCode::NOT_MODIFIED)
        .digest(&digest)
        .empty())
}

fn blob(status: StatusCode, digest: &Digest) -> Answer {
    Answer::new(status)
        .digest(digest)
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(ACCEPT_RANGES, "bytes")
}

pub(super) async fn delete(
    registry: Registry,
    asker: Asker,
    repository: RepositoryName,
    digest: Digest,
) -> Result<Response, ApiError> {
    let wanted = digest.clone();
    let keep = asker.kept(&repository);
    match blocking(move || registry.delete_blob_keeping(&repository, &wanted, &keep)).await? {
        Deleted::Done => Ok(Answer::new(StatusCode::ACCEPTED).empty()),
        Deleted::Absent => Err(unknown(&digest)),
        Deleted::Held { tag } => Err(held(&tag)),
    }
}

fn unknown(digest: &Digest) -> ApiError {
    ApiError::not_found(
        Code::BlobUnknown,
        format!("repository has no blob {digest}"),
    )
}
