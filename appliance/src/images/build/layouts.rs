//! Image layouts of the caller's: named contexts that are images of one, and the way of blobs out of
//! them and into them. What comes out is verified; nothing is read outside of the folder.

use std::io::{self, Read};
use std::path::Path;

use builder::request::{BuildRequest, NamedContext};
use config::name::{Reference, Target};
use oci_spec::image::Descriptor;
use unpacker::content::Content;
use unpacker::digest::Digest;
use unpacker::image::layout::{Layout, Named};
use unpacker::image::read::{self, Platform};
use unpacker::progress::Cancel;
use unpacker::verify;

use super::NAMELESS;
use crate::api::build_inputs::{BuildInputs, ContextInput, LayoutImage};
use crate::error::{Failure, Kind, Outcome};
use crate::images::service::Images;

/// Between two looks at whether it is to be stopped.
const CHUNK: u64 = 8 << 20;

impl Images {
    /// Has the images here that named contexts take out of layouts, and lets the contexts mean them.
    pub(super) fn bring_layouts(
        &self,
        request: &mut BuildRequest,
        inputs: &BuildInputs,
        cancel: &Cancel,
    ) -> Outcome<()> {
        for (name, input) in &inputs.contexts {
            if let ContextInput::Layout(wanted) = input {
                let brought = self.bring_layout(wanted, &request.platform, cancel);
                let image = brought.map_err(|failure| unusable(name, &failure))?;
                let context = NamedContext::Image(image);
                request.contexts.insert(name.clone(), context);
            }
        }
        Ok(())
    }

    fn bring_layout(
        &self,
        wanted: &LayoutImage,
        platform: &Platform,
        cancel: &Cancel,
    ) -> Outcome<Reference> {
        let layout = open(&wanted.folder)?;
        let found = find(&layout, wanted)?;
        let document = document(&layout, &found)?;
        let invalid = |error: &read::ImageError| Failure::from_error(Kind::Invalid, error);
        let image = read::load_for(&layout, &document, platform).map_err(|e| invalid(&e))?;
        // Where the layout's image is of several platforms, this one's manifest.
        let manifest = read_blob(&layout, &image.digest, read::MAX_MANIFEST)?;
        let config = read_blob(&layout, &image.config_digest, read::MAX_MANIFEST)?;
        self.content.put(&config)?;
        let layers: Vec<Descriptor> = image.layers.iter().map(|l| l.blob.clone()).collect();
        copy_blobs(&layout, self.content.as_ref(), &layers, cancel)?;
        let blobs = layers.iter().map(|blob| blob.digest().clone());
        let blobs: Vec<Digest> = blobs.chain([image.config_digest]).collect();
        let media_type = media_type(&manifest);
        let target = Target::Digest(image.digest.clone());
        self.keep(&NAMELESS.parse()?, &target, &media_type, &manifest, &blobs)?;
        self.of_layout(&image.digest)
    }

    /// What an image out of a layout is called here.
    fn of_layout(&self, digest: &Digest) -> Outcome<Reference> {
        let text = format!("localhost:{}/{NAMELESS}@{digest}", self.here.port);
        Ok(text.parse()?)
    }

    /// As [`Images::bring_layouts`] for a look at the Dockerfile: nothing is copied for it, and an
    /// image that is not here is one that nothing is known of.
    pub(in crate::images) fn name_layouts(
        &self,
        request: &mut BuildRequest,
        inputs: &BuildInputs,
    ) -> Outcome<()> {
        for (name, input) in &inputs.contexts {
            if let ContextInput::Layout(wanted) = input {
                let found = open(&wanted.folder).and_then(|layout| find(&layout, wanted));
                let found = found.map_err(|failure| unusable(name, &failure))?;
                let context = NamedContext::Image(self.of_layout(found.digest())?);
                request.contexts.insert(name.clone(), context);
            }
        }
        Ok(())
    }
}

fn unusable(name: &str, failure: &Failure) -> Failure {
    let text = format!("cannot use the build context {name}");
    let told = Failure::because(failure.kind, text, failure);
    failure
        .hints
        .iter()
        .fold(told, |told, hint| told.hint(hint))
}

