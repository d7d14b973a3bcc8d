//! Where a finished image goes: the contract with whoever keeps images.

use config::name::Reference;
use oci_spec::image::Descriptor;
use unpacker::digest::Digest;
use unpacker::image::config::ImageConfig;
use unpacker::snapshot::id::SnapshotId;

use crate::error::Foreign;

/// Everything of a finished image. Its blobs are in the build's content store already.
#[derive(Debug, Clone)]
pub struct Publication<'a> {
    /// The manifest's bytes: its digest is of these.
    pub manifest: &'a [u8],
    pub media_type: &'a str,
    pub digest: &'a Digest,
    pub config: &'a Descriptor,
    /// Lowest first.
    pub layers: &'a [Descriptor],
    pub names: &'a [Reference],
}

/// Makes an image visible under its names.
///
/// Blocking and durable: what it accepted survives a crash. Publishing the same image again is no
/// error.
pub trait Sink: Send + Sync {
    /// Where images go, as the build's log names it: `localhost:5000`.
    fn place(&self) -> String;

    /// The last step has ended: containers can be made from the image's snapshots, lowest first, although
    /// its layers are not all packed yet, and `config` therefore does not name them. Called before
    /// [`Sink::publish`], and again where the build begins again without a cache; the build goes on when
    /// it returns.
    fn ready(&self, config: &ImageConfig, stack: &[SnapshotId]) {
        let _ = (config, stack);
    }

    fn publish(&self, publication: &Publication<'_>) -> Result<(), Foreign>;
}
