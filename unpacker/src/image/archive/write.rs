//! From images of a content store to a tar.
//!
//! First a [`Plan`]: everything that can be found out, and so most of what can go wrong, before the
//! first byte leaves. Then the bytes, each blob verified on its way: an archive that was written to
//! its end is whole. The same images give the same bytes.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::path::Path;

use oci_spec::image::Descriptor;
use serde_json::{Value, json};

use super::read::{INDEX, MANIFEST, MARKER};
use super::{FULL_NAME, Name, NamedImage};
use crate::content::{Blob, Content};
use crate::digest::{DiffId, Digest, Hasher};
use crate::image::Image;
use crate::image::layout::REF_NAME;
use crate::image::read::{self, ImageError, MAX_MANIFEST, MAX_NESTING, Parsed};
use crate::layer::compress::decoder;
use crate::layer::header::{Fields, encode};
use crate::layer::root::metadata::Kind;
use crate::progress::{Cancel, Cancelled, Event, Phase, Progress};
use crate::pull::{self, BadManifest};
use crate::verify::{Mismatch, Verified};

const BLOCK: u64 = 512;
/// The end of a tar: two blocks of zeros.
const END: u64 = 2 * BLOCK;
const CHUNK: usize = 256 * 1024;
const REPORT_EVERY: u64 = 1 << 20;

