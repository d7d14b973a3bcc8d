//! The layers of an image that are there, lowest first, and what the next one needs to know of them.
//!
//! A layer's snapshot is looked for by chainID first (it leaned on the layers below it, or was built
//! on them), then by diffID: then it is the same above any layers, but for its root directory.
//! Overlayfs shows the attributes of the uppermost root, so a stack whose uppermost layer says
//! nothing of the root gets one more folder, which is nothing but that root.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::UnpackError;
use crate::digest::sha256;
use crate::image::Layer;
use crate::layer::Ownership;
use crate::layer::apply::take_root;
use crate::layer::root::Root;
use crate::layer::tree::{is_images, is_opaque};
use crate::snapshot::id::SnapshotId;
use crate::snapshot::store::{Snapshots, Staging};

/// A layer's snapshot.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) id: SnapshotId,
    folder: PathBuf,
    /// The layer says nothing of its root.
    bare: bool,
}

pub(super) struct Stack<'a> {
    pub(super) snapshots: &'a Snapshots,
    ownership: Ownership,
    found: Vec<Found>,
    pub(super) roots: Vec<Root>,
    /// The uppermost root that says what it is like.
    described: Option<Root>,
}

impl<'a> Stack<'a> {
    pub(super) fn new(snapshots: &'a Snapshots, ownership: Ownership) -> Self {
        Self {
            snapshots,
            ownership,
            found: Vec::new(),
            roots: Vec::new(),
            described: None,
        }
    }

    /// The snapshot of a layer on top of this stack.
    pub(super) fn look(&self, layer: &Layer) -> Result<Option<Found>, UnpackError> {
        let chain = SnapshotId::of_chain(&layer.chain_id);
        if let Some(found) = find(self.snapshots, &chain).map_err(failed(&chain))? {
            return Ok(Some(found));
        }
        let diff = SnapshotId::of_diff(&layer.diff_id);
        let found = find(self.snapshots, &diff).map_err(failed(&diff))?;
        Ok(found.filter(|found| self.takes(found)))
    }

    /// Whether a snapshot by diffID can be the next: overlayfs refuses the same folder twice.
    fn takes(&self, found: &Found) -> bool {
        self.found.iter().all(|known| known.folder != found.folder)
    }

    pub(super) fn push(&mut self, found: Found) -> Result<(), UnpackError> {
        let opened = || {
            let root = Root::open(&found.folder)?;
            let opaque = is_opaque(&root, Path::new(""))?;
            let described = match found.bare {
                true => None,
                false => Some(root.try_clone()?),
            };
            Ok((root, opaque, described))
        };
        let (root, opaque, described) = opened().map_err(failed(&found.id))?;
        if opaque {
            self.found.clear();
            self.roots.clear();
        }
        if described.is_some() {
            self.described = described;
        }
        self.found.push(found);
        self.roots.push(root);
        Ok(())
    }

    /// Keeps a folder that is the same above any layers.
    pub(super) fn commit_alone(
        &self,
        staging: Staging,
        layer: &Layer,
        describes_root: bool,
    ) -> Result<Option<Found>, UnpackError> {
        let id = SnapshotId::of_diff(&layer.diff_id);
        let kept = match describes_root {
            true => Ok(()),
            false => staging.set_bare(),
        };
        let kept = kept.and_then(|()| self.snapshots.commit(staging, &id));
        let folder = kept.map_err(failed(&id))?;
        let bare = self.snapshots.is_bare(&folder);
        let found = Found { id, folder, bare };
        Ok(Some(found).filter(|found| self.takes(found)))
    }

    /// Keeps a folder that leans on this stack.
    pub(super) fn commit_above(
        &self,
        staging: Staging,
        layer: &Layer,
        describes_root: bool,
    ) -> Result<Found, UnpackError> {
        let id = SnapshotId::of_chain(&layer.chain_id);
        if let (Some(from), false) = (&self.described, describes_root) {
            Root::open(&staging.fs())
                .and_then(|to| take_root(from, &to, self.ownership))
                .map_err(UnpackError::Root)?;
        }
        let folder = self.snapshots.commit(staging, &id).map_err(failed(&id))?;
        Ok(Found {
            id,
            folder,
            bare: false,
        })
    }

    /// The snapshots, with a root where they need one.
    pub(super) fn finish(self) -> Result<Vec<SnapshotId>, UnpackError> {
        let root = self.make_root().map_err(UnpackError::Root)?;
        let found = self.found.into_iter().map(|found| found.id);
        Ok(found.chain(root).collect())
    }

    fn make_root(&self) -> io::Result<Option<SnapshotId>> {
        let Some(id) = self.root_id()? else {
            return Ok(None);
        };
        if let (None, Some(from)) = (self.snapshots.get(&id)?, &self.described) {
            let staging = self.snapshots.stage()?;
            take_root(from, &Root::open(&staging.fs())?, self.ownership)?;
            self.snapshots.commit(staging, &id)?;
        }
        Ok(Some(id))
    }

    /// The root that this stack needs above it.
    fn root_id(&self) -> io::Result<Option<SnapshotId>> {
        let bare = self.found.last().is_some_and(|found| found.bare);
        let (true, Some(described), Some(top)) = (bare, &self.described, self.roots.last()) else {
            return Ok(None);
        };
        let text = said_of(described)?;
        Ok((text != said_of(top)?).then(|| SnapshotId::of_root(&sha256(&text))))
    }
}

/// Every snapshot that is there of an image's layers, with the root above them.
pub(super) fn found(layers: &[Layer], snapshots: &Snapshots) -> io::Result<Vec<SnapshotId>> {
    let unpack_failed = |error| io::Error::other(error);
    let mut stack = Stack::new(snapshots, Ownership::Mapped);
    let mut ids = Vec::new();
    for layer in layers {
        if let Some(found) = stack.look(layer).map_err(unpack_failed)? {
            ids.push(found.id.clone());
            stack.push(found).map_err(unpack_failed)?;
        }
    }
    let root = stack.root_id()?;
    ids.extend(root.filter(|id| matches!(snapshots.get(id), Ok(Some(_)))));
    Ok(ids)
}

fn find(snapshots: &Snapshots, id: &SnapshotId) -> io::Result<Option<Found>> {
    Ok(snapshots.get(id)?.map(|folder| Found {
        id: id.clone(),
        bare: snapshots.is_bare(&folder),
        folder,
    }))
}

/// All that a root directory says of itself.
fn said_of(root: &Root) -> io::Result<Vec<u8>> {
    let top = Path::new("");
    let found = root.metadata(top)?;
    let (owner, mtime) = (found.owner, found.mtime);
    let mut text = format!(
        "{:o} {}:{} {}.{:09}\n",
        found.mode, owner.uid, owner.gid, mtime.seconds, mtime.nanos
    )
    .into_bytes();
    for (name, value) in root.xattrs(top)? {
        if is_images(&name) {
            text.extend_from_slice(format!("{} {} ", name.len(), value.len()).as_bytes());
            text.extend_from_slice(name.as_bytes());
            text.extend_from_slice(&value);
        }
    }
    Ok(text)
}

pub(super) fn failed(id: &SnapshotId) -> impl Fn(io::Error) -> UnpackError + '_ {
    |source| UnpackError::Snapshot {
        id: id.clone(),
        source,
    }
}
