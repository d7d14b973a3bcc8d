//! Looking after what is kept: verifying every blob, and letting old tags go.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::Front;
use super::super::answer::Answer;
use super::super::body::blocking;
use super::super::error::{ApiError, Code};
use super::access::{Need, authorize, walk};
use super::storage::{JSON, read};
use super::{Refusal, acting};
use crate::events::envelope::rfc3339;
use crate::service::Expired;
use crate::store::scrub::{Scrub, ScrubError, ScrubOptions};

/// How blobs are verified.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ScrubRequest {
    /// Bytes per second at most; 0 for as fast as possible.
    pub rate: u64,
    /// Begin anew where an earlier scrub was not finished.
    pub anew: bool,
}

/// What a scrub found, and how far it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScrubState {
    /// RFC 3339; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// RFC 3339; absent while it is not at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// Blobs that are whole, and their bytes.
    pub checked: u64,
    pub bytes: u64,
    /// Blobs that were damaged, and are absent since.
    pub quarantined: u64,
    /// Blobs whose file is not here.
    pub missing: u64,
    /// Blobs that the disk did not give.
    pub unreadable: u64,
    /// It ended early, because too many blobs were damaged for a disk that is in order.
    #[serde(default)]
    pub failing: bool,
    /// Blobs of which there is only the damaged file that was put aside.
    #[serde(default)]
    pub only_copies: u64,
}

impl From<Scrub> for ScrubState {
    fn from(scrub: Scrub) -> Self {
        let time = |seconds: u64| rfc3339(seconds.saturating_mul(1000));
        Self {
            started: Some(time(scrub.started)),
            finished: scrub.finished.map(time),
            checked: scrub.checked,
            bytes: scrub.bytes,
            quarantined: scrub.quarantined,
            missing: scrub.missing,
            unreadable: scrub.unreadable,
            failing: scrub.failing,
            only_copies: scrub.only_copies,
        }
    }
}

/// How the rules of retention are applied.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RetentionRequest {
    /// Only tell which tags would go.
    pub dry_run: bool,
}

/// A tag that its rule keeps no longer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ExpiredTag {
    pub repository: String,
    pub tag: String,
    pub digest: String,
    /// Which rule, counted from 1 as they stand in the settings.
    pub rule: usize,
}

/// Tags that went, or would go.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ExpiredTags {
    pub tags: Vec<ExpiredTag>,
}

impl From<Expired> for ExpiredTag {
    fn from(expired: Expired) -> Self {
        Self {
            repository: expired.repository.to_string(),
            tag: expired.tag.to_string(),
            digest: expired.digest.to_string(),
            rule: expired.rule + 1,
        }
    }
}

/// Tell how far the last scrub came, and what it found
#[utoipa::path(
    get, path = "/api/v1/scrub", tag = "storage",
    responses((status = 200, body = ScrubState), (status = 403, body = Refusal)),
)]
pub(super) async fn last_scrub(
    State(front): State<Front>,
    mut parts: Parts,
) -> Result<Response, ApiError> {
    authorize(&front, &mut parts, Need::Look, None).await?;
    let last = blocking(move || front.registry.last_scrub()).await?;
    let state = last.map(ScrubState::from).unwrap_or_default();
    Answer::new(StatusCode::OK).json(JSON, &state)
}

/// Tells the scrub that whoever asked for it has gone.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Verify every blob now; a request that is broken off is gone on with by the next
#[utoipa::path(
    post, path = "/api/v1/scrub", tag = "storage", request_body = ScrubRequest,
    responses((status = 200, body = ScrubState), (status = 400, body = Refusal), (status = 403, body = Refusal), (status = 409, body = Refusal)),
)]
pub(super) async fn scrub(
    State(front): State<Front>,
    request: Request,
) -> Result<Response, ApiError> {
    let (mut parts, mut body) = request.into_parts();
    let request: ScrubRequest = read(&parts, &mut body).await?;
    authorize(&front, &mut parts, Need::Change, None).await?;
    let options = ScrubOptions {
        rate: request.rate,
        anew: request.anew,
        ..ScrubOptions::default()
    };
    let gone = Gone(Arc::default());
    let (registry, broken_off) = (front.registry.clone(), Arc::clone(&gone.0));
    let done = blocking(move || {
        registry.scrub(
            &options,
            &mut |_, _| match broken_off.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            },
        )
    });
    let done = done.await?;
    drop(gone);
    Answer::new(StatusCode::OK).json(JSON, &ScrubState::from(done))
}

impl From<ScrubError> for ApiError {
    fn from(error: ScrubError) -> Self {
        match error {
            ScrubError::Running => Self::new(StatusCode::CONFLICT, Code::Denied, error.to_string()),
            ScrubError::Store(error) => error.into(),
        }
    }
}

/// Let the tags go that the rules of retention keep no longer
#[utoipa::path(
    post, path = "/api/v1/retention", tag = "storage", request_body = RetentionRequest,
    responses((status = 200, body = ExpiredTags), (status = 400, body = Refusal), (status = 403, body = Refusal)),
)]
pub(super) async fn retention(
    State(front): State<Front>,
    request: Request,
) -> Result<Response, ApiError> {
    let (mut parts, mut body) = request.into_parts();
    let request: RetentionRequest = read(&parts, &mut body).await?;
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
    let (registry, rules) = (acting(&front, &parts), Arc::clone(&front.retention));
    let expired = blocking(move || {
        let _permit = permit;
        registry.expire_tags(&rules, request.dry_run)
    });
    let expired = expired.await?;
    let tags = expired.into_iter().map(ExpiredTag::from).collect();
    Answer::new(StatusCode::OK).json(JSON, &ExpiredTags { tags })
}
