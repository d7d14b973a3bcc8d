//! Pull: a reference becomes a manifest and blobs in the content store.
//!
//! True when it has answered: every blob that the manifest names is committed and verified. The
//! manifest itself is handed back, for the caller to keep where it keeps manifests. Blobs that the
//! store has are never fetched; those that arrived before an error or a cancel stay.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use config::name::{NameError, Reference, Target, parse_digest};
use futures_util::future::BoxFuture;
use oci_spec::image::Descriptor;
use serde::Deserialize;

use crate::arrival::Arrivals;
use crate::content::Content;
use crate::digest::Digest;
use crate::fetch::Wanted;
use crate::image::read::{ImageError, Platform, choose};
use crate::progress::{Cancel, Cancelled, Progress};
use crate::remote::client::Remote;
use crate::remote::download::BlobName;
use crate::remote::error::RemoteError;
use crate::remote::manifest::Fetched;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// An index may name an index; nobody nests deeper than two.
const MAX_NESTING: usize = 4;
/// More blobs than any overlay can stack; a manifest with more is an attack on our sockets.
pub(crate) const MAX_BLOBS: usize = 1024;
/// Manifests of all platforms together; the largest known index has a few dozen.
pub(crate) const MAX_PARTS: usize = 1024;
/// How soon a cancel is noticed while the network is silent.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// What a pull brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    pub media_type: String,
    /// The platform's manifest, byte for byte.
    pub manifest: Vec<u8>,
    pub digest: Digest,
    /// What the reference itself pointed at, where that was an index: outermost first.
    pub indexes: Vec<Fetched>,
}

impl Pulled {
    /// The platform's manifest.
    pub fn as_fetched(&self) -> Fetched {
        Fetched {
            media_type: self.media_type.clone(),
            bytes: self.manifest.clone(),
            digest: self.digest.clone(),
        }
    }
}

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("cannot use {reference}")]
    Image {
        reference: String,
        source: Box<ImageError>,
    },
    #[error(transparent)]
    Manifest(#[from] BadManifest),
    #[error("indexes of {reference} are nested deeper than {MAX_NESTING}")]
    TooDeep { reference: String },
    #[error("the image names more than {MAX_PARTS} manifests")]
    TooManyParts,
    #[error("cannot look for blob {digest} in the content store")]
    Content { digest: Digest, source: io::Error },
    #[error("cannot see how much room there is")]
    Room { source: io::Error },
    #[error("{needed} bytes are to be fetched, and there is room for {free}")]
    NoRoom { needed: u64, free: u64 },
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// A manifest whose blobs cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum BadManifest {
    #[error("manifest {digest} has no config and layers of the known form")]
    Json {
        digest: Digest,
        source: serde_json::Error,
    },
    #[error("manifest {digest} names a blob that nobody can verify")]
    BlobDigest { digest: Digest, source: NameError },
    #[error("manifest {digest} names {count} blobs, more than {MAX_BLOBS}")]
    TooMany { digest: Digest, count: usize },
}

/// Fetches the image of `reference` for `platform`: manifest, configuration and layers.
pub async fn pull(
    remote: &Remote,
    content: Arc<dyn Content>,
    reference: &Reference,
    platform: &Platform,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Pulled, PullError> {
    let work = async {
        let pulled = resolve(remote, reference, platform, progress).await?;
        let blobs = blobs(&pulled.manifest, &pulled.digest)?;
        let wanted = Wanted::new(&Arrivals::new(content), blobs);
        wanted.fetch(remote, reference, progress).await?;
        Ok(pulled)
    };
    unless(cancel, work).await
}

/// Does the work until it is to be stopped.
pub async fn unless<T, E: From<Cancelled>>(
    cancel: &Cancel,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::select! {
        done = work => done,
        cancelled = until(cancel) => Err(cancelled.into()),
    }
}

/// Only the manifest for `platform`, for whoever decides first what to fetch.
pub async fn resolve(
    remote: &Remote,
    reference: &Reference,
    platform: &Platform,
    progress: &dyn Progress,
) -> Result<Pulled, PullError> {
    let mut indexes = Vec::new();
    let mut at = reference.clone();
    for _ in 0..=MAX_NESTING {
        let fetched = remote.resolve(&at, progress).await?;
        if !is_index(&fetched.media_type) {
            return Ok(Pulled {
                media_type: fetched.media_type,
                manifest: fetched.bytes,
                digest: fetched.digest,
                indexes,
            });
        }
        let chosen = choose(&fetched.bytes, platform).map_err(|e| image_error(reference, e))?;
        let digest = strict(&chosen).map_err(|source| BadManifest::BlobDigest {
            digest: fetched.digest.clone(),
            source,
        })?;
        at = reference.at(Target::Digest(digest));
        indexes.push(fetched);
    }
    Err(PullError::TooDeep {
        reference: reference.to_string(),
    })
}

/// An image of all its platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Everything {
    /// What the reference itself points at.
    pub root: Fetched,
    /// The documents that it names, each before those that name it, each once.
    pub parts: Vec<Fetched>,
}

impl Everything {
    /// The blobs of all manifests, each once.
    pub fn blobs(&self) -> Result<Vec<BlobName>, BadManifest> {
        let mut seen = HashSet::new();
        let mut all = Vec::new();
        for document in self.parts.iter().chain([&self.root]) {
            if !is_index(&document.media_type) {
                let blobs = blobs(&document.bytes, &document.digest)?;
                all.extend(
                    blobs
                        .into_iter()
                        .filter(|b| seen.insert(b.digest.to_string())),
                );
            }
        }
        Ok(all)
    }
}