pub(super) fn open(folder: &Path) -> Outcome<Layout> {
    Layout::open(folder).map_err(|error| Failure::from_error(Kind::Invalid, &error))
}

/// The image that is meant: by digest, by tag, or the only one.
pub(super) fn find(layout: &Layout, wanted: &LayoutImage) -> Outcome<Descriptor> {
    let images = layout.images();
    let images = images.map_err(|error| Failure::from_error(Kind::Invalid, &error))?;
    let fits = |image: &&Named| match (&wanted.digest, &wanted.tag) {
        (Some(digest), _) => image.descriptor.digest().to_string() == *digest,
        (None, tag) => is_called(image, tag.as_deref().unwrap_or("latest")),
    };
    // Of several with one name the last one written counts.
    let named = images.iter().rev().find(fits);
    let only = match &images[..] {
        [only] if wanted.digest.is_none() && wanted.tag.is_none() => Some(only),
        _ => None,
    };
    let found = named.or(only).map(|image| image.descriptor.clone());
    found.ok_or_else(|| {
        let names = images.iter().filter_map(|image| image.name.clone());
        let names: Vec<String> = names.take(20).collect();
        let said = wanted.digest.as_ref().or(wanted.tag.as_ref());
        let said = said.map_or("latest", String::as_str);
        let folder = layout.dir().display();
        let failure = Failure::not_found(format!("there is no image {said} in {folder}"));
        match names.is_empty() {
            true => failure,
            false => failure.hint(format!("It has {}.", names.join(", "))),
        }
    })
}

fn is_called(image: &Named, tag: &str) -> bool {
    let whole = |name: &Option<String>| {
        let parsed = name
            .as_ref()
            .and_then(|name| name.parse::<Reference>().ok());
        parsed.is_some_and(|name| name.tag().is_some_and(|found| found.to_string() == tag))
    };
    image.name.as_deref() == Some(tag) || whole(&image.name) || whole(&image.full_name)
}

/// The bytes of a manifest or an index, verified.
pub(super) fn document(layout: &Layout, found: &Descriptor) -> Outcome<Vec<u8>> {
    let bytes = read_blob(layout, found.digest(), read::MAX_MANIFEST)?;
    verify::check(&bytes, found).map_err(|error| Failure::from_error(Kind::Invalid, &error))?;
    Ok(bytes)
}

fn read_blob(layout: &Layout, digest: &Digest, limit: u64) -> Outcome<Vec<u8>> {
    let content: &dyn Content = layout;
    let read = content.read(digest, limit)?;
    read.ok_or_else(|| Failure::invalid(format!("blob {digest} is not in it")))
}

/// Has these blobs in `to` as well; what is there already is not read.
pub(super) fn copy_blobs(
    from: &dyn Content,
    to: &dyn Content,
    blobs: &[Descriptor],
    cancel: &Cancel,
) -> Outcome<()> {
    for blob in blobs {
        let digest = blob.digest();
        if to.open(digest)?.is_some() {
            continue;
        }
        let missing = || Failure::invalid(format!("blob {digest} is not in it"));
        let found = from.open(digest)?.ok_or_else(missing)?;
        if found.size != blob.size() {
            let (is, said) = (found.size, blob.size());
            let text = format!("blob {digest} has {is} bytes, its descriptor says {said}");
            return Err(Failure::invalid(text));
        }
        let mut writer = to.writer(Some(digest))?;
        let mut file = found.file;
        loop {
            cancel
                .check()
                .map_err(|error| Failure::from_error(Kind::Cancelled, &error))?;
            if io::copy(&mut (&mut file).take(CHUNK), &mut writer)? == 0 {
                break;
            }
        }
        writer.commit()?;
    }
    Ok(())
}

/// What a manifest says that it is.
fn media_type(manifest: &[u8]) -> String {
    let value: Option<serde_json::Value> = serde_json::from_slice(manifest).ok();
    let said = value.and_then(|value| Some(value["mediaType"].as_str()?.to_owned()));
    said.unwrap_or_else(|| oci_spec::image::MediaType::ImageManifest.to_string())
}
