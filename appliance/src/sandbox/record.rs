//! What is remembered of a sandbox: `sandbox.json`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use unpacker::container::spec::ContainerSpec;
use unpacker::snapshot::id::SnapshotId;

use crate::sandbox::options::Keeping;

const FILE: &str = "sandbox.json";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Twelve hexadecimal digits; the folder's name.
    pub id: String,
    /// Unique among sandboxes.
    pub name: String,
    /// As the user wrote it.
    pub image: String,
    /// Empty where it was made before its image was whole, and nobody noted it since.
    pub image_digest: String,
    /// The image's snapshots, lowest first: they may not be removed while this sandbox exists.
    pub stack: Vec<SnapshotId>,
    /// How it is started, also again.
    pub spec: ContainerSpec,
    /// A signal's name or number, from the image.
    pub stop_signal: Option<String>,
    /// Remove it when it ends.
    pub remove: bool,
    /// Volumes that were made for it and have no name that a person gave.
    #[serde(default)]
    pub volumes: Vec<String>,
    #[serde(default)]
    pub keeping: Keeping,
    /// RFC 3339.
    pub created_at: String,
}

/// The label of a workspace's sandbox.
pub const WORKSPACE: &str = "devpod.workspace";

impl Record {
    /// Whether it is a workspace's: that one decides about it.
    pub fn is_of_workspace(&self) -> bool {
        self.keeping.labels.contains_key(WORKSPACE)
    }

    /// Writes the record whole or not at all. Durable after [`Record::sync`].
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        self.write(folder)?.persist(folder.join(FILE))?;
        Ok(())
    }

    /// Takes the place of a durable record, which stays until this one is durable: an empty one would
    /// count as a sandbox that nobody was told of.
    pub fn replace(&self, folder: &Path) -> io::Result<()> {
        let file = self.write(folder)?;
        file.as_file().sync_all()?;
        file.persist(folder.join(FILE))?;
        self.sync(folder)
    }

    fn write(&self, folder: &Path) -> io::Result<tempfile::NamedTempFile> {
        let bytes = serde_json::to_vec_pretty(self)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&bytes)?;
        Ok(file)
    }

    /// Makes the record durable, and the folder's name.
    pub fn sync(&self, folder: &Path) -> io::Result<()> {
        File::open(folder.join(FILE))?.sync_all()?;
        File::open(folder)?.sync_all()?;
        match folder.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }

    /// The record of a folder; `None` where the folder is half-made.
    pub fn load(folder: &Path) -> io::Result<Option<Self>> {
        match fs::read(folder.join(FILE)) {
            // A crash of the host took what was not durable, and so told to nobody.
            Ok(bytes) if bytes.is_empty() => Ok(None),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                let path = folder.join(FILE);
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{}: {error}", path.display()),
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Takes the record away: the folder counts as half-made from then on.
pub fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Beside a record that is not durable yet, or whose image is not.
const UNSETTLED: &str = "unsettled";

/// Notes that a new sandbox is not durable. Before its record is written.
pub fn set_unsettled(folder: &Path) -> io::Result<()> {
    File::create(folder.join(UNSETTLED)).map(drop)
}

/// Notes that all that a sandbox needs is durable; [`Record::sync`] makes this durable.
pub fn set_settled(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(UNSETTLED)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub fn is_settled(folder: &Path) -> bool {
    !folder.join(UNSETTLED).exists()
}

/// Says that a person stopped a sandbox: it is there until somebody starts it again.
const STOPPED: &str = "stopped";

/// Notes whether a sandbox was stopped on purpose.
pub fn set_stopped(folder: &Path, stopped: bool) -> io::Result<()> {
    let path = folder.join(STOPPED);
    match stopped {
        true => File::create(path)?.sync_all(),
        false => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

pub fn is_stopped(folder: &Path) -> bool {
    folder.join(STOPPED).exists()
}

/// How often a sandbox was started again since somebody started it.
const RESTARTS: &str = "restarts";

/// Notes that count; zero where none is noted.
pub fn set_restarts(folder: &Path, count: u32) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    write!(file, "{count}")?;
    file.persist(folder.join(RESTARTS))?;
    Ok(())
}

pub fn restarts(folder: &Path) -> u32 {
    let text = fs::read_to_string(folder.join(RESTARTS)).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// The folders of all sandboxes, half-made ones too.
pub fn folders(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.path());
        }
    }
    folders.sort();
    Ok(folders)
}
