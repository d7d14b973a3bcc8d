//! What the registry reads of a manifest. The bytes are stored as they came and never rewritten;
//! fields that are not named here are not looked at.
//!
//! Sources: image-spec manifest.md and image-index.md; distribution-spec "Pushing manifests" and
//! "Listing referrers"; docker's schema 2 is the same shape under other media types.

use std::collections::{BTreeMap, HashSet};

use config::name::parse_digest;
use oci_spec::image::Digest;
use serde::{Deserialize, Serialize};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const ACCEPTED: [&str; 5] = [
    OCI_MANIFEST,
    OCI_INDEX,
    OCI_ARTIFACT,
    DOCKER_MANIFEST,
    DOCKER_LIST,
];

/// Clients must be able to push manifests of 4 MiB (distribution-spec, "Pushing manifests"); a
/// little more leaves room for those who count generously.
pub const MAX_MANIFEST: usize = 4 * 1024 * 1024 + 256 * 1024;
/// Each reference is some rows of one transaction, for which others wait. The largest indexes that
/// people are known to push have some thousands.
const MAX_REFERENCES: usize = 10_000;

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("manifest is not JSON of the expected shape")]
    Json(#[from] serde_json::Error),
    #[error("schemaVersion is {found}, not 2")]
    SchemaVersion { found: u64 },
    #[error("media type {found:?} is not a manifest type that is known here")]
    MediaType { found: String },
    #[error("mediaType in the manifest is {body:?}, but it was pushed as {header:?}")]
    Mismatch { body: String, header: String },
    #[error("{text:?} is not a sha256 or sha512 digest")]
    Digest { text: String },
    #[error("manifest references {count} objects, more than {MAX_REFERENCES}")]
    TooMany { count: usize },
}

/// Something about an accepted manifest that its author should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Remark {
    /// distribution-spec, "Pushing manifests": all manifests should have one.
    #[error("the manifest has no mediaType: some clients will refuse it")]
    NoMediaType,
    /// It was in no release of the image specification.
    #[error("the media type {OCI_ARTIFACT} is deprecated: use an image manifest with artifactType")]
    Deprecated,
    /// Only where the repository may be sparse.
    #[error("{count} of the objects that the manifest names are not in the repository")]
    Absent { count: usize },
}

/// A manifest, as far as the registry cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestView {
    pub media_type: String,
    /// Whether the manifest itself says its type.
    pub states_type: bool,
    pub subject: Option<Digest>,
    /// `artifactType`, else for an image the configuration's media type.
    pub artifact_type: Option<String>,
    pub annotations: BTreeMap<String, String>,
    /// Configuration, layers and children, each once.
    pub references: Vec<Digest>,
    /// Of those, what may be absent: layers that are to be fetched from elsewhere.
    pub foreign: Vec<Digest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    blobs: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

impl Descriptor {
    fn digest(&self) -> Result<Digest, ManifestError> {
        parse_digest(&self.digest).map_err(|_| ManifestError::Digest {
            text: self.digest.clone(),
        })
    }

    /// Non-distributable layers must not be asked for (image-spec layer.md).
    fn is_foreign(&self) -> bool {
        self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
            || self.media_type.contains(".nondistributable.")
            || self.media_type.contains(".rootfs.foreign.")
    }
}

impl ManifestView {
    /// Reads a manifest that was pushed with this Content-Type.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ManifestError> {
        let document: Document = serde_json::from_slice(bytes)?;
        let media_type = document.media_type(content_type)?;
        match (document.schema_version, media_type.as_str()) {
            (Some(2), _) | (None, OCI_ARTIFACT) => {}
            (found, _) => {
                return Err(ManifestError::SchemaVersion {
                    found: found.unwrap_or(0),
                });
            }
        }
        let (references, foreign) = document.references()?;
        let config_type = document.config.as_ref().map(|config| &config.media_type);
        Ok(Self {
            artifact_type: [document.artifact_type.as_ref(), config_type]
                .into_iter()
                .flatten()
                .find(|text| !text.is_empty())
                .cloned(),
            states_type: document.media_type.is_some(),
            subject: document
                .subject
                .as_ref()
                .map(Descriptor::digest)
                .transpose()?,
            annotations: document.annotations.unwrap_or_default(),
            media_type,
            references,
            foreign,
        })
    }

    /// What a repository must have before it accepts the manifest. A subject may be absent.
    pub fn required(&self) -> Vec<Digest> {
        let foreign: HashSet<&Digest> = self.foreign.iter().collect();
        let kept_here = |digest: &&Digest| !foreign.contains(digest);
        self.references.iter().filter(kept_here).cloned().collect()
    }

    /// What its author should know although it is accepted.
    pub fn remarks(&self) -> Vec<Remark> {
        let all = [
            (!self.states_type).then_some(Remark::NoMediaType),
            (self.media_type == OCI_ARTIFACT).then_some(Remark::Deprecated),
        ];
        all.into_iter().flatten().collect()
    }

    /// The descriptor that the referrers API answers for this manifest.
    pub fn descriptor(&self, digest: &Digest, size: u64) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Referrer {
            media_type: &self.media_type,
            digest: digest.as_ref(),
            size,
            artifact_type: self.artifact_type.as_deref(),
            annotations: &self.annotations,
        })
    }
}

