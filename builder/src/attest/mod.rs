//! What is said of an image beside the image: in-toto statements in BuildKit's form.
//!
//! ```text
//! index ─┬─ the image
//!        └─ a manifest for unknown/unknown, which says by annotations whom it is about
//!             └─ one layer per statement: how it was built, what is in it
//! ```
//!
//! Source: BuildKit, docs/attestations/attestation-storage.md; in-toto Attestation Framework v0.1.

mod packages;
pub mod provenance;
pub mod sbom;

use std::io;

use oci_spec::image::{Descriptor, MediaType};
use serde_json::{Value, json};
use unpacker::content::Content;
use unpacker::digest::{Digest, sha256};
use unpacker::image::read::Platform;

const STATEMENT: &str = "https://in-toto.io/Statement/v0.1";
const LAYER: &str = "application/vnd.in-toto+json";
const PREDICATE: &str = "in-toto.io/predicate-type";

/// The image that something is said of.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Whole references.
    pub names: &'a [String],
    pub digest: &'a Digest,
    pub platform: &'a Platform,
}

/// Something that is said.
#[derive(Debug, Clone, PartialEq)]
pub struct Predicate {
    pub kind: &'static str,
    pub body: Value,
}

/// Two documents for whoever keeps images. Their blobs are in the content store.
#[derive(Debug, Clone)]
pub struct Attested {
    pub manifest: Vec<u8>,
    /// Of that manifest.
    pub blobs: Vec<Digest>,
    /// Names the image and that manifest.
    pub index: Vec<u8>,
}

/// Stores the statements, and makes the documents around them.
pub fn attest(
    content: &dyn Content,
    subject: &Subject<'_>,
    image: &Descriptor,
    predicates: &[Predicate],
) -> io::Result<Attested> {
    let (mut layers, mut blobs) = (Vec::new(), Vec::new());
    for predicate in predicates {
        let bytes = serde_json::to_vec(&statement(subject, predicate))?;
        let (digest, size) = content.put(&bytes)?;
        layers.push(json!({
            "mediaType": LAYER,
            "digest": digest,
            "size": size,
            "annotations": { PREDICATE: predicate.kind },
        }));
        blobs.push(digest);
    }
    // A configuration as an image has it, so that whoever handles images handles this.
    let config = serde_json::to_vec(&json!({
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": blobs },
    }))?;
    let (digest, size) = content.put(&config)?;
    let config = Descriptor::new(MediaType::ImageConfig, size, digest.clone());
    blobs.push(digest);
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MediaType::ImageManifest,
        "config": config,
        "layers": layers,
    }))?;
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MediaType::ImageIndex,
        "manifests": [
            listed(image, subject.platform),
            {
                "mediaType": MediaType::ImageManifest,
                "digest": sha256(&manifest),
                "size": manifest.len(),
                "annotations": {
                    "vnd.docker.reference.digest": subject.digest,
                    "vnd.docker.reference.type": "attestation-manifest",
                },
                "platform": { "architecture": "unknown", "os": "unknown" },
            },
        ],
    }))?;
    Ok(Attested {
        manifest,
        blobs,
        index,
    })
}

fn listed(image: &Descriptor, platform: &Platform) -> Value {
    let mut row = json!({
        "mediaType": image.media_type(),
        "digest": image.digest(),
        "size": image.size(),
        "platform": { "architecture": platform.architecture, "os": platform.os },
    });
    if let Some(variant) = &platform.variant {
        row["platform"]["variant"] = json!(variant);
    }
    row
}

fn statement(subject: &Subject<'_>, predicate: &Predicate) -> Value {
    let digest = digest_set(subject.digest);
    let named = |name: String| json!({ "name": name, "digest": digest });
    let platform = subject.platform.to_string();
    let mut subjects: Vec<Value> = (subject.names.iter())
        .map(|name| named(image_url(name, &platform)))
        .collect();
    if subjects.is_empty() {
        subjects.push(named("_".to_owned()));
    }
    json!({
        "_type": STATEMENT,
        "predicateType": predicate.kind,
        "subject": subjects,
        "predicate": predicate.body,
    })
}

/// `{"sha256": "…"}`
fn digest_set(digest: &Digest) -> Value {
    let text = digest.to_string();
    match text.split_once(':') {
        Some((algorithm, hex)) => json!({ algorithm: hex }),
        None => json!({}),
    }
}

/// An image as a package URL: `pkg:docker/debian@12?platform=linux%2Famd64`.
fn image_url(name: &str, platform: &str) -> String {
    let name = name.strip_prefix("docker.io/library/").unwrap_or(name);
    let (name, digest) = match name.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (name, None),
    };
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    let version = tag.or(digest).map(|text| format!("@{}", escaped(text)));
    let path: Vec<String> = path.split('/').map(escaped).collect();
    format!(
        "pkg:docker/{}{}?platform={}",
        path.join("/"),
        version.unwrap_or_default(),
        escaped(platform)
    )
}

/// Percent-encoded, but for what a package URL has as it is.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    text.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_package_urls() {
        for (name, url) in [
            ("docker.io/library/debian:12", "pkg:docker/debian@12"),
            ("localhost:5000/a/b:1", "pkg:docker/localhost:5000/a/b@1"),
            ("localhost:5000/a", "pkg:docker/localhost:5000/a"),
            ("h/a@sha256:00", "pkg:docker/h/a@sha256:00"),
        ] {
            let expected = format!("{url}?platform=linux%2Famd64");
            assert_eq!(image_url(name, "linux/amd64"), expected);
        }
    }
}
