//! From snapshots to an image: layers, configuration, manifest, publication.
//!
//! A layer is packed once, mostly while later steps run, and remembered; a base image's layers are
//! named by their descriptors and never touched. The finished stack is made known by its chainIDs, so that running the image
//! unpacks nothing. Blobs are durable when an image is published; that snapshots become it is up to the caller,
//! for what is lost of them is made again. Times come from the steps: the same steps found in the cache make the same
//! bytes.

use oci_spec::image::{Descriptor, MediaType};
use serde_json::json;
use unpacker::digest::{ChainId, DiffId, Digest, sha256};
use unpacker::image::Layer;
use unpacker::image::config::{History, ImageConfig};
use unpacker::layer::diff::DiffOptions;
use unpacker::layer::pack::pack;
use unpacker::layer::root::Root;
use unpacker::progress::Event;
use unpacker::snapshot::id::SnapshotId;

use crate::cache::layers::{Layers, PackedLayer};
use crate::error::BuildError;
use crate::request::{BuildRequest, Env};
use crate::sink::Publication;

const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// A stage's result.
#[derive(Debug, Clone, Default)]
pub struct Finished {
    /// Of the external image at the bottom.
    pub base: Vec<Layer>,
    /// Snapshots of the base and of the steps, lowest first. The lowest may stand for a whole file
    /// system that is still elsewhere.
    pub stack: Vec<SnapshotId>,
    /// What keys call the results of the steps: the same on every host.
    pub names: Vec<SnapshotId>,
    /// Part of it was made by another host.
    pub foreign: bool,
    /// The steps since the base, over all stages of the chain.
    pub made: Vec<Made>,
    /// When the newest part came to be.
    pub created: Option<String>,
}

impl Finished {
    /// What keys call everything in it: the layers of the base image, then the results of the steps.
    /// All of it is the same on every host.
    pub(crate) fn all_names(&self) -> Vec<SnapshotId> {
        let base = self
            .base
            .iter()
            .map(|layer| SnapshotId::of_diff(&layer.diff_id));
        base.chain(self.names.iter().cloned()).collect()
    }

    /// The snapshots of the layers since the base image.
    pub(crate) fn layers(&self) -> Vec<SnapshotId> {
        let made = self.made.iter().filter_map(|made| made.snapshot.clone());
        made.collect()
    }
}

/// One entry of the history.
#[derive(Debug, Clone)]
pub struct Made {
    pub created_by: String,
    pub created: Option<String>,
    pub snapshot: Option<SnapshotId>,
}

/// An image that was published.
#[derive(Debug, Clone)]
pub struct Assembled {
    /// Of the manifest, whose bytes are so many.
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
    pub config_digest: Digest,
    pub config: ImageConfig,
}

/// Makes and publishes the image of a finished stage.
pub fn assemble(
    env: &Env<'_>,
    request: &BuildRequest,
    finished: &Finished,
    config: ImageConfig,
) -> Result<Assembled, BuildError> {
    let made = finished
        .made
        .iter()
        .filter_map(|made| made.snapshot.as_ref());
    let made: Vec<&SnapshotId> = made.collect();
    let layers = Layers::new(env.cache, request.packing(), request.source_date_epoch);
    let mut packed = Vec::new();
    for id in &made {
        packed.push(layer(env, request, &layers, id)?);
    }
    let config = configuration(finished, &packed, config);
    name_chains(env, finished, &packed, &made)?;
    publish(env, request, finished, &packed, config)
}

/// The blob of a snapshot, packed now or before.
pub(crate) fn layer(
    env: &Env<'_>,
    request: &BuildRequest,
    layers: &Layers,
    id: &SnapshotId,
) -> Result<PackedLayer, BuildError> {
    let what = "read a layer's blob";
    if let Some(known) = layers.get(id) {
        let blob = env.content.open(known.blob.digest());
        if blob.map_err(BuildError::store(what))?.is_some() {
            return Ok(known);
        }
    }
    let folder = env.snapshots.get(id).and_then(|found| {
        found.ok_or_else(|| std::io::Error::other(format!("snapshot {id} was removed")))
    });
    let root = folder.and_then(|folder| Root::open(&folder));
    let root = root.map_err(BuildError::store("open a step's snapshot"))?;
    let options = DiffOptions {
        mtime: request.source_date_epoch,
        ownership: env.ownership,
    };
    let packed = pack(
        &root,
        env.content,
        request.packing(),
        &options,
        env.progress,
        env.cancel,
    )?;
    let layer = PackedLayer {
        blob: packed.blob,
        diff_id: packed.diff_id,
    };
    let kept = layers.put(id, &layer);
    kept.map_err(BuildError::store("remember a layer"))?;
    Ok(layer)
}

