//! What the build cache holds, for whoever looks at it or frees disk space: entries with what made them,
//! the snapshot and blob that they name, and when they were last of use.
//!
//! Looking at it changes nothing. It must not be removed from while a build runs: the caller sees to
//! that. A removed entry is a miss in the next build, nothing worse.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use unpacker::digest::Digest;
use unpacker::layer::root::Root;
use unpacker::snapshot::id::SnapshotId;

use super::downloads;
use super::layers;
use super::mount_names;
use super::steps::{Outcome, Steps};
use crate::run::seed::UNFINISHED;

/// What kind of thing is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The result of a step.
    Step,
    /// What a step's result was packed to.
    Layer,
    /// The folder of `RUN --mount=type=cache`.
    Mount,
    /// The hashes of a context's files.
    Hashes,
    /// A file that ADD fetched.
    Download,
    /// What was fetched of a git repository.
    Repository,
}

/// One remembered thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    path: PathBuf,
    pub kind: Kind,
    /// The key, or what else the file is called: hexadecimal.
    pub name: String,
    /// The instruction that made it, or the id of a cache mount.
    pub what: Option<String>,
    /// What it is worth nothing without; `None` for a step that changed nothing.
    pub snapshot: Option<SnapshotId>,
    /// What else it is worth nothing without: the results that it was made on.
    pub stands_on: Vec<SnapshotId>,
    /// The blob that the snapshot was packed to.
    pub blob: Option<Digest>,
    /// Whether it can be read and leads somewhere.
    pub sound: bool,
    pub last_used: SystemTime,
    /// On disk, without the snapshot; of a cache mount the folder alone: see [`Entry::usage`].
    pub bytes: u64,
    /// What it stands and falls with, beside its snapshot: the file that ADD fetched and what is known of
    /// its address are one thing.
    pub with: Option<String>,
}

impl Entry {
    /// Bytes on disk with everything in a cache mount, every file of which is looked at.
    pub fn usage(&self) -> u64 {
        match self.kind {
            Kind::Mount => self.bytes + below(&self.path),
            _ => self.bytes,
        }
    }

    /// Forgets it, and what is in a mount. Absent is fine.
    pub fn remove(&self) -> io::Result<()> {
        if !matches!(self.kind, Kind::Mount | Kind::Repository) {
            return absent_is_fine(fs::remove_file(&self.path));
        }
        let Some(caches) = self.path.parent().filter(|_| self.path.exists()) else {
            return Ok(());
        };
        let root = Root::open(caches)?;
        root.remove_all(Path::new(&self.name))?;
        absent_is_fine(fs::remove_file(caches.join(mount_names::file(&self.name))))
    }
}

/// Every entry below `<data>/cache`.
pub fn entries(cache: &Path) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    let steps = Steps::new(cache);
    for file in files(&cache.join("steps"))? {
        let outcome = steps.peek(&file.file_name().to_string_lossy());
        let made_by = outcome.as_ref().map(|outcome| outcome.made_by.clone());
        let stands_on = outcome.as_ref().map(Outcome::stands_on);
        found.push(Entry {
            what: made_by.filter(|text| !text.is_empty()),
            stands_on: stands_on.unwrap_or_default(),
            sound: outcome.is_some(),
            snapshot: outcome.and_then(|outcome| outcome.snapshot),
            ..entry(&file, Kind::Step)?
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
            ..entry(&file, Kind::Layer)?
        });
    }
    for file in files(&cache.join("files"))? {
        found.push(entry(&file, Kind::Hashes)?);
    }
    for file in files(&cache.join("downloads"))? {
        let record = downloads::read(&file.path());
        let name = file.file_name().to_string_lossy().into_owned();
        found.push(Entry {
            what: record.as_ref().and_then(|record| record.address.clone()),
            with: Some(record.map_or(name, |record| record.hex().to_owned())),
            ..entry(&file, Kind::Download)?
        });
    }
    found.extend(folders(&cache.join("mounts"), Kind::Mount)?);
    found.extend(folders(&cache.join("git"), Kind::Repository)?);
    use_below(&mut found);
    superseded(&mut found);
    Ok(found)
}

