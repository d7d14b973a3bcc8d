//! `index.json` of an image layout: names and digests become images, byte for byte.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use config::name::Target;
use oci_spec::image::Descriptor;
use serde::Deserialize;

use super::read::{INDEX, Images, MAX_DOCUMENTS, ReadError, json};
use super::{FULL_NAME, Name, NamedImage};
use crate::content::Content;
use crate::digest::{Digest, sha256};
use crate::image::layout::REF_NAME;
use crate::image::read::{self, ImageError, MAX_MANIFEST, MAX_NESTING, Parsed, Platform};
use crate::progress::{Cancel, Event, Progress};
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
    cancel: &Cancel,
) -> Result<Vec<NamedImage>, ReadError> {
    let rows: Index = json(INDEX, index)?;
    let mut looking = Looking {
        content,
        platform,
        progress,
        cancel,
        lacks: HashMap::new(),
        left: 0,
    };
    let mut images = Images::default();
    let mut known: HashMap<Key, usize> = HashMap::new();
    for row in &rows.manifests {
        let names = names(row, progress);
        let place = match known.entry(key(row)) {
            Entry::Occupied(place) => *place.get(),
            Entry::Vacant(place) => {
                let (found, bytes) = looking.image(row)?;
                let media_type = found.media_type().to_string();
                *place.insert(images.add(found.digest().clone(), media_type, bytes)?)
            }
        };
        images.name(place, names)?;
    }
    Ok(images.into_inner())
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

/// A document as somebody names it: of another size it is refused.
type Key = (Digest, u64);

fn key(document: &Descriptor) -> Key {
    (document.digest().clone(), document.size())
}

/// What the documents of an archive need. Each is read once, however many name it: a few indexes that
/// name each other many times are a graph of few documents and endless paths.
struct Looking<'a> {
    content: &'a dyn Content,
    platform: &'a Platform,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
    /// Something that a document needs and is not there.
    lacks: HashMap<Key, Option<Digest>>,
    /// Documents that the image at hand may still have.
    left: usize,
}

impl Looking<'_> {
    /// A row's image: a manifest with all its blobs, or an index with all its images, or what stands
    /// for it.
    fn image(&mut self, row: &Descriptor) -> Result<(Descriptor, Vec<u8>), ReadError> {
        self.left = MAX_DOCUMENTS;
        let mut chosen = row.clone();
        for _ in 0..=MAX_NESTING {
            let bytes = read::fetch(self.content, &chosen, MAX_MANIFEST)?;
            let Some(missing) = self.missing(&bytes, 0)? else {
                return Ok((chosen, bytes));
            };
            chosen = self.stand_in(&chosen, &bytes, missing)?;
        }
        Err(ImageError::TooDeep.into())
    }

    /// Of an index whose images are not all there, the one that is used in its place.
    fn stand_in(
        &mut self,
        index: &Descriptor,
        bytes: &[u8],
        missing: Digest,
    ) -> Result<Descriptor, ReadError> {
        let manifest = index.digest().clone();
        let no_blob = |manifest| ReadError::NoBlob {
            digest: missing,
            manifest,
        };
        let Parsed::Index(children) = read::parse(bytes)? else {
            return Err(no_blob(manifest));
        };
        let mut here = Vec::new();
        for child in children.iter().filter(|child| read::is_image(child)) {
            if self.lacks(child, 1)?.is_none() {
                here.push(child);
            }
        }
        let chosen = read::choose(bytes, self.platform).ok();
        let fitting = here.iter().find(|child| Some(**child) == chosen.as_ref());
        let child = match (fitting, &here[..]) {
            (Some(child), _) => *child,
            (None, [only]) => *only,
            _ => return Err(no_blob(manifest)),
        };
        let text = format!(
            "only the image for {} of the index {manifest} is in the archive",
            read::name_of_platform(child)
        );
        self.progress.event(Event::Warning { text });
        Ok(child.clone())
    }

    /// Something that a document names and `content` does not have, or the document itself.
    fn lacks(&mut self, document: &Descriptor, depth: usize) -> Result<Option<Digest>, ReadError> {
        if let Some(known) = self.lacks.get(&key(document)) {
            return Ok(known.clone());
        }
        let lacks = match read::fetch(self.content, document, MAX_MANIFEST) {
            Ok(bytes) => self.missing(&bytes, depth)?,
            Err(ImageError::Missing { digest }) => Some(digest),
            Err(error) => return Err(error.into()),
        };
        self.lacks.insert(key(document), lacks.clone());
        Ok(lacks)
    }

    /// Something that a manifest or an index names and `content` does not have.
    fn missing(&mut self, document: &[u8], depth: usize) -> Result<Option<Digest>, ReadError> {
        self.cancel.check()?;
        if depth > MAX_NESTING {
            return Err(ImageError::TooDeep.into());
        }
        self.left = (self.left.checked_sub(1)).ok_or(ReadError::TooManyDocuments)?;
        let Parsed::Index(children) = read::parse(document)? else {
            return missing_blob(self.content, document);
        };
        for child in &children {
            if let Some(digest) = self.lacks(child, depth + 1)? {
                return Ok(Some(digest));
            }
        }
        Ok(None)
    }
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
