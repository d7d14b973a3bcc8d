//! `rmi`: names go, and images with their last one.

use config::name::{RepositoryName, Target};
use unpacker::digest::Digest;

use crate::api::types::{RemoveImage, Removed};
use crate::error::{Failure, Outcome};
use crate::images::lookup::Place;
use crate::images::service::{Images, store};

/// A sandbox and the image that it was made of.
#[derive(Debug, Clone)]
pub struct User {
    pub sandbox: String,
    pub digest: String,
}

impl Images {
    /// Removes a name, and the image with its last name; with a digest, the image and all its tags
    /// in that repository; with an id, the image and all its names. Refuses the last name of what a
    /// sandbox uses, unless forced: that sandbox keeps its files either way. Frees what nothing else
    /// needs, unless other work goes on.
    pub fn remove(&self, request: &RemoveImage, users: &[User]) -> Outcome<Removed> {
        let text = request.reference.as_str();
        let removed = match self.named(text)? {
            Some((target, kept)) => {
                let place = (kept.repository, target);
                self.refuse_used(&place, &kept.digest, request, users)?;
                self.remove_at(&place.0, &place.1, kept.digest)?
            }
            None => self.remove_by_id(request, users)?,
        };
        let removed = removed.ok_or_else(|| self.unknown(text))?;
        if let Err(failure) = self.tidy() {
            // The name is gone, which is what was asked for.
            tracing::warn!(%failure, "what a removed image left could not be freed");
        }
        Ok(removed)
    }

    fn remove_at(
        &self,
        repository: &RepositoryName,
        target: &Target,
        digest: Digest,
    ) -> Outcome<Option<Removed>> {
        let mut untagged = vec![self.here.name(repository, target)];
        let done = match target {
            Target::Tag(tag) => self.registry.release_tag(repository, tag),
            Target::Digest(digest) => {
                self.refuse_needed(repository, digest)?;
                let tags = self.tags_of(repository, digest)?;
                untagged = tags;
                self.registry.release_manifest(repository, digest)
            }
        };
        if !done.map_err(store)? {
            return Ok(None);
        }
        let gone = !self.is_anywhere(&digest)?;
        Ok(Some(Removed {
            reference: self.here.name(repository, target),
            digest: digest.to_string(),
            untagged,
            deleted: gone.then(|| digest.to_string()).into_iter().collect(),
        }))
    }

    /// All names of an image. Names in several repositories are several people's, perhaps.
    fn remove_by_id(&self, request: &RemoveImage, users: &[User]) -> Outcome<Option<Removed>> {
        let places = self.with_id(&request.reference)?;
        let Some(first) = places.first() else {
            return Ok(None);
        };
        if places.len() > 1 && !request.force {
            let names: Vec<String> = places
                .iter()
                .flat_map(|place| self.names_at(place))
                .collect();
            return Err(Failure::conflict(format!(
                "image {} has names in several repositories: {}",
                request.reference,
                names.join(", ")
            ))
            .hint("Remove the names, or all of them with --force."));
        }
        let digest = first.digest.clone();
        if !request.force {
            self.refuse_users(&digest, &request.reference, users)?;
        }
        for place in &places {
            self.refuse_needed(&place.repository, &place.digest)?;
        }
        let mut untagged = Vec::new();
        for place in &places {
            let released = self.registry.release_manifest(&place.repository, &digest);
            if released.map_err(store)? {
                untagged.extend(self.names_at(place));
            }
        }
        Ok(Some(Removed {
            reference: digest.to_string(),
            digest: digest.to_string(),
            untagged,
            deleted: vec![digest.to_string()],
        }))
    }

    fn names_at(&self, place: &Place) -> Vec<String> {
        let tags = place.tags.iter().cloned().map(Target::Tag);
        tags.map(|tag| self.here.name(&place.repository, &tag))
            .collect()
    }

    fn tags_of(&self, repository: &RepositoryName, digest: &Digest) -> Outcome<Vec<String>> {
        let images = self.registry.images().map_err(store)?.into_iter();
        let tags = images.filter(|i| i.repository == *repository && i.digest == *digest);
        Ok(tags
            .map(|image| self.here.name(repository, &Target::Tag(image.tag)))
            .collect())
    }

    fn is_anywhere(&self, digest: &Digest) -> Outcome<bool> {
        let target = Target::Digest(digest.clone());
        for repository in self.all_repositories()? {
            let found = self.registry.manifest(&repository, &target);
            if found.map_err(store)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A part of an index must not go while the index is there.
    fn refuse_needed(&self, repository: &RepositoryName, digest: &Digest) -> Outcome<()> {
        match self.registry.needing(repository, digest).map_err(store)? {
            None => Ok(()),
            Some(index) => Err(Failure::conflict(format!(
                "{digest} is a part of the index {index}"
            ))
            .hint("Remove the index's names first.")),
        }
    }

    /// An image keeps its other names, so only its last one matters to a sandbox.
    fn refuse_used(
        &self,
        place: &(RepositoryName, Target),
        digest: &Digest,
        request: &RemoveImage,
        users: &[User],
    ) -> Outcome<()> {
        if request.force || users.is_empty() {
            return Ok(());
        }
        let stays = self
            .registry
            .images()
            .map_err(store)?
            .into_iter()
            .any(|image| {
                let goes = image.repository == place.0
                    && (place.1 == Target::Tag(image.tag) || matches!(place.1, Target::Digest(_)));
                image.digest == *digest && !goes
            });
        match stays {
            true => Ok(()),
            false => self.refuse_users(digest, &request.reference, users),
        }
    }

    fn refuse_users(&self, digest: &Digest, text: &str, users: &[User]) -> Outcome<()> {
        let mut digests = vec![digest.to_string()];
        let bytes = self
            .content
            .read(digest, unpacker::image::read::MAX_MANIFEST)?;
        let children = bytes.map(|bytes| unpacker::image::read::children(&bytes));
        if let Some(Ok(Some(children))) = children {
            digests.extend(children.iter().map(|child| child.digest().to_string()));
        }
        let used: Vec<&str> = users
            .iter()
            .filter(|user| digests.contains(&user.digest))
            .map(|user| user.sandbox.as_str())
            .collect();
        match used.is_empty() {
            true => Ok(()),
            false => Err(Failure::conflict(format!(
                "image {text} is used by sandbox {}",
                used.join(", ")
            ))
            .hint("Remove the sandbox first: `devpod sandbox rm`.")
            .hint("Or use --force: the sandbox keeps its files, only the image's name goes.")),
        }
    }
}
