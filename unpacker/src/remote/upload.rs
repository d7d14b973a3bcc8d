//! A blob from the content store to a registry: there already, mounted from another repository, or
//! sent (distribution-spec end-2, end-11, end-4a, end-5 and end-6).
//!
//! It is sent in one request. Where that breaks off, the session is asked how far it is, and only the
//! rest is sent; where a body is too large for somebody on the way, it goes in smaller pieces.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use config::name::{Reference, RepositoryName};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, StatusCode, Url};

use super::auth::Scope;
use super::body::BlobBody;
use super::client::Remote;
use super::download::{BlobName, blob_name};
use super::endpoint::Endpoint;
use super::error::RemoteError;
use super::exchange::{Call, Payload, Reply};
use crate::content::Content;
use crate::progress::{Event, Phase, Progress};

/// The first size that is tried where a whole blob is too large for one request, and the last.
const LARGEST_CHUNK: u64 = 32 * 1024 * 1024;
const SMALLEST_CHUNK: u64 = 256 * 1024;
/// So many bytes since the last failure count as the line having worked.
const WORTH_ANOTHER_TRY: u64 = 1024 * 1024;
/// What a registry asks chunks to have at least (distribution-spec, "Pushing a blob in chunks").
const CHUNK_MIN: &str = "oci-chunk-min-length";

/// How a blob came to be on the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    Existed,
    Mounted,
    Sent,
}

