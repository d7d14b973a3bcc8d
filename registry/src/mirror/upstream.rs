//! What the mirror asks of another registry. Who implements it knows addresses and credentials;
//! this crate knows neither.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use config::name::{RepositoryName, Tag, Target};

use crate::digest::Digest;

/// An answer that is on its way.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, UpstreamError>> + Send + 'a>>;

/// Another registry. `repository` is always the name that it has there.
///
/// Every call ends in bounded time, whatever the other side does: an implementation gives up when
/// nothing moves. Nothing is tried twice here; the mirror decides about that. What a client of ours
/// sent as its credentials is never known to an implementation, and so never sent on.
pub trait Upstream: Send + Sync + fmt::Debug {
    /// What a tag points at, without fetching it (end-3, HEAD). `None` where the registry has the
    /// tag and does not say its digest.
    fn digest<'a>(
        &'a self,
        repository: &'a RepositoryName,
        tag: &'a Tag,
    ) -> Asked<'a, Option<Digest>>;

    /// A manifest, of at most [`crate::manifest::MAX_MANIFEST`] bytes.
    fn manifest<'a>(
        &'a self,
        repository: &'a RepositoryName,
        target: &'a Target,
    ) -> Asked<'a, RemoteManifest>;

    /// Whether the repository has the blob there, and its size where the registry says so (end-2,
    /// HEAD).
    fn blob_size<'a>(
        &'a self,
        repository: &'a RepositoryName,
        digest: &'a Digest,
    ) -> Asked<'a, Option<u64>>;

    /// A blob from its byte `from` on. A registry without ranges may begin earlier and says so.
    fn blob<'a>(
        &'a self,
        repository: &'a RepositoryName,
        digest: &'a Digest,
        from: u64,
    ) -> Asked<'a, RemoteBlob>;
}

/// A manifest as it came; nothing about it is believed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteManifest {
    pub media_type: String,
    pub bytes: Vec<u8>,
    /// What the registry calls it, or the digest that it was asked for by.
    pub digest: Digest,
}

/// A blob whose body has not been read.
#[derive(Debug)]
pub struct RemoteBlob {
    /// The offset of the first byte that comes; at most what was asked for.
    pub start: u64,
    /// Bytes of the whole blob, where the registry says so.
    pub size: Option<u64>,
    pub pieces: Box<dyn Pieces>,
}

/// A body, piece by piece.
pub trait Pieces: Send + fmt::Debug {
    /// The next bytes, `None` at the end.
    fn next(&mut self) -> Asked<'_, Option<Bytes>>;
}

/// What kept the other registry from answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It says that there is no such thing.
    NotFound,
    /// It wants other credentials, or none are enough.
    Denied,
    /// It has answered us too often (429).
    Limited,
    /// It cannot be reached, or went silent.
    Unreachable,
    /// It failed (5xx), or the connection broke.
    Failed,
    /// What it sent is not what it should be.
    Wrong,
}

/// Why another registry gave no answer. The text is for people: it names the host and has no
/// secret in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct UpstreamError {
    pub trouble: Trouble,
    pub text: String,
    /// What the registry asked to wait at least.
    pub retry_after: Option<Duration>,
}

impl UpstreamError {
    pub fn new(trouble: Trouble, text: impl Into<String>) -> Self {
        Self {
            trouble,
            text: text.into(),
            retry_after: None,
        }
    }

    /// Whether the same question may well be answered a little later.
    pub fn may_pass(&self) -> bool {
        matches!(
            self.trouble,
            Trouble::Limited | Trouble::Unreachable | Trouble::Failed
        )
    }
}
