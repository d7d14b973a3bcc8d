//! What a cache for other hosts says of itself: for each step its keys, and the layers of its result.
//!
//! The layers are ordinary ones, named by the manifest beside the description, so that any registry
//! keeps them and any tool copies them. A result is described as a whole, with every layer since the
//! base image: whoever takes it takes all of it, and never puts one host's layer on another's. What
//! is read here comes from outside: everything is bounded and checked before anything uses it. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use oci_spec::image::{Descriptor, MediaType};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use unpacker::digest::{DiffId, Digest};
use unpacker::snapshot::id::SnapshotId;

use super::layers::PackedLayer;

/// The media type of a description that is a manifest's configuration.
pub const CONFIG_TYPE: &str = "application/vnd.devpod.buildcache.config.v1+json";
/// The field of an image's configuration that holds one.
pub const INLINE: &str = "dev.devpod.buildcache";
/// More bytes are no description of ours.
pub const MAX_DESCRIPTION: u64 = 8 << 20;

const VERSION: u32 = 1;
const MAX_STEPS: usize = 4096;
const MAX_LAYERS: usize = 1023;
/// More than overlayfs stacks.
const MAX_CHAIN: usize = 500;
const MAX_KEYS: usize = 16;
const MAX_TEXT: usize = 4096;

/// As it is written.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Description {
    version: u32,
    layers: Vec<LayerRow>,
    steps: Vec<StepRow>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayerRow {
    blob: String,
    diff_id: String,
    form: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StepRow {
    keys: Vec<String>,
    created: String,
    #[serde(default)]
    made_by: String,
    /// The step changed something: the last of the chain is its own.
    changed: bool,
    /// Since the base image, lowest first.
    chain: Vec<Link>,
}

/// One result with its layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Link {
    name: SnapshotId,
    layer: usize,
}

/// A layer of a description.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownLayer {
    pub packed: PackedLayer,
    /// How it was packed, as [`super::layers::Layers::form`] says it.
    pub form: String,
}

/// A step of a description.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownStep {
    /// Hexadecimal.
    pub keys: Vec<String>,
    /// RFC 3339.
    pub created: String,
    pub made_by: String,
    pub changed: bool,
    /// Every result since the base image by its name, with its layer, lowest first.
    pub chain: Vec<(SnapshotId, KnownLayer)>,
}

/// The steps of a description by their keys.
#[derive(Debug, Default)]
pub struct Known(BTreeMap<String, Arc<KnownStep>>);

