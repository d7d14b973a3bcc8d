//! What the build cache holds, for whoever frees disk space: entries with the snapshot and blob that
//! they name, and when they were last of use.
//!
//! Looking at it changes nothing. It must not be removed from while a build runs: the caller sees to
//! that. A removed entry is a miss in the next build, nothing worse.

use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use unpacker::digest::Digest;
use unpacker::layer::root::Root;
use unpacker::snapshot::id::SnapshotId;

use super::layers;
use super::steps::Steps;

/// What a build remembers beside its entries: hashes of contexts, what cache mounts hold, and
/// what ADD fetched.
const REST: [&str; 3] = ["files", "mounts", "downloads"];

/// One remembered result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    path: PathBuf,
    /// What it is worth nothing without; `None` for a step that changed nothing.
    pub snapshot: Option<SnapshotId>,
    /// The blob that the snapshot was packed to.
    pub blob: Option<Digest>,
    /// Whether it can be read and leads somewhere.
    pub sound: bool,
    pub last_used: SystemTime,
    /// On disk.
    pub bytes: u64,
}

impl Entry {
    /// Forgets the result. Absent is fine.
    pub fn remove(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_file(&self.path))
    }
}

/// Every entry below `<data>/cache`.
pub fn entries(cache: &Path) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    let steps = Steps::new(cache);
    for file in files(&cache.join("steps"))? {
        let outcome = steps.peek(&file.file_name().to_string_lossy());
        found.push(Entry {
            sound: outcome.is_some(),
            snapshot: outcome.and_then(|outcome| outcome.snapshot),
            blob: None,
            ..entry(&file)?
        });
    }
    for file in files(&cache.join("layers"))? {
        let name = file.file_name();
        let snapshot = layers::snapshot_of(&name.to_string_lossy());
        let packed = layers::read(&file.path());
        found.push(Entry {
            sound: snapshot.is_some() && packed.is_some(),
            snapshot,
            blob: packed.map(|packed| packed.blob.digest().clone()),
            ..entry(&file)?
        });
    }
    Ok(found)
}

/// Bytes on disk of what is no entry: see [`clear_rest`].
pub fn rest(cache: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let mut folders: Vec<PathBuf> = REST.iter().map(|name| cache.join(name)).collect();
    while let Some(folder) = folders.pop() {
        for file in files(&folder)? {
            let metadata = file.metadata()?;
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                folders.push(file.path());
            }
        }
    }
    Ok(bytes)
}

/// Removes what cache mounts hold and the remembered hashes of contexts.
pub fn clear_rest(cache: &Path) -> io::Result<()> {
    if !cache.exists() {
        return Ok(());
    }
    let root = Root::open(cache)?;
    for name in REST {
        if cache.join(name).exists() {
            root.remove_all(Path::new(name))?;
        }
    }
    Ok(())
}

fn entry(file: &DirEntry) -> io::Result<Entry> {
    let metadata = file.metadata()?;
    Ok(Entry {
        path: file.path(),
        snapshot: None,
        blob: None,
        sound: false,
        last_used: metadata.modified()?,
        bytes: metadata.blocks() * 512,
    })
}

/// What is in a folder that need not exist.
fn files(folder: &Path) -> io::Result<Vec<DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::steps::Outcome;
    use super::*;
    use std::time::Duration;
    use unpacker::digest::sha256;

    #[test]
    fn lists_what_entries_name_and_forgets_them() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(entries(dir.path()).unwrap(), []);
        clear_rest(&dir.path().join("absent")).unwrap();
        let steps = Steps::new(dir.path());
        let (key, link) = (sha256(b"key"), sha256(b"link"));
        let id = SnapshotId::of_step(&key);
        let outcome = Outcome {
            snapshot: Some(id.clone()),
            created: "2026-01-01T00:00:00Z".to_owned(),
        };
        steps.put(&key, &outcome).unwrap();
        steps.link(&link, &key).unwrap();
        fs::write(dir.path().join("steps/damaged"), "{").unwrap();
        let found = entries(dir.path()).unwrap();
        let sound: Vec<_> = found.iter().filter(|entry| entry.sound).collect();
        assert_eq!((found.len(), sound.len()), (3, 2));
        assert!(sound.iter().all(|e| e.snapshot.as_ref() == Some(&id)));
        for entry in &found {
            entry.remove().unwrap();
        }
        assert_eq!(steps.get(&key), None);
    }

    #[test]
    fn use_is_remembered_by_the_day() {
        let dir = tempfile::tempdir().unwrap();
        let (steps, key) = (Steps::new(dir.path()), sha256(b"key"));
        let outcome = Outcome {
            snapshot: None,
            created: String::new(),
        };
        steps.put(&key, &outcome).unwrap();
        let path = dir.path().join("steps").join(key.digest());
        let old = SystemTime::now() - Duration::from_secs(40 * 24 * 3600);
        fs::File::open(&path).unwrap().set_modified(old).unwrap();
        assert_eq!(entries(dir.path()).unwrap()[0].last_used, old);
        steps.get(&key).unwrap();
        assert!(entries(dir.path()).unwrap()[0].last_used > old);
    }

    #[test]
    fn what_is_no_entry_is_counted_and_cleared() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("mounts/apt/deep")).unwrap();
        fs::write(dir.path().join("mounts/apt/deep/f"), vec![1; 20_000]).unwrap();
        assert!(rest(dir.path()).unwrap() >= 20_000);
        clear_rest(dir.path()).unwrap();
        assert_eq!(rest(dir.path()).unwrap(), 0);
    }
}
