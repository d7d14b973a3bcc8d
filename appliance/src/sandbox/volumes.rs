//! Named volumes: folders that outlive sandboxes and can be shared by them.
//!
//! ```text
//! <data>/volumes/.named/<name>/
//!   volume.json   written first: a folder without it is half-made and is swept
//!   data          what sandboxes see
//!   filling       what is copied from an image, until it becomes `data`
//! ```
//!
//! The volumes of workspaces lie beside, in `<data>/volumes`, and belong to their workspace.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use unpacker::container::populate::populate;

use crate::clock;
use crate::error::{Failure, Kind, Outcome};
use crate::sandbox::plan;

const RECORD: &str = "volume.json";
const DATA: &str = "data";
const FILLING: &str = "filling";

/// `volume.json`, and what `devpod volume inspect` prints beside the place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    pub name: String,
    /// RFC 3339.
    pub created_at: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Made by a sandbox that named none: `volume prune` takes these first.
    #[serde(default)]
    pub anonymous: bool,
    /// What the image had in its place was copied, or nothing was to be.
    #[serde(default)]
    pub filled: bool,
}

/// All named volumes of one data folder.
#[derive(Debug)]
pub struct Volumes {
    root: PathBuf,
}

impl Volumes {
    /// `folder` is `<data>/volumes`. What a crash left half-made is removed.
    pub fn open(folder: &Path) -> Outcome<Self> {
        let volumes = Self {
            root: folder.join(".named"),
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&volumes.root)?;
        for name in volumes.names()? {
            if !volumes.folder(&name).join(RECORD).exists() {
                remove(&volumes.folder(&name))?;
            }
        }
        Ok(volumes)
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// What sandboxes see of a volume.
    pub fn data(&self, name: &str) -> PathBuf {
        self.folder(name).join(DATA)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.root)?;
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| plan::check_name(name).is_ok())
            .collect();
        names.sort();
        Ok(names)
    }

    pub fn list(&self) -> Outcome<Vec<Volume>> {
        let load = |name: &String| self.load(name).transpose();
        self.names()?.iter().filter_map(load).collect()
    }

    pub fn find(&self, name: &str) -> Outcome<Volume> {
        plan::check_name(name)?;
        self.load(name)?.ok_or_else(|| {
            Failure::not_found(format!("there is no volume {name:?}"))
                .hint("See `devpod volume ls`.")
        })
    }

    fn load(&self, name: &str) -> Outcome<Option<Volume>> {
        match fs::read(self.folder(name).join(RECORD)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                Failure::because(
                    Kind::Internal,
                    format!("volume {name:?} is unreadable"),
                    &error,
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a volume; one that exists stays as it is, labels too.
    pub fn create(&self, name: &str, labels: BTreeMap<String, String>) -> Outcome<Volume> {
        plan::check_name(name)?;
        self.make(name, labels, false)
    }

    fn make(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
        anonymous: bool,
    ) -> Outcome<Volume> {
        if let Some(volume) = self.load(name)? {
            return Ok(volume);
        }
        let volume = Volume {
            name: name.to_owned(),
            created_at: clock::now_rfc3339(),
            labels,
            anonymous,
            filled: false,
        };
        let folder = self.folder(name);
        fs::create_dir_all(&folder)?;
        self.save(&volume)?;
        let made = fs::DirBuilder::new().mode(0o755).create(folder.join(DATA));
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error.into()),
            _ => Ok(volume),
        }
    }

    fn save(&self, volume: &Volume) -> Outcome<()> {
        let folder = self.folder(&volume.name);
        let mut file = tempfile::NamedTempFile::new_in(&folder)?;
        let bytes = serde_json::to_vec_pretty(volume).map_err(io::Error::from)?;
        file.write_all(&bytes)?;
        file.as_file().sync_all()?;
        file.persist(folder.join(RECORD))
            .map_err(|error| error.error)?;
        Ok(fs::File::open(&folder)?.sync_all()?)
    }

    /// The folder of a volume for a sandbox, made when missing. A new one that nothing was put into
    /// gets what `image`, a root file system, has at `target`.
    pub fn provide(
        &self,
        name: Option<&str>,
        image: Option<BorrowedFd<'_>>,
        target: &Path,
    ) -> Outcome<PathBuf> {
        let mut volume = match name {
            Some(name) => self.create(name, BTreeMap::new())?,
            None => self.make(&new_name()?, BTreeMap::new(), true)?,
        };
        let data = self.data(&volume.name);
        if !data.is_dir() {
            // A crash came between the record and the folder.
            fs::DirBuilder::new().mode(0o755).create(&data)?;
        }
        if let Some(image) = image.filter(|_| !volume.filled) {
            if is_empty(&data)? {
                self.fill(&volume.name, image, target)?;
            }
            volume.filled = true;
            self.save(&volume)?;
        }
        Ok(data)
    }

    /// All or nothing: a copy that breaks off is made anew.
    fn fill(&self, name: &str, image: BorrowedFd<'_>, target: &Path) -> Outcome<()> {
        let filling = self.folder(name).join(FILLING);
        remove(&filling)?;
        fs::DirBuilder::new().mode(0o755).create(&filling)?;
        populate(image, target, &filling).map_err(|error| {
            let message = format!(
                "cannot copy the image's {} into the volume",
                target.display()
            );
            Failure::because(Kind::Internal, message, &error)
        })?;
        Ok(fs::rename(&filling, self.data(name))?)
    }

    /// Removes a volume and all that is in it.
    pub fn remove(&self, name: &str) -> Outcome<()> {
        self.find(name)?;
        remove(&self.folder(name))
    }
}

