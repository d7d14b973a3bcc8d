//! Collecting garbage while serving, and proving that there are no holes.
//!
//! Marking reads one snapshot and locks nothing. Sweeping looks at each candidate again, alone with
//! the guard for the time of one unlink, so nobody waits for a collection.

use std::io;
use std::sync::PoisonError;
use std::time::{Duration, UNIX_EPOCH};

use crate::digest::Digest;
use crate::store::index::links;
use crate::store::sessions::is_fresh;
use crate::store::{Store, StoreError};

/// What a collection removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Blobs hidden from a repository whose manifests need them no more.
    pub links: u64,
    /// Files unlinked.
    pub blobs: u64,
    pub bytes: u64,
    /// Abandoned upload sessions.
    pub sessions: u64,
}

/// A row that does not hold what it promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub digest: Digest,
    /// Whether the file is there but is not what its name says.
    pub damaged: bool,
}

impl Store {
    /// Removes links that no manifest needs and files that no row names, each untouched for at
    /// least `grace`: pushes link blobs before the manifest, and in-process writers commit blobs
    /// before they link them. `keep` names files that others need (snapshots, build cache).
    pub fn sweep(
        &self,
        grace: Duration,
        keep: &dyn Fn(&Digest) -> bool,
    ) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        let now = (self.options.clock)();
        let before = now.checked_sub(grace).unwrap_or(UNIX_EPOCH);
        let before = before.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        for (repository, digest) in self.index.read(|rows| links::unneeded(rows, before))? {
            let removed = self
                .index
                .write(move |rows| links::unlink_unneeded(rows, &repository, &digest, before))?;
            swept.links += u64::from(removed);
        }
        for (digest, size, committed) in self.blobs.list()? {
            if is_fresh(committed, now, grace) || keep(&digest) {
                continue;
            }
            if self.unlink_unheld(&digest)? {
                swept.blobs += 1;
                swept.bytes += size;
            }
        }
        Ok(swept)
    }

    /// Unlinks the file if no row names it. The guard makes look and unlink one.
    fn unlink_unheld(&self, digest: &Digest) -> Result<bool, StoreError> {
        let _alone = self.guard.write().unwrap_or_else(PoisonError::into_inner);
        if self.index.read(|rows| links::is_held(rows, digest))? {
            return Ok(false);
        }
        self.blobs.unlink(digest)?;
        Ok(true)
    }

    /// Reads every blob that a row names and reports those that are absent or damaged.
    pub fn verify(&self) -> Result<Vec<Fault>, StoreError> {
        let mut faults = Vec::new();
        for digest in self.index.read(links::held)? {
            if let Some(damaged) = self.fault(&digest)? {
                faults.push(Fault { digest, damaged });
            }
        }
        Ok(faults)
    }

    fn fault(&self, digest: &Digest) -> io::Result<Option<bool>> {
        if self.blobs.is_whole(digest)? {
            return Ok(None);
        }
        Ok(Some(self.blobs.get(digest)?.is_some()))
    }
}
