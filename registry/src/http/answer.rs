//! Building answers: the headers that several endpoints share.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;

use super::error::ApiError;
use crate::digest::Digest;

pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(super) const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
pub(super) const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
pub(super) const OCI_FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

/// A response that grows header by header.
pub(super) struct Answer(Response);

impl Answer {
    pub(super) fn new(status: StatusCode) -> Self {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        Self(response)
    }

    /// Adds a header. All values here are made of parsed names, so none is refused; one that were
    /// would be left out.
    pub(super) fn header(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.0.headers_mut().append(name, value);
        }
        self
    }

    pub(super) fn location(self, path: impl AsRef<str>) -> Self {
        self.header(LOCATION, path)
    }

    /// The digest, also as the entity tag: content under a digest never changes.
    pub(super) fn digest(self, digest: &Digest) -> Self {
        self.header(CONTENT_DIGEST, digest.as_ref())
            .header(ETAG, etag(digest))
    }

    pub(super) fn length(self, bytes: u64) -> Self {
        self.header(CONTENT_LENGTH, bytes.to_string())
    }

    pub(super) fn body(mut self, body: Body) -> Response {
        *self.0.body_mut() = body;
        self.0
    }

    pub(super) fn json(
        self,
        media_type: &str,
        value: &impl Serialize,
    ) -> Result<Response, ApiError> {
        let text = serde_json::to_string(value).map_err(|error| ApiError::internal(&error))?;
        Ok(self.header(CONTENT_TYPE, media_type).body(Body::from(text)))
    }

    pub(super) fn empty(self) -> Response {
        self.0
    }
}

pub(super) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether the client says that it has this already (RFC 9110, section 13.1.2).
pub(super) fn is_known(headers: &HeaderMap, digest: &Digest) -> bool {
    let tag = etag(digest);
    let known = headers
        .get(IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok());
    known.is_some_and(|known| {
        known.trim() == "*"
            || known
                .split(',')
                .any(|one| one.trim().trim_start_matches("W/") == tag)
    })
}

/// A header's text; `None` where it is absent or no text.
pub(super) fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
