//! Snapshots are visible whole or not at all, whoever makes them at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;
use crate::digest::sha256;

fn id(text: &str) -> SnapshotId {
    SnapshotId::of_step(&sha256(text.as_bytes()))
}

fn store() -> (TempDir, Snapshots) {
    let dir = TempDir::new().unwrap();
    let store = Snapshots::open(&dir.path().join("snapshots")).unwrap();
    (dir, store)
}

fn staged(store: &Snapshots, text: &str) -> Staging {
    let staging = store.stage().unwrap();
    fs::write(staging.fs().join("f"), text).unwrap();
    staging
}

fn left_in(store: &Snapshots, name: &str) -> usize {
    fs::read_dir(store.hidden(name)).unwrap().count()
}

#[test]
fn a_snapshot_is_there_whole_or_not_at_all() {
    let (_dir, store) = store();
    assert_eq!(store.get(&id("a")).unwrap(), None);
    let staging = staged(&store, "one");
    assert_eq!(store.get(&id("a")).unwrap(), None);
    let path = store.commit(staging, &id("a")).unwrap();
    assert_eq!(fs::read(path.join("f")).unwrap(), b"one");
    assert!(!path.with_file_name("work").exists());
    // The loser of a race gets the winner's.
    let again = store.commit(staged(&store, "two"), &id("a")).unwrap();
    assert_eq!(fs::read(again.join("f")).unwrap(), b"one");
    drop(staged(&store, "dropped"));
    assert_eq!(left_in(&store, "staging"), 0);
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(store.usage(&id("a")).unwrap() > 0);
}

#[test]
fn aliases_follow_their_snapshot() {
    let (_dir, store) = store();
    let path = store.commit(staged(&store, "x"), &id("a")).unwrap();
    store.alias(&id("b"), &id("a")).unwrap();
    store.alias(&id("c"), &id("b")).unwrap();
    store.alias(&id("c"), &id("b")).unwrap();
    assert_eq!(store.get(&id("c")).unwrap(), Some(path));
    let listed = store.list().unwrap();
    let aliases = listed
        .iter()
        .filter(|l| l.alias_of == Some(id("a")))
        .count();
    assert_eq!((listed.len(), aliases), (3, 2));
    store.remove(&id("b")).unwrap();
    assert!(store.get(&id("c")).unwrap().is_some());
    store.remove(&id("a")).unwrap();
    store.remove(&id("a")).unwrap();
    assert_eq!(store.get(&id("c")).unwrap(), None);
    // A dangling alias is replaced.
    store.commit(staged(&store, "y"), &id("d")).unwrap();
    store.alias(&id("c"), &id("d")).unwrap();
    assert!(store.get(&id("c")).unwrap().is_some());
    assert_eq!(left_in(&store, "trash"), 1);
    store.purge().unwrap();
    assert_eq!(left_in(&store, "trash"), 0);
}

#[test]
fn what_crashed_processes_left_is_cleared_away() {
    let (_dir, store) = store();
    // As after a crash: the folder stays and nobody holds its lock.
    let stale = store.hidden("staging").join("stale");
    fs::create_dir_all(stale.join("fs")).unwrap();
    fs::write(stale.join(LOCK), "").unwrap();
    let lock = store.hidden("locks").join(id("stale").as_str());
    fs::write(&lock, "").unwrap();
    let held = store.lock(&id("held"), &Cancel::default()).unwrap();
    let alive = staged(&store, "alive");
    let other = Snapshots::open(store.dir()).unwrap();
    assert!(!stale.exists() && !lock.exists());
    assert_eq!(left_in(&store, "locks"), 1);
    drop(held);
    assert!(alive.fs().exists());
    other.commit(alive, &id("a")).unwrap();
    // A snapshot that an earlier boot did not sync is not trusted; a synced one is.
    store.commit(staged(&store, "b"), &id("b")).unwrap();
    store.sync().unwrap();
    store.commit(staged(&store, "c"), &id("c")).unwrap();
    let marker = store.dir().join(id("c").as_str()).join(UNSYNCED);
    assert_eq!(fs::read_to_string(&marker).unwrap(), store.boot);
    for boot in ["another boot", ""] {
        store.commit(staged(&store, "c"), &id("c")).unwrap();
        fs::write(&marker, boot).unwrap();
        let next = Snapshots::open(store.dir()).unwrap();
        assert!(next.get(&id("b")).unwrap().is_some());
        assert_eq!(next.get(&id("c")).unwrap(), None);
    }
}

#[test]
fn what_the_disk_lost_is_never_vouched_for() {
    let (_dir, store) = store();
    store.commit(staged(&store, "a"), &id("a")).unwrap();
    let marker = store.dir().join(id("a").as_str()).join(UNSYNCED);
    Unsynced::of(marker.clone()).unwrap().distrust().unwrap();
    // A later sync succeeds, and says nothing of it.
    store.commit(staged(&store, "b"), &id("b")).unwrap();
    store.sync().unwrap();
    store.sync_for(&[id("b")]).unwrap();
    assert!(store.sync_for(&[id("a")]).is_err());
    let next = Snapshots::open(store.dir()).unwrap();
    assert_eq!(next.get(&id("a")).unwrap(), None);
    assert!(next.get(&id("b")).unwrap().is_some());
    // One that was made anew while another sync was under way is not marked durable by that.
    next.commit(staged(&next, "a"), &id("a")).unwrap();
    let before = Unsynced::of(marker.clone()).unwrap();
    let held = File::open(&marker).unwrap();
    next.remove(&id("a")).unwrap();
    next.commit(staged(&next, "a"), &id("a")).unwrap();
    before.settle().unwrap();
    assert!(marker.exists());
    drop(held);
}

#[test]
fn an_alias_of_what_a_crash_took_is_gone_too() {
    let (_dir, store) = store();
    store.commit(staged(&store, "old"), &id("a")).unwrap();
    store.alias(&id("b"), &id("a")).unwrap();
    let marker = store.dir().join(id("a").as_str()).join(UNSYNCED);
    fs::write(&marker, "another boot").unwrap();
    let next = Snapshots::open(store.dir()).unwrap();
    // What is made later under the name that crashed is not what the alias meant.
    next.commit(staged(&next, "new"), &id("a")).unwrap();
    assert_eq!(next.get(&id("b")).unwrap(), None);
    let path = next.commit(staged(&next, "b"), &id("b")).unwrap();
    assert_eq!(next.get(&id("b")).unwrap(), Some(path));
}

#[test]
fn one_at_a_time_makes_a_snapshot() {
    let (_dir, store) = store();
    let store = Arc::new(store);
    let inside = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (store, inside) = (store.clone(), inside.clone());
            thread::spawn(move || {
                for _ in 0..5 {
                    let lock = store.lock(&id("a"), &Cancel::default()).unwrap().unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(lock);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(left_in(&store, "locks"), 0);
    let _held = store.lock(&id("a"), &Cancel::default()).unwrap().unwrap();
    let cancel = Cancel::default();
    cancel.cancel();
    assert!(store.lock(&id("a"), &cancel).unwrap().is_none());
}
