//! From a stream to images whose blobs are in a content store.
//!
//! Tars say what they hold in any order, so every file that may be a blob is stored while it comes,
//! and what the archive means is decided at its end.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io::{self, Cursor, Read};

use config::name::{NameError, parse_digest};

use super::entries::{Entries, MAX_NAMES, Stored, clean};
use super::{Name, NamedImage, docker, oci};
use crate::content::Content;
use crate::digest::{DiffId, Digest};
use crate::image::read::{ImageError, MAX_MANIFEST, Platform};
use crate::layer::archive::{Archive, ArchiveError, RawEntry};
use crate::layer::compress::decoder;
use crate::progress::{Cancel, Cancelled, Event, Phase, Progress};
use crate::pull::{self, BadManifest};

/// The tar of a thousand images with a hundred layers each stays below; every entry costs memory.
const MAX_ENTRIES: usize = 200_000;
/// Names of images. Each is a transaction of whoever keeps them.
pub(super) const MAX_TAGS: usize = 10_000;
/// Documents of one image: as many as a pull takes.
pub(super) const MAX_DOCUMENTS: usize = pull::MAX_PARTS;
/// The images' own documents are held until all of them are known; a thousand images of a hundred
/// layers have a third of it.
const MAX_HELD: u64 = 64 << 20;
const CHUNK: usize = 256 * 1024;
/// Bytes between two events of progress.
const REPORT_EVERY: u64 = 1 << 20;
/// How many names an error quotes.
const QUOTED: usize = 5;
pub(super) const INDEX: &str = "index.json";
pub(super) const MARKER: &str = "oci-layout";
pub(super) const MANIFEST: &str = "manifest.json";
/// Compressions that docker reads too and we do not, with the program that does.
const OTHERS: [(&[u8], &str); 2] = [(b"\xfd7zXZ\0", "xz"), (b"BZh", "bzip2")];

/// How an archive is read.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// A stream of more bytes than this, uncompressed, is refused.
    pub limit: u64,
    /// Chosen where an index is there without all its images.
    pub platform: Platform,
}

impl Default for ReadOptions {
    /// Only the content store's free space limits what may come; the platform is this machine's.
    fn default() -> Self {
        Self {
            limit: u64::MAX,
            platform: Platform::host(),
        }
    }
}

