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
//! much there is to collect. A crash loses nothing: what was not collected is found again. What fails
//! is passed over, so that one bad row does not keep all garbage for ever; the first error is answered
//! when everything else is done.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::TryLockError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::digest::Digest;
use crate::store::blobs::BlobFile;
use crate::store::failures::Failures;
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
/// What is so much younger than now was made while the clock was ahead: it counts as made
/// now, or it would be too young for ever. Less than that, clocks differ.
pub(crate) const AHEAD: Duration = Duration::from_secs(24 * 3600);
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
        let mut swept = Swept::default();
        let mut first = None;
        for phase in [
            Self::collect_manifests,
            Self::collect_links,
            Self::collect_files,
        ] {
            let mut failures = Failures::default();
            let outcome = phase(self, collection, &mut swept, &mut failures);
            failures.pass(&"the rest of a phase", outcome);
            first = failures.after(first);
        }
        if swept.blobs > 0 {
            // Until then the journal's stand-ins keep the space of what went.
            self.index.settle();
        }
        first.map_or(Ok(swept), Err)
    }

    /// Manifests whose time has come, until a pass finds none.
    fn collect_manifests(
        &self,
        _: &Collection<'_>,
        swept: &mut Swept,
        failures: &mut Failures,
    ) -> Result<(), StoreError> {
        for _ in 0..PASSES {
            let (manifests, left) = self.pass_over_untagged(failures)?;
            swept.manifests += manifests;
            if manifests > 0 {
                self.tags_changed();
            }
            if !left || failures.are_many() {
                break;
            }
        }
        Ok(())
    }

    /// Answers how many went, and whether one of them left more to do.
    fn pass_over_untagged(&self, failures: &mut Failures) -> Result<(u64, bool), StoreError> {
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
                if failures.are_many() {
                    return Ok((removed, false));
                }
                let batch: Vec<_> = due.drain(..due.len().min(CANDIDATES)).collect();
                for (candidate, collected) in self.collect_batch(batch, failures) {
                    removed += collected.manifests;
                    left |= collected.left;
                    if let Some(after) = collected.next {
                        due.push_front((candidate, after));
                    }
                }
            }
        }
    }

    /// A candidate of an unknown age, or of none yet, is looked at only to give it one.
    fn is_due(&self, candidate: &Candidate) -> bool {
        self.options.untagged_keep.is_some_and(|keep| {
            let age = self.now().saturating_sub(candidate.since);
            self.is_of_no_age(candidate) || age >= keep.as_secs()
        })
    }

    fn is_of_no_age(&self, candidate: &Candidate) -> bool {
        candidate.is_unknown() || candidate.since > self.ahead()
    }

    fn ahead(&self) -> u64 {
        self.now().saturating_add(AHEAD.as_secs())
    }

    /// Where one of a batch fails, each is tried by itself.
    fn collect_batch(
        &self,
        batch: Vec<(Candidate, String)>,
        failures: &mut Failures,
    ) -> Vec<(Candidate, release::Collected)> {
        if let Ok(done) = self.collect_candidates(batch.clone()) {
            return done;
        }
        let mut done = Vec::new();
        for one in batch {
            let outcome = self.collect_candidates(vec![one.clone()]);
            done.extend(failures.pass(&one.0, outcome).unwrap_or_default());
        }
        done
    }

    fn collect_candidates(
        &self,
        batch: Vec<(Candidate, String)>,
    ) -> Result<Vec<(Candidate, release::Collected)>, IndexError> {
        let now = self.now();
        let batch: Vec<_> = batch
            .into_iter()
            .map(|(candidate, after)| (self.is_of_no_age(&candidate), candidate, after))
            .collect();
        and_rest(|| {
            self.index.write(move |rows| {
                let mut done = Vec::new();
                for (of_no_age, candidate, after) in batch {
                    if of_no_age {
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

    fn collect_links(
        &self,
        collection: &Collection<'_>,
        swept: &mut Swept,
        failures: &mut Failures,
    ) -> Result<(), StoreError> {
        self.rest_early_links(failures)?;
        let before = self.before(collection.grace.links);
        let mut last = None;
        loop {
            let (found, next) = self.unneeded(before, last.as_ref())?;
            for batch in found.chunks(LINKS) {
                swept.links += and_rest(|| self.unlink_batch(batch, before, failures));
            }
            last = next;
            if last.is_none() || failures.are_many() {
                return Ok(());
            }
        }
    }

    /// Links of a time that has not come count as made now.
    fn rest_early_links(&self, failures: &mut Failures) -> Result<(), StoreError> {
        let ahead = self.ahead();
        let mut last = None;
        loop {
            let (found, next) = self.index.read(|rows| {
                links::unneeded(rows, &|linked| linked > ahead, last.as_ref(), PAGE)
            })?;
            for (repository, digest) in &found {
                let outcome = and_rest(|| self.refresh(repository, digest));
                failures.pass(digest, outcome);
            }
            last = next;
            if last.is_none() || failures.are_many() {
                return Ok(());
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
            .read(|rows| links::unneeded(rows, &|linked| linked < before, last, PAGE))?;
        if !found.is_empty() {
            let pushed_to = self.sessions.repositories()?;
            found.retain(|(repository, _)| !pushed_to.contains(repository));
        }
        Ok((found, next))
    }

    /// Where one of a batch fails, each is tried by itself.
    fn unlink_batch(
        &self,
        batch: &[(String, Digest)],
        before: u64,
        failures: &mut Failures,
    ) -> u64 {
        if let Ok(removed) = self.unlink_links(batch.to_vec(), before) {
            return removed;
        }
        let mut removed = 0;
        for one in batch {
            let outcome = self.unlink_links(vec![one.clone()], before);
            removed += failures.pass(one, outcome).unwrap_or_default();
        }
        removed
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
        failures: &mut Failures,
    ) -> Result<(), StoreError> {
        let mut files = self.blobs.list()?;
        loop {
            let mut seen = 0;
            let mut batch = Vec::new();
            for file in files.by_ref().take(FILES) {
                seen += 1;
                let Some(file) = failures.pass(&"a file of the content folder", file) else {
                    continue;
                };
                if file.committed > (self.options.clock)() + AHEAD {
                    let outcome = self.blobs.touch(&file.digest);
                    failures.pass(&file.digest, outcome);
                }
                if !self.is_fresh(&file, collection.grace.files) && !(collection.keep)(&file.digest)
                {
                    batch.push(file);
                }
            }
            if seen == 0 || failures.are_many() {
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
            if !unheld.is_empty()
                && !and_rest(|| self.unlink_all(&unheld, collection, swept, failures))
            {
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
        failures: &mut Failures,
    ) -> bool {
        let Some(_turn) = (collection.turn)() else {
            return false;
        };
        for file in files {
            let outcome = self.unlink_unheld(file, collection.grace.files);
            if failures.pass(&file.digest, outcome) == Some(true) {
                swept.blobs += 1;
                swept.bytes += file.size;
            }
        }
        true
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
                .filter(|candidate| self.is_due(candidate) && !self.is_of_no_age(candidate));
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
