//! Images and builds over the control API.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};

use crate::api::caller::OfCaller;
use crate::api::stream::{Verb, blocking, long};
use crate::api::types::{
    BuildRequest, FromHostRequest, HistoryRequest, ListImages, PruneRequest, PullRequest,
    PushRequest, RawImage, RemoveImage, TagRequest, UnpackRequest,
};
use crate::app::App;
use crate::images::caller::Caller;
use crate::images::remove::User;

/// A Dockerfile on standard input crosses over in the request, at its longest with every byte as six of
/// JSON; and so do secrets.
const MAX_BUILD: usize = 128 << 20;

fn builds() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/builds", post(build))
        .route("/v1/builds/check", post(check_build))
        .layer(DefaultBodyLimit::max(MAX_BUILD))
}

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/images", get(list))
        .route("/v1/images/pull", post(pull))
        .route("/v1/images/push", post(push))
        .route("/v1/images/tag", post(tag))
        .route("/v1/images/remove", post(remove))
        .route("/v1/images/prune", post(prune))
        .route("/v1/images/inspect", post(inspect))
        .route("/v1/images/raw", post(raw))
        .route("/v1/images/history", post(history))
        .route("/v1/images/check", post(check))
        .route("/v1/images/unpack", post(unpack))
        .route("/v1/images/from-host", post(from_host))
        .merge(builds())
}

async fn list(State(app): State<Arc<App>>, Query(wanted): Query<ListImages>) -> Response {
    blocking(move || app.images.list(wanted)).await
}

async fn pull(
    State(app): State<Arc<App>>,
    OfCaller(caller): OfCaller,
    Json(request): Json<PullRequest>,
) -> Response {
    let verb = Verb::new("pull", &request.reference);
    long(app, verb, move |app, progress, cancel| {
        let images = app.images.for_caller(caller);
        images.pull(&request, progress, &cancel)
    })
}

async fn push(
    State(app): State<Arc<App>>,
    OfCaller(caller): OfCaller,
    Json(request): Json<PushRequest>,
) -> Response {
    let verb = Verb::new("push", &request.reference);
    long(app, verb, move |app, progress, cancel| {
        let images = app.images.for_caller(caller);
        images.push(&request.reference, progress, &cancel)
    })
}

async fn tag(State(app): State<Arc<App>>, Json(request): Json<TagRequest>) -> Response {
    blocking(move || app.images.tag(&request.source, &request.target)).await
}

async fn remove(State(app): State<Arc<App>>, Json(request): Json<RemoveImage>) -> Response {
    blocking(move || {
        let records = app.sandboxes.list()?.into_iter();
        let users: Vec<User> = records
            .map(|record| User {
                sandbox: record.name,
                digest: record.image_digest,
            })
            .collect();
        app.images.remove(&request, &users)
    })
    .await
}

async fn prune(State(app): State<Arc<App>>, Json(request): Json<PruneRequest>) -> Response {
    blocking(move || app.images.prune(request)).await
}

async fn inspect(State(app): State<Arc<App>>, Json(request): Json<PushRequest>) -> Response {
    blocking(move || app.images.inspect(&request.reference)).await
}

async fn raw(State(app): State<Arc<App>>, Json(request): Json<RawImage>) -> Response {
    blocking(move || app.images.raw(&request)).await
}

async fn history(State(app): State<Arc<App>>, Json(request): Json<HistoryRequest>) -> Response {
    blocking(move || app.images.history(&request)).await
}

async fn check(State(app): State<Arc<App>>, Json(request): Json<PushRequest>) -> Response {
    let verb = Verb::new("check", &request.reference);
    long(app, verb, move |app, progress, cancel| {
        app.images
            .check(&request.reference, progress.as_ref(), &cancel)
    })
}

async fn unpack(
    State(app): State<Arc<App>>,
    OfCaller(caller): OfCaller,
    Json(request): Json<UnpackRequest>,
) -> Response {
    let verb = Verb::new("unpack", &request.reference);
    long(app, verb, move |app, progress, cancel| {
        let images = app.images.for_caller(caller);
        images.unpack(&request, progress, &cancel)
    })
}

async fn from_host(State(app): State<Arc<App>>, Json(request): Json<FromHostRequest>) -> Response {
    let verb = Verb::new(
        "from-host",
        request.reference.as_deref().unwrap_or_default(),
    );
    long(app, verb, move |app, progress, cancel| {
        app.images.from_host(&request, progress.as_ref(), &cancel)
    })
}

async fn build(
    State(app): State<Arc<App>>,
    OfCaller(caller): OfCaller,
    Json(request): Json<BuildRequest>,
) -> Response {
    let verb = Verb::new("build", request.context.to_string_lossy());
    long(app, verb, move |app, progress, cancel| {
        let caller = match request.registry_mirrors.is_empty() {
            true => caller,
            false => Some(Caller {
                mirrors: request.registry_mirrors.clone(),
                ..caller.unwrap_or_default()
            }),
        };
        let images = app.images.for_caller(caller);
        images.build(&request, progress, &cancel)
    })
}

async fn check_build(State(app): State<Arc<App>>, Json(request): Json<BuildRequest>) -> Response {
    blocking(move || app.images.check_build(&request)).await
}
