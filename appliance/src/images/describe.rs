//! The rows of `devpod images`.

use std::collections::{BTreeMap, HashSet};

use config::name::Target;
use serde_json::Value;

use crate::api::types::{ImageRow, ListImages};
use crate::error::Outcome;
use crate::images::lookup::Place;
use crate::images::service::{Images, Kept, store};

const MAX_CONFIG: u64 = 8 << 20;
/// What docker and podman write where there is no tag.
const NO_TAG: &str = "<none>";

impl Images {
    /// Every tagged image, by name; with `all` those without a tag, and the parts of indexes, too.
    pub fn list(&self, request: ListImages) -> Outcome<Vec<ImageRow>> {
        let images = self.registry.images().map_err(store)?;
        let mut rows = Vec::with_capacity(images.len());
        for image in images {
            let target = Target::Digest(image.digest.clone());
            let manifest = self.registry.manifest(&image.repository, &target);
            let Some(manifest) = manifest.map_err(store)? else {
                continue;
            };
            let kept = Kept {
                repository: image.repository,
                digest: image.digest,
                media_type: manifest.media_type,
                bytes: manifest.bytes,
            };
            rows.push(self.row(&kept, image.tag.as_str(), request.sizes)?);
        }
        if request.all {
            rows.extend(self.untagged(request.sizes)?);
        }
        Ok(rows)
    }

    fn untagged(&self, sizes: bool) -> Outcome<Vec<ImageRow>> {
        let mut rows = Vec::new();
        for place in self.all_places()? {
            let Place {
                repository,
                digest,
                tags,
            } = place;
            let target = Target::Digest(digest.clone());
            let manifest = self.registry.manifest(&repository, &target);
            let (true, Some(manifest)) = (tags.is_empty(), manifest.map_err(store)?) else {
                continue;
            };
            let part = self.registry.needing(&repository, &digest).map_err(store)?;
            let kept = Kept {
                repository,
                digest,
                media_type: manifest.media_type,
                bytes: manifest.bytes,
            };
            let mut row = self.row(&kept, NO_TAG, sizes)?;
            row.part_of = part.map(|index| index.to_string());
            rows.push(row);
        }
        Ok(rows)
    }

    fn row(&self, kept: &Kept, tag: &str, sizes: bool) -> Outcome<ImageRow> {
        let manifest: Value = serde_json::from_slice(&kept.bytes).unwrap_or_default();
        let config = self.config_of(&manifest)?;
        let id = manifest["config"]["digest"].as_str().map(str::to_owned);
        let detail = match sizes {
            true => {
                let target = Target::Digest(kept.digest.clone());
                let detail = self.registry.image_detail(&kept.repository, &target);
                detail.map_err(store)?
            }
            false => None,
        };
        Ok(ImageRow {
            repository: self.here.shown(&kept.repository),
            tag: tag.to_owned(),
            digest: kept.digest.to_string(),
            id: id.unwrap_or_else(|| kept.digest.to_string()),
            platforms: platforms(&manifest, config.as_ref()),
            size: self.size(kept, &manifest, 0, &mut HashSet::new())?,
            shared_size: detail.as_ref().map(|detail| detail.shared_bytes),
            unique_size: detail.as_ref().map(|detail| detail.unique_bytes),
            created: config
                .as_ref()
                .and_then(|c| c["created"].as_str().map(str::to_owned)),
            labels: config.as_ref().map(labels).unwrap_or_default(),
            part_of: None,
        })
    }

    /// The configuration that a manifest names; `None` for an index, or where it is not JSON.
    pub(super) fn config_of(&self, manifest: &Value) -> Outcome<Option<Value>> {
        let Some(digest) = manifest["config"]["digest"]
            .as_str()
            .and_then(|t| t.parse().ok())
        else {
            return Ok(None);
        };
        let bytes = self.content.read(&digest, MAX_CONFIG)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Bytes of the blobs of a manifest, or of all children of an index that are here; each blob
    /// once.
    fn size(
        &self,
        kept: &Kept,
        manifest: &Value,
        depth: u8,
        seen: &mut HashSet<String>,
    ) -> Outcome<u64> {
        let Some(children) = manifest["manifests"].as_array() else {
            let layers = manifest["layers"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            let all = layers.iter().chain(std::iter::once(&manifest["config"]));
            let new = all
                .filter(|blob| seen.insert(blob["digest"].as_str().unwrap_or_default().to_owned()));
            return Ok(new.filter_map(|blob| blob["size"].as_u64()).sum());
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
                sum += self.size(kept, &value, depth + 1, seen)?;
            }
        }
        Ok(sum)
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

fn labels(config: &Value) -> BTreeMap<String, String> {
    let labels = config["config"]["Labels"].as_object();
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    labels.into_iter().flatten().filter_map(text).collect()
}
