//! Damaged blobs out of the way: `<content>/quarantine/<algorithm>-<hex>-<seconds since 1970>`.
//!
//! A file whose bytes are not what its name says is never served again: it loses its name here, so
//! the blob is absent in every repository that has a row for it, and the next push of its digest
//! heals them all. Rows stay. Nothing reads what is kept. Where rows still name the blob and it has
//! not healed, the file is the only copy that there is, and stays: of ten gigabytes perhaps one bit
//! is wrong. The others are evidence for people: the newest [`KEPT`] files, older ones are removed.

use std::fs::File;
use std::io;

use rustix::fs::{Advice, AtFlags, fadvise, fstat, fsync, renameat, statat, unlinkat};

use crate::digest::{Algorithm, Digest};
use crate::store::blobs::{Blobs, hash_file, names};
use crate::store::index::links;
use crate::store::pool::is_stand_in;
use crate::store::step::Step;
use crate::store::{Store, StoreError};

/// So many damaged files are kept. Damage comes from a failing disk, and then there is more of it
/// than anybody wants to look at.
pub const KEPT: usize = 16;

impl Blobs {
    /// Whether an open blob is not what its name says. Read twice, both times from the disk, before
    /// it is believed: a fault of the memory must not cost a blob. Where the two readings differ
    /// nobody knows what the disk has, and that is an error.
    pub(super) fn is_damaged(&self, digest: &Digest, file: &File) -> io::Result<bool> {
        let algorithm = Algorithm::of(digest).unwrap_or_default();
        judge(digest, &mut || {
            forget_pages(file)?;
            Ok(hash_file(file, algorithm)?.0.finish())
        })
    }

    /// Takes the name away from the damaged file `seen`, durably. False where the name is another
    /// file's by now: somebody healed it, or it is gone. Readers keep what they opened.
    pub(super) fn quarantine(&self, digest: &Digest, seen: &File, now: u64) -> io::Result<bool> {
        let Some(algorithm) = Algorithm::of(digest) else {
            return Ok(false);
        };
        let (folder, damaged) = (self.folder(algorithm), self.damaged());
        let name = digest.digest();
        let kept = format!("{}-{name}-{now}", algorithm.name());
        let seen = fstat(seen)?;
        {
            let _alone = self.renaming();
            match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                // While `seen` is open no other file can have its number.
                Ok(there) if (there.st_dev, there.st_ino) == (seen.st_dev, seen.st_ino) => {}
                Ok(_) | Err(rustix::io::Errno::NOENT) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            self.steps().at(Step::Quarantining)?;
            renameat(folder, name, damaged, &kept)?;
            // Under the same lock: the journal, which gives names again, must not find them now.
            self.forget_stand_ins(seen.st_ino)?;
        }
        tracing::error!(%digest, kept, "blob is damaged and was moved to the quarantine folder");
        self.steps().at(Step::Quarantined)?;
        fsync(damaged)?;
        fsync(folder)?;
        // Also when the journal dropped them a moment ago: that must not come undone by a power cut
        // that the quarantine outlives.
        fsync(self.uploads())?;
        Ok(true)
    }

