//! The control API: HTTP/1.1 with JSON over a unix socket that only its owner may open.
//!
//! Short verbs answer one JSON value. Long ones answer lines of JSON, [`types::News`], the last of
//! which is the result or the failure. Interactive ones upgrade the connection to the container
//! crate's frames.

mod archives;
pub mod build_cache;
pub mod build_inputs;
pub mod caller;
mod daemon;
pub mod external;
mod framed;
mod frames;
mod images;
pub mod life;
mod outbox;
mod registry;
mod registry_tokens;
mod sandboxes;
pub mod stream;
pub mod types;
pub mod volumes;
mod workspaces;

use std::sync::Arc;

use ::registry::http::Front;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;

use crate::app::App;

/// Requests are small: names, options, an environment.
const MAX_REQUEST: usize = 8 << 20;

/// Every route of the control API.
pub fn router(app: Arc<App>, front: Front) -> Router {
    let tokens = registry_tokens::routes(Arc::clone(&front.access));
    let registry = registry::routes(front);
    Router::new()
        .merge(archives::routes())
        .merge(build_cache::routes())
        .merge(daemon::routes())
        .merge(external::routes())
        .merge(images::routes())
        .merge(sandboxes::routes())
        .merge(volumes::routes())
        .merge(workspaces::routes(&app))
        .merge(registry.with_state(()))
        .merge(tokens.with_state(()))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            daemon::refuse_when_stopping,
        ))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(app)
}
