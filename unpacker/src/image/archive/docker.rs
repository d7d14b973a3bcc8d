//! `manifest.json` of `docker save` and of whoever imitates it.
//!
//! It names a configuration and tars, and has no manifest: one is made here, in OCI's form, of
//! exactly those files. So the configuration's digest, docker's image id, stays what it was, and
//! the same archive always gives the same manifest. That each tar is the layer that the
//! configuration means is verified here, because nothing else ties them together.

use std::collections::HashMap;
use std::io::{self, Read};

use oci_spec::image::{Descriptor, MediaType};
use serde::{Deserialize, Serialize};

use super::entries::{Entries, Stored};
use super::read::{Images, MANIFEST, ReadError, json};
use super::{Name, NamedImage};
use crate::content::Content;
use crate::digest::{DiffId, Digest, Hasher, sha256};
use crate::image::config::ImageConfig;
use crate::image::read::{self, ImageError, MAX_CONFIG};
use crate::layer::compress::{Compression, decoder};
use crate::progress::Cancel;

/// Images in one archive.
const MAX_IMAGES: usize = 10_000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The order of its fields is the order of its bytes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u32,
    media_type: String,
    config: &'a Descriptor,
    layers: &'a [Descriptor],
}

/// The images of a `manifest.json`, in its order.
pub(super) fn images(
    manifest: &[u8],
    entries: &Entries,
    content: &dyn Content,
    cancel: &Cancel,
) -> Result<Vec<NamedImage>, ReadError> {
    let items: Vec<Item> = json(MANIFEST, manifest)?;
    if items.len() > MAX_IMAGES {
        return Err(ReadError::TooManyEntries);
    }
    let mut images = Images::default();
    let mut layers = Layers {
        entries,
        content,
        cancel,
        known: HashMap::new(),
    };
    for item in &items {
        cancel.check()?;
        let bytes = layers.manifest(item)?;
        let names = item.repo_tags.iter().flatten();
        let names = names.filter_map(|text| Name::parse(text));
        let kind = MediaType::ImageManifest.to_string();
        let place = images.add(sha256(&bytes), kind, bytes)?;
        images.name(place, names)?;
    }
    Ok(images.into_inner())
}

struct Layers<'a> {
    entries: &'a Entries,
    content: &'a dyn Content,
    cancel: &'a Cancel,
    /// What a blob unpacks to: images share layers.
    known: HashMap<String, (DiffId, Compression)>,
}

