//! Accounts at other registries over the control API. A password goes in and never comes out.

use std::fmt;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use config::credentials::Secret;
use config::registry::upstream::Host;
use serde::{Deserialize, Serialize};

use crate::api::stream::blocking;
use crate::app::App;
use crate::error::{Failure, Outcome};

/// What an account is added with.
#[derive(Clone, Serialize, Deserialize)]
pub struct AddAccount {
    pub host: String,
    pub username: String,
    pub password: String,
}

impl fmt::Debug for AddAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddAccount")
            .field("host", &self.host)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/registries/external", get(list).post(add))
        .route("/v1/registries/external/{host}", get(show))
        .route("/v1/registries/external/{host}/remove", post(remove))
}

async fn list(State(app): State<Arc<App>>) -> Response {
    blocking(move || app.accounts().list()).await
}

async fn show(State(app): State<Arc<App>>, Path(host): Path<String>) -> Response {
    blocking(move || app.accounts().show(&parse(&host)?)).await
}

async fn add(State(app): State<Arc<App>>, Json(request): Json<AddAccount>) -> Response {
    blocking(move || {
        let password = Secret::new(request.password);
        let host = parse(&request.host)?;
        let added = app.accounts().add(&host, &request.username, &password)?;
        tracing::info!(host = added.host, "account at another registry added");
        Ok(added)
    })
    .await
}

async fn remove(State(app): State<Arc<App>>, Path(host): Path<String>) -> Response {
    blocking(move || {
        let removed = app.accounts().remove(&parse(&host)?)?;
        tracing::info!(host = removed.host, "account at another registry removed");
        Ok(removed)
    })
    .await
}

fn parse(host: &str) -> Outcome<Host> {
    host.parse()
        .map_err(|error: config::registry::upstream::BadHost| Failure::invalid(error.to_string()))
}