/// Why an archive was refused. Blobs that were stored before stay, and belong to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the archive is empty")]
    Empty,
    #[error("the archive is compressed with {program}, which is not read here")]
    Compressed { program: &'static str },
    #[error("cannot read the archive")]
    Input(#[source] io::Error),
    #[error("the archive is damaged or cut off")]
    Tar(#[source] ArchiveError),
    #[error("entry {name:?} would leave the archive")]
    Name { name: String },
    #[error("the archive has more than {MAX_ENTRIES} entries")]
    TooManyEntries,
    #[error("the names in the archive have more than {MAX_NAMES} bytes together")]
    TooManyNames,
    #[error("the archive gives its images more than {MAX_TAGS} names")]
    TooManyTags,
    #[error("an image of the archive has more than {MAX_DOCUMENTS} manifests")]
    TooManyDocuments,
    #[error("the manifests of the archive's images have more than {MAX_HELD} bytes together")]
    TooMuchHeld,
    #[error("entry {name:?} is {what}, which no image archive has")]
    Unsupported { name: String, what: &'static str },
    #[error("entry {name:?} stands twice in the archive, with different content")]
    Twice { name: String },
    #[error("{name} has {size} bytes, more than {MAX_MANIFEST}")]
    TooLarge { name: String, size: u64 },
    #[error("entry {name:?} needs {size} bytes of disk, {free} are free")]
    NoRoom { name: String, size: u64, free: u64 },
    #[error("cannot store {name:?}")]
    Store { name: String, source: io::Error },
    #[error("entry {name:?} does not hold what its name says")]
    Digest { name: String, source: io::Error },
    #[error("entry {name:?} is no blob: its name has no digest")]
    BlobName { name: String, source: NameError },
    #[error("{}", no_images(found))]
    NoImages { found: Vec<String> },
    #[error("oci-layout does not say version 1.0.0")]
    Version,
    #[error("{name} is not valid JSON of its kind")]
    Json {
        name: String,
        source: serde_json::Error,
    },
    #[error("manifest.json names {name:?}, which is not in the archive")]
    NoEntry { name: String },
    #[error("manifest {manifest} needs {digest}, which is not in the archive")]
    NoBlob { digest: Digest, manifest: Digest },
    #[error("links lead from {name:?} to itself")]
    Loop { name: String },
    #[error("layer {name:?} is {actual}, the image's configuration says {expected}")]
    DiffId {
        name: String,
        expected: DiffId,
        actual: Digest,
    },
    #[error("an image of the archive cannot be used")]
    Image(#[from] ImageError),
    #[error(transparent)]
    Manifest(#[from] BadManifest),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

fn no_images(found: &[String]) -> String {
    let is = "this is no image archive: it has neither index.json nor manifest.json";
    match found {
        [] => format!("{is}, and nothing else"),
        some => format!("{is}, but {}", some.join(", ")),
    }
}

impl From<ArchiveError> for ReadError {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            // A decoder's complaint is about the bytes, not about the one who sent them.
            ArchiveError::Read(source) => Self::Input(source),
            other => Self::Tar(other),
        }
    }
}

/// Reads a whole archive, of any kind and compression, into `content`, and answers its images.
pub fn read(
    mut input: impl Read + Send,
    content: &dyn Content,
    options: &ReadOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Vec<NamedImage>, ReadError> {
    let head = head(&mut input)?;
    let mut stream = decoder(Cursor::new(head).chain(input)).map_err(ReadError::Input)?;
    let archive = Archive::new(&mut stream, options.limit, cancel);
    let mut reading = Reading {
        archive,
        content,
        progress,
        entries: Entries::default(),
    };
    reading.all()?;
    let entries = reading.entries;
    // Docker writes both; the first has the manifests byte for byte.
    if let Some(index) = entries.get_document(INDEX).filter(|_| is_layout(&entries)) {
        check_version(&entries)?;
        let images = oci::images(index, content, &options.platform, progress, cancel)?;
        if !images.is_empty() {
            return Ok(images);
        }
    }
    match entries.get_document(MANIFEST) {
        Some(manifest) => docker::images(manifest, &entries, content, cancel),
        None => Err(ReadError::NoImages {
            found: entries.first,
        }),
    }
}

/// The images of an archive, in its order, each once.
#[derive(Default)]
pub(super) struct Images {
    images: Vec<NamedImage>,
    /// Where each is among them.
    places: HashMap<Digest, usize>,
    /// Bytes of all of them.
    held: u64,
    /// The names that each has, by its place.
    named: HashSet<(usize, Name)>,
}

impl Images {
    /// Where the image is, without names at first.
    pub(super) fn add(
        &mut self,
        digest: Digest,
        media_type: String,
        bytes: Vec<u8>,
    ) -> Result<usize, ReadError> {
        let place = match self.places.entry(digest) {
            Entry::Occupied(place) => return Ok(*place.get()),
            Entry::Vacant(place) => place,
        };
        self.held += bytes.len() as u64;
        if self.held > MAX_HELD {
            return Err(ReadError::TooMuchHeld);
        }
        self.images.push(NamedImage {
            names: Vec::new(),
            media_type,
            digest: place.key().clone(),
            bytes,
        });
        Ok(*place.insert(self.images.len() - 1))
    }

    /// Adds the names that the image does not have yet.
    pub(super) fn name(
        &mut self,
        place: usize,
        names: impl IntoIterator<Item = Name>,
    ) -> Result<(), ReadError> {
        let Some(image) = self.images.get_mut(place) else {
            return Ok(());
        };
        for name in names {
            if !self.named.insert((place, name.clone())) {
                continue;
            }
            if self.named.len() > MAX_TAGS {
                return Err(ReadError::TooManyTags);
            }
            image.names.push(name);
        }
        Ok(())
    }

    pub(super) fn into_inner(self) -> Vec<NamedImage> {
        self.images
    }
}

/// What the stream begins with, which also says what it is not.
fn head(input: &mut dyn Read) -> Result<Vec<u8>, ReadError> {
    let mut head = Vec::new();
    input
        .take(6)
        .read_to_end(&mut head)
        .map_err(ReadError::Input)?;
    if head.is_empty() {
        return Err(ReadError::Empty);
    }
    let other = OTHERS.iter().find(|(magic, _)| head.starts_with(magic));
    match other {
        Some((_, program)) => Err(ReadError::Compressed { program }),
        None => Ok(head),
    }
}

fn is_layout(entries: &Entries) -> bool {
    entries.get_document(MARKER).is_some()
}

fn check_version(entries: &Entries) -> Result<(), ReadError> {
    let marker = entries.get_document(MARKER).unwrap_or_default();
    let value: serde_json::Value = json(MARKER, marker)?;
    match value["imageLayoutVersion"].as_str() {
        Some("1.0.0") => Ok(()),
        _ => Err(ReadError::Version),
    }
}

pub(super) fn json<'a, T: serde::Deserialize<'a>>(
    name: &str,
    bytes: &'a [u8],
) -> Result<T, ReadError> {
    serde_json::from_slice(bytes).map_err(|source| ReadError::Json {
        name: name.to_owned(),
        source,
    })
}

/// What becomes of a file.
enum Use {
    Document,
    /// Verified against this digest.
    Blob(Digest),
    /// A layer or configuration of docker's, known by its name only.
    Unnamed,
    /// Nobody asks for it.
    Nothing,
}

struct Reading<'a> {
    archive: Archive<'a>,
    content: &'a dyn Content,
    progress: &'a dyn Progress,
    entries: Entries,
}

impl Reading<'_> {
    fn all(&mut self) -> Result<(), ReadError> {
        let mut count = 0;
        while let Some(entry) = self.archive.next()? {
            count += 1;
            if count > MAX_ENTRIES {
                return Err(ReadError::TooManyEntries);
            }
            // A global header belongs to no file.
            if entry.flag != b'g' {
                self.entry(&entry)?;
            }
        }
        // A compressed stream has a checksum at its end.
        self.archive.drain()?;
        Ok(())
    }

    fn entry(&mut self, entry: &RawEntry) -> Result<(), ReadError> {
        let name = clean(&entry.name)?;
        if self.entries.first.len() < QUOTED && !name.is_empty() {
            self.entries.first.push(name.clone());
        }
        let unsupported = |what| {
            Err(ReadError::Unsupported {
                name: name.clone(),
                what,
            })
        };
        match entry.flag {
            b'5' => Ok(()),
            b'1' => self.entries.link(name, &entry.link, false),
            b'2' => self.entries.link(name, &entry.link, true),
            // Ten bytes of such a file may mean ten gigabytes of disk.
            _ if self.archive.is_sparse() => unsupported("a sparse file"),
            b'0' | 0 | b'7' => self.file(name, entry.size),
            b'3' | b'4' | b'6' => unsupported("a device or a pipe"),
            _ => unsupported("of an unknown kind"),
        }
    }

    fn file(&mut self, name: String, size: u64) -> Result<(), ReadError> {
        match use_of(&name)? {
            Use::Nothing => Ok(()),
            Use::Document => {
                let bytes = self.small(&name, size)?;
                self.entries.document(name, bytes)
            }
            Use::Blob(digest) => {
                let stored = match self.have(&name, &digest, size)? {
                    true => Stored { digest, size },
                    false => self.store(&name, size, Some(&digest))?,
                };
                self.entries.blob(name, stored)
            }
            Use::Unnamed => {
                let stored = self.store(&name, size, None)?;
                self.entries.blob(name, stored)
            }
        }
    }

    /// Whether the store has the blob; then what the archive has of it is passed over.
    fn have(&self, name: &str, digest: &Digest, size: u64) -> Result<bool, ReadError> {
        let found = self
            .content
            .open(digest)
            .map_err(|source| ReadError::Store {
                name: name.to_owned(),
                source,
            })?;
        Ok(found.is_some_and(|blob| blob.size == size))
    }

    fn small(&mut self, name: &str, size: u64) -> Result<Vec<u8>, ReadError> {
        if size > MAX_MANIFEST {
            let name = name.to_owned();
            return Err(ReadError::TooLarge { name, size });
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        let mut done = 0;
        while done < bytes.len() {
            match self.archive.read_data(&mut bytes[done..])? {
                0 => return Err(ArchiveError::Truncated.into()),
                read => done += read,
            }
        }
        Ok(bytes)
    }

    fn store(
        &mut self,
        name: &str,
        size: u64,
        expected: Option<&Digest>,
    ) -> Result<Stored, ReadError> {
        let failed = |source| ReadError::Store {
            name: name.to_owned(),
            source,
        };
        if let Some(free) = self.content.free().map_err(failed)?
            && size > free
        {
            let name = name.to_owned();
            return Err(ReadError::NoRoom { name, size, free });
        }
        let mut writer = self.content.writer(expected).map_err(failed)?;
        let mut chunk = vec![0; CHUNK];
        let (mut done, mut told) = (0, 0);
        loop {
            let read = self.archive.read_data(&mut chunk)?;
            if read == 0 {
                break;
            }
            writer.write_all(&chunk[..read]).map_err(failed)?;
            done += read as u64;
            if done - told >= REPORT_EVERY {
                told = done;
                self.tell(name, done, size);
            }
        }
        let (digest, size) = writer.commit().map_err(|source| match source.kind() {
            io::ErrorKind::InvalidData => ReadError::Digest {
                name: name.to_owned(),
                source,
            },
            _ => failed(source),
        })?;
        self.progress.event(Event::Finished {
            id: short(name),
            phase: Phase::Load,
            note: None,
        });
        Ok(Stored { digest, size })
    }

    fn tell(&self, name: &str, done: u64, size: u64) {
        self.progress.event(Event::Transfer {
            id: short(name),
            phase: Phase::Load,
            done,
            total: Some(size),
        });
    }
}

/// Only what a manifest may ask for is stored: not every file of a tar that somebody took for an
/// image.
fn use_of(name: &str) -> Result<Use, ReadError> {
    if [INDEX, MARKER, MANIFEST].contains(&name) {
        return Ok(Use::Document);
    }
    let parts: Vec<&str> = name.split('/').collect();
    match parts[..] {
        ["blobs", algorithm, hex] => match parse_digest(&format!("{algorithm}:{hex}")) {
            Ok(digest) => Ok(Use::Blob(digest)),
            Err(source) => Err(ReadError::BlobName {
                name: name.to_owned(),
                source,
            }),
        },
        [file] | [_, file] if is_asked_for(file) => Ok(Use::Unnamed),
        _ => Ok(Use::Nothing),
    }
}

fn is_asked_for(file: &str) -> bool {
    let endings = [".json", ".tar", ".gz", ".tgz", ".zst"];
    file.starts_with("sha256:") || endings.iter().any(|ending| file.ends_with(ending))
}

/// Twelve characters that tell one file from another.
fn short(name: &str) -> String {
    let folders: Vec<&str> = name.split('/').collect();
    let telling = match folders[..] {
        // `<id>/layer.tar`
        [folder, file] if file.starts_with("layer.") || file == "json" => folder,
        _ => folders.last().copied().unwrap_or(name),
    };
    let telling = telling.strip_prefix("sha256:").unwrap_or(telling);
    telling.chars().take(12).collect()
}
