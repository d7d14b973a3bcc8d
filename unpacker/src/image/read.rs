//! Manifests, indexes and configurations from untrusted bytes to an [`Image`].
//!
//! Everything is bounded before it is parsed, and what is inconsistent is refused here: whoever
//! holds an [`Image`] need not look again. Source: image-spec manifest.md, image-index.md,
//! config.md; docker's "image manifest version 2, schema 2" reads the same.

use std::fmt;
use std::io;
use std::str::FromStr;

use oci_spec::image::{Descriptor, MediaType};
use serde::Deserialize;

use super::config::ImageConfig;
use super::{Image, Layer};
use crate::content::Content;
use crate::digest::{ChainId, DiffId, Digest, sha256};
use crate::verify::{self, Mismatch};

/// Registries refuse larger manifests too (distribution-spec, "Pushing Manifests").
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Docker bounds it too; nobody's has a tenth of it.
pub const MAX_CONFIG: u64 = 8 << 20;
/// Overlayfs takes 500 lower folders; nobody else goes higher.
const MAX_LAYERS: usize = 500;
/// An index may name indexes; nobody nests deeper than two.
pub(crate) const MAX_NESTING: usize = 4;

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Why bytes are no image that can be unpacked here.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{what} has {size} bytes, more than {limit}")]
    TooLarge { what: String, size: u64, limit: u64 },
    #[error("{what} is not valid JSON of its kind")]
    Json {
        what: String,
        source: serde_json::Error,
    },
    #[error("{digest} is not in the content store")]
    Missing { digest: Digest },
    #[error("cannot read {digest}")]
    Content { digest: Digest, source: io::Error },
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    #[error("{text:?} is not a sha256 or sha512 digest")]
    BadDigest { text: String },
    #[error("media type {media_type:?} is not an image's")]
    NotAnImage { media_type: String },
    #[error(
        "manifests of schema version 1 are not supported; push the image again with a current tool"
    )]
    SchemaOne,
    #[error("the document says both `layers` and `manifests`, so its meaning is ambiguous")]
    Ambiguous,
    #[error("manifest has {layers} layers, configuration has {diff_ids} diffIDs")]
    LayerCount { layers: usize, diff_ids: usize },
    #[error("manifest has {layers} layers, more than {MAX_LAYERS}")]
    TooManyLayers { layers: usize },
    #[error("rootfs type is {kind:?}, only \"layers\" is known")]
    RootFsType { kind: String },
    #[error("no image for {wanted}; there is {}", list(available))]
    NoPlatform {
        wanted: Platform,
        available: Vec<String>,
    },
    #[error("indexes are nested deeper than {MAX_NESTING}")]
    TooDeep,
    #[error("image is for {found}, not for {wanted}")]
    WrongPlatform {
        wanted: Box<Platform>,
        found: Box<Platform>,
    },
}

/// `os/architecture[/variant]`, in Go's names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    /// Never the default one of its architecture (`v8` of arm64, `v1` of amd64).
    pub variant: Option<String>,
}