fn configuration(
    finished: &Finished,
    packed: &[PackedLayer],
    mut config: ImageConfig,
) -> ImageConfig {
    let diff_ids = packed.iter().map(|layer| layer.diff_id.to_string());
    config.rootfs.diff_ids.extend(diff_ids);
    let history = finished.made.iter().map(|made| History {
        created: made.created.clone(),
        created_by: Some(made.created_by.clone()),
        comment: None,
        empty_layer: made.snapshot.is_none(),
        ..History::default()
    });
    config.history.extend(history);
    config.created.clone_from(&finished.created);
    config
}

/// Lets each chain of the image lead to the snapshot that is its top already.
fn name_chains(
    env: &Env<'_>,
    finished: &Finished,
    packed: &[PackedLayer],
    made: &[&SnapshotId],
) -> Result<(), BuildError> {
    let base = finished.base.iter().map(|layer| &layer.diff_id);
    let own = packed.iter().map(|layer| &layer.diff_id);
    let diff_ids: Vec<&DiffId> = base.chain(own).collect();
    let chains = ChainId::of_layers(diff_ids);
    for (chain, id) in chains.iter().skip(finished.base.len()).zip(made) {
        let named = env.snapshots.alias(&SnapshotId::of_chain(chain), id);
        named.map_err(BuildError::store("name a snapshot"))?;
    }
    Ok(())
}

fn publish(
    env: &Env<'_>,
    request: &BuildRequest,
    finished: &Finished,
    packed: &[PackedLayer],
    image_config: ImageConfig,
) -> Result<Assembled, BuildError> {
    let bytes = serde_json::to_vec(&image_config)?;
    let stored = env.content.put(&bytes);
    let (config_digest, size) = stored.map_err(BuildError::store("store the configuration"))?;
    let config = Descriptor::new(MediaType::ImageConfig, size, config_digest.clone());
    let base = finished.base.iter().map(|layer| as_oci(&layer.blob));
    let own = packed.iter().map(|layer| layer.blob.clone());
    let layers: Vec<Descriptor> = base.chain(own).collect();
    let media_type = MediaType::ImageManifest.to_string();
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config,
        "layers": layers,
    });
    if !request.annotations.is_empty() {
        manifest["annotations"] = json!(request.annotations);
    }
    let manifest = serde_json::to_vec(&manifest)?;
    let digest = sha256(&manifest);
    let publication = Publication {
        manifest: &manifest,
        media_type: &media_type,
        digest: &digest,
        config: &config,
        layers: &layers,
        names: &request.names,
    };
    if !request.names.is_empty() {
        let text = format!("[Builder] Pushing to {}...", env.sink.place());
        env.progress.event(Event::Line { text });
    }
    let published = env.sink.publish(&publication);
    if published.is_err() {
        // What was stopped says so in the sink's own words.
        env.cancel.check()?;
    }
    published.map_err(BuildError::Publish)?;
    Ok(Assembled {
        digest,
        size: manifest.len() as u64,
        media_type,
        config_digest,
        config: image_config,
    })
}

/// An OCI manifest names layers by OCI's media types; docker's mean the same bytes.
fn as_oci(blob: &Descriptor) -> Descriptor {
    let media_type = match blob.media_type().to_string().strip_prefix(DOCKER_LAYER) {
        Some("") => MediaType::ImageLayer,
        Some(".gzip") => MediaType::ImageLayerGzip,
        Some(".zstd") => MediaType::ImageLayerZstd,
        _ => return blob.clone(),
    };
    Descriptor::new(media_type, blob.size(), blob.digest().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_layers_get_their_oci_names() {
        for (docker, oci) in [
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                MediaType::ImageLayerGzip,
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar",
                MediaType::ImageLayer,
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+zstd",
                MediaType::ImageLayerZstd,
            ),
        ] {
            let digest = sha256(b"x");
            let blob = Descriptor::new(MediaType::from(docker), 5_u64, digest.clone());
            let read = as_oci(&blob);
            assert_eq!(read.media_type(), &oci);
            assert_eq!((read.digest(), read.size()), (&digest, 5));
        }
    }
}
