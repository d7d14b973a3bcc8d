//! The disk: usage, collections, upload sessions; and the queue of events.

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::Front;
use super::super::answer::Answer;
use super::super::answer::text;
use super::super::body::{blocking, collect as read_all};
use super::super::error::{ApiError, Code};
use super::super::route::RouteError;
use super::access::{Need, authorize, walk};
use super::page::Paging;
use super::{Refusal, acting};
use crate::events::Event;
use crate::events::envelope::rfc3339;
use crate::events::sender::Report;
use crate::service::{Collected, OpenUpload, Registry, Usage};
use crate::store::StoreError;
use crate::store::sessions::SessionId;

pub(super) const JSON: &str = "application/json";
const UPLOADS: &str = "/api/v1/uploads";
/// A request is a word or two.
const MAX_REQUEST: usize = 64 * 1024;
/// Of upload sessions in one answer.
const MAX_UPLOADS: usize = 1000;

/// How a collection is run.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CollectRequest {
    /// Only tell what would go.
    pub dry_run: bool,
}

/// Upload sessions, and where the list goes on.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct UploadList {
    pub uploads: Vec<OpenUpload>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The queue of events.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventState {
    /// Events that some webhook has not been told yet.
    pub queued: u64,
    /// Events that went untold, because they were too old or too many.
    pub dropped: u64,
    /// When the oldest of those that wait happened, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<String>,
    pub webhooks: Vec<WebhookState>,
}

/// How it goes with a webhook.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookState {
    pub name: String,
    /// Events in the queue that it has not been told, or not yet passed over.
    pub behind: u64,
    /// Since the daemon began.
    pub delivered: u64,
    pub failed: u64,
    /// Attempts in a row that failed.
    pub failing: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// What the registry takes of the disk, and what a collection would free
#[utoipa::path(
    get, path = "/api/v1/usage", tag = "storage",
    responses((status = 200, body = Usage), (status = 403, body = Refusal)),
)]
pub(super) async fn usage(
    State(front): State<Front>,
    mut parts: Parts,
) -> Result<Response, ApiError> {
    authorize(&front, &mut parts, Need::Inspect, None).await?;
    let permit = walk(&front, &parts).await?;
    let usage = blocking(move || {
        let _permit = permit;
        front.registry.disk_usage()
    });
    let usage = usage.await?;
    Answer::new(StatusCode::OK).json(JSON, &usage)
}

/// Collect garbage now
#[utoipa::path(
    post, path = "/api/v1/collections", tag = "storage", request_body = CollectRequest,
    responses((status = 200, body = Collected), (status = 400, body = Refusal), (status = 403, body = Refusal), (status = 409, body = Refusal)),
)]
pub(super) async fn collect(
    State(front): State<Front>,
    request: Request,
) -> Result<Response, ApiError> {
    let (mut parts, mut body) = request.into_parts();
    let request: CollectRequest = read(&parts, &mut body).await?;
    let need = if request.dry_run {
        Need::Inspect
    } else {
        Need::Change
    };
    authorize(&front, &mut parts, need, None).await?;
    let permit = match request.dry_run {
        true => walk(&front, &parts).await?,
        false => None,
    };
    let registry = acting(&front, &parts);
    let collected = blocking(move || {
        let _permit = permit;
        run(&registry, request.dry_run)
    });
    let collected = collected.await?;
    if !request.dry_run {
        let Collected {
            links,
            blobs,
            bytes,
            ..
        } = collected;
        front.metrics.collected(links, blobs, bytes);
    }
    Answer::new(StatusCode::OK).json(JSON, &collected)
}

