//! Collecting garbage while serving.
//!
//! ```text
//! manifests  that nothing has named for a while    rows, 4 candidates to a transaction
//! links      that no manifest needs, where nobody  rows, found in pages, 32 to a transaction
//!            pushes just now
//! files      that no row names                     one unlink at a time, alone with that digest
//! ```
//!
//! Each look reads a snapshot and locks nothing. Each change is a short transaction or one unlink
//! that looks again first, and after each the collection rests for as long as that took. So a request
//! meets it half of the time at most, and then waits for a few milliseconds and one commit, however
//! much there is to collect. A crash loses nothing: what was not collected is found again.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::TryLockError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::digest::Digest;
use crate::store::blobs::BlobFile;
use crate::store::index::untagged::{self, Candidate};
use crate::store::index::{IndexError, links, release};
use crate::store::sessions::is_fresh;
use crate::store::sweep::{Grace, Swept};
use crate::store::{Store, StoreError};

/// Rows that one snapshot is asked about; a snapshot that lives on makes the index grow.
const PAGE: usize = 2048;
/// Candidates of one transaction; each may remove a whole image.
const CANDIDATES: usize = 4;
/// Links of one transaction: a millisecond or two.
const LINKS: usize = 32;
/// Files that are looked at together, and unlinked in one turn.
const FILES: usize = 64;
/// The longest rest; what took longer was held up by others.
const REST: Duration = Duration::from_millis(20);
/// A referrer that is a subject itself, and so on: nobody nests deeper in earnest.
const PASSES: usize = 64;

/// What lets files be unlinked while it lives.
pub type Turn = Box<dyn Any>;

/// What a collection may do.
pub struct Collection<'a> {
    pub grace: Grace,
    /// Files that others need.
    pub keep: &'a dyn Fn(&Digest) -> bool,
    /// Asked before each few unlinks; `None` ends the collection of files for this time.
    pub turn: &'a dyn Fn() -> Option<Turn>,
}

impl std::fmt::Debug for Collection<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Collection").field(&self.grace).finish()
    }
}

impl Store {
    /// As [`Store::sweep`], with a grace for links and one for files.
    pub fn collect(
        &self,
        grace: Grace,
        keep: &dyn Fn(&Digest) -> bool,
    ) -> Result<Swept, StoreError> {
        self.collect_by(&Collection {
            grace,
            keep,
            turn: &|| Some(Box::new(())),
        })
    }

    /// Collects as far as `collection` allows. One at a time: a second one is refused with
    /// [`StoreError::Collecting`].
    pub fn collect_by(&self, collection: &Collection<'_>) -> Result<Swept, StoreError> {
        let _only = match self.collecting.try_lock() {
            Ok(only) => only,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(StoreError::Collecting),
        };
        let mut swept = Swept {
            manifests: self.collect_manifests()?,
            links: self.collect_links(self.before(collection.grace.links))?,
            ..Swept::default()
        };
        self.collect_files(collection, &mut swept)?;
        if swept.blobs > 0 {
            // Until then the journal's stand-ins keep the space of what went.
            self.index.settle();
        }
        Ok(swept)
    }

    /// Manifests whose time has come, until a pass finds none.
    fn collect_manifests(&self) -> Result<u64, StoreError> {
        let mut removed = 0;
        for _ in 0..PASSES {
            let (manifests, left) = self.pass_over_untagged()?;
            removed += manifests;
            if manifests > 0 {
                self.tags_changed();
            }
            if !left {
                break;
            }
        }
        Ok(removed)
    }

    /// Answers how many went, and whether one of them left more to do.
    fn pass_over_untagged(&self) -> Result<(u64, bool), StoreError> {
        let (mut removed, mut left) = (0, false);
        let mut last = None;
        loop {
            let page = self
                .index
                .read(|rows| untagged::page(rows, last.as_ref(), PAGE))?;
            let Some(end) = page.last() else {
                return Ok((removed, left));
            };
            last = Some((end.repository.clone(), end.digest.to_string()));
            let mut due: VecDeque<(Candidate, String)> = page
                .into_iter()
                .filter(|candidate| self.is_due(candidate))
                .map(|candidate| (candidate, String::new()))
                .collect();
            while !due.is_empty() {
                let batch: Vec<_> = due.drain(..due.len().min(CANDIDATES)).collect();
                for (candidate, collected) in self.collect_candidates(batch)? {
                    removed += collected.manifests;
                    left |= collected.left;
                    if let Some(after) = collected.next {
                        due.push_front((candidate, after));
                    }
                }
            }
        }
    }

    /// A candidate of an unknown age is looked at only to give it one.
    fn is_due(&self, candidate: &Candidate) -> bool {
        self.options.untagged_keep.is_some_and(|keep| {
            let age = self.now().saturating_sub(candidate.since);
            candidate.is_unknown() || age >= keep.as_secs()
        })
    }

    fn collect_candidates(
        &self,
        batch: Vec<(Candidate, String)>,
    ) -> Result<Vec<(Candidate, release::Collected)>, IndexError> {
        let now = self.now();
        and_rest(|| {
            self.index.write(move |rows| {
                let mut done = Vec::new();
                for (candidate, after) in batch {
                    if candidate.is_unknown() {
                        untagged::begin(rows, &candidate, now)?;
                        continue;
                    }
                    let collected = release::collect(rows, &candidate, &after, now)?;
                    done.push((candidate, collected));
                }
                Ok(done)
            })
        })
    }

