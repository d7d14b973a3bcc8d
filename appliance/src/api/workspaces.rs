//! Workspaces over the control API.

use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use crate::api::frames;
use crate::api::sandboxes::read_body;
use crate::api::stream::{blocking, failed, long};
use crate::api::types::{ExecRequest, UpRequest};
use crate::app::App;
use crate::error::{Failure, Outcome};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/workspaces", get(list).post(up))
        .route("/v1/workspaces/{name}", get(status).delete(delete))
        .route("/v1/workspaces/{name}/exec", post(exec))
        .route("/v1/workspaces/{name}/stop", post(stop))
        .route("/v1/workspaces/{name}/start", post(start))
        .route("/v1/workspaces/{name}/logs", get(logs))
}

async fn list(State(app): State<Arc<App>>) -> Response {
    blocking(move || app.workspaces().list()).await
}

async fn up(State(app): State<Arc<App>>, Json(request): Json<UpRequest>) -> Response {
    long(move |progress, cancel| app.workspaces().up(&request, progress, &cancel))
}

async fn status(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    blocking(move || app.workspaces().status(&name)).await
}

async fn stop(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    long(move |progress, cancel| app.workspaces().stop(&name, progress, &cancel))
}

async fn start(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    long(move |progress, cancel| app.workspaces().start(&name, progress, &cancel))
}

#[derive(Debug, Deserialize)]
struct DeleteQuery {
    #[serde(default)]
    force: bool,
}

async fn delete(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Query(query): Query<DeleteQuery>,
) -> Response {
    blocking(move || app.workspaces().delete(&name, query.force)).await
}

async fn exec(State(app): State<Arc<App>>, Path(name): Path<String>, request: Request) -> Response {
    match open_exec(app, name, request).await {
        Ok(response) => response,
        Err(failure) => failed(&failure),
    }
}

async fn open_exec(app: Arc<App>, name: String, request: Request) -> Outcome<Response> {
    frames::check(&request)?;
    let (wanted, request) = read_body::<ExecRequest>(request).await?;
    let stream = tokio::task::spawn_blocking(move || app.workspaces().exec(&name, &wanted))
        .await
        .map_err(|_| Failure::internal("the daemon's worker died"))??;
    frames::join(request, stream, std::future::ready(()))
}

async fn logs(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    match tokio::task::spawn_blocking(move || app.workspaces().logs(&name)).await {
        Ok(Ok(bytes)) => Response::new(axum::body::Body::from(bytes)),
        Ok(Err(failure)) => failed(&failure),
        Err(_) => failed(&Failure::internal("the daemon's worker died")),
    }
}
