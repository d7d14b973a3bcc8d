//! Images of other registries that somebody wants here, whoever brought them first.

use config::name::{RepositoryName, Tag, Target};

use super::Registry;
use crate::digest::Digest;
use crate::store::StoreError;
use crate::store::index::manifests;
use crate::store::index::mirrored::{self, MirroredTag};

impl Registry {
    /// From now on the manifest, and the tag where `target` is one, count as put by hand: the mirror
    /// neither moves nor evicts them. To be called before they are put, too. One that is called by its
    /// digest is wanted without any index that lists it.
    pub fn keep_by_hand(
        &self,
        repository: &RepositoryName,
        target: &Target,
        digest: &Digest,
    ) -> Result<(), StoreError> {
        let (name, digest) = (repository.to_string(), digest.clone());
        let tag = match target {
            Target::Tag(tag) => Some(tag.to_string()),
            Target::Digest(_) => None,
        };
        let index = self.store().index();
        let changes = index.read(|rows| {
            let named = match &tag {
                Some(tag) => mirrored::tag(rows, &name, tag)?.is_some(),
                None => manifests::get(rows, &name, &digest)?.is_some_and(|row| !row.by_digest),
            };
            Ok(named || mirrored::manifest(rows, &name, &digest)?.is_some())
        })?;
        if !changes {
            return Ok(());
        }
        Ok(index.write(move |rows| {
            match &tag {
                Some(tag) => mirrored::forget_tag(rows, &name, tag)?,
                None => manifests::want(rows, &name, &digest)?,
            }
            mirrored::forget_manifest(rows, &name, &digest)
        })?)
    }

    /// The tag follows its registry's wherever that is mirrored: it is asked for before it is served
    /// the next time. The manifest that it points at now still counts as put by hand.
    pub fn follow_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        digest: &Digest,
    ) -> Result<(), StoreError> {
        let (name, tag) = (repository.to_string(), tag.to_string());
        let row = MirroredTag {
            digests: vec![digest.clone()],
            checked: 0,
        };
        let index = self.store().index();
        Ok(index.write(move |rows| mirrored::set_tag(rows, &name, &tag, &row))?)
    }
}
