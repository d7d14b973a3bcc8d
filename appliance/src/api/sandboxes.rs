//! Sandboxes over the control API.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use crate::api::frames;
use crate::api::stream::{Verb, blocking, cancel, failed, long};
use crate::api::types::{ExecRequest, SandboxRequest, StopRequest};
use crate::app::App;
use crate::error::{Failure, Outcome};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/sandboxes", get(list).post(run))
        .route("/v1/sandboxes/{name}", axum::routing::delete(remove))
        .route("/v1/sandboxes/{name}/attach", post(attach))
        .route("/v1/sandboxes/{name}/exec", post(exec))
        .route("/v1/sandboxes/{name}/stop", post(stop))
        .route("/v1/sandboxes/{name}/logs", get(logs))
}

async fn list(State(app): State<Arc<App>>) -> Response {
    blocking(move || {
        let sandboxes = &app.sandboxes;
        sandboxes
            .list()?
            .iter()
            .map(|record| sandboxes.row(record))
            .collect::<Outcome<Vec<_>>>()
    })
    .await
}

async fn run(State(app): State<Arc<App>>, Json(request): Json<SandboxRequest>) -> Response {
    let verb = Verb::new("sandbox run", &request.image);
    long(app, verb, move |app, progress, cancel| {
        let runnable = app
            .images
            .runnable(&request.image, None, progress.as_ref(), &cancel)?;
        let record = app.sandboxes.create(&runnable, &request)?;
        let started = if request.attach {
            app.sandboxes
                .start_attached(&record)
                .map(|stream| app.await_caller(&record.id, stream))
        } else {
            app.sandboxes.start(&record)
        };
        if let Err(failure) = started {
            app.sandboxes.remove(&record, true)?;
            return Err(failure);
        }
        if record.remove {
            app.sweep_when_done(&record);
        }
        app.sandboxes.row(&record)
    })
}

/// The stream of a sandbox that was just started for this caller, or of one that runs.
async fn attach(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let opened = frames::check(&request).and_then(|()| match app.waiting.take(&name) {
        Some(stream) => Ok(stream),
        None => app
            .sandboxes
            .find(&name)
            .and_then(|record| app.sandboxes.attach(&record)),
    });
    opened
        .and_then(|stream| frames::join(request, stream, std::future::ready(())))
        .unwrap_or_else(|failure| failed(&failure))
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
    let stream = tokio::task::spawn_blocking(move || {
        app.sandboxes.exec(&app.sandboxes.find(&name)?, &wanted)
    })
    .await
    .map_err(|_| Failure::internal("the daemon's worker died"))??;
    frames::join(request, stream, std::future::ready(()))
}

/// Reads a JSON body and gives the rest of the request back, for the upgrade.
pub(super) async fn read_body<T: serde::de::DeserializeOwned>(
    request: Request,
) -> Outcome<(T, Request)> {
    let (parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, super::MAX_REQUEST)
        .await
        .map_err(|error| Failure::because(crate::error::Kind::Invalid, "request", &error))?;
    let value = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::because(crate::error::Kind::Invalid, "request", &error))?;
    Ok((value, Request::from_parts(parts, Body::empty())))
}

async fn stop(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Json(request): Json<StopRequest>,
) -> Response {
    blocking(move || {
        let record = app.sandboxes.find(&name)?;
        app.sandboxes
            .stop(&record, request.grace.map(Duration::from_secs))?;
        Ok(json!({ "id": record.id }))
    })
    .await
}

#[derive(Debug, Deserialize)]
struct RemoveQuery {
    #[serde(default)]
    force: bool,
}

async fn remove(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Response {
    blocking(move || {
        let record = app.sandboxes.find(&name)?;
        app.sandboxes.remove(&record, query.force)?;
        Ok(json!({ "id": record.id }))
    })
    .await
}

#[derive(Debug, Deserialize)]
struct LogsQuery {
    #[serde(default)]
    follow: bool,
}

async fn logs(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Response {
    let record = match app.sandboxes.find(&name) {
        Ok(record) => record,
        Err(failure) => return failed(&failure),
    };
    let (sender, mut receiver) = mpsc::channel::<Bytes>(64);
    let (cancel, guard) = cancel(&app.shutdown, || {});
    let stopped = cancel.clone();
    tokio::task::spawn_blocking(move || {
        let mut each = |line: unpacker::container::supervise::LogLine| {
            if sender.blocking_send(Bytes::from(line.log)).is_err() {
                stopped.cancel();
            }
        };
        if let Err(failure) = app
            .sandboxes
            .logs(&record, query.follow, &cancel, &mut each)
        {
            tracing::warn!(failure = ?failure.to_string(), "logs ended early");
        }
    });
    let lines = stream::poll_fn(move |context| {
        let _alive = &guard;
        receiver
            .poll_recv(context)
            .map(|line| line.map(Ok::<_, std::convert::Infallible>))
    });
    Body::from_stream(lines).into_response()
}
