//! An image becomes folders: one snapshot per layer, or one flat tree.
//!
//! Layers go one after the other, because a layer's entries may follow links and inherit
//! directories of the layers below; inside a layer decompressing, hashing and writing overlap.
//! Nothing is visible before size, digest and diffID were checked.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread;

use super::{Image, Layer};
use crate::content::Content;
use crate::digest::{DiffId, Digest, Hasher};
use crate::layer::apply::{Applied, ApplyError, ApplyOptions, Form, apply};
use crate::layer::compress::decoder;
use crate::layer::pipeline::{Feeder, HashThread, ahead};
use crate::layer::root::Root;
use crate::layer::root::metadata::{Owner, Timestamp};
use crate::layer::tree::is_opaque;
use crate::progress::{Cancel, Cancelled, Event, Phase, Progress};
use crate::snapshot::id::SnapshotId;
use crate::snapshot::store::Snapshots;
use crate::verify::{Mismatch, Verified};

/// Bytes between two events of progress.
const REPORT_EVERY: u64 = 1 << 20;

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
    #[error("cannot make snapshots durable")]
    Sync(#[source] io::Error),
    #[error("cannot prepare {path:?}")]
    Destination { path: PathBuf, source: io::Error },
    #[error("{path:?} is not empty")]
    NotEmpty { path: PathBuf },
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Unpacks what is missing of an image and answers the snapshots of its file system, lowest first.
/// Layers that nothing is seen of (below an opaque root) are not among them.
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
    let mut ids: Vec<SnapshotId> = Vec::new();
    let mut roots: Vec<Root> = Vec::new();
    let mut unpacking = Unpacking {
        content,
        options,
        progress,
        cancel,
    };
    for layer in &image.layers {
        let id = SnapshotId::of_chain(&layer.chain_id);
        let failed = |source| UnpackError::Snapshot {
            id: id.clone(),
            source,
        };
        let path = unpacking.snapshot(layer, &id, snapshots, &roots)?;
        let root = Root::open(&path).map_err(failed)?;
        if is_opaque(&root, Path::new("")).map_err(failed)? {
            ids.clear();
            roots.clear();
        }
        ids.push(id);
        roots.push(root);
    }
    snapshots.sync().map_err(UnpackError::Sync)?;
    Ok(ids)
}

