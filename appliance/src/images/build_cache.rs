//! The build cache as its owner sees it: what is in it, what made it, and what goes.
//!
//! Several entries are one thing here: the keys of a step, and what its snapshot was packed to, stand
//! and fall with the snapshot. A result that others stand on goes after them, and never without them:
//! made again it would be another one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime};

use builder::cache::inventory::{self, Entry, Kind};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use unpacker::snapshot::id::SnapshotId;

use crate::api::build_cache::{CacheKind, CacheRow, PruneCache};
use crate::api::types::Pruned;
use crate::error::Outcome;
use crate::images::prune::{PATIENCE, busy};
use crate::images::service::Images;

/// Digits of a name that people see.
const ID: usize = 12;

/// One thing of the cache, with everything that is remembered of it.
#[derive(Debug)]
struct Item {
    row: CacheRow,
    last_used: SystemTime,
    entries: Vec<Entry>,
}

impl Item {
    fn stands_on(&self) -> impl Iterator<Item = &SnapshotId> {
        self.entries.iter().flat_map(|entry| &entry.stands_on)
    }

    /// How many results it was made on.
    fn height(&self) -> usize {
        let heights = self.entries.iter().map(|entry| entry.stands_on.len());
        heights.max().unwrap_or_default()
    }
}

impl Images {
    /// What the build cache holds, the longest unused first.
    pub fn build_cache(&self) -> Outcome<Vec<CacheRow>> {
        let _pass = self.gate.pass();
        Ok(self.items()?.into_iter().map(|item| item.row).collect())
    }

    /// Removes what the request means, and the snapshots that nothing else needs. Builds that run are
    /// waited for.
    pub fn prune_build_cache(&self, request: &PruneCache) -> Outcome<Pruned> {
        let alone = self.gate.alone(PATIENCE).ok_or_else(busy)?;
        let (gone, kept) = self.choose(request)?;
        let mut pruned = Pruned {
            dry_run: request.dry_run,
            ..Pruned::default()
        };
        for entry in gone.iter().flat_map(|item| &item.entries) {
            pruned.cache_entries += 1;
            pruned.bytes += entry.bytes;
            if !request.dry_run {
                entry.remove()?;
            }
        }
        let kept: Vec<Entry> = kept.into_iter().flat_map(|item| item.entries).collect();
        self.prune_snapshots(&kept, request.dry_run, &mut pruned)?;
        drop(alone);
        if !request.dry_run {
            self.purge()?;
        }
        Ok(pruned)
    }

    fn items(&self) -> Outcome<Vec<Item>> {
        let needed = self.needed_snapshots(&[])?;
        let mut together: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        for mut entry in inventory::entries(&self.folder.cache())? {
            entry.bytes = entry.usage();
            let one = match (&entry.snapshot, &entry.with) {
                (Some(snapshot), _) => snapshot.to_string(),
                (None, Some(with)) => format!("{:?} {with}", entry.kind),
                (None, None) => format!("{:?} {}", entry.kind, entry.name),
            };
            together.entry(one).or_default().push(entry);
        }
        let items = together.into_values().map(|mut entries| {
            entries.sort_by_key(|entry| entry.kind);
            self.item(entries, &needed)
        });
        let mut items = items.collect::<Outcome<Vec<Item>>>()?;
        items.sort_by_key(|item| (item.last_used, Reverse(item.height())));
        Ok(items)
    }

    /// Of entries that belong together, steps first.
    fn item(&self, entries: Vec<Entry>, needed: &HashSet<SnapshotId>) -> Outcome<Item> {
        let snapshot = entries.iter().find_map(|entry| entry.snapshot.clone());
        let size = |id: &SnapshotId| self.snapshots.usage(id);
        let own = snapshot.as_ref().map(size).transpose()?.unwrap_or_default();
        let last_used = entries.iter().map(|entry| entry.last_used).max();
        let last_used = last_used.unwrap_or(SystemTime::UNIX_EPOCH);
        let first = entries.first();
        let row = CacheRow {
            id: first.map_or_else(String::new, |entry| short(&entry.name)),
            kind: first.map_or(CacheKind::Step, |entry| kind(entry.kind)),
            made_by: entries.iter().find_map(|entry| entry.what.clone()),
            last_used: told(last_used),
            bytes: own + entries.iter().map(|entry| entry.bytes).sum::<u64>(),
            in_use: snapshot.is_some_and(|id| needed.contains(&id)),
        };
        Ok(Item {
            row,
            last_used,
            entries,
        })
    }

