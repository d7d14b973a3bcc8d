//! Which images go when the mirror holds more than it may: those pulled the longest time ago.
//!
//! Only what came through the mirror goes, and whole: the manifest, its tags, and the blobs that
//! nothing else needs. An image stays while somebody may still be pulling it ([`LEASE`]), while a tag
//! that was made by hand points at it, while the caller says that it is in use, and while an index
//! stays that its repository serves together with it. What such images hold does not count: they
//! could not be evicted anyway.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use redb::ReadTransaction;

use super::Mirror;
use crate::digest::Digest;
use crate::store::StoreError;
use crate::store::index::{links, manifests, mirrored, release};

/// So many seconds after its last pull an image is not evicted: whoever has got its manifest can
/// have its layers.
pub const LEASE: u64 = 3600;

/// What an eviction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Evicted {
    pub images: u64,
    /// Bytes of files that were freed.
    pub bytes: u64,
    /// Bytes of pulled-through images that are left and may be evicted one day.
    pub left: u64,
}

/// A manifest that came through the mirror.
#[derive(Debug, Clone)]
struct Image {
    repository: String,
    digest: Digest,
    used: u64,
    /// Itself and its blobs.
    needs: Vec<Digest>,
    children: Vec<Digest>,
    pinned: bool,
}

/// Everything that an eviction looks at.
#[derive(Debug, Default)]
struct Inventory {
    images: Vec<Image>,
    sizes: HashMap<Digest, u64>,
    /// Content that stays whatever is evicted: manifests put by hand and what they need, above all.
    elsewhere: HashSet<Digest>,
    /// Rows whose manifest was removed in another way.
    gone: Vec<(String, Digest)>,
}

impl Mirror {
    /// Evicts until pulled-through images hold at most `max` bytes. `in_use` names manifests that
    /// must stay. Blocking; the caller sees to it that no in-process writer has made a blob which it
    /// has not linked yet.
    pub fn evict(&self, max: u64, in_use: &dyn Fn(&Digest) -> bool) -> Result<Evicted, StoreError> {
        self.flush()?;
        let store = self.registry.store();
        let mut inventory = store.index().read(|rows| Inventory::read(rows, in_use))?;
        let leased = self.now().saturating_sub(LEASE);
        self.forget(std::mem::take(&mut inventory.gone), leased)?;
        let (doomed, left) = inventory.choose(max, leased);
        let mut evicted = Evicted {
            left,
            ..Evicted::default()
        };
        for image in doomed {
            // A pull may have come since the look.
            if self.is_wanted(&image) || !self.remove(&image, leased)? {
                continue;
            }
            tracing::info!(repository = image.repository, digest = %image.digest, "evicted");
            evicted.images += 1;
            for digest in &image.needs {
                let there = store.blobs().stat(digest)?;
                if let Some(file) = there
                    && store.unlink_unheld(&file, Duration::ZERO)?
                {
                    evicted.bytes += file.size;
                }
            }
        }
        Ok(evicted)
    }

    /// Removes the image and its row at once, unless it was pulled since `leased`.
    fn remove(&self, image: &Image, leased: u64) -> Result<bool, StoreError> {
        let (repository, digest) = (image.repository.clone(), image.digest.clone());
        let store = self.registry.store();
        let now = store.now();
        let removed = store.index().write(move |rows| {
            let row = mirrored::taken(rows, &repository, &digest, leased)?;
            if row {
                release::remove(rows, &repository, &digest, now)?;
            }
            Ok(row)
        })?;
        store.tags_changed();
        Ok(removed)
    }

    fn is_wanted(&self, image: &Image) -> bool {
        let used = self.used.lock();
        let used = used.unwrap_or_else(std::sync::PoisonError::into_inner);
        used.contains_key(&(image.repository.clone(), image.digest.clone()))
    }

    /// Decided again in the transaction: a manifest may have come since the look.
    fn forget(&self, rows: Vec<(String, Digest)>, leased: u64) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let index = self.registry.store().index();
        Ok(index.write(move |transaction| {
            for (repository, digest) in &rows {
                mirrored::forget_absent(transaction, repository, digest, leased)?;
            }
            Ok(())
        })?)
    }
}