/// A description that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    #[error("it is not JSON of the known form")]
    Json(#[from] serde_json::Error),
    #[error("it is of version {0}, and this devpod reads version {VERSION}")]
    Version(u32),
    #[error("it has more {what} than {limit}")]
    TooMany { what: &'static str, limit: usize },
    #[error("{what} {text:?} cannot be used")]
    Bad { what: &'static str, text: String },
    #[error("it names layer {0}, which the manifest does not have")]
    NoLayer(String),
    #[error("a step names layer number {0}, and there is none")]
    NoRow(usize),
    #[error("a step changed something and has no layer")]
    NoResult,
}

impl Description {
    /// Describes steps.
    pub fn of(steps: &[KnownStep]) -> Self {
        let mut description = Self {
            version: VERSION,
            ..Self::default()
        };
        for step in steps {
            let chain = step.chain.iter().map(|(name, layer)| Link {
                name: name.clone(),
                layer: description.row_of(layer),
            });
            let chain = chain.collect();
            description.steps.push(StepRow {
                keys: step.keys.clone(),
                created: step.created.clone(),
                made_by: step.made_by.clone(),
                changed: step.changed,
                chain,
            });
        }
        description
    }

    fn row_of(&mut self, layer: &KnownLayer) -> usize {
        let blob = layer.packed.blob.digest().to_string();
        let known = self.layers.iter().position(|row| row.blob == blob);
        known.unwrap_or_else(|| {
            self.layers.push(LayerRow {
                blob,
                diff_id: layer.packed.diff_id.to_string(),
                form: layer.form.clone(),
            });
            self.layers.len() - 1
        })
    }
}

impl Known {
    pub fn find(&self, key: &Digest) -> Option<&Arc<KnownStep>> {
        self.0.get(key.digest())
    }

    /// Reads and checks a description; `blobs` is what the manifest around it names.
    pub fn parse(bytes: &[u8], blobs: &[Descriptor]) -> Result<Self, DescriptionError> {
        let read: Description = serde_json::from_slice(bytes)?;
        if read.version != VERSION {
            return Err(DescriptionError::Version(read.version));
        }
        at_most("steps", read.steps.len(), MAX_STEPS)?;
        at_most("layers", read.layers.len(), MAX_LAYERS)?;
        let layers = read.layers.iter().map(|row| layer(row, blobs));
        let layers: Vec<KnownLayer> = layers.collect::<Result<_, _>>()?;
        let mut known = BTreeMap::new();
        for row in &read.steps {
            let step = Arc::new(step(row, &layers)?);
            for key in &step.keys {
                known.insert(key.clone(), Arc::clone(&step));
            }
        }
        Ok(Self(known))
    }
}

fn layer(row: &LayerRow, blobs: &[Descriptor]) -> Result<KnownLayer, DescriptionError> {
    let blob = blobs
        .iter()
        .find(|blob| blob.digest().to_string() == row.blob);
    let blob = blob.ok_or_else(|| DescriptionError::NoLayer(row.blob.clone()))?;
    // It becomes a file's name later.
    if config::name::parse_digest(&row.blob).is_err() {
        return Err(bad("the digest", &row.blob));
    }
    match blob.media_type() {
        MediaType::ImageLayer | MediaType::ImageLayerGzip | MediaType::ImageLayerZstd => {}
        other => return Err(bad("the layer's media type", other.as_ref())),
    }
    let diff_id: Option<DiffId> = row.diff_id.parse().ok();
    let is_form = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'@' | b'-');
    if !(1..=64).contains(&row.form.len()) || !row.form.bytes().all(is_form) {
        return Err(bad("the form", &row.form));
    }
    Ok(KnownLayer {
        packed: PackedLayer {
            // Without what else a descriptor may carry.
            blob: Descriptor::new(
                blob.media_type().clone(),
                blob.size(),
                blob.digest().clone(),
            ),
            diff_id: diff_id.ok_or_else(|| bad("the diffID", &row.diff_id))?,
        },
        form: row.form.clone(),
    })
}

fn step(row: &StepRow, layers: &[KnownLayer]) -> Result<KnownStep, DescriptionError> {
    at_most("keys of a step", row.keys.len(), MAX_KEYS)?;
    at_most("layers of a step", row.chain.len(), MAX_CHAIN)?;
    let is_key = |key: &String| key.len() == 64 && key.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(key) = row.keys.iter().find(|key| !is_key(key)) {
        return Err(bad("the key", key));
    }
    if OffsetDateTime::parse(&row.created, &Rfc3339).is_err() {
        return Err(bad("the time", &row.created));
    }
    if row.made_by.len() > MAX_TEXT {
        return Err(bad("the instruction", &row.made_by));
    }
    if row.changed && row.chain.is_empty() {
        return Err(DescriptionError::NoResult);
    }
    let chain = row.chain.iter().map(|link| {
        let layer = layers.get(link.layer).cloned();
        let layer = layer.ok_or(DescriptionError::NoRow(link.layer))?;
        Ok((link.name.clone(), layer))
    });
    Ok(KnownStep {
        keys: row.keys.clone(),
        created: row.created.clone(),
        made_by: row.made_by.clone(),
        changed: row.changed,
        chain: chain.collect::<Result<_, DescriptionError>>()?,
    })
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), DescriptionError> {
    match count > limit {
        true => Err(DescriptionError::TooMany { what, limit }),
        false => Ok(()),
    }
}

fn bad(what: &'static str, text: &str) -> DescriptionError {
    let text = text.chars().take(100).collect();
    DescriptionError::Bad { what, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use unpacker::digest::sha256;

    fn known_layer(text: &[u8]) -> KnownLayer {
        KnownLayer {
            packed: PackedLayer {
                blob: Descriptor::new(MediaType::ImageLayerGzip, 3, sha256(text)),
                diff_id: DiffId::new(sha256(b"diff")),
            },
            form: "gzip@9-1700".to_owned(),
        }
    }

    fn steps() -> Vec<KnownStep> {
        let name = |key: &[u8]| SnapshotId::of_step(&sha256(key));
        let step = |key: &[u8], chain: &[(SnapshotId, KnownLayer)]| KnownStep {
            keys: vec![sha256(key).digest().to_owned()],
            created: "2026-01-01T00:00:00Z".to_owned(),
            made_by: "RUN true".to_owned(),
            changed: true,
            chain: chain.to_vec(),
        };
        let (one, two) = (known_layer(b"one"), known_layer(b"two"));
        let (first, second) = ((name(b"1"), one), (name(b"2"), two));
        vec![
            step(b"1", std::slice::from_ref(&first)),
            step(b"2", &[first, second]),
        ]
    }

    fn blobs() -> Vec<Descriptor> {
        let layers = [known_layer(b"one"), known_layer(b"two")];
        layers.map(|layer| layer.packed.blob).to_vec()
    }

    #[test]
    fn what_was_described_is_read_again() {
        let text = serde_json::to_vec(&Description::of(&steps())).unwrap();
        let known = Known::parse(&text, &blobs()).unwrap();
        for step in steps() {
            let key = format!("sha256:{}", step.keys[0]).parse().unwrap();
            assert_eq!(**known.find(&key).unwrap(), step);
        }
        assert!(known.find(&sha256(b"3")).is_none());
    }

    #[test]
    fn hostile_descriptions_are_refused() {
        let good = serde_json::to_value(Description::of(&steps())).unwrap();
        type Change = fn(&mut Value);
        let changes: &[(Change, &str)] = &[
            (|v| v["version"] = json!(2), "version 2"),
            (|v| v["steps"] = json!("x"), "JSON"),
            (
                |v| v["layers"][0]["blob"] = json!("sha256:00"),
                "does not have",
            ),
            (|v| v["layers"][0]["diffId"] = json!("../x"), "diffID"),
            (|v| v["layers"][0]["form"] = json!("../../x"), "form"),
            (|v| v["steps"][0]["keys"][0] = json!("../../x"), "key"),
            (|v| v["steps"][0]["created"] = json!("yesterday"), "time"),
            (|v| v["steps"][0]["chain"] = json!([]), "no layer"),
            (
                |v| v["steps"][0]["chain"][0]["layer"] = json!(9),
                "number 9",
            ),
            (
                |v| v["steps"][0]["chain"][0]["name"] = json!("../x"),
                "JSON",
            ),
            (
                |v| v["steps"][0]["keys"] = json!(vec!["0".repeat(64); MAX_KEYS + 1]),
                "more keys",
            ),
            (
                |v| v["steps"][0]["madeBy"] = json!("x".repeat(MAX_TEXT + 1)),
                "instruction",
            ),
        ];
        for (change, says) in changes {
            let mut value = good.clone();
            change(&mut value);
            let parsed = Known::parse(value.to_string().as_bytes(), &blobs());
            let error = parsed.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let mut foreign = blobs();
        foreign[0].set_media_type(MediaType::ImageConfig);
        assert!(Known::parse(good.to_string().as_bytes(), &foreign).is_err());
    }
}