    /// What goes, and what stays.
    fn choose(&self, request: &PruneCache) -> Outcome<(Vec<Item>, Vec<Item>)> {
        let items = self.items()?;
        let Some(limits) = Limits::of(request) else {
            return self.stale(items);
        };
        // What an image or a sandbox needs takes its room anyway.
        let room = |item: &Item| if item.row.in_use { 0 } else { item.row.bytes };
        let mut left: u64 = items.iter().map(room).sum();
        let now = SystemTime::now();
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for item in items {
            let age = now.duration_since(item.last_used).unwrap_or_default();
            if limits.goes(age, room(&item), left) {
                left -= room(&item);
                gone.push(item);
            } else {
                kept.push(item);
            }
        }
        let lost: HashSet<SnapshotId> = snapshots(&gone).cloned().collect();
        let (fallen, kept) = kept
            .into_iter()
            .partition(|item| item.stands_on().any(|id| lost.contains(id)));
        gone.extend::<Vec<Item>>(fallen);
        Ok((gone, kept))
    }

    fn stale(&self, items: Vec<Item>) -> Outcome<(Vec<Item>, Vec<Item>)> {
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for mut item in items {
            let (mut bad, mut good) = (Vec::new(), Vec::new());
            for entry in item.entries {
                match self.is_stale(&entry)? {
                    true => bad.push(entry),
                    false => good.push(entry),
                }
            }
            let row = item.row.clone();
            item.entries = good;
            kept.push(item);
            gone.push(Item {
                row,
                last_used: SystemTime::UNIX_EPOCH,
                entries: bad,
            });
        }
        Ok((gone, kept))
    }
}

fn snapshots(items: &[Item]) -> impl Iterator<Item = &SnapshotId> {
    let entries = items.iter().flat_map(|item| &item.entries);
    entries.filter_map(|entry| entry.snapshot.as_ref())
}

/// What is asked to go, of things that are looked at the longest unused first.
#[derive(Debug, Clone, Copy)]
struct Limits {
    older_than: Duration,
    keep: Option<u64>,
}

impl Limits {
    /// `None` where nothing is said: then it is what is of no use.
    fn of(request: &PruneCache) -> Option<Self> {
        let said = request.all || request.older_than.is_some() || request.keep_storage.is_some();
        said.then(|| Self {
            older_than: Duration::from_secs(request.older_than.unwrap_or_default()),
            keep: request.keep_storage,
        })
    }

    /// `room` is what would be free without it, and `left` what all that is still there takes.
    fn goes(self, age: Duration, room: u64, left: u64) -> bool {
        let enough = |keep| left > keep && room > 0;
        age >= self.older_than && self.keep.is_none_or(enough)
    }
}

fn kind(kind: Kind) -> CacheKind {
    match kind {
        Kind::Step | Kind::Layer => CacheKind::Step,
        Kind::Mount => CacheKind::Mount,
        Kind::Hashes => CacheKind::Hashes,
        Kind::Download => CacheKind::Download,
        Kind::Repository => CacheKind::Repository,
    }
}

fn short(name: &str) -> String {
    name.trim_start_matches("step-").chars().take(ID).collect()
}

fn told(time: SystemTime) -> String {
    let text = OffsetDateTime::from(time).format(&Rfc3339);
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn request(older_than: Option<u64>, keep_storage: Option<u64>) -> PruneCache {
        PruneCache {
            all: false,
            older_than,
            keep_storage,
            dry_run: false,
        }
    }

    #[test]
    fn age_and_size_hold_together() {
        assert!(Limits::of(&request(None, None)).is_none());
        let old = Limits::of(&request(Some(3600), None)).unwrap();
        assert!(old.goes(HOUR, 0, 9) && !old.goes(HOUR / 2, 5, 9));
        let small = Limits::of(&request(None, Some(8))).unwrap();
        assert!(small.goes(Duration::ZERO, 5, 9) && !small.goes(HOUR, 5, 8));
        assert!(!small.goes(HOUR, 0, 9), "it would free nothing");
        let both = Limits::of(&request(Some(3600), Some(8))).unwrap();
        assert!(both.goes(HOUR, 5, 9) && !both.goes(HOUR / 2, 5, 9));
    }
}