impl Document {
    /// The header's media type, which must agree with the body's where both are given.
    fn media_type(&self, header: Option<&str>) -> Result<String, ManifestError> {
        let header = header
            .map(without_parameters)
            .filter(|text| !text.is_empty());
        let body = self.media_type.as_deref().filter(|text| !text.is_empty());
        let found = match (header, body) {
            (Some(header), Some(body)) if header != body => {
                return Err(ManifestError::Mismatch {
                    body: body.to_owned(),
                    header: header.to_owned(),
                });
            }
            (Some(found), _) | (None, Some(found)) => found,
            (None, None) if self.manifests.is_some() => OCI_INDEX,
            (None, None) => OCI_MANIFEST,
        };
        if ACCEPTED.contains(&found) {
            Ok(found.to_owned())
        } else {
            Err(ManifestError::MediaType {
                found: found.to_owned(),
            })
        }
    }

    fn references(&self) -> Result<(Vec<Digest>, Vec<Digest>), ManifestError> {
        let lists = [&self.layers, &self.blobs, &self.manifests];
        let descriptors = || {
            self.config
                .iter()
                .chain(lists.into_iter().flatten().flatten())
        };
        let count = descriptors().count();
        if count > MAX_REFERENCES {
            return Err(ManifestError::TooMany { count });
        }
        let (mut all, mut foreign) = (Vec::with_capacity(count), Vec::new());
        let mut seen = HashSet::new();
        for descriptor in descriptors() {
            let digest = descriptor.digest()?;
            if descriptor.is_foreign() {
                foreign.push(digest.clone());
            }
            if seen.insert(digest.clone()) {
                all.push(digest);
            }
        }
        Ok((all, foreign))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Referrer<'a> {
    media_type: &'a str,
    digest: &'a str,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

/// `a/b; charset=utf-8` is `a/b` (RFC 9110, section 8.3.1).
fn without_parameters(header: &str) -> &str {
    header.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: char) -> String {
        format!("sha256:{}", byte.to_string().repeat(64))
    }

    #[test]
    fn reads_an_image() {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"c/t","digest":"{a}","size":1}},
            "layers":[{{"mediaType":"l","digest":"{b}","size":1}},{{"mediaType":"l","digest":"{b}","size":1}},
            {{"mediaType":"l","digest":"{c}","size":1,"urls":["https://example.com"]}}],
            "subject":{{"mediaType":"s","digest":"{d}","size":1}},"annotations":{{"k":"v"}},"unknown":[1]}}"#,
            a = digest('a'),
            b = digest('b'),
            c = digest('c'),
            d = digest('d'),
        );
        let header = format!("{OCI_MANIFEST}; charset=utf-8");
        let view = ManifestView::parse(text.as_bytes(), Some(&header)).unwrap();
        assert_eq!(view.media_type, OCI_MANIFEST);
        assert_eq!(view.artifact_type.as_deref(), Some("c/t"));
        let text = |list: &[Digest]| list.iter().map(Digest::to_string).collect::<Vec<_>>();
        assert_eq!(
            text(&view.references),
            [digest('a'), digest('b'), digest('c')]
        );
        assert_eq!(text(&view.required()), [digest('a'), digest('b')]);
        assert_eq!(view.subject.map(|d| d.to_string()), Some(digest('d')));
    }

    #[test]
    fn guesses_the_type_only_where_nobody_says_it() {
        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        assert_eq!(
            ManifestView::parse(index, None).unwrap().media_type,
            OCI_INDEX
        );
        let image = br#"{"schemaVersion":2,"layers":[]}"#;
        assert_eq!(
            ManifestView::parse(image, None).unwrap().media_type,
            OCI_MANIFEST
        );
    }

    #[test]
    fn bounds_what_one_manifest_names() {
        let layers = |count: usize| {
            let layer = |number| {
                format!(r#"{{"digest":"sha256:{number:064x}","urls":["https://example.com"]}}"#)
            };
            let layers: Vec<_> = (0..count).map(layer).collect();
            format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, layers.join(","))
        };
        let view = ManifestView::parse(layers(10_000).as_bytes(), None).unwrap();
        assert_eq!((view.references.len(), view.required().len()), (10_000, 0));
        let refused = ManifestView::parse(layers(10_001).as_bytes(), None);
        assert!(matches!(
            refused,
            Err(ManifestError::TooMany { count: 10_001 })
        ));
    }

    #[test]
    fn refuses_what_is_no_manifest() {
        let typed = |text: &str| ManifestView::parse(text.as_bytes(), Some(OCI_MANIFEST));
        assert!(matches!(typed("nonsense"), Err(ManifestError::Json(_))));
        assert!(matches!(typed("[]"), Err(ManifestError::Json(_))));
        assert!(matches!(
            typed(r#"{"schemaVersion":1}"#),
            Err(ManifestError::SchemaVersion { found: 1 })
        ));
        assert!(matches!(
            typed(r#"{"schemaVersion":2,"mediaType":"a/b"}"#),
            Err(ManifestError::Mismatch { .. })
        ));
        assert!(matches!(
            typed(r#"{"schemaVersion":2,"layers":[{"digest":"md5:00"}]}"#),
            Err(ManifestError::Digest { .. })
        ));
        assert!(matches!(
            ManifestView::parse(br#"{"schemaVersion":2}"#, Some("text/plain")),
            Err(ManifestError::MediaType { .. })
        ));
    }
}
