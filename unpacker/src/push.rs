//! Push: a manifest, or an index with its manifests, goes to a registry.
//!
//! Everything that a document names is there before the document is sent, so a registry never has
//! a reference to something missing, and the tag moves last.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use config::name::{Reference, RepositoryName, Target};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use oci_spec::image::Descriptor;
use serde::Deserialize;

use crate::content::Content;
use crate::digest::{Digest, sha256};
use crate::progress::{Cancel, Cancelled, Event, Phase, Progress};
use crate::pull::{BadManifest, blobs, is_index, strict, until};
use crate::remote::client::Remote;
use crate::remote::download::BlobName;
use crate::remote::error::RemoteError;
use crate::remote::manifest::MAX_MANIFEST;
use crate::remote::upload::Uploaded;

const MAX_NESTING: usize = 4;
/// Blobs that stand in line at once; the client's own semaphore bounds the transfers.
const IN_LINE: usize = 64;

/// What to push.
#[derive(Debug, Clone)]
pub struct Document {
    pub media_type: String,
    /// A manifest or an index, byte for byte.
    pub bytes: Vec<u8>,
}

/// Why a push failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Manifest(#[from] BadManifest),
    #[error("index {digest} cannot be read")]
    Index {
        digest: Digest,
        source: serde_json::Error,
    },
    #[error("manifest {digest} is not in the content store")]
    Missing { digest: Digest },
    #[error("cannot read manifest {digest}")]
    Content { digest: Digest, source: io::Error },
    #[error("indexes are nested deeper than {MAX_NESTING}")]
    TooDeep,
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// A repository of the same registry that probably has a blob.
pub type MountFrom<'a> = &'a (dyn Fn(&Digest) -> Option<RepositoryName> + Sync);

/// Sends `document` and all it names from `content` to `reference`, and answers its digest.
/// `mount_from` says where the registry may have a blob already.
pub async fn push(
    remote: &Remote,
    content: Arc<dyn Content>,
    reference: &Reference,
    document: &Document,
    mount_from: Option<MountFrom<'_>>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Digest, PushError> {
    let push = Push {
        remote,
        content,
        mount_from,
        progress,
        sent: Mutex::new(HashSet::new()),
    };
    tokio::select! {
        done = push.document(reference.clone(), document.clone(), 0) => done,
        cancelled = until(cancel) => Err(cancelled.into()),
    }
}

struct Push<'a> {
    remote: &'a Remote,
    content: Arc<dyn Content>,
    mount_from: Option<MountFrom<'a>>,
    progress: &'a dyn Progress,
    /// Manifests of indexes, by digest and depth: one that is named often is sent once.
    sent: Mutex<HashSet<(String, usize)>>,
}

impl Push<'_> {
    fn document(
        &self,
        at: Reference,
        document: Document,
        depth: usize,
    ) -> BoxFuture<'_, Result<Digest, PushError>> {
        Box::pin(async move {
            if is_index(&document.media_type) {
                self.children(&at, &document.bytes, depth).await?;
            } else {
                self.blobs(&at, &document.bytes).await?;
            }
            let bytes = document.bytes.into();
            let put = self
                .remote
                .put_manifest(&at, &document.media_type, bytes, self.progress);
            Ok(put.await?)
        })
    }

    /// The manifests of an index, one after another: their blobs are what takes time.
    async fn children(&self, at: &Reference, index: &[u8], depth: usize) -> Result<(), PushError> {
        if depth >= MAX_NESTING {
            return Err(PushError::TooDeep);
        }
        for child in children(index)? {
            let (digest, media_type) = child;
            if !self.is_first(&digest, depth) {
                continue;
            }
            let bytes = self.read(&digest).await?;
            let at = at.at(Target::Digest(digest));
            let document = Document { media_type, bytes };
            self.document(at, document, depth + 1).await?;
        }
        Ok(())
    }

    fn is_first(&self, digest: &Digest, depth: usize) -> bool {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.insert((digest.to_string(), depth))
    }

    async fn read(&self, digest: &Digest) -> Result<Vec<u8>, PushError> {
        let (content, wanted) = (Arc::clone(&self.content), digest.clone());
        let read = tokio::task::spawn_blocking(move || content.read(&wanted, MAX_MANIFEST));
        let read = read.await.map_err(io::Error::other);
        let read = read.and_then(|read| read);
        let digest = digest.clone();
        match read {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(PushError::Missing { digest }),
            Err(source) => Err(PushError::Content { digest, source }),
        }
    }

    async fn blobs(&self, at: &Reference, manifest: &[u8]) -> Result<(), PushError> {
        let blobs = blobs(manifest, &sha256(manifest))?;
        stream::iter(blobs)
            .map(|blob| self.blob(at, blob))
            .buffer_unordered(IN_LINE)
            .try_collect()
            .await
    }

    async fn blob(&self, at: &Reference, blob: BlobName) -> Result<(), PushError> {
        let from = self.mount_from.and_then(|ask| ask(&blob.digest));
        let from = from.as_ref().filter(|from| *from != at.repository());
        let upload = self
            .remote
            .upload(at, &blob, &self.content, from, self.progress);
        let note = match upload.await? {
            Uploaded::Existed => Some("exists".to_owned()),
            Uploaded::Mounted => Some("mounted".to_owned()),
            Uploaded::Sent => None,
        };
        self.progress.event(Event::Finished {
            id: blob.id(),
            phase: Phase::Upload,
            note,
        });
        Ok(())
    }
}

fn children(index: &[u8]) -> Result<Vec<(Digest, String)>, PushError> {
    #[derive(Deserialize)]
    struct Body {
        manifests: Vec<Descriptor>,
    }
    let whole = || sha256(index);
    let body: Body = serde_json::from_slice(index).map_err(|source| PushError::Index {
        digest: whole(),
        source,
    })?;
    let name = |child: &Descriptor| match strict(child) {
        Ok(digest) => Ok((digest, child.media_type().to_string())),
        Err(source) => {
            let digest = whole();
            Err(BadManifest::BlobDigest { digest, source }.into())
        }
    };
    body.manifests.iter().map(name).collect()
}
