//! Which repository a request means: the parameter `ns` and the upstreams' prefixes may say another
//! one than its path (distribution-spec, "Proxying"). Decided before anybody asks who may do what.

use axum::response::Response;
use config::name::RepositoryName;
use http::header::{HeaderName, WARNING};
use http::{HeaderValue, Method};

use super::body::blocking;
use super::error::{ApiError, Code};
use super::front::Front;
use super::query::Query;
use super::route::Route;
use crate::mirror::names::Namespace;
use crate::mirror::{MirrorError, Scope};

const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// A route whose repository is the one that is meant.
#[derive(Debug)]
pub(super) struct Scoped {
    pub(super) route: Route,
    /// To be told to the client, as it decided.
    pub(super) namespace: Option<Namespace>,
    /// The name is another registry's only because it is nobody's here.
    pub(super) by_default: bool,
}

/// Reads the parameter and renames the repository.
pub(super) async fn of(
    front: &Front,
    route: Route,
    query: &Query,
    method: &Method,
) -> Result<Scoped, ApiError> {
    let asked = query.get("ns").filter(|text| !text.is_empty());
    let Some(repository) = route.repository().cloned() else {
        return Ok(unchanged(route));
    };
    if asked.is_none() && front.mirror.is_none() {
        return Ok(unchanged(route));
    }
    let namespace: Option<Namespace> = match asked.map(str::parse).transpose() {
        Ok(namespace) => namespace,
        // Nobody looked at the parameter while there was nothing that it could mean.
        Err(_) if front.mirror.is_none() => None,
        Err(error) => return Err(ApiError::bad_request(Code::NameInvalid, error.to_string())),
    };
    let (mirror, read) = (front.mirror.clone(), super::is_read(method));
    let Scope {
        repository,
        namespace,
        by_default,
    } = blocking(move || mirror.scope(&repository, namespace, read).map_err(refusal)).await?;
    Ok(Scoped {
        route: match repository {
            Some(repository) => renamed(route, repository),
            None => route,
        },
        namespace,
        by_default,
    })
}

fn refusal(error: MirrorError) -> ApiError {
    ApiError::mirror(error, Code::NameUnknown)
}

fn unchanged(route: Route) -> Scoped {
    Scoped {
        route,
        namespace: None,
        by_default: false,
    }
}

fn renamed(route: Route, name: RepositoryName) -> Route {
    match route {
        Route::Ping => Route::Ping,
        Route::Catalog => Route::Catalog,
        Route::Blob(_, digest) => Route::Blob(name, digest),
        Route::Uploads(_) => Route::Uploads(name),
        Route::Upload(_, session) => Route::Upload(name, session),
        Route::Manifest(_, target) => Route::Manifest(name, target),
        Route::Tags(_) => Route::Tags(name),
        Route::Referrers(_, subject) => Route::Referrers(name, subject),
    }
}

/// Adds what the client is to know about where the answer is from.
pub(super) fn mark(
    mut response: Response,
    namespace: Option<Namespace>,
    warning: Option<String>,
) -> Response {
    let headers = response.headers_mut();
    if let Some(value) = namespace.and_then(|name| HeaderValue::from_str(name.host()).ok()) {
        headers.insert(OCI_NAMESPACE, value);
    }
    // Code 299 and no agent is the only form that the specification has ("Warnings").
    let warning = warning.map(|text| format!("299 - \"{text}\""));
    if let Some(value) = warning.and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.append(WARNING, value);
    }
    response
}
