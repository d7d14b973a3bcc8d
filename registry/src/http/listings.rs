//! Lists: catalog, tags (end-8), referrers (end-12).

use axum::response::Response;
use config::name::RepositoryName;
use http::StatusCode;
use http::header::{CONTENT_TYPE, LINK};
use serde_json::json;

use super::access::Asker;
use super::answer::{Answer, OCI_FILTERS};
use super::body::blocking;
use super::error::{ApiError, Code};
use super::query::{Query, encode};
use super::route::digest as parse_digest;
use crate::digest::Digest;
use crate::manifest::OCI_INDEX;
use crate::service::{Listing, Registry};
use crate::store::index::Page;

const JSON: &str = "application/json";

/// Names only what the caller may pull.
pub(super) async fn catalog(
    registry: Registry,
    asker: Asker,
    query: &Query,
) -> Result<Response, ApiError> {
    let (limit, last) = paging(query)?;
    let page = blocking(move || {
        let last = last.as_deref();
        let listing = Listing { limit, last };
        if asker.sees_all() {
            return registry.repositories(listing);
        }
        registry.visible_repositories(listing, &|name| asker.shows(name))
    })
    .await?;
    let answer = linked(&page, limit, "/v2/_catalog");
    answer.json(JSON, &json!({ "repositories": page.items }))
}

pub(super) async fn tags(
    registry: Registry,
    repository: RepositoryName,
    query: &Query,
) -> Result<Response, ApiError> {
    let (limit, last) = paging(query)?;
    let name = repository.clone();
    let page = blocking(move || {
        let last = last.as_deref();
        registry.tags(&name, Listing { limit, last })
    })
    .await?;
    let page = page.ok_or_else(|| {
        let message = format!("repository {repository} does not exist");
        ApiError::not_found(Code::NameUnknown, message)
    })?;
    let answer = linked(&page, limit, &format!("/v2/{repository}/tags/list"));
    answer.json(
        JSON,
        &json!({ "name": repository.as_str(), "tags": page.items }),
    )
}

/// `n` and `last`.
fn paging(query: &Query) -> Result<(Option<usize>, Option<String>), ApiError> {
    let limit = match query.get("n") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            let message = format!("the parameter \"n\" is {text:?}, not a number");
            ApiError::bad_request(Code::Unsupported, message)
        })?),
    };
    Ok((limit, query.get("last").map(str::to_owned)))
}

/// Says where the list goes on (RFC 8288). With `n=0` there is no place to go on from.
fn linked(page: &Page<String>, limit: Option<usize>, path: &str) -> Answer {
    let answer = Answer::new(StatusCode::OK);
    match page.items.last() {
        Some(last) if page.more => {
            let n = limit.unwrap_or(page.items.len());
            let last = encode(last);
            answer.header(LINK, format!("<{path}?n={n}&last={last}>; rel=\"next\""))
        }
        _ => answer,
    }
}

pub(super) async fn referrers(
    registry: Registry,
    repository: RepositoryName,
    subject: Digest,
    query: &Query,
) -> Result<Response, ApiError> {
    let wanted = query.get("artifactType").filter(|text| !text.is_empty());
    let last = query.get("last").map(parse_digest).transpose()?;
    let path = format!("/v2/{repository}/referrers/{subject}");
    let filter = wanted.map(str::to_owned);
    let found = blocking(move || {
        registry.referrers(&repository, &subject, filter.as_deref(), last.as_ref())
    })
    .await?;
    let mut answer = Answer::new(StatusCode::OK).header(CONTENT_TYPE, OCI_INDEX);
    if wanted.is_some() {
        answer = answer.header(OCI_FILTERS, "artifactType");
    }
    if let Some(next) = &found.next {
        let filter = wanted.map(|text| format!("&artifactType={}", encode(text)));
        let filter = filter.unwrap_or_default();
        let next = encode(next.as_ref());
        answer = answer.header(LINK, format!("<{path}?last={next}{filter}>; rel=\"next\""));
    }
    // Descriptors are JSON already.
    let body = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#,
        found.descriptors.join(",")
    );
    Ok(answer.body(body.into()))
}
