//! Errors as clients see them: the only file that turns a refusal into a status and a code.
//!
//! Source: distribution-spec, "Error Codes": `{"errors":[{"code":…,"message":…,"detail":…}]}`.
//! What went wrong inside is logged here and not told to the client.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::route::RouteError;
use crate::mirror::MirrorError;
use crate::mirror::upstream::{Trouble, UpstreamError};
use crate::service::{PutManifestError, UploadError};
use crate::store::{CommitBlobError, StoreError};
use crate::upload::{BadChunkRange, ChunkError};

/// The codes of the specification that are in use here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    TooManyRequests,
    Unauthorized,
    Unknown,
    Unsupported,
}

impl Code {
    fn text(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::Denied => "DENIED",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unknown => "UNKNOWN",
            Self::Unsupported => "UNSUPPORTED",
        }
    }
}

/// A refusal, ready to be sent.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: Code,
    message: String,
    detail: Value,
    headers: Vec<(HeaderName, HeaderValue)>,
    of_access: bool,
}

/// In an answer's extensions: it says no because of who asks, so it is one for the audit log. Others
/// with the same status are not: a full quota, another registry's refusal.
#[derive(Debug, Clone, Copy)]
pub(super) struct AccessRefusal;

impl ApiError {
    pub(super) fn new(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            detail: Value::Null,
            headers: Vec::new(),
            of_access: false,
        }
    }

    pub(super) fn bad_request(code: Code, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn not_found(code: Code, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// The connection of a request ended before its body did. Nobody may be there to read this.
    pub(super) fn broken_body(reason: &dyn std::fmt::Display) -> Self {
        let message = format!("request body ended early: {reason}");
        Self::bad_request(Code::SizeInvalid, message)
    }

    /// A task of ours died.
    pub(super) fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!(error = %Chain(error), "request failed");
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(
            status,
            Code::Unknown,
            "the registry failed; its log says why",
        )
    }

    /// What another registry's repository could not give. `unknown` says what does not exist there.
    pub(super) fn mirror(error: MirrorError, unknown: Code) -> Self {
        let message = error.to_string();
        match error {
            MirrorError::Unknown { .. } => Self::not_found(unknown, message),
            MirrorError::Namespace { .. } => Self::not_found(Code::NameUnknown, message),
            MirrorError::Upstream(error) => Self::upstream(&error, unknown),
            MirrorError::Abandoned => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unknown, message)
            }
            MirrorError::Store(error) => Self::store(&error),
        }
    }

    /// Clients with another place to ask go there on any of these; others show the message.
    fn upstream(error: &UpstreamError, unknown: Code) -> Self {
        let (status, code) = match error.trouble {
            Trouble::NotFound => (StatusCode::NOT_FOUND, unknown),
            // 401 would ask the client for credentials that are none of the other registry's.
            Trouble::Denied => (StatusCode::FORBIDDEN, Code::Denied),
            Trouble::Limited => (StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests),
            Trouble::Unreachable => (StatusCode::GATEWAY_TIMEOUT, Code::Unknown),
            Trouble::Failed | Trouble::Wrong => (StatusCode::BAD_GATEWAY, Code::Unknown),
        };
        let refusal = Self::new(status, code, error.to_string());
        match error.retry_after {
            Some(after) => refusal.header(
                http::header::RETRY_AFTER,
                after.as_secs().max(1).to_string(),
            ),
            None => refusal,
        }
    }

    /// 416: no byte of a blob of `size` bytes is in the range.
    pub(super) fn unsatisfiable(size: u64) -> Self {
        let message = format!("blob has {size} bytes");
        let status = StatusCode::RANGE_NOT_SATISFIABLE;
        Self::new(status, Code::SizeInvalid, message)
            .header(http::header::CONTENT_RANGE, format!("bytes */{size}"))
    }

    fn store(error: &StoreError) -> Self {
        if error.is_full() {
            tracing::error!(error = %Chain(error), "storage is full");
            let status = StatusCode::INSUFFICIENT_STORAGE;
            return Self::new(status, Code::Denied, "the registry's storage is full");
        }
        // The specification has no code for a quota. DENIED tells a client not to try again.
        if let StoreError::Quota(exceeded) = error {
            return Self::new(StatusCode::FORBIDDEN, Code::Denied, exceeded.to_string())
                .detail(json!({ "used": exceeded.used, "limit": exceeded.limit }));
        }
        Self::internal(error)
    }

    fn detail(mut self, detail: Value) -> Self {
        self.detail = detail;
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.push((name, value));
        }
        self
    }

    /// The refusal is one of access.
    pub(super) fn of_access(mut self) -> Self {
        self.of_access = true;
        self
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({"errors": [{
            "code": self.code.text(),
            "message": self.message,
            "detail": self.detail,
        }]});
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        if self.of_access {
            response.extensions_mut().insert(AccessRefusal);
        }
        for (name, value) in self.headers {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// An error and all its sources in one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl From<RouteError> for ApiError {
    fn from(error: RouteError) -> Self {
        let message = Chain(&error).to_string();
        match error {
            RouteError::Unknown => Self::not_found(Code::Unsupported, message),
            RouteError::Name(_) => Self::bad_request(Code::NameInvalid, message),
            RouteError::Digest(_) => Self::bad_request(Code::DigestInvalid, message),
            RouteError::Tag(_) => Self::bad_request(Code::ManifestInvalid, message),
            RouteError::Session => Self::not_found(Code::BlobUploadUnknown, message),
        }
    }
}

impl From<BadChunkRange> for ApiError {
    fn from(error: BadChunkRange) -> Self {
        Self::bad_request(Code::BlobUploadInvalid, error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::store(&error)
    }
}

impl From<CommitBlobError> for ApiError {
    fn from(error: CommitBlobError) -> Self {
        let message = error.to_string();
        match error {
            CommitBlobError::Digest { .. } => Self::bad_request(Code::DigestInvalid, message),
            CommitBlobError::Store(error) => error.into(),
        }
    }
}

impl From<ChunkError> for ApiError {
    fn from(error: ChunkError) -> Self {
        let message = error.to_string();
        match error {
            ChunkError::OutOfOrder { .. } => Self::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                Code::BlobUploadInvalid,
                message,
            ),
            ChunkError::Length { .. } => Self::bad_request(Code::SizeInvalid, message),
            ChunkError::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, Code::SizeInvalid, message)
            }
        }
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        let message = error.to_string();
        match error {
            UploadError::Unknown { .. } => Self::not_found(Code::BlobUploadUnknown, message),
            UploadError::Busy { .. } => {
                Self::new(StatusCode::CONFLICT, Code::BlobUploadInvalid, message)
            }
            UploadError::TooMany { .. } => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                Code::TooManyRequests,
                message,
            )
            .header(http::header::RETRY_AFTER, "60"),
            UploadError::Chunk(error) => error.into(),
            UploadError::Blob(error) => error.into(),
        }
    }
}

impl From<PutManifestError> for ApiError {
    fn from(error: PutManifestError) -> Self {
        let message = Chain(&error).to_string();
        match error {
            PutManifestError::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, Code::SizeInvalid, message)
            }
            PutManifestError::Invalid(_) => Self::bad_request(Code::ManifestInvalid, message),
            PutManifestError::Digest { .. } => Self::bad_request(Code::DigestInvalid, message),
            // The specification's endpoint table (end-7a) has 404 for this refusal.
            PutManifestError::Missing { missing } => {
                Self::not_found(Code::ManifestBlobUnknown, message)
                    .detail(json!({ "digests": missing.iter().take(100).collect::<Vec<_>>() }))
            }
            PutManifestError::Immutable { .. } => {
                Self::new(StatusCode::FORBIDDEN, Code::Denied, message).of_access()
            }
            PutManifestError::Store(error) => error.into(),
        }
    }
}