/// What was made on a run of a step, or of it, leads nowhere when another run has taken that one's place.
fn superseded(entries: &mut [Entry]) {
    let steps = entries.iter().filter(|entry| entry.kind == Kind::Step);
    let runs: HashSet<SnapshotId> = steps.filter_map(|entry| entry.snapshot.clone()).collect();
    for entry in entries {
        let mut needed = entry.stands_on.iter().chain(&entry.snapshot);
        entry.sound &= !needed.any(|id| id.is_step() && !runs.contains(id));
    }
}

/// What something stands on was of use whenever that was, or what that was packed to: the last use is
/// remembered by the day, so what is below may look older.
fn use_below(entries: &mut [Entry]) {
    let mut uses: HashMap<SnapshotId, SystemTime> = HashMap::new();
    let mut used = |id: &SnapshotId, at: SystemTime| {
        let last = uses.entry(id.clone()).or_insert(at);
        *last = at.max(*last);
        *last
    };
    for entry in entries.iter() {
        entry.snapshot.as_ref().map(|id| used(id, entry.last_used));
    }
    for entry in entries.iter() {
        let own = entry.snapshot.as_ref();
        let last = own.map_or(entry.last_used, |id| used(id, entry.last_used));
        for below in &entry.stands_on {
            used(below, last);
        }
    }
    for entry in entries {
        let last = entry.snapshot.as_ref().and_then(|id| uses.get(id));
        entry.last_used = last.copied().unwrap_or(entry.last_used);
    }
}

/// Removes what builds were writing when they were killed. To be called while none runs.
pub fn sweep(cache: &Path) -> io::Result<()> {
    for folder in ["steps", "layers", "files", "downloads", "mounts"] {
        for file in files(&cache.join(folder))? {
            if is_unfinished(&file) && file.file_type()?.is_file() {
                absent_is_fine(fs::remove_file(file.path()))?;
            }
        }
    }
    for mount in folders(&cache.join("mounts"), Kind::Mount)? {
        if !mount.sound {
            mount.remove()?;
        }
    }
    Ok(())
}

/// As `tempfile` calls what has no name of its own yet.
fn is_unfinished(file: &DirEntry) -> bool {
    file.file_name().to_string_lossy().starts_with(".tmp")
}

/// Folders with a file beside them that says what they are.
fn folders(caches: &Path, kind: Kind) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for folder in files(caches)? {
        if !folder.file_type()?.is_dir() {
            continue;
        }
        let entry = entry(&folder, kind)?;
        let names = fs::metadata(caches.join(mount_names::file(&entry.name)));
        let last_used = names.and_then(|metadata| metadata.modified());
        found.push(Entry {
            what: mount_names::id(caches, &entry.name),
            // What a killed build was filling.
            sound: !entry.name.ends_with(UNFINISHED),
            last_used: last_used.unwrap_or(entry.last_used),
            ..entry
        });
    }
    Ok(found)
}

/// Bytes on disk of what is in a folder, as far as they can be counted: a step may be at work there,
/// and may have made paths that are too long to be named.
fn below(folder: &Path) -> u64 {
    let mut bytes = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for file in files(&folder).unwrap_or_default() {
            let Ok(metadata) = file.metadata() else {
                continue;
            };
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                folders.push(file.path());
            }
        }
    }
    bytes
}

