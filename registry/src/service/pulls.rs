//! Verbs over pulls: when something was last wanted.

use config::name::{RepositoryName, Tag};

use super::Registry;
use crate::digest::Digest;
use crate::store::StoreError;
use crate::store::index::pulled::{self, Pulls};

impl Registry {
    /// A manifest was pulled, by the tag where one was given. Costs nothing: the rows come later, and
    /// a crash loses those of the last moments.
    pub fn note_pull(&self, repository: &RepositoryName, digest: &Digest, tag: Option<&Tag>) {
        let (pulls, now) = (self.store().pulls(), self.store().now());
        pulls.note(repository.as_str(), digest.as_ref(), now);
        if let Some(tag) = tag {
            pulls.note(repository.as_str(), tag.as_str(), now);
        }
    }

    /// Pulls of a manifest, by its digest or by any tag that pointed at it. `None` where there were
    /// none; those of the last half minute may be missing.
    pub fn pulls_of_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Pulls>, StoreError> {
        let index = self.store().index();
        Ok(index.read(|rows| pulled::of_manifest(rows, repository.as_str(), digest))?)
    }

    /// Pulls of a tag by its name, whatever it pointed at.
    pub fn pulls_of_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<Pulls>, StoreError> {
        let index = self.store().index();
        Ok(index.read(|rows| pulled::of_tag(rows, repository.as_str(), tag.as_str()))?)
    }

    /// Makes rows of the pulls that were noted so far.
    pub fn record_pulls(&self) -> Result<(), StoreError> {
        Ok(self.store().pulls().flush()?)
    }
}
