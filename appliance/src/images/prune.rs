//! Collecting what nothing needs any more: blobs, snapshots, the build cache.
//!
//! A blob is needed while a repository has it. A snapshot is needed by an image of the registry, a
//! sandbox, or a remembered build step, and an alias needs what it leads to. All of it happens alone
//! with the gate, so nothing that is just being made can look unneeded; pushes over HTTP go on, and
//! the registry's own guard sees to them.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use builder::cache::inventory::{self, Entry, Kind as Remembered};
use registry::service::Listing;
use registry::store::{Grace, Swept};
use unpacker::image::read::{self, ImageError};
use unpacker::image::unpack::unpacked;
use unpacker::snapshot::id::SnapshotId;
use unpacker::snapshot::store::Listed;

use crate::api::types::{PruneRequest, Pruned};
use crate::error::{Failure, Kind, Outcome};
use crate::images::service::{Images, store};
use crate::sandbox::record::{self, Record};

/// Work that is about to end is waited for so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Build steps that were of no use for so long are forgotten.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);

/// What becomes of the build cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cache {
    Keep,
    /// What leads nowhere, or was long of no use, goes.
    Stale,
    All,
}

/// Why nothing can be removed just now.
pub(crate) fn busy() -> Failure {
    Failure::conflict("work on images is going on")
        .hint("Try again when the pulls, builds and starts of sandboxes have ended.")
}

impl Images {
    /// Removes what nothing needs; with `all` also what only the build cache needs.
    pub fn prune(&self, request: PruneRequest) -> Outcome<Pruned> {
        let cache = match request.all {
            true => Cache::All,
            false => Cache::Stale,
        };
        let Some(alone) = self.gate.alone(PATIENCE) else {
            return Err(busy());
        };
        let mut pruned = self.collect(cache, request.dry_run)?;
        drop(alone);
        pruned.dry_run = request.dry_run;
        if !request.dry_run {
            self.purge()?;
        }
        Ok(pruned)
    }

    /// Frees what a removed name left, unless other work goes on: then a later one does.
    pub(crate) fn tidy(&self) -> Outcome<()> {
        let Some(alone) = self.gate.alone(Duration::ZERO) else {
            return Ok(());
        };
        if let Err(failure) = self.collect(Cache::Keep, false) {
            // The registry is being tidied just now, and so is what the name left.
            return match failure.kind {
                Kind::Conflict => Ok(()),
                _ => Err(failure),
            };
        }
        drop(alone);
        self.purge()
    }

    /// The files of removed snapshots: nobody can reach them, so work need not wait.
    pub(crate) fn purge(&self) -> Outcome<()> {
        let _one_at_a_time = self
            .purging
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        self.snapshots.purge().map_err(|error| {
            Failure::because(Kind::Internal, "cannot delete removed snapshots", &error)
        })
    }

    /// The caller is alone with the gate.
    fn collect(&self, cache: Cache, dry_run: bool) -> Outcome<Pruned> {
        let swept = self.sweep(dry_run)?;
        let mut pruned = Pruned {
            blobs: swept.blobs,
            bytes: swept.bytes,
            ..Pruned::default()
        };
        let kept = self.prune_cache(cache, dry_run, &mut pruned)?;
        self.prune_snapshots(&kept, dry_run, &mut pruned)?;
        Ok(pruned)
    }

    /// Removes snapshots that neither an image, a sandbox nor one of these entries needs.
    pub(crate) fn prune_snapshots(
        &self,
        kept: &[Entry],
        dry_run: bool,
        pruned: &mut Pruned,
    ) -> Outcome<()> {
        let needed = self.needed_snapshots(kept)?;
        for listed in self.snapshots.list()? {
            if needed.contains(&listed.id) {
                continue;
            }
            if listed.alias_of.is_none() {
                pruned.snapshots += 1;
                pruned.bytes += self.snapshots.usage(&listed.id)?;
            }
            if !dry_run {
                self.snapshots.remove(&listed.id)?;
            }
        }
        Ok(())
    }

