//! A blob from the content store to a registry: there already, mounted from another repository,
//! or sent in one request (distribution-spec end-2, end-11, end-4a and end-6).

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use config::name::{Reference, RepositoryName};
use futures_util::stream;
use reqwest::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use reqwest::{Body, Method, StatusCode, Url};

use super::auth::Scope;
use super::client::Remote;
use super::download::{BlobName, blob_name};
use super::endpoint::Endpoint;
use super::error::RemoteError;
use super::exchange::{Call, Payload, Reply};
use crate::content::Content;
use crate::progress::{Event, Phase, Progress};

const PIECE: usize = 256 * 1024;

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
        let upload = Upload {
            remote: self,
            endpoint: self.endpoint(reference.host())?,
            reference,
            blob,
            content,
            mount_from,
            what: blob_name(reference, blob),
        };
        let mut attempts = self.attempts(progress);
        loop {
            match upload.attempt(progress).await {
                Ok(uploaded) => return Ok(uploaded),
                Err(error) => attempts.after(error).await?,
            }
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
}

impl Upload<'_> {
    async fn attempt(&self, progress: &dyn Progress) -> Result<Uploaded, RemoteError> {
        if self.remote.blob_exists(self.reference, self.blob).await? {
            return Ok(Uploaded::Existed);
        }
        let reply = self.start().await?;
        if reply.status() == StatusCode::CREATED {
            return Ok(Uploaded::Mounted);
        }
        let session = self.session(&reply)?;
        self.send(session, progress).await?;
        Ok(Uploaded::Sent)
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
            match self.post(call, Some(from.to_string())).await {
                // No right to the other repository is no reason not to send the blob.
                Err(RemoteError::Denied { .. } | RemoteError::LoginRefused { .. }) => {}
                other => return other,
            }
            url.set_query(None);
        }
        self.post(Call::new(Method::POST, url), None).await
    }

    async fn post(&self, call: Call, mount_from: Option<String>) -> Result<Reply, RemoteError> {
        let scope = Scope::push(self.reference, mount_from);
        self.remote
            .request(&self.endpoint, &scope, &self.what, call)
            .await
    }

    /// The session's address with the digest added; `Location` may be relative, elsewhere, and have
    /// a query of its own.
    fn session(&self, reply: &Reply) -> Result<Url, RemoteError> {
        let location = reply.header(LOCATION);
        let url = location.and_then(|location| reply.url().join(location).ok());
        let url = url.filter(|url| self.endpoint.may_lead_to(url));
        let Some(mut url) = url else {
            return Err(RemoteError::Protocol {
                host: self.endpoint.host.clone(),
                problem: format!("no usable Location for the upload of {}", self.what),
            });
        };
        url.query_pairs_mut()
            .append_pair("digest", self.blob.digest.as_ref());
        Ok(url)
    }

    async fn send(&self, session: Url, progress: &dyn Progress) -> Result<(), RemoteError> {
        let mut call = Call::new(Method::PUT, session);
        let binary = HeaderValue::from_static("application/octet-stream");
        call.headers.insert(CONTENT_TYPE, binary);
        let sent = Arc::new(AtomicU64::new(0));
        call.payload = Payload::Blob(BlobBody {
            content: Arc::clone(self.content),
            name: self.blob.clone(),
            sent: Arc::clone(&sent),
        });
        let scope = Scope::push(self.reference, None);
        let request = self
            .remote
            .request(&self.endpoint, &scope, &self.what, call);
        match self.watched(request, &sent, progress).await {
            Ok(_) => Ok(()),
            // Sessions end with their server; the next attempt opens another.
            Err(RemoteError::NotFound { host, what }) => Err(RemoteError::Busy {
                host,
                what,
                status: StatusCode::NOT_FOUND.as_u16(),
                message: "the upload session is gone".to_owned(),
                retry_after: None,
            }),
            Err(error) => Err(error),
        }
    }

    /// Tells now and then how far the body is while the request runs.
    async fn watched<T>(
        &self,
        request: impl Future<Output = T>,
        sent: &AtomicU64,
        progress: &dyn Progress,
    ) -> T {
        let mut request = std::pin::pin!(request);
        loop {
            let tick = std::time::Duration::from_millis(200);
            let output = tokio::time::timeout(tick, &mut request).await;
            progress.event(Event::Transfer {
                id: self.blob.id(),
                phase: Phase::Upload,
                done: sent.load(Ordering::Relaxed),
                total: Some(self.blob.size),
            });
            if let Ok(output) = output {
                return output;
            }
        }
    }
}

/// A request body that is read from the content store while it is sent.
#[derive(Clone)]
pub(super) struct BlobBody {
    content: Arc<dyn Content>,
    pub(super) name: BlobName,
    /// Bytes handed to the connection so far.
    pub(super) sent: Arc<AtomicU64>,
}

impl BlobBody {
    /// A new body from the first byte on.
    pub(super) async fn stream(&self) -> io::Result<Body> {
        self.sent.store(0, Ordering::Relaxed);
        let (content, name) = (Arc::clone(&self.content), self.name.clone());
        let opened = tokio::task::spawn_blocking(move || open(&*content, &name));
        let file = opened.await.map_err(io::Error::other)??;
        let sent = Arc::clone(&self.sent);
        Ok(Body::wrap_stream(stream::try_unfold(
            (file, sent),
            |(file, sent)| async move {
                let piece = tokio::task::spawn_blocking(move || next_piece(file));
                let Some((bytes, file)) = piece.await.map_err(io::Error::other)?? else {
                    return Ok::<_, io::Error>(None);
                };
                sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Ok(Some((bytes, (file, sent))))
            },
        )))
    }
}

type Source = io::Take<std::fs::File>;

fn open(content: &dyn Content, name: &BlobName) -> io::Result<Source> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "the blob is not in the store");
    let blob = content.open(&name.digest)?.ok_or_else(missing)?;
    if blob.size != name.size {
        let text = format!("the blob has {} bytes, not {}", blob.size, name.size);
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(blob.file.take(name.size))
}

fn next_piece(mut file: Source) -> io::Result<Option<(Bytes, Source)>> {
    let mut buffer = Vec::with_capacity(PIECE);
    (&mut file).take(PIECE as u64).read_to_end(&mut buffer)?;
    if buffer.is_empty() {
        return Ok(None);
    }
    Ok(Some((buffer.into(), file)))
}

impl fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobBody")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
