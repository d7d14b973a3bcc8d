//! The folder of snapshots, shared by every process that runs as its owner.
//!
//! ```text
//! <dir>/<SnapshotId>/fs          a committed layer folder; never written again
//! <dir>/<SnapshotId>/unsynced    boot id; there until `sync` has made the folder durable
//! <dir>/<SnapshotId>/bare        there where the layer says nothing of its root directory
//! <dir>/<SnapshotId> -> <other>  an alias
//! <dir>/.staging/<name>/{fs,work,lock}   uncommitted; `lock` is flocked by its owner
//! <dir>/.trash/<name>            removed, waiting for `purge`
//! <dir>/.locks/<SnapshotId>      flocked by whoever makes that snapshot right now
//! ```
//!
//! A snapshot is visible whole or not at all: it arrives by one rename. Files are not synced one
//! by one. After a crash of the machine a snapshot that was not yet synced cannot be trusted, and
//! `open` removes it: it was made under another boot id. Folders are removed by a rename into the
//! trash, because deleting many inodes slows down whoever creates files at that moment (ext4).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with, syncfs};
use rustix::io::Errno;

use super::id::SnapshotId;
use crate::layer::root::Root;
use crate::progress::Cancel;

const UNSYNCED: &str = "unsynced";
/// In the place of the boot's id: a sync failed. No boot is called so.
const LOST: &str = "lost";
const BARE: &str = "bare";
const LOCK: &str = "lock";

/// Snapshots below one folder.
#[derive(Debug)]
pub struct Snapshots {
    dir: PathBuf,
    boot: String,
    /// A thread is about to sync everything that is committed by now.
    syncing: AtomicBool,
}

/// A snapshot that is being made. Dropping it discards it.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    /// Holds the flock that says that somebody lives.
    lock: Option<File>,
}

/// Whoever holds it is the only one that makes this snapshot.
#[derive(Debug)]
pub struct MakeLock {
    path: PathBuf,
    _file: File,
}

/// The marker of a snapshot that is not durable, as it was before a sync began.
struct Unsynced {
    path: PathBuf,
    inode: u64,
}

impl Unsynced {
    /// `None` where it is durable or lost by now.
    fn of(path: PathBuf) -> Option<Self> {
        let inode = fs::metadata(&path).ok()?.ino();
        let lost = fs::read_to_string(&path).is_ok_and(|said| said == LOST);
        (!lost).then_some(Self { path, inode })
    }

    /// Its snapshot is durable; another one that has its name by now is not.
    fn settle(&self) -> io::Result<()> {
        match fs::metadata(&self.path) {
            Ok(found) if found.ino() == self.inode => ignore_absent(fs::remove_file(&self.path)),
            Ok(_) => Ok(()),
            Err(error) => ignore_absent(Err(error)),
        }
    }

    /// Nobody may rely on its snapshot.
    fn distrust(&self) -> io::Result<()> {
        ignore_absent(fs::write(&self.path, LOST))
    }
}

/// A snapshot in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub id: SnapshotId,
    /// What it is another name of.
    pub alias_of: Option<SnapshotId>,
}

