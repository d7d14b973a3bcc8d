//! Manifests and indexes: fetched and sent as the bytes they are, never written anew.

use bytes::Bytes;
use config::name::{Reference, Target, parse_digest};
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use serde::Deserialize;

use super::auth::Scope;
use super::client::Remote;
use super::endpoint::manifest_name;
use super::error::RemoteError;
use super::exchange::{Call, Payload, Reply};
use crate::digest::{Digest, Hasher, sha256};
use crate::progress::Progress;

/// The distribution specification lets registries refuse more than 4 MiB; indexes of large
/// projects come near it, so a little is added.
pub const MAX_MANIFEST: u64 = 8 * 1024 * 1024;
pub(super) const ACCEPTED: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json",
);
/// What media types of docker's first manifests begin with.
const SCHEMA_ONE: &str = "application/vnd.docker.distribution.manifest.v1";
pub(super) const DIGEST_HEADER: &str = "docker-content-digest";

/// A manifest or index whose digest has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub media_type: String,
    pub bytes: Vec<u8>,
    pub digest: Digest,
}

impl Remote {
    /// What `reference` points at, as its registry or a mirror of it says.
    pub async fn resolve(
        &self,
        reference: &Reference,
        progress: &dyn Progress,
    ) -> Result<Fetched, RemoteError> {
        for mirror in self.mirrors(reference) {
            match self.resolve_once(&mirror).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => self.leave_mirror(&mirror, error, progress)?,
            }
        }
        let mut attempts = self.attempts(progress);
        loop {
            match self.resolve_once(reference).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => attempts.after(error).await?,
            }
        }
    }

    pub(super) async fn resolve_once(&self, reference: &Reference) -> Result<Fetched, RemoteError> {
        let endpoint = self.endpoint(reference.host())?;
        let scope = Scope::pull(reference);
        let tail = format!("manifests/{}", reference.target());
        let mut call = Call::new(Method::GET, endpoint.url(reference.repository(), &tail));
        call.headers.insert(ACCEPT, ACCEPTED);
        let what = manifest_name(reference);
        let mut reply = self.request(&endpoint, &scope, &what, call).await?;
        let bytes = reply.read(MAX_MANIFEST).await?;
        let media_type = media_type(reference, &reply, &bytes)?;
        // Its digest leaves the signatures out, so it is refused before that is compared.
        if media_type.starts_with(SCHEMA_ONE) {
            let what = what.clone();
            return Err(RemoteError::SchemaOne {
                host: endpoint.host,
                what,
            });
        }
        let digest = verified(reference, &reply, &bytes)?;
        Ok(Fetched {
            media_type,
            bytes,
            digest,
        })
    }

    /// Puts a manifest at `reference`; every blob it names must be there already.
    pub async fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
        progress: &dyn Progress,
    ) -> Result<Digest, RemoteError> {
        let mut attempts = self.attempts(progress);
        loop {
            let sent = self.put_once(reference, media_type, bytes.clone()).await;
            match sent {
                Ok(digest) => return Ok(digest),
                Err(error) => attempts.after(error).await?,
            }
        }
    }

    async fn put_once(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest, RemoteError> {
        let endpoint = self.endpoint(reference.host())?;
        let scope = Scope::push(reference, None);
        let tail = format!("manifests/{}", reference.target());
        let mut call = Call::new(Method::PUT, endpoint.url(reference.repository(), &tail));
        let value = HeaderValue::from_str(media_type).map_err(|_| RemoteError::Protocol {
            host: endpoint.host.clone(),
            problem: format!("{media_type:?} cannot be sent as a media type"),
        })?;
        call.headers.insert(CONTENT_TYPE, value);
        call.payload = Payload::Bytes(bytes.clone());
        let what = manifest_name(reference);
        let reply = self.request(&endpoint, &scope, &what, call).await?;
        verified(reference, &reply, &bytes)
    }
}

/// The digest of `bytes`, which must be the one asked for and the one the registry claims.
fn verified(reference: &Reference, reply: &Reply, bytes: &[u8]) -> Result<Digest, RemoteError> {
    let claimed = reply.header(DIGEST_HEADER);
    let claimed = claimed.and_then(|text| parse_digest(text).ok());
    let asked = match reference.target() {
        Target::Digest(digest) => Some(digest),
        Target::Tag(_) => None,
    };
    for expected in asked.iter().chain(&claimed) {
        let actual = digest_like(expected, bytes);
        if actual != *expected {
            return Err(RemoteError::DigestMismatch {
                host: reference.host().to_owned(),
                what: manifest_name(reference),
                expected: expected.clone(),
                actual: actual.to_string(),
            });
        }
    }
    Ok(asked.or(claimed).unwrap_or_else(|| sha256(bytes)))
}

fn digest_like(expected: &Digest, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::like(expected);
    hasher.update(bytes);
    hasher.finish()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

/// The media type by header and body, which may not contradict each other: a document that is a
/// manifest to one reader and an index to another hides images (CVE-2021-41190).
fn media_type(reference: &Reference, reply: &Reply, bytes: &[u8]) -> Result<String, RemoteError> {
    let problem = |problem: String| RemoteError::Protocol {
        host: reference.host().to_owned(),
        problem,
    };
    let name = manifest_name(reference);
    let shape: Shape = serde_json::from_slice(bytes)
        .map_err(|e| problem(format!("{name} is not a JSON manifest: {e}")))?;
    if shape.layers.is_some() && shape.manifests.is_some() {
        let text = format!("{name} claims to be a manifest and an index at once");
        return Err(problem(text));
    }
    if shape.schema_version == Some(1) {
        return Ok(SCHEMA_ONE.to_owned());
    }
    let header = reply.header(CONTENT_TYPE).unwrap_or_default();
    let header = header.split(';').next().unwrap_or_default().trim();
    let generic = [
        "",
        "application/json",
        "application/octet-stream",
        "text/plain",
    ];
    let header = (!generic.contains(&header)).then(|| header.to_owned());
    match (header, shape.media_type) {
        (Some(header), Some(body)) if header != body => Err(problem(format!(
            "{name} is sent as {header} and calls itself {body}"
        ))),
        (Some(known), _) | (None, Some(known)) => Ok(known),
        (None, None) => Err(problem(format!("{name} has no media type"))),
    }
}

impl Scope {
    pub(super) fn pull(reference: &Reference) -> Self {
        Self {
            repository: reference.repository().to_string(),
            push: false,
            mount_from: None,
        }
    }

    pub(super) fn push(reference: &Reference, mount_from: Option<String>) -> Self {
        Self {
            repository: reference.repository().to_string(),
            push: true,
            mount_from,
        }
    }
}
