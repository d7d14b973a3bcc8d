//! What is remembered for a moment, so that nobody is asked the same thing too often: what does not
//! exist, which registry fails, and who is asking just now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use config::name::RepositoryName;
use tokio::sync::OwnedMutexGuard;

use super::upstream::UpstreamError;

/// More than this is not remembered: whoever invents names costs us no memory.
const MAX_MISSES: usize = 10_000;

/// A manifest, by tag or digest, or a blob of a kept repository.
pub(super) type Key = (RepositoryName, String);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one insertion or removal, so a poisoned map is still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What other registries do not have; each with the second until which that is believed.
#[derive(Debug, Default)]
pub(super) struct Misses(Mutex<HashMap<Key, u64>>);

impl Misses {
    pub(super) fn knows(&self, key: &Key, now: u64) -> bool {
        lock(&self.0).get(key).is_some_and(|until| now < *until)
    }

    pub(super) fn add(&self, key: Key, now: u64, until: u64) {
        let mut misses = lock(&self.0);
        if misses.len() >= MAX_MISSES {
            misses.retain(|_, until| now < *until);
        }
        if misses.len() >= MAX_MISSES {
            misses.clear();
        }
        misses.insert(key, until);
    }
}

/// Registries that failed a moment ago, by host.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<HashMap<String, Trouble>>);

#[derive(Debug, Clone)]
pub(super) struct Trouble {
    /// When it was asked in vain.
    pub(super) since: u64,
    /// The registry is left alone until then.
    pub(super) until: u64,
    pub(super) error: UpstreamError,
}

impl Troubles {
    pub(super) fn of(&self, host: &str, now: u64) -> Option<Trouble> {
        lock(&self.0)
            .get(host)
            .filter(|trouble| now < trouble.until)
            .cloned()
    }

    pub(super) fn add(&self, host: &str, trouble: Trouble) {
        lock(&self.0).insert(host.to_owned(), trouble);
    }

    pub(super) fn over(&self, host: &str) {
        lock(&self.0).remove(host);
    }
}

type Queue = Arc<tokio::sync::Mutex<()>>;

/// One question at a time for each key.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Key, Queue>>);

/// The right to ask. Others with the same question wait until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    key: Key,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    pub(super) async fn wait(&self, key: Key) -> Turn<'_> {
        let queue = Arc::clone(lock(&self.0).entry(key.clone()).or_default());
        // Made before the wait, so that a caller who gives up leaves no empty queue behind.
        let mut turn = Turn {
            turns: self,
            key,
            guard: None,
        };
        turn.guard = Some(queue.lock_owned().await);
        turn
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.guard.take());
        let mut turns = lock(&self.turns.0);
        let last = |queue: &Queue| Arc::strong_count(queue) == 1;
        if turns.get(&self.key).is_some_and(last) {
            turns.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        ("docker.io/library/x".parse().unwrap(), name.to_owned())
    }

    #[test]
    fn misses_are_forgotten_and_bounded() {
        let misses = Misses::default();
        misses.add(key("a"), 0, 10);
        assert!(misses.knows(&key("a"), 9));
        assert!(!misses.knows(&key("a"), 10));
        for number in 0..3 * MAX_MISSES {
            misses.add(key(&number.to_string()), 0, 10);
        }
        assert!(lock(&misses.0).len() <= MAX_MISSES);
    }

    #[tokio::test]
    async fn turns_leave_nothing_behind() {
        let turns = Turns::default();
        let first = turns.wait(key("a")).await;
        let second = turns.wait(key("a"));
        let late = tokio::time::timeout(std::time::Duration::ZERO, second).await;
        assert!(late.is_err(), "two had the same turn");
        let other = turns.wait(key("b")).await;
        drop((first, other));
        drop(turns.wait(key("a")).await);
        assert!(lock(&turns.0).is_empty());
    }
}
