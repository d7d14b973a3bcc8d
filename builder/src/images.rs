//! Where base images come from: the contract with whoever can pull.

use config::name::Reference;
use unpacker::image::Image;
use unpacker::image::read::Platform;
use unpacker::progress::{Cancel, Progress};
use unpacker::snapshot::id::SnapshotId;

use crate::error::Foreign;

/// An image that is here: read, verified and unpacked.
#[derive(Debug, Clone)]
pub struct BaseImage {
    pub image: Image,
    /// One snapshot per layer, lowest first.
    pub stack: Vec<SnapshotId>,
}

/// Finds images by name.
///
/// Blocking. What it answers stays usable while the build runs: nobody removes its blobs and
/// snapshots. Asked twice for one reference in one build, it may answer two different images; the
/// builder asks once.
pub trait Images: Send + Sync {
    fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<BaseImage, Foreign>;
}
