//! Images in one file: `oci-archive`, which is the tar of an image layout, and `docker-archive`.
//!
//! ```text
//! read       a stream of tar entries -> blobs in a content store; the input is hostile
//! ├─ entries    what the entries are called and which blob each became
//! ├─ oci        index.json -> images, byte for byte
//! └─ docker     manifest.json -> images, whose manifests are made here
//! write      images of a content store -> a plan -> a tar
//! ```
//!
//! True of reading: no entry's name ever becomes a path; everything is bounded, and every blob is
//! verified, before an image is answered; what was stored and belongs to none is garbage, and its
//! collection the caller's. Nothing here knows files: both directions are streams. Source:
//! image-spec image-layout.md; docker's `image/spec/v1.2.md` ("Combined Image JSON + Filesystem
//! Changeset Format").

mod docker;
mod entries;
pub mod oci;
pub mod read;
pub mod write;

#[cfg(test)]
mod tests;

use std::fmt;

use config::name::{Reference, Tag};

use crate::digest::{Digest, sha256};

/// The annotation of `index.json` that carries a whole reference; containerd's, docker's and
/// BuildKit's name for it.
pub const FULL_NAME: &str = "io.containerd.image.name";

/// What an archive calls an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Name {
    /// `docker.io/library/alpine:3.20`
    Full(Reference),
    /// `3.20`: nothing says of what.
    Tag(Tag),
}

/// A manifest or an index, and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedImage {
    /// None where it goes by its digest only.
    pub names: Vec<Name>,
    pub media_type: String,
    /// Byte for byte.
    pub bytes: Vec<u8>,
    pub digest: Digest,
}

impl NamedImage {
    /// `digest` is that of `bytes`.
    pub fn new(names: Vec<Name>, media_type: String, bytes: Vec<u8>) -> Self {
        Self {
            names,
            media_type,
            digest: sha256(&bytes),
            bytes,
        }
    }
}

impl Name {
    /// What a tool wrote; `None` for a text that is no name.
    fn parse(text: &str) -> Option<Self> {
        if text.contains(['/', ':', '@']) {
            let reference: Reference = text.parse().ok()?;
            // As if it had been written out, so that one name is always equal to itself. A digest is
            // no name: the image has it anyway.
            let whole: Reference = reference.to_string().parse().ok()?;
            return whole.tag().is_some().then_some(Self::Full(whole));
        }
        text.parse().ok().map(Self::Tag)
    }

    /// The tag alone.
    pub fn tag(&self) -> Option<&Tag> {
        match self {
            Self::Full(reference) => reference.tag(),
            Self::Tag(tag) => Some(tag),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(reference) => match reference.tag() {
                Some(tag) => write!(f, "{}/{}:{tag}", reference.host(), reference.repository()),
                None => reference.fmt(f),
            },
            Self::Tag(tag) => tag.fmt(f),
        }
    }
}
