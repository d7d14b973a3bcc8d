//! Images as values: configuration, layers, and the service that fetches and keeps them.

pub mod archive;
pub mod check;
pub mod collect;
pub mod config;
pub mod layout;
pub mod read;
pub mod unpack;

#[cfg(test)]
mod tests;

use oci_spec::image::Descriptor;

use crate::digest::{ChainId, DiffId, Digest};
use config::ImageConfig;

/// One layer of an image: its blob and its two identities.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Media type, digest and size of the (compressed) blob.
    pub blob: Descriptor,
    pub diff_id: DiffId,
    /// This layer on top of all layers below it.
    pub chain_id: ChainId,
}

/// An image of one platform whose manifest and configuration have been read and verified.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the manifest's bytes (of the platform's manifest, not of an index).
    pub digest: Digest,
    pub config_digest: Digest,
    pub config: ImageConfig,
    /// Lowest first.
    pub layers: Vec<Layer>,
}
