//! The daemon itself: status and shutdown.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};

use crate::api::stream::short;
use crate::api::types::DaemonStatus;
use crate::app::App;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/shutdown", post(shutdown))
}

async fn status(State(app): State<Arc<App>>) -> Json<DaemonStatus> {
    Json(app.status.clone())
}

async fn shutdown(State(app): State<Arc<App>>) -> Response {
    app.shutdown.cancel();
    short(Ok(serde_json::json!({ "stopping": true })))
}
