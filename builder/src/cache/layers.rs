//! Which blob a snapshot was packed to, so that no layer is packed twice.
//!
//! `<cache>/layers/<snapshot>.<form>`; whoever asks checks that the blob is still there. A damaged
//! file is a miss. No two runs of a step have one snapshot, so what it was packed to stays true.

use std::io;
use std::path::{Path, PathBuf};

use oci_spec::image::Descriptor;
use serde::{Deserialize, Serialize};
use unpacker::digest::DiffId;
use unpacker::layer::compress::Packing;
use unpacker::snapshot::id::SnapshotId;

use super::{touch, write_atomically};

/// A layer in the content store, by its two identities.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedLayer {
    pub blob: Descriptor,
    pub diff_id: DiffId,
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    blob: Descriptor,
    diff_id: String,
}

#[derive(Debug)]
pub struct Layers {
    dir: PathBuf,
    /// What else the blob's bytes depend on.
    form: String,
}

impl Layers {
    pub fn new(cache: &Path, packing: Packing, mtime: Option<i64>) -> Self {
        let level = packing.level.map(|level| format!("@{level}"));
        let mtime = mtime.map(|seconds| format!("-at{seconds}"));
        let (compression, level) = (packing.compression, level.unwrap_or_default());
        let form = format!("{compression:?}{level}{}", mtime.unwrap_or_default());
        Self {
            dir: cache.join("layers"),
            form: form.to_lowercase(),
        }
    }

    /// For layers that were packed elsewhere, in the form that is said of them.
    pub(crate) fn of_form(cache: &Path, form: &str) -> Self {
        Self {
            dir: cache.join("layers"),
            form: form.to_owned(),
        }
    }

    /// How its layers are packed: lower-case letters, digits, `@` and `-`.
    pub fn form(&self) -> &str {
        &self.form
    }

    pub fn get(&self, id: &SnapshotId) -> Option<PackedLayer> {
        let path = self.dir.join(self.name(id));
        touch(&path);
        read(&path)
    }

    pub fn put(&self, id: &SnapshotId, layer: &PackedLayer) -> io::Result<()> {
        let file = File {
            blob: layer.blob.clone(),
            diff_id: layer.diff_id.to_string(),
        };
        write_atomically(&self.dir, &self.name(id), &serde_json::to_vec(&file)?)
    }

    fn name(&self, id: &SnapshotId) -> String {
        format!("{id}.{}", self.form)
    }
}

/// The snapshot that a file of this name is about.
pub(super) fn snapshot_of(name: &str) -> Option<SnapshotId> {
    name.split_once('.')?.0.parse().ok()
}

pub(super) fn read(path: &Path) -> Option<PackedLayer> {
    let bytes = std::fs::read(path).ok()?;
    let file: File = serde_json::from_slice(&bytes).ok()?;
    Some(PackedLayer {
        blob: file.blob,
        diff_id: file.diff_id.parse().ok()?,
    })
}
