//! Workspaces over the control API.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use crate::api::caller::OfCaller;
use crate::api::frames;
use crate::api::sandboxes::read_body;
use crate::api::stream::{Verb, blocking, failed, long, off_thread};
use crate::api::types::{ExecRequest, UpRequest, UpSource};
use crate::app::App;
use crate::client::USER_FOLDER;
use crate::error::{Failure, Outcome};

pub(super) fn routes(app: &Arc<App>) -> Router<Arc<App>> {
    Router::new()
        .route("/v1/workspaces", get(list).post(up))
        .route("/v1/workspaces/{name}", get(status).delete(delete))
        .route("/v1/workspaces/{name}/exec", post(exec))
        .route("/v1/workspaces/{name}/stop", post(stop))
        .route("/v1/workspaces/{name}/start", post(start))
        .route("/v1/workspaces/{name}/logs", get(logs))
        .route_layer(middleware::from_fn_with_state(
            Arc::clone(app),
            check_user_folder,
        ))
}

/// A daemon knows the workspaces of one user folder; a caller who means another must not be shown,
/// and change, these.
async fn check_user_folder(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let told = request.headers().get(USER_FOLDER);
    let told = told.map(|told| std::path::Path::new(OsStr::from_bytes(told.as_bytes())));
    match told {
        Some(told) if !is_same(told, app.user_folder()) => failed(
            &Failure::conflict(format!(
                "the daemon keeps workspaces in {}, not in {}",
                app.user_folder().display(),
                told.display()
            ))
            .hint("Stop it with `devpod daemon stop`; the next command starts one for your folder.")
            .hint("Or set DEVPOD_HOME to the daemon's folder, or use another data folder."),
        ),
        _ => next.run(request).await,
    }
}

/// Whether both paths lead to one folder.
fn is_same(one: &std::path::Path, other: &std::path::Path) -> bool {
    let real = |path: &std::path::Path| std::fs::canonicalize(path).ok();
    one == other || real(one).is_some_and(|one| Some(one) == real(other))
}

async fn list(State(app): State<Arc<App>>) -> Response {
    blocking(move || app.workspaces().list()).await
}

async fn up(
    State(app): State<Arc<App>>,
    OfCaller(caller): OfCaller,
    Json(request): Json<UpRequest>,
) -> Response {
    let verb = Verb::new("up", subject(&request));
    long(app, verb, move |app, progress, cancel| {
        app.workspaces_for(caller.as_ref())?
            .up(&request, progress, &cancel)
    })
}

/// What an `up` is about. A repository's URL may carry a password, so it is not told.
fn subject(request: &UpRequest) -> String {
    match (&request.name, &request.source) {
        (Some(name), _) | (None, UpSource::Name(name)) => name.clone(),
        (None, UpSource::Folder(path)) => path.to_string_lossy().into_owned(),
        (None, UpSource::Repo(_)) => "a repository".to_owned(),
        (None, UpSource::Unset) => String::new(),
    }
}

async fn status(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    blocking(move || app.workspaces().status(&name)).await
}

async fn stop(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    let verb = Verb::new("stop", &name);
    long(app, verb, move |app, progress, cancel| {
        app.workspaces().stop(&name, progress, &cancel)
    })
}

async fn start(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    let verb = Verb::new("start", &name);
    long(app, verb, move |app, progress, cancel| {
        app.workspaces().start(&name, progress, &cancel)
    })
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
    let (stream, busy) = off_thread(move || {
        let workspaces = app.workspaces();
        let stream = workspaces.exec(&name, &wanted)?;
        let busy = workspaces
            .sandbox_of(&name)
            .map(|id| app.sandboxes.busy(&id));
        Ok((stream, busy))
    })
    .await?;
    frames::join(request, stream, async move { drop(busy) })
}

async fn logs(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    match tokio::task::spawn_blocking(move || app.workspaces().logs(&name)).await {
        Ok(Ok(bytes)) => Response::new(axum::body::Body::from(bytes)),
        Ok(Err(failure)) => failed(&failure),
        Err(_) => failed(&Failure::internal("the daemon's worker died")),
    }
}
