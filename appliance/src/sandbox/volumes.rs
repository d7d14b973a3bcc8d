//! Volumes: folders that outlive sandboxes and can be shared by them.
//!
//! ```text
//! <data>/volumes/.named/<name>/
//!   volume.json   the record; a folder without it is half-made and is swept
//!   data          what sandboxes see
//!   filling       what is copied from an image, until it becomes `data`; swept
//!   unclaimed     of one without a name, until its sandbox has a record; swept with the volume
//! <data>/volumes/.named/.new-…    a volume that is being made, until it gets its name; swept
//! <data>/volumes/.named/.gone-…   one that is being removed; swept
//! ```
//!
//! So a volume is whole or not there, whenever its making breaks off. Copying takes as long as there
//! is something to copy, and holds up only those who want the same volume. The volumes of workspaces
//! lie beside, in `<data>/volumes`, and belong to their workspace.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use rustix::fs::syncfs;
use serde::{Deserialize, Serialize};
use unpacker::container::populate::{PopulateError, populate};
use unpacker::progress::Cancel;

use crate::clock;
use crate::error::{Failure, Kind, Outcome};
use crate::sandbox::plan;
use crate::sandbox::removal::remove_files;

const RECORD: &str = "volume.json";
const DATA: &str = "data";
const FILLING: &str = "filling";
const UNCLAIMED: &str = "unclaimed";
const NEW: &str = ".new-";
const GONE: &str = ".gone-";
/// How often a volume is looked at that somebody else fills.
const LOOK: Duration = Duration::from_millis(20);

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
    /// A sandbox had it: what the image has in its place was copied, or nothing was to be.
    #[serde(default)]
    pub filled: bool,
}

/// What a new volume begins with: what an image has at the place where it will be seen.
#[derive(Debug, Clone, Copy)]
pub struct Beginning<'a> {
    /// The image's root file system.
    pub image: BorrowedFd<'a>,
    pub place: &'a Path,
}

/// All volumes of one data folder that do not belong to a workspace.
#[derive(Debug)]
pub struct Volumes {
    root: PathBuf,
    /// Those that sandboxes are about to have, by name; whoever fills one holds its lock.
    taken: Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

/// A volume for a sandbox. While this lives nobody removes it, although no record names it yet.
#[derive(Debug)]
pub struct Provided<'a> {
    pub name: String,
    /// What the sandbox sees.
    pub data: PathBuf,
    /// Made for this sandbox, which named none.
    pub anonymous: bool,
    _taken: Taken<'a>,
}

#[derive(Debug)]
struct Taken<'a> {
    volumes: &'a Volumes,
    name: String,
    lock: Arc<Mutex<()>>,
}

impl Taken<'_> {
    /// Waits until nobody else fills it.
    fn alone(&self, cancel: &Cancel) -> Outcome<MutexGuard<'_, ()>> {
        loop {
            match self.lock.try_lock() {
                Ok(alone) => return Ok(alone),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => {
                    (cancel.check())
                        .map_err(|error| Failure::from_error(Kind::Cancelled, &error))?;
                    std::thread::sleep(LOOK);
                }
            }
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut taken = self.volumes.taken();
        // Before anybody else counts: two that go at once would each see the other's, and stay.
        drop(std::mem::take(&mut self.lock));
        if taken
            .get(&self.name)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            taken.remove(&self.name);
        }
    }
}

/// A volume that nobody sees any more; its files go with [`Withdrawn::delete`], or with the next
/// start of the daemon.
#[derive(Debug)]
#[must_use]
pub struct Withdrawn(PathBuf);

impl Withdrawn {
    pub fn delete(self) -> Outcome<()> {
        remove(&self.0)
    }
}