impl Remote {
    /// Whether the repository of `reference` has `blob` (distribution-spec end-2).
    pub async fn blob_exists(
        &self,
        reference: &Reference,
        blob: &BlobName,
    ) -> Result<bool, RemoteError> {
        let endpoint = self.endpoint(reference.host())?;
        let scope = Scope::push(reference, None);
        let tail = format!("blobs/{}", blob.digest);
        let call = Call::new(Method::HEAD, endpoint.url(reference.repository(), &tail));
        let what = blob_name(reference, blob);
        match self.request(&endpoint, &scope, &what, call).await {
            Ok(_) => Ok(true),
            Err(RemoteError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Brings `blob` to the repository of `reference`. `mount_from` is a repository of the same
    /// registry that probably has it.
    pub async fn upload(
        &self,
        reference: &Reference,
        blob: &BlobName,
        content: &Arc<dyn Content>,
        mount_from: Option<&RepositoryName>,
        progress: &dyn Progress,
    ) -> Result<Uploaded, RemoteError> {
        let _permit = self.transfer().await;
        let mut upload = Upload {
            remote: self,
            endpoint: self.endpoint(reference.host())?,
            reference,
            blob,
            content,
            mount_from,
            what: blob_name(reference, blob),
            progress,
            session: None,
            chunk: None,
        };
        let mut attempts = self.attempts(progress);
        let mut before = 0;
        loop {
            let error = match upload.attempt().await {
                Ok(uploaded) => return Ok(uploaded),
                Err(error) => error,
            };
            let arrived = upload.arrived();
            if arrived >= before + WORTH_ANOTHER_TRY {
                attempts.moved_forward();
            }
            before = arrived;
            attempts.after(error).await?;
        }
    }
}

struct Upload<'a> {
    remote: &'a Remote,
    endpoint: Endpoint,
    reference: &'a Reference,
    blob: &'a BlobName,
    content: &'a Arc<dyn Content>,
    mount_from: Option<&'a RepositoryName>,
    what: String,
    progress: &'a dyn Progress,
    /// One that an earlier attempt left.
    session: Option<Session>,
    /// How much goes in one request; all of it where nobody has refused that.
    chunk: Option<u64>,
}

/// An upload that the registry has begun.
#[derive(Debug, Clone)]
struct Session {
    url: Url,
    /// Bytes that it has.
    offset: u64,
    /// Least size of a chunk, but for the last.
    least: u64,
}

impl Upload<'_> {
    fn arrived(&self) -> u64 {
        self.session.as_ref().map_or(0, |session| session.offset)
    }

    async fn attempt(&mut self) -> Result<Uploaded, RemoteError> {
        if let Some(left) = self.session.take()
            && let Some(session) = self.look(left).await?
        {
            return self.go_on(session).await;
        }
        if self.remote.blob_exists(self.reference, self.blob).await? {
            return Ok(Uploaded::Existed);
        }
        let reply = self.start().await?;
        if reply.status() == StatusCode::CREATED {
            return Ok(Uploaded::Mounted);
        }
        let least = reply.header(CHUNK_MIN).and_then(|text| text.parse().ok());
        let session = Session {
            url: self.location(&reply)?,
            offset: 0,
            least: least.unwrap_or(0),
        };
        if self.chunk.is_none() {
            match self.put(&session).await {
                Ok(()) => return Ok(Uploaded::Sent),
                Err(RemoteError::Refused { status: 413, .. }) => self.chunk = Some(LARGEST_CHUNK),
                Err(error) => return Err(self.leave(session, error)),
            }
        }
        self.go_on(session).await
    }

    /// Remembers the session for the next attempt, unless it is gone.
    fn leave(&mut self, session: Session, error: RemoteError) -> RemoteError {
        match error {
            // Sessions end with their server; the next attempt opens another.
            RemoteError::NotFound { host, what } => RemoteError::Busy {
                host,
                what,
                status: StatusCode::NOT_FOUND.as_u16(),
                message: "the upload session is gone".to_owned(),
                retry_after: None,
            },
            error => {
                self.session = Some(session);
                error
            }
        }
    }

    /// Opens an upload session, or mounts: then the answer is 201.
    async fn start(&self) -> Result<Reply, RemoteError> {
        let repository = self.reference.repository();
        let mut url = self.endpoint.url(repository, "blobs/uploads/");
        if let Some(from) = self.mount_from {
            url.query_pairs_mut()
                .append_pair("mount", self.blob.digest.as_ref())
                .append_pair("from", from.as_str());
            let call = Call::new(Method::POST, url.clone());
            match self.request(call, Some(from.to_string())).await {
                // No right to the other repository is no reason not to send the blob.
                Err(RemoteError::Denied { .. } | RemoteError::LoginRefused { .. }) => {}
                other => return other,
            }
            url.set_query(None);
        }
        self.request(Call::new(Method::POST, url), None).await
    }

    async fn request(&self, call: Call, mount_from: Option<String>) -> Result<Reply, RemoteError> {
        let scope = Scope::push(self.reference, mount_from);
        self.remote
            .request(&self.endpoint, &scope, &self.what, call)
            .await
    }

    /// The session's address, which may be relative, elsewhere, and have a query of its own.
    fn location(&self, reply: &Reply) -> Result<Url, RemoteError> {
        let location = reply.header(LOCATION);
        let url = location.and_then(|location| reply.url().join(location).ok());
        let url = url.filter(|url| self.endpoint.may_lead_to(url));
        url.ok_or_else(|| RemoteError::Protocol {
            host: self.endpoint.host.clone(),
            problem: format!("no usable Location for the upload of {}", self.what),
        })
    }

    fn with_digest(&self, session: &Session) -> Url {
        let mut url = session.url.clone();
        url.query_pairs_mut()
            .append_pair("digest", self.blob.digest.as_ref());
        url
    }

    /// How far a session is that was left; `None` where the registry does not say, or has forgotten
    /// it.
    async fn look(&self, left: Session) -> Result<Option<Session>, RemoteError> {
        let call = Call::new(Method::GET, left.url.clone());
        let reply = match self.request(call, None).await {
            Ok(reply) => reply,
            Err(error) if error.retriable() => return Err(error),
            Err(_) => return Ok(None),
        };
        let offset = reply.header(RANGE).and_then(received);
        let url = match reply.header(LOCATION) {
            Some(_) => self.location(&reply)?,
            None => left.url,
        };
        let known = offset.filter(|offset| *offset <= self.blob.size);
        Ok(known.map(|offset| Session {
            url,
            offset,
            least: left.least,
        }))
    }

    /// The whole blob in one request.
    async fn put(&self, session: &Session) -> Result<(), RemoteError> {
        let call = Call::new(Method::PUT, self.with_digest(session));
        self.send(call, 0, self.blob.size).await.map(drop)
    }

    /// What is missing, in one piece or in several, and then the end.
    async fn go_on(&mut self, mut session: Session) -> Result<Uploaded, RemoteError> {
        while session.offset < self.blob.size {
            match self.patch(&session).await {
                Ok(next) => session = next,
                Err(RemoteError::Refused { status: 413, .. }) if self.shrink() => {}
                Err(error) => return Err(self.leave(session, error)),
            }
        }
        let call = Call::new(Method::PUT, self.with_digest(&session));
        match self.send(call, self.blob.size, 0).await {
            Ok(_) => Ok(Uploaded::Sent),
            Err(error) => Err(self.leave(session, error)),
        }
    }

    /// Smaller pieces from now on; false where they are small enough.
    fn shrink(&mut self) -> bool {
        let next = self.chunk.map_or(LARGEST_CHUNK, |chunk| chunk / 2);
        self.chunk = Some(next);
        next >= SMALLEST_CHUNK
    }

    async fn patch(&self, session: &Session) -> Result<Session, RemoteError> {
        let rest = self.blob.size - session.offset;
        let chunk = self.chunk.map_or(rest, |chunk| chunk.max(session.least));
        let length = chunk.min(rest);
        let end = session.offset + length;
        let mut call = Call::new(Method::PATCH, session.url.clone());
        // The specification's own form, without a unit.
        if let Ok(range) = HeaderValue::from_str(&format!("{}-{}", session.offset, end - 1)) {
            call.headers.insert(CONTENT_RANGE, range);
        }
        let reply = self.send(call, session.offset, length).await?;
        let offset = reply.header(RANGE).and_then(received).unwrap_or(end);
        if offset <= session.offset || offset > end {
            return Err(RemoteError::Protocol {
                host: self.endpoint.host.clone(),
                problem: format!(
                    "it has {offset} bytes of {} after bytes {} to {end}",
                    self.what, session.offset
                ),
            });
        }
        Ok(Session {
            url: self.location(&reply)?,
            offset,
            least: session.least,
        })
    }

    /// Sends a part of the blob as the call's body.
    async fn send(&self, mut call: Call, from: u64, length: u64) -> Result<Reply, RemoteError> {
        let binary = HeaderValue::from_static("application/octet-stream");
        call.headers.insert(CONTENT_TYPE, binary);
        let sent = Arc::new(AtomicU64::new(0));
        call.payload = match length {
            0 => Payload::Bytes(Bytes::new()),
            _ => Payload::Blob(BlobBody {
                content: Arc::clone(self.content),
                name: self.blob.clone(),
                from,
                length,
                sent: Arc::clone(&sent),
            }),
        };
        self.watched(self.request(call, None), from, &sent).await
    }

    /// Tells now and then how far the body is while the request runs.
    async fn watched<T>(&self, request: impl Future<Output = T>, from: u64, sent: &AtomicU64) -> T {
        let mut request = std::pin::pin!(request);
        loop {
            let tick = std::time::Duration::from_millis(200);
            let output = tokio::time::timeout(tick, &mut request).await;
            self.progress.event(Event::Transfer {
                id: self.blob.id(),
                phase: Phase::Upload,
                done: from + sent.load(Ordering::Relaxed),
                total: Some(self.blob.size),
            });
            if let Ok(output) = output {
                return output;
            }
        }
    }
}

/// Bytes that a session has, of its `Range: 0-<last>`. Nothing at all cannot be said in that form;
/// some write `0-0` for it, and one byte more or less is corrected by the digest.
fn received(range: &str) -> Option<u64> {
    let range = range.trim();
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let (first, last) = range.split_once('-')?;
    match (first.trim(), last.trim().parse::<u64>().ok()?) {
        ("0", 0) => Some(0),
        ("0", last) => last.checked_add(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::received;

    #[test]
    fn how_far_sessions_say_that_they_are() {
        for (range, bytes) in [
            ("0-99", Some(100)),
            ("bytes=0-99", Some(100)),
            ("0-0", Some(0)),
            ("5-99", None),
            ("0--1", None),
            ("", None),
            ("0-18446744073709551615", None),
        ] {
            assert_eq!(received(range), bytes, "{range}");
        }
    }
}