/// All manifests of `reference`, whatever platform they are for.
pub async fn resolve_all(
    remote: &Remote,
    reference: &Reference,
    progress: &dyn Progress,
) -> Result<Everything, PullError> {
    let root = remote.resolve(reference, progress).await?;
    let mut walk = Walk {
        remote,
        reference,
        progress,
        seen: HashSet::new(),
        parts: Vec::new(),
    };
    walk.children(&root, 0).await?;
    Ok(Everything {
        root,
        parts: walk.parts,
    })
}

struct Walk<'a> {
    remote: &'a Remote,
    reference: &'a Reference,
    progress: &'a dyn Progress,
    seen: HashSet<String>,
    parts: Vec<Fetched>,
}

impl Walk<'_> {
    fn children<'b>(
        &'b mut self,
        index: &'b Fetched,
        depth: usize,
    ) -> BoxFuture<'b, Result<(), PullError>> {
        Box::pin(async move {
            if !is_index(&index.media_type) {
                return Ok(());
            }
            if depth >= MAX_NESTING {
                return Err(PullError::TooDeep {
                    reference: self.reference.to_string(),
                });
            }
            for digest in children(&index.bytes, &index.digest)? {
                if !self.seen.insert(digest.to_string()) {
                    continue;
                }
                if self.seen.len() > MAX_PARTS {
                    return Err(PullError::TooManyParts);
                }
                let at = self.reference.at(Target::Digest(digest));
                let part = self.remote.resolve(&at, self.progress).await?;
                self.children(&part, depth + 1).await?;
                self.parts.push(part);
            }
            Ok(())
        })
    }
}

/// The manifests that an index names.
fn children(index: &[u8], digest: &Digest) -> Result<Vec<Digest>, BadManifest> {
    #[derive(Deserialize)]
    struct Body {
        manifests: Vec<Descriptor>,
    }
    let body: Body = serde_json::from_slice(index).map_err(|source| BadManifest::Json {
        digest: digest.clone(),
        source,
    })?;
    let children = body.manifests.iter().map(|child| {
        strict(child).map_err(|source| BadManifest::BlobDigest {
            digest: digest.clone(),
            source,
        })
    });
    children.collect()
}

fn image_error(reference: &Reference, source: ImageError) -> PullError {
    PullError::Image {
        reference: reference.to_string(),
        source: Box::new(source),
    }
}

/// Whether a media type is one of a list of manifests.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

/// The blobs that a manifest names, configuration first, each once.
pub fn blobs(manifest: &[u8], digest: &Digest) -> Result<Vec<BlobName>, BadManifest> {
    #[derive(Deserialize)]
    struct Body {
        config: Descriptor,
        layers: Vec<Descriptor>,
    }
    let body: Body = serde_json::from_slice(manifest).map_err(|source| BadManifest::Json {
        digest: digest.clone(),
        source,
    })?;
    let count = body.layers.len() + 1;
    if count > MAX_BLOBS {
        let digest = digest.clone();
        return Err(BadManifest::TooMany { digest, count });
    }
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    for descriptor in std::iter::once(&body.config).chain(&body.layers) {
        let blob = strict(descriptor).map_err(|source| BadManifest::BlobDigest {
            digest: digest.clone(),
            source,
        })?;
        if seen.insert(blob.to_string()) {
            names.push(BlobName {
                digest: blob,
                size: descriptor.size(),
            });
        }
    }
    Ok(names)
}

/// A descriptor's digest through the strict parser: oci-spec also lets unknown algorithms pass.
pub(crate) fn strict(descriptor: &Descriptor) -> Result<Digest, NameError> {
    parse_digest(descriptor.digest().as_ref())
}

/// Ends when the work is to be stopped.
pub(crate) async fn until(cancel: &Cancel) -> Cancelled {
    loop {
        if let Err(cancelled) = cancel.check() {
            return cancelled;
        }
        tokio::time::sleep(CANCEL_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::sha256;

    fn manifest(config: &str, layers: &[String]) -> Vec<u8> {
        let descriptor = |digest: &str| serde_json::json!({"mediaType": "application/octet-stream", "digest": digest, "size": 3});
        let layers: Vec<_> = layers.iter().map(|l| descriptor(l)).collect();
        let body =
            serde_json::json!({"schemaVersion": 2, "config": descriptor(config), "layers": layers});
        serde_json::to_vec(&body).unwrap()
    }

    #[test]
    fn blobs_are_listed_once_and_strictly() {
        let (a, b) = (sha256(b"a").to_string(), sha256(b"b").to_string());
        let whole = sha256(b"");
        let names = blobs(&manifest(&a, &[b.clone(), b.clone()]), &whole).unwrap();
        let digests: Vec<_> = names.iter().map(|name| name.digest.to_string()).collect();
        assert_eq!(digests, [a.clone(), b.clone()]);
        let unknown = format!("md5:{}", "0".repeat(32));
        let bad = blobs(&manifest(&a, &[unknown]), &whole);
        assert!(bad.is_err(), "{bad:?}");
        let many = vec![b; MAX_BLOBS];
        let bad = blobs(&manifest(&a, &many), &whole);
        assert!(matches!(bad, Err(BadManifest::TooMany { .. })), "{bad:?}");
        let negative =
            br#"{"config":{"mediaType":"x","digest":"sha256:00","size":-1},"layers":[]}"#;
        assert!(matches!(
            blobs(negative, &whole),
            Err(BadManifest::Json { .. })
        ));
    }
}
