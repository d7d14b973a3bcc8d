//! Pushing blobs: POST, PATCH, PUT, GET and DELETE of upload sessions (end-4, 5, 6, 11, 13, 14).

use axum::body::Body;
use axum::response::Response;
use config::name::RepositoryName;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use http::{HeaderMap, StatusCode};

use super::access::Asker;
use super::answer::{Answer, text};
use super::body::{blocking, receive};
use super::error::{ApiError, Code};
use super::query::Query;
use super::route::digest as parse_digest;
use crate::digest::{Algorithm, Digest};
use crate::service::{AdmittedWriter, Appender, Registry, UploadError};
use crate::store::sessions::SessionId;
use crate::upload::{ChunkError, ChunkRange, admit};

/// POST: a mount, a whole blob at once, or a new session.
pub(super) async fn start(
    registry: Registry,
    asker: Asker,
    repository: RepositoryName,
    query: &Query,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Response, ApiError> {
    let mut hinted = Algorithm::Sha256;
    if let Some(mount) = query.get("mount") {
        let digest = parse_digest(mount)?;
        // Where there is nothing to mount, this blob comes next.
        hinted = Algorithm::of(&digest).unwrap_or_default();
        if mounted(&registry, asker, &repository, &digest, query.get("from")).await? {
            return Ok(created(&repository, &digest));
        }
    } else if let Some(digest) = query.get("digest") {
        let digest = parse_digest(digest)?;
        return whole(registry, repository, digest, headers, body).await;
    }
    let algorithm = match query.get("digest-algorithm") {
        None => hinted,
        Some(name) => Algorithm::parse(name).ok_or_else(|| {
            let message = format!("digest algorithm {name:?} is not sha256 or sha512");
            ApiError::bad_request(Code::DigestInvalid, message)
        })?,
    };
    let name = repository.clone();
    let session = blocking(move || registry.start_upload(&name, algorithm)).await?;
    Ok(progress(StatusCode::ACCEPTED, &repository, &session, 0))
}

/// A source that is no repository, or one that the caller may not read, has no blob to mount; the
/// client then pushes it. Without a source any will do that the caller may read.
async fn mounted(
    registry: &Registry,
    asker: Asker,
    repository: &RepositoryName,
    digest: &Digest,
    from: Option<&str>,
) -> Result<bool, ApiError> {
    let from = match from.filter(|from| !from.is_empty()).map(str::parse) {
        Some(Err(_)) => return Ok(false),
        Some(Ok(from)) => Some(from),
        None => None,
    };
    let (registry, repository, digest) = (registry.clone(), repository.clone(), digest.clone());
    blocking(move || match from {
        Some(from) if !asker.may_pull(&from) => Ok(false),
        None if !asker.sees_all() => {
            registry.mount_visible(&repository, &digest, &|name| asker.may_pull(name))
        }
        from => registry.mount(&repository, &digest, from.as_ref()),
    })
    .await
}

/// POST with a digest: the body is the blob (end-4b).
async fn whole(
    registry: Registry,
    repository: RepositoryName,
    digest: Digest,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Response, ApiError> {
    let limit = registry.policy().max_blob;
    admit(0, None, content_length(headers), limit)?;
    let writer = {
        let registry = registry.clone();
        let (name, digest, length) = (repository.clone(), digest.clone(), content_length(headers));
        blocking(move || registry.admitted_writer(&name, &digest, length)).await?
    };
    let sink = Bounded { writer, limit };
    let sink = receive(body, sink, Bounded::write).await?;
    let (name, expected) = (repository.clone(), digest.clone());
    blocking(move || registry.commit_blob(&name, sink.writer.into_writer(), &expected)).await?;
    Ok(created(&repository, &digest))
}

/// A writer that stops at the greatest blob.
struct Bounded {
    writer: AdmittedWriter,
    limit: u64,
}

impl Bounded {
    fn write(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        let limit = self.limit;
        if self.writer.written() + bytes.len() as u64 > limit {
            return Err(ChunkError::TooLarge { limit }.into());
        }
        Ok(self.writer.write(bytes)?)
    }
}

/// PATCH: a chunk with its place, or a stream.
pub(super) async fn patch(
    registry: Registry,
    repository: RepositoryName,
    session: SessionId,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Response, ApiError> {
    let appender = take(&registry, &repository, &session, headers).await?;
    let appender = receive(body, appender, Appender::write).await?;
    let ended = blocking(move || appender.end()).await;
    let offset = with_progress(ended, &registry, &repository, &session).await?;
    Ok(progress(
        StatusCode::ACCEPTED,
        &repository,
        &session,
        offset,
    ))
}

/// PUT: the last bytes, if any, and the digest of the whole.
pub(super) async fn finish(
    registry: Registry,
    repository: RepositoryName,
    session: SessionId,
    query: &Query,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Response, ApiError> {
    let Some(digest) = query.get("digest") else {
        let message = "the parameter \"digest\" is missing";
        return Err(ApiError::bad_request(Code::DigestInvalid, message));
    };
    let digest = parse_digest(digest)?;
    let appender = take(&registry, &repository, &session, headers).await?;
    let appender = receive(body, appender, Appender::write).await?;
    let (name, expected) = (repository.clone(), digest.clone());
    blocking(move || appender.commit(&name, &expected)).await?;
    Ok(created(&repository, &digest))
}

/// Takes the session for a request. A refusal says where the session stands.
async fn take(
    registry: &Registry,
    repository: &RepositoryName,
    session: &SessionId,
    headers: &HeaderMap,
) -> Result<Appender, ApiError> {
    let range = match text(headers, CONTENT_RANGE) {
        Some(range) => Some(range.parse::<ChunkRange>()?),
        None => None,
    };
    let length = content_length(headers);
    let taken = {
        let (registry, repository, session) =
            (registry.clone(), repository.clone(), session.clone());
        blocking(move || registry.append(&repository, &session, range, length)).await
    };
    with_progress(taken, registry, repository, session).await
}

/// Adds the session's place and offset to a 416, so that the client can go on.
async fn with_progress<T>(
    result: Result<T, ApiError>,
    registry: &Registry,
    repository: &RepositoryName,
    session: &SessionId,
) -> Result<T, ApiError> {
    let error = match result {
        Err(error) if error.status() == StatusCode::RANGE_NOT_SATISFIABLE => error,
        other => return other,
    };
    let offset = {
        let (registry, repository, session) =
            (registry.clone(), repository.clone(), session.clone());
        blocking(move || registry.upload_offset(&repository, &session)).await?
    };
    Err(error
        .header(LOCATION, session_path(repository, session))
        .header(RANGE, received(offset)))
}

pub(super) async fn status(
    registry: Registry,
    repository: RepositoryName,
    session: SessionId,
) -> Result<Response, ApiError> {
    let (name, id) = (repository.clone(), session.clone());
    let offset = blocking(move || registry.upload_offset(&name, &id)).await?;
    Ok(progress(
        StatusCode::NO_CONTENT,
        &repository,
        &session,
        offset,
    ))
}

pub(super) async fn cancel(
    registry: Registry,
    repository: RepositoryName,
    session: SessionId,
) -> Result<Response, ApiError> {
    blocking(move || registry.cancel_upload(&repository, &session)).await?;
    Ok(Answer::new(StatusCode::NO_CONTENT).empty())
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    text(headers, CONTENT_LENGTH)?.parse().ok()
}

fn created(repository: &RepositoryName, digest: &Digest) -> Response {
    Answer::new(StatusCode::CREATED)
        .location(format!("/v2/{repository}/blobs/{digest}"))
        .digest(digest)
        .length(0)
        .empty()
}

fn session_path(repository: &RepositoryName, session: &SessionId) -> String {
    format!("/v2/{repository}/blobs/uploads/{session}")
}

/// First and last byte received. Nothing received is written `0-0` too: the form has no other word
/// for it (distribution-spec, "Pushing a blob in chunks").
fn received(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

fn progress(
    status: StatusCode,
    repository: &RepositoryName,
    session: &SessionId,
    offset: u64,
) -> Response {
    let answer = Answer::new(status)
        .location(session_path(repository, session))
        .header(RANGE, received(offset))
        .header(
            http::HeaderName::from_static("docker-upload-uuid"),
            session.as_str(),
        );
    match status {
        // A 204 must not say how long its body is (RFC 9110, section 8.6).
        StatusCode::NO_CONTENT => answer.empty(),
        _ => answer.length(0).empty(),
    }
}