/// Text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a platform: os/architecture or os/architecture/variant")]
pub struct BadPlatform {
    pub text: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// A manifest or an index, told apart.
pub(crate) enum Parsed {
    Manifest {
        config: Box<Descriptor>,
        layers: Vec<Descriptor>,
    },
    Index(Vec<Descriptor>),
}

/// Reads the image of a manifest (not of an index).
pub fn load(content: &dyn Content, manifest: &[u8]) -> Result<Image, ImageError> {
    let (config, layers) = match parse(manifest)? {
        Parsed::Manifest { config, layers } => (config, layers),
        Parsed::Index(_) => {
            return Err(ImageError::NotAnImage {
                media_type: MediaType::ImageIndex.to_string(),
            });
        }
    };
    let kind = config.media_type().to_string();
    if kind != MediaType::ImageConfig.to_string() && kind != DOCKER_CONFIG {
        return Err(ImageError::NotAnImage { media_type: kind });
    }
    let bytes = fetch(content, &config, MAX_CONFIG)?;
    let parsed: ImageConfig = json("image configuration", &bytes)?;
    Ok(Image {
        digest: sha256(manifest),
        config_digest: config.digest().clone(),
        layers: pair(layers, &parsed)?,
        config: parsed,
    })
}

/// Reads an image from a manifest or from an index, whose parts are in `content` too.
pub fn load_for(
    content: &dyn Content,
    document: &[u8],
    platform: &Platform,
) -> Result<Image, ImageError> {
    let mut bytes = document.to_vec();
    for _ in 0..MAX_NESTING {
        match parse(&bytes)? {
            Parsed::Manifest { .. } => return load(content, &bytes),
            Parsed::Index(_) => {
                let chosen = choose(&bytes, platform)?;
                bytes = fetch(content, &chosen, MAX_MANIFEST)?;
            }
        }
    }
    Err(ImageError::TooDeep)
}

/// The entry of an index that fits a platform best. It may be an index itself.
pub fn choose(index: &[u8], platform: &Platform) -> Result<Descriptor, ImageError> {
    let Parsed::Index(entries) = parse(index)? else {
        return Err(ImageError::NotAnImage {
            media_type: MediaType::ImageManifest.to_string(),
        });
    };
    let images: Vec<Descriptor> = entries.into_iter().filter(is_image).collect();
    let best = images
        .iter()
        .filter_map(|entry| Some((fitness(entry, platform)?, entry)))
        // Of equals the first counts, as with every other client.
        .min_by_key(|(fitness, _)| *fitness);
    match best {
        Some((_, entry)) => Ok(entry.clone()),
        None => Err(ImageError::NoPlatform {
            wanted: platform.clone(),
            available: images.iter().map(name_of_platform).collect(),
        }),
    }
}

/// What an index names; `None` for a manifest.
pub fn children(document: &[u8]) -> Result<Option<Vec<Descriptor>>, ImageError> {
    match parse(document)? {
        Parsed::Index(children) => Ok(Some(children)),
        Parsed::Manifest { .. } => Ok(None),
    }
}

/// Fails where the configuration says that the image is for another system.
pub fn check_platform(config: &ImageConfig, wanted: &Platform) -> Result<(), ImageError> {
    if config.os.is_empty() || config.architecture.is_empty() {
        return Ok(());
    }
    let found = Platform::new(&config.os, &config.architecture, config.variant.as_deref());
    match found.os == wanted.os && found.architecture == wanted.architecture {
        true => Ok(()),
        false => Err(ImageError::WrongPlatform {
            wanted: Box::new(wanted.clone()),
            found: Box::new(found),
        }),
    }
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, ImageError> {
    let size = bytes.len() as u64;
    if size > MAX_MANIFEST {
        return Err(too_large("manifest", size, MAX_MANIFEST));
    }
    let document: Document = json("manifest", bytes)?;
    if document.schema_version == 1 {
        return Err(ImageError::SchemaOne);
    }
    let kind = document.media_type.as_deref();
    let manifest = MediaType::ImageManifest.to_string();
    let index = MediaType::ImageIndex.to_string();
    let is = |names: [&str; 2]| kind.is_none_or(|kind| names.contains(&kind));
    match (document.config, document.layers, document.manifests) {
        // CVE-2021-41190: one document, two readings.
        (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => Err(ImageError::Ambiguous),
        (Some(config), Some(layers), None) if is([&manifest, DOCKER_MANIFEST]) => {
            Ok(Parsed::Manifest {
                config: Box::new(config),
                layers,
            })
        }
        (None, None, Some(entries)) if is([&index, DOCKER_LIST]) => Ok(Parsed::Index(entries)),
        _ => Err(ImageError::NotAnImage {
            media_type: document.media_type.unwrap_or_default(),
        }),
    }
}

/// Joins the layers' blobs with their diffIDs.
fn pair(layers: Vec<Descriptor>, config: &ImageConfig) -> Result<Vec<Layer>, ImageError> {
    let texts = &config.rootfs.diff_ids;
    if config.rootfs.kind != "layers" {
        return Err(ImageError::RootFsType {
            kind: config.rootfs.kind.clone(),
        });
    }
    if layers.len() > MAX_LAYERS {
        return Err(ImageError::TooManyLayers {
            layers: layers.len(),
        });
    }
    if layers.len() != texts.len() {
        return Err(ImageError::LayerCount {
            layers: layers.len(),
            diff_ids: texts.len(),
        });
    }
    for layer in &layers {
        checked_digest(layer)?;
    }
    let diffs: Vec<DiffId> = texts
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, crate::digest::BadDigest>>()
        .map_err(|bad| ImageError::BadDigest { text: bad.text })?;
    let chains = ChainId::of_layers(&diffs);
    let rows = layers.into_iter().zip(diffs).zip(chains);
    Ok(rows
        .map(|((blob, diff_id), chain_id)| Layer {
            blob,
            diff_id,
            chain_id,
        })
        .collect())
}

/// Reads and verifies a small blob.
pub(crate) fn fetch(
    content: &dyn Content,
    blob: &Descriptor,
    limit: u64,
) -> Result<Vec<u8>, ImageError> {
    let digest = checked_digest(blob)?;
    if blob.size() > limit {
        return Err(too_large(digest.as_ref(), blob.size(), limit));
    }
    let read = content
        .read(&digest, limit)
        .map_err(|source| ImageError::Content {
            digest: digest.clone(),
            source,
        })?;
    let Some(bytes) = read else {
        return Err(ImageError::Missing { digest });
    };
    verify::check(&bytes, blob)?;
    Ok(bytes)
}

/// The digest as the strict parser reads it: it becomes a file's name later.
fn checked_digest(blob: &Descriptor) -> Result<Digest, ImageError> {
    let text = blob.digest().to_string();
    config::name::parse_digest(&text).map_err(|_| ImageError::BadDigest { text })
}

fn json<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Json {
        what: what.to_owned(),
        source,
    })
}

/// Whether a descriptor says that its blob names others.
pub(crate) fn is_document(blob: &Descriptor) -> bool {
    let kind = blob.media_type().to_string();
    let (manifest, index) = (MediaType::ImageManifest, MediaType::ImageIndex);
    [DOCKER_MANIFEST, DOCKER_LIST].contains(&kind.as_str())
        || kind == manifest.to_string()
        || kind == index.to_string()
}

fn too_large(what: &str, size: u64, limit: u64) -> ImageError {
    ImageError::TooLarge {
        what: what.to_owned(),
        size,
        limit,
    }
}

// Platforms.

impl Platform {
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let architecture = match architecture {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            "x86" | "i386" | "i686" => "386",
            "armhf" => "arm",
            other => other,
        };
        let default = match architecture {
            "arm64" => "v8",
            "amd64" => "v1",
            "arm" => "v7",
            _ => "",
        };
        let variant = variant.filter(|variant| !variant.is_empty() && *variant != default);
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// The platform of this machine.
    pub fn host() -> Self {
        Self::new(std::env::consts::OS, std::env::consts::ARCH, None)
    }
}

impl FromStr for Platform {
    type Err = BadPlatform;

