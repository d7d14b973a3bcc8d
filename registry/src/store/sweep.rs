//! Collecting garbage while serving, and proving that there are no holes.
//!
//! Marking reads one snapshot and locks nothing. Sweeping looks at each candidate again, alone with
//! the guard for the time of one unlink, so nobody waits for a collection.

use std::collections::HashSet;
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

/// What a collection may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace {
    /// Links that no manifest needs go when they are older: a push links blobs before its manifest.
    pub links: Duration,
    /// Files that no row names go when they are older: in-process writers commit blobs before they
    /// link them. Zero where the caller knows that nobody does so now.
    pub files: Duration,
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
        let (links, files) = (grace, grace);
        self.collect(Grace { links, files }, keep)
    }

    /// As [`Store::sweep`], with a grace for links and one for files.
    pub fn collect(
        &self,
        grace: Grace,
        keep: &dyn Fn(&Digest) -> bool,
    ) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        let now = (self.options.clock)();
        let before = self.before(grace.links);
        for (repository, digest) in self.index.read(|rows| links::unneeded(rows, before))? {
            let removed = self
                .index
                .write(move |rows| links::unlink_unneeded(rows, &repository, &digest, before))?;
            swept.links += u64::from(removed);
        }
        for (digest, size, committed) in self.blobs.list()? {
            if is_fresh(committed, now, grace.files) || keep(&digest) {
                continue;
            }
            if self.unlink_unheld(&digest)? {
                swept.blobs += 1;
                swept.bytes += size;
            }
        }
        Ok(swept)
    }

    /// What [`Store::collect`] would remove now. Changes nothing.
    pub fn collectable(&self, grace: Grace) -> Result<Swept, StoreError> {
        let now = (self.options.clock)();
        let before = self.before(grace.links);
        let doomed = self.index.read(|rows| links::unneeded(rows, before))?;
        let doomed: HashSet<(String, Digest)> = doomed.into_iter().collect();
        let mut swept = Swept {
            links: doomed.len() as u64,
            ..Swept::default()
        };
        for (digest, size, committed) in self.blobs.list()? {
            let held = |rows: &_| links::is_held_beside(rows, &digest, &doomed);
            if !is_fresh(committed, now, grace.files) && !self.index.read(held)? {
                swept.blobs += 1;
                swept.bytes += size;
            }
        }
        Ok(swept)
    }

    /// The second, since 1970, before which something is older than `grace`.
    fn before(&self, grace: Duration) -> u64 {
        let now = (self.options.clock)();
        let before = now.checked_sub(grace).unwrap_or(UNIX_EPOCH);
        before.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
    }

    /// Unlinks the file if no row names it. The guard makes look and unlink one.
    pub(crate) fn unlink_unheld(&self, digest: &Digest) -> Result<bool, StoreError> {
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
