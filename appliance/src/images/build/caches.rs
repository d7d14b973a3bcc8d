//! Caches of builds in other places: registries, our own included, and folders.
//!
//! A cache is an image manifest with a description for its configuration, or an image whose
//! configuration has the description in a field. Reading it takes the description alone; its layers
//! come when a build stands on them.

use std::path::Path;
use std::sync::OnceLock;

use builder::cache::description::{CONFIG_TYPE, INLINE, Known, MAX_DESCRIPTION};
use builder::cache::source::{Artifact, Extent, Source, SourceError};
use builder::error::Foreign;
use config::name::Reference;
use oci_spec::image::{Descriptor, MediaType};
use serde::Deserialize;
use serde_json::Value;
use unpacker::content::Content;
use unpacker::digest::Digest;
use unpacker::fetch::Wanted as Blobs;
use unpacker::image::layout::Layout;
use unpacker::image::read::{self, Platform};
use unpacker::progress::{Cancel, Event, Progress};
use unpacker::pull;
use unpacker::push::{self, Document};
use unpacker::remote::download::BlobName;
use unpacker::verify;

use super::{layouts, say};
use crate::api::build_inputs::{CacheFrom, CachePlace, CacheTo, LayoutImage};
use crate::error::{Failure, Kind, Outcome};
use crate::images::service::Images;

/// One cache that a build may take from.
pub(super) struct Cache<'a> {
    images: &'a Images,
    from: &'a CacheFrom,
    platform: Platform,
    /// Where its blobs are, once it was read.
    place: OnceLock<Place>,
}

#[derive(Debug)]
enum Place {
    /// The embedded registry.
    Here,
    Remote(Reference),
    Folder(Layout),
}

/// What is read of a manifest.
#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

