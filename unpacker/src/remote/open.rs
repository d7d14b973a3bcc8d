//! Single questions to a registry, each asked once: for a caller that decides itself what to try
//! again, and that reads a blob as it comes.
//!
//! What is answered is not verified here beyond its bounds; [`Remote::download`] and
//! [`Remote::resolve`] do that.

use std::fmt;

use bytes::Bytes;
use config::name::{Reference, parse_digest};
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_RANGE, HeaderValue, RANGE};
use reqwest::{Method, StatusCode};

use super::auth::Scope;
use super::client::Remote;
use super::download::range_start;
use super::endpoint::manifest_name;
use super::error::RemoteError;
use super::exchange::{Call, Reply};
use super::manifest::{ACCEPTED, DIGEST_HEADER, Fetched};
use crate::digest::Digest;

/// A blob's body, not yet read.
pub struct OpenBlob {
    /// The offset of the first byte that comes: what was asked for, or 0 from a registry that cannot
    /// do ranges.
    pub start: u64,
    /// Bytes of the whole blob, where the registry says so.
    pub size: Option<u64>,
    reply: Reply,
}

impl fmt::Debug for OpenBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenBlob")
            .field("start", &self.start)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl OpenBlob {
    /// The next bytes, `None` at the end. Silence is an error after the client's stall time.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RemoteError> {
        self.reply.chunk().await
    }
}

impl Remote {
    /// What a tag points at, by HEAD; `None` where the registry does not say (end-3).
    pub async fn ask_digest(&self, reference: &Reference) -> Result<Option<Digest>, RemoteError> {
        let endpoint = self.endpoint(reference.host())?;
        let tail = format!("manifests/{}", reference.target());
        let mut call = Call::new(Method::HEAD, endpoint.url(reference.repository(), &tail));
        call.headers.insert(ACCEPT, ACCEPTED);
        let what = manifest_name(reference);
        let scope = Scope::pull(reference);
        let reply = self.request(&endpoint, &scope, &what, call).await?;
        let digest = reply.header(DIGEST_HEADER);
        Ok(digest.and_then(|text| parse_digest(text).ok()))
    }

    /// As [`Remote::resolve`], tried once.
    pub async fn ask_manifest(&self, reference: &Reference) -> Result<Fetched, RemoteError> {
        self.resolve_once(reference).await
    }

    /// The size of a blob, by HEAD; `None` where the registry does not say (end-2).
    pub async fn ask_size(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<Option<u64>, RemoteError> {
        let reply = self.ask_blob(Method::HEAD, reference, digest, 0).await?;
        Ok(reply.content_length())
    }

    /// A blob from its byte `from` on.
    pub async fn open_blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        from: u64,
    ) -> Result<OpenBlob, RemoteError> {
        let reply = self.ask_blob(Method::GET, reference, digest, from).await?;
        let start = match reply.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = reply.header(CONTENT_RANGE).unwrap_or_default();
                range_start(range).ok_or_else(|| RemoteError::Protocol {
                    host: reference.host().to_owned(),
                    problem: format!("{range:?} is no range of {digest}"),
                })?
            }
            _ => 0,
        };
        let size = reply.content_length();
        Ok(OpenBlob {
            start,
            size: size.map(|length| length.saturating_add(start)),
            reply,
        })
    }

    async fn ask_blob(
        &self,
        method: Method,
        reference: &Reference,
        digest: &Digest,
        from: u64,
    ) -> Result<Reply, RemoteError> {
        let endpoint = self.endpoint(reference.host())?;
        let tail = format!("blobs/{digest}");
        let mut call = Call::new(method, endpoint.url(reference.repository(), &tail));
        // Offsets and digest are of the blob itself, not of a re-encoded form.
        let identity = HeaderValue::from_static("identity");
        call.headers.insert(ACCEPT_ENCODING, identity);
        if from > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={from}-"))
        {
            call.headers.insert(RANGE, range);
        }
        let what = format!("blob {digest} of {}", reference.repository());
        let scope = Scope::pull(reference);
        self.request(&endpoint, &scope, &what, call).await
    }
}
