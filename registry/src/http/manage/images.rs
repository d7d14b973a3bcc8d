//! Images and tags.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use config::name::{RepositoryName, Tag, Target};
use http::StatusCode;
use http::request::Parts;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::Front;
use super::super::access::held;
use super::super::answer::Answer;
use super::super::body::{blocking, lasting};
use super::super::error::{ApiError, Code};
use super::super::query::encode;
use super::super::route::RouteError;
use super::Refusal;
use super::access::{Need, authorize, kept, removed};
use super::page::Paging;
use super::{acting, repository, request_id};
use crate::access::immutable::Immutable;
use crate::service::{Deleted, Image, ImageDetail};
use crate::store::index::Page;

/// Images, and where the list goes on.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ImageList {
    pub images: Vec<Image>,
    /// The `last` of the next part; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A tag and what it points at.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TagRow {
    pub tag: String,
    pub digest: String,
}

/// Tags, and where the list goes on.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TagList {
    pub tags: Vec<TagRow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

fn image_list(page: Page<Image>) -> ImageList {
    let next = page.items.last().filter(|_| page.more).map(|image| {
        let tag = image.tag.as_deref().unwrap_or_default();
        format!("{}:{tag}", image.repository)
    });
    ImageList {
        images: page.items,
        next,
    }
}

/// List the tagged images of all repositories
#[utoipa::path(
    get, path = "/api/v1/images", tag = "images", params(Paging),
    responses((status = 200, body = ImageList), (status = 403, body = Refusal)),
)]
pub(super) async fn list(
    State(front): State<Front>,
    paging: Paging,
    mut parts: Parts,
) -> Result<Response, ApiError> {
    authorize(&front, &mut parts, Need::Look, None).await?;
    let wanted = paging.clone();
    let page = blocking(move || front.registry.image_page(None, wanted.listing())).await?;
    let list = image_list(page);
    paging.answer("/api/v1/images", list.next.as_deref(), &list)
}

/// List the tagged images of a repository
#[utoipa::path(
    get, path = "/api/v1/repositories/{repository}/images", tag = "images",
    params(("repository" = String, Path, description = "Its slashes are written %2F"), Paging),
    responses((status = 200, body = ImageList), (status = 403, body = Refusal), (status = 404, body = Refusal)),
)]
pub(super) async fn of_repository(
    State(front): State<Front>,
    Path(name): Path<String>,
    paging: Paging,
    mut parts: Parts,
) -> Result<Response, ApiError> {
    let name = repository(&name)?;
    authorize(&front, &mut parts, Need::Look, Some(&name)).await?;
    let (wanted, of) = (paging.clone(), name.clone());
    let (known, page) = blocking(move || {
        let known = front.registry.repository_row(&of)?.is_some();
        Ok::<_, crate::store::StoreError>((
            known,
            front.registry.image_page(Some(&of), wanted.listing())?,
        ))
    })
    .await?;
    if !known {
        return Err(no_repository(&name));
    }
    let path = format!("/api/v1/repositories/{}/images", encode(name.as_str()));
    let list = image_list(page);
    paging.answer(&path, list.next.as_deref(), &list)
}

/// List the tags of a repository
#[utoipa::path(
    get, path = "/api/v1/repositories/{repository}/tags", tag = "images",
    params(("repository" = String, Path, description = "Its slashes are written %2F"), Paging),
    responses((status = 200, body = TagList), (status = 403, body = Refusal), (status = 404, body = Refusal)),
)]
pub(super) async fn tags(
    State(front): State<Front>,
    Path(name): Path<String>,
    paging: Paging,
    mut parts: Parts,
) -> Result<Response, ApiError> {
    let name = repository(&name)?;
    authorize(&front, &mut parts, Need::Look, Some(&name)).await?;
    let (wanted, of) = (paging.clone(), name.clone());
    let page = blocking(move || front.registry.tag_page(&of, wanted.listing())).await?;
    let page = page.ok_or_else(|| no_repository(&name))?;
    let next = page
        .items
        .last()
        .filter(|_| page.more)
        .map(|(tag, _)| tag.to_string());
    let row = |(tag, digest): (Tag, _)| TagRow {
        tag: tag.to_string(),
        digest: format!("{digest}"),
    };
    let list = TagList {
        tags: page.items.into_iter().map(row).collect(),
        next,
    };
    let path = format!("/api/v1/repositories/{}/tags", encode(name.as_str()));
    paging.answer(&path, list.next.as_deref(), &list)
}

