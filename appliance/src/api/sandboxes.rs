//! Sandboxes over the control API.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use unpacker::container::supervise::{LogLine, LogOptions};

use crate::api::caller::OfCaller;
use crate::api::frames;
use crate::api::stream::{Verb, blocking, failed, lines, long, off_thread};
use crate::api::types::{ExecRequest, SandboxRequest, StopRequest};
use crate::app::App;
use crate::error::{Failure, Kind, Outcome};
use crate::sandbox::record::Record;
use crate::sandbox::removal::Removal;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/sandboxes", get(list).post(run))
        .route("/v1/sandboxes/{name}", get(show).delete(remove))
        .route("/v1/sandboxes/{name}/attach", post(attach))
        .route("/v1/sandboxes/{name}/exec", post(exec))
        .route("/v1/sandboxes/{name}/stop", post(stop))
        .route("/v1/sandboxes/{name}/logs", get(logs))
        .merge(super::life::routes())
}

async fn list(State(app): State<Arc<App>>) -> Response {
    blocking(move || {
        let mut rows = app.sandboxes.rows()?;
        rows.append(&mut app.sandboxes.broken()?);
        Ok(rows)
    })
    .await
}

async fn show(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    blocking(move || app.sandboxes.row(&app.sandboxes.find(&name)?)).await
}

async fn run(
    State(app): State<Arc<App>>,
    OfCaller(caller): OfCaller,
    Json(request): Json<SandboxRequest>,
) -> Response {
    let verb = Verb::new("sandbox run", &request.image);
    long(app, verb, move |app, progress, cancel| {
        let runnable = app.images.for_caller(caller).runnable(
            &request.image,
            None,
            progress.as_ref(),
            &cancel,
        )?;
        let start = |record: &Record| match request.attach {
            true => app.sandboxes.start_attached(record).map(Some),
            false => app.sandboxes.start(record).map(|()| None),
        };
        let (record, stream) = app.sandboxes.run(&runnable, &request, &cancel, start)?;
        if let Err(cancelled) = cancel.check() {
            // Whoever wanted it went away and does not know what it is called.
            app.sandboxes.remove(&record, Removal::WHOLE)?;
            return Err(Failure::from_error(Kind::Cancelled, &cancelled));
        }
        // Before anybody removes it: it may have ended already.
        let row = app.sandboxes.row(&record);
        if let Some(stream) = stream {
            app.await_caller(&record.id, stream);
        }
        if record.remove {
            app.sweep_when_done(&record);
        }
        app.keep(&record);
        row
    })
}

/// The stream of a sandbox that was just started for this caller, or of one that runs.
async fn attach(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    match open_attach(app, name, request).await {
        Ok(response) => response,
        Err(failure) => failed(&failure),
    }
}

async fn open_attach(app: Arc<App>, name: String, request: Request) -> Outcome<Response> {
    frames::check(&request)?;
    // Noted even when it has ended already, and gone.
    let busy = app.sandboxes.busy(&name);
    let stream = match app.waiting.take(&name) {
        Some(stream) => stream,
        None => off_thread(move || app.sandboxes.attach(&app.sandboxes.find(&name)?)).await?,
    };
    frames::join(request, stream, async move { drop(busy) })
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
    let (stream, busy) = off_thread(move || {
        let record = app.sandboxes.find(&name)?;
        let stream = app.sandboxes.exec(&record, &wanted)?;
        Ok((stream, app.sandboxes.busy(&record.id)))
    })
    .await?;
    frames::join(request, stream, async move { drop(busy) })
}

/// Reads a JSON body and gives the rest of the request back, for the upgrade.
pub(super) async fn read_body<T: serde::de::DeserializeOwned>(
    request: Request,
) -> Outcome<(T, Request)> {
    let (parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, super::MAX_REQUEST)
        .await
        .map_err(|error| Failure::because(Kind::Invalid, "request", &error))?;
    let value = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::because(Kind::Invalid, "request", &error))?;
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
    #[serde(default)]
    volumes: bool,
}

async fn remove(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Response {
    blocking(move || {
        let record = match app.sandboxes.find(&name) {
            Err(_) if app.sandboxes.remove_broken(&name)? => return Ok(json!({ "id": name })),
            found => found?,
        };
        let RemoveQuery { force, volumes } = query;
        app.sandboxes.remove(&record, Removal { force, volumes })?;
        Ok(json!({ "id": record.id }))
    })
    .await
}

#[derive(Debug, Deserialize)]
struct LogsQuery {
    #[serde(default)]
    follow: bool,
    /// So many of the last lines.
    tail: Option<usize>,
}

/// Lines of JSON, each with its stream and time.
async fn logs(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Response {
    let sandboxes = Arc::clone(&app.sandboxes);
    match off_thread(move || sandboxes.find(&name)).await {
        Ok(record) => {
            let sandboxes = Arc::clone(&app.sandboxes);
            let options = LogOptions {
                tail: query.tail,
                follow: query.follow,
            };
            lines(&app, move |each: &mut dyn FnMut(LogLine), cancel| {
                sandboxes.logs(&record, options, cancel, each)
            })
        }
        Err(failure) => failed(&failure),
    }
}