impl Snapshots {
    /// Opens or makes the folder (mode 0700: setuid files of images must be out of reach of other
    /// users) and clears away what crashed processes left.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let store = Self {
            dir: dir.to_owned(),
            boot: boot.trim().to_owned(),
            syncing: AtomicBool::new(false),
        };
        for folder in [dir.to_owned(), store.hidden("staging")] {
            private_dir(&folder)?;
        }
        private_dir(&store.hidden("trash"))?;
        private_dir(&store.hidden("locks"))?;
        store.reap()?;
        store.distrust()?;
        Ok(store)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The `fs` folder of a snapshot, aliases resolved.
    pub fn get(&self, id: &SnapshotId) -> io::Result<Option<PathBuf>> {
        match fs::canonicalize(self.dir.join(id.as_str()).join("fs")) {
            Ok(path) => Ok(Some(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether what a snapshot's root directory says is not the layer's: see [`Staging::set_bare`].
    /// `fs` is what [`Snapshots::get`] answered.
    pub fn is_bare(&self, fs: &Path) -> bool {
        fs.with_file_name(BARE).exists()
    }

    /// Starts a snapshot: an empty `fs`, and an empty `work` beside it for overlayfs.
    pub fn stage(&self) -> io::Result<Staging> {
        let _guard = self.guard()?;
        let path = self.hidden("staging").join(unique());
        DirBuilder::new().mode(0o700).create(&path)?;
        let file = lock_file(&path.join(LOCK))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let staging = Staging {
            path,
            lock: Some(file),
        };
        DirBuilder::new().mode(0o755).create(staging.fs())?;
        DirBuilder::new().mode(0o700).create(staging.work())?;
        Ok(staging)
    }

    /// Makes a snapshot visible and answers its `fs` folder. Where the id exists already, that one
    /// stays and the new one is discarded. Durable only after [`Snapshots::sync`].
    pub fn commit(&self, mut staging: Staging, id: &SnapshotId) -> io::Result<PathBuf> {
        let target = self.dir.join(id.as_str());
        discard(&staging.work())?;
        fs::write(staging.path.join(UNSYNCED), &self.boot)?;
        {
            let _guard = self.guard()?;
            fs::remove_file(staging.path.join(LOCK))?;
            self.drop_dangling(id)?;
            match renameat_with(CWD, &staging.path, CWD, &target, RenameFlags::NOREPLACE) {
                Ok(()) => drop(staging.lock.take()),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.get(id)?
            .ok_or_else(|| io::Error::other(format!("snapshot {id} vanished")))
    }

    /// Makes everything that was committed durable, with one `syncfs`.
    pub fn sync(&self) -> io::Result<()> {
        let listed = self.list()?;
        let own = listed.iter().filter(|listed| listed.alias_of.is_none());
        let own = own.filter_map(|listed| self.unsynced(&listed.id));
        let pending: Vec<Unsynced> = own.filter_map(Unsynced::of).collect();
        if pending.is_empty() {
            return Ok(());
        }
        if let Err(error) = syncfs(File::open(&self.dir)?) {
            // The kernel tells this once and then forgets which pages it lost, so that another
            // attempt would succeed and say nothing.
            pending.iter().try_for_each(Unsynced::distrust)?;
            return Err(error.into());
        }
        pending.iter().try_for_each(Unsynced::settle)
    }

    /// As [`Snapshots::sync`], where one of these snapshots needs it.
    pub fn sync_for(&self, ids: &[SnapshotId]) -> io::Result<()> {
        for id in ids {
            if self.is_lost(id) {
                let text = format!("snapshot {id} could not be written to disk; remove its image");
                return Err(io::Error::other(text));
            }
        }
        match ids.iter().any(|id| self.unsynced(id).is_some()) {
            true => self.sync(),
            false => Ok(()),
        }
    }

    /// Whether an earlier sync of it failed: it is removed at the next [`Snapshots::open`].
    fn is_lost(&self, id: &SnapshotId) -> bool {
        let said = self.unsynced(id).map(fs::read_to_string);
        matches!(said, Some(Ok(said)) if said == LOST)
    }

    /// Begins [`Snapshots::sync`] on a thread of its own, so that what needs the files, and not that
    /// they survive a power cut, has them at once.
    pub fn sync_behind(self: &Arc<Self>) {
        if self.syncing.swap(true, Ordering::AcqRel) {
            return;
        }
        let own = Arc::clone(self);
        let sync = move || {
            // What is committed from here on asks for a thread of its own.
            own.syncing.store(false, Ordering::Release);
            if let Err(error) = own.sync() {
                // What failed stays marked: whoever relies on it is told.
                tracing::warn!(%error, "cannot make snapshots durable: their images are lost at the next start");
            }
        };
        let begun = thread::Builder::new().name("snapshot-sync".into());
        if begun.spawn(sync).is_err() {
            self.syncing.store(false, Ordering::Release);
        }
    }

    /// The marker of a snapshot that is not durable yet.
    fn unsynced(&self, id: &SnapshotId) -> Option<PathBuf> {
        let marker = self.dir.join(id.as_str()).join(UNSYNCED);
        marker.exists().then_some(marker)
    }

    /// Gives a snapshot a second id. It answers nothing once `of` is removed.
    pub fn alias(&self, new: &SnapshotId, of: &SnapshotId) -> io::Result<()> {
        let target = match fs::read_link(self.dir.join(of.as_str())) {
            Ok(target) => target,
            Err(_) => PathBuf::from(of.as_str()),
        };
        if target.as_os_str() == new.as_str() {
            return Ok(());
        }
        let link = self.dir.join(new.as_str());
        match symlink(&target, &link) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if self.get(new)?.is_some() {
                    return Ok(());
                }
                // An alias of what was removed.
                fs::remove_file(&link)?;
                symlink(&target, &link)
            }
            other => other,
        }
    }

    /// Takes a snapshot or an alias away at once; the files go at the next [`Snapshots::purge`].
    pub fn remove(&self, id: &SnapshotId) -> io::Result<()> {
        let path = self.dir.join(id.as_str());
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => ignore_absent(fs::remove_file(path)),
            Ok(_) => self.trash(&path),
            Err(error) => ignore_absent(Err(error)),
        }
    }

    /// Deletes the trash. To be called when nobody waits.
    pub fn purge(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.hidden("trash"))? {
            discard(&entry?.path())?;
        }
        Ok(())
    }

    /// All snapshots and aliases, sorted by id.
    pub fn list(&self) -> io::Result<Vec<Listed>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Some(id) = id_of(&entry.file_name()) else {
                continue;
            };
            let alias_of = match entry.file_type()?.is_symlink() {
                true => id_of(fs::read_link(entry.path())?.as_os_str()),
                false => None,
            };
            found.push(Listed { id, alias_of });
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    /// Bytes that a snapshot takes on disk; of an alias, those of its target.
    pub fn usage(&self, id: &SnapshotId) -> io::Result<u64> {
        let mut seen = std::collections::HashSet::new();
        let mut bytes = 0;
        let mut folders: Vec<PathBuf> = self.get(id)?.into_iter().collect();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                let metadata = entry.metadata()?;
                if seen.insert(metadata.ino()) {
                    bytes += metadata.blocks() * 512;
                }
                if metadata.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        Ok(bytes)
    }

    /// Waits until nobody else makes this snapshot. `None` when cancelled while waiting.
    pub fn lock(&self, id: &SnapshotId, cancel: &Cancel) -> io::Result<Option<MakeLock>> {
        while !cancel.is_cancelled() {
            if let Some(lock) = self.try_lock(id)? {
                return Ok(Some(lock));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(None)
    }

    /// The lock, unless somebody else makes this snapshot.
    pub fn try_lock(&self, id: &SnapshotId) -> io::Result<Option<MakeLock>> {
        let path = self.hidden("locks").join(id.as_str());
        loop {
            let file = lock_file(&path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            // The last holder unlinks the file; a lock on that one would exclude nobody.
            if is_at(&file, &path) {
                return Ok(Some(MakeLock { path, _file: file }));
            }
        }
    }
}

// After crashes.

impl Snapshots {
    /// Removes staging folders whose owner is gone.
    fn reap(&self) -> io::Result<()> {
        let _guard = self.guard()?;
        for entry in fs::read_dir(self.hidden("staging"))? {
            let path = entry?.path();
            let alive = match File::open(path.join(LOCK)) {
                Ok(file) => flock(&file, FlockOperation::NonBlockingLockExclusive).is_err(),
                Err(_) => false,
            };
            if !alive {
                self.trash(&path)?;
            }
        }
        self.reap_locks()
    }

    /// Removes the lock files that nobody holds.
    fn reap_locks(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.hidden("locks"))? {
            let path = entry?.path();
            let file = lock_file(&path)?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && is_at(&file, &path)
            {
                // As its holder would: see `Snapshots::lock`.
                ignore_absent(fs::remove_file(path))?;
            }
        }
        Ok(())
    }

    /// Removes snapshots that an earlier boot committed and did not sync.
    fn distrust(&self) -> io::Result<()> {
        for listed in self.list()? {
            let path = self.dir.join(listed.id.as_str());
            if listed.alias_of.is_some() {
                continue;
            }
            match fs::read_to_string(path.join(UNSYNCED)) {
                Ok(boot) if boot == self.boot => {}
                Ok(_) => self.trash(&path)?,
                Err(error) => ignore_absent(Err(error))?,
            }
        }
        // Whatever is made later under a trashed name is not what its aliases meant.
        for listed in self.list()? {
            self.drop_dangling(&listed.id)?;
        }
        Ok(())
    }

    /// Removes an alias whose snapshot is gone: under its name another one may be made.
    fn drop_dangling(&self, id: &SnapshotId) -> io::Result<()> {
        let path = self.dir.join(id.as_str());
        let dangling = path.is_symlink() && !path.exists();
        if dangling {
            ignore_absent(fs::remove_file(path))
        } else {
            Ok(())
        }
    }

    fn trash(&self, path: &Path) -> io::Result<()> {
        ignore_absent(fs::rename(path, self.hidden("trash").join(unique())))
    }

    fn hidden(&self, name: &str) -> PathBuf {
        self.dir.join(format!(".{name}"))
    }

    /// Excludes reaping while a staging folder has no lock of its own yet, or not any more.
    fn guard(&self) -> io::Result<File> {
        let file = lock_file(&self.dir.join(".guard"))?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                other => return other.map(|()| file).map_err(io::Error::from),
            }
        }
    }
}

impl Staging {
    /// The folder that becomes the snapshot.
    pub fn fs(&self) -> PathBuf {
        self.path.join("fs")
    }

    /// Notes that the layer says nothing of its root directory: `fs` has the default one, and above
    /// other layers it is theirs that counts.
    pub fn set_bare(&self) -> io::Result<()> {
        fs::write(self.path.join(BARE), "")
    }

    /// Overlayfs's work folder, on the same file system.
    pub fn work(&self) -> PathBuf {
        self.path.join("work")
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // What stays behind is reaped at the next start.
            let _ = discard(&self.path);
        }
    }
}

impl Drop for MakeLock {
    fn drop(&mut self) {
        // While the lock is still held: see `Snapshots::lock`.
        let _ = fs::remove_file(&self.path);
    }
}

fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn lock_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    options.open(path)
}

/// Deletes a folder of ours, whatever an image put into it.
fn discard(path: &Path) -> io::Result<()> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Root::open(parent)?.remove_all(Path::new(name)),
        _ => Ok(()),
    }
}

/// Whether this file is the one that has the name now.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |data: fs::Metadata| (data.dev(), data.ino());
    matches!(
        (file.metadata().map(id), fs::metadata(path).map(id)),
        (Ok(mine), Ok(now)) if mine == now
    )
}

fn id_of(name: &std::ffi::OsStr) -> Option<SnapshotId> {
    name.to_str()?.parse().ok()
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A name that no other process uses for its folders: the caller's pid may repeat in another pid
/// namespace, so the clock is part of it.
fn unique() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{:x}-{now:x}-{count:x}", std::process::id())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
