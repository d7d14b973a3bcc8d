//! A folder in the OCI image layout: blobs by digest, and an `index.json` that names images.
//!
//! Readable by every other tool. The folder may come from somebody else: nothing is read outside of
//! it, whatever links it has, and blobs are only as good as the verifying reader says. Source:
//! image-spec image-layout.md, and annotations.md for `org.opencontainers.image.ref.name`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use oci_spec::image::Descriptor;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::archive::FULL_NAME;
use super::read::MAX_MANIFEST;
use crate::content::{Blob, Content, ContentWriter};
use crate::digest::{Digest, Hasher};
use crate::layer::root::Root;

/// The annotation that carries a tag in `index.json`.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// How the names of unfinished files begin.
pub(super) const TEMPORARY: &str = ".tmp-";
const INDEX: &str = "index.json";
const MARKER: &str = "oci-layout";

/// A folder that is no image layout.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error("cannot use {path:?} as an image layout")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path:?} is not valid JSON of its kind")]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{path:?} is not an image layout of version 1.0.0")]
    Version { path: PathBuf },
}

/// An image in the index.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// Most often a tag, sometimes a whole reference.
    pub name: Option<String>,
    /// The whole reference, where containerd's annotation says it.
    pub full_name: Option<String>,
    pub descriptor: Descriptor,
}

/// An image layout on disk.
#[derive(Debug)]
pub struct Layout {
    dir: PathBuf,
    root: Root,
}

impl Layout {
    /// Opens a layout that exists.
    pub fn open(dir: &Path) -> Result<Self, LayoutError> {
        let root = Root::open(dir).map_err(|source| io_error(dir, source))?;
        let layout = Self {
            dir: dir.to_owned(),
            root,
        };
        let marker = layout.json(MARKER)?;
        match marker["imageLayoutVersion"].as_str() {
            Some("1.0.0") => Ok(layout),
            _ => Err(LayoutError::Version {
                path: dir.to_owned(),
            }),
        }
    }

    /// Opens a layout; makes it where the folder is missing or empty.
    pub fn create(dir: &Path) -> Result<Self, LayoutError> {
        let failed = |source| io_error(dir, source);
        fs::create_dir_all(dir.join("blobs/sha256")).map_err(failed)?;
        let layout = Self {
            dir: dir.to_owned(),
            root: Root::open(dir).map_err(failed)?,
        };
        let _lock = layout.lock()?;
        if !dir.join(INDEX).exists() {
            layout.replace(INDEX, &empty_index())?;
        }
        if !dir.join(MARKER).exists() {
            layout.replace(MARKER, &json!({"imageLayoutVersion": "1.0.0"}))?;
        }
        drop(_lock);
        Self::open(dir)
    }

    /// What the index lists.
    pub fn images(&self) -> Result<Vec<Named>, LayoutError> {
        let index = self.json(INDEX)?;
        let rows = index["manifests"].as_array().cloned().unwrap_or_default();
        rows.into_iter()
            .map(|row| {
                let text = |key| row["annotations"][key].as_str().map(str::to_owned);
                let (name, full_name) = (text(REF_NAME), text(FULL_NAME));
                let descriptor = serde_json::from_value(row).map_err(|source| self.bad(source))?;
                Ok(Named {
                    name,
                    full_name,
                    descriptor,
                })
            })
            .collect()
    }

    /// The image of a name; where several have it, the last one written counts.
    pub fn find(&self, name: &str) -> Result<Option<Descriptor>, LayoutError> {
        let images = self.images()?;
        let found = images
            .into_iter()
            .rev()
            .find(|image| image.name.as_deref() == Some(name));
        Ok(found.map(|image| image.descriptor))
    }

    /// Names an image whose blobs are already here. An earlier image of that name loses it.
    pub fn tag(&self, name: &str, descriptor: &Descriptor) -> Result<(), LayoutError> {
        self.tag_fully(name, None, descriptor)
    }

    /// As [`Layout::tag`]; `full` is the whole reference, where `name` is only its tag.
    pub fn tag_fully(
        &self,
        name: &str,
        full: Option<&str>,
        descriptor: &Descriptor,
    ) -> Result<(), LayoutError> {
        let mut row = serde_json::to_value(descriptor).map_err(|source| self.bad(source))?;
        row["annotations"][REF_NAME] = name.into();
        if let Some(full) = full {
            row["annotations"][FULL_NAME] = full.into();
        }
        self.change(|rows| {
            rows.retain(|row| !is_named(row, name));
            rows.push(row);
        })
    }

    /// Lists an image without a name, unless it is listed already.
    pub fn list_unnamed(&self, descriptor: &Descriptor) -> Result<(), LayoutError> {
        let row = serde_json::to_value(descriptor).map_err(|source| self.bad(source))?;
        self.change(|rows| {
            if !rows.iter().any(|known| known["digest"] == row["digest"]) {
                rows.push(row);
            }
        })
    }

