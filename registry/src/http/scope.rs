//! Which repository a request means: the parameter `ns` and the upstreams' prefixes may say another
//! one than its path (distribution-spec, "Proxying"). What names alone decide comes before anybody
//! asks who the caller is; what depends on what is here comes after, because nobody is to learn that
//! from an answer about a repository that the caller may not read.

use axum::response::Response;
use config::name::RepositoryName;
use http::header::{HeaderName, WARNING};
use http::{HeaderValue, Method};

use super::access::Asker;
use super::body::blocking;
use super::error::{ApiError, Code};
use super::front::Front;
use super::query::Query;
use super::route::Route;
use crate::mirror::names::Namespace;
use crate::mirror::{MirrorError, Scope, nobody};

const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// A request as it came.
#[derive(Debug)]
pub(super) struct Asking {
    route: Route,
    namespace: Option<Namespace>,
    /// The names that refusals may tell, whatever is here.
    told: Vec<RepositoryName>,
}

impl Asking {
    /// What may be told of it before it is known what is meant.
    pub(super) fn told(&self) -> (Route, Told) {
        let name = self.told.first().cloned();
        let route = match name {
            Some(name) => renamed(self.route.clone(), name),
            None => self.route.clone(),
        };
        (route, Told(self.told.clone()))
    }
}

/// In a request's extensions: the names that a challenge asks the client to get a token for.
#[derive(Debug, Clone)]
pub(super) struct Told(pub(super) Vec<RepositoryName>);

/// A route whose repository is the one that is meant.
#[derive(Debug)]
pub(super) struct Scoped {
    pub(super) route: Route,
    /// To be told to the client, as it decided.
    pub(super) namespace: Option<Namespace>,
    /// The name is another registry's only because it is nobody's here.
    pub(super) by_default: bool,
    /// What is answered to a caller who may read it.
    pub(super) unknown: Option<ApiError>,
}

/// Reads the parameter.
pub(super) fn read(
    front: &Front,
    route: Route,
    query: &Query,
    method: &Method,
) -> Result<Asking, ApiError> {
    let asked = query.get("ns");
    let asked = asked.filter(|text| !text.is_empty() && route.repository().is_some());
    let namespace: Option<Namespace> = match asked.map(str::parse).transpose() {
        Ok(namespace) => namespace,
        // Nobody looked at the parameter while there was nothing that it could mean.
        Err(_) if front.mirror.is_none() => None,
        Err(error) => return Err(ApiError::bad_request(Code::NameInvalid, error.to_string())),
    };
    let told = match route.repository() {
        Some(name) => {
            let read = super::is_read(method);
            let meant = front.access.has_issuer();
            front.mirror.told(name, namespace.clone(), read, meant)
        }
        None => Vec::new(),
    };
    Ok(Asking {
        route,
        namespace,
        told,
    })
}

/// Renames the repository.
pub(super) async fn of(
    front: &Front,
    asking: Asking,
    asker: Asker,
    method: &Method,
) -> Result<Scoped, ApiError> {
    let Asking {
        route, namespace, ..
    } = asking;
    let found = match route.repository().cloned() {
        Some(name) if namespace.is_some() || !front.mirror.is_none() => {
            let (mirror, read) = (front.mirror.clone(), super::is_read(method));
            let shows = move |name: &RepositoryName| asker.shows(name);
            blocking(move || mirror.scope(&name, namespace, read, shows).map_err(refusal)).await?
        }
        _ => Scope::default(),
    };
    let unknown = found.namespace.as_ref().filter(|_| found.unknown);
    Ok(Scoped {
        unknown: unknown.map(|namespace| refusal(nobody(namespace))),
        route: match found.repository {
            Some(repository) => renamed(route, repository),
            None => route,
        },
        namespace: found.namespace,
        by_default: found.by_default,
    })
}

fn refusal(error: MirrorError) -> ApiError {
    ApiError::mirror(error, Code::NameUnknown)
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
