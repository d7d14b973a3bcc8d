//! One image in full: `inspect`, `image history`, `image check`.

use config::name::Target;
use serde_json::{Value, json};
use unpacker::image::read::{self, Platform};
use unpacker::image::{Image, Layer, check};
use unpacker::progress::{Cancel, Progress};

use crate::api::types::{CheckedImage, HistoryRequest, HistoryRow, RawImage};
use crate::error::{Failure, Kind, Outcome};
use crate::images::platform::Wanted;
use crate::images::service::{Images, Kept, store};

impl Images {
    /// Manifest, configuration and names of one image.
    pub fn inspect(&self, text: &str) -> Outcome<Value> {
        let (target, kept) = self.look_up(text)?;
        let target = target.unwrap_or_else(|| Target::Digest(kept.digest.clone()));
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
            "name": self.here.name(&kept.repository, &target),
            "digest": kept.digest.to_string(),
            "names": self.names_of(&kept)?,
            "mediaType": kept.media_type,
            "layers": layers,
            "manifest": manifest,
            "config": config,
        }))
    }

    /// Every name of the same manifest.
    fn names_of(&self, kept: &Kept) -> Outcome<Vec<String>> {
        let images = self.registry.images().map_err(store)?.into_iter();
        let same = images.filter(|image| image.digest == kept.digest);
        Ok(same
            .map(|image| self.here.name(&image.repository, &Target::Tag(image.tag)))
            .collect())
    }

    /// The bytes of the manifest, or of the configuration, as text.
    pub fn raw(&self, request: &RawImage) -> Outcome<String> {
        let (_, kept) = self.look_up(&request.reference)?;
        let bytes = match request.config {
            false => kept.bytes,
            true => self.config_bytes(&request.reference, &kept)?,
        };
        String::from_utf8(bytes)
            .map_err(|error| Failure::because(Kind::Invalid, "this is no text", &error))
    }

    fn config_bytes(&self, text: &str, kept: &Kept) -> Outcome<Vec<u8>> {
        let image = self.image_of(text, kept, None)?;
        let bytes = self.content.read(&image.config_digest, read::MAX_CONFIG)?;
        bytes.ok_or_else(|| Failure::internal(format!("{} is not here", image.config_digest)))
    }

    fn image_of(&self, text: &str, kept: &Kept, platform: Option<&str>) -> Outcome<Image> {
        let wanted = Wanted::parse(platform)?;
        let unusable = |error| {
            Failure::because(
                Kind::Invalid,
                format!("image {text:?} cannot be used"),
                &error,
            )
        };
        let loaded = read::load_for(self.content.as_ref(), &kept.bytes, &wanted.platform);
        loaded.map_err(unusable)
    }

    /// How the image came to be: the newest step first, as docker tells it.
    pub fn history(&self, request: &HistoryRequest) -> Outcome<Vec<HistoryRow>> {
        let (_, kept) = self.look_up(&request.reference)?;
        let image = self.image_of(&request.reference, &kept, request.platform.as_deref())?;
        let mut layers = image.layers.iter();
        let mut rows = Vec::new();
        for step in &image.config.history {
            let layer = match step.empty_layer {
                true => None,
                false => layers.next(),
            };
            rows.push(HistoryRow {
                created: step.created.clone(),
                created_by: step.created_by.clone().unwrap_or_default(),
                comment: step.comment.clone().unwrap_or_default(),
                ..of_layer(layer)
            });
        }
        // A configuration may have told nothing of some, or of any.
        rows.extend(layers.map(|layer| of_layer(Some(layer))));
        rows.reverse();
        Ok(rows)
    }

    /// Reads every byte of an image again.
    pub fn check(
        &self,
        text: &str,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<CheckedImage> {
        let _pass = self.gate.pass();
        let (_, kept) = self.look_up(text)?;
        let content = self.content.as_ref();
        let report = check::check(content, &kept.bytes, &kept.digest, progress, cancel)
            .map_err(|_| Failure::new(Kind::Cancelled, "checking was stopped"))?;
        Ok(CheckedImage {
            reference: text.to_owned(),
            digest: kept.digest.to_string(),
            report,
        })
    }
}

fn of_layer(layer: Option<&Layer>) -> HistoryRow {
    HistoryRow {
        size: layer.map_or(0, |layer| layer.blob.size()),
        layer: layer.map(|layer| layer.blob.digest().to_string()),
        diff_id: layer.map(|layer| layer.diff_id.to_string()),
        ..HistoryRow::default()
    }
}
