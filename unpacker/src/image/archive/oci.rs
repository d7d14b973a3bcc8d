//! `index.json` of an image layout: names and digests become images, byte for byte.

use config::name::Target;
use oci_spec::image::Descriptor;
use serde::Deserialize;

use super::read::{INDEX, ReadError, json};
use super::{FULL_NAME, Name, NamedImage};
use crate::content::Content;
use crate::digest::{Digest, sha256};
use crate::image::layout::REF_NAME;
use crate::image::read::{self, ImageError, MAX_NESTING, Parsed, Platform};
use crate::progress::{Event, Progress};
use crate::pull;

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// The images of an index file, in its order, each once with all its names. Every blob that they
/// need is in `content`, or that is the error. Of an index whose images are not all there (docker
/// saves it so), the one for `platform`, or the only one, is answered.
pub fn images(
    index: &[u8],
    content: &dyn Content,
    platform: &Platform,
    progress: &dyn Progress,
) -> Result<Vec<NamedImage>, ReadError> {
    let rows: Index = json(INDEX, index)?;
    let mut images: Vec<NamedImage> = Vec::new();
    for row in &rows.manifests {
        let names = names(row, progress);
        let (found, bytes) = whole(row, content, platform, progress)?;
        match images
            .iter_mut()
            .find(|image| image.digest == *found.digest())
        {
            Some(known) => add(&mut known.names, names),
            None => images.push(NamedImage {
                names,
                media_type: found.media_type().to_string(),
                digest: found.digest().clone(),
                bytes,
            }),
        }
    }
    Ok(images)
}

fn add(names: &mut Vec<Name>, more: Vec<Name>) {
    for name in more {
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

/// What an entry of the index is called, at most once.
fn names(row: &Descriptor, progress: &dyn Progress) -> Vec<Name> {
    let annotations = row.annotations().clone().unwrap_or_default();
    let [full, name] = [FULL_NAME, REF_NAME].map(|key| annotations.get(key));
    let Some(text) = full.or(name) else {
        return Vec::new();
    };
    let [full_name, name] = [full, name].map(|text| text.and_then(|text| Name::parse(text)));
    let found = joined(full_name, name);
    if found.is_none() {
        let text = format!("the archive calls an image {text:?}, which is no name");
        progress.event(Event::Warning { text });
    }
    found.into_iter().collect()
}

/// The whole reference, with the tag of the specification's annotation: tools that make an image out
/// of another (umoci) change that one, and copy containerd's as it was.
fn joined(full: Option<Name>, name: Option<Name>) -> Option<Name> {
    match (full, name) {
        (Some(Name::Full(full)), Some(Name::Tag(tag))) => {
            Some(Name::Full(full.at(Target::Tag(tag))))
        }
        (Some(full), _) => Some(full),
        (None, name) => name,
    }
}

/// A manifest with all its blobs, or an index with all its images, or what stands for it.
fn whole(
    row: &Descriptor,
    content: &dyn Content,
    platform: &Platform,
    progress: &dyn Progress,
) -> Result<(Descriptor, Vec<u8>), ReadError> {
    let bytes = read::fetch(content, row, read::MAX_MANIFEST)?;
    let Some(missing) = missing(content, &bytes, 0)? else {
        return Ok((row.clone(), bytes));
    };
    let manifest = row.digest().clone();
    let Parsed::Index(children) = read::parse(&bytes)? else {
        let digest = missing;
        return Err(ReadError::NoBlob { digest, manifest });
    };
    let mut here = Vec::new();
    for child in children.iter().filter(|child| read::is_image(child)) {
        if is_whole(content, child)? {
            here.push(child);
        }
    }
    let chosen = read::choose(&bytes, platform).ok();
    let fitting = here.iter().find(|child| Some(**child) == chosen.as_ref());
    let child = match (fitting, &here[..]) {
        (Some(child), _) => *child,
        (None, [only]) => *only,
        _ => {
            let digest = missing;
            return Err(ReadError::NoBlob { digest, manifest });
        }
    };
    let text = format!(
        "only the image for {} of the index {manifest} is in the archive",
        read::name_of_platform(child)
    );
    progress.event(Event::Warning { text });
    whole(child, content, platform, progress)
}

fn is_whole(content: &dyn Content, child: &Descriptor) -> Result<bool, ReadError> {
    match read::fetch(content, child, read::MAX_MANIFEST) {
        Ok(bytes) => Ok(missing(content, &bytes, 1)?.is_none()),
        Err(ImageError::Missing { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Something that a manifest or an index names and `content` does not have.
fn missing(
    content: &dyn Content,
    document: &[u8],
    depth: usize,
) -> Result<Option<Digest>, ReadError> {
    if depth > MAX_NESTING {
        return Err(ImageError::TooDeep.into());
    }
    let Parsed::Index(children) = read::parse(document)? else {
        return missing_blob(content, document);
    };
    for child in &children {
        let bytes = match read::fetch(content, child, read::MAX_MANIFEST) {
            Ok(bytes) => bytes,
            Err(ImageError::Missing { digest }) => return Ok(Some(digest)),
            Err(error) => return Err(error.into()),
        };
        if let Some(digest) = missing(content, &bytes, depth + 1)? {
            return Ok(Some(digest));
        }
    }
    Ok(None)
}

fn missing_blob(content: &dyn Content, manifest: &[u8]) -> Result<Option<Digest>, ReadError> {
    for blob in pull::blobs(manifest, &sha256(manifest))? {
        let found = content
            .open(&blob.digest)
            .map_err(|source| ImageError::Content {
                digest: blob.digest.clone(),
                source,
            })?;
        if found.is_none_or(|found| found.size != blob.size) {
            return Ok(Some(blob.digest));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_names_the_tag_is_the_specifications() {
        let name = |text: &str| Some(text).filter(|t| !t.is_empty()).and_then(Name::parse);
        for (full, short, expected) in [
            ("docker.io/a/b:1", "1", "docker.io/a/b:1"),
            ("docker.io/a/b:1", "2", "docker.io/a/b:2"),
            ("docker.io/a/b:1", "docker.io/c/d:2", "docker.io/a/b:1"),
            ("", "docker.io/c/d:2", "docker.io/c/d:2"),
            ("", "2", "2"),
            ("latest", "2", "latest"),
        ] {
            let found = joined(name(full), name(short)).unwrap();
            assert_eq!(found.to_string(), expected);
        }
    }
}
