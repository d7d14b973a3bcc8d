//! An image becomes folders: one snapshot per layer, or one flat tree.
//!
//! Snapshots are made side by side: each layer is carried out alone, and what leaned on lower layers
//! is settled in order, when they are there (`beside`, `stack`). In one tree layers go one after the
//! other. Inside a layer decompressing, hashing and writing overlap (`blob`). Nothing is visible
//! before size, digest and diffID were checked.

mod beside;
mod blob;
pub mod destination;
mod stack;

use std::io;
use std::path::{Path, PathBuf};

use super::Image;
use crate::content::Content;
use crate::digest::{DiffId, Digest};
use crate::layer::apply::{ApplyError, ApplyOptions, Form, apply};
use crate::layer::root::metadata::{Owner, Timestamp};
use crate::progress::{Cancel, Cancelled, Progress};
use crate::snapshot::id::SnapshotId;
use crate::snapshot::store::Snapshots;
use crate::verify::Mismatch;
use blob::Source;
use destination::Destination;
use stack::Stack;

/// An image that could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("layer {digest} is not in the content store")]
    Missing { digest: Digest },
    #[error("cannot read layer {digest}")]
    Content { digest: Digest, source: io::Error },
    #[error("layer is not what its manifest says")]
    Verify(#[from] Mismatch),
    #[error("layer unpacks to {actual}, its configuration says {expected}")]
    DiffId { expected: DiffId, actual: DiffId },
    #[error("cannot unpack layer {digest}")]
    Apply { digest: Digest, source: ApplyError },
    #[error("cannot keep snapshot {id}")]
    Snapshot { id: SnapshotId, source: io::Error },
    #[error("cannot prepare the root directory")]
    Root(#[source] io::Error),
    #[error("cannot make snapshots durable")]
    Sync(#[source] io::Error),
    #[error("cannot prepare {path:?}")]
    Destination { path: PathBuf, source: io::Error },
    #[error("{path:?} is not empty")]
    NotEmpty { path: PathBuf },
    #[error("somebody else unpacks into {path:?}")]
    Busy { path: PathBuf },
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Unpacks what is missing of an image and answers the snapshots of its file system, lowest first.
/// Layers that nothing is seen of (below an opaque root) are not among them; where the uppermost
/// layer says nothing of the root directory, one more is, which has nothing else.
pub fn unpack(
    image: &Image,
    content: &dyn Content,
    snapshots: &Snapshots,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Vec<SnapshotId>, UnpackError> {
    let options = ApplyOptions::default();
    unpack_with(image, content, snapshots, &options, progress, cancel)
}

/// As [`unpack`], with limits and ownership chosen.
pub fn unpack_with(
    image: &Image,
    content: &dyn Content,
    snapshots: &Snapshots,
    options: &ApplyOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Vec<SnapshotId>, UnpackError> {
    let ids = unsynced(image, content, snapshots, options, progress, cancel)?;
    snapshots.sync_for(&ids).map_err(UnpackError::Sync)?;
    Ok(ids)
}

/// As [`unpack_with`]; what was made survives a crash of the machine only after
/// [`Snapshots::sync_for`]. Whoever notes durably that he has these snapshots waits for that.
pub fn unsynced(
    image: &Image,
    content: &dyn Content,
    snapshots: &Snapshots,
    options: &ApplyOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Vec<SnapshotId>, UnpackError> {
    let source = Source {
        content,
        options,
        progress,
    };
    let mut stack = Stack::new(snapshots, options.ownership);
    beside::unpack(&image.layers, &source, &mut stack, cancel)?;
    stack.finish()
}

/// The snapshots that [`unpack`] finds of an image, without those that it would have to make.
pub fn unpacked(image: &Image, snapshots: &Snapshots) -> io::Result<Vec<SnapshotId>> {
    stack::found(&image.layers, snapshots)
}

/// Unpacks an image into one folder, which is made, or empty. Layers are written before they are
/// known to be the right ones; where one is not, or something else fails, the folder is what it was.
pub fn unpack_to(
    image: &Image,
    content: &dyn Content,
    destination: &Path,
    options: &ApplyOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(), UnpackError> {
    let destination = Destination::prepare(destination)?;
    unpack_into(image, content, &destination, options, progress, cancel)?;
    destination.keep();
    Ok(())
}

/// As [`unpack_to`], into a folder that is prepared; after an error it is empty again, and the next
/// try may use it.
pub fn unpack_into(
    image: &Image,
    content: &dyn Content,
    destination: &Destination,
    options: &ApplyOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(), UnpackError> {
    let source = Source {
        content,
        options,
        progress,
    };
    let filled = fill(image, &source, destination, cancel);
    if filled.is_err() {
        // What went wrong first is what counts.
        let _ = destination.reset();
    }
    filled
}

fn fill(
    image: &Image,
    source: &Source<'_>,
    destination: &Destination,
    cancel: &Cancel,
) -> Result<(), UnpackError> {
    destination.begin()?;
    let (root, top) = (&destination.root, Path::new(""));
    let Source {
        options, progress, ..
    } = source;
    // What the root is like where no layer describes it.
    (options.ownership)
        .give(root, top, Owner::default(), 0o755)
        .and_then(|()| root.set_mtime(top, Timestamp::default()))
        .map_err(|source| destination.failed(source))?;
    for layer in &image.layers {
        source.read(layer, |tar| {
            apply(tar, root, Form::Flat, options, *progress, cancel)
        })?;
        source.finished(layer, None);
    }
    Ok(())
}
