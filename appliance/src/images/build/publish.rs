//! What one build is given beside all builds: which base images it used, and what it keeps of its result.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use builder::attest::provenance::Material;
use builder::error::Foreign;
use builder::images::BaseImage;
use builder::request::BuildRequest;
use builder::sink::{Publication, Sink};
use builder::source::Source;
use config::name::{Reference, RepositoryName, Target};
use oci_spec::image::MediaType;
use unpacker::digest::{Digest, sha256};
use unpacker::image::config::ImageConfig;
use unpacker::image::read::Platform;
use unpacker::progress::{Cancel, Progress};
use unpacker::remote::manifest::Fetched;
use unpacker::snapshot::id::SnapshotId;

use super::NAMELESS;
use crate::error::Outcome;
use crate::images::attest;
use crate::images::gate::Pass;
use crate::images::service::Images;
use crate::sandbox::local::Runnable;

/// Base images of one build.
pub(super) struct Bases<'a> {
    pub(super) images: &'a Images,
    /// Fetch them again, although they are here.
    pub(super) fetch: bool,
    pub(super) used: Mutex<Vec<Material>>,
}

impl builder::images::Images for Bases<'_> {
    fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<BaseImage, Foreign> {
        let images = self.images;
        // What only this host has cannot be fetched; nor is it fetched by its short name.
        let ours = images.here.is_ours(reference)
            || (!reference.host_given() && images.is_built_here(reference)?);
        if self.fetch && !ours {
            images.fetch(reference, platform, None, progress, cancel)?;
        }
        let base = images.resolve(reference, platform, progress, cancel)?;
        let name = match ours {
            true => images.shown(reference)?,
            false => reference.to_string(),
        };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.push(Material {
            name,
            digest: base.image.digest.clone(),
            platform: platform.clone(),
        });
        Ok(base)
    }
}

/// Keeps images without a name, too, and what is attested of images.
pub(super) struct Keeper<'a> {
    pub(super) images: &'a Images,
    pub(super) attest: attest::Wanted,
    pub(super) request: &'a BuildRequest,
    pub(super) source: &'a Source,
    pub(super) names: &'a [String],
    pub(super) bases: &'a Bases<'a>,
    pub(super) started: SystemTime,
    pub(super) progress: &'a dyn Progress,
    pub(super) cancel: &'a Cancel,
    /// Digest and size, once there is one.
    pub(super) index: Mutex<Option<(Digest, u64)>>,
}

impl Keeper<'_> {
    pub(super) fn index(&self) -> Option<(Digest, u64)> {
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        index.clone()
    }

    /// Where the image goes.
    fn places(&self, digest: &Digest) -> Outcome<Vec<(RepositoryName, Target)>> {
        if self.request.names.is_empty() {
            return Ok(vec![(NAMELESS.parse()?, Target::Digest(digest.clone()))]);
        }
        let names = self.request.names.iter();
        let place = |name: &Reference| {
            let target = match name.target() {
                Target::Digest(_) => Target::Digest(digest.clone()),
                tag => tag,
            };
            Ok((self.images.here.destination(name)?, target))
        };
        names.map(place).collect()
    }

    fn with_attestations(&self, publication: &Publication<'_>) -> Outcome<()> {
        let used = self.bases.used.lock();
        let facts = attest::Facts {
            request: self.request,
            source: self.source,
            names: self.names,
            materials: used.unwrap_or_else(PoisonError::into_inner).clone(),
            started: self.started,
        };
        let images = self.images;
        let made = images.attested(self.attest, &facts, publication, self.progress, self.cancel)?;
        let manifest = Fetched {
            digest: sha256(&made.manifest),
            media_type: MediaType::ImageManifest.to_string(),
            bytes: made.manifest,
        };
        let image = Fetched {
            digest: publication.digest.clone(),
            media_type: publication.media_type.to_owned(),
            bytes: publication.manifest.to_vec(),
        };
        let digest = sha256(&made.index);
        for (repository, target) in self.places(&digest)? {
            images.keep_part(&repository, &image, &blobs_of(publication))?;
            images.keep_part(&repository, &manifest, &made.blobs)?;
            let kind = MediaType::ImageIndex.to_string();
            images.keep(&repository, &target, &kind, &made.index, &[])?;
        }
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        *index = Some((digest, made.index.len() as u64));
        Ok(())
    }
}

/// Tells of an image before it is one, and keeps it under its names.
pub(super) struct Early<'a> {
    pub(super) images: &'a Images,
    pub(super) name: Option<String>,
    pub(super) ready: &'a (dyn Fn(Runnable) + Sync),
    pub(super) pass: Pass,
}

impl Sink for Early<'_> {
    fn place(&self) -> String {
        self.images.place()
    }

    fn ready(&self, config: &ImageConfig, stack: &[SnapshotId]) {
        (self.ready)(Runnable {
            name: self.name.clone().unwrap_or_default(),
            digest: None,
            config: config.config.clone(),
            stack: stack.to_vec(),
            pass: self.pass.clone(),
        });
    }

    fn publish(&self, publication: &Publication<'_>) -> Result<(), Foreign> {
        for name in publication.names {
            let repository = self.images.here.destination(name)?;
            let target = match name.target() {
                Target::Digest(_) => Target::Digest(publication.digest.clone()),
                tag => tag,
            };
            (self.images).keep_built(&repository, &target, publication)?;
        }
        Ok(())
    }
}

impl Sink for Keeper<'_> {
    fn place(&self) -> String {
        self.images.place()
    }

    fn publish(&self, publication: &Publication<'_>) -> Result<(), Foreign> {
        if self.attest.anything() {
            return Ok(self.with_attestations(publication)?);
        }
        for (repository, target) in self.places(publication.digest)? {
            self.images.keep_built(&repository, &target, publication)?;
        }
        Ok(())
    }
}

fn blobs_of(publication: &Publication<'_>) -> Vec<Digest> {
    std::iter::once(publication.config)
        .chain(publication.layers)
        .map(|descriptor| descriptor.digest().clone())
        .collect()
}

impl Images {
    /// Where images go, as a build's log names it.
    fn place(&self) -> String {
        format!("localhost:{}", self.here.port)
    }

    /// Whether a name without a host is that of an image of our own.
    fn is_built_here(&self, reference: &Reference) -> Outcome<bool> {
        let repository = self.here.destination(reference)?;
        let found = self.find(reference)?;
        Ok(found.is_some_and(|kept| kept.repository == repository))
    }

    pub(super) fn keep_built(
        &self,
        repository: &RepositoryName,
        target: &Target,
        publication: &Publication<'_>,
    ) -> Outcome<()> {
        let (media_type, bytes) = (publication.media_type, publication.manifest);
        self.keep(
            repository,
            target,
            media_type,
            bytes,
            &blobs_of(publication),
        )
        .map(drop)
    }
}