    /// The bytes of the index.
    pub fn index(&self) -> Result<Vec<u8>, LayoutError> {
        let index = self.json(INDEX)?;
        Ok(index.to_string().into_bytes())
    }

    /// Takes a name away; false where there is none. The blobs stay.
    pub fn remove_name(&self, name: &str) -> Result<bool, LayoutError> {
        let mut removed = false;
        self.change(|rows| {
            let before = rows.len();
            rows.retain(|row| !is_named(row, name));
            removed = rows.len() < before;
        })?;
        Ok(removed)
    }

    /// Rewrites the index, keeping what it says besides its rows.
    fn change(&self, edit: impl FnOnce(&mut Vec<Value>)) -> Result<(), LayoutError> {
        let _lock = self.lock()?;
        let mut index = self.json(INDEX)?;
        if !index["manifests"].is_array() {
            index["manifests"] = json!([]);
        }
        if let Some(rows) = index["manifests"].as_array_mut() {
            edit(rows);
        }
        self.replace(INDEX, &index)
    }

    fn json(&self, name: &str) -> Result<Value, LayoutError> {
        let path = self.dir.join(name);
        let bytes = self
            .root
            .read_small(Path::new(name), MAX_MANIFEST)
            .map_err(|source| io_error(&path, source))?;
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|source| LayoutError::Json { path, source })?;
        // Indexing a value that is no object for writing would panic.
        match value.is_object() {
            true => Ok(value),
            false => Err(LayoutError::Version {
                path: self.dir.clone(),
            }),
        }
    }

    /// One rename: a reader sees the old file or the new one.
    fn replace(&self, name: &str, value: &Value) -> Result<(), LayoutError> {
        let path = self.dir.join(name);
        let write = || {
            let mut file = temporary(&self.dir)?;
            file.write_all(value.to_string().as_bytes())?;
            readable(file.as_file())?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source| io_error(&path, source))
    }

    /// Excludes other writers of the index, in this process and in others.
    pub(super) fn lock(&self) -> Result<File, LayoutError> {
        let lock = || {
            let file = File::open(&self.dir)?;
            loop {
                match flock(&file, FlockOperation::LockExclusive) {
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                    Ok(()) => return Ok(file),
                }
            }
        };
        lock().map_err(|source| self.failed(source))
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn failed(&self, source: io::Error) -> LayoutError {
        io_error(&self.dir, source)
    }

    fn bad(&self, source: serde_json::Error) -> LayoutError {
        let path = self.dir.join(INDEX);
        LayoutError::Json { path, source }
    }
}

impl Content for Layout {
    fn open(&self, digest: &Digest) -> io::Result<Option<Blob>> {
        match self.root.open_file(&blob_path(digest)?) {
            Ok(file) => {
                let size = file.metadata()?.len();
                Ok(Some(Blob { file, size }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn free(&self) -> io::Result<Option<u64>> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }

    fn writer(&self, expected: Option<&Digest>) -> io::Result<Box<dyn ContentWriter>> {
        let hasher = match expected {
            Some(digest) => Hasher::like(digest),
            None => Hasher::sha256(),
        };
        let expected = expected.cloned();
        if let Some(digest) = &expected {
            blob_path(digest)?;
        }
        Ok(Box::new(Writer {
            file: temporary(&self.dir)?,
            dir: self.dir.clone(),
            hasher,
            expected,
            size: 0,
        }))
    }
}

struct Writer {
    file: NamedTempFile,
    dir: PathBuf,
    hasher: Hasher,
    expected: Option<Digest>,
    size: u64,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl ContentWriter for Writer {
    fn commit(self: Box<Self>) -> io::Result<(Digest, u64)> {
        let actual = self.hasher.finish();
        if let Some(expected) = self.expected
            && expected.to_string() != actual.to_string()
        {
            let text = format!("the bytes of {expected} have the digest {actual}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let path = self.dir.join(blob_path(&actual)?);
        let folder = path.parent().unwrap_or(&self.dir).to_owned();
        fs::create_dir_all(&folder)?;
        readable(self.file.as_file())?;
        self.file.as_file().sync_all()?;
        self.file.persist(path)?;
        File::open(folder)?.sync_all()?;
        Ok((actual, self.size))
    }
}

/// `blobs/<algorithm>/<hexadecimal>`, of a digest whose text was checked.
fn blob_path(digest: &Digest) -> io::Result<PathBuf> {
    let checked = config::name::parse_digest(digest.as_ref())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let folder = Path::new("blobs").join(checked.algorithm().to_string());
    Ok(folder.join(checked.digest()))
}

fn is_named(row: &Value, name: &str) -> bool {
    row["annotations"][REF_NAME].as_str() == Some(name)
}

fn empty_index() -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [],
    })
}

fn temporary(dir: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(dir)
}

/// Temporary files are private; layouts are for everybody who may enter the folder.
fn readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

fn io_error(path: &Path, source: io::Error) -> LayoutError {
    LayoutError::Io {
        path: path.to_owned(),
        source,
    }
}