impl Inventory {
    fn read(rows: &ReadTransaction, in_use: &dyn Fn(&Digest) -> bool) -> Result<Self, redb::Error> {
        let mut found = Self::default();
        let listed = mirrored::manifests(rows)?;
        let repositories: HashSet<_> = listed.iter().map(|(name, _, _)| name.clone()).collect();
        let ours: HashSet<_> = listed
            .iter()
            .map(|(name, digest, _)| (name.as_str(), digest))
            .collect();
        for repository in &repositories {
            for (digest, row) in manifests::list(rows, repository)? {
                if !ours.contains(&(repository.as_str(), &digest)) {
                    found.elsewhere.extend(row.references);
                    found.elsewhere.insert(digest);
                }
            }
        }
        for (repository, digest, times) in &listed {
            let Some(row) = manifests::get(rows, repository, digest)? else {
                found.gone.push((repository.clone(), digest.clone()));
                continue;
            };
            let mut image = Image {
                repository: repository.clone(),
                digest: digest.clone(),
                used: times.used,
                needs: vec![digest.clone()],
                children: Vec::new(),
                pinned: in_use(digest) || mirrored::is_tagged_by_hand(rows, repository, digest)?,
            };
            found.sizes.insert(digest.clone(), row.size);
            for reference in row.references {
                if let Some(size) = links::size(rows, repository, &reference)? {
                    found.sizes.insert(reference.clone(), size);
                    image.needs.push(reference);
                } else if manifests::get(rows, repository, &reference)?.is_some() {
                    image.children.push(reference);
                }
            }
            let by_hand = |digest| found.elsewhere.contains(digest);
            image.pinned |= by_hand(digest) || image.children.iter().any(by_hand);
            found.images.push(image);
        }
        let all: Vec<_> = found.sizes.keys().cloned().collect();
        for digest in all {
            if mirrored::is_held_elsewhere(rows, &digest, &repositories)? {
                found.elsewhere.insert(digest);
            }
        }
        found.settle();
        Ok(found)
    }

    /// An index is as young, and as needed, as the youngest and most needed of its parts.
    fn settle(&mut self) {
        for _ in 0..4 {
            let known: HashMap<_, _> = self
                .images
                .iter()
                .map(|image| {
                    let key = (image.repository.clone(), image.digest.clone());
                    (key, (image.used, image.pinned))
                })
                .collect();
            for image in &mut self.images {
                for child in &image.children {
                    let key = (image.repository.clone(), child.clone());
                    if let Some((used, pinned)) = known.get(&key) {
                        image.used = image.used.max(*used);
                        image.pinned |= pinned;
                    }
                }
            }
        }
        let pinned = self.images.iter().filter(|image| image.pinned);
        let needs: Vec<_> = pinned.flat_map(|image| image.needs.clone()).collect();
        self.elsewhere.extend(needs);
    }

    /// The images to evict, the longest unused first, and the bytes that are left after that. What
    /// was used at `leased` or later stays.
    fn choose(&self, max: u64, leased: u64) -> (Vec<Image>, u64) {
        let mut images: Vec<_> = self.images.iter().filter(|image| !image.pinned).collect();
        // Parts before the index that has them.
        images.sort_by_key(|image| (image.used, !image.children.is_empty()));
        let mut holders: HashMap<&Digest, usize> = HashMap::new();
        for digest in images.iter().flat_map(|image| &image.needs) {
            *holders.entry(digest).or_default() += 1;
        }
        let size = |digest: &Digest| match self.elsewhere.contains(digest) {
            true => 0,
            false => self.sizes.get(digest).copied().unwrap_or(0),
        };
        let mut held: u64 = holders.keys().map(|digest| size(digest)).sum();
        let mut doomed = Vec::new();
        for image in images {
            if held <= max || image.used >= leased {
                break;
            }
            for digest in &image.needs {
                if let Some(count) = holders.get_mut(digest) {
                    *count -= 1;
                    if *count == 0 {
                        held -= size(digest);
                    }
                }
            }
            doomed.push(image.clone());
        }
        (doomed, held)
    }
}
