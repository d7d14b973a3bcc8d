//! Repositories.

use axum::extract::{Path, State};
use axum::response::Response;
use config::name::RepositoryName;
use http::StatusCode;
use http::request::Parts;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::Front;
use super::super::access::held;
use super::super::answer::Answer;
use super::super::body::{blocking, lasting};
use super::super::error::ApiError;
use super::access::{Need, authorize, kept, removed as gone};
use super::images::no_repository;
use super::page::Paging;
use super::{Refusal, acting, repository, request_id};
use crate::access::immutable::Immutable;
use crate::service::{Emptied, RepositoryRow};

/// Repositories, and where the list goes on.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RepositoryList {
    pub repositories: Vec<RepositoryRow>,
    /// The `last` of the next part; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What went with a repository.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RemovedRepository {
    pub name: String,
    pub manifests: u64,
    pub blobs: u64,
}

/// List the repositories with their sizes
#[utoipa::path(
    get, path = "/api/v1/repositories", tag = "repositories", params(Paging),
    responses((status = 200, body = RepositoryList), (status = 403, body = Refusal)),
)]
pub(super) async fn list(
    State(front): State<Front>,
    paging: Paging,
    mut parts: Parts,
) -> Result<Response, ApiError> {
    authorize(&front, &mut parts, Need::Look, None).await?;
    let wanted = paging.clone();
    let page = blocking(move || front.registry.repository_page(wanted.listing())).await?;
    let next = page
        .items
        .last()
        .filter(|_| page.more)
        .map(|row| row.name.clone());
    let list = RepositoryList {
        repositories: page.items,
        next,
    };
    paging.answer("/api/v1/repositories", list.next.as_deref(), &list)
}

/// Show one repository
#[utoipa::path(
    get, path = "/api/v1/repositories/{repository}", tag = "repositories",
    params(("repository" = String, Path, description = "Its slashes are written %2F")),
    responses((status = 200, body = RepositoryRow), (status = 403, body = Refusal), (status = 404, body = Refusal)),
)]
pub(super) async fn one(
    State(front): State<Front>,
    Path(name): Path<String>,
    mut parts: Parts,
) -> Result<Response, ApiError> {
    let name = repository(&name)?;
    authorize(&front, &mut parts, Need::Look, Some(&name)).await?;
    let of = name.clone();
    let row = blocking(move || front.registry.repository_row(&of)).await?;
    let row = row.ok_or_else(|| no_repository(&name))?;
    Answer::new(StatusCode::OK).json("application/json", &row)
}

/// Remove a repository with everything in it
#[utoipa::path(
    delete, path = "/api/v1/repositories/{repository}", tag = "repositories",
    params(("repository" = String, Path, description = "Its slashes are written %2F")),
    responses((status = 200, body = RemovedRepository), (status = 403, body = Refusal), (status = 404, body = Refusal)),
)]
pub(super) async fn remove(
    State(front): State<Front>,
    Path(name): Path<String>,
    mut parts: Parts,
) -> Result<Response, ApiError> {
    let name = repository(&name)?;
    let asker = authorize(&front, &mut parts, Need::Change, Some(&name)).await?;
    let keep = kept(asker, &name);
    lasting(remove_noted(front, name, parts, keep)).await?
}

/// The removal, and its line in the audit log.
async fn remove_noted(
    front: Front,
    name: RepositoryName,
    parts: Parts,
    keep: Immutable,
) -> Result<Response, ApiError> {
    let (registry, of) = (acting(&front, &parts), name.clone());
    let removed = blocking(move || registry.delete_repository(&of, &keep)).await?;
    let (manifests, blobs) = match removed {
        Emptied::Done { manifests, blobs } => (manifests, blobs),
        Emptied::Absent => return Err(no_repository(&name)),
        Emptied::Held { tag } => return Err(held(&tag)),
    };
    tracing::info!(repository = %name, manifests, blobs, request = ?request_id(&parts), "repository removed");
    gone(&front, &parts, &name, None).await;
    let name = name.to_string();
    Answer::new(StatusCode::OK).json(
        "application/json",
        &RemovedRepository {
            name,
            manifests,
            blobs,
        },
    )
}