    /// After a crash the journal would give the file its name back, by the stand-in that it keeps
    /// until its next checkpoint. One that is gone it passes over.
    pub(super) fn forget_stand_ins(&self, inode: u64) -> io::Result<()> {
        let uploads = self.uploads();
        for name in names(uploads)? {
            if !is_stand_in(&name) {
                continue;
            }
            match statat(uploads, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if stat.st_ino == inode => {
                    unlinkat(uploads, name.as_str(), AtFlags::empty())?;
                }
                Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What is kept here, the newest first: names, and the blobs that they were.
    fn quarantined(&self) -> io::Result<Vec<(String, Digest)>> {
        let mut kept: Vec<_> = names(self.damaged())?
            .into_iter()
            .filter_map(|name| moved(&name).map(|(digest, second)| (second, name, digest)))
            .collect();
        kept.sort_unstable_by_key(|(second, _, _)| std::cmp::Reverse(*second));
        let kept = kept.into_iter().map(|(_, name, digest)| (name, digest));
        Ok(kept.collect())
    }

    fn forget_quarantined(&self, name: &str) -> io::Result<()> {
        match unlinkat(self.damaged(), name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Store {
    /// Removes evidence beyond the newest [`KEPT`] files, and never the only copy of a blob.
    pub(super) fn forget_oldest(&self) -> Result<(), StoreError> {
        for (name, digest) in self.blobs.quarantined()?.into_iter().skip(KEPT) {
            let held = self.index.read(|rows| links::is_held(rows, &digest))?;
            // A file with the right name may be damaged or unreadable as well.
            if !held || self.blobs.is_whole(&digest).unwrap_or(false) {
                self.blobs.forget_quarantined(&name)?;
            }
        }
        Ok(())
    }

    /// How many blobs rows name of which there is only what was put aside.
    pub(super) fn only_copies(&self) -> Result<u64, StoreError> {
        let kept = self.blobs.quarantined()?;
        let mut digests: Vec<_> = kept.into_iter().map(|(_, digest)| digest).collect();
        digests.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        digests.dedup();
        let mut only = 0;
        for digest in digests {
            let absent = self.blobs.size(&digest)?.is_none();
            only += u64::from(absent && self.index.read(|rows| links::is_held(rows, &digest))?);
        }
        Ok(only)
    }
}

/// Reads twice. Only what was wrong in the same way both times is damaged.
fn judge(digest: &Digest, read: &mut dyn FnMut() -> io::Result<Digest>) -> io::Result<bool> {
    let first = read()?;
    if first == *digest {
        return Ok(false);
    }
    let second = read()?;
    if second == *digest {
        return Ok(false);
    }
    if first != second {
        let text = format!("two readings differ: {first} and {second}");
        return Err(io::Error::other(text));
    }
    Ok(true)
}

/// So that the next reading is the disk's. Pages that are not written yet cannot be dropped.
fn forget_pages(file: &File) -> io::Result<()> {
    file.sync_data()?;
    // Only advice: a file system in memory has no other place to read from.
    let _ = fadvise(file, 0, None, Advice::DontNeed);
    Ok(())
}

/// Which blob a file was, and when it was moved here, by its name; `None` for what is not ours.
fn moved(name: &str) -> Option<(Digest, u64)> {
    let (blob, second) = name.rsplit_once('-')?;
    let digest = blob.replacen('-', ":", 1).parse().ok()?;
    Some((digest, second.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::digest_of;
    use crate::store::Options;
    use crate::store::step::Steps;

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path(), Steps::default()).unwrap();
        (folder, blobs)
    }

    fn put_aside(store: &Store, digest: &Digest, second: u64) {
        let (file, _) = store.blobs.get(digest).unwrap().unwrap();
        assert!(store.blobs.quarantine(digest, &file, second).unwrap());
        assert!(store.blobs.get(digest).unwrap().is_none());
        store.forget_oldest().unwrap();
    }

    fn seconds(store: &Store) -> Vec<u64> {
        let mut seconds: Vec<u64> = names(store.blobs.damaged())
            .unwrap()
            .iter()
            .filter_map(|name| moved(name).map(|(_, second)| second))
            .collect();
        seconds.sort_unstable();
        seconds
    }

    #[test]
    fn the_newest_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Options::below(folder.path())).unwrap();
        let notes = folder.path().join("content/quarantine/notes");
        std::fs::write(&notes, b"a person's").unwrap();
        for second in 0..20u64 {
            let digest = store.blobs.put(b"x", Algorithm::Sha256).unwrap();
            put_aside(&store, &digest, 99 + second);
        }
        assert_eq!(seconds(&store), (103..119).collect::<Vec<_>>());
        assert_eq!(store.only_copies().unwrap(), 0);
        assert!(notes.exists());
    }

    #[test]
    fn the_only_copy_of_a_blob_is_kept_until_it_heals() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Options::below(folder.path())).unwrap();
        for number in 0..40u64 {
            let content = number.to_le_bytes();
            let digest = store.blobs.put(&content, Algorithm::Sha256).unwrap();
            assert!(store.link("a", &digest).unwrap());
            put_aside(&store, &digest, number);
        }
        assert_eq!(seconds(&store), (0..40).collect::<Vec<_>>());
        assert_eq!(store.only_copies().unwrap(), 40);
        // One heals, and another one comes back damaged.
        let healed = store.blobs.put(&0u64.to_le_bytes(), Algorithm::Sha256);
        let again = store.blobs.put(&1u64.to_le_bytes(), Algorithm::Sha256);
        let path = folder.path().join("content/blobs/sha256");
        std::fs::write(path.join(again.unwrap().digest()), b"wrong").unwrap();
        store.forget_oldest().unwrap();
        assert_eq!(seconds(&store), (1..40).collect::<Vec<_>>());
        assert!(store.blobs.is_whole(&healed.unwrap()).unwrap());
    }

    #[test]
    fn only_the_same_wrong_reading_twice_is_damage() {
        let [right, wrong, other] =
            [b"a", b"b", b"c"].map(|bytes| digest_of(Algorithm::Sha256, bytes));
        let judged = |first: &Digest, second: &Digest| {
            let mut readings = [second.clone(), first.clone()].to_vec();
            judge(&right, &mut || Ok(readings.pop().unwrap())).map_err(|error| error.to_string())
        };
        assert_eq!(judged(&right, &wrong), Ok(false));
        assert_eq!(judged(&wrong, &right), Ok(false));
        assert_eq!(judged(&wrong, &wrong), Ok(true));
        assert!(judged(&wrong, &other).unwrap_err().contains("differ"));
    }

    #[test]
    fn a_file_that_heals_is_not_taken_for_the_damaged_one() {
        let (_folder, blobs) = blobs();
        let digest = blobs.put(b"x", Algorithm::Sha512).unwrap();
        let (damaged, _) = blobs.get(&digest).unwrap().unwrap();
        let digest = blobs.put(b"x", Algorithm::Sha512).unwrap();
        assert!(!blobs.quarantine(&digest, &damaged, 1).unwrap());
        assert!(blobs.get(&digest).unwrap().is_some());
    }
}