/// A body must say that it is JSON: a form of some web page cannot.
pub(super) async fn read<T: DeserializeOwned>(
    parts: &Parts,
    body: &mut Body,
) -> Result<T, ApiError> {
    let refused = |why: &str| {
        let message = format!("body is no such request: {why}");
        ApiError::bad_request(Code::Unsupported, message)
    };
    let media_type = text(&parts.headers, CONTENT_TYPE).unwrap_or_default();
    if media_type.split(';').next().map(str::trim) != Some(JSON) {
        return Err(refused("its Content-Type is not application/json"));
    }
    let bytes = read_all(body, MAX_REQUEST).await?;
    let bytes = bytes.ok_or_else(|| refused("it is too long"))?;
    serde_json::from_slice(&bytes).map_err(|error| refused(&error.to_string()))
}

fn run(registry: &Registry, dry_run: bool) -> Result<Collected, StoreError> {
    let swept = if dry_run {
        registry.collectable()?
    } else {
        registry.collect()?
    };
    Ok(swept.into())
}

/// List the upload sessions that are open
#[utoipa::path(
    get, path = "/api/v1/uploads", tag = "storage", params(Paging),
    responses((status = 200, body = UploadList), (status = 403, body = Refusal)),
)]
pub(super) async fn uploads(
    State(front): State<Front>,
    paging: Paging,
    mut parts: Parts,
) -> Result<Response, ApiError> {
    authorize(&front, &mut parts, Need::Inspect, None).await?;
    let (last, limit) = (
        paging.last.clone(),
        paging.n.unwrap_or(MAX_UPLOADS).clamp(1, MAX_UPLOADS),
    );
    let page = blocking(move || front.registry.uploads(last.as_deref(), limit)).await?;
    let next = page
        .items
        .last()
        .filter(|_| page.more)
        .map(|one| one.session.clone());
    let list = UploadList {
        uploads: page.items,
        next,
    };
    paging.answer(UPLOADS, list.next.as_deref(), &list)
}

/// Cancel an upload session
#[utoipa::path(
    delete, path = "/api/v1/uploads/{session}", tag = "storage",
    params(("session" = String, Path)),
    responses((status = 204), (status = 403, body = Refusal), (status = 404, body = Refusal), (status = 409, body = Refusal)),
)]
pub(super) async fn cancel(
    State(front): State<Front>,
    Path(session): Path<String>,
    mut parts: Parts,
) -> Result<Response, ApiError> {
    let session: SessionId = session.parse().map_err(|_| RouteError::Session)?;
    let (registry, id) = (front.registry.clone(), session.clone());
    let repository = blocking(move || registry.upload_repository(&id)).await;
    // Who may not look may not learn which sessions there are.
    authorize(&front, &mut parts, Need::Change, repository.as_ref().ok()).await?;
    let (repository, registry) = (repository?, acting(&front, &parts));
    blocking(move || registry.cancel_upload(&repository, &session)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Show what waits to be told to webhooks
#[utoipa::path(
    get, path = "/api/v1/events", tag = "events",
    responses((status = 200, body = EventState), (status = 403, body = Refusal)),
)]
pub(super) async fn events(
    State(front): State<Front>,
    mut parts: Parts,
) -> Result<Response, ApiError> {
    authorize(&front, &mut parts, Need::Inspect, None).await?;
    let report = blocking(move || front.registry.event_report()).await?;
    Answer::new(StatusCode::OK).json(JSON, &state(report))
}

fn state(report: Report) -> EventState {
    let Report { queue, hooks } = report;
    let oldest = queue
        .oldest
        .and_then(|bytes| serde_json::from_slice::<Event>(&bytes).ok());
    let webhooks = hooks.into_iter().map(|(name, state)| WebhookState {
        behind: queue
            .behind
            .iter()
            .find(|(of, _)| *of == name)
            .map_or(0, |(_, behind)| *behind),
        name,
        delivered: state.delivered,
        failed: state.failed,
        failing: state.failing,
        last_error: state.last_error,
    });
    EventState {
        queued: queue.events,
        dropped: queue.dropped,
        oldest: oldest.map(|event| rfc3339(event.at)),
        webhooks: webhooks.collect(),
    }
}