    fn from_str(text: &str) -> Result<Self, BadPlatform> {
        let parts: Vec<&str> = text.split('/').collect();
        let sound = parts.iter().all(|part| {
            !part.is_empty()
                && part.len() < 64
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        });
        match (sound, parts.as_slice()) {
            (true, [os, architecture]) => Ok(Self::new(os, architecture, None)),
            (true, [os, architecture, variant]) => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(BadPlatform {
                text: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

fn platform_of(entry: &Descriptor) -> Option<Platform> {
    let platform = entry.platform().as_ref()?;
    Some(Platform::new(
        &platform.os().to_string(),
        &platform.architecture().to_string(),
        platform.variant().as_deref(),
    ))
}

pub(crate) fn name_of_platform(entry: &Descriptor) -> String {
    match platform_of(entry) {
        Some(platform) => platform.to_string(),
        None => "an image without a platform".to_owned(),
    }
}

/// BuildKit lists attestations beside images, with the platform `unknown/unknown`.
pub(crate) fn is_image(entry: &Descriptor) -> bool {
    let attestation = entry
        .annotations()
        .as_ref()
        .is_some_and(|all| all.contains_key("vnd.docker.reference.type"));
    let unknown = platform_of(entry).is_some_and(|platform| platform.os == "unknown");
    !attestation && !unknown
}

/// How far an entry is from what is wanted; `None` where it does not run there.
fn fitness(entry: &Descriptor, wanted: &Platform) -> Option<u32> {
    let Some(found) = platform_of(entry) else {
        // Says nothing about itself: better than nothing, worse than everything that says it.
        return Some(1000);
    };
    if found.os != wanted.os || found.architecture != wanted.architecture {
        return None;
    }
    let (found, wanted) = (level(&found), level(wanted));
    // A lower level runs on a higher one (armv6 on armv7, x86-64-v1 on v3), not the other way.
    wanted.checked_sub(found)
}

/// The number of a variant such as `v7`.
fn level(platform: &Platform) -> u32 {
    let default = match platform.architecture.as_str() {
        "arm64" => 8,
        "arm" => 7,
        _ => 1,
    };
    let number = |variant: &String| variant.strip_prefix('v')?.parse().ok();
    platform
        .variant
        .as_ref()
        .and_then(number)
        .unwrap_or(default)
}

fn list(names: &[String]) -> String {
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}
