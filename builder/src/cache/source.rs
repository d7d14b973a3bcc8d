//! Caches of other hosts: the contract with whoever can reach them.

use std::fmt;

use oci_spec::image::Descriptor;
use unpacker::digest::Digest;
use unpacker::progress::{Cancel, Progress};

use super::description::{DescriptionError, Known};
use crate::error::Foreign;

/// A cache that steps may be taken from. Blocking.
pub trait Source: Send + Sync {
    /// As people call it.
    fn name(&self) -> String;

    /// What it has; asked once in a build, and only when something was not found here.
    fn read(&self, progress: &dyn Progress, cancel: &Cancel) -> Result<Known, Foreign>;

    /// Has these blobs in the build's content store, verified.
    fn bring(
        &self,
        blobs: &[Descriptor],
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<(), Foreign>;
}

/// Which results a cache for others gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// Those that the image is made of.
    Min,
    /// Those of all steps.
    Max,
}

/// A cache for others: a manifest whose blobs are in the content store.
#[derive(Debug, Clone)]
pub struct Artifact {
    pub manifest: Vec<u8>,
    pub media_type: String,
    pub digest: Digest,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// Why a cache is of no use.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("there is no cache in it")]
    NoCache,
    #[error("its description has {size} bytes, more than {limit}")]
    TooLarge { size: u64, limit: u64 },
    #[error("its description is damaged")]
    Damaged,
    #[error("its description cannot be used")]
    Description(#[from] DescriptionError),
}

impl fmt::Debug for dyn Source + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.name()).finish()
    }
}