impl Images {
    pub(super) fn caches<'a>(
        &'a self,
        from: &'a [CacheFrom],
        platform: &Platform,
    ) -> Vec<Cache<'a>> {
        let cache = |from| Cache {
            images: self,
            from,
            platform: platform.clone(),
            place: OnceLock::new(),
        };
        from.iter().map(cache).collect()
    }

    /// Puts the caches of a build where they are wanted. The image is here by now.
    pub(super) fn write_caches(
        &self,
        wanted: &[CacheTo],
        made: &[(Extent, Artifact)],
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<()> {
        for to in wanted {
            let artifact = made.iter().find(|(extent, _)| *extent == extent_of(to));
            let Some((_, artifact)) = artifact.filter(|_| to.place != CachePlace::Inline) else {
                continue;
            };
            say(
                progress,
                format!("[Builder] Writing the cache to {}", shown(&to.place)),
            );
            match self.write_cache(&to.place, artifact, progress, cancel) {
                Err(failure) if to.ignore_error && failure.kind != Kind::Cancelled => {
                    let place = shown(&to.place);
                    let text = format!("cannot write the cache to {place}: {failure}");
                    progress.event(Event::Warning { text });
                }
                written => written.map_err(|failure| unwritten(&to.place, &failure))?,
            }
        }
        Ok(())
    }

    fn write_cache(
        &self,
        place: &CachePlace,
        artifact: &Artifact,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<()> {
        match place {
            CachePlace::Inline => Ok(()),
            CachePlace::Local { folder, tag } => {
                self.write_folder(folder, tag.as_deref(), artifact, cancel)
            }
            CachePlace::Registry(text) => {
                let reference: Reference = text.parse()?;
                match self.is_pushed(&reference) {
                    true => self.push_cache(&reference, artifact, progress, cancel),
                    false => self.keep_cache(&reference, artifact),
                }
            }
        }
    }

    fn keep_cache(&self, reference: &Reference, artifact: &Artifact) -> Outcome<()> {
        let repository = self.here.destination(reference)?;
        let blobs = artifact.layers.iter().chain([&artifact.config]);
        let blobs: Vec<Digest> = blobs.map(|blob| blob.digest().clone()).collect();
        let (target, kind) = (reference.target(), &artifact.media_type);
        self.keep(&repository, &target, kind, &artifact.manifest, &blobs)
            .map(drop)
    }

    fn push_cache(
        &self,
        reference: &Reference,
        artifact: &Artifact,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<()> {
        let document = Document {
            media_type: artifact.media_type.clone(),
            bytes: artifact.manifest.clone(),
        };
        let (remote, content) = (self.remote()?, self.content.clone());
        let mount_from = |digest: &Digest| self.known_there(reference, digest);
        let mount_from: push::MountFrom<'_> = &mount_from;
        let from = Some(mount_from);
        let work = push::push(
            &remote, content, reference, &document, from, progress, cancel,
        );
        let pushed = self.runtime.block_on(work);
        pushed
            .map(drop)
            .map_err(|error| crate::images::transfer::push_failed(reference, &error))
    }

    fn write_folder(
        &self,
        folder: &Path,
        tag: Option<&str>,
        artifact: &Artifact,
        cancel: &Cancel,
    ) -> Outcome<()> {
        let failed = |error| Failure::from_error(Kind::Internal, &error);
        let layout = Layout::create(folder).map_err(failed)?;
        let config = std::slice::from_ref(&artifact.config);
        let blobs = [&artifact.layers[..], config].concat();
        layouts::copy_blobs(self.content.as_ref(), &layout, &blobs, cancel)?;
        let content: &dyn Content = &layout;
        let (digest, size) = content.put(&artifact.manifest)?;
        let kind = MediaType::from(artifact.media_type.as_str());
        let descriptor = Descriptor::new(kind, size, digest);
        let tagged = layout.tag(tag.unwrap_or("latest"), &descriptor);
        tagged.map_err(failed)
    }
}

pub(in crate::images) fn extent_of(to: &CacheTo) -> Extent {
    match to.max {
        true => Extent::Max,
        false => Extent::Min,
    }
}

fn shown(place: &CachePlace) -> String {
    match place {
        CachePlace::Registry(text) => text.clone(),
        CachePlace::Local { folder, .. } => folder.display().to_string(),
        CachePlace::Inline => "the image".to_owned(),
    }
}

fn unwritten(place: &CachePlace, failure: &Failure) -> Failure {
    let text = format!(
        "the image is built, but its cache cannot be written to {}",
        shown(place)
    );
    let told = Failure::because(failure.kind, text, failure);
    let told = failure
        .hints
        .iter()
        .fold(told, |told, hint| told.hint(hint));
    told.hint("With ignore-error=true in --cache-to this is a warning.")
}

impl Cache<'_> {
    /// The manifest of the platform, and where its blobs are.
    fn manifest(&self, progress: &dyn Progress, cancel: &Cancel) -> Outcome<(Vec<u8>, Place)> {
        match self.from {
            CacheFrom::Local(wanted) => self.in_folder(wanted),
            CacheFrom::Registry(text) => {
                let reference: Reference = text.parse()?;
                let images = self.images;
                // A copy of what another registry had once is no answer: its cache may be newer.
                let asked = images.here.is_remote(&reference) && reference.host_given();
                let kept = if asked {
                    None
                } else {
                    images.find(&reference)?
                };
                if let Some(kept) = kept {
                    let content = images.content.as_ref();
                    return Ok((self.of_platform(content, kept.bytes)?, Place::Here));
                }
                if images.here.is_ours(&reference) {
                    return Err(images.unknown(text));
                }
                let remote = images.remote()?;
                let work = pull::resolve(&remote, &reference, &self.platform, progress);
                let resolved = images.runtime.block_on(pull::unless(cancel, work));
                let failed = |error| crate::images::transfer::pull_failed(&reference, &error);
                let manifest = resolved.map_err(failed)?.manifest;
                Ok((manifest, Place::Remote(reference)))
            }
        }
    }

    fn in_folder(&self, wanted: &LayoutImage) -> Outcome<(Vec<u8>, Place)> {
        let layout = layouts::open(&wanted.folder)?;
        let found = layouts::find(&layout, wanted)?;
        let document = layouts::document(&layout, &found)?;
        let manifest = self.of_platform(&layout, document)?;
        Ok((manifest, Place::Folder(layout)))
    }

    /// Of an index the manifest of the platform.
    fn of_platform(&self, content: &dyn Content, document: Vec<u8>) -> Outcome<Vec<u8>> {
        let failed = |error| Failure::from_error(Kind::Invalid, &error);
        if read::children(&document).map_err(failed)?.is_none() {
            return Ok(document);
        }
        let chosen = read::choose(&document, &self.platform).map_err(failed)?;
        let bytes = content.read(chosen.digest(), read::MAX_MANIFEST)?;
        let bytes = bytes.ok_or_else(|| Failure::not_found("its manifest is missing"))?;
        verify::check(&bytes, &chosen)
            .map_err(|error| Failure::from_error(Kind::Invalid, &error))?;
        Ok(bytes)
    }

    fn known(&self, progress: &dyn Progress, cancel: &Cancel) -> Result<Known, Foreign> {
        let (manifest, place) = self.manifest(progress, cancel)?;
        let manifest: Manifest = serde_json::from_slice(&manifest)?;
        let kind = manifest.config.media_type().to_string();
        let size = manifest.config.size();
        if size > MAX_DESCRIPTION {
            let limit = MAX_DESCRIPTION;
            return Err(SourceError::TooLarge { size, limit }.into());
        }
        let place = self.place.get_or_init(|| place);
        let config = std::slice::from_ref(&manifest.config);
        self.have(place, config, progress, cancel)?;
        let read = self
            .images
            .content
            .read(manifest.config.digest(), MAX_DESCRIPTION)?;
        let read = read.ok_or(SourceError::Damaged)?;
        verify::check(&read, &manifest.config).map_err(|_| SourceError::Damaged)?;
        let description = match kind == CONFIG_TYPE {
            true => read,
            false => inline(&read)?,
        };
        let known = Known::parse(&description, &manifest.layers);
        Ok(known.map_err(SourceError::Description)?)
    }

    fn have(
        &self,
        place: &Place,
        blobs: &[Descriptor],
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<()> {
        let images = self.images;
        match place {
            Place::Here => {
                for blob in blobs {
                    if images.content.open(blob.digest())?.is_none() {
                        let text = format!("blob {} is not here any more", blob.digest());
                        return Err(Failure::not_found(text));
                    }
                }
                Ok(())
            }
            Place::Folder(layout) => {
                layouts::copy_blobs(layout, images.content.as_ref(), blobs, cancel)
            }
            Place::Remote(reference) => {
                let names = blobs.iter().map(|blob| BlobName {
                    digest: blob.digest().clone(),
                    size: blob.size(),
                });
                let wanted = Blobs::new(&images.arrivals, names.collect());
                let remote = images.remote()?;
                let work = wanted.fetch(&remote, reference, progress);
                let fetched = images.runtime.block_on(pull::unless(cancel, work));
                fetched.map_err(|error| crate::images::transfer::pull_failed(reference, &error))
            }
        }
    }
}

impl Source for Cache<'_> {
    fn name(&self) -> String {
        match self.from {
            CacheFrom::Registry(text) => text.clone(),
            CacheFrom::Local(layout) => layout.folder.display().to_string(),
        }
    }

    fn read(&self, progress: &dyn Progress, cancel: &Cancel) -> Result<Known, Foreign> {
        self.known(progress, cancel)
    }

    fn bring(
        &self,
        blobs: &[Descriptor],
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<(), Foreign> {
        let place = self.place.get().ok_or(SourceError::NoCache)?;
        Ok(self.have(place, blobs, progress, cancel)?)
    }
}

/// The description that an image's configuration carries.
fn inline(config: &[u8]) -> Result<Vec<u8>, Foreign> {
    let config: Value = serde_json::from_slice(config)?;
    let found = config.get(INLINE).ok_or(SourceError::NoCache)?;
    Ok(serde_json::to_vec(found)?)
}
