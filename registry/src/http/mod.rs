//! The OCI Distribution API over a [`Registry`].
//!
//! One handler serves all of `/v2/`: the route is decided by [`route`], the verbs are the service's,
//! and refusals become responses in `error`. Who asks, and whether they may, is decided at the door
//! ([`crate::access`]), where it is also decided which repository is meant. Nothing blocks an async thread:
//! files and index are touched on blocking threads only.

mod access;
mod answer;
mod audit;
mod blobs;
mod body;
mod browser;
mod connection;
mod error;
mod feed;
mod front;
pub mod health;
mod listings;
pub mod manage;
mod manifests;
mod mirrored;
pub mod observe;
mod pace;
mod patient;
pub mod peer;
mod places;
mod query;
mod range;
pub mod route;
mod scope;
mod sendfile;
mod server;
pub mod tls;
mod token;
mod unread;
mod uploads;
mod warning;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::header::{ALLOW, EXPECT, HeaderName};
use http::request::Parts;
use http::{Extensions, HeaderValue, Method, StatusCode};

use self::access::Asker;
use self::answer::Answer;
use self::error::{ApiError, Code};
pub use self::front::{Front, Readers};
use self::manage::Owner;
use self::observe::{RequestId, Seen};
use self::query::Query;
use self::route::Route;
pub use self::server::{Limits, Transport, serve, serve_router};
use crate::access::Caller;
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
        .merge(token::routes())
        .layer(middleware::from_fn_with_state(
            front.clone(),
            observe::observe,
        ))
        .with_state(front)
}

/// Who asked, as the log and events call them.
fn actor(extensions: &Extensions) -> &str {
    match (extensions.get::<Owner>(), extensions.get::<Caller>()) {
        (Some(Owner), _) => "owner",
        (None, Some(caller)) => caller.name(),
        (None, None) => "anonymous",
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
    if is_read(request.method()) {
        return serve_one(front, request).await;
    }
    let served = body::lasting(serve_one(front, request)).await;
    served.unwrap_or_else(IntoResponse::into_response)
}

/// The answer, which has its line in the audit log.
async fn serve_one(front: Front, request: Request) -> Response {
    let (mut parts, mut body) = request.into_parts();
    let mut response = match dispatch(front.clone(), &mut parts, &mut body).await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(method = %parts.method, path = ?parts.uri.path(), ?error, "refused");
            body::refuse(error, &mut body, parts.headers.contains_key(EXPECT)).await
        }
    };
    let version = HeaderValue::from_static("registry/2.0");
    response.headers_mut().insert(VERSION, version);
    let line = audit::served(&front, &parts, &response);
    audit::write(&front, line).await;
    let seen = Seen::of(parts.extensions.get::<Route>(), actor(&parts.extensions));
    response.extensions_mut().insert(seen);
    response
}

async fn dispatch(front: Front, parts: &mut Parts, body: &mut Body) -> Result<Response, ApiError> {
    let query = Query::parse(parts.uri.query());
    let route = route::parse(parts.uri.path())?;
    let asking = scope::read(&front, route, &query, &parts.method)?;
    let (asker, scoped) = access::admit(&front, parts, asking).await?;
    if let Some(unknown) = scoped.unknown {
        return Err(unknown);
    }
    refuse_guarded(&front.registry, &scoped.route, &parts.method)?;
    let registry = front.registry.on_behalf_of(origin(&parts.extensions));
    let mut looks = 0;
    let (response, warning) = loop {
        looks += 1;
        let brought = mirrored::bring(&front, &scoped, parts).await?;
        if let Some(response) = brought.response {
            break (response, brought.warning);
        }
        let (registry, asker, route) = (registry.clone(), asker.clone(), scoped.route.clone());
        match answer(registry, asker, route, &query, parts, body).await {
            // An eviction came between; the other registry still has it.
            Err(error) if brought.seen && looks == 1 && error.status() == StatusCode::NOT_FOUND => {
            }
            answered => break (answered?, brought.warning),
        }
    };
    Ok(scope::mark(response, scoped.namespace, warning))
}

/// The answer with what the registry has.
async fn answer(
    registry: Registry,
    asker: Asker,
    route: Route,
    query: &Query,
    parts: &Parts,
    body: &mut Body,
) -> Result<Response, ApiError> {
    let allowed = allowed(&route);
    match route {
        Route::Ping if is_read(&parts.method) => {
            Answer::new(StatusCode::OK).json("application/json", &serde_json::json!({}))
        }
        Route::Catalog if is_read(&parts.method) => listings::catalog(registry, asker, query).await,
        Route::Tags(repository) if is_read(&parts.method) => {
            listings::tags(registry, repository, query).await
        }
        Route::Referrers(repository, subject) if is_read(&parts.method) => {
            listings::referrers(registry, repository, subject, query).await
        }
        Route::Blob(repository, digest) => match parts.method {
            Method::GET => blobs::get(registry, repository, digest, parts).await,
            Method::HEAD => blobs::head(registry, repository, digest, &parts.headers).await,
            Method::DELETE => blobs::delete(registry, asker, repository, digest).await,
            _ => Err(wrong_method(&parts.method, allowed)),
        },
        Route::Manifest(repository, target) => match parts.method {
            Method::GET => manifests::get(registry, repository, target, &parts.headers).await,
            Method::HEAD => manifests::head(registry, repository, target, &parts.headers).await,
            Method::DELETE => manifests::delete(registry, asker, repository, target).await,
            Method::PUT => {
                manifests::put(registry, asker, repository, target, query, parts, body).await
            }
            _ => Err(wrong_method(&parts.method, allowed)),
        },
        Route::Uploads(repository) if parts.method == Method::POST => {
            uploads::start(registry, asker, repository, query, &parts.headers, body).await
        }
        Route::Upload(repository, session) => match parts.method {
            Method::GET | Method::HEAD => uploads::status(registry, repository, session).await,
            Method::PATCH => {
                uploads::patch(registry, repository, session, &parts.headers, body).await
            }
            Method::PUT => {
                uploads::finish(registry, repository, session, query, &parts.headers, body).await
            }
            Method::DELETE => uploads::cancel(registry, repository, session).await,
            _ => Err(wrong_method(&parts.method, allowed)),
        },
        _ => Err(wrong_method(&parts.method, allowed)),
    }
}

/// Names that only this process writes can be read and nothing else.
fn refuse_guarded(registry: &Registry, route: &Route, method: &Method) -> Result<(), ApiError> {
    if is_read(method) {
        return Ok(());
    }
    match route.repository().and_then(registry.policy().guard) {
        Some(why) => Err(ApiError::new(StatusCode::FORBIDDEN, Code::Denied, why).of_access()),
        None => Ok(()),
    }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// What `Allow` says about an endpoint (RFC 9110, section 15.5.6).
fn allowed(route: &Route) -> &'static str {
    match route {
        Route::Ping | Route::Catalog | Route::Tags(_) | Route::Referrers(..) => "GET, HEAD",
        Route::Blob(..) => "GET, HEAD, DELETE",
        Route::Manifest(..) => "GET, HEAD, PUT, DELETE",
        Route::Uploads(_) => "POST",
        Route::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
    }
}

fn wrong_method(method: &Method, allowed: &str) -> ApiError {
    let message = format!("method {method} means nothing here");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported, message).header(ALLOW, allowed)
}