    fn collect_links(&self, before: u64) -> Result<u64, StoreError> {
        let mut removed = 0;
        let mut last = None;
        loop {
            let (found, next) = self.unneeded(before, last.as_ref())?;
            for batch in found.chunks(LINKS) {
                removed += and_rest(|| self.unlink_links(batch.to_vec(), before))?;
            }
            last = next;
            if last.is_none() {
                return Ok(removed);
            }
        }
    }

    /// The next links that may go. Those of a repository that somebody pushes to stay, however old:
    /// the blob that is on its way may take longer than any grace, and the manifest comes after it.
    fn unneeded(
        &self,
        before: u64,
        last: Option<&links::Place>,
    ) -> Result<links::Unneeded, StoreError> {
        let (mut found, next) = self
            .index
            .read(|rows| links::unneeded(rows, before, last, PAGE))?;
        if !found.is_empty() {
            let pushed_to = self.sessions.repositories()?;
            found.retain(|(repository, _)| !pushed_to.contains(repository));
        }
        Ok((found, next))
    }

    fn unlink_links(&self, batch: Vec<(String, Digest)>, before: u64) -> Result<u64, IndexError> {
        self.index.write(move |rows| {
            let mut removed = 0;
            for (repository, digest) in &batch {
                let done = links::unlink_unneeded(rows, repository, digest, before)?;
                removed += u64::from(done);
            }
            Ok(removed)
        })
    }

    fn collect_files(
        &self,
        collection: &Collection<'_>,
        swept: &mut Swept,
    ) -> Result<(), StoreError> {
        let mut files = self.blobs.list()?;
        loop {
            let mut seen = 0;
            let mut batch = Vec::new();
            for file in files.by_ref().take(FILES) {
                seen += 1;
                let file = file?;
                if !self.is_fresh(&file, collection.grace.files) && !(collection.keep)(&file.digest)
                {
                    batch.push(file);
                }
            }
            if seen == 0 {
                return Ok(());
            }
            let unheld = self.index.read(|rows| {
                let mut unheld = Vec::new();
                for file in batch {
                    if !links::is_held(rows, &file.digest)? {
                        unheld.push(file);
                    }
                }
                Ok(unheld)
            })?;
            if !unheld.is_empty() && !and_rest(|| self.unlink_all(&unheld, collection, swept))? {
                return Ok(());
            }
        }
    }

    /// False where it was not our turn.
    fn unlink_all(
        &self,
        files: &[BlobFile],
        collection: &Collection<'_>,
        swept: &mut Swept,
    ) -> Result<bool, StoreError> {
        let Some(_turn) = (collection.turn)() else {
            return Ok(false);
        };
        for file in files {
            if self.unlink_unheld(file, collection.grace.files)? {
                swept.blobs += 1;
                swept.bytes += file.size;
            }
        }
        Ok(true)
    }

    /// Unlinks the file if it is still old, nobody relies on it and no row names it. The guard makes
    /// look and unlink one.
    pub(crate) fn unlink_unheld(
        &self,
        file: &BlobFile,
        grace: Duration,
    ) -> Result<bool, StoreError> {
        let Some(_alone) = self.blobs.guards().alone(&file.digest) else {
            return Ok(false);
        };
        let now = self.blobs.stat(&file.digest)?;
        let old = now.is_some_and(|now| !self.is_fresh(&now, grace));
        if !old || self.index.read(|rows| links::is_held(rows, &file.digest))? {
            return Ok(false);
        }
        self.blobs.unlink(&file.digest)?;
        Ok(true)
    }

    /// What [`Store::collect`] would remove now. Changes nothing.
    pub fn collectable(&self, grace: Grace) -> Result<Swept, StoreError> {
        let mut doomed = links::Doomed::default();
        self.doom_manifests(&mut doomed)?;
        let before = self.before(grace.links);
        let mut last = None;
        loop {
            let (found, next) = self.unneeded(before, last.as_ref())?;
            let found = found.into_iter();
            doomed
                .links
                .extend(found.map(|(repository, digest)| (repository, digest.to_string())));
            last = next;
            if last.is_none() {
                break;
            }
        }
        let mut swept = Swept {
            manifests: doomed.manifests.len() as u64,
            links: doomed.links.len() as u64,
            ..Swept::default()
        };
        for file in self.blobs.list()? {
            let file = file?;
            let held = |rows: &_| links::is_held_beside(rows, &file.digest, &doomed);
            if !self.is_fresh(&file, grace.files) && !self.index.read(held)? {
                swept.blobs += 1;
                swept.bytes += file.size;
            }
        }
        Ok(swept)
    }

    fn doom_manifests(&self, doomed: &mut links::Doomed) -> Result<(), StoreError> {
        let mut last = None;
        loop {
            let page = self
                .index
                .read(|rows| untagged::page(rows, last.as_ref(), PAGE))?;
            let Some(end) = page.last() else {
                return Ok(());
            };
            last = Some((end.repository.clone(), end.digest.to_string()));
            let due = page
                .iter()
                .filter(|candidate| self.is_due(candidate) && !candidate.is_unknown());
            self.index.read(|rows| {
                for candidate in due {
                    release::collectable(rows, candidate, &mut doomed.manifests)?;
                }
                Ok(())
            })?;
        }
    }

    fn is_fresh(&self, file: &BlobFile, grace: Duration) -> bool {
        is_fresh(file.committed, (self.options.clock)(), grace)
    }

    /// The second, since 1970, before which something is older than `grace`.
    fn before(&self, grace: Duration) -> u64 {
        let now: SystemTime = (self.options.clock)();
        let before = now.checked_sub(grace).unwrap_or(UNIX_EPOCH);
        before.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
    }
}

/// Leaves the machine to others for as long as `work` took.
fn and_rest<T>(work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let outcome = work();
    std::thread::sleep(begun.elapsed().min(REST));
    outcome
}
