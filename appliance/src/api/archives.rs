//! Images to and from archives over the control API.

use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};

use crate::api::framed::{framed, incoming};
use crate::api::stream::{Verb, long};
use crate::api::types::{FilesRequest, LoadRequest, SaveRequest};
use crate::app::App;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/images/save", post(save))
        .route("/v1/images/files", post(files))
        .route("/v1/images/load", post(load))
}

async fn save(State(app): State<Arc<App>>, Json(request): Json<SaveRequest>) -> Response {
    let verb = Verb::new("save", request.images.join(" "));
    framed(app, verb, move |app, out, progress, cancel| {
        app.images
            .save_archive(&request, out, progress.as_ref(), cancel)
    })
}

async fn files(State(app): State<Arc<App>>, Json(request): Json<FilesRequest>) -> Response {
    let verb = Verb::new("files", &request.reference);
    framed(app, verb, move |app, out, progress, cancel| {
        app.images
            .write_files(&request, out, progress.as_ref(), cancel)
    })
}

/// The body is the archive; what it is called is in the query.
async fn load(
    State(app): State<Arc<App>>,
    Query(wanted): Query<LoadRequest>,
    request: Request,
) -> Response {
    let verb = Verb::new("load", wanted.name.clone().unwrap_or_default());
    let archive = incoming(request.into_body(), &app.shutdown);
    long(app, verb, move |app, progress, cancel| {
        app.images
            .load_archive(archive, &wanted, progress.as_ref(), &cancel)
    })
}
