//! Images as people and scripts look at them: `images`, `inspect`.

use config::name::{Tag, Target};
use serde_json::{Value, json};
use unpacker::image::read::{self, Platform};

use crate::api::types::ImageRow;
use crate::error::{Failure, Kind, Outcome};
use crate::images::service::{Images, Kept, store};

const MAX_CONFIG: u64 = 8 << 20;

impl Images {
    /// Every tagged image, by name.
    pub fn list(&self) -> Outcome<Vec<ImageRow>> {
        let images = self.registry.images().map_err(store)?;
        let mut rows = Vec::with_capacity(images.len());
        for image in images {
            let target = Target::Digest(image.digest.clone());
            let Some(manifest) = self
                .registry
                .manifest(&image.repository, &target)
                .map_err(store)?
            else {
                continue;
            };
            let kept = Kept {
                repository: image.repository,
                digest: image.digest,
                media_type: manifest.media_type,
                bytes: manifest.bytes,
            };
            rows.push(self.row(&kept, &image.tag)?);
        }
        Ok(rows)
    }

    fn row(&self, kept: &Kept, tag: &Tag) -> Outcome<ImageRow> {
        let manifest: Value = serde_json::from_slice(&kept.bytes).unwrap_or_default();
        let config = self.config_of(&manifest)?;
        Ok(ImageRow {
            repository: self.here.shown(&kept.repository),
            tag: tag.to_string(),
            digest: kept.digest.to_string(),
            platforms: platforms(&manifest, config.as_ref()),
            size: self.size(kept, &manifest, 0)?,
            created: config.and_then(|c| c["created"].as_str().map(str::to_owned)),
        })
    }

    /// The configuration that a manifest names; `None` for an index, or where it is not JSON.
    fn config_of(&self, manifest: &Value) -> Outcome<Option<Value>> {
        let Some(digest) = manifest["config"]["digest"]
            .as_str()
            .and_then(|t| t.parse().ok())
        else {
            return Ok(None);
        };
        let bytes = self.content.read(&digest, MAX_CONFIG)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Bytes of the blobs of a manifest, or of all children of an index that are here.
    fn size(&self, kept: &Kept, manifest: &Value, depth: u8) -> Outcome<u64> {
        let Some(children) = manifest["manifests"].as_array() else {
            let layers = manifest["layers"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            let all = layers.iter().chain(std::iter::once(&manifest["config"]));
            return Ok(all.filter_map(|blob| blob["size"].as_u64()).sum());
        };
        let mut sum = 0;
        for child in children.iter().filter(|_| depth < 4) {
            let digest = child["digest"].as_str().and_then(|text| text.parse().ok());
            let Some(digest) = digest.map(Target::Digest) else {
                continue;
            };
            if let Some(found) = self
                .registry
                .manifest(&kept.repository, &digest)
                .map_err(store)?
            {
                let value: Value = serde_json::from_slice(&found.bytes).unwrap_or_default();
                sum += self.size(kept, &value, depth + 1)?;
            }
        }
        Ok(sum)
    }

    /// Manifest, configuration and names of one image.
    pub fn inspect(&self, text: &str) -> Outcome<Value> {
        let (reference, kept) = self.expect(text)?;
        let manifest: Value = serde_json::from_slice(&kept.bytes)
            .map_err(|error| Failure::because(Kind::Invalid, "the manifest is no JSON", &error))?;
        let config = self.config_of(&manifest)?;
        let layers = match read::load_for(self.content.as_ref(), &kept.bytes, &Platform::host()) {
            Ok(image) => image
                .layers
                .iter()
                .map(|layer| {
                    json!({
                        "digest": layer.blob.digest().to_string(),
                        "size": layer.blob.size(),
                        "diffId": layer.diff_id.to_string(),
                        "chainId": layer.chain_id.to_string(),
                    })
                })
                .collect(),
            // An index without this platform, or no image at all, has no layers to show.
            Err(_) => Vec::new(),
        };
        Ok(json!({
            "name": self.here.name(&kept.repository, &reference.target()),
            "digest": kept.digest.to_string(),
            "mediaType": kept.media_type,
            "layers": layers,
            "manifest": manifest,
            "config": config,
        }))
    }

    /// The manifest's bytes as text.
    pub fn raw(&self, text: &str) -> Outcome<String> {
        let (_, kept) = self.expect(text)?;
        String::from_utf8(kept.bytes)
            .map_err(|error| Failure::because(Kind::Invalid, "the manifest is no text", &error))
    }
}

fn platforms(manifest: &Value, config: Option<&Value>) -> Vec<String> {
    let name = |value: &Value| {
        let (os, arch) = (value["os"].as_str()?, value["architecture"].as_str()?);
        let variant = value["variant"]
            .as_str()
            .map(|v| format!("/{v}"))
            .unwrap_or_default();
        (!os.is_empty() && !arch.is_empty()).then(|| format!("{os}/{arch}{variant}"))
    };
    match manifest["manifests"].as_array() {
        Some(children) => children
            .iter()
            .filter_map(|child| name(&child["platform"]))
            .collect(),
        None => config.and_then(name).into_iter().collect(),
    }
}
