//! What a collection removes and what it leaves alone, and proving that there are no holes.
//!
//! How it goes about that while others push and pull is told in `collect`.

use std::io;
use std::time::Duration;

use crate::digest::Digest;
use crate::store::index::links;
use crate::store::{Store, StoreError};

/// What a collection removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Manifests that nothing named any more.
    pub manifests: u64,
    /// Blobs hidden from a repository whose manifests need them no more.
    pub links: u64,
    /// Files unlinked.
    pub blobs: u64,
    pub bytes: u64,
    /// Abandoned upload sessions and downloads.
    pub sessions: u64,
}

/// What a collection may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace {
    /// Links that no manifest needs go when they are older: a push links blobs before its manifest.
    /// Those of a repository with an open upload session stay in any case.
    pub links: Duration,
    /// Files that no row names go when they are older: in-process writers commit blobs before they
    /// link them. Zero where the caller knows that nobody does so now.
    pub files: Duration,
}

impl Grace {
    /// How long links rest: a push links its blobs one after the other, and on a slow line the first
    /// waits for the last, and the manifest, for many hours.
    pub const LINKS: Duration = Duration::from_secs(24 * 3600);
}

impl Default for Grace {
    fn default() -> Self {
        Self {
            links: Self::LINKS,
            files: Duration::from_secs(3600),
        }
    }
}

/// A row that does not hold what it promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub digest: Digest,
    /// Whether the file is there but is not what its name says.
    pub damaged: bool,
}

impl Store {
    /// Removes manifests that nothing has named for the store's `untagged_keep`, links that no
    /// manifest needs and files that no row names, these untouched for at least `grace`: pushes link blobs before the manifest, and in-process writers commit blobs
    /// before they link them. `keep` names files that others need (snapshots, build cache).
    pub fn sweep(
        &self,
        grace: Duration,
        keep: &dyn Fn(&Digest) -> bool,
    ) -> Result<Swept, StoreError> {
        let (links, files) = (grace, grace);
        self.collect(Grace { links, files }, keep)
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
