//! Manifests: PUT, GET, HEAD and DELETE (end-3, end-7, end-9).
//!
//! What was pushed is answered: bytes and media type as they came, whatever Accept says.

use axum::body::Body;
use axum::response::Response;
use config::name::{RepositoryName, Tag, Target};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, StatusCode};

use super::access::{Asker, held};
use super::answer::{Answer, OCI_SUBJECT, OCI_TAG, is_known, text};
use super::body::{blocking, collect};
use super::error::{ApiError, Code};
use super::query::Query;
use super::warning::{of_manifest, warn};
use crate::manifest::MAX_MANIFEST;
use crate::service::{Deleted, ManifestPut, PutManifestError, Registry};

/// The specification asks for at least 10; each becomes a row and a header.
const MAX_TAGS: usize = 64;

pub(super) async fn put(
    registry: Registry,
    asker: Asker,
    repository: RepositoryName,
    target: Target,
    query: &Query,
    parts: &Parts,
    body: &mut Body,
) -> Result<Response, ApiError> {
    let tags = tags(&target, query)?;
    let bytes = read(&parts.headers, body).await?;
    let media_type = text(&parts.headers, CONTENT_TYPE).map(str::to_owned);
    let (name, extra) = (repository.clone(), tags.clone());
    let stored = blocking(move || {
        let put = ManifestPut {
            target: &target,
            tags: &extra,
            media_type: media_type.as_deref(),
            bytes: &bytes,
            references: registry.references(&name),
        };
        registry.put_manifest_keeping(&name, &put, asker.unmoved())
    })
    .await?;
    let warnings = of_manifest(&stored.remarks, &repository, &parts.uri, &parts.headers);
    let mut answer = warn(Answer::new(StatusCode::CREATED), &warnings)
        .location(format!("/v2/{repository}/manifests/{}", stored.digest))
        .digest(&stored.digest)
        .length(0);
    if let Some(subject) = &stored.subject {
        answer = answer.header(OCI_SUBJECT, subject.as_ref());
    }
    for tag in &tags {
        answer = answer.header(OCI_TAG, tag.as_str());
    }
    Ok(answer.empty())
}

/// The parameters `tag`, which go with a digest only (end-7b).
fn tags(target: &Target, query: &Query) -> Result<Vec<Tag>, ApiError> {
    let texts: Vec<&str> = query.all("tag").collect();
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    if matches!(target, Target::Tag(_)) {
        let message = "the parameter \"tag\" goes with a push by digest only";
        return Err(ApiError::bad_request(Code::ManifestInvalid, message));
    }
    if texts.len() > MAX_TAGS {
        let message = format!("{} tags in one push, more than {MAX_TAGS}", texts.len());
        return Err(ApiError::new(
            StatusCode::URI_TOO_LONG,
            Code::Unsupported,
            message,
        ));
    }
    let parsed = texts.into_iter().map(str::parse::<Tag>);
    parsed
        .collect::<Result<_, _>>()
        .map_err(|error| ApiError::bad_request(Code::ManifestInvalid, error.to_string()))
}

async fn read(headers: &HeaderMap, body: &mut Body) -> Result<Vec<u8>, ApiError> {
    let stated = text(headers, CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    let refusal = |size| {
        let limit = MAX_MANIFEST;
        ApiError::from(PutManifestError::TooLarge { size, limit })
    };
    match stated {
        Some(size) if size > MAX_MANIFEST => Err(refusal(size)),
        _ => collect(body, MAX_MANIFEST)
            .await?
            .ok_or_else(|| refusal(stated.unwrap_or(MAX_MANIFEST + 1))),
    }
}

pub(super) async fn get(
    registry: Registry,
    repository: RepositoryName,
    target: Target,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let (wanted, from, name) = (target.clone(), registry.clone(), repository.clone());
    let manifest = blocking(move || from.manifest(&name, &wanted)).await?;
    let manifest = manifest.ok_or_else(|| unknown(&target))?;
    if is_known(headers, &manifest.digest) {
        return Ok(Answer::new(StatusCode::NOT_MODIFIED)
            .digest(&manifest.digest)
            .empty());
    }
    let tag = match &target {
        Target::Tag(tag) => Some(tag),
        Target::Digest(_) => None,
    };
    registry.note_pull(&repository, &manifest.digest, tag);
    registry.note_served(&repository, &manifest, tag);
    Ok(Answer::new(StatusCode::OK)
        .digest(&manifest.digest)
        .header(CONTENT_TYPE, &manifest.media_type)
        .body(Body::from(manifest.bytes)))
}

pub(super) async fn head(
    registry: Registry,
    repository: RepositoryName,
    target: Target,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let wanted = target.clone();
    let found = blocking(move || registry.stat_manifest(&repository, &wanted)).await?;
    let (digest, row) = found.ok_or_else(|| unknown(&target))?;
    if is_known(headers, &digest) {
        return Ok(Answer::new(StatusCode::NOT_MODIFIED)
            .digest(&digest)
            .empty());
    }
    Ok(Answer::new(StatusCode::OK)
        .digest(&digest)
        .header(CONTENT_TYPE, &row.media_type)
        .length(row.size)
        .empty())
}

/// A tag is removed alone; a digest takes the manifest and all its tags with it.
pub(super) async fn delete(
    registry: Registry,
    asker: Asker,
    repository: RepositoryName,
    target: Target,
) -> Result<Response, ApiError> {
    let wanted = target.clone();
    let keep = asker.kept(&repository);
    let deleted = blocking(move || match &wanted {
        Target::Tag(tag) => registry.delete_tag_keeping(&repository, tag, &keep),
        Target::Digest(digest) => registry.delete_manifest_keeping(&repository, digest, &keep),
    })
    .await?;
    match deleted {
        Deleted::Done => Ok(Answer::new(StatusCode::ACCEPTED).empty()),
        Deleted::Absent => Err(unknown(&target)),
        Deleted::Held { tag } => Err(held(&tag)),
    }
}

fn unknown(target: &Target) -> ApiError {
    let message = format!("repository has no manifest {target}");
    ApiError::not_found(Code::ManifestUnknown, message)
}