impl Volumes {
    /// `folder` is `<data>/volumes`. What a crash left half-made is removed.
    pub fn open(folder: &Path) -> Outcome<Self> {
        let volumes = Self {
            root: folder.join(".named"),
            taken: Mutex::default(),
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&volumes.root)?;
        for name in volumes.names()? {
            let folder = volumes.folder(&name);
            match folder.join(RECORD).exists() {
                true => tidy(&folder.join(FILLING)),
                false => tidy(&folder),
            }
        }
        for entry in fs::read_dir(&volumes.root)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(NEW) || name.starts_with(GONE) {
                tidy(&entry.path());
            }
        }
        Ok(volumes)
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<String, Arc<Mutex<()>>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, name: &str) -> Taken<'_> {
        let lock = Arc::clone(self.taken().entry(name.to_owned()).or_default());
        Taken {
            volumes: self,
            name: name.to_owned(),
            lock,
        }
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
        let never = Cancel::default();
        let taken = self.take(name);
        let _alone = taken.alone(&never)?;
        match self.load(name)? {
            Some(volume) => Ok(volume),
            None => self.make(new(name, labels, false), None, &never),
        }
    }

    /// The volume of a sandbox, made when missing. A new one that nothing was put into begins with
    /// `beginning`.
    pub fn provide(
        &self,
        name: Option<&str>,
        beginning: Option<Beginning<'_>>,
        cancel: &Cancel,
    ) -> Outcome<Provided<'_>> {
        let anonymous = name.is_none();
        let name = match name {
            Some(name) => plan::check_name(name).map(|()| name.to_owned())?,
            None => random()?,
        };
        let taken = self.take(&name);
        {
            let _alone = taken.alone(cancel)?;
            match self.load(&name)? {
                None => {
                    let volume = Volume {
                        filled: true,
                        ..new(&name, BTreeMap::new(), anonymous)
                    };
                    self.make(volume, beginning, cancel)?;
                }
                Some(volume) => self.begin(volume, beginning, cancel)?,
            }
        }
        Ok(Provided {
            data: self.data(&name),
            name,
            anonymous,
            _taken: taken,
        })
    }

    /// Makes a volume that does not exist: it gets its name when it is whole.
    fn make(
        &self,
        volume: Volume,
        beginning: Option<Beginning<'_>>,
        cancel: &Cancel,
    ) -> Outcome<Volume> {
        let making = tempfile::Builder::new()
            .prefix(NEW)
            .tempdir_in(&self.root)?;
        let data = making.path().join(DATA);
        fs::DirBuilder::new().mode(0o755).create(&data)?;
        if let Some(beginning) = beginning {
            copy(beginning, &data, cancel)?;
        }
        if volume.anonymous {
            File::create(making.path().join(UNCLAIMED))?;
        }
        save(&volume, making.path())?;
        fs::rename(making.path(), self.folder(&volume.name))?;
        // It has another name by now.
        let _ = making.keep();
        File::open(&self.root)?.sync_all()?;
        Ok(volume)
    }

    /// One that exists. When the first sandbox gets it, it is filled; from then on it is what it becomes, also where nothing
    /// was copied: a later copy would take the folder away from under whoever has it.
    fn begin(
        &self,
        mut volume: Volume,
        beginning: Option<Beginning<'_>>,
        cancel: &Cancel,
    ) -> Outcome<()> {
        let folder = self.folder(&volume.name);
        let data = folder.join(DATA);
        if !data.is_dir() {
            // Made by an earlier version, which a crash could hit between the record and the folder.
            fs::DirBuilder::new().mode(0o755).create(&data)?;
        }
        if volume.filled {
            return Ok(());
        }
        match beginning {
            Some(beginning) if is_empty(&data)? => fill(beginning, &folder, &data, cancel)?,
            _ => {}
        }
        volume.filled = true;
        save(&volume, &folder)
    }

    /// A sandbox's record names it from now on.
    pub fn claim(&self, name: &str) -> Outcome<()> {
        match fs::remove_file(self.folder(name).join(UNCLAIMED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Those whose sandbox never came to have a record, or did so just before a crash.
    pub fn unclaimed(&self) -> Outcome<Vec<String>> {
        let mut names = self.names()?;
        names.retain(|name| self.folder(name).join(UNCLAIMED).exists());
        Ok(names)
    }

    /// Takes a volume away that no sandbox has.
    pub fn withdraw(&self, name: &str) -> Outcome<Withdrawn> {
        self.find(name)?;
        let taken = self.taken();
        if taken.contains_key(name) {
            let message = format!("volume {name:?} is being given to a sandbox");
            return Err(Failure::conflict(message).hint("Try again in a moment."));
        }
        let gone = self.root.join(format!("{GONE}{}", random()?));
        fs::rename(self.folder(name), &gone)?;
        Ok(Withdrawn(gone))
    }
}

fn new(name: &str, labels: BTreeMap<String, String>, anonymous: bool) -> Volume {
    Volume {
        name: name.to_owned(),
        created_at: clock::now_rfc3339(),
        labels,
        anonymous,
        filled: false,
    }
}

fn save(volume: &Volume, folder: &Path) -> Outcome<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    let bytes = serde_json::to_vec_pretty(volume).map_err(io::Error::from)?;
    file.write_all(&bytes)?;
    file.as_file().sync_all()?;
    file.persist(folder.join(RECORD))
        .map_err(|error| error.error)?;
    Ok(File::open(folder)?.sync_all()?)
}

/// Copies into an empty folder, durably: what gets a name afterwards is whole, also after a power cut.
fn copy(beginning: Beginning<'_>, into: &Path, cancel: &Cancel) -> Outcome<()> {
    let Beginning { image, place } = beginning;
    populate(image, place, into, cancel).map_err(|error| {
        let shown = place.display();
        let message = format!("cannot copy the image's {shown} into the volume");
        match &error {
            PopulateError::Cancelled(cancelled) => Failure::from_error(Kind::Cancelled, cancelled),
            PopulateError::Io(io) if io.kind() == io::ErrorKind::StorageFull => {
                Failure::because(Kind::Exhausted, message, &error)
            }
            PopulateError::Io(_) => Failure::because(Kind::Internal, message, &error),
        }
    })?;
    if is_empty(into)? {
        return Ok(());
    }
    Ok(syncfs(File::open(into)?).map_err(io::Error::from)?)
}

/// All or nothing, and nothing left over of what broke off.
fn fill(beginning: Beginning<'_>, folder: &Path, data: &Path, cancel: &Cancel) -> Outcome<()> {
    let filling = folder.join(FILLING);
    remove(&filling)?;
    fs::DirBuilder::new().mode(0o755).create(&filling)?;
    let filled = copy(beginning, &filling, cancel)
        .and_then(|()| fs::rename(&filling, data).map_err(Failure::from));
    if filled.is_err() {
        remove(&filling)?;
    }
    filled
}

fn is_empty(folder: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(folder)?.next().is_none())
}

/// Removes a left-over. One that cannot be removed must not keep the others from being used.
fn tidy(folder: &Path) {
    if let Err(failure) = remove(folder) {
        let failure = failure.to_string();
        tracing::warn!(
            ?folder,
            ?failure,
            "a left-over of a volume cannot be removed"
        );
    }
}

fn remove(folder: &Path) -> Outcome<()> {
    remove_files(folder)
}

/// For what nobody named.
fn random() -> Outcome<String> {
    let mut bytes = [0u8; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| Failure::internal("the system's random source failed"))?;
    Ok(unpacker::digest::hex(&bytes))
}

#[cfg(test)]
#[path = "volumes_tests.rs"]
mod tests;
