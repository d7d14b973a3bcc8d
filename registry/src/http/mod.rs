//! The OCI Distribution API over a [`Registry`].
//!
//! One handler serves all of `/v2/`: the route is decided by [`route`], the verbs are the service's,
//! and refusals become responses in `error`. Nothing blocks an async thread: files and index are
//! touched on blocking threads only.

mod answer;
mod blobs;
mod body;
mod connection;
mod error;
mod front;
pub mod health;
mod listings;
pub mod manage;
mod manifests;
pub mod observe;
mod patient;
mod query;
mod range;
pub mod route;
mod sendfile;
mod server;
pub mod tls;
mod uploads;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware;
use axum::response::Response;
use axum::routing::any;
use http::header::{EXPECT, HeaderName};
use http::request::Parts;
use http::{Extensions, HeaderValue, Method, StatusCode};

use self::answer::Answer;
use self::error::{ApiError, Code};
pub use self::front::{Front, Turns};
use self::manage::Owner;
use self::observe::{RequestId, Seen};
use self::query::Query;
use self::route::{Route, RouteError};
pub use self::server::{Limits, Transport, serve, serve_router};
use crate::events::Origin;
use crate::service::Registry;

/// Which protocol this is, on every response (docker's v2 API; clients probe for it).
const VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// The routes of a registry, to be served alone or merged with others.
pub fn router(front: Front) -> Router {
    Router::new()
        .route("/v2", any(handle))
        .route("/v2/", any(handle))
        .route("/v2/{*rest}", any(handle))
        .merge(health::routes())
        .merge(manage::routes())
        .layer(middleware::from_fn_with_state(
            front.clone(),
            observe::observe,
        ))
        .with_state(front)
}

/// Who asked, as the log and events call them.
fn actor(extensions: &Extensions) -> &str {
    match extensions.get::<Owner>() {
        Some(Owner) => "owner",
        None => "anonymous",
    }
}

fn origin(extensions: &Extensions) -> Origin {
    let request = extensions.get::<RequestId>();
    Origin {
        actor: actor(extensions).to_owned(),
        request: request.map_or("", RequestId::as_str).to_owned(),
    }
}

async fn handle(State(front): State<Front>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let route = route::parse(parts.uri.path());
    let seen = Seen::of(route.as_ref().ok(), actor(&parts.extensions));
    let mut response = match dispatch(front, route, &parts, &mut body).await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(method = %parts.method, path = ?parts.uri.path(), ?error, "refused");
            body::refuse(error, &mut body, parts.headers.contains_key(EXPECT)).await
        }
    };
    let version = HeaderValue::from_static("registry/2.0");
    response.headers_mut().insert(VERSION, version);
    response.extensions_mut().insert(seen);
    response
}

async fn dispatch(
    front: Front,
    route: Result<Route, RouteError>,
    parts: &Parts,
    body: &mut Body,
) -> Result<Response, ApiError> {
    let registry = front.registry.on_behalf_of(origin(&parts.extensions));
    let query = Query::parse(parts.uri.query());
    let route = route?;
    refuse_guarded(&registry, &route, &parts.method)?;
    match route {
        Route::Ping if is_read(&parts.method) => {
            Answer::new(StatusCode::OK).json("application/json", &serde_json::json!({}))
        }
        Route::Catalog if is_read(&parts.method) => listings::catalog(registry, &query).await,
        Route::Tags(repository) if is_read(&parts.method) => {
            listings::tags(registry, repository, &query).await
        }
        Route::Referrers(repository, subject) if is_read(&parts.method) => {
            listings::referrers(registry, repository, subject, &query).await
        }
        Route::Blob(repository, digest) => match parts.method {
            Method::GET => blobs::get(registry, repository, digest, parts).await,
            Method::HEAD => blobs::head(registry, repository, digest).await,
            Method::DELETE => blobs::delete(registry, repository, digest).await,
            _ => Err(wrong_method(&parts.method)),
        },
        Route::Manifest(repository, target) => match parts.method {
            Method::GET => manifests::get(registry, repository, target, &parts.headers).await,
            Method::HEAD => manifests::head(registry, repository, target).await,
            Method::DELETE => manifests::delete(registry, repository, target).await,
            Method::PUT => {
                manifests::put(registry, repository, target, &query, &parts.headers, body).await
            }
            _ => Err(wrong_method(&parts.method)),
        },
        Route::Uploads(repository) if parts.method == Method::POST => {
            uploads::start(registry, repository, &query, &parts.headers, body).await
        }
        Route::Upload(repository, session) => match parts.method {
            Method::GET | Method::HEAD => uploads::status(registry, repository, session).await,
            Method::PATCH => {
                uploads::patch(registry, repository, session, &parts.headers, body).await
            }
            Method::PUT => {
                uploads::finish(registry, repository, session, &query, &parts.headers, body).await
            }
            Method::DELETE => uploads::cancel(registry, repository, session).await,
            _ => Err(wrong_method(&parts.method)),
        },
        _ => Err(wrong_method(&parts.method)),
    }
}

/// Names that only this process writes can be read and nothing else.
fn refuse_guarded(registry: &Registry, route: &Route, method: &Method) -> Result<(), ApiError> {
    if is_read(method) {
        return Ok(());
    }
    match route.repository().and_then(registry.policy().guard) {
        Some(why) => Err(ApiError::new(StatusCode::FORBIDDEN, Code::Denied, why)),
        None => Ok(()),
    }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn wrong_method(method: &Method) -> ApiError {
    let message = format!("method {method} means nothing here");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported, message)
}
