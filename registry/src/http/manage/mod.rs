//! The management API: what people and their programs ask about images, and do to them.
//!
//! ```text
//! mod           the routes, and the document that describes them
//! care          scrubs, retention
//! access        who may: the one place that decides
//! images        images, tags
//! repositories  repositories
//! storage       disk usage, collections, upload sessions, events
//! page          a part of a list, and where it goes on
//! ```
//!
//! A handler is registered and documented in one move ([`utoipa_axum`]), so the OpenAPI document
//! cannot forget a route. A repository's name is one segment of a path: its slashes are written
//! `%2F`. Refusals have the form of the distribution API's.

mod access;
mod care;
mod images;
mod page;
mod repositories;
mod storage;

use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, Router, middleware};
use config::name::RepositoryName;
use http::request::Parts;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::{InfoBuilder, License, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use self::access::{Owner, Reach};
use super::error::{ApiError, Code};
use super::observe::{RequestId, observe};
use super::route::RouteError;
use super::{Front, origin};
use crate::service::Registry;

pub use self::care::{ExpiredTag, ExpiredTags, RetentionRequest, ScrubRequest, ScrubState};
pub use self::images::{ImageList, TagList, TagRow};
pub use self::repositories::{RemovedRepository, RepositoryList};
pub use self::storage::{CollectRequest, EventState, UploadList, WebhookState};

/// Where the document stands.
pub const OPENAPI: &str = "/api/v1/openapi.json";

/// A refusal, as the document describes it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    pub errors: Vec<RefusalReason>,
}

/// Why a request was refused.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RefusalReason {
    /// Such as `NAME_UNKNOWN` (distribution-spec, "Error Codes").
    pub code: String,
    pub message: String,
}

fn documented() -> OpenApiRouter<Front> {
    let info = InfoBuilder::new()
        .title("devpod registry")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Images, repositories and storage of a devpod registry.",
        ))
        .license(Some(License::new("Apache-2.0")))
        .build();
    let document = OpenApiBuilder::new().info(info).build();
    OpenApiRouter::with_openapi(document)
        .routes(routes!(images::list))
        .routes(routes!(repositories::list))
        .routes(routes!(repositories::one, repositories::remove))
        .routes(routes!(images::tags))
        .routes(routes!(images::remove_tag))
        .routes(routes!(images::of_repository))
        .routes(routes!(images::one, images::remove))
        .routes(routes!(storage::usage))
        .routes(routes!(storage::collect))
        .routes(routes!(care::last_scrub, care::scrub))
        .routes(routes!(care::retention))
        .routes(routes!(storage::uploads))
        .routes(routes!(storage::cancel))
        .routes(routes!(storage::events))
        .routes(routes!(openapi))
}

/// The document: OpenAPI 3.1.
pub fn document() -> OpenApi {
    documented().into_openapi()
}

/// The routes, below `/api/v1/`.
pub fn routes() -> Router<Front> {
    let (router, _) = documented().split_for_parts();
    // What leads nowhere gets the same form of refusal as everything else.
    router
        .method_not_allowed_fallback(wrong_method)
        .route("/api/v1/{*rest}", axum::routing::any(nothing))
}

/// The routes for the owner's own socket: whoever can open that may do anything.
pub fn owned(front: Front) -> Router {
    routes()
        .layer(middleware::from_fn_with_state(front.clone(), observe))
        .layer(Extension(Owner))
        .with_state(front)
}

/// The registry, acting for whoever asks.
fn acting(front: &Front, parts: &Parts) -> Registry {
    front.registry.on_behalf_of(origin(&parts.extensions))
}

fn request_id(parts: &Parts) -> Option<&str> {
    parts.extensions.get::<RequestId>().map(RequestId::as_str)
}

fn repository(text: &str) -> Result<RepositoryName, RouteError> {
    text.parse().map_err(RouteError::Name)
}

async fn nothing() -> Response {
    let message = format!("path is no endpoint of the management API; see {OPENAPI}");
    ApiError::not_found(Code::Unsupported, message).into_response()
}

async fn wrong_method(method: Method) -> Response {
    let message = format!("method {method} means nothing here; see {OPENAPI}");
    // axum adds which methods there are.
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported, message).into_response()
}

/// This document
#[utoipa::path(
    get, path = "/api/v1/openapi.json", tag = "about",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)),
)]
async fn openapi() -> Json<OpenApi> {
    Json(document())
}