/// Unpacks an image into one folder, which is made, or empty. Layers are written before they are
/// known to be the right ones; where one is not, or something else fails, the folder is emptied.
pub fn unpack_to(
    image: &Image,
    content: &dyn Content,
    destination: &Path,
    options: &ApplyOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(), UnpackError> {
    let failed = |source| UnpackError::Destination {
        path: destination.to_owned(),
        source,
    };
    std::fs::create_dir_all(destination).map_err(failed)?;
    let root = Root::open(destination).map_err(failed)?;
    let top = Path::new("");
    if !root.read_dir(top).map_err(failed)?.is_empty() {
        return Err(UnpackError::NotEmpty {
            path: destination.to_owned(),
        });
    }
    // What the root is like where no layer describes it.
    (options.ownership)
        .give(&root, top, Owner::default(), 0o755)
        .and_then(|()| root.set_mtime(top, Timestamp::default()))
        .map_err(failed)?;
    let mut unpacking = Unpacking {
        content,
        options,
        progress,
        cancel,
    };
    for layer in &image.layers {
        if let Err(error) = unpacking.layer(layer, &root, Form::Flat) {
            // What went wrong first is what counts.
            let _ = empty(&root);
            return Err(error);
        }
    }
    Ok(())
}

/// Removes everything from a folder.
fn empty(root: &Root) -> io::Result<()> {
    root.set_mode(Path::new(""), 0o700)?;
    for entry in root.read_dir(Path::new(""))? {
        root.remove_all(Path::new(&entry.name))?;
    }
    Ok(())
}

struct Unpacking<'a> {
    content: &'a dyn Content,
    options: &'a ApplyOptions,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

impl Unpacking<'_> {
    /// The `fs` folder of a layer's snapshot, made where it is missing.
    fn snapshot(
        &mut self,
        layer: &Layer,
        id: &SnapshotId,
        snapshots: &Snapshots,
        parents: &[Root],
    ) -> Result<PathBuf, UnpackError> {
        let failed = |source| UnpackError::Snapshot {
            id: id.clone(),
            source,
        };
        if let Some(path) = snapshots.get(id).map_err(failed)? {
            self.finished(layer, Some("exists"));
            return Ok(path);
        }
        let lock = snapshots.lock(id, self.cancel).map_err(failed)?;
        let _lock = lock.ok_or(Cancelled)?;
        // Somebody else may have made it while we waited.
        if let Some(path) = snapshots.get(id).map_err(failed)? {
            self.finished(layer, Some("exists"));
            return Ok(path);
        }
        let staging = snapshots.stage().map_err(failed)?;
        let root = Root::open(&staging.fs()).map_err(failed)?;
        self.layer(layer, &root, Form::Overlay { parents })?;
        snapshots.commit(staging, id).map_err(failed)
    }

    /// One layer from its blob into a folder, verified.
    fn layer(
        &mut self,
        layer: &Layer,
        root: &Root,
        form: Form<'_>,
    ) -> Result<Applied, UnpackError> {
        let digest = layer.blob.digest();
        let unreadable = |source| UnpackError::Content {
            digest: digest.clone(),
            source,
        };
        let opened = self.content.stream(digest).map_err(unreadable)?;
        let Some(stream) = opened else {
            return Err(UnpackError::Missing {
                digest: digest.clone(),
            });
        };
        let size = layer.blob.size();
        let counted = Counted {
            inner: stream.reader,
            progress: self.progress,
            id: short(digest),
            total: size,
            done: 0,
            told: 0,
        };
        let verified = match stream.vouched {
            true => Verified::vouched(counted, digest, size),
            false => Verified::new(counted, digest, size),
        };
        let hasher = Hasher::like(layer.diff_id.digest());
        let (feeder, mut reader) = ahead();
        let (applied, read) = thread::scope(|scope| {
            let reading = thread::Builder::new()
                .name("layer-read".into())
                .spawn_scoped(scope, move || drive(verified, hasher, feeder))?;
            let applied = apply(
                &mut reader,
                root,
                form,
                self.options,
                self.progress,
                self.cancel,
            );
            // Without a reader the other thread stops.
            drop(reader);
            let read = reading
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the reading thread panicked")));
            Ok((applied, read))
        })
        .map_err(unreadable)?;
        let applied = applied.map_err(|error| match error {
            ApplyError::Cancelled(cancelled) => UnpackError::Cancelled(cancelled),
            source => UnpackError::Apply {
                digest: digest.clone(),
                source,
            },
        })?;
        let (verdict, actual) = read.map_err(unreadable)?;
        verdict?;
        if actual.to_string() != layer.diff_id.to_string() {
            return Err(UnpackError::DiffId {
                expected: layer.diff_id.clone(),
                actual: DiffId::new(actual),
            });
        }
        self.finished(layer, None);
        Ok(applied)
    }

    fn finished(&self, layer: &Layer, note: Option<&str>) {
        self.progress.event(Event::Finished {
            id: short(layer.blob.digest()),
            phase: Phase::Unpack,
            note: note.map(str::to_owned),
        });
    }
}

/// The reading thread: blob to chunks, for the writer and for the hash. Answers what the blob was
/// and the digest of what it unpacked to.
fn drive<R: Read + Send>(
    mut blob: Verified<R>,
    hasher: Hasher,
    feeder: Feeder,
) -> io::Result<(Result<(), Mismatch>, Digest)> {
    let hash = HashThread::start(hasher)?;
    match decoder(&mut blob) {
        Ok(mut decoder) => feeder.run(&mut decoder, |chunk| hash.update(chunk.clone())),
        Err(error) => feeder.fail(error),
    }
    Ok((blob.finish()?, hash.finish()?))
}

/// Tells how far the blob is read.
struct Counted<'a, R> {
    inner: R,
    progress: &'a dyn Progress,
    id: String,
    total: u64,
    done: u64,
    told: u64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.done += read as u64;
        if self.done - self.told >= REPORT_EVERY || (read == 0 && self.told != self.done) {
            self.told = self.done;
            self.progress.event(Event::Transfer {
                id: self.id.clone(),
                phase: Phase::Unpack,
                done: self.done,
                total: Some(self.total),
            });
        }
        Ok(read)
    }
}

fn short(digest: &Digest) -> String {
    digest.digest().chars().take(12).collect()
}