/// Why an archive was not written. What was written of it is of no use.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{digest} is not in the content store")]
    Missing { digest: Digest },
    #[error("cannot read {digest}")]
    Content { digest: Digest, source: io::Error },
    #[error("a blob is not what its manifest says")]
    Verify(#[from] Mismatch),
    #[error("layer {digest} unpacks to {actual}, its configuration says {expected}")]
    DiffId {
        digest: Digest,
        expected: Box<DiffId>,
        actual: Digest,
    },
    #[error("layer {digest} changed while it was read")]
    Changed { digest: Digest },
    #[error("cannot write an image")]
    Image(#[from] ImageError),
    #[error(transparent)]
    Manifest(#[from] BadManifest),
    #[error("cannot write the archive")]
    Output(#[source] io::Error),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// One entry of the tar to come.
#[derive(Debug, Clone)]
enum Part {
    Folder(String),
    Bytes {
        name: String,
        bytes: Vec<u8>,
    },
    /// A blob as it is.
    Blob {
        digest: Digest,
        size: u64,
    },
    /// A layer's tar, uncompressed.
    Layer {
        blob: Box<Descriptor>,
        diff_id: DiffId,
        size: u64,
    },
}

/// What an archive will hold.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    parts: Vec<Part>,
    seen: HashSet<String>,
    /// Manifests and indexes whose parts are among them: however many indexes name one, it is read
    /// once.
    documents: HashSet<Digest>,
}

// oci-archive.

impl Plan {
    /// The tar of an image layout. For docker, which reads layouts since version 25 only, it has a
    /// `manifest.json` too, which names the same blobs.
    pub fn oci(images: &[NamedImage], content: &dyn Content) -> Result<Self, WriteError> {
        let mut plan = Self::default();
        plan.bytes(MARKER, json!({"imageLayoutVersion": "1.0.0"}).to_string());
        plan.bytes(INDEX, index(images).to_string());
        plan.folder("blobs");
        plan.folder("blobs/sha256");
        let mut items = Vec::new();
        for image in images {
            plan.document(&image.digest, &image.bytes, content, 0)?;
            // An index, or something else than an image, is nothing that docker's format can say.
            if let Ok(found) = read::load(content, &image.bytes) {
                let layers = found.layers.iter().map(|layer| layer.blob.digest());
                let layers = layers.map(blob_name).collect();
                items.push(item(image, blob_name(&found.config_digest), layers));
            }
        }
        if !items.is_empty() {
            plan.bytes(MANIFEST, Value::from(items).to_string());
        }
        Ok(plan)
    }

    /// A manifest with its blobs, or an index with its images.
    fn document(
        &mut self,
        digest: &Digest,
        bytes: &[u8],
        content: &dyn Content,
        depth: usize,
    ) -> Result<(), WriteError> {
        if depth > MAX_NESTING {
            return Err(ImageError::TooDeep.into());
        }
        self.documents.insert(digest.clone());
        self.stored(digest, bytes.len() as u64);
        match read::parse(bytes)? {
            Parsed::Index(children) => {
                for child in children {
                    if self.documents.contains(child.digest()) {
                        continue;
                    }
                    let bytes = read::fetch(content, &child, MAX_MANIFEST)?;
                    self.document(child.digest(), &bytes, content, depth + 1)?;
                }
            }
            Parsed::Manifest { .. } => {
                for blob in pull::blobs(bytes, digest)? {
                    let found = open(content, &blob.digest)?;
                    check_size(&blob.digest, blob.size, found.size)?;
                    self.stored(&blob.digest, blob.size);
                }
            }
        }
        Ok(())
    }
}

/// A row for each name; a nameless image has one.
fn index(images: &[NamedImage]) -> Value {
    let mut rows = Vec::new();
    for image in images {
        let row = json!({
            "mediaType": image.media_type,
            "digest": image.digest.to_string(),
            "size": image.bytes.len(),
        });
        for name in &image.names {
            let mut named = row.clone();
            // The whole name in both: podman and skopeo look at the first only.
            named["annotations"][REF_NAME] = name.to_string().into();
            if matches!(name, Name::Full(_)) {
                named["annotations"][FULL_NAME] = name.to_string().into();
            }
            rows.push(named);
        }
        if image.names.is_empty() {
            rows.push(row);
        }
    }
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": rows,
    })
}

fn item(image: &NamedImage, config: String, layers: Vec<String>) -> Value {
    let full = |name: &&Name| matches!(name, Name::Full(_));
    let names: Vec<String> = image
        .names
        .iter()
        .filter(full)
        .map(Name::to_string)
        .collect();
    let tags = match names.is_empty() {
        true => Value::Null,
        false => names.into(),
    };
    json!({ "Config": config, "RepoTags": tags, "Layers": layers })
}

// docker-archive.

impl Plan {
    /// What `docker save` wrote before version 25: plain tars beside a `manifest.json`. Every layer
    /// is read once for that, because a tar says how long its entries are before they come. `images`
    /// are manifests, not indexes.
    pub fn docker(
        images: &[NamedImage],
        content: &dyn Content,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Self, WriteError> {
        let mut plan = Self::default();
        let mut items = Vec::new();
        for image in images {
            let found = read::load(content, &image.bytes)?;
            items.push(plan.image(image, &found, content, progress, cancel)?);
        }
        plan.bytes(MANIFEST, Value::from(items).to_string());
        Ok(plan)
    }

    fn image(
        &mut self,
        image: &NamedImage,
        found: &Image,
        content: &dyn Content,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Value, WriteError> {
        let digest = &found.config_digest;
        let config = content.read(digest, read::MAX_CONFIG);
        let config = config.map_err(|source| unreadable(digest, source))?;
        let config = config.ok_or_else(|| WriteError::Missing {
            digest: digest.clone(),
        })?;
        let config_name = format!("{}.json", digest.digest());
        self.add(Part::Bytes {
            name: config_name.clone(),
            bytes: config,
        });
        let mut names = Vec::new();
        for layer in &found.layers {
            let name = layer_name(&layer.diff_id);
            if !self.seen.contains(&name) {
                let stream = LayerReader::open(content, &layer.blob, &layer.diff_id)?;
                let size = stream.copy(&mut io::sink(), progress, cancel)?;
                self.add(Part::Layer {
                    blob: Box::new(layer.blob.clone()),
                    diff_id: layer.diff_id.clone(),
                    size,
                });
            }
            names.push(name);
        }
        Ok(item(image, config_name, names))
    }
}

// The tar.

impl Plan {
    /// Bytes of the whole archive.
    pub fn size(&self) -> u64 {
        let sizes = self.parts.iter().map(|part| {
            let (header, data) = (part.header().len() as u64, part.size());
            header + data.next_multiple_of(BLOCK)
        });
        sizes.sum::<u64>() + END
    }

    /// Writes it.
    pub fn write(
        &self,
        content: &dyn Content,
        out: &mut dyn Write,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<(), WriteError> {
        for part in &self.parts {
            cancel.check()?;
            out.write_all(&part.header()).map_err(WriteError::Output)?;
            match part {
                Part::Folder(_) => {}
                Part::Bytes { bytes, .. } => out.write_all(bytes).map_err(WriteError::Output)?,
                Part::Blob { digest, size } => blob(content, digest, *size, out, progress, cancel)?,
                Part::Layer {
                    blob,
                    diff_id,
                    size,
                } => {
                    let stream = LayerReader::open(content, blob, diff_id)?;
                    let written = stream.copy(out, progress, cancel)?;
                    if written != *size {
                        let digest = blob.digest().clone();
                        return Err(WriteError::Changed { digest });
                    }
                }
            }
            pad(out, part.size()).map_err(WriteError::Output)?;
        }
        let end = vec![0; END as usize];
        out.write_all(&end)
            .and_then(|()| out.flush())
            .map_err(WriteError::Output)
    }

    fn add(&mut self, part: Part) {
        if self.seen.insert(part.name()) {
            self.parts.push(part);
        }
    }

    fn folder(&mut self, name: &str) {
        self.add(Part::Folder(name.to_owned()));
    }

    fn bytes(&mut self, name: &str, text: String) {
        self.add(Part::Bytes {
            name: name.to_owned(),
            bytes: text.into_bytes(),
        });
    }

    fn stored(&mut self, digest: &Digest, size: u64) {
        let folder = format!("blobs/{}", digest.algorithm());
        self.folder(&folder);
        self.add(Part::Blob {
            digest: digest.clone(),
            size,
        });
    }
}

impl Part {
    fn name(&self) -> String {
        match self {
            Self::Folder(name) | Self::Bytes { name, .. } => name.clone(),
            Self::Blob { digest, .. } => blob_name(digest),
            Self::Layer { diff_id, .. } => layer_name(diff_id),
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::Folder(_) => 0,
            Self::Bytes { bytes, .. } => bytes.len() as u64,
            Self::Blob { size, .. } | Self::Layer { size, .. } => *size,
        }
    }

    fn header(&self) -> Vec<u8> {
        let (kind, mode) = match self {
            Self::Folder(_) => (Kind::Directory, 0o755),
            _ => (Kind::File, 0o644),
        };
        let fields = Fields {
            kind,
            mode,
            size: self.size(),
            ..Fields::default()
        };
        encode(Path::new(&self.name()), &fields)
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.digest())
}

fn layer_name(diff_id: &DiffId) -> String {
    format!("{}.tar", diff_id.digest().digest())
}

fn pad(out: &mut dyn Write, size: u64) -> io::Result<()> {
    let padding = size.next_multiple_of(BLOCK) - size;
    out.write_all(&[0; BLOCK as usize][..padding as usize])
}

// Bytes on their way.

fn open(content: &dyn Content, digest: &Digest) -> Result<Blob, WriteError> {
    let opened = content.open(digest);
    let opened = opened.map_err(|source| unreadable(digest, source))?;
    opened.ok_or_else(|| WriteError::Missing {
        digest: digest.clone(),
    })
}

fn check_size(digest: &Digest, expected: u64, actual: u64) -> Result<(), Mismatch> {
    match expected == actual {
        true => Ok(()),
        false => Err(Mismatch::Size {
            digest: digest.clone(),
            expected,
            actual,
        }),
    }
}

fn unreadable(digest: &Digest, source: io::Error) -> WriteError {
    WriteError::Content {
        digest: digest.clone(),
        source,
    }
}

fn blob(
    content: &dyn Content,
    digest: &Digest,
    size: u64,
    out: &mut dyn Write,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(), WriteError> {
    let opened = open(content, digest)?;
    check_size(digest, size, opened.size)?;
    let mut reader = Verified::new(opened.file, digest, size);
    let mut told = Told::new(digest, Some(size), progress);
    let mut chunk = vec![0; CHUNK];
    loop {
        cancel.check()?;
        let read = reader.read(&mut chunk);
        match read.map_err(|source| unreadable(digest, source))? {
            0 => break,
            read => {
                out.write_all(&chunk[..read]).map_err(WriteError::Output)?;
                told.more(read as u64);
            }
        }
    }
    let verdict = reader.finish();
    verdict.map_err(|source| unreadable(digest, source))??;
    told.finish();
    Ok(())
}

/// A layer's tar; blob, size and diffID are verified by its end.
struct LayerReader<'a> {
    verified: Verified<std::fs::File>,
    blob: &'a Descriptor,
    diff_id: &'a DiffId,
}

impl<'a> LayerReader<'a> {
    fn open(
        content: &dyn Content,
        blob: &'a Descriptor,
        diff_id: &'a DiffId,
    ) -> Result<Self, WriteError> {
        let opened = open(content, blob.digest())?;
        check_size(blob.digest(), blob.size(), opened.size)?;
        Ok(Self {
            verified: Verified::new(opened.file, blob.digest(), blob.size()),
            blob,
            diff_id,
        })
    }

    /// Answers how many bytes it has.
    fn copy(
        mut self,
        out: &mut dyn Write,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<u64, WriteError> {
        let digest = self.blob.digest();
        let failed = |source| unreadable(digest, source);
        let mut hasher = Hasher::like(self.diff_id.digest());
        let mut told = Told::new(digest, None, progress);
        let mut chunk = vec![0; CHUNK];
        let unpacked = decoder(&mut self.verified).and_then(|mut tar| {
            loop {
                cancel.check().map_err(io::Error::other)?;
                match tar.read(&mut chunk)? {
                    0 => return Ok(Ok(())),
                    read => {
                        hasher.update(&chunk[..read]);
                        told.more(read as u64);
                        if let Err(error) = out.write_all(&chunk[..read]) {
                            return Ok(Err(error));
                        }
                    }
                }
            }
        });
        cancel.check()?;
        // That the bytes are wrong is the reason of whatever a decoder says of them.
        if !matches!(unpacked, Ok(Err(_))) {
            self.verified.finish().map_err(failed)??;
        }
        unpacked.map_err(failed)?.map_err(WriteError::Output)?;
        let actual = hasher.finish();
        if actual != *self.diff_id.digest() {
            return Err(WriteError::DiffId {
                digest: digest.clone(),
                expected: Box::new(self.diff_id.clone()),
                actual,
            });
        }
        Ok(told.finish())
    }
}

/// Tells now and then how far a blob is.
struct Told<'a> {
    id: String,
    total: Option<u64>,
    done: u64,
    told: u64,
    progress: &'a dyn Progress,
}

impl<'a> Told<'a> {
    fn new(digest: &Digest, total: Option<u64>, progress: &'a dyn Progress) -> Self {
        Self {
            id: digest.digest().chars().take(12).collect(),
            total,
            done: 0,
            told: 0,
            progress,
        }
    }

    fn more(&mut self, bytes: u64) {
        self.done += bytes;
        if self.done - self.told >= REPORT_EVERY {
            self.told = self.done;
            self.progress.event(Event::Transfer {
                id: self.id.clone(),
                phase: Phase::Save,
                done: self.done,
                total: self.total,
            });
        }
    }

    /// Answers how many bytes there were.
    fn finish(self) -> u64 {
        self.progress.event(Event::Finished {
            id: self.id,
            phase: Phase::Save,
            note: None,
        });
        self.done
    }
}