    fn sweep(&self, dry_run: bool) -> Outcome<Swept> {
        let grace = Grace {
            // Pushes over HTTP go on, and link blobs before the manifest.
            links: Grace::LINKS,
            files: Duration::ZERO,
        };
        let blobs = self.registry.store();
        match dry_run {
            true => blobs.collectable(grace),
            false => blobs.collect(grace, &|_| false),
        }
        .map_err(store)
    }

    /// Removes entries of the build cache and answers those that stay.
    fn prune_cache(&self, cache: Cache, dry_run: bool, pruned: &mut Pruned) -> Outcome<Vec<Entry>> {
        let folder = self.folder.cache();
        let mut kept = Vec::new();
        for entry in inventory::entries(&folder)? {
            let goes = match cache {
                Cache::Keep => false,
                Cache::Stale => self.is_stale(&entry)?,
                Cache::All => true,
            };
            if !goes {
                kept.push(entry);
                continue;
            }
            if matches!(entry.kind, Remembered::Step | Remembered::Layer) {
                pruned.cache_entries += 1;
            }
            pruned.bytes += entry.usage();
            if !dry_run {
                entry.remove()?;
            }
        }
        Ok(kept)
    }

    /// Whether it leads nowhere, or was long of no use.
    pub(crate) fn is_stale(&self, entry: &Entry) -> Outcome<bool> {
        let age = SystemTime::now().duration_since(entry.last_used);
        if !entry.sound || age.is_ok_and(|age| age > UNUSED) {
            return Ok(true);
        }
        if let Some(blob) = &entry.blob
            && self.content.open(blob)?.is_none()
        {
            return Ok(true);
        }
        for id in entry.snapshot.iter().chain(&entry.stands_on) {
            if self.snapshots.get(id)?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Every snapshot that something needs, with what aliases lead to.
    pub(crate) fn needed_snapshots(&self, cache: &[Entry]) -> Outcome<HashSet<SnapshotId>> {
        let mut needed = self.snapshots_of_images()?;
        for folder in record::folders(&self.folder.sandboxes())? {
            needed.extend(Record::load(&folder)?.into_iter().flat_map(|r| r.stack));
        }
        needed.extend(cache.iter().filter_map(|entry| entry.snapshot.clone()));
        needed.extend(cache.iter().flat_map(|entry| entry.stands_on.clone()));
        for Listed { id, alias_of } in self.snapshots.list()? {
            if needed.contains(&id) {
                needed.extend(alias_of);
            }
        }
        Ok(needed)
    }

    fn snapshots_of_images(&self) -> Outcome<HashSet<SnapshotId>> {
        let mut needed = HashSet::new();
        let mut last: Option<String> = None;
        loop {
            let listing = Listing {
                limit: None,
                last: last.as_deref(),
            };
            let page = self.registry.repositories(listing).map_err(store)?;
            for repository in &page.items {
                for (digest, _) in self
                    .registry
                    .manifests(&repository.parse()?)
                    .map_err(store)?
                {
                    needed.extend(self.snapshots_of(&digest)?);
                }
            }
            match page.items.last() {
                Some(name) if page.more => last = Some(name.clone()),
                _ => return Ok(needed),
            }
        }
    }

    /// The snapshots of an image; none where the manifest is not an image's.
    fn snapshots_of(&self, manifest: &unpacker::digest::Digest) -> Outcome<Vec<SnapshotId>> {
        let Some(bytes) = self.content.read(manifest, read::MAX_MANIFEST)? else {
            return Ok(Vec::new());
        };
        match read::load(self.content.as_ref(), &bytes) {
            Ok(image) => Ok(unpacked(&image, &self.snapshots)?),
            // What could not be read may be an image all the same.
            Err(error @ ImageError::Content { .. }) => Err(Failure::because(
                Kind::Internal,
                format!("cannot read image {manifest}"),
                &error,
            )),
            Err(_) => Ok(Vec::new()),
        }
    }
}