impl Layers<'_> {
    fn manifest(&mut self, item: &Item) -> Result<Vec<u8>, ReadError> {
        let stored = self.entry(&item.config)?.clone();
        check_name(&item.config, &stored)?;
        let bytes = self.config(&item.config, &stored)?;
        let config: ImageConfig = json(&item.config, &bytes)?;
        let names = item.layers.as_deref().unwrap_or_default();
        let diff_ids = &config.rootfs.diff_ids;
        if names.len() != diff_ids.len() {
            return Err(ImageError::LayerCount {
                layers: names.len(),
                diff_ids: diff_ids.len(),
            }
            .into());
        }
        let mut layers = Vec::with_capacity(names.len());
        for (name, expected) in names.iter().zip(diff_ids) {
            layers.push(self.layer(name, expected)?);
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: MediaType::ImageManifest.to_string(),
            config: &descriptor(MediaType::ImageConfig, &stored),
            layers: &layers,
        };
        let bytes = serde_json::to_vec(&manifest).map_err(|source| ReadError::Json {
            name: MANIFEST.to_owned(),
            source,
        })?;
        // Whatever an image must be besides.
        read::load(self.content, &bytes)?;
        Ok(bytes)
    }

    fn entry(&self, name: &str) -> Result<&Stored, ReadError> {
        let found = self.entries.get_blob(name)?;
        found.ok_or_else(|| ReadError::NoEntry {
            name: name.to_owned(),
        })
    }

    fn config(&self, name: &str, stored: &Stored) -> Result<Vec<u8>, ReadError> {
        let read = self.content.read(&stored.digest, MAX_CONFIG);
        let read = read.map_err(|source| failed(name, source))?;
        read.ok_or_else(|| ReadError::NoEntry {
            name: name.to_owned(),
        })
    }

    fn layer(&mut self, name: &str, expected: &str) -> Result<Descriptor, ReadError> {
        let stored = self.entry(name)?.clone();
        let bad = |bad: crate::digest::BadDigest| ImageError::BadDigest { text: bad.text };
        let expected: DiffId = expected.parse().map_err(bad)?;
        let (actual, compression) = self.unpacks_to(name, &stored, &expected)?;
        if actual != expected {
            return Err(ReadError::DiffId {
                name: name.to_owned(),
                expected,
                actual: actual.digest().clone(),
            });
        }
        Ok(descriptor(compression.media_type(), &stored))
    }

    /// The digest of a layer's tar; a plain one has it already.
    fn unpacks_to(
        &mut self,
        name: &str,
        stored: &Stored,
        expected: &DiffId,
    ) -> Result<(DiffId, Compression), ReadError> {
        let key = format!("{} {}", stored.digest, expected.digest().algorithm());
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let (mut file, compression) = self.open(name, stored)?;
        let plain = compression == Compression::None
            && expected.digest().algorithm() == stored.digest.algorithm();
        let diff_id = match plain {
            true => DiffId::new(stored.digest.clone()),
            false => self.hash(name, &mut file, Hasher::like(expected.digest()))?,
        };
        self.known.insert(key, (diff_id.clone(), compression));
        Ok((diff_id, compression))
    }

    /// The blob from its beginning, and how it is compressed.
    fn open(
        &self,
        name: &str,
        stored: &Stored,
    ) -> Result<(Box<dyn Read + Send>, Compression), ReadError> {
        let opened = self.content.open(&stored.digest);
        let opened = opened.map_err(|source| failed(name, source))?;
        let Some(blob) = opened else {
            return Err(ReadError::NoEntry {
                name: name.to_owned(),
            });
        };
        let mut head = Vec::new();
        let mut file = blob.file;
        let read = (&mut file).take(4).read_to_end(&mut head);
        read.map_err(|source| failed(name, source))?;
        let compression = Compression::of_magic(&head);
        Ok((Box::new(io::Cursor::new(head).chain(file)), compression))
    }

    fn hash(
        &self,
        name: &str,
        file: &mut (dyn Read + Send),
        mut hasher: Hasher,
    ) -> Result<DiffId, ReadError> {
        let mut tar = decoder(file).map_err(|source| failed(name, source))?;
        let mut chunk = vec![0; 256 * 1024];
        loop {
            self.cancel.check()?;
            match tar.read(&mut chunk) {
                Ok(0) => return Ok(DiffId::new(hasher.finish())),
                Ok(read) => hasher.update(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(failed(name, source)),
            }
        }
    }
}

/// Most tools call a configuration by its digest. One that then holds something else was damaged.
fn check_name(name: &str, stored: &Stored) -> Result<(), ReadError> {
    let file = name.rsplit('/').next().unwrap_or(name);
    let hex = file.strip_suffix(".json").unwrap_or(file);
    let hex = hex.strip_prefix("sha256:").unwrap_or(hex);
    let claimed: Result<Digest, _> = format!("sha256:{hex}").parse();
    match claimed {
        Ok(claimed) if claimed != stored.digest => {
            let text = format!("its digest is {}", stored.digest);
            Err(ReadError::Digest {
                name: name.to_owned(),
                source: io::Error::new(io::ErrorKind::InvalidData, text),
            })
        }
        _ => Ok(()),
    }
}

fn descriptor(kind: MediaType, stored: &Stored) -> Descriptor {
    Descriptor::new(kind, stored.size, stored.digest.clone())
}

fn failed(name: &str, source: io::Error) -> ReadError {
    ReadError::Store {
        name: name.to_owned(),
        source,
    }
}