/// Show one image
#[utoipa::path(
    get, path = "/api/v1/repositories/{repository}/images/{reference}", tag = "images",
    params(
        ("repository" = String, Path, description = "Its slashes are written %2F"),
        ("reference" = String, Path, description = "A tag or a digest"),
    ),
    responses((status = 200, body = ImageDetail), (status = 403, body = Refusal), (status = 404, body = Refusal)),
)]
pub(super) async fn one(
    State(front): State<Front>,
    Path((name, reference)): Path<(String, String)>,
    mut parts: Parts,
) -> Result<Response, ApiError> {
    let (name, target) = (repository(&name)?, target(&reference)?);
    authorize(&front, &mut parts, Need::Look, Some(&name)).await?;
    let (of, wanted) = (name.clone(), target.clone());
    let image = blocking(move || front.registry.image_detail(&of, &wanted)).await?;
    let image = image.ok_or_else(|| no_image(&name, &target))?;
    Answer::new(StatusCode::OK).json("application/json", &image)
}

/// Remove an image: by its digest with all its tags, by a tag that tag alone
#[utoipa::path(
    delete, path = "/api/v1/repositories/{repository}/images/{reference}", tag = "images",
    params(
        ("repository" = String, Path, description = "Its slashes are written %2F"),
        ("reference" = String, Path, description = "A tag or a digest"),
    ),
    responses((status = 204), (status = 403, body = Refusal), (status = 404, body = Refusal)),
)]
pub(super) async fn remove(
    State(front): State<Front>,
    Path((name, reference)): Path<(String, String)>,
    parts: Parts,
) -> Result<Response, ApiError> {
    remove_target(front, repository(&name)?, target(&reference)?, parts).await
}

/// Remove a tag; its image stays
#[utoipa::path(
    delete, path = "/api/v1/repositories/{repository}/tags/{tag}", tag = "images",
    params(
        ("repository" = String, Path, description = "Its slashes are written %2F"),
        ("tag" = String, Path),
    ),
    responses((status = 204), (status = 403, body = Refusal), (status = 404, body = Refusal)),
)]
pub(super) async fn remove_tag(
    State(front): State<Front>,
    Path((name, tag)): Path<(String, String)>,
    parts: Parts,
) -> Result<Response, ApiError> {
    let tag: Tag = tag.parse().map_err(RouteError::Tag)?;
    remove_target(front, repository(&name)?, Target::Tag(tag), parts).await
}

async fn remove_target(
    front: Front,
    name: RepositoryName,
    target: Target,
    mut parts: Parts,
) -> Result<Response, ApiError> {
    let asker = authorize(&front, &mut parts, Need::Change, Some(&name)).await?;
    let keep = kept(asker, &name);
    lasting(remove_noted(front, name, target, parts, keep)).await?
}

/// The removal, and its line in the audit log.
async fn remove_noted(
    front: Front,
    name: RepositoryName,
    target: Target,
    parts: Parts,
    keep: Immutable,
) -> Result<Response, ApiError> {
    let registry = acting(&front, &parts);
    let (of, wanted) = (name.clone(), target.clone());
    match blocking(move || registry.delete_target(&of, &wanted, &keep)).await? {
        Deleted::Done => {
            tracing::info!(repository = %name, %target, request = ?request_id(&parts), "image removed");
            removed(&front, &parts, &name, Some(target.to_string())).await;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        Deleted::Absent => Err(no_image(&name, &target)),
        Deleted::Held { tag } => Err(held(&tag)),
    }
}

fn target(text: &str) -> Result<Target, RouteError> {
    super::super::route::target(text)
}

pub(super) fn no_repository(name: &RepositoryName) -> ApiError {
    ApiError::not_found(
        Code::NameUnknown,
        format!("repository {name} does not exist"),
    )
}

fn no_image(name: &RepositoryName, target: &Target) -> ApiError {
    let message = format!("repository {name} has no image {target}");
    ApiError::not_found(Code::ManifestUnknown, message)
}
