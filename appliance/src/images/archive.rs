//! `save` and `load`: images to and from files of other tools' formats.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};

use config::name::{Reference, RepositoryName, Target};
use oci_spec::image::Descriptor;
use unpacker::digest::Digest;
use unpacker::image::archive::read::{ReadError, ReadOptions};
use unpacker::image::archive::write::{Plan, WriteError};
use unpacker::image::archive::{Name, NamedImage, read};
use unpacker::image::read::{self as images, ImageError, MAX_MANIFEST, Platform};
use unpacker::progress::{Cancel, Event, Phase, Progress};
use unpacker::pull;

use crate::api::types::{ArchiveFormat, LoadRequest, Moved, SaveRequest, Saved};
use crate::error::{Failure, Kind, Outcome};
use crate::images::platform::Wanted;
use crate::images::service::{Images, Kept};

#[cfg(test)]
mod tests;

/// Where images without a name are kept, by their digest.
const NAMELESS: &str = "loaded";
/// How many names a failure quotes.
const QUOTED: usize = 20;
/// An index may name indexes; nobody nests deeper than two.
const MAX_NESTING: usize = 4;

/// Where an image is kept: a tag, or nothing but its digest.
type Place = (RepositoryName, Target);

// Save.

impl Images {
    /// Writes an archive of images that are here.
    pub fn save_archive(
        &self,
        request: &SaveRequest,
        out: &mut dyn Write,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Saved> {
        let _pass = self.gate.pass();
        let images = self.wanted_images(request)?;
        let content = self.content.as_ref();
        let plan = match request.format {
            ArchiveFormat::Oci => Plan::oci(&images, content),
            ArchiveFormat::Docker => Plan::docker(&images, content, progress, cancel),
        };
        let plan = plan.map_err(|error| not_saved(&error))?;
        plan.write(content, out, progress, cancel)
            .map_err(|error| not_saved(&error))?;
        Ok(Saved {
            images: images.iter().flat_map(shown).collect(),
            bytes: plan.size(),
        })
    }

    /// Every image that is asked for, once, with the names that it was asked for by.
    fn wanted_images(&self, request: &SaveRequest) -> Outcome<Vec<NamedImage>> {
        let wanted = Wanted::parse(request.platform.as_deref())?;
        let mut found: Vec<NamedImage> = Vec::new();
        for text in &request.images {
            let (named, kept) = self.look_up(text)?;
            let name = named.and_then(|target| match &target {
                Target::Tag(_) => Some(self.here.name(&kept.repository, &target)),
                Target::Digest(_) => None,
            });
            let name: Option<Reference> = name.map(|name| name.parse()).transpose()?;
            let (media_type, bytes) = match request.all_platforms {
                true => (kept.media_type, kept.bytes),
                false => self.of_platform(text, kept, &wanted)?,
            };
            let image = NamedImage::new(Vec::new(), media_type, bytes);
            let place = match found.iter().position(|known| known.digest == image.digest) {
                Some(place) => place,
                None => {
                    found.push(image);
                    found.len() - 1
                }
            };
            let name = name.map(Name::Full);
            if let Some(name) = name.filter(|name| !found[place].names.contains(name)) {
                found[place].names.push(name);
            }
        }
        Ok(found)
    }

    /// Through an index to the platform's manifest.
    fn of_platform(&self, text: &str, kept: Kept, wanted: &Wanted) -> Outcome<(String, Vec<u8>)> {
        let unusable = |error: &ImageError| {
            let message = format!("image {text:?} cannot be used");
            let failure = Failure::because(Kind::Invalid, message, error);
            match error {
                ImageError::NoPlatform { .. } => failure
                    .hint("Choose one with --platform, or write all of them with --all-platforms."),
                _ => failure,
            }
        };
        let (mut media_type, mut bytes) = (kept.media_type, kept.bytes);
        for _ in 0..MAX_NESTING {
            match images::choose(&bytes, &wanted.platform) {
                Ok(child) => {
                    bytes = self.document(child.digest())?;
                    media_type = child.media_type().to_string();
                }
                // A manifest: there is nothing to choose.
                Err(ImageError::NotAnImage { .. }) if wanted.explicit => {
                    let image = images::load(self.content.as_ref(), &bytes);
                    let fits = image
                        .and_then(|image| images::check_platform(&image.config, &wanted.platform));
                    fits.map_err(|error| unusable(&error))?;
                    return Ok((media_type, bytes));
                }
                Err(ImageError::NotAnImage { .. }) => return Ok((media_type, bytes)),
                Err(error) => return Err(unusable(&error)),
            }
        }
        Err(unusable(&ImageError::TooDeep))
    }

    /// A part of an index.
    fn document(&self, digest: &Digest) -> Outcome<Vec<u8>> {
        let bytes = self.content.read(digest, MAX_MANIFEST)?;
        bytes.ok_or_else(|| missing(digest))
    }
}

fn missing(digest: &Digest) -> Failure {
    Failure::not_found(format!("{digest} is not here"))
        .hint("Only a part of this image was fetched. Get the rest: `devpod pull`.")
}

fn shown(image: &NamedImage) -> Vec<Moved> {
    let moved = |reference: String| Moved {
        reference,
        digest: image.digest.to_string(),
    };
    match image.names.is_empty() {
        true => vec![moved(image.digest.to_string())],
        false => image.names.iter().map(|n| moved(n.to_string())).collect(),
    }
}

fn not_saved(error: &WriteError) -> Failure {
    match error {
        WriteError::Missing { digest } | WriteError::Image(ImageError::Missing { digest }) => {
            missing(digest)
        }
        WriteError::Cancelled(_) => Failure::new(Kind::Cancelled, "saving was stopped"),
        // The caller has gone, and reads no message.
        WriteError::Output(_) => Failure::because(Kind::Cancelled, "nobody reads", error),
        WriteError::Image(ImageError::NotAnImage { .. }) => {
            Failure::because(Kind::Invalid, "docker's format cannot say this", error)
                .hint("Use --format oci.")
        }
        _ => Failure::because(Kind::Internal, "cannot save", error)
            .hint("See what is damaged: `devpod image check IMAGE`."),
    }
}

// Load.

impl Images {
    /// Keeps the images of an archive, and answers their names. Nothing is visible before the whole
    /// archive was read and found good.
    pub fn load_archive(
        &self,
        archive: impl Read + Send,
        request: &LoadRequest,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Vec<Moved>> {
        let loaded = {
            let _pass = self.gate.pass();
            self.load_all(archive, request, progress, cancel)
        };
        if loaded.is_err()
            && let Err(failure) = self.tidy()
        {
            // Garbage, which the next collection finds.
            tracing::warn!(%failure, "what a refused archive left could not be freed");
        }
        loaded
    }

    fn load_all(
        &self,
        archive: impl Read + Send,
        request: &LoadRequest,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Vec<Moved>> {
        let wanted = Wanted::parse(request.platform.as_deref())?;
        let name: Option<Reference> = request.name.as_deref().map(str::parse).transpose()?;
        let options = ReadOptions {
            platform: wanted.platform.clone(),
            ..ReadOptions::default()
        };
        let content = self.content.as_ref();
        let images = read::read(archive, content, &options, progress, cancel)
            .map_err(|error| not_loaded(&error))?;
        let images = match request.platform {
            Some(_) => self.only_platform(images, &wanted.platform)?,
            None => images,
        };
        let places = self.places(&images, name.as_ref())?;
        self.keep_images(&images, &places, progress, cancel)
    }

    /// Keeps one image after the other. A failure says which are kept by then.
    fn keep_images(
        &self,
        images: &[NamedImage],
        places: &[Vec<Place>],
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Vec<Moved>> {
        let each = images.iter().zip(places);
        let all: Vec<_> = each
            .flat_map(|(image, places)| places.iter().map(move |place| (image, place)))
            .collect();
        let names = all
            .iter()
            .map(|(_, (at, target))| self.here.name(at, target));
        let names: Vec<String> = names.collect();
        let mut moved = Vec::new();
        for ((image, (repository, target)), shown) in all.iter().zip(&names) {
            let mut keeping = Keeping {
                images: self,
                repository,
                cancel,
                seen: HashSet::new(),
            };
            let kept = keeping
                .keep(target, &image.media_type, &image.bytes, 0)
                .map_err(|failure| partly(failure, &names, moved.len()))?;
            if matches!(target, Target::Digest(_)) {
                let text = format!("an image without a name is kept as {shown}");
                progress.event(Event::Warning { text });
            }
            if names.len() > 1 {
                // Whoever stops it now has read how far it came.
                progress.event(Event::Finished {
                    id: shown.clone(),
                    phase: Phase::Load,
                    note: None,
                });
            }
            moved.push(Moved {
                reference: shown.clone(),
                digest: kept.digest.to_string(),
            });
        }
        Ok(moved)
    }

    /// Of each index the one image that was asked for.
    fn only_platform(
        &self,
        images: Vec<NamedImage>,
        platform: &Platform,
    ) -> Outcome<Vec<NamedImage>> {
        let wanted = Wanted {
            platform: platform.clone(),
            explicit: true,
        };
        let mut found = Vec::new();
        for image in images {
            let text = image.digest.to_string();
            let kept = Kept {
                // Only for the type: it is kept nowhere yet.
                repository: NAMELESS.parse()?,
                digest: image.digest,
                media_type: image.media_type,
                bytes: image.bytes,
            };
            let (media_type, bytes) = self.of_platform(&text, kept, &wanted)?;
            found.push(NamedImage::new(image.names, media_type, bytes));
        }
        Ok(found)
    }

    /// Where each image goes, decided for all before the first is kept.
    fn places(&self, images: &[NamedImage], name: Option<&Reference>) -> Outcome<Vec<Vec<Place>>> {
        if let Some(name) = name {
            let [_] = images else {
                let text = format!(
                    "the archive has {} images, one name is not enough",
                    images.len()
                );
                return Err(Failure::invalid(text)
                    .hint("Load it without --name, then give names with `devpod tag`."));
            };
            let Some(tag) = name.tag() else {
                return Err(Failure::invalid("a new name must have a tag, not a digest"));
            };
            let place = (self.here.destination(name)?, Target::Tag(tag.clone()));
            return Ok(vec![vec![place]]);
        }
        let mut taken: HashMap<Place, &Digest> = HashMap::new();
        let mut all = Vec::new();
        for image in images {
            let places = self.places_of(image)?;
            for place in &places {
                if taken.insert(place.clone(), &image.digest).is_some() {
                    let shown = self.here.name(&place.0, &place.1);
                    let text = format!("the archive has two images of the name {shown}");
                    return Err(Failure::invalid(text));
                }
            }
            all.push(places);
        }
        Ok(all)
    }

    /// A tag alone says of nothing what it is: such an image goes by its digest.
    fn places_of(&self, image: &NamedImage) -> Outcome<Vec<Place>> {
        let mut places = Vec::new();
        let mut known = HashSet::new();
        for name in &image.names {
            let Name::Full(reference) = name else {
                continue;
            };
            let repository = match self.here.is_ours(reference) {
                // No name of our own may pass for a copy of another registry.
                true => self.here.destination(reference)?,
                false => self.here.kept(reference)?,
            };
            let place = (
                repository,
                Target::Tag(
                    reference
                        .tag()
                        .cloned()
                        .unwrap_or_else(config::name::Tag::latest),
                ),
            );
            if known.insert(place.clone()) {
                places.push(place);
            }
        }
        if places.is_empty() {
            places.push((NAMELESS.parse()?, Target::Digest(image.digest.clone())));
        }
        Ok(places)
    }
}

/// One image on its way to one place.
struct Keeping<'a> {
    images: &'a Images,
    repository: &'a RepositoryName,
    cancel: &'a Cancel,
    /// Documents below it that are kept: however many indexes name one, it is kept once.
    seen: HashSet<Digest>,
}

impl Keeping<'_> {
    /// Keeps a manifest with its blobs, or an index with its images, all of which are in the content
    /// store. What names others comes after them, so a tag moves when all of the image is there.
    fn keep(
        &mut self,
        target: &Target,
        media_type: &str,
        bytes: &[u8],
        depth: usize,
    ) -> Outcome<Kept> {
        self.cancel.check().map_err(|_| stopped())?;
        if depth > MAX_NESTING {
            return Err(Failure::from_error(Kind::Invalid, &ImageError::TooDeep));
        }
        let children =
            images::children(bytes).map_err(|error| Failure::from_error(Kind::Invalid, &error))?;
        let blobs = match children {
            Some(children) => {
                for child in children {
                    self.keep_child(&child, depth + 1)?;
                }
                Vec::new()
            }
            None => {
                let digest = unpacker::digest::sha256(bytes);
                let blobs = pull::blobs(bytes, &digest)
                    .map_err(|error| Failure::from_error(Kind::Invalid, &error))?;
                blobs.into_iter().map(|blob| blob.digest).collect()
            }
        };
        (self.images).keep(self.repository, target, media_type, bytes, &blobs)
    }

    fn keep_child(&mut self, child: &Descriptor, depth: usize) -> Outcome<()> {
        if !self.seen.insert(child.digest().clone()) {
            return Ok(());
        }
        let target = Target::Digest(child.digest().clone());
        let bytes = self.images.document(child.digest())?;
        self.keep(&target, child.media_type().as_ref(), &bytes, depth)
            .map(drop)
    }
}

/// What became of an archive's images when the one at `done` was not kept.
fn partly(failure: Failure, names: &[String], done: usize) -> Failure {
    let (kept, others) = names.split_at(done);
    if kept.is_empty() {
        return failure.hint("Nothing of it was kept.");
    }
    failure
        .hint(format!("These images were loaded: {}.", some(kept)))
        .hint(format!("These were not: {}.", some(others)))
}

/// A list for people.
fn some(names: &[String]) -> String {
    let quoted = names.len().min(QUOTED);
    let mut text = names[..quoted].join(", ");
    if names.len() > quoted {
        text.push_str(&format!(" and {} more", names.len() - quoted));
    }
    text
}

fn stopped() -> Failure {
    Failure::new(Kind::Cancelled, "loading was stopped")
}

fn not_loaded(error: &ReadError) -> Failure {
    let kind = match error {
        ReadError::Cancelled(_) => return stopped().hint("Nothing of it was kept."),
        ReadError::Store { .. } => Kind::Internal,
        ReadError::NoRoom { .. } => Kind::Exhausted,
        _ => Kind::Invalid,
    };
    let failure = Failure::because(kind, "cannot load the archive", error);
    match error {
        ReadError::Compressed { program } => failure.hint(format!(
            "Undo that first: `{program} -dc FILE | devpod load`."
        )),
        ReadError::Empty => failure.hint("Name a file with -i, or pipe one in."),
        ReadError::NoImages { .. } => failure.hint(
            "Archives of images are made by `devpod save`, `docker save`, `podman save` and \
             `skopeo copy`. A root file system becomes an image by `FROM scratch` and `ADD`.",
        ),
        ReadError::NoRoom { .. } => failure.hint(
            "Free some: `devpod rmi`, then `devpod image prune --all`. Nothing of it was kept.",
        ),
        _ => failure,
    }
}
