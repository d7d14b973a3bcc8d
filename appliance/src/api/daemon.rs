//! The daemon itself: status and shutdown.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use http::HeaderValue;

use crate::api::stream::{failed, short};
use crate::api::types::DaemonStatus;
use crate::app::App;
use crate::client::STOPPING;
use crate::error::{Failure, Kind};

const SHUTDOWN: &str = "/v1/shutdown";

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/status", get(status))
        .route(SHUTDOWN, post(shutdown))
}

async fn status(State(app): State<Arc<App>>) -> Json<DaemonStatus> {
    Json(app.status.clone())
}

/// Refuses what reaches a daemon that ends: the command asks a new one instead.
pub(super) async fn refuse_when_stopping(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    if !app.shutdown.is_cancelled() || request.uri().path() == SHUTDOWN {
        return next.run(request).await;
    }
    let failure = Failure::new(Kind::Unavailable, "the daemon is stopping");
    let mut response = failed(&failure.hint("Run the command again in a moment."));
    let said = HeaderValue::from_static("true");
    response.headers_mut().insert(STOPPING, said);
    response
}

async fn shutdown(State(app): State<Arc<App>>) -> Response {
    app.stop();
    short(Ok(serde_json::json!({ "stopping": true })))
}
