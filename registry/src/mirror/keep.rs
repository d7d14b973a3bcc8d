//! Keeping a manifest of another registry, so that it is known later where it came from.
//!
//! The rows that say so come before the manifest: without them it would pass for one that was put by
//! hand, after a crash between the two.

use config::name::{Tag, Target};

use super::manifests::wrong;
use super::upstream::RemoteManifest;
use super::{Kept, MirrorError};
use crate::digest::Digest;
use crate::manifest::ManifestView;
use crate::service::{ManifestPut, PutManifestError, References, Registry};
use crate::store::StoreError;
use crate::store::index::manifests;
use crate::store::index::mirrored::{self, MirroredManifest, MirroredTag};

/// Keeps a manifest whose digest is verified, and points the tag at it. Blocking.
pub(super) fn keep(
    registry: &Registry,
    kept: &Kept,
    tag: Option<Tag>,
    fetched: &RemoteManifest,
    now: u64,
) -> Result<(), MirrorError> {
    let view = ManifestView::parse(&fetched.bytes, Some(&fetched.media_type))
        .map_err(|error| wrong(kept, &error.to_string()))?;
    let before = match &tag {
        Some(tag) => registry.resolve(&kept.here, tag)?,
        None => None,
    };
    let mut ours = orphans(registry, kept, before.as_ref(), fetched, &view)?;
    if !is_by_hand(registry, kept, &fetched.digest)? {
        ours.push(fetched.digest.clone());
    }
    let new = fetched.digest.clone();
    let digests = std::iter::once(new).chain(before).collect();
    record(registry, kept, ours, tag.as_ref(), digests, 0, now)?;
    let put = ManifestPut {
        target: &Target::Digest(fetched.digest.clone()),
        tags: tag.as_slice(),
        media_type: Some(&fetched.media_type),
        bytes: &fetched.bytes,
        // Only what is asked for is fetched: one platform of many.
        references: References::Sparse,
    };
    match registry.put_manifest(&kept.here, &put) {
        Ok(_) => {}
        Err(PutManifestError::Store(error)) => return Err(error.into()),
        Err(error) => return Err(wrong(kept, &error.to_string())),
    }
    if tag.is_some() {
        let digests = vec![fetched.digest.clone()];
        record(registry, kept, Vec::new(), tag.as_ref(), digests, now, now)?;
    }
    Ok(())
}

/// One transaction: these manifests came through the mirror, and it points the tag at `digests`.
fn record(
    registry: &Registry,
    kept: &Kept,
    manifests: Vec<Digest>,
    tag: Option<&Tag>,
    digests: Vec<Digest>,
    checked: u64,
    now: u64,
) -> Result<(), StoreError> {
    let (here, tag) = (kept.here.to_string(), tag.map(Tag::to_string));
    registry.store().index().write(move |rows| {
        for digest in &manifests {
            let row = MirroredManifest {
                fetched: now,
                used: now,
            };
            mirrored::set_manifest(rows, &here, digest, row)?;
        }
        match tag {
            Some(tag) => mirrored::set_tag(rows, &here, &tag, &MirroredTag { digests, checked }),
            None => Ok(()),
        }
    })?;
    Ok(())
}

/// What was put by hand stays so, also when it is healed or a tag moves to it. The row tells, not the
/// file: that is absent exactly when the mirror is asked to heal it.
fn is_by_hand(registry: &Registry, kept: &Kept, digest: &Digest) -> Result<bool, StoreError> {
    let (here, index) = (kept.here.as_str(), registry.store().index());
    Ok(index.read(|rows| {
        let is_here = manifests::get(rows, here, digest)?.is_some();
        Ok(is_here && mirrored::manifest(rows, here, digest)?.is_none())
    })?)
}

/// Images that were put by hand under a tag which now follows its registry away from them: from now
/// on nothing but the mirror keeps them, so it may evict them.
fn orphans(
    registry: &Registry,
    kept: &Kept,
    before: Option<&Digest>,
    fetched: &RemoteManifest,
    view: &ManifestView,
) -> Result<Vec<Digest>, StoreError> {
    let Some(before) = before.filter(|before| **before != fetched.digest) else {
        return Ok(Vec::new());
    };
    let target = Target::Digest(before.clone());
    let row = registry.stat_manifest(&kept.here, &target)?;
    let parts = row.map(|(_, row)| row.references).unwrap_or_default();
    let mut found = Vec::new();
    for digest in parts.into_iter().chain([before.clone()]) {
        let target = Target::Digest(digest.clone());
        let wanted = registry.stat_manifest(&kept.here, &target)?;
        // Who pulled it by its digest wants it without any tag.
        let wanted = wanted.is_none_or(|(_, row)| row.by_digest);
        if !wanted && !view.references.contains(&digest) && is_by_hand(registry, kept, &digest)? {
            found.push(digest);
        }
    }
    Ok(found)
}