/// What every file says of itself.
fn entry(file: &DirEntry, kind: Kind) -> io::Result<Entry> {
    let metadata = file.metadata()?;
    Ok(Entry {
        path: file.path(),
        kind,
        name: file.file_name().to_string_lossy().into_owned(),
        what: None,
        snapshot: None,
        stands_on: Vec::new(),
        blob: None,
        sound: !is_unfinished(file),
        last_used: metadata.modified()?,
        bytes: metadata.blocks() * 512,
        with: None,
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
    use super::super::steps::Standing;
    use super::*;
    use std::time::Duration;
    use unpacker::digest::sha256;

    #[test]
    fn lists_what_entries_name_and_forgets_them() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(entries(dir.path()).unwrap(), []);
        let steps = Steps::new(dir.path());
        let (key, link) = (sha256(b"key"), sha256(b"link"));
        let id = SnapshotId::of_step(&key);
        let outcome = Outcome {
            snapshot: Some(id.clone()),
            name: Some(id.clone()),
            created: "2026-01-01T00:00:00Z".to_owned(),
            made_by: "RUN true".to_owned(),
            standing: Standing::On(Vec::new()),
        };
        steps.put(&key, &outcome).unwrap();
        steps.link(&link, &key, &sha256(b"runs")).unwrap();
        fs::write(dir.path().join("steps/damaged"), "{").unwrap();
        let found = entries(dir.path()).unwrap();
        let sound: Vec<_> = found.iter().filter(|entry| entry.sound).collect();
        assert_eq!((found.len(), sound.len()), (3, 2));
        assert!(sound.iter().all(|e| e.snapshot.as_ref() == Some(&id)));
        let made_by = |e: &&Entry| e.what.as_deref() == Some("RUN true");
        assert!(sound.iter().all(made_by));
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
            name: None,
            created: String::new(),
            made_by: String::new(),
            standing: Standing::On(Vec::new()),
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
    fn what_is_below_was_of_use_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let steps = Steps::new(dir.path());
        let now = SystemTime::now();
        let day = Duration::from_secs(24 * 3600);
        let add = |name: &str, below: &[&str], days: u32| {
            let id = |name: &str| SnapshotId::of_step(&sha256(name.as_bytes()));
            let key = sha256(format!("key of {name}").as_bytes());
            let outcome = Outcome {
                snapshot: Some(id(name)),
                name: Some(SnapshotId::of_step(&key)),
                created: "2026-01-01T00:00:00Z".to_owned(),
                made_by: name.to_owned(),
                standing: Standing::On(below.iter().map(|below| id(below)).collect()),
            };
            steps.put(&key, &outcome).unwrap();
            let file = fs::File::open(dir.path().join("steps").join(key.digest()));
            file.unwrap().set_modified(now - day * days).unwrap();
        };
        add("bottom", &[], 9);
        add("middle", &["bottom"], 8);
        add("top", &["bottom", "middle"], 2);
        add("another", &["bottom"], 5);
        add("alone", &[], 9);
        let found = entries(dir.path()).unwrap();
        for (name, days) in [
            ("bottom", 2),
            ("middle", 2),
            ("top", 2),
            ("another", 5),
            ("alone", 9),
        ] {
            let entry = found.iter().find(|e| e.what.as_deref() == Some(name));
            assert_eq!(entry.unwrap().last_used, now - day * days, "{name}");
        }
        // It was packed just now.
        fs::create_dir(dir.path().join("layers")).unwrap();
        let top = SnapshotId::of_step(&sha256(b"top"));
        fs::write(dir.path().join(format!("layers/{top}.gzip")), "{}").unwrap();
        let found = entries(dir.path()).unwrap();
        let recent = found.iter().filter(|entry| entry.last_used > now - day);
        assert_eq!(recent.count(), 4, "top, its layer, middle and bottom");
    }

    #[test]
    fn what_stands_on_an_older_run_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let steps = Steps::new(dir.path());
        let id = |name: &str| SnapshotId::of_step(&sha256(name.as_bytes()));
        let put = |key: &str, run: &str, below: &[&str]| {
            let key = sha256(key.as_bytes());
            let outcome = Outcome {
                snapshot: Some(id(run)),
                name: Some(SnapshotId::of_step(&key)),
                created: "2026-01-01T00:00:00Z".to_owned(),
                made_by: run.to_owned(),
                standing: Standing::On(below.iter().map(|below| id(below)).collect()),
            };
            steps.put(&key, &outcome).unwrap();
        };
        put("lower", "lower, first", &[]);
        put("upper", "upper, first", &["lower, first"]);
        put("other", "other, first", &["lower, first"]);
        let unsound = || {
            let found = entries(dir.path()).unwrap().into_iter();
            let mut unsound: Vec<_> = found
                .filter(|e| !e.sound)
                .map(|e| e.what.unwrap())
                .collect();
            unsound.sort();
            unsound
        };
        assert!(unsound().is_empty());
        put("lower", "lower, second", &[]);
        assert_eq!(unsound(), ["other, first", "upper, first"]);
        put("upper", "upper, second", &["lower, second"]);
        assert_eq!(unsound(), ["other, first"]);
    }

    #[test]
    fn mounts_and_hashes_are_listed_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let caches = dir.path().join("mounts");
        fs::create_dir_all(caches.join("ab12/deep")).unwrap();
        fs::write(caches.join("ab12/deep/f"), vec![1; 20_000]).unwrap();
        fs::write(caches.join("ab12.lock"), "").unwrap();
        mount_names::used(&caches, "ab12", "apt").unwrap();
        fs::create_dir(dir.path().join("files")).unwrap();
        fs::write(dir.path().join("files/cd34"), "").unwrap();
        let found = entries(dir.path()).unwrap();
        let kinds: Vec<Kind> = found.iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [Kind::Hashes, Kind::Mount]);
        assert_eq!(found[1].what.as_deref(), Some("apt"));
        assert!(
            found[1].bytes < 20_000,
            "no file is looked at unless it is asked"
        );
        assert!(found[1].usage() >= 20_000);
        for entry in &found {
            entry.remove().unwrap();
            entry.remove().unwrap();
        }
        assert_eq!(entries(dir.path()).unwrap(), []);
        assert!(!caches.join("ab12.id").exists());
    }

    #[test]
    fn what_a_kill_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["downloads", "steps"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join(".tmpAbC"), "half").unwrap();
            fs::write(dir.path().join(folder).join("ab12"), "{").unwrap();
        }
        let unfinished = |entry: &&Entry| entry.name == ".tmpAbC";
        let found = entries(dir.path()).unwrap();
        assert_eq!(found.iter().filter(unfinished).count(), 2);
        assert!(found.iter().filter(unfinished).all(|entry| !entry.sound));
        let half = dir.path().join("mounts").join(format!("ab12{UNFINISHED}"));
        fs::create_dir_all(half.join("deep")).unwrap();
        sweep(dir.path()).unwrap();
        let left = entries(dir.path()).unwrap();
        let names: Vec<&str> = left.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["ab12", "ab12"]);
    }

    #[test]
    fn a_download_and_its_record_are_one() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("downloads");
        let digest = sha256(b"body");
        downloads::write(
            &folder,
            "ad12",
            &downloads::Record {
                digest: digest.to_string(),
                etag: None,
                last_modified: None,
                address: Some("http://h/f".to_owned()),
            },
        )
        .unwrap();
        fs::write(folder.join(digest.digest()), "body").unwrap();
        let found = entries(dir.path()).unwrap();
        let with: Vec<_> = found.iter().map(|entry| entry.with.clone()).collect();
        assert_eq!(with, vec![Some(digest.digest().to_owned()); 2]);
        let old = SystemTime::now() - Duration::from_secs(40 * 24 * 3600);
        for entry in &found {
            fs::File::open(&entry.path)
                .unwrap()
                .set_modified(old)
                .unwrap();
        }
        downloads::used(&folder, "ad12", digest.digest());
        let found = entries(dir.path()).unwrap();
        assert!(found.iter().all(|entry| entry.last_used > old));
    }
}
