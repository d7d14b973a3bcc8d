//! The life of a sandbox over the control API, beyond run, exec and stop.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::stream::{Verb, blocking, long};
use crate::api::types::StopRequest;
use crate::app::App;
use crate::error::Outcome;
use crate::sandbox::inspect;
use crate::sandbox::record::Record;
use crate::sandbox::removal::Removal;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/sandboxes/{name}/inspect", get(show))
        .route("/v1/sandboxes/{name}/top", get(top))
        .route("/v1/sandboxes/{name}/start", post(start))
        .route("/v1/sandboxes/{name}/restart", post(restart))
        .route("/v1/sandboxes/{name}/kill", post(kill))
        .route("/v1/sandboxes/{name}/rename", post(rename))
        .route("/v1/sandboxes/{name}/wait", post(wait))
        .route("/v1/sandboxes/prune", post(prune))
}

/// `devpod sandbox kill`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KillRequest {
    /// A name or a number.
    pub signal: String,
}

/// `devpod sandbox rename`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenameRequest {
    pub name: String,
}

async fn show(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    blocking(move || {
        let record = app.sandboxes.find(&name)?;
        inspect::show(&app.sandboxes, &record)
    })
    .await
}

async fn top(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    blocking(move || inspect::processes(&app.sandboxes, &app.sandboxes.find(&name)?)).await
}

async fn start(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    blocking(move || {
        let record = app.sandboxes.find(&name)?;
        if !app.sandboxes.is_running(&record)? {
            begin(&app, &record)?;
        }
        app.sandboxes.row(&record)
    })
    .await
}

fn begin(app: &Arc<App>, record: &Record) -> Outcome<()> {
    app.sandboxes.start(record)?;
    app.keep(record);
    Ok(())
}

async fn restart(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Json(request): Json<StopRequest>,
) -> Response {
    blocking(move || {
        let record = app.sandboxes.find(&name)?;
        app.sandboxes
            .stop(&record, request.grace.map(Duration::from_secs))?;
        begin(&app, &record)?;
        app.sandboxes.row(&record)
    })
    .await
}

async fn kill(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Json(request): Json<KillRequest>,
) -> Response {
    blocking(move || {
        let record = app.sandboxes.find(&name)?;
        app.sandboxes.signal(&record, &request.signal)?;
        Ok(json!({ "id": record.id }))
    })
    .await
}

async fn rename(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Json(request): Json<RenameRequest>,
) -> Response {
    blocking(move || {
        let record = app.sandboxes.find(&name)?;
        let renamed = app.sandboxes.rename(&record, &request.name)?;
        app.sandboxes.row(&renamed)
    })
    .await
}

/// Lasts as long as the sandbox, or its caller.
async fn wait(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    let verb = Verb::new("sandbox wait", &name);
    long(app, verb, move |app, _, cancel| {
        let record = app.sandboxes.find(&name)?;
        let code = app.sandboxes.wait(&record, &cancel)?;
        Ok(json!({ "id": record.id, "exitCode": code }))
    })
}

async fn prune(State(app): State<Arc<App>>) -> Response {
    blocking(move || {
        let mut removed: Vec<Value> = Vec::new();
        for record in app.sandboxes.list()? {
            if app.sandboxes.is_running(&record)? || record.is_of_workspace() {
                continue;
            }
            app.sandboxes.remove(&record, Removal::default())?;
            removed.push(json!({ "id": record.id, "name": record.name }));
        }
        Ok(removed)
    })
    .await
}