fn is_empty(folder: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(folder)?.next().is_none())
}

fn remove(folder: &Path) -> Outcome<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let message = format!("cannot remove {}", folder.display());
            Err(Failure::because(Kind::Internal, message, &error))
        }
        _ => Ok(()),
    }
}

/// For a volume that nobody named.
fn new_name() -> Outcome<String> {
    let mut bytes = [0u8; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| Failure::internal("the system's random source failed"))?;
    Ok(unpacker::digest::hex(&bytes))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_new_volume_begins_as_the_image_and_stays_what_it_became() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        fs::create_dir_all(image.join("srv")).unwrap();
        fs::write(image.join("srv/first"), "1").unwrap();
        let root = fs::File::open(&image).unwrap();
        let volumes = Volumes::open(&dir.path().join("volumes")).unwrap();
        let provide = |name| volumes.provide(name, Some(root.as_fd()), Path::new("/srv"));
        let data = provide(Some("v")).unwrap();
        assert_eq!(fs::read(data.join("first")).unwrap(), b"1");
        fs::remove_file(data.join("first")).unwrap();
        // Empty again, and no more filled.
        provide(Some("v")).unwrap();
        assert!(!data.join("first").exists());
        let unnamed = provide(None).unwrap();
        assert!(unnamed.join("first").exists());
        assert_eq!(volumes.list().unwrap().len(), 2);
        volumes.remove("v").unwrap();
        assert_eq!(volumes.find("v").unwrap_err().kind, Kind::NotFound);
    }

    #[test]
    fn a_crash_while_filling_leaves_nothing_half() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("volumes");
        let volumes = Volumes::open(&folder).unwrap();
        volumes.create("v", BTreeMap::new()).unwrap();
        fs::create_dir(folder.join(".named/v/filling")).unwrap();
        fs::write(folder.join(".named/v/filling/half"), "").unwrap();
        fs::create_dir(folder.join(".named/half-made")).unwrap();
        let volumes = Volumes::open(&folder).unwrap();
        assert_eq!(volumes.list().unwrap().len(), 1);
        let image = dir.path().join("image");
        fs::create_dir_all(image.join("srv")).unwrap();
        fs::write(image.join("srv/whole"), "").unwrap();
        let root = fs::File::open(&image).unwrap();
        let data = volumes
            .provide(Some("v"), Some(root.as_fd()), Path::new("/srv"))
            .unwrap();
        assert!(data.join("whole").exists() && !data.join("half").exists());
    }

    #[test]
    fn names_stay_in_their_folder() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(dir.path()).unwrap();
        for bad in ["../x", "", ".named", "a/b"] {
            assert!(volumes.create(bad, BTreeMap::new()).is_err(), "{bad}");
            assert!(volumes.remove(bad).is_err(), "{bad}");
        }
    }
}
