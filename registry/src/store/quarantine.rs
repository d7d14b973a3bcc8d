//! Damaged blobs out of the way: `<content>/quarantine/<algorithm>-<hex>-<seconds since 1970>`.
//!
//! A file whose bytes are not what its name says is never served again: it loses its name here, so
//! the blob is absent in every repository that has a row for it, and the next push of its digest
//! heals them all. Rows stay. What is kept is evidence for people, nothing reads it: the newest
//! [`KEPT`] files, older ones are removed.

use std::fs::File;
use std::io;

use rustix::fs::{AtFlags, fstat, fsync, renameat, statat, unlinkat};

use crate::digest::{Algorithm, Digest};
use crate::store::blobs::{Blobs, hash_file, names};
use crate::store::pool::is_stand_in;
use crate::store::step::Step;

/// So many damaged files are kept. Damage comes from a failing disk, and then there is more of it
/// than anybody wants to look at.
pub const KEPT: usize = 16;

impl Blobs {
    /// Whether an open blob is not what its name says. Read twice before it is believed: a fault of
    /// the memory must not cost a blob.
    pub(super) fn is_damaged(&self, digest: &Digest, file: &File) -> io::Result<bool> {
        let algorithm = Algorithm::of(digest).unwrap_or_default();
        for _ in 0..2 {
            if hash_file(file, algorithm)?.0.finish() == *digest {
                return Ok(false);
            }
        }
        Ok(true)
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
        self.forget_oldest()?;
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

    fn forget_oldest(&self) -> io::Result<()> {
        let mut kept = names(self.damaged())?;
        kept.retain(|name| moved(name).is_some());
        kept.sort_unstable_by_key(|name| std::cmp::Reverse(moved(name)));
        for name in kept.iter().skip(KEPT) {
            match unlinkat(self.damaged(), name.as_str(), AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// When a file was moved here, by its name; `None` for what is not ours.
fn moved(name: &str) -> Option<u64> {
    name.rsplit_once('-')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::step::Steps;

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path(), Steps::default()).unwrap();
        (folder, blobs)
    }

    #[test]
    fn the_newest_are_kept() {
        let (folder, blobs) = blobs();
        std::fs::write(folder.path().join("quarantine/notes"), b"a person's").unwrap();
        for second in 0..20u64 {
            let digest = blobs.put(b"x", Algorithm::Sha256).unwrap();
            let (file, _) = blobs.get(&digest).unwrap().unwrap();
            assert!(blobs.quarantine(&digest, &file, 99 + second).unwrap());
            assert!(blobs.get(&digest).unwrap().is_none());
        }
        let mut seconds: Vec<_> = names(blobs.damaged()).unwrap();
        seconds.retain(|name| moved(name).is_some());
        let mut seconds: Vec<u64> = seconds.iter().filter_map(|name| moved(name)).collect();
        seconds.sort_unstable();
        assert_eq!(seconds, (103..119).collect::<Vec<_>>());
        assert!(folder.path().join("quarantine/notes").exists());
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
