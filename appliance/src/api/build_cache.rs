//! The build cache over the control API.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use crate::api::stream::blocking;
use crate::app::App;

/// What kind of thing a build remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheKind {
    /// What a step made.
    Step,
    /// The folder of a cache mount.
    Mount,
    /// The hashes of a context's files.
    Hashes,
    /// A file that ADD fetched.
    Download,
    /// What was fetched of a git repository.
    Repository,
}

/// A row of `devpod build-cache ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheRow {
    pub id: String,
    pub kind: CacheKind,
    /// The instruction, or the id of the cache mount.
    pub made_by: Option<String>,
    /// RFC 3339; a day is as fine as it gets.
    pub last_used: String,
    /// On disk.
    pub bytes: u64,
    /// An image or a sandbox stands on it: its room would not be free without the cache.
    pub in_use: bool,
}

/// `devpod build-cache prune`; without anything said what was of no use for 30 days.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneCache {
    pub all: bool,
    /// Only what was not used for so many seconds.
    pub older_than: Option<u64>,
    /// The longest unused goes until this many bytes are left.
    pub keep_storage: Option<u64>,
    pub dry_run: bool,
}

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/build-cache", get(list))
        .route("/v1/build-cache/prune", post(prune))
}

async fn list(State(app): State<Arc<App>>) -> Response {
    blocking(move || app.images.build_cache()).await
}

async fn prune(State(app): State<Arc<App>>, Json(request): Json<PruneCache>) -> Response {
    blocking(move || app.images.prune_build_cache(&request)).await
}
